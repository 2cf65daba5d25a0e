//! Live streams: a frame in, poses out.
//!
//! # How a stream is lifted by a model of windows
//! 1. **Holes.** A joint that is missing goes along with its neighbour ([`pose::fill::CausalFill`]). A person who is not seen, or of whom
//!    no frame comes, is held for [`StreamOptions::hold_s`]; after that the stream starts anew with whoever comes next.
//! 2. **Rate.** Each window ends at the newest frame and goes back in steps of the model's interval. Frames within a tenth of a step
//!    are taken as they are, others are mixed from their neighbours; so no frame ever waits for the next one to be resampled, and a
//!    camera at the model's rate is not resampled at all. Before the stream's first frame, that one is repeated.
//! 3. **Box.** With `person_box` the window's box is that of a clip's window, but drifts within a stated rate
//!    ([`pose::normalise::BoxFollower`]).
//! 4. **Look-ahead and hop.** A frame is answered by the first window that lies [`StreamOptions::look_ahead`] frames past it; windows
//!    are made every [`StreamOptions::hop`] frames. Each pose says its delay.
//! 5. **Merging.** Neighbouring windows say different things of the same time. The stream goes on from its last pose: it adds the
//!    newest window's motion to it, and moves towards that window's pose with the time constant [`StreamOptions::blend_s`].
//! 6. **Placement.** [`pose::live`]: depth, size and floor from what has been seen so far. Then the filters, where asked for.
//!
//! # How a stream is lifted by a live model
//! 1. Holes are filled as above.
//! 2. The model runs once for each frame, at about its rate ([`pose::causal::CausalGrid`]): frames at 24 to 40 a second are taken as they
//!    are for a model of 30; of faster cameras some frames lie between two steps and get their pose, mixed, with the next one.
//! 3. Each frame has the box that was known by then ([`pose::causal::CausalBox`]).
//! 4. What the model remembers is the stream's; it starts from nothing with each person. The look-ahead is the model's own.
//! 5. Placement and filters as above. [`Lifter::lift`] of the same model on the whole clip says the same.
//!
//! Nothing looks at a later frame than the one that a pose's `delay_s` names. Every queue has a limit: the number of frames that a window
//! reaches, and [`MAX_WINDOWS_WAITING`] windows.

mod core;
mod history;
mod output;
mod settings;
mod steps;
mod windows;

use std::sync::Arc;

use pose::{ImageSize, Keypoints17};

pub use self::core::{
    DEFAULT_LOOK_AHEAD, MAX_HOLD_S, MAX_TIME_S, MAX_WINDOWS_WAITING, StreamCore, StreamModel, StreamOptions, StreamPose, StreamStats, Way,
};
pub use self::settings::{OneEuroSettings, StreamSettings};
use crate::{AnyEngine, Binding, Error, Lifter, StepEngine, StepState, lifter::POSE_VALUES};

/// One person's keypoints, live: each frame that is pushed comes back as a pose, at once or [`look_ahead`](StreamOptions::look_ahead)
/// frames later. (Frames in which nobody is seen, longer than is held, do not; nor do those that come at more than eight times the model's
/// rate. [`StreamCore::stats`] counts them.)
///
/// ```no_run
/// use std::sync::Arc;
/// use pose::ImageSize;
/// use runtime::{EngineOptions, LiftStream, Lifter, StreamOptions};
///
/// # fn next_frame() -> Option<(f64, Option<pose::Keypoints17>)> { None }
/// let lifter = Arc::new(Lifter::open("clip-xs.onnx", &EngineOptions::default())?);
/// let image = ImageSize { width_px: 1280, height_px: 720 };
/// let mut stream = LiftStream::new(lifter, image, StreamOptions { look_ahead: Some(2), ..Default::default() })?;
/// while let Some((time_s, keypoints)) = next_frame() {
///     for pose in stream.push(time_s, keypoints.as_ref())? {
///         let [x, y, z] = pose.world_mm[pose::ROOT];
///         println!("{:.3} s, {:.0} ms late: the pelvis is at {x:.0}, {y:.0}, {z:.0} mm", pose.time_s, 1e3 * pose.delay_s);
///     }
/// }
/// # Ok::<(), runtime::Error>(())
/// ```
///
/// [`push`](Self::push) runs the model in the caller's thread. Streams that share a [`Lifter`] between threads wait for each other while it
/// runs; whoever has many streams feeds their [`StreamCore`]s, which never wait, and lets [`run_due`] run them as one batch.
#[derive(Debug)]
pub struct LiftStream {
    lifter: Arc<Lifter>,
    core: StreamCore,
}

