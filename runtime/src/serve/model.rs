//! What the server runs.

use pose::ImageSize;

use crate::{AnyEngine, Error, Lifter, Port, StreamCore, StreamOptions, StreamPose, run_due};

/// What a run gives to each stream, by index: poses, oldest first, or what went wrong.
pub type Give<'a> = &'a mut dyn FnMut(usize, Result<Vec<StreamPose>, Error>);

/// A model behind the server: a [`Lifter`], or in tests something that fails when it is told to.
///
/// Only the engine's thread calls [`run_due`](Self::run_due) and [`infer`](Self::infer); the rest may be called from any.
pub trait Model: Send + Sync {
    /// What it is.
    fn card(&self) -> ModelCard;

    /// See [`Lifter::stream_core`].
    ///
    /// # Errors
    /// As there.
    fn stream_core(&self, image: ImageSize, options: StreamOptions) -> Result<StreamCore, Error>;

    /// See [`run_due`].
    fn run_due(&self, streams: &mut [&mut StreamCore], give: Give<'_>) -> usize;

    /// Raw windows (B, T, 17, C) to poses (B, T, 17, 3), both row-major.
    ///
    /// # Errors
    /// A shape that the model does not take, numbers that are not finite, a failure of the engine.
    fn infer(&self, input: &[f32], shape: [usize; 4]) -> Result<Vec<f32>, Error>;
}

/// What clients are told of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCard {
    /// Its name in paths and requests.
    pub name: String,
    /// Frames a second of its streams.
    pub fps: f64,
    /// Windows in a call, where the file fixes them.
    pub batch: Option<usize>,
    /// The input (B, T, 17, C).
    pub input: Port,
    /// The output (B, T, 17, 3).
    pub output: Port,
    /// Whether it takes raw windows: a step graph does not, its states are the streams'.
    pub infers: bool,
}

impl Model for Lifter {
    fn card(&self) -> ModelCard {
        let engine = self.engine();
        ModelCard {
            name: self.name().to_owned(),
            fps: self.fps().unwrap_or(30.0), // without a rate `stream_core` refuses every stream, before this is used
            batch: if let AnyEngine::Whole(engine) = engine { engine.batch() } else { None },
            // states of a step graph are the server's own, never a client's
            input: engine.inputs()[0].clone(),
            output: engine.outputs()[0].clone(),
            infers: matches!(engine, AnyEngine::Whole(_)),
        }
    }

    fn stream_core(&self, image: ImageSize, options: StreamOptions) -> Result<StreamCore, Error> {
        self.stream_core(image, options)
    }

    fn run_due(&self, streams: &mut [&mut StreamCore], give: Give<'_>) -> usize {
        run_due(self, streams, give)
    }

    fn infer(&self, input: &[f32], shape: [usize; 4]) -> Result<Vec<f32>, Error> {
        match self.engine() {
            AnyEngine::Whole(engine) => engine.run(input, shape),
            AnyEngine::Step(_) => Err(Error::Stream(
                "expected frames of a stream (/v1/stream): the server runs a live model step by step, and keeps its states; serve the sequence graph \
                 to infer whole sequences"
                    .into(),
            )),
        }
    }
}
