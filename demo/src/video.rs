//! Videos in and out, through OpenCV (FFmpeg).

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use opencv::core::{self, Mat, MatTraitConst, MatTraitConstManual as _, Size};
use opencv::imgproc;
use opencv::videoio::{
    self, VideoCapture, VideoCaptureTrait, VideoCaptureTraitConst, VideoWriter, VideoWriterTrait, VideoWriterTraitConst,
};

/// Frames a second for files that do not say any.
const FALLBACK_FPS: f64 = 30.0;
/// Space that must be left on the disk while a video is written.
const MIN_FREE_BYTES: u64 = 4 << 20;
/// Frames between two looks at the free space.
const FREE_SPACE_INTERVAL: usize = 30;

/// Why a video could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is absent or unreadable.
    #[error("cannot read the video {}: {source}", path.display())]
    Unreadable {
        /// The video.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// FFmpeg finds no video stream in the file.
    #[error("{} is not a video that FFmpeg can decode: it is damaged or another kind of file", .0.display())]
    NotAVideo(PathBuf),
    /// The encoder is missing or the file cannot be created.
    #[error("cannot write the video {}: OpenCV cannot create it (does its FFmpeg have an H.264 encoder?)", .0.display())]
    CannotCreate(PathBuf),
    /// The disk has no more space.
    #[error("the disk is full: {free_bytes} bytes are free for {}", path.display())]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
        /// What is left.
        free_bytes: u64,
    },
    /// The file that was written cannot be read back.
    #[error("the video {} was not written completely ({written} of {expected} frames can be read back): is the disk full?", path.display())]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// Frames in the file.
        written: usize,
        /// Frames that were handed over.
        expected: usize,
    },
    /// OpenCV failed otherwise.
    #[error("OpenCV cannot process the video {}: {source}", path.display())]
    OpenCv {
        /// The video.
        path: PathBuf,
        /// What it says.
        source: opencv::Error,
    },
}

/// A video being decoded. Frames are upright (the file's rotation is applied) and carry the time that the file gives them,
/// whatever its frame rate does.
pub struct VideoReader {
    capture: VideoCapture,
    path: PathBuf,
    nominal_fps: f64,
    /// How to turn the stored pictures upright: OpenCV's code for `rotate`.
    turn: Option<i32>,
    last_time_s: Option<f64>,
    /// Time between the last two frames.
    last_step_s: f64,
    size: Option<Size>,
}

