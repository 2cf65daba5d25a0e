//! Engines: an open ONNX file, raw tensors in and out.
//!
//! [`Engine`] runs a lifter of whole windows or sequences, [`StepEngine`] a live lifter frame by frame. Both stand on a
//! [`Backend`]: ONNX Runtime or tract.

mod any;
mod graph;
mod lifter;
mod options;
mod ort;
mod step;
#[cfg(feature = "tract")]
mod tract;

pub use any::AnyEngine;
pub use graph::Port;
pub use lifter::Engine;
pub use options::{Backend, Device, EngineOptions};
pub use step::StepEngine;
