//! A stream without an engine: keypoints in, inputs for the network out; its answers in, poses out.

use pose::{
    ImageSize, JOINTS, Keypoint, Keypoints17, Pose3,
    camera::{Extrinsics, Intrinsics},
    causal::{DEFAULT_HOLD_S, Presence},
    fill::CausalFill,
    filter::OneEuro,
    normalise::{ImageTransform, Normalisation},
    world::{Scale, ScaleSource},
};
use serde::Serialize;

use super::{
    history::FASTEST_INPUT,
    output::{Output, stream_error},
    steps::Steps,
    windows::Windows,
};
use crate::{Error, StepState};

/// Times beyond this are refused: they are no seconds, but milliseconds or worse.
pub const MAX_TIME_S: f64 = 1e11;
/// Look-ahead of models of windows where nothing is said.
pub const DEFAULT_LOOK_AHEAD: usize = 4;
/// Windows or steps that wait for the engine, at most. When a stream is fed faster than the engine runs, the oldest are dropped and counted.
pub const MAX_WINDOWS_WAITING: usize = 32;
/// Longest pause that may be held over.
pub const MAX_HOLD_S: f64 = 10.0;

/// How a stream is lifted.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamOptions {
    /// Frames, at the model's rate, that are waited for after a frame before it is lifted: 0 = none. A pose comes this much later,
    /// and is better: a model sees what comes next. `None` is [`DEFAULT_LOOK_AHEAD`] for a model of windows; a live model has its own,
    /// and takes no other.
    pub look_ahead: Option<usize>,
    /// Models of windows: frames, at the model's rate, between two runs of the model: with 1 it runs for every frame, with more it costs
    /// less, and poses come in groups. `look_ahead + hop` is at most the model's window. A live model runs for every frame.
    pub hop: usize,
    /// Pause in seconds, up to [`MAX_HOLD_S`], over which a person who is not seen is held; after it the stream starts anew.
    pub hold_s: f64,
    /// Models of windows: where windows disagree, a pose passes from one to the next with this time constant in seconds, and does not jump; 0 = it may.
    pub blend_s: f64,
    /// Models of windows: average with the prediction for the mirrored picture: twice the work, a slightly smaller error.
    pub flip: bool,
    /// What the person's size is known from; a [`Scale::RootDepth`] has one depth, for all frames.
    pub scale: Scale,
    /// The camera; `None` = 60 degrees horizontally, the principal point in the middle.
    pub intrinsics: Option<Intrinsics>,
    /// Where the camera stands; `None` = found from the person.
    pub world_from_camera: Option<Extrinsics>,
    /// One-Euro filter of the joints in camera space (settings in millimetres); [`OneEuro::lag_s`] says what it adds to the delay.
    pub one_euro: Option<OneEuro>,
    /// Bones keep their length (that known by the time of the frame); adds no delay.
    pub constant_bones: bool,
}

impl Default for StreamOptions {
    /// [`DEFAULT_LOOK_AHEAD`], a run for every frame, 0.5 s held, blending over 0.05 s, no filters.
    ///
    /// The blending: with clip-xs and no look-ahead on 11 clips of real motion (`tests/stream_accuracy.rs`), 0.05 s takes the mean
    /// acceleration error from 9.5 to 6.0 mm, nearly that of a whole clip (5.5), and P-MPJPE from 72.3 to 72.9 mm; 0.1 s: 5.7 and 73.5.
    fn default() -> Self {
        Self {
            look_ahead: None,
            hop: 1,
            hold_s: DEFAULT_HOLD_S,
            blend_s: 0.05,
            flip: false,
            scale: Scale::DefaultHeight,
            intrinsics: None,
            world_from_camera: None,
            one_euro: None,
            constant_bones: false,
        }
    }
}

/// What a stream must know of its model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamModel {
    /// How it is run.
    pub way: Way,
    /// Numbers per joint in the input: 2 (x, y) or 3 (x, y, confidence).
    pub channels: usize,
    /// How pixels become the input.
    pub normalisation: Normalisation,
    /// Frames a second.
    pub fps: f64,
}