impl VideoReader {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that is absent, unreadable or no video.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
        let about = std::fs::File::open(path).and_then(|file| file.metadata()).map_err(unreadable)?;
        if about.is_dir() {
            return Err(Error::NotAVideo(path.to_owned()));
        }
        let failed = |source| Error::OpenCv { path: path.to_owned(), source };
        let mut capture = VideoCapture::from_file(path, videoio::CAP_FFMPEG).map_err(failed)?;
        if !capture.is_opened().map_err(failed)? {
            return Err(Error::NotAVideo(path.to_owned()));
        }
        capture.set(videoio::CAP_PROP_ORIENTATION_AUTO, 0.0).map_err(failed)?;
        let turn = turn_upright(capture.get(videoio::CAP_PROP_ORIENTATION_META).map_err(failed)?);
        let fps = capture.get(videoio::CAP_PROP_FPS).map_err(failed)?;
        let nominal_fps = if fps.is_finite() && fps > 0.0 { fps } else { FALLBACK_FPS };
        let last_step_s = 1.0 / nominal_fps;
        Ok(Self { capture, path: path.to_owned(), nominal_fps, turn, last_time_s: None, last_step_s, size: None })
    }

    /// The frame rate that the file claims; its frames' times are what counts.
    pub fn nominal_fps(&self) -> f64 {
        self.nominal_fps
    }

    /// How many frames the file claims to have; `None` if it does not say.
    pub fn frame_count(&self) -> Option<u64> {
        let count = self.capture.get(videoio::CAP_PROP_FRAME_COUNT).unwrap_or(0.0);
        (1.0..1e9).contains(&count).then_some(count as u64)
    }

    /// Decodes the next frame (BGR) into `frame` and returns its time; `None` at the end. Times rise strictly.
    ///
    /// # Errors
    /// A failure of OpenCV.
    pub fn read(&mut self, frame: &mut Mat) -> Result<Option<f64>, Error> {
        let Some(time_s) = self.skip()? else { return Ok(None) };
        self.retrieve(frame)?;
        Ok(Some(time_s))
    }

    /// Passes over the next frame and returns its time; [`Self::retrieve`] still gives its picture.
    ///
    /// # Errors
    /// A failure of OpenCV.
    pub fn skip(&mut self) -> Result<Option<f64>, Error> {
        if !self.capture.grab().map_err(|source| self.failed(source))? {
            return Ok(None);
        }
        let time_s = self.capture.get(videoio::CAP_PROP_POS_MSEC).map_err(|source| self.failed(source))? / 1000.0;
        let time_s = match self.last_time_s {
            // OpenCV 4.6 knows no time for a video's last few frames, the ones that wait in the decoder (its issue 22141),
            // and some files repeat a time: such frames follow at the pace of those before.
            Some(last_s) if time_s.is_nan() || time_s <= last_s => last_s + self.last_step_s,
            Some(last_s) => {
                self.last_step_s = time_s - last_s;
                time_s
            }
            None if time_s.is_finite() => time_s,
            None => 0.0,
        };
        self.last_time_s = Some(time_s);
        Ok(Some(time_s))
    }

    /// The picture (BGR) of the frame that [`Self::skip`] passed.
    ///
    /// # Errors
    /// A failure of OpenCV.
    pub fn retrieve(&mut self, frame: &mut Mat) -> Result<(), Error> {
        let path = &self.path;
        let failed = |source| Error::OpenCv { path: path.clone(), source };
        if !self.capture.retrieve(frame, 0).map_err(failed)? || frame.empty() {
            return Err(Error::NotAVideo(self.path.clone()));
        }
        if let Some(turn) = self.turn {
            let mut upright = Mat::default();
            core::rotate(frame, &mut upright, turn).map_err(failed)?;
            *frame = upright;
        }
        let size = frame.size().map_err(failed)?;
        // Some streams change their size on the way: keypoints need one size.
        let first = *self.size.get_or_insert(size);
        if size != first {
            let mut resized = Mat::default();
            imgproc::resize(frame, &mut resized, first, 0.0, 0.0, imgproc::INTER_AREA).map_err(failed)?;
            *frame = resized;
        }
        Ok(())
    }

    /// Width and height of the stored pictures, as the file claims; 0 where it does not say.
    pub fn claimed_size(&self) -> (usize, usize) {
        let size = |property| self.capture.get(property).unwrap_or(0.0).clamp(0.0, 1e5) as usize;
        (size(videoio::CAP_PROP_FRAME_WIDTH), size(videoio::CAP_PROP_FRAME_HEIGHT))
    }

    /// A failure of OpenCV with this video.
    pub fn failed(&self, source: opencv::Error) -> Error {
        Error::OpenCv { path: self.path.clone(), source }
    }
}

/// OpenCV's code for `rotate` that turns a stored picture upright, from the rotation that OpenCV reads in the file: degrees
/// clockwise, but anticlockwise in OpenCV 4.6.0 (its issue 22088), which is why it is not left to turn the pictures itself.
fn turn_upright(orientation_deg: f64) -> Option<i32> {
    let version = (core::get_version_major(), core::get_version_minor(), core::get_version_revision());
    let sign = if version == (4, 6, 0) { -1.0 } else { 1.0 };
    match (sign * orientation_deg).round().rem_euclid(360.0) {
        90.0 => Some(core::ROTATE_90_CLOCKWISE),
        180.0 => Some(core::ROTATE_180),
        270.0 => Some(core::ROTATE_90_COUNTERCLOCKWISE),
        _ => None,
    }
}

/// A video being encoded: H.264 in MP4, yuv420p, a constant frame rate.
#[derive(Debug)]
pub struct VideoWriter264 {
    encoder: Encoder,
    path: PathBuf,
    size: Size,
    frames: usize,
}

/// OpenCV gives its encoder no settings, and x264's own ones cost three times the processor time of everything else that
/// is done for a frame. So the program `ffmpeg` encodes, quickly, where there is one.
#[derive(Debug)]
enum Encoder {
    Program(Child),
    OpenCv(VideoWriter),
}

impl VideoWriter264 {
    /// Creates a file ending in `.mp4`. Width and height must be even (yuv420p halves them).
    ///
    /// # Errors
    /// A file that cannot be created, an OpenCV without the encoder.
    pub fn create(path: &Path, fps: f64, size: Size) -> Result<Self, Error> {
        // Neither encoder says why it cannot.
        std::fs::File::create(path).map_err(|_| Error::CannotCreate(path.to_owned()))?;
        let encoder = match start_ffmpeg(path, fps, size) {
            Some(child) => Encoder::Program(child),
            None => {
                tracing::info!("the film is encoded by OpenCV, which is slower: there is no program ffmpeg with libx264 on the PATH");
                Encoder::OpenCv(open_writer(path, fps, size)?)
            }
        };
        Ok(Self { encoder, path: path.to_owned(), size, frames: 0 })
    }

