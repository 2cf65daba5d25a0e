//! Frames decoded ahead, in a thread of their own: whoever works on a frame never waits for the next one to be decoded.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use opencv::core::{Mat, MatTraitConst as _, Size};
use opencv::imgproc;

use crate::observe::Section;
use crate::progress::Meter;
use crate::video::{self, VideoReader};

/// Frames that wait for their turn hold at most about this much memory together ...
const AHEAD_BYTES: usize = 64 << 20;
/// ... and are no more than this. One waits at least, however large it is.
const MOST_AHEAD: usize = 4;

/// A decoded frame.
#[derive(Debug)]
pub struct Picture {
    /// Upright, BGR.
    pub frame: Mat,
    /// In the video's own time.
    pub time_s: f64,
}

/// What is known at the end.
#[derive(Debug, Clone, Copy, Default)]
pub struct End {
    /// Time of the last frame that was passed.
    pub last_s: f64,
    /// Whether there was none after it.
    pub reached_end: bool,
    /// Frames that the file claims to have.
    pub claimed_frames: Option<u64>,
    /// The decoding alone.
    pub meter: Meter,
}

/// Decodes some frames of a video in order.
#[derive(Debug)]
pub struct Decoder {
    pictures: Option<Receiver<Result<Picture, video::Error>>>,
    used: Sender<Mat>,
    thread: Option<JoinHandle<End>>,
    /// What the thread said, once it has ended by itself.
    end: Option<End>,
    expected_frames: Option<u64>,
}

/// Which frames are wanted.
enum Wanted {
    /// All of a section.
    Section(Section),
    /// Those at these times or, if there is none, the next ones; those with `false` need no picture.
    Times(Vec<(f64, bool)>),
}

impl Decoder {
    /// All frames of a section.
    ///
    /// # Errors
    /// As [`VideoReader::open`].
    pub fn section(path: &Path, section: Section) -> Result<Self, video::Error> {
        let reader = VideoReader::open(path)?;
        let section_end = ((section.start_s + section.duration_s) * reader.nominal_fps()).ceil();
        let expected = reader.frame_count().map(|claimed| (claimed as f64).min(section_end) as u64);
        Ok(Self::start(reader, Wanted::Section(section), None, expected))
    }

    /// The frames at these times once more, in this size. Where the second of a pair is `false`, the frame is passed over.
    ///
    /// # Errors
    /// As [`VideoReader::open`].
    pub fn times(path: &Path, times_s: Vec<(f64, bool)>, size: Size) -> Result<Self, video::Error> {
        let expected = Some(times_s.len() as u64);
        Ok(Self::start(VideoReader::open(path)?, Wanted::Times(times_s), Some(size), expected))
    }

    fn start(mut reader: VideoReader, wanted: Wanted, size: Option<Size>, expected_frames: Option<u64>) -> Self {
        let (width, height) = reader.claimed_size();
        let frame_bytes = size.map_or(width * height, |size| (size.width * size.height).unsigned_abs() as usize) * 3;
        let ahead = (AHEAD_BYTES / frame_bytes.max(1)).clamp(1, MOST_AHEAD);
        let (full, pictures) = sync_channel(ahead);
        let (used, empty) = channel();
        let thread = std::thread::spawn(move || {
            let mut work =
                Work { full, empty, size, end: End { claimed_frames: reader.frame_count(), ..End::default() }, whole: Mat::default() };
            let result = match wanted {
                Wanted::Section(section) => work.section(&mut reader, section),
                Wanted::Times(times_s) => work.times(&mut reader, &times_s),
            };
            if let Err(Stop::Failed(error)) = result {
                // Nobody is told only where nobody listens any more.
                let _ = work.full.send(Err(error));
            }
            work.end
        });
        Self { pictures: Some(pictures), used, thread: Some(thread), end: None, expected_frames }
    }

    /// How many frames are about to come, by what the file claims; `None` if it does not say.
    pub fn expected_frames(&self) -> Option<u64> {
        self.expected_frames
    }

