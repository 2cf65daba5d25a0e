//! Keypoints of a clip in, 3D out.

use std::{ops::Range, path::Path};

use pose::{
    ImageSize, JOINTS, KeypointClip, Keypoints17, Pose3, ROOT,
    camera::{DEFAULT_HORIZONTAL_FOV_DEG, Intrinsics},
    causal::{CausalSteps, DEFAULT_HOLD_S, Presence, Step},
    fill::{self, CausalFill},
    metadata::ModelMetadata,
    normalise::{self, ImageTransform, Normalisation},
    resample,
    trajectory::{self, PathOptions, Sight},
    window::{self, Merger, Window},
    world::{self, Scale},
};

use crate::{AnyEngine, EngineOptions, Error, LiftedClip, StepEngine, StepState};

/// A pause in the clip longer than this starts anew: no motion is made up across it, and no window looks over it.
pub const LONGEST_PAUSE_S: f64 = 1.0;
/// A clip whose every interval is within this share of the model's is taken as it is; resampling would only blur it.
pub(crate) const RATE_TOLERANCE: f64 = 0.1;
/// Most frames in one call of the engine, over all its windows: bounds the memory of a call.
const FRAMES_PER_CALL_CPU: usize = 512;
const FRAMES_PER_CALL_GPU: usize = 8192;
/// Longest sequence in one call of a live model's sequence graph, which holds all of it in memory: four and a half minutes at 30 frames
/// a second.
const LONGEST_SEQUENCE: usize = 8192;

/// Values of one frame that windows are merged in: 17 joints (x, y, z), then the box (centre x, y, half size), all in pixels.
pub(crate) const POSE_VALUES: usize = JOINTS * 3;
const MERGED_VALUES: usize = POSE_VALUES + 3;

/// What to take for a file that says nothing about itself (one that this project did not write).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Assumptions {
    /// How pixels become its input; `None` = [`Normalisation::Frame`], as the reference checkpoints want it.
    pub normalisation: Option<Normalisation>,
    /// Frames in a window; `None` = the number that the graph fixes.
    pub frames: Option<usize>,
    /// Frames a second that it was trained at; `None` = any, so clips are not resampled.
    pub fps: Option<f32>,
}

/// How to lift a clip.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiftOptions {
    /// Average with the prediction for the mirrored picture: twice the work, a slightly smaller error.
    pub flip: bool,
    /// Frames that neighbouring windows share at least; `None` = a third of a window.
    pub overlap: Option<usize>,
    /// What the person's size is known from; by default nothing, so a person of 1.70 m.
    pub scale: Scale,
    /// The camera; `None` = 60 degrees horizontally, the principal point in the middle.
    pub intrinsics: Option<Intrinsics>,
    /// How the person is placed in the room.
    pub path: PathOptions,
}

/// A lifter with all that surrounds it: any length, any frame rate, gaps in the keypoints, and results in millimetres.
///
/// ```no_run
/// use runtime::{EngineOptions, LiftOptions, Lifter};
///
/// let clip = formats::keypoints::read("walk.json".as_ref())?;
/// let lifter = Lifter::open("clip-xs.onnx", &EngineOptions::default())?;
/// let lifted = lifter.lift(&clip, &LiftOptions { flip: true, ..Default::default() })?;
/// for (time_s, pose_mm) in lifted.times_s.iter().zip(&lifted.camera_mm) {
///     let [x, y, z] = pose_mm[pose::ROOT];
///     println!("{time_s:.3} s: the pelvis is {z:.0} mm away, {x:.0} mm to the right, {y:.0} mm below the camera");
/// }
/// lifted.write_json("walk.3d.json".as_ref())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Lifter {
    engine: AnyEngine,
    name: String,
    frames: usize,
    normalisation: Normalisation,
    fps: Option<f64>,
    /// Of a causal model.
    look_ahead: Option<usize>,
}