impl LiftStream {
    /// A stream that has seen nothing; `image` is the size of the pictures that its keypoints come from.
    ///
    /// # Errors
    /// As [`StreamCore::new`]; a model that does not say its rate.
    pub fn new(lifter: Arc<Lifter>, image: ImageSize, options: StreamOptions) -> Result<Self, Error> {
        let core = lifter.stream_core(image, options)?;
        Ok(Self { lifter, core })
    }

    /// Takes a frame and gives the poses that it completes, oldest first: none, one, or several after a hop or a pause.
    /// See [`StreamCore::push`].
    ///
    /// # Errors
    /// A frame that is refused (it changes nothing), or a failure of the model (its frames are dropped and counted). The stream goes
    /// on either way.
    pub fn push(&mut self, time_s: f64, keypoints: Option<&Keypoints17>) -> Result<Vec<StreamPose>, Error> {
        self.core.push(time_s, keypoints)?;
        self.run()
    }

    /// The end: poses of the frames that still waited for their look-ahead. Another frame may follow, of another person.
    ///
    /// # Errors
    /// A failure of the model.
    pub fn finish(&mut self) -> Result<Vec<StreamPose>, Error> {
        self.core.finish();
        self.run()
    }

    /// [`Self::finish`], and the next frame may have any time.
    ///
    /// # Errors
    /// A failure of the model.
    pub fn reset(&mut self) -> Result<Vec<StreamPose>, Error> {
        self.core.reset();
        self.run()
    }

    /// The stream's state.
    pub fn core(&self) -> &StreamCore {
        &self.core
    }

    fn run(&mut self) -> Result<Vec<StreamPose>, Error> {
        let (mut poses, mut failure) = (Vec::new(), None);
        run_due(&self.lifter, &mut [&mut self.core], &mut |_, answer| match answer {
            Ok(new) => poses.extend(new),
            Err(error) => failure = Some(error),
        });
        failure.map_or(Ok(poses), Err)
    }
}

impl Lifter {
    /// The state of a stream that this lifter is to lift.
    ///
    /// # Errors
    /// As [`StreamCore::new`]; a model that does not say its rate.
    pub fn stream_core(&self, image: ImageSize, options: StreamOptions) -> Result<StreamCore, Error> {
        let unstated = |what: &str| Err(Error::Unstated { path: self.engine().path().to_owned(), what: what.to_owned() });
        let Some(fps) = self.fps() else {
            return unstated("at how many frames a second it was trained, which a stream must know: give that rate (--fps)");
        };
        let way = match self.engine() {
            AnyEngine::Whole(_) if self.is_causal() => {
                return Err(Error::Stream(format!(
                    "{} holds whole sequences of a live model, which remember nothing between calls: a stream takes its step, as `export onnx \
                     --step` writes it (such as live-s.step.onnx)",
                    self.engine().path().display()
                )));
            }
            AnyEngine::Whole(_) => Way::Window { frames: self.frames() },
            AnyEngine::Step(engine) => Way::Step { look_ahead: self.look_ahead(), state_len: engine.state_len() },
        };
        let model = StreamModel { way, channels: self.engine().channels(), normalisation: self.normalisation(), fps };
        StreamCore::new(model, image, options)
    }
}

/// Runs everything that is due in these streams, many inputs in one call of the engine, and hands each answer to `give` with the
/// index of its stream: poses, oldest first, or what went wrong. Returns the number of windows or steps that ran. All streams must be of
/// this lifter ([`Lifter::stream_core`]).
///
/// When the engine fails, what was in that call is dropped and counted, and each of its streams is told.
pub fn run_due(lifter: &Lifter, streams: &mut [&mut StreamCore], give: Give<'_>) -> usize {
    match lifter.engine() {
        AnyEngine::Whole(_) => [false, true].into_iter().map(|flip| run_windows(lifter, flip, streams, give)).sum(),
        AnyEngine::Step(engine) => run_steps(engine, streams, give),
    }
}