    /// The next frame; `None` after the last one.
    ///
    /// # Errors
    /// A failure of OpenCV.
    ///
    /// # Panics
    /// Goes on with a panic of the thread: a clip cut short must not look like a whole one.
    pub fn take(&mut self) -> Result<Option<Picture>, video::Error> {
        let picture = self.pictures.as_ref().and_then(|pictures| pictures.recv().ok()).transpose();
        if let Ok(None) = picture
            && let Some(thread) = self.thread.take()
        {
            self.end = Some(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        picture
    }

    /// Gives a frame back, so that its memory is used again.
    pub fn recycle(&self, picture: Picture) {
        // At the end nobody needs it.
        let _ = self.used.send(picture.frame);
    }

    /// Ends the thread, wherever it is.
    pub fn finish(mut self) -> End {
        self.stop()
    }

    fn stop(&mut self) -> End {
        // A thread whose frames nobody takes ends at the next one.
        self.pictures = None;
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_default(),
            None => self.end.unwrap_or_default(),
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Why the thread ends early.
enum Stop {
    /// Nobody listens.
    Unwanted,
    Failed(video::Error),
}

impl From<video::Error> for Stop {
    fn from(error: video::Error) -> Self {
        Self::Failed(error)
    }
}

struct Work {
    full: SyncSender<Result<Picture, video::Error>>,
    empty: Receiver<Mat>,
    size: Option<Size>,
    end: End,
    /// The decoded picture before its size is changed.
    whole: Mat,
}

impl Work {
    fn section(&mut self, reader: &mut VideoReader, section: Section) -> Result<(), Stop> {
        while let Some(time_s) = self.pass(reader)? {
            match section.place(time_s) {
                Ordering::Less => {}
                Ordering::Equal => self.hand_over(reader, time_s)?,
                Ordering::Greater => return Ok(()),
            }
        }
        Ok(())
    }

    fn times(&mut self, reader: &mut VideoReader, times_s: &[(f64, bool)]) -> Result<(), Stop> {
        for &(wanted_s, is_shown) in times_s {
            let time_s = loop {
                match self.pass(reader)? {
                    Some(time_s) if time_s < wanted_s => {}
                    Some(time_s) => break time_s,
                    None => return Ok(()),
                }
            };
            if is_shown {
                self.hand_over(reader, time_s)?;
            }
        }
        Ok(())
    }

    fn pass(&mut self, reader: &mut VideoReader) -> Result<Option<f64>, Stop> {
        let passed = self.end.meter.measure(|| reader.skip())?;
        self.end.reached_end = passed.is_none();
        self.end.last_s = passed.unwrap_or(self.end.last_s);
        Ok(passed)
    }

    fn hand_over(&mut self, reader: &mut VideoReader, time_s: f64) -> Result<(), Stop> {
        let mut frame = self.empty.try_recv().unwrap_or_default();
        let Self { end, size, whole, .. } = self;
        end.meter.measure(|| -> Result<(), Stop> {
            match *size {
                None => Ok(reader.retrieve(&mut frame)?),
                Some(size) => {
                    reader.retrieve(whole)?;
                    resize(whole, &mut frame, size).map_err(|source| Stop::Failed(reader.failed(source)))
                }
            }
        })?;
        end.meter.count(1);
        self.full.send(Ok(Picture { frame, time_s })).map_err(|_| Stop::Unwanted)
    }
}

/// Means of areas where the picture becomes smaller, which leaves nothing out; else linear, which is much faster.
fn resize(from: &Mat, to: &mut Mat, size: Size) -> opencv::Result<()> {
    if from.size()? == size {
        return from.copy_to(to);
    }
    let method = if size.width * 3 < from.cols() * 2 { imgproc::INTER_AREA } else { imgproc::INTER_LINEAR };
    imgproc::resize(from, to, size, 0.0, 0.0, method)
}
