//! Live: a camera or a stream in, poses of everyone out, as soon as they are known. docs/cameras.md is for users.
//!
//! A thread takes frames from the [`Source`] into a slot of one, so that whoever is slow works on the newest frame and none ever
//! queue. The session's own thread takes a frame, runs the detector and the tracker, gives each person's keypoints to a stream of
//! their own, and tells every [`Sink`] what came of it.

mod args;
mod grab;
mod ground;
mod people;
mod quantiles;
mod sink;
mod source;
mod update;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opencv::core::{Mat, Size as CvSize};
use opencv::imgproc;
use pose::filter::OneEuro;
use pose::{ImageSize, Keypoints17};
use runtime::{Lifter, StreamPose};
use serde::Serialize;

pub use self::args::{Common, FFMPEG_LIVE, LiveArgs, stop_running};
pub use self::grab::Watch;
use self::grab::{Grabber, Shot, Taken};
use self::people::People;
use self::quantiles::Quantiles;
pub use self::sink::{Ndjson, Sink, StatusLine};
pub use self::source::{AfterLast, Size, Source, is_url};
pub use self::update::{Delay, Image, LivePerson, LiveUpdate};
use crate::blazepose::image_size;
use crate::detect::Detector;
use crate::room::{self, Room};
use crate::track::Tracker;
use crate::video;

/// The model that is used when none is named, below the workspace.
pub const DEFAULT_MODEL: &str = "models/live-s.step.onnx";
/// How long a source may be silent when nothing else is said.
pub const DEFAULT_PATIENCE_S: f64 = 5.0;
/// How often the session looks whether it is to stop.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Frames that may wait for a model's look-ahead; who waits longer goes out without the poses that are missing.
const MOST_PENDING: usize = 24;
/// Time constant of the frame rate that is shown.
const RATE_SMOOTHING_S: f64 = 1.0;

/// Why a session did not begin, or ended before it was stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model was named, and none is where the shipped one should be.
    #[error("the shipped model {DEFAULT_MODEL} was not found above the program or the working folder: name a model with --model")]
    NoModel,
    /// Who read standard output has gone.
    #[error("whoever read the lines has gone")]
    ReaderGone,
    /// A camera that is not there.
    #[error("{0} cannot be opened: is it plugged in, and does no other program use it? `--camera fake:CLIP` plays a video in its place")]
    NoCamera(String),
    /// An address that does not answer, or with something else.
    #[error("{0} cannot be opened: nothing answers there, it wants a password, or it is no video")]
    NoStream(String),
    /// A fake camera's file.
    #[error(transparent)]
    Video(#[from] video::Error),
    /// It stopped delivering.
    #[error("{what} has delivered no frame for {seconds} s: is it still connected?")]
    Silent {
        /// Which.
        what: String,
        /// How long was waited.
        seconds: f64,
    },
    /// A stream that did not come back.
    #[error("{what} was lost and did not come back in {attempts} attempts to connect again")]
    Lost {
        /// Which.
        what: String,
        /// How many.
        attempts: usize,
    },
    /// It ended before its first frame.
    #[error("{0} ended without a frame")]
    NoFrames(String),
    /// The detector failed.
    #[error("{0:#}")]
    Detector(anyhow::Error),
    /// The model, or settings that do not go with it.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// What is said of the camera is wrong; see [`room::Error`].
    #[error(transparent)]
    Room(#[from] room::Error),
    /// OpenCV failed.
    #[error("OpenCV cannot read {what}: {source}")]
    OpenCv {
        /// From where.
        what: String,
        /// What it says.
        source: opencv::Error,
    },
    /// A listener that is gone, a disk that is full.
    #[error("cannot write what comes out: {0}")]
    Sink(std::io::Error),
    /// The system gives no thread.
    #[error("the system gives no thread for the camera: {0}")]
    Thread(std::io::Error),
}

/// Whose poses are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// One person: the most prominent one, followed until they are gone.
    Largest,
    /// Everyone, at most so many at a time.
    All {
        /// People at a time.
        most: usize,
    },
    /// The person with this id, among all.
    Only {
        /// Counted from 1 in the order of first appearance.
        id: u64,
        /// People at a time.
        most: usize,
    },
}

impl Who {
    fn most(self) -> usize {
        match self {
            Self::Largest => 1,
            Self::All { most } | Self::Only { most, .. } => most,
        }
    }

    fn wants(self, person: Option<u64>) -> bool {
        match self {
            Self::Only { id, .. } => person == Some(id),
            _ => true,
        }
    }
}

/// How a session goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where frames come from.
    pub source: Source,
    /// How the source is watched.
    pub watch: Watch,
    /// Whose poses are wanted.
    pub who: Who,
    /// Statures in metres in the order of ids; one alone is everybody's, none is 1.70 m.
    pub heights_m: Vec<f32>,
    /// What is known of the camera.
    pub room: Room,
    /// The smoothing filter; `None` = none.
    pub one_euro: Option<OneEuro>,
}

