//! Where live pictures come from: a camera, a stream on the network, or a file in the place of a camera.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opencv::core::{Mat, MatTraitConst as _, Vector};
use opencv::videoio::{self, VideoCapture, VideoCaptureTrait as _, VideoCaptureTraitConst as _};

use super::Error;
use crate::video::VideoReader;

/// Addresses that FFmpeg opens as streams.
const SCHEMES: [&str; 10] = ["rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt", "rtp", "mms"];

/// A source of live pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A camera of this machine, by its number.
    Index(u32),
    /// A camera by its device, such as `/dev/video2`.
    Device(PathBuf),
    /// A stream on the network.
    Url(String),
    /// A file played at its own rate, as a camera would deliver it.
    Fake {
        /// The video.
        path: PathBuf,
        /// What comes after its last frame.
        then: AfterLast,
    },
}

/// What a fake camera does after its file's last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterLast {
    /// The session ends.
    End,
    /// It starts again.
    Repeat,
    /// It delivers nothing more, and does not say so, as a camera that hangs.
    Hang,
}

/// Whether a `--video` is a stream on the network.
pub fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| !rest.is_empty() && SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)))
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        for (prefix, then) in [("fake:", AfterLast::End), ("fake-loop:", AfterLast::Repeat), ("fake-hang:", AfterLast::Hang)] {
            if let Some(path) = text.strip_prefix(prefix).filter(|path| !path.is_empty()) {
                return Ok(Self::Fake { path: path.into(), then });
            }
        }
        if let Ok(index) = text.parse() {
            return Ok(Self::Index(index));
        }
        if is_url(text) {
            return Ok(Self::Url(text.to_owned()));
        }
        if text.starts_with('/') {
            return Ok(Self::Device(text.into()));
        }
        Err(format!(
            "expected a camera's number (0), its device (/dev/video0), an address (rtsp://...), or fake:CLIP, fake-loop:CLIP, fake-hang:CLIP, found {text}"
        ))
    }
}

/// Without the password that an address may carry.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "camera {index}"),
            Self::Device(path) => write!(f, "camera {}", path.display()),
            Self::Url(url) => match (url.find("://").map(|at| at + 3), url.split(['?', '#']).next().and_then(|start| start.rfind('@'))) {
                (Some(start), Some(end)) if start < end => write!(f, "{}***{}", &url[..start], &url[end..]),
                _ => f.write_str(url),
            },
            Self::Fake { path, .. } => write!(f, "fake camera {}", path.display()),
        }
    }
}

/// Size that a camera is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.parse().ok().filter(|side| (16..=16384).contains(side));
        let sides = text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?)));
        sides.map(|(width, height)| Self { width, height }).ok_or_else(|| format!("expected a size such as 1280x720, found {text}"))
    }
}

/// An open source.
pub enum Capture {
    /// By OpenCV.
    OpenCv {
        /// What delivers.
        capture: VideoCapture,
        /// Of a stream that says how long it is: it is played in its own time, and may end.
        pace: Option<Pace>,
    },
    /// A file.
    Fake(Box<Fake>),
}

/// What came next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A frame.
    Frame,
    /// Nothing more: the source is at its end.
    End,
    /// Nothing, and there should have been something.
    Lost,
}

impl Source {
    /// Its name where a path is wanted: calibrations of several cameras name theirs.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Index(index) => format!("/dev/video{index}").into(),
            Self::Device(path) | Self::Fake { path, .. } => path.clone(),
            Self::Url(url) => url.into(),
        }
    }

    /// Whether it sends frames when it has them, so that FFmpeg need not hold any back. Over HTTP come files too, which cannot be read so.
    pub fn is_pushed(&self) -> bool {
        matches!(self, Self::Url(url) if !url.to_ascii_lowercase().starts_with("http"))
    }

    /// Whether it is worth connecting again when it is lost.
    pub fn can_reconnect(&self) -> bool {
        matches!(self, Self::Url(_))
    }

    /// Opens it; a stream must answer within `patience`.
    ///
    /// # Errors
    /// One sentence for a camera that is not there, an address that does not answer, a file that is no video.
    pub fn open(&self, size: Option<Size>, patience: Duration) -> Result<Capture, Error> {
        let failed = |error: opencv::Error| Error::OpenCv { what: self.to_string(), source: error };
        let capture = match self {
            Self::Fake { path, then } => return Ok(Capture::Fake(Box::new(Fake::open(path, *then)?))),
            Self::Url(url) => {
                let patience_ms = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
                let timeouts = Vector::from_slice(&[
                    videoio::CAP_PROP_OPEN_TIMEOUT_MSEC,
                    patience_ms,
                    videoio::CAP_PROP_READ_TIMEOUT_MSEC,
                    patience_ms,
                ]);
                VideoCapture::from_file_with_params(url, videoio::CAP_FFMPEG, &timeouts).map_err(failed)?
            }
            Self::Index(index) => {
                let index = i32::try_from(*index).unwrap_or(i32::MAX);
                VideoCapture::new(index, camera_backend()).map_err(failed)?
            }
            Self::Device(path) => VideoCapture::from_file(path, camera_backend()).map_err(failed)?,
        };
        let mut capture = capture;
        if !capture.is_opened().map_err(failed)? {
            return Err(match self {
                Self::Url(_) => Error::NoStream(self.to_string()),
                _ => Error::NoCamera(self.to_string()),
            });
        }
        let pace = match self {
            Self::Url(_) => capture.get(videoio::CAP_PROP_FRAME_COUNT).is_ok_and(|count| count >= 1.0).then(Pace::default),
            _ => {
                // What a camera cannot do it leaves as it is, so nothing is asked of what comes back.
                let mut ask = |property: i32, value: f64| capture.set(property, value).map_err(failed).map(drop);
                if let Some(size) = size {
                    // Above the smallest sizes only compressed pictures come through USB at full rate.
                    ask(videoio::CAP_PROP_FOURCC, f64::from(videoio::VideoWriter::fourcc('M', 'J', 'P', 'G').map_err(failed)?))?;
                    ask(videoio::CAP_PROP_FRAME_WIDTH, f64::from(size.width))?;
                    ask(videoio::CAP_PROP_FRAME_HEIGHT, f64::from(size.height))?;
                }
                ask(videoio::CAP_PROP_BUFFERSIZE, 1.0)?;
                None
            }
        };
        Ok(Capture::OpenCv { capture, pace })
    }
}

