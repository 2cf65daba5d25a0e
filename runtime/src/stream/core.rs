//! A stream without an engine: keypoints in, windows for the network out; its answers in, poses out.

use std::collections::VecDeque;

use pose::{
    ImageSize, JOINTS, Keypoint, Keypoints17, Pose3,
    camera::{Extrinsics, Intrinsics},
    fill::CausalFill,
    filter::{BoneProjection, OneEuro, PoseFilter},
    live::{CausalPlacer, WorldFollower},
    normalise::{self, BoxFollower, ImageTransform, Normalisation},
    world::{self, Scale, ScaleSource},
};
use serde::Serialize;

use super::history::{FASTEST_INPUT, History, Sampled};
use crate::{
    Error,
    lifter::{POSE_VALUES, in_pixels, window_transform},
};

/// Times beyond this are refused: they are no seconds, but milliseconds or worse.
pub const MAX_TIME_S: f64 = 1e11;
/// Windows that wait for the engine, at most. When a stream is fed faster than the engine runs, the oldest are dropped and counted.
pub const MAX_WINDOWS_WAITING: usize = 32;
/// Longest pause that may be held over.
pub const MAX_HOLD_S: f64 = 10.0;
/// Times are sums of intervals: what is less than this over a limit is rounding.
const ROUNDING_S: f64 = 1e-6;
/// A window is due this part of the model's interval early: time stamps are never exact.
const HOP_TOLERANCE: f64 = 0.1;
/// A frame that the window's start has left by less than this part of an interval is given the window's first pose.
const WINDOW_TOLERANCE: f64 = 0.5;

