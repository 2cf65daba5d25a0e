//! The flags of a live session, and how it is started from them.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pose::filter::OneEuro;
use runtime::{Device, EngineOptions, Lifter};

use super::{DEFAULT_MODEL, DEFAULT_PATIENCE_S, Error, Ndjson, Settings, Sink, Size, Source, StatusLine, Summary, Watch, Who, is_url, run};
use crate::detect::Detector;
use crate::paths::find_above;
use crate::progress::Progress;
use crate::room::Room;

/// Flags that only a live session has.
#[derive(Debug, Clone, clap::Args)]
pub struct LiveArgs {
    /// A camera, live: its number (0), its device (/dev/video0), an address (rtsp://...), or fake:CLIP, a video in its place
    #[arg(long, value_name = "CAMERA", conflicts_with_all = ["video", "keypoints", "show"])]
    pub camera: Option<Source>,
    /// Live: size to ask the camera for, such as 1280x720
    #[arg(long, value_name = "WIDTHxHEIGHT")]
    pub camera_size: Option<Size>,
    /// Live: a line of JSON for each frame, into a file or (-) to standard output
    #[arg(long, value_name = "FILE")]
    pub ndjson: Option<PathBuf>,
    /// Live: how long the camera may deliver nothing
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_PATIENCE_S, value_parser = patience)]
    pub patience: f64,
    /// Live: how often a stream that was lost is connected to again, with growing pauses (0 to 5)
    #[arg(long, value_name = "TIMES", default_value_t = Watch::MOST_ATTEMPTS, value_parser = attempts)]
    pub reconnect: usize,
    /// Live: no smoothing; without this a One-Euro filter takes the jitter out, and the status line says how far it lags behind
    #[arg(long)]
    pub no_smoothing: bool,
}

fn patience(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds)).ok_or_else(|| "expected 0.1 to 3600 seconds".to_owned())
}

fn attempts(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&times| times <= Watch::MOST_ATTEMPTS).ok_or_else(|| format!("expected 0 to {}", Watch::MOST_ATTEMPTS))
}

/// What a live session shares with clips.
#[derive(Debug, Clone)]
pub struct Common {
    /// The lifter; `None` = [`DEFAULT_MODEL`].
    pub model: Option<PathBuf>,
    /// Whose poses are wanted.
    pub who: Who,
    /// Statures in the order of ids.
    pub heights_m: Vec<f32>,
    /// What is known of the camera.
    pub room: Room,
    /// Where the lifter runs.
    pub device: Device,
    /// Its threads; 0 takes as many as there are processors.
    pub threads: usize,
    /// Whether to draw the status line.
    pub progress: Progress,
}

impl LiveArgs {
    /// The source, if this is a live session: `--camera`, or a `--video` that is an address.
    pub fn source(&self, video: Option<&Path>) -> Option<Source> {
        let url = video.and_then(Path::to_str).filter(|text| is_url(text)).map(|url| Source::Url(url.to_owned()));
        self.camera.clone().or(url)
    }

    /// Flags of live sessions are refused for clips.
    ///
    /// # Errors
    /// One was given.
    pub fn refuse_for_clips(&self) -> anyhow::Result<()> {
        let given =
            [("--ndjson", self.ndjson.is_some()), ("--camera-size", self.camera_size.is_some()), ("--no-smoothing", self.no_smoothing)];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => {
                anyhow::bail!("{flag} is for live sessions: give a camera (--camera) or a stream's address (--video rtsp://...)")
            }
            None => Ok(()),
        }
    }

    /// Whether standard output is taken by `--ndjson -`.
    pub fn takes_stdout(&self) -> bool {
        self.ndjson.as_deref() == Some(Path::new("-"))
    }

    /// Runs the session until its source ends or [`stop_running`] is called.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(&self, source: Source, common: Common, detector: &mut dyn Detector, others: Vec<Box<dyn Sink>>) -> Result<Summary, Error> {
        let model = match common.model {
            Some(model) => model,
            None => find_above(Path::new(DEFAULT_MODEL)).ok_or(Error::NoModel)?,
        };
        let options = EngineOptions { device: common.device, threads: common.threads, ..EngineOptions::default() };
        let lifter = Arc::new(Lifter::open(&model, &options)?);
        let settings = Settings {
            source,
            watch: Watch { size: self.camera_size, patience: Duration::from_secs_f64(self.patience), attempts: self.reconnect },
            who: common.who,
            heights_m: common.heights_m,
            room: common.room,
            one_euro: (!self.no_smoothing).then(OneEuro::default),
        };
        let mut sinks = others;
        sinks.push(Box::new(StatusLine::new(common.progress)));
        match &self.ndjson {
            Some(path) if path == Path::new("-") => sinks.push(Box::new(Ndjson::new(io::stdout()))),
            Some(path) => sinks.push(Box::new(Ndjson::new(BufWriter::new(File::create(path).map_err(Error::Sink)?)))),
            None => {}
        }
        IS_RUNNING.store(true, Ordering::SeqCst);
        let result = run(&settings, detector, lifter, &mut sinks, &STOP);
        IS_RUNNING.store(false, Ordering::SeqCst);
        match result {
            Err(Error::Sink(error)) if self.takes_stdout() && error.kind() == io::ErrorKind::BrokenPipe => Err(Error::ReaderGone),
            other => other,
        }
    }
}

static STOP: AtomicBool = AtomicBool::new(false);
static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// For a handler of interruptions: tells the running session to end. `false` where there is none, or it has been told before.
pub fn stop_running() -> bool {
    IS_RUNNING.load(Ordering::SeqCst) && !STOP.swap(true, Ordering::SeqCst)
}

/// Tells FFmpeg to keep nothing back: to be set before a stream that [`Source::is_pushed`] is opened, and for nothing else, since files cannot
/// be read so.
pub const FFMPEG_LIVE: (&str, &str) = ("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay");
