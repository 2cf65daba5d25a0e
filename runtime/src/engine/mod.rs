//! Engines: an open ONNX file, raw tensors in and out.
//!
//! [`Engine`] runs a lifter of whole windows or sequences, [`StepEngine`] a live lifter frame by frame. Both stand on a
//! [`Backend`]: ONNX Runtime or tract.

mod any;
mod bound;
mod graph;
mod kept;
mod lifter;
mod options;
mod ort;
mod resident;
mod slots;
mod state;
mod step;
#[cfg(feature = "tract")]
mod tract;

pub use any::AnyEngine;
pub use graph::Port;
pub use lifter::Engine;
pub use options::{Backend, Binding, Device, EngineOptions};
pub use state::StepState;
pub use step::StepEngine;
