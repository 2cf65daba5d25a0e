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
//! Nothing looks at a later frame than the one that a pose's `delay_s` names. Every queue has a limit: the number of frames that a window
//! reaches, and [`MAX_WINDOWS_WAITING`] windows.

mod core;
mod history;

use std::sync::Arc;

use pose::{ImageSize, Keypoints17};

pub use self::core::{MAX_HOLD_S, MAX_TIME_S, MAX_WINDOWS_WAITING, StreamCore, StreamOptions, StreamPose, StreamStats, WindowModel};
use crate::{Error, Lifter};

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
/// let mut stream = LiftStream::new(lifter, image, StreamOptions { look_ahead: 2, ..Default::default() })?;
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
        let Some(fps) = self.fps() else {
            let what = "at how many frames a second it was trained, which a stream must know: give that rate (--fps)".to_owned();
            return Err(Error::Unstated { path: self.engine().path().to_owned(), what });
        };
        let model = WindowModel { frames: self.frames(), channels: self.engine().channels(), normalisation: self.normalisation(), fps };
        StreamCore::new(model, image, options)
    }
}

/// Runs everything that is due in these streams, many windows in one call of the engine, and hands each answer to `give` with the
/// index of its stream: poses, oldest first, or what went wrong. Returns the number of windows that ran. All streams must be of
/// this lifter ([`Lifter::stream_core`]).
///
/// When the engine fails, the windows of that call are dropped and counted, and each of their streams is told.
pub fn run_due(lifter: &Lifter, streams: &mut [&mut StreamCore], give: &mut dyn FnMut(usize, Result<Vec<StreamPose>, Error>)) -> usize {
    let mut ran = 0;
    for flip in [false, true] {
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
                break;
            }
            ran += inputs.len();
            match lifter.run_windows(&inputs, flip) {
                Ok(outputs) => indices.iter().zip(&outputs).for_each(|(&index, output)| give(index, streams[index].finish_run(output))),
                Err(error) => {
                    let reason = error.to_string();
                    for &index in &indices {
                        streams[index].abandon_run();
                        give(index, Err(Error::Stream(reason.clone())));
                    }
                }
            }
        }
    }
    ran
}