/// What a session came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Where frames came from.
    pub source: String,
    /// Name of the detector.
    pub detector: String,
    /// Name of the model.
    pub model: String,
    /// Frames that were worked on.
    pub frames: u64,
    /// Frames that came while others were worked on, and were passed over.
    pub dropped: u64,
    /// Poses that came out.
    pub poses: u64,
    /// Different people.
    pub people: usize,
    /// From the first frame to the last one.
    pub seconds: f64,
    /// Frames worked on a second.
    pub fps: f64,
    /// Half of the updates came within so many milliseconds of their frame's arrival.
    pub delay_p50_ms: f32,
    /// 95 of 100 updates did.
    pub delay_p95_ms: f32,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, dropped, poses, people, seconds, fps, delay_p50_ms, delay_p95_ms, .. } = self;
        let people = if *people == 1 { "1 person".to_owned() } else { format!("{people} people") };
        write!(
            f,
            "{frames} frames in {seconds:.1} s ({fps:.1} a second), {dropped} dropped, {poses} poses of {people}; from the frame's arrival to the pose \
             {delay_p50_ms:.0} ms (95 %: {delay_p95_ms:.0} ms)"
        )
    }
}

/// A frame whose poses are awaited.
struct Pending {
    shot: Shot,
    time_s: f64,
    detect: Duration,
    lift: Duration,
    /// Whose poses will come, with their keypoints.
    awaited: BTreeMap<u64, Keypoints17>,
    poses: BTreeMap<u64, StreamPose>,
}

/// Runs until the source ends or `stop` says so.
///
/// # Errors
/// See [`Error`]. What came out before has been told to the sinks.
pub fn run(
    settings: &Settings,
    detector: &mut dyn Detector,
    lifter: Arc<Lifter>,
    sinks: &mut [Box<dyn Sink>],
    stop: &AtomicBool,
) -> Result<Summary, Error> {
    settings.room.check(&settings.source.path())?;
    let mut grabber = Grabber::start(&settings.source, settings.watch)?;
    let mut session: Option<Session<'_>> = None;
    let ended = loop {
        if stop.load(Ordering::Relaxed) {
            break Ok(());
        }
        let shot = match grabber.take(HEARTBEAT) {
            Ok(Taken::Shot(shot)) => shot,
            Ok(Taken::Nothing) => continue,
            Ok(Taken::End) => break Ok(()),
            Err(error) => break Err(error),
        };
        let session = match &mut session {
            Some(session) => session,
            None => session.insert(Session::new(settings, image_size(&shot.frame), &lifter, shot.at)?),
        };
        session.frame(shot, detector, &grabber, sinks)?;
    };
    if let Some(session) = &mut session {
        session.finish(&grabber, sinks)?;
    }
    ended?;
    let name = settings.source.to_string();
    let session = session.ok_or(Error::NoFrames(name.clone()))?;
    Ok(session.summary(name, detector.name(), lifter.name().to_owned(), grabber.dropped()))
}

/// What is known from frame to frame.
struct Session<'s> {
    settings: &'s Settings,
    image: ImageSize,
    began: Instant,
    last_s: f64,
    tracker: Tracker,
    people: People,
    pending: VecDeque<Pending>,
    /// Between updates, smoothed.
    interval_s: f64,
    last_update: Option<Instant>,
    delays: Quantiles,
    seen: BTreeSet<u64>,
    frames: u64,
    poses: u64,
}

impl<'s> Session<'s> {
    fn new(settings: &'s Settings, image: ImageSize, lifter: &Arc<Lifter>, began: Instant) -> Result<Self, Error> {
        let path = settings.room.path_options();
        let options = people::Options {
            heights_m: settings.heights_m.clone(),
            lens: settings.room.lens(&settings.source.path(), image)?,
            place: path.camera,
            one_euro: settings.one_euro,
            constant_bones: path.constant_bones,
        };
        Ok(Self {
            settings,
            image,
            began,
            last_s: f64::NEG_INFINITY,
            tracker: Tracker::new(settings.who.most()),
            people: People::new(lifter.clone(), image, options)?,
            pending: VecDeque::new(),
            interval_s: 0.0,
            last_update: None,
            delays: Quantiles::default(),
            seen: BTreeSet::new(),
            frames: 0,
            poses: 0,
        })
    }

    /// Works on a frame and tells what is known by then.
    fn frame(&mut self, mut shot: Shot, detector: &mut dyn Detector, grabber: &Grabber, sinks: &mut [Box<dyn Sink>]) -> Result<(), Error> {
        let time_s = shot.at.duration_since(self.began).as_secs_f64();
        // The clock has steps: two frames within one are one.
        if time_s <= self.last_s {
            grabber.recycle(shot.frame);
            return Ok(());
        }
        self.last_s = time_s;
        self.frames += 1;
        keep_size(&mut shot.frame, self.image)?;

        let start = Instant::now();
        let most = self.settings.who.most();
        let expected = self.tracker.expected(time_s);
        let detected = detector.detect(&shot.frame, time_s, &expected, most).map_err(Error::Detector)?;
        let mut tracked = self.tracker.update(Some(&shot.frame), time_s, &detected, detector.joints());
        tracked.retain(|tracked| self.settings.who.wants(tracked.person));
        let detect = start.elapsed();

        let start = Instant::now();
        let awaited = self.people.push(time_s, &tracked)?;
        let awaited = awaited.into_iter().map(|id| (id, self.people.keypoints(id))).collect();
        self.pending.push_back(Pending { shot, time_s, detect, lift: Duration::ZERO, awaited, poses: BTreeMap::new() });
        let poses = self.people.run()?;
        let lift = start.elapsed();
        if let Some(newest) = self.pending.back_mut() {
            newest.lift = lift;
        }
        self.hand_out(poses);
        self.tell(grabber, sinks, MOST_PENDING)
    }