/// Frames without a pause between them, at the rate of the model.
struct Segment {
    /// Which frames of the clip.
    frames: Range<usize>,
    times_s: Vec<f64>,
    keypoints: Vec<Keypoints17>,
}

impl Lifter {
    /// Opens a file that describes itself, or one by a reference checkpoint's conventions, see [`Assumptions`].
    ///
    /// # Errors
    /// As [`AnyEngine::open`] and [`Lifter::new`].
    pub fn open(path: impl AsRef<Path>, options: &EngineOptions) -> Result<Self, Error> {
        Self::new(AnyEngine::open(path, options)?, &Assumptions::default())
    }

    /// A lifter around an open engine.
    ///
    /// # Errors
    /// A file without metadata and with any number of frames, when `assumptions` has no number either; assumptions about a
    /// file that speaks for itself.
    pub fn new(engine: impl Into<AnyEngine>, assumptions: &Assumptions) -> Result<Self, Error> {
        let engine = engine.into();
        if let Some(metadata) = engine.metadata() {
            if *assumptions != Assumptions::default() {
                return Err(Error::Metadata {
                    path: engine.path().to_owned(),
                    reason: "the file says its normalisation, frames and rate itself: leave those settings out".into(),
                });
            }
            let ModelMetadata { name, frames, normalisation, fps, causal, look_ahead, .. } = metadata.clone();
            if matches!(engine, AnyEngine::Step(_)) != metadata.is_step() {
                return Err(Error::Metadata {
                    path: engine.path().to_owned(),
                    reason: "it says a step of a live model where the graph is none, or the other way round".into(),
                });
            }
            let look_ahead = causal.then_some(look_ahead);
            return Ok(Self { engine, name, frames, normalisation, fps: Some(f64::from(fps)), look_ahead });
        }
        let AnyEngine::Whole(engine) = engine else {
            return Err(Error::Metadata {
                path: engine.path().to_owned(),
                reason: "a step graph of a live model has metadata, which say its rate and normalisation, and this one has none".into(),
            });
        };
        let unstated = |what: &str| Error::Unstated { path: engine.path().to_owned(), what: what.to_owned() };
        let frames = match (engine.frames(), assumptions.frames) {
            (Some(fixed), Some(assumed)) if fixed != assumed => {
                return Err(Error::Shape { expected: format!("(batch, {fixed}, 17, ..)"), found: format!("{assumed} frames") });
            }
            (None, None) => return Err(unstated("how many frames its windows have: give that number (--frames)")),
            (fixed, assumed) => fixed.or(assumed).unwrap_or_default(),
        };
        if !(1..=ModelMetadata::MAX_FRAMES).contains(&frames) {
            return Err(unstated("a usable number of frames: expected 1 to 65536 in a window"));
        }
        let fps = assumptions.fps.map(f64::from);
        if fps.is_some_and(|fps| !(fps > 0.0 && fps <= 1000.0)) {
            return Err(unstated("a usable rate: expected frames a second above 0, up to 1000"));
        }
        let name = engine.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let normalisation = assumptions.normalisation.unwrap_or(Normalisation::Frame);
        tracing::info!("{name} has no metadata: windows of {frames} frames, normalisation {normalisation}");
        Ok(Self { engine: engine.into(), name, frames, normalisation, fps, look_ahead: None })
    }

    /// The engine.
    pub fn engine(&self) -> &AnyEngine {
        &self.engine
    }

    /// What the file calls itself, or its own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether no frame's pose depends on later frames than the look-ahead says: a live model.
    pub fn is_causal(&self) -> bool {
        self.look_ahead.is_some()
    }

    /// Frames that a live model waits for after a frame; 0 of a model of windows.
    pub fn look_ahead(&self) -> usize {
        self.look_ahead.unwrap_or_default()
    }

    /// Frames in a window.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// How pixels become the model's input.
    pub fn normalisation(&self) -> Normalisation {
        self.normalisation
    }

    /// The rate that clips are resampled to; `None` where they are not.
    pub fn fps(&self) -> Option<f64> {
        self.fps
    }