/// How a stream is lifted.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamOptions {
    /// Frames, at the model's rate, that are waited for after a frame before it is lifted: 0 = none. A pose comes this much later,
    /// and is better: a model sees what comes next.
    pub look_ahead: usize,
    /// Frames, at the model's rate, between two runs of the model: with 1 it runs for every frame, with more it costs less, and
    /// poses come in groups. `look_ahead + hop` is at most the model's window.
    pub hop: usize,
    /// Pause in seconds, up to [`MAX_HOLD_S`], over which a person who is not seen is held; after it the stream starts anew.
    pub hold_s: f64,
    /// Where windows disagree, a pose passes from one to the next with this time constant in seconds, and does not jump; 0 = it may.
    pub blend_s: f64,
    /// Average with the prediction for the mirrored picture: twice the work, a slightly smaller error.
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
    /// 4 frames of look-ahead, a run for every frame, 0.5 s held, blending over 0.05 s, no filters.
    ///
    /// The blending: with clip-xs and no look-ahead on 11 clips of real motion (`tests/stream_accuracy.rs`), 0.05 s takes the mean
    /// acceleration error from 9.5 to 6.0 mm, nearly that of a whole clip (5.5), and P-MPJPE from 72.3 to 72.9 mm; 0.1 s: 5.7 and 73.5.
    fn default() -> Self {
        Self {
            look_ahead: 4,
            hop: 1,
            hold_s: 0.5,
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
pub struct WindowModel {
    /// Frames in a window.
    pub frames: usize,
    /// Numbers per joint in the input: 2 (x, y) or 3 (x, y, confidence).
    pub channels: usize,
    /// How pixels become the input.
    pub normalisation: Normalisation,
    /// Frames a second.
    pub fps: f64,
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
/// For each frame: [`push`](Self::push); then, while [`start_run`](Self::start_run) gives a window, run it through the model and hand the
/// answer to [`finish_run`](Self::finish_run). [`LiftStream`](crate::LiftStream) does this for one stream, [`run_due`](crate::run_due) for many.
#[derive(Clone, Debug)]
pub struct StreamCore {
    model: WindowModel,
    image: ImageSize,
    options: StreamOptions,
    // what comes in
    fill: CausalFill,
    history: History,
    box_follower: BoxFollower,
    last_window_s: Option<f64>,
    last_time_s: Option<f64>,
    last_seen_s: Option<f64>,
    last_due_s: Option<f64>,
    /// Counts people: frames of different ones have nothing to do with each other.
    person: u64,
    /// Frames that no window has answered yet, oldest first.
    waiting: VecDeque<Frame>,
    // what goes through the engine
    due: VecDeque<Run>,
    running: Option<Run>,
    // what goes out
    output: Output,
    stats: StreamStats,
}

/// A frame that waits for its pose.
#[derive(Clone, Debug)]
struct Frame {
    time_s: f64,
    /// With a position for every joint; confidence 0 = filled.
    keypoints: Keypoints17,
    held: bool,
    person: u64,
}

/// A window, and the frames that it answers.
#[derive(Clone, Debug)]
struct Run {
    /// (T, 17, C); empty once the engine has it.
    input: Vec<f32>,
    times_s: Vec<f64>,
    transform: ImageTransform,
    frames: Vec<Frame>,
}

/// Which of the frames that wait a window answers.
#[derive(Clone, Copy)]
enum Through {
    /// Those that have had their look-ahead.
    LookAhead,
    /// All: no more will come that they could look ahead to.
    Newest,
}

impl StreamCore {
    /// A stream that has seen nothing.
    ///
    /// # Errors
    /// Settings that do not go together or with the model; a camera or size outside its range.
    pub fn new(model: WindowModel, image: ImageSize, options: StreamOptions) -> Result<Self, Error> {
        let refuse = |what: String| Err(Error::Stream(what));
        let usable = model.frames > 0 && matches!(model.channels, 2 | 3) && model.fps > 0.0 && model.fps <= 1000.0;
        if !usable {
            return refuse(format!("expected a model of 1 frame or more, 2 or 3 channels and a rate above 0, found {model:?}"));
        }
        if image.width_px == 0 || image.height_px == 0 {
            return refuse(format!("expected a picture of at least 1 x 1 pixel, found {} x {}", image.width_px, image.height_px));
        }
        if options.hop == 0 {
            return refuse("expected a hop of at least 1 frame between two runs of the model, found 0".into());
        }
        if options.look_ahead.saturating_add(options.hop) > model.frames {
            return refuse(format!(
                "expected look-ahead and hop to be at most the model's window of {} frames together, found {} and {}",
                model.frames, options.look_ahead, options.hop
            ));
        }
        for (what, seconds) in [("pause to hold over", options.hold_s), ("time to blend windows over", options.blend_s)] {
            if !(0.0..=MAX_HOLD_S).contains(&seconds) {
                return refuse(format!("{what}: expected 0 to {MAX_HOLD_S} seconds, found {seconds}"));
            }
        }
        Ok(Self {
            model,
            image,
            fill: CausalFill::default(),
            history: History::new(model.frames, model.fps),
            box_follower: BoxFollower::default(),
            last_window_s: None,
            last_time_s: None,
            last_seen_s: None,
            last_due_s: None,
            person: 0,
            waiting: VecDeque::new(),
            due: VecDeque::new(),
            running: None,
            output: Output::new(image, &options).map_err(stream_error)?,
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

        if self.last_seen_s.is_some_and(|last_s| time_s - last_s > self.options.hold_s + ROUNDING_S) {
            self.lose_person();
        }
        if seen {
            self.last_seen_s = Some(time_s);
        }
        // nobody has been here, or not for long
        let filled = if self.last_seen_s.is_some() { self.fill.push(&frame) } else { None };
        let Some(keypoints) = filled else {
            self.stats.empty += 1;
            return Ok(());
        };
        self.stats.frames += 1;
        // after a pause the next window would no longer reach the frames before it
        let reach = (self.model.frames - 1) as f64 + WINDOW_TOLERANCE;
        if self.waiting.front().is_some_and(|oldest| (time_s - oldest.time_s) * self.model.fps > reach) {
            self.schedule(Through::Newest);
        }
        self.history.push(time_s, keypoints);
        self.waiting.push_back(Frame { time_s, keypoints, held: !seen, person: self.person });
        let last_due_s = *self.last_due_s.get_or_insert(time_s - 1.0 / self.model.fps);
        if (time_s - last_due_s) * self.model.fps >= self.options.hop as f64 - HOP_TOLERANCE {
            self.last_due_s = Some(time_s);
            self.schedule(Through::LookAhead);
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

    /// Makes a window that ends at the newest frame, for the frames that wait.
    fn schedule(&mut self, through: Through) {
        let (Some(Sampled { times_s, keypoints }), Some(newest_s)) = (self.history.sample(), self.history.newest_s()) else { return };
        let last_s = match through {
            Through::LookAhead => times_s[times_s.len() - 1 - self.options.look_ahead],
            Through::Newest => newest_s,
        };
        let answered = self.waiting.partition_point(|frame| frame.time_s <= last_s);
        if answered == 0 {
            return;
        }
        let frames: Vec<Frame> = self.waiting.drain(..answered).collect();
        // a window of keypoints that were all checked has a box and an input; should it not, its frames are dropped and counted
        let prepared = window_transform(self.model.normalisation, &keypoints, self.image).and_then(|wanted| {
            let elapsed_s = self.last_window_s.map_or(0.0, |last_s| newest_s - last_s);
            let transform = match self.model.normalisation {
                Normalisation::PersonBox => self.box_follower.push(wanted, elapsed_s),
                Normalisation::Frame => wanted,
            };
            Ok((transform, normalise::network_input(&keypoints, &transform, self.model.channels).map_err(stream_error)?))
        });
        self.last_window_s = Some(newest_s);
        match prepared {
            Ok((transform, input)) => self.due.push_back(Run { input, times_s, transform, frames }),
            Err(error) => {
                tracing::warn!("{} frames of a stream are dropped: {error}", frames.len());
                self.stats.dropped += frames.len() as u64;
            }
        }
        if self.due.len() > MAX_WINDOWS_WAITING {
            let dropped = self.due.pop_front().map_or(0, |run| run.frames.len());
            self.stats.dropped += dropped as u64;
        }
    }

    /// Answers what is left of the person with what there is of look-ahead, and forgets them.
    fn lose_person(&mut self) {
        self.schedule(Through::Newest);
        self.fill.reset();
        self.history.clear();
        self.box_follower.reset();
        (self.last_window_s, self.last_seen_s, self.last_due_s) = (None, None, None);
        self.person += 1;
        self.stats.restarts += 1;
    }

    /// The end of the stream: windows for the frames that still wait. Another frame may follow, of another person.
    pub fn finish(&mut self) {
        if self.last_seen_s.is_some() {
            self.lose_person();
        }
    }

    /// [`Self::finish`], and the next frame may have any time: another clock begins.
    pub fn reset(&mut self) {
        self.finish();
        self.last_time_s = None;
    }

    /// The next window that the model is to run: (T, 17, C) row-major, T and C those of the model. `None` when none is due, or while
    /// the last one has not come back.
    pub fn start_run(&mut self) -> Option<Vec<f32>> {
        if self.running.is_some() {
            return None;
        }
        let mut run = self.due.pop_front()?;
        let input = std::mem::take(&mut run.input);
        self.running = Some(run);
        Some(input)
    }

    /// Takes the model's answer (T, 17, 3) to the last [`start_run`](Self::start_run) and gives the poses that it completes, in the
    /// order of time.
    ///
    /// # Errors
    /// An answer to nothing, of the wrong size, or not finite: the frames that it would have completed are dropped, counted, and the
    /// stream goes on.
    pub fn finish_run(&mut self, output: &[f32]) -> Result<Vec<StreamPose>, Error> {
        let Some(run) = self.running.take() else {
            return Err(Error::Stream("the model's answer was given to a stream that had not asked".into()));
        };
        let mut poses = Vec::with_capacity(run.frames.len());
        let lifted = check_answer(&run, output).and_then(|()| self.output.lift(&run, output, &mut poses));
        self.stats.poses += poses.len() as u64;
        self.stats.dropped += (run.frames.len() - poses.len()) as u64;
        lifted.map(|()| poses)
    }

    /// The model failed: the frames of the last [`start_run`](Self::start_run) are dropped and counted.
    pub fn abandon_run(&mut self) {
        self.stats.dropped += self.running.take().map_or(0, |run| run.frames.len()) as u64;
    }

    /// Whether [`start_run`](Self::start_run) would give a window.
    pub fn is_due(&self) -> bool {
        self.running.is_none() && !self.due.is_empty()
    }

    /// The longest delay, in seconds, of a stream that comes at the model's rate: its look-ahead, and what it waits for the hop. Each
    /// pose says its own.
    pub fn delay_s(&self) -> f64 {
        (self.options.look_ahead + self.options.hop - 1) as f64 / self.model.fps
    }

    /// The settings.
    pub fn options(&self) -> &StreamOptions {
        &self.options
    }

    /// What the stream knows of its model.
    pub fn model(&self) -> &WindowModel {
        &self.model
    }

    /// What has become of the frames so far.
    pub fn stats(&self) -> StreamStats {
        self.stats
    }
}

fn check_answer(run: &Run, output: &[f32]) -> Result<(), Error> {
    let expected = run.times_s.len() * POSE_VALUES;
    if output.len() != expected {
        return Err(Error::Stream(format!("expected {expected} numbers from the model, found {}", output.len())));
    }
    // as pose::world checks poses: what is no number, or absurd, is not placed anywhere
    match output.iter().position(|value| value.is_nan() || value.abs() > pose::MAX_COORDINATE_PX) {
        None => Ok(()),
        Some(at) => Err(Error::Stream(format!(
            "the model answered {} for frame {} of its window, joint {}: expected finite numbers",
            output[at],
            at / POSE_VALUES,
            at / 3 % JOINTS
        ))),
    }
}

/// From windows to poses that go on from each other.
#[derive(Clone, Debug)]
struct Output {
    /// The person of the last pose.
    person: Option<u64>,
    /// Time of the last pose and its 2.5D in pixels, (17, 3).
    last: Option<(f64, [f32; POSE_VALUES])>,
    last_root_px: [f32; 2],
    blend_s: f64,
    placer: CausalPlacer,
    world: WorldFollower,
    world_from_camera: Option<Extrinsics>,
    one_euro: Option<PoseFilter>,
    bones: Option<BoneProjection>,
}

impl Output {
    fn new(image: ImageSize, options: &StreamOptions) -> Result<Self, pose::Error> {
        Ok(Self {
            person: None,
            last: None,
            last_root_px: [image.width_px as f32 / 2.0, image.height_px as f32 / 2.0],
            blend_s: options.blend_s,
            placer: CausalPlacer::new(image, options.intrinsics, options.scale.clone())?,
            world: WorldFollower::default(),
            world_from_camera: options.world_from_camera,
            one_euro: options.one_euro.map(PoseFilter::new).transpose()?,
            bones: if options.constant_bones { Some(BoneProjection::new(&[0.0; JOINTS - 1])?) } else { None },
        })
    }

    /// The poses of the frames that a window answers.
    fn lift(&mut self, run: &Run, output: &[f32], poses: &mut Vec<StreamPose>) -> Result<(), Error> {
        let window = WindowPoses { times_s: &run.times_s, values_px: in_pixels(output, &run.transform) };
        let newest_s = run.times_s[run.times_s.len() - 1];
        // how far the last pose, which earlier windows made, is from what this one says of the same time
        let mut offset_px: Option<[f32; POSE_VALUES]> = None;
        for frame in &run.frames {
            let restarted = self.person != Some(frame.person);
            if restarted {
                self.start_person(frame.person);
            }
            let mut pose_px = window.at(frame.time_s);
            if let Some((last_s, last_px)) = self.last
                && self.blend_s > 0.0
                && last_s >= run.times_s[0]
            {
                let offset_px = offset_px.get_or_insert_with(|| {
                    let said_px = window.at(last_s);
                    std::array::from_fn(|i| last_px[i] - said_px[i])
                });
                let left = (-(frame.time_s - last_s) / self.blend_s).exp() as f32;
                for (value, offset) in pose_px.iter_mut().zip(offset_px) {
                    *offset *= left;
                    *value += *offset;
                }
            }
            self.last = Some((frame.time_s, pose_px));
            poses.push(self.place(frame, &pose_px, &run.transform, newest_s, restarted)?);
        }
        Ok(())
    }

    fn start_person(&mut self, person: u64) {
        self.person = Some(person);
        self.last = None;
        self.placer.reset();
        if let Some(filter) = &mut self.one_euro {
            filter.reset();
        }
    }

    /// From 2.5D in pixels to millimetres.
    fn place(
        &mut self,
        frame: &Frame,
        pose_px: &[f32; POSE_VALUES],
        transform: &ImageTransform,
        newest_s: f64,
        restarted: bool,
    ) -> Result<StreamPose, Error> {
        let half_size_px = transform.half_size_px;
        let pose25: Pose3 = std::array::from_fn(|j| std::array::from_fn(|k| pose_px[3 * j + k] / half_size_px));
        // someone who is not seen is where they were held
        let keypoints = if frame.held { frame.keypoints.map(|k| Keypoint { confidence: 1.0, ..k }) } else { frame.keypoints };
        let root_px = world::root_of_frame_px(&pose25, transform, &keypoints).unwrap_or(self.last_root_px);
        self.last_root_px = root_px;
        let placed = self.placer.push(frame.time_s, &pose25, transform, root_px).map_err(stream_error)?;

        let mut camera_mm = placed.camera_mm;
        if let Some(filter) = &mut self.one_euro {
            camera_mm = filter.push(frame.time_s, &camera_mm);
        }
        if let Some(bones) = &mut self.bones {
            bones.set_lengths(&placed.bone_lengths_mm).map_err(stream_error)?;
            camera_mm = bones.push(&camera_mm);
        }
        let world_from_camera = match self.world_from_camera {
            Some(given) => given,
            None => self.world.push(frame.time_s, &camera_mm, placed.height_m),
        };
        Ok(StreamPose {
            time_s: frame.time_s,
            delay_s: newest_s - frame.time_s,
            held: frame.held,
            restarted,
            confidence: frame.keypoints.map(|keypoint| keypoint.confidence),
            pose25,
            transform: *transform,
            root_px,
            camera_mm,
            root_depth_mm: placed.root_depth_mm,
            world_mm: world_from_camera.pose_to_world(&camera_mm),
            world_from_camera,
            scale_source: self.placer.scale_source(),
            height_m: placed.height_m,
        })
    }
}

/// What a window says, at any time within it.
struct WindowPoses<'a> {
    times_s: &'a [f64],
    /// For each frame of the window (17, 3) and its box, in pixels.
    values_px: Vec<f32>,
}

impl WindowPoses<'_> {
    /// 2.5D in pixels: that of the window's frame, or of its two neighbours, mixed; ends are held.
    fn at(&self, time_s: f64) -> [f32; POSE_VALUES] {
        let stride = self.values_px.len() / self.times_s.len();
        let frame = |i: usize| &self.values_px[i * stride..][..POSE_VALUES];
        let after = self.times_s.partition_point(|&t| t <= time_s);
        let before = after.saturating_sub(1);
        if after == self.times_s.len() || after == 0 || self.times_s[before] == time_s {
            return std::array::from_fn(|k| frame(before)[k]);
        }
        let share = ((time_s - self.times_s[before]) / (self.times_s[after] - self.times_s[before])) as f32;
        std::array::from_fn(|k| frame(before)[k] + share * (frame(after)[k] - frame(before)[k]))
    }
}

fn stream_error(error: pose::Error) -> Error {
    Error::Stream(error.to_string())
}