    /// Gives each pose to the frame that it is of.
    fn hand_out(&mut self, poses: Vec<(u64, StreamPose)>) {
        for (id, pose) in poses {
            if let Some(pending) = self.pending.iter_mut().find(|pending| pending.time_s == pose.time_s) {
                pending.poses.insert(id, pose);
            }
        }
    }

    /// Tells of the frames whose poses are complete, in their order, and of those that have waited for too long.
    fn tell(&mut self, grabber: &Grabber, sinks: &mut [Box<dyn Sink>], most_pending: usize) -> Result<(), Error> {
        while let Some(first) = self.pending.front() {
            let complete = first.awaited.keys().all(|id| first.poses.contains_key(id));
            // A later frame that is complete says that nothing more comes of this one.
            let overtaken = self.pending.iter().skip(1).any(|later| {
                !later.awaited.is_empty() && first.awaited.keys().all(|id| first.poses.contains_key(id) || later.poses.contains_key(id))
            });
            if !complete && !overtaken && self.pending.len() <= most_pending {
                break;
            }
            let Some(pending) = self.pending.pop_front() else { break };
            let update = self.update(&pending, grabber.dropped());
            for sink in sinks.iter_mut() {
                sink.update(&update, &pending.shot.frame).map_err(Error::Sink)?;
            }
            grabber.recycle(pending.shot.frame);
        }
        Ok(())
    }

    fn update(&mut self, pending: &Pending, dropped: u64) -> LiveUpdate {
        let now = Instant::now();
        if let Some(last) = self.last_update.replace(now) {
            let interval_s = now.duration_since(last).as_secs_f64();
            let share = if self.interval_s > 0.0 { 1.0 - (-interval_s / RATE_SMOOTHING_S).exp() } else { 1.0 };
            self.interval_s += share * (interval_s - self.interval_s);
        }
        let ms = |duration: Duration| duration.as_secs_f32() * 1e3;
        let total = ms(now.duration_since(pending.shot.at));
        self.delays.add(total);
        let people = pending.poses.iter().map(|(&id, pose)| {
            let keypoints = pending.awaited.get(&id).copied().unwrap_or_else(|| self.people.keypoints(id));
            self.people.show(id, &keypoints, pose)
        });
        let people: Vec<LivePerson> = people.collect();
        self.poses += people.len() as u64;
        self.seen.extend(people.iter().map(|person| person.id));
        LiveUpdate {
            time_s: pending.time_s,
            delay_ms: Delay { detect: ms(pending.detect), lift: ms(pending.lift), total },
            dropped,
            fps: if self.interval_s > 0.0 { self.interval_s.recip() as f32 } else { 0.0 },
            image: self.image.into(),
            people,
            world_from_camera: self.people.world_from_camera(),
            intrinsics: self.people.intrinsics(),
            lag_ms: (1e3 * self.people.lag_s()) as f32,
        }
    }

    /// Tells of the frames that still wait for look-ahead.
    fn finish(&mut self, grabber: &Grabber, sinks: &mut [Box<dyn Sink>]) -> Result<(), Error> {
        self.people.finish();
        let poses = self.people.run()?;
        self.hand_out(poses);
        self.tell(grabber, sinks, 0)
    }

    fn summary(self, source: String, detector: String, model: String, dropped: u64) -> Summary {
        let seconds = self.last_s.max(0.0);
        Summary {
            source,
            detector,
            model,
            frames: self.frames,
            dropped,
            poses: self.poses,
            people: self.seen.len(),
            seconds,
            fps: if seconds > 0.0 { (self.frames - 1) as f64 / seconds } else { 0.0 },
            delay_p50_ms: self.delays.at(0.5).unwrap_or_default(),
            delay_p95_ms: self.delays.at(0.95).unwrap_or_default(),
        }
    }
}

/// Keypoints need one size: a stream that changes it on the way (a phone that is turned) is scaled to the first.
fn keep_size(frame: &mut Mat, image: ImageSize) -> Result<(), Error> {
    if image_size(frame) == image {
        return Ok(());
    }
    let failed = |source| Error::OpenCv { what: "the camera".to_owned(), source };
    let size = CvSize::new(image.width_px as i32, image.height_px as i32);
    let mut resized = Mat::default();
    imgproc::resize(frame, &mut resized, size, 0.0, 0.0, imgproc::INTER_AREA).map_err(failed)?;
    *frame = resized;
    Ok(())
}