fn camera_backend() -> i32 {
    if cfg!(target_os = "linux") { videoio::CAP_V4L2 } else { videoio::CAP_ANY }
}

impl Capture {
    /// Waits for the next frame (BGR). A fake camera that hangs waits until `stop`.
    ///
    /// # Errors
    /// A failure of OpenCV, or of a fake camera's file.
    pub fn next(&mut self, frame: &mut Mat, stop: &AtomicBool) -> Result<Next, Error> {
        match self {
            Self::OpenCv { capture, pace } => {
                let failed = |source| Error::OpenCv { what: "the camera".to_owned(), source };
                let got = capture.read(frame).map_err(failed)? && !frame.empty();
                Ok(match (got, pace) {
                    (true, Some(pace)) => {
                        pace.wait(capture.get(videoio::CAP_PROP_POS_MSEC).map_err(failed)? / 1000.0);
                        Next::Frame
                    }
                    (true, None) => Next::Frame,
                    (false, Some(_)) => Next::End,
                    (false, None) => Next::Lost,
                })
            }
            Self::Fake(fake) => fake.next(frame, stop),
        }
    }
}

/// A file's own time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// When its first frame came, and the time that the file gives it.
    began: Option<(Instant, f64)>,
}

impl Pace {
    /// Until it is time for the frame that the file has at `time_s`.
    fn wait(&mut self, time_s: f64) {
        let (began, first_s) = *self.began.get_or_insert_with(|| (Instant::now(), time_s));
        let after_s = time_s - first_s;
        // A frame without a time is not waited for.
        let due = began + Duration::from_secs_f64(if after_s.is_finite() { after_s.clamp(0.0, 1e6) } else { 0.0 });
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// A file that is played in its own time.
pub struct Fake {
    path: PathBuf,
    then: AfterLast,
    reader: VideoReader,
    pace: Pace,
}

impl Fake {
    fn open(path: &Path, then: AfterLast) -> Result<Self, Error> {
        let reader = VideoReader::open(path)?;
        Ok(Self { path: path.to_owned(), then, reader, pace: Pace::default() })
    }

    fn next(&mut self, frame: &mut Mat, stop: &AtomicBool) -> Result<Next, Error> {
        while !stop.load(Ordering::Relaxed) {
            if let Some(time_s) = self.reader.read(frame)? {
                self.pace.wait(time_s);
                return Ok(Next::Frame);
            }
            match self.then {
                AfterLast::End => return Ok(Next::End),
                // A file without frames would be opened again and again.
                AfterLast::Repeat if self.pace.began.is_none() => return Ok(Next::End),
                AfterLast::Repeat => *self = Self::open(&self.path, self.then)?,
                AfterLast::Hang => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        Ok(Next::End)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_known_by_how_they_are_written() {
        let parse = |text: &str| text.parse::<Source>();
        assert_eq!(parse("0"), Ok(Source::Index(0)));
        assert_eq!(parse("/dev/video2"), Ok(Source::Device("/dev/video2".into())));
        assert_eq!(parse("rtsp://cam/1"), Ok(Source::Url("rtsp://cam/1".to_owned())));
        assert_eq!(parse("fake:a b.mp4"), Ok(Source::Fake { path: "a b.mp4".into(), then: AfterLast::End }));
        assert_eq!(parse("fake-loop:x.mp4"), Ok(Source::Fake { path: "x.mp4".into(), then: AfterLast::Repeat }));
        assert_eq!(parse("fake-hang:x.mp4"), Ok(Source::Fake { path: "x.mp4".into(), then: AfterLast::Hang }));
        for bad in ["", "-1", "clip.mp4", "fake:", "file:///etc/passwd", "rtsp://"] {
            assert!(parse(bad).is_err_and(|error| error.contains("expected a camera's number")), "{bad}");
        }
        assert!(
            Source::Url("rtsp://x".to_owned()).is_pushed()
                && !Source::Url("HTTPS://x".to_owned()).is_pushed()
                && !Source::Index(0).is_pushed()
        );
        assert!(is_url("RTSP://x") && is_url("udp://@:5000") && !is_url("C://x") && !is_url("a.mp4"));
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = |url: &str| Source::Url(url.to_owned()).to_string();
        assert_eq!(shown("rtsp://me:p@ss@10.0.0.1:554/s?x=a@b"), "rtsp://***@10.0.0.1:554/s?x=a@b");
        assert_eq!(shown("rtsp://10.0.0.1/s?x=a@b"), "rtsp://10.0.0.1/s?x=a@b");
        assert_eq!(shown("udp://@239.0.0.1:5000"), "udp://@239.0.0.1:5000");
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!("1280x720".parse(), Ok(Size { width: 1280, height: 720 }));
        for bad in ["1280", "0x0", "1280x", "x720", "99999x720", "1280X720"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