    /// Lifts a clip. The result has one pose for each frame of the clip, at the clip's own times.
    ///
    /// # Errors
    /// A clip that [`KeypointClip::validate`] refuses or that has no keypoint at all; a camera or size outside its range; a
    /// failure of the engine.
    pub fn lift(&self, clip: &KeypointClip, options: &LiftOptions) -> Result<LiftedClip, Error> {
        self.lift_with_progress(clip, options, &mut |_, _| ())
    }

    /// [`Self::lift`], telling how many windows of how many are done.
    ///
    /// # Errors
    /// As [`Self::lift`].
    pub fn lift_with_progress(
        &self,
        clip: &KeypointClip,
        options: &LiftOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<LiftedClip, Error> {
        clip.validate().map_err(clip_error)?;
        let intrinsics = match options.intrinsics {
            Some(intrinsics) => intrinsics,
            None => Intrinsics::from_horizontal_fov_deg(clip.image, DEFAULT_HORIZONTAL_FOV_DEG).map_err(clip_error)?,
        };
        if self.is_causal() {
            let (pose25, transforms) = self.lift_causally(clip, options, progress)?;
            return self.place(clip, pose25, transforms, intrinsics, options);
        }
        let segments = self.segments(clip)?;
        let plans = segments
            .iter()
            .map(|segment| window::plan(segment.keypoints.len(), self.frames, options.overlap.unwrap_or(self.frames / 3)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(clip_error)?;
        let merged = self.predict(clip, &segments, &plans, options.flip, progress)?;

        let (mut pose25, mut transforms) = (Vec::with_capacity(clip.frames.len()), Vec::with_capacity(clip.frames.len()));
        for (segment, merged) in segments.iter().zip(&merged) {
            let at_s = &clip.times_s[segment.frames.clone()];
            for values in resample::path(merged.as_chunks::<MERGED_VALUES>().0, &segment.times_s, at_s).map_err(clip_error)? {
                let (pose, transform) = split_merged(&values);
                pose25.push(pose);
                transforms.push(transform);
            }
        }
        self.place(clip, pose25, transforms, intrinsics, options)
    }

    /// What the network is given for a clip, each with its shape (1, frames, 17, channels): windows, or each person's sequence of a live
    /// model. For whoever looks into the network, such as a calibration.
    ///
    /// # Errors
    /// As [`Self::lift`].
    pub fn network_inputs(&self, clip: &KeypointClip) -> Result<Vec<([usize; 4], Vec<f32>)>, Error> {
        clip.validate().map_err(clip_error)?;
        let inputs = if self.is_causal() {
            self.people(clip)?.iter().map(|person| self.causal_input(person)).collect::<Result<Vec<_>, _>>()?
        } else {
            let mut inputs = Vec::new();
            for segment in self.segments(clip)? {
                let plan = window::plan(segment.keypoints.len(), self.frames, self.frames / 3).map_err(clip_error)?;
                for window in &plan {
                    inputs.push(self.window_input(&segment, window, clip.image)?.0);
                }
            }
            inputs
        };
        let channels = self.engine.channels();
        Ok(inputs.into_iter().map(|input| ([1, input.len() / (JOINTS * channels), JOINTS, channels], input)).collect())
    }

    /// The network's input for a window (T, 17, C), and what its units are.
    fn window_input(&self, segment: &Segment, window: &Window, image: ImageSize) -> Result<(Vec<f32>, ImageTransform), Error> {
        let keypoints = window.gather(&segment.keypoints);
        let transform = window_transform(self.normalisation, &keypoints, image)?;
        let input = normalise::network_input(&keypoints, &transform, self.engine.channels()).map_err(clip_error)?;
        Ok((input, transform))
    }

    /// The clip without gaps in its joints, cut at pauses, at the rate of the model.
    fn segments(&self, clip: &KeypointClip) -> Result<Vec<Segment>, Error> {
        let mut keypoints = clip.frames.clone();
        fill::fill_missing(&mut keypoints, &clip.times_s).map_err(clip_error)?;
        let segment = |frames: Range<usize>| {
            let (keypoints, times_s) = (&keypoints[frames.clone()], &clip.times_s[frames.clone()]);
            let at_s = self.model_times(times_s)?;
            let keypoints = match &at_s {
                Some(at_s) => resample::keypoints(keypoints, times_s, at_s).map_err(clip_error)?,
                None => keypoints.to_vec(),
            };
            Ok(Segment { frames, times_s: at_s.unwrap_or_else(|| times_s.to_vec()), keypoints })
        };
        uninterrupted(&clip.times_s).into_iter().map(segment).collect()
    }

    /// Times at the model's rate, first and last as given; `None` where the given ones will do.
    fn model_times(&self, times_s: &[f64]) -> Result<Option<Vec<f64>>, Error> {
        let (Some(fps), [first, .., last]) = (self.fps, times_s) else { return Ok(None) };
        let at_rate = |pair: &[f64]| ((pair[1] - pair[0]) * fps - 1.0).abs() <= RATE_TOLERANCE;
        if times_s.windows(2).all(at_rate) {
            return Ok(None);
        }
        let mut at_s = resample::uniform_times(times_s, fps).map_err(clip_error)?;
        // Stretched by less than one frame over the whole, so that both ends are frames of the clip. `uniform_times` gives
        // at least two, as `last` lies after `first`; should rounding leave one, the clip is taken as it is.
        let steps = at_s.len() - 1;
        if steps == 0 {
            return Ok(None);
        }
        for (i, at_s) in at_s.iter_mut().enumerate() {
            *at_s = if i == steps { *last } else { first + (last - first) * i as f64 / steps as f64 };
        }
        Ok(Some(at_s))
    }

    /// Runs all windows of all segments and merges them: for each segment (frames, [`MERGED_VALUES`]).
    fn predict(
        &self,
        clip: &KeypointClip,
        segments: &[Segment],
        plans: &[Vec<Window>],
        flip: bool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Vec<f32>>, Error> {
        let mut mergers: Vec<Merger> = segments.iter().map(|segment| Merger::new(segment.keypoints.len(), MERGED_VALUES)).collect();
        let jobs: Vec<(usize, &Window)> =
            plans.iter().enumerate().flat_map(|(s, plan)| plan.iter().map(move |window| (s, window))).collect();

        for (done, chunk) in jobs.chunks(self.windows_per_call(flip)).enumerate() {
            let mut inputs = Vec::with_capacity(chunk.len());
            let mut transforms = Vec::with_capacity(chunk.len());
            for &(s, window) in chunk {
                let (input, transform) = self.window_input(&segments[s], window, clip.image)?;
                inputs.push(input);
                transforms.push(transform);
            }
            let outputs = self.run_windows(&inputs, flip)?;
            for ((&(s, window), transform), output) in chunk.iter().zip(&transforms).zip(&outputs) {
                mergers[s].add(window, &in_pixels(output, transform)).map_err(clip_error)?;
            }
            progress((done * self.windows_per_call(flip) + chunk.len()).min(jobs.len()), jobs.len());
        }
        mergers.into_iter().map(|merger| merger.finish().map_err(clip_error)).collect()
    }

    /// Windows in one call of the engine.
    pub(crate) fn windows_per_call(&self, flip: bool) -> usize {
        let inputs_per_window = if flip { 2 } else { 1 };
        let fixed = if let AnyEngine::Whole(engine) = &self.engine { engine.batch() } else { Some(1) };
        let frames = if self.engine.device().is_gpu() { FRAMES_PER_CALL_GPU } else { FRAMES_PER_CALL_CPU };
        let inputs = fixed.unwrap_or(frames / self.frames);
        (inputs / inputs_per_window).max(1)
    }

    /// The model's answer (T, 17, 3) to each window (T, 17, C), in normalised units.
    pub(crate) fn run_windows(&self, inputs: &[Vec<f32>], flip: bool) -> Result<Vec<Vec<f32>>, Error> {
        let channels = self.engine.channels();
        if !flip {
            return self.run_batch(inputs);
        }
        let mirrored = inputs.iter().map(|input| normalise::flip_input(input, channels));
        let both: Vec<Vec<f32>> = inputs.iter().cloned().chain(mirrored).collect();
        let mut outputs = self.run_batch(&both)?;
        let of_mirrored = outputs.split_off(inputs.len());
        for (output, of_mirrored) in outputs.iter_mut().zip(&of_mirrored) {
            for (value, twin) in output.iter_mut().zip(normalise::flip_output(of_mirrored)) {
                *value = (*value + twin) / 2.0;
            }
        }
        Ok(outputs)
    }

    /// One call of the engine, or several where the file fixes a smaller batch; a last one that is not full is padded.
    fn run_batch(&self, inputs: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, Error> {
        let engine = match &self.engine {
            AnyEngine::Whole(engine) => engine,
            AnyEngine::Step(engine) => return step_through(engine, inputs),
        };
        let values_per_frame = JOINTS * engine.channels();
        let frames = inputs.first().map_or(0, Vec::len) / values_per_frame;
        let batch = engine.batch().unwrap_or(inputs.len());
        let mut outputs = Vec::with_capacity(inputs.len());
        for inputs in inputs.chunks(batch.max(1)) {
            let padding = std::iter::repeat_n(&inputs[0], batch - inputs.len());
            let values: Vec<f32> = inputs.iter().chain(padding).flatten().copied().collect();
            let answer = engine.run(&values, [batch, frames, JOINTS, engine.channels()])?;
            outputs.extend(answer.chunks_exact(frames * POSE_VALUES).take(inputs.len()).map(<[f32]>::to_vec));
        }
        Ok(outputs)
    }

    /// 2.5D and box of each frame of a clip, by a live model: what a stream of the same frames says.
    fn lift_causally(
        &self,
        clip: &KeypointClip,
        options: &LiftOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(Vec<Pose3>, Vec<ImageTransform>), Error> {
        let people = self.people(clip)?;
        let mut values: Vec<[f32; MERGED_VALUES]> = Vec::with_capacity(clip.frames.len());
        for (done, person) in people.iter().enumerate() {
            let said = self.predict_causally(person, options.flip)?;
            let step_times_s: Vec<f64> = person.steps.iter().map(|step| step.time_s).collect();
            let at_s = &clip.times_s[person.frames.clone()];
            let own = resample::path(said.as_chunks::<MERGED_VALUES>().0, &step_times_s, at_s).map_err(clip_error)?;
            // between two people, the one before is held; before all, the first
            let held = values.last().or(own.first()).copied().unwrap_or([0.0; MERGED_VALUES]);
            values.resize(person.frames.start, held);
            values.extend(own);
            progress(done + 1, people.len());
        }
        let held = values.last().copied().unwrap_or([0.0; MERGED_VALUES]);
        values.resize(clip.frames.len(), held);
        Ok(values.iter().map(split_merged).unzip())
    }

    /// Who is in the clip, one after the other, as a stream has it.
    fn people(&self, clip: &KeypointClip) -> Result<Vec<Person>, Error> {
        let Some(fps) = self.fps else {
            return Err(Error::Unstated { path: self.engine.path().to_owned(), what: "at how many frames a second it was trained".into() });
        };
        let (mut presence, mut fill) = (Presence::new(DEFAULT_HOLD_S), CausalFill::default());
        let mut causal = CausalSteps::new(self.normalisation, clip.image, fps);
        let mut people: Vec<Person> = Vec::new();
        let mut is_new = true;
        for (t, (frame, &time_s)) in clip.frames.iter().zip(&clip.times_s).enumerate() {
            if presence.push(time_s, frame.iter().any(|keypoint| !keypoint.is_missing())) {
                end_person(&mut causal, &mut people);
                fill.reset();
                is_new = true;
            }
            let filled = if presence.is_anybody() { fill.push(frame) } else { None };
            let Some(filled) = filled else { continue };
            if std::mem::take(&mut is_new) {
                people.push(Person { frames: t..t, steps: Vec::new() });
            }
            let Some(person) = people.last_mut() else { continue };
            person.frames.end = t + 1;
            causal.push(time_s, &filled, |step| person.steps.push(step)).map_err(clip_error)?;
        }
        end_person(&mut causal, &mut people);
        match people.is_empty() {
            true => Err(clip_error(pose::Error::NoConfidentKeypoint { frames: clip.frames.len() })),
            false => Ok(people),
        }
    }

    /// The network's input for a person (T, 17, C): the steps, and the last one again for the look-ahead.
    fn causal_input(&self, person: &Person) -> Result<Vec<f32>, Error> {
        let (steps, look_ahead, channels) = (&person.steps, self.look_ahead(), self.engine.channels());
        let frames = steps.len() + look_ahead;
        if matches!(self.engine, AnyEngine::Whole(_)) && frames > LONGEST_SEQUENCE {
            return Err(Error::Clip(format!(
                "expected at most {LONGEST_SEQUENCE} frames of one person for the sequence graph of a live model, found {frames}: use its step graph, \
                 as `export onnx --step` writes it, which takes any number"
            )));
        }
        let mut input = Vec::with_capacity((steps.len() + look_ahead) * JOINTS * channels);
        let last = steps.last().into_iter().flat_map(|last| std::iter::repeat_n(last, look_ahead));
        for step in steps.iter().chain(last) {
            input.extend(normalise::network_input(&[step.keypoints], &step.transform, channels).map_err(clip_error)?);
        }
        Ok(input)
    }

    /// Poses at the person's steps: (T, [`MERGED_VALUES`]), each in pixels by its own box.
    fn predict_causally(&self, person: &Person, flip: bool) -> Result<Vec<f32>, Error> {
        let (steps, look_ahead) = (&person.steps, self.look_ahead());
        let input = self.causal_input(person)?;
        let output = self.run_windows(&[input], flip)?.swap_remove(0);
        let poses = output[look_ahead * POSE_VALUES..].chunks_exact(POSE_VALUES);
        Ok(poses.zip(steps).flat_map(|(pose, step)| in_pixels(pose, &step.transform)).collect())
    }

    /// From 2.5D to millimetres.
    fn place(
        &self,
        clip: &KeypointClip,
        pose25: Vec<Pose3>,
        transforms: Vec<ImageTransform>,
        intrinsics: Intrinsics,
        options: &LiftOptions,
    ) -> Result<LiftedClip, Error> {
        let times_s = &clip.times_s;
        let root_px = world::root_path_px(&pose25, &transforms, &clip.frames, times_s).map_err(clip_error)?;
        let sight = Sight {
            pose25: &pose25,
            transforms: &transforms,
            root_px: &root_px,
            keypoints: &clip.frames,
            times_s,
            intrinsics: &intrinsics,
        };
        let (placed, world_from_camera) = trajectory::place_person(&sight, &options.scale, &options.path).map_err(clip_error)?;
        Ok(LiftedClip {
            model: self.name.clone(),
            image: clip.image,
            times_s: times_s.clone(),
            confidence: clip.frames.iter().map(|frame| frame.map(|keypoint| keypoint.confidence)).collect(),
            pose25,
            transforms,
            root_px,
            camera_mm: placed.camera_mm,
            contact: placed.contact,
            root_depth_mm: placed.root_depth_mm,
            intrinsics,
            world_from_camera,
            scale_source: placed.scale_source,
            height_m: placed.height_m,
            bone_lengths_mm: placed.bone_lengths_mm,
        })
    }
}

/// One person of a clip, as a live model sees them.
struct Person {
    /// Which frames of the clip, held ones included.
    frames: Range<usize>,
    steps: Vec<Step>,
}

/// The last frame is seen by the model too.
fn end_person(causal: &mut CausalSteps, people: &mut [Person]) {
    causal.finish(|step| {
        if let Some(person) = people.last_mut() {
            person.steps.push(step);
        }
    });
}

/// Sequences (T, 17, C) of one length, frame by frame from empty states.
fn step_through(engine: &StepEngine, inputs: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, Error> {
    let size = JOINTS * engine.channels();
    let mut states = vec![StepState::default(); inputs.len()];
    let mut outputs = vec![Vec::new(); inputs.len()];
    for t in 0..inputs.first().map_or(0, Vec::len) / size {
        let frame: Vec<f32> = inputs.iter().flat_map(|input| &input[t * size..][..size]).copied().collect();
        let mut states: Vec<&mut StepState> = states.iter_mut().collect();
        let poses = engine.advance(&frame, &mut states)?;
        outputs.iter_mut().zip(poses.chunks_exact(POSE_VALUES)).for_each(|(output, pose)| output.extend_from_slice(pose));
    }
    Ok(outputs)
}

/// Runs of frames with no pause longer than [`LONGEST_PAUSE_S`] between neighbours.
fn uninterrupted(times_s: &[f64]) -> Vec<Range<usize>> {
    let pauses = (1..times_s.len()).filter(|&t| times_s[t] - times_s[t - 1] > LONGEST_PAUSE_S);
    let starts: Vec<usize> = std::iter::once(0).chain(pauses).collect();
    let ends = starts.iter().skip(1).copied().chain([times_s.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}

/// The box of one window. Where the person is missing in all of it, positions were filled in: then they make the box.
pub(crate) fn window_transform(normalisation: Normalisation, keypoints: &[Keypoints17], image: ImageSize) -> Result<ImageTransform, Error> {
    let transform = normalisation.transform(keypoints, image);
    transform
        .or_else(|_| {
            let as_seen = |frame: &Keypoints17| frame.map(|k| pose::Keypoint { confidence: 1.0, ..k });
            normalisation.transform(&keypoints.iter().map(as_seen).collect::<Vec<_>>(), image)
        })
        .map_err(clip_error)
}

/// A window's answer (T, 17, 3), root set to zero, and its box, in pixels: (T, [`MERGED_VALUES`]). Each window has its own
/// box, so only pixels can be merged.
pub(crate) fn in_pixels(output: &[f32], transform: &ImageTransform) -> Vec<f32> {
    let half_size_px = transform.half_size_px;
    let mut merged = Vec::with_capacity(output.len() / POSE_VALUES * MERGED_VALUES);
    for pose in output.chunks_exact(POSE_VALUES) {
        for (joint, xyz) in pose.chunks_exact(3).enumerate() {
            merged.extend(xyz.iter().map(|value| if joint == ROOT { 0.0 } else { value * half_size_px }));
        }
        merged.extend([transform.centre_px[0], transform.centre_px[1], half_size_px]);
    }
    merged
}

/// 2.5D in the units of its frame's transform.
fn split_merged(values: &[f32; MERGED_VALUES]) -> (Pose3, ImageTransform) {
    let transform = ImageTransform { centre_px: [values[POSE_VALUES], values[POSE_VALUES + 1]], half_size_px: values[POSE_VALUES + 2] };
    let pose = std::array::from_fn(|j| std::array::from_fn(|k| values[3 * j + k] / transform.half_size_px));
    (pose, transform)
}

fn clip_error(error: pose::Error) -> Error {
    Error::Clip(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_cuts_the_clip() {
        let ends = |times_s: &[f64]| uninterrupted(times_s).iter().map(|run| (run.start, run.end)).collect::<Vec<_>>();
        assert_eq!(ends(&[0.0]), [(0, 1)]);
        assert_eq!(ends(&[0.0, 0.5, 1.0]), [(0, 3)]);
        assert_eq!(ends(&[0.0, 0.5, 1.6, 1.7, 9.0]), [(0, 2), (2, 4), (4, 5)]);
    }
}