    /// Appends a frame (BGR) of the size given at creation.
    ///
    /// # Errors
    /// A disk that is nearly full (the encoders would not say), an encoder that fails.
    pub fn write(&mut self, frame: &Mat) -> Result<(), Error> {
        if self.frames.is_multiple_of(FREE_SPACE_INTERVAL) {
            check_free_space(&self.path)?;
        }
        let failed = |source| Error::OpenCv { path: self.path.clone(), source };
        match &mut self.encoder {
            Encoder::OpenCv(writer) => writer.write(frame).map_err(failed)?,
            Encoder::Program(child) => {
                // The program takes bytes and would not notice another size.
                let is_right = frame.size().map_err(failed)? == self.size;
                let bytes = frame.data_bytes().map_err(failed)?;
                let taken = child.stdin.as_mut().filter(|_| is_right).is_some_and(|pipe| pipe.write_all(bytes).is_ok());
                if !taken {
                    return Err(self.incomplete());
                }
            }
        }
        self.frames += 1;
        Ok(())
    }

    /// Closes the file and reads it back, since a failed write may go unreported.
    ///
    /// # Errors
    /// A file that does not hold every frame.
    pub fn finish(mut self) -> Result<(), Error> {
        let is_done = match &mut self.encoder {
            Encoder::OpenCv(writer) => {
                writer.release().map_err(|source| Error::OpenCv { path: self.path.clone(), source })?;
                true
            }
            Encoder::Program(child) => {
                child.stdin = None;
                child.wait().is_ok_and(|status| status.success())
            }
        };
        if !is_done || readable_frames(&self.path) != self.frames {
            check_free_space(&self.path)?;
            return Err(self.incomplete());
        }
        Ok(())
    }

    fn incomplete(&self) -> Error {
        Error::Incomplete { path: self.path.clone(), written: readable_frames(&self.path), expected: self.frames }
    }
}

impl Drop for VideoWriter264 {
    fn drop(&mut self) {
        if let Encoder::Program(child) = &mut self.encoder {
            // At the end of its input it ends. What it says then no longer matters.
            child.stdin = None;
            let _ = child.wait();
        }
    }
}

/// The program `ffmpeg` waiting for frames; `None` where there is none, or one without x264.
fn start_ffmpeg(path: &Path, fps: f64, size: Size) -> Option<Child> {
    let encoders = Command::new("ffmpeg").args(["-hide_banner", "-encoders"]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if !String::from_utf8_lossy(&encoders.stdout).contains("libx264 ") {
        return None;
    }
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "quiet", "-f", "rawvideo", "-pix_fmt", "bgr24"]);
    command.args(["-s", &format!("{}x{}", size.width, size.height), "-r", &fps.to_string(), "-i", "pipe:0"]);
    command.args(["-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p"]);
    // The index in front: browsers show the film before they have all of it.
    command.args(["-movflags", "+faststart", "-f", "mp4", "-y"]);
    // A name alone might be taken for a protocol's.
    let mut file = OsString::from("file:");
    file.push(path);
    command.arg(file);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

fn open_writer(path: &Path, fps: f64, size: Size) -> Result<VideoWriter, Error> {
    let failed = |source| Error::OpenCv { path: path.to_owned(), source };
    // "avc1" rather than "H264": the name under which browsers know the codec in MP4.
    let fourcc = VideoWriter::fourcc('a', 'v', 'c', '1').map_err(failed)?;
    let writer = VideoWriter::new_with_backend(path, videoio::CAP_FFMPEG, fourcc, fps, size, true).map_err(failed)?;
    if writer.is_opened().map_err(failed)? { Ok(writer) } else { Err(Error::CannotCreate(path.to_owned())) }
}

/// Frames of a finished file whose last one decodes; 0 if it does not.
fn readable_frames(path: &Path) -> usize {
    let count = |path| -> Result<usize, Error> {
        let mut reader = VideoReader::open(path)?;
        let frames = reader.frame_count().unwrap_or(0) as usize;
        let failed = |source| Error::OpenCv { path: path.to_owned(), source };
        reader.capture.set(videoio::CAP_PROP_POS_FRAMES, frames.saturating_sub(1) as f64).map_err(failed)?;
        let last = reader.read(&mut Mat::default())?;
        Ok(if last.is_some() { frames } else { 0 })
    };
    count(path).unwrap_or(0)
}

/// # Errors
/// [`Error::DiskFull`] when little space is left where `path` lies.
pub fn check_free_space(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A file system that cannot be asked is taken to have space: the check when the file is closed still follows.
    let Ok(about) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free_bytes = about.f_bavail.saturating_mul(about.f_frsize);
    if free_bytes < MIN_FREE_BYTES {
        return Err(Error::DiskFull { path: path.to_owned(), free_bytes });
    }
    Ok(())
}