/// How a model is run over a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Again and again over the last frames.
    Window {
        /// Frames in a window.
        frames: usize,
    },
    /// Once for each frame, remembering the rest.
    Step {
        /// k: what comes out for frame t is the pose of frame t - k.
        look_ahead: usize,
        /// Numbers that it remembers.
        state_len: usize,
    },
}

/// One frame of a stream, lifted. It goes with the frame that was pushed at `time_s`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamPose {
    /// Time of the frame, as it was pushed.
    pub time_s: f64,
    /// How much later the newest frame is that this pose was made of, seconds: the delay that look-ahead and hop cost. Filters and
    /// the time that the engine takes come on top.
    pub delay_s: f64,
    /// The person was not seen in this frame: the pose is held.
    pub held: bool,
    /// The first pose of a person: the stream has just begun, or begun anew after a pause.
    pub restarted: bool,
    /// Confidence of each 2D keypoint that was pushed, 0..=1; 0 = it was missing, and its pose is an informed guess.
    pub confidence: [f32; JOINTS],
    /// Root-relative x and y in normalised image units, z in the same unit; the root is 0. As the model says it: not filtered.
    pub pose25: Pose3,
    /// What a normalised unit is: `pixel = root_px + half_size_px * (x, y)`.
    pub transform: ImageTransform,
    /// Pixel of the root.
    pub root_px: [f32; 2],
    /// Joints in camera space, millimetres: x right, y down, z away from the camera; filtered where that was asked for.
    pub camera_mm: Pose3,
    /// Depth of the root (z, not distance), millimetres, before filters.
    pub root_depth_mm: f32,
    /// Joints in the world (z up, floor at 0), millimetres.
    pub world_mm: Pose3,
    /// The camera's place in that world, as known by now.
    pub world_from_camera: Extrinsics,
    /// What the millimetres rest on.
    pub scale_source: ScaleSource,
    /// Stature of the person at that scale, metres, as known by now.
    pub height_m: f32,
}

/// What has become of the frames of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamStats {
    /// Frames that were taken.
    pub frames: u64,
    /// Poses that were given.
    pub poses: u64,
    /// Frames without a person, while there was nothing to hold.
    pub empty: u64,
    /// Frames left out because they came at more than eight times the model's rate.
    pub too_fast: u64,
    /// Frames dropped because the engine was too slow for them, or failed.
    pub dropped: u64,
    /// How often a person was lost and the stream began anew.
    pub restarts: u64,
}

/// The state of one stream: everything but the engine. It never waits and its memory is bounded.
///
/// For each frame: [`push`](Self::push); then, while [`start_run`](Self::start_run) gives an input, run it through the model and hand the
/// answer to [`finish_run`](Self::finish_run). [`LiftStream`](crate::LiftStream) does this for one stream, [`run_due`](crate::run_due) for many.
#[derive(Clone, Debug)]
pub struct StreamCore {
    model: StreamModel,
    options: StreamOptions,
    // what comes in
    fill: CausalFill,
    last_time_s: Option<f64>,
    presence: Presence,
    /// Counts people: frames of different ones have nothing to do with each other.
    person: u64,
    // what goes through the engine
    through: Through,
    // what goes out
    output: Output,
    stats: StreamStats,
}

/// What waits for the engine, and for whom.
#[derive(Clone, Debug)]
enum Through {
    Windows(Box<Windows>),
    Steps(Box<Steps>),
}

/// A frame that waits for its pose.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub time_s: f64,
    /// With a position for every joint; confidence 0 = filled.
    pub keypoints: Keypoints17,
    pub held: bool,
    pub person: u64,
}

