//! Either kind of graph.

use std::path::Path;

use pose::metadata::ModelMetadata;

use super::{Backend, Binding, Device, Engine, EngineOptions, Port, StepEngine, graph};
use crate::Error;

/// A lifter of windows or sequences, or one step of a live lifter: whichever the file holds.
#[derive(Debug)]
pub enum AnyEngine {
    /// Windows or sequences.
    Whole(Engine),
    /// One frame, with states.
    Step(StepEngine),
}

impl AnyEngine {
    /// Opens one self-contained ONNX file.
    ///
    /// # Errors
    /// As [`Engine::open`]; as [`StepEngine::open`] for a graph of several inputs.
    pub fn open(path: impl AsRef<Path>, options: &EngineOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        let options = &options.settled()?;
        let graph = graph::open(path, options)?;
        Ok(match graph.inputs().len() {
            0 | 1 => Self::Whole(Engine::new(path, graph, options)?),
            // opened for as many threads as were asked for, where a step wants one
            _ => {
                drop(graph);
                Self::Step(StepEngine::open(path, options)?)
            }
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Whole(engine) => engine.path(),
            Self::Step(engine) => engine.path(),
        }
    }

    /// The library that runs it.
    pub fn backend(&self) -> Backend {
        match self {
            Self::Whole(engine) => engine.backend(),
            Self::Step(engine) => engine.backend(),
        }
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        match self {
            Self::Whole(engine) => engine.device(),
            Self::Step(engine) => engine.device(),
        }
    }

    /// On where tensors are bound to memory that the engine keeps, else off.
    pub fn binding(&self) -> Binding {
        match self {
            Self::Whole(engine) => engine.binding(),
            Self::Step(engine) => engine.binding(),
        }
    }

    /// What the file says about itself; `None` for files that this project did not write.
    pub fn metadata(&self) -> Option<&ModelMetadata> {
        match self {
            Self::Whole(engine) => engine.metadata(),
            Self::Step(engine) => engine.metadata(),
        }
    }

    /// Numbers per joint in the input: 2 (x, y) or 3 (x, y, confidence).
    pub fn channels(&self) -> usize {
        match self {
            Self::Whole(engine) => engine.channels(),
            Self::Step(engine) => engine.channels(),
        }
    }

    /// All inputs of the graph.
    pub fn inputs(&self) -> &[Port] {
        match self {
            Self::Whole(engine) => std::slice::from_ref(engine.input()),
            Self::Step(engine) => engine.inputs(),
        }
    }

    /// All outputs of the graph.
    pub fn outputs(&self) -> &[Port] {
        match self {
            Self::Whole(engine) => std::slice::from_ref(engine.output()),
            Self::Step(engine) => engine.outputs(),
        }
    }
}

impl From<Engine> for AnyEngine {
    fn from(engine: Engine) -> Self {
        Self::Whole(engine)
    }
}

impl From<StepEngine> for AnyEngine {
    fn from(engine: StepEngine) -> Self {
        Self::Step(engine)
    }
}