/// What a run gives to each stream, by index.
type Give<'a> = &'a mut dyn FnMut(usize, Result<Vec<StreamPose>, Error>);

fn run_windows(lifter: &Lifter, flip: bool, streams: &mut [&mut StreamCore], give: Give<'_>) -> usize {
    let mut ran = 0;
    loop {
        let (mut indices, mut inputs) = (Vec::new(), Vec::new());
        for (index, stream) in streams.iter_mut().enumerate() {
            if inputs.len() < lifter.windows_per_call(flip)
                && stream.options().flip == flip
                && let Some(input) = stream.start_run()
            {
                indices.push(index);
                inputs.push(input);
            }
        }
        if inputs.is_empty() {
            return ran;
        }
        ran += inputs.len();
        match lifter.run_windows(&inputs, flip) {
            Ok(outputs) => indices.iter().zip(&outputs).for_each(|(&index, output)| give(index, streams[index].finish_run(output))),
            Err(error) => indices.iter().for_each(|&index| give(index, Err(abandon(&error, streams[index])))),
        }
    }
}

/// Most streams in one step of the engine. On a processor few: what a layer leaves should still be near when the next one takes it up.
const STREAMS_PER_STEP_CPU: usize = 4;
const STREAMS_PER_STEP_GPU: usize = 1024;

/// One frame of each stream that has one, again and again until none has; streams are shared out among the engine's lanes.
fn run_steps(engine: &StepEngine, streams: &mut [&mut StreamCore], give: Give<'_>) -> usize {
    let mut due: Vec<(usize, &mut StreamCore)> =
        streams.iter_mut().enumerate().filter(|(_, stream)| stream.is_due()).map(|(index, stream)| (index, &mut **stream)).collect();
    let at_once = engine.device().is_gpu() || engine.binding() == Binding::On;
    let most = engine.max_batch().min(if at_once { STREAMS_PER_STEP_GPU } else { STREAMS_PER_STEP_CPU });
    let pieces = engine.side_by_side(&mut due, most, |streams| {
        let (mut ran, mut answers) = (0, Vec::with_capacity(streams.len()));
        loop {
            let steps = step(engine, streams, &mut answers);
            if steps == 0 {
                return (ran, answers);
            }
            ran += steps;
        }
    });
    let mut ran = 0;
    for (steps, answers) in pieces {
        ran += steps;
        answers.into_iter().for_each(|(index, answer)| give(index, answer));
    }
    ran
}

/// What came out for a stream, by its index.
type Answer = (usize, Result<Vec<StreamPose>, Error>);

/// One frame of each of these streams that has one. Returns the number of them.
fn step(engine: &StepEngine, streams: &mut [(usize, &mut StreamCore)], answers: &mut Vec<Answer>) -> usize {
    let mut input = Vec::new();
    let mut stepping = Vec::with_capacity(streams.len());
    for (index, stream) in streams.iter_mut() {
        if let Some(frame) = stream.start_run() {
            input.extend(frame);
            stepping.push((*index, &mut **stream));
        }
    }
    if stepping.is_empty() {
        return 0;
    }
    let stepped = {
        let mut states: Vec<&mut StepState> = stepping.iter_mut().filter_map(|(_, stream)| stream.state_mut()).collect();
        engine.advance(&input, &mut states)
    };
    let steps = stepping.len();
    match stepped {
        Ok(poses) => {
            let streams = stepping.into_iter().zip(poses.chunks_exact(POSE_VALUES));
            answers.extend(streams.map(|((index, stream), pose)| (index, stream.finish_run(pose))));
        }
        Err(error) => answers.extend(stepping.into_iter().map(|(index, stream)| (index, Err(abandon(&error, stream))))),
    }
    steps
}

/// What is said to a stream that was in a call that failed.
fn abandon(error: &Error, stream: &mut StreamCore) -> Error {
    stream.abandon_run();
    Error::Stream(error.to_string())
}