impl StreamCore {
    /// A stream that has seen nothing.
    ///
    /// # Errors
    /// Settings that do not go together or with the model; a camera or size outside its range.
    pub fn new(model: StreamModel, image: ImageSize, options: StreamOptions) -> Result<Self, Error> {
        let refuse = |what: String| Err(Error::Stream(what));
        let frames = if let Way::Window { frames } = model.way { frames } else { 1 };
        let usable = frames > 0 && matches!(model.channels, 2 | 3) && model.fps > 0.0 && model.fps <= 1000.0;
        if !usable {
            return refuse(format!("expected a model of 1 frame or more, 2 or 3 channels and a rate above 0, found {model:?}"));
        }
        if image.width_px == 0 || image.height_px == 0 {
            return refuse(format!("expected a picture of at least 1 x 1 pixel, found {} x {}", image.width_px, image.height_px));
        }
        for (what, seconds) in [("pause to hold over", options.hold_s), ("time to blend windows over", options.blend_s)] {
            if !(0.0..=MAX_HOLD_S).contains(&seconds) {
                return refuse(format!("{what}: expected 0 to {MAX_HOLD_S} seconds, found {seconds}"));
            }
        }
        let through = match model.way {
            Way::Window { frames } => Through::Windows(Box::new(Windows::new(&model, frames, image, &options)?)),
            Way::Step { look_ahead, .. } => Through::Steps(Box::new(Steps::new(&model, look_ahead, image, &options)?)),
        };
        Ok(Self {
            model,
            fill: CausalFill::default(),
            last_time_s: None,
            presence: Presence::new(options.hold_s),
            person: 0,
            through,
            output: Output::new(image, &options, matches!(model.way, Way::Window { .. })).map_err(stream_error)?,
            stats: StreamStats::default(),
            options,
        })
    }

    /// Takes the frame at `time_s`: one person's keypoints in pixels, or `None` where nobody is seen (missing joints have confidence
    /// 0). A frame that is refused changes nothing.
    ///
    /// # Errors
    /// A time that is not finite, not after the last one, or beyond [`MAX_TIME_S`]; a keypoint that is not finite, beyond
    /// [`pose::MAX_COORDINATE_PX`], or with a confidence outside 0..=1.
    pub fn push(&mut self, time_s: f64, keypoints: Option<&Keypoints17>) -> Result<(), Error> {
        self.check(time_s, keypoints)?;
        if self.last_time_s.is_some_and(|last_s| (time_s - last_s) * self.model.fps * FASTEST_INPUT < 1.0 - 1e-6) {
            self.stats.too_fast += 1;
            return Ok(());
        }
        self.last_time_s = Some(time_s);
        let frame = keypoints.copied().unwrap_or([Keypoint::MISSING; JOINTS]);
        let seen = frame.iter().any(|keypoint| !keypoint.is_missing());

        if self.presence.push(time_s, seen) {
            self.lose_person();
        }
        let filled = if self.presence.is_anybody() { self.fill.push(&frame) } else { None };
        let Some(keypoints) = filled else {
            self.stats.empty += 1;
            return Ok(());
        };
        self.stats.frames += 1;
        let frame = Frame { time_s, keypoints, held: !seen, person: self.person };
        match &mut self.through {
            Through::Windows(windows) => windows.push(frame, &mut self.stats),
            Through::Steps(steps) => steps.push(frame, &mut self.stats),
        }
        Ok(())
    }

    fn check(&self, time_s: f64, keypoints: Option<&Keypoints17>) -> Result<(), Error> {
        if time_s.is_nan() || time_s.abs() > MAX_TIME_S {
            return Err(Error::Stream(format!("expected the time of a frame in seconds, within ±{MAX_TIME_S:e}, found {time_s}")));
        }
        if let Some(last_s) = self.last_time_s.filter(|&last_s| time_s <= last_s) {
            return Err(Error::Stream(format!(
                "expected a frame after {last_s} s, found one at {time_s} s: times must rise; reset the stream to start another clock"
            )));
        }
        let bad = keypoints.and_then(|frame| frame.iter().enumerate().find(|(_, keypoint)| !keypoint.is_valid()));
        if let Some((joint, &Keypoint { x_px, y_px, confidence })) = bad {
            return Err(Error::Stream(format!(
                "the frame at {time_s} s, joint {joint} ({}): expected finite pixels within ±1000000 and a confidence from 0 to 1, found x {x_px}, \
                 y {y_px}, confidence {confidence}; mark a missing keypoint by confidence 0",
                pose::skeleton::NAMES[joint]
            )));
        }
        Ok(())
    }

