//! Runs lifters: engines, clips, live streams.
//!
//! * [`Lifter`]: the keypoints of a clip in, 3D out, in millimetres. What most callers want.
//! * [`LiftStream`]: the same live, frame by frame; [`StreamCore`] and [`run_due`]: many streams on one engine. How: [`stream`].
//! * [`Engine`]: one ONNX file, raw tensors in and out; [`StepEngine`]: the same for one frame of many streams. On ONNX Runtime or tract
//!   ([`Backend`]).
//! * `serve` (feature `serve`): all of it over the network.
//! * [`page`]: what a browser shows of it.
//! * [`init_onnxruntime`]: finds and loads the ONNX Runtime library; [`environment`] lends it to callers with other models.
//!
//! A model is known only by its ONNX file: what it expects stands in the file's metadata
//! ([`pose::metadata::ModelMetadata`]).

mod clip;
mod engine;
mod error;
mod lifter;
mod onnxruntime;
pub mod page;
#[cfg(feature = "serve")]
pub mod serve;
pub mod stream;
mod together;
pub mod trial;

pub use clip::LiftedClip;
pub use engine::{AnyEngine, Backend, Binding, Device, Engine, EngineOptions, Port, StepEngine, StepState};
pub use error::Error;
pub use lifter::{Assumptions, LONGEST_PAUSE_S, LiftOptions, Lifter};
pub use onnxruntime::{LIBRARY_VARIABLE, environment, init_onnxruntime, loaded_library};
pub use stream::{
    DEFAULT_LOOK_AHEAD, LiftStream, MAX_HOLD_S, MAX_TIME_S, MAX_WINDOWS_WAITING, OneEuroSettings, StreamCore, StreamModel, StreamOptions,
    StreamPose, StreamSettings, StreamStats, Way, run_due,
};
pub use together::{Together, place_together};