    /// Answers what is left of the person with what there is of look-ahead, and forgets them.
    fn lose_person(&mut self) {
        match &mut self.through {
            Through::Windows(windows) => windows.lose_person(&mut self.stats),
            Through::Steps(steps) => steps.lose_person(&mut self.stats),
        }
        self.fill.reset();
        self.person += 1;
        self.stats.restarts += 1;
    }

    /// The end of the stream: what the frames need that still wait. Another frame may follow, of another person.
    pub fn finish(&mut self) {
        if self.presence.is_anybody() {
            self.presence.reset();
            self.lose_person();
        }
    }

    /// [`Self::finish`], and the next frame may have any time: another clock begins.
    pub fn reset(&mut self) {
        self.finish();
        self.last_time_s = None;
    }

    /// The next input that the model is to run: (T, 17, C) row-major, T and C those of the model, T = 1 of a live model, which goes on
    /// from [`state_mut`](Self::state_mut). `None` when none is due, or while the last one has not come back.
    pub fn start_run(&mut self) -> Option<Vec<f32>> {
        match &mut self.through {
            Through::Windows(windows) => windows.start_run(),
            Through::Steps(steps) => steps.start_run(),
        }
    }

    /// What a live model remembers of the stream, to be moved on between [`start_run`](Self::start_run) and
    /// [`finish_run`](Self::finish_run); `None` of a model of windows.
    pub fn state_mut(&mut self) -> Option<&mut StepState> {
        match &mut self.through {
            Through::Windows(_) => None,
            Through::Steps(steps) => Some(steps.state_mut()),
        }
    }

    /// Takes the model's answer (T, 17, 3) to the last [`start_run`](Self::start_run) and gives the poses that it completes, in the
    /// order of time.
    ///
    /// # Errors
    /// An answer to nothing, of the wrong size, or not finite: the frames that it would have completed are dropped, counted, and the
    /// stream goes on.
    pub fn finish_run(&mut self, output: &[f32]) -> Result<Vec<StreamPose>, Error> {
        let mut poses = Vec::new();
        let answered = match &mut self.through {
            Through::Windows(windows) => windows.finish_run(output, &mut self.output, &mut poses),
            Through::Steps(steps) => steps.finish_run(output, &mut self.output, &mut poses),
        };
        self.stats.poses += poses.len() as u64;
        let (frames, outcome) = answered?;
        self.stats.dropped += (frames - poses.len()) as u64;
        outcome.map(|()| poses)
    }

    /// The model failed: the frames of the last [`start_run`](Self::start_run) are dropped and counted.
    pub fn abandon_run(&mut self) {
        self.stats.dropped += match &mut self.through {
            Through::Windows(windows) => windows.abandon_run(),
            Through::Steps(steps) => steps.abandon_run(),
        } as u64;
    }

    /// Whether [`start_run`](Self::start_run) would give an input.
    pub fn is_due(&self) -> bool {
        match &self.through {
            Through::Windows(windows) => windows.is_due(),
            Through::Steps(steps) => steps.is_due(),
        }
    }

    /// The longest delay, in seconds, of a stream that comes at the model's rate: its look-ahead, and what it waits for the hop. Each
    /// pose says its own.
    pub fn delay_s(&self) -> f64 {
        let frames = match &self.through {
            Through::Windows(windows) => windows.look_ahead() + self.options.hop - 1,
            Through::Steps(steps) => steps.look_ahead(),
        };
        frames as f64 / self.model.fps
    }

    /// The settings.
    pub fn options(&self) -> &StreamOptions {
        &self.options
    }

    /// What the stream knows of its model.
    pub fn model(&self) -> &StreamModel {
        &self.model
    }

    /// What has become of the frames so far.
    pub fn stats(&self) -> StreamStats {
        self.stats
    }
}

/// What came of an answer: frames that it was to complete, and whether all of them were.
pub(super) type Answered = Result<(usize, Result<(), Error>), Error>;

/// An answer that nobody has asked for.
pub(super) fn not_asked() -> Error {
    Error::Stream("the model's answer was given to a stream that had not asked".into())
}
