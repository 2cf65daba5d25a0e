//! The architecture of the lifters, written once over one trait.
//!
//! `trainer` implements [`Tensor`] eagerly on libtorch, `export` by recording ONNX nodes: what is trained is what is
//! exported. Layer and weight names follow the PyTorch references, so their files load unchanged.

mod checkpoint;
mod config;
pub mod layers;
pub mod live;
mod mamba_gcn;
mod model;
mod motionagformer;
mod parameters;
pub mod skeleton;
mod tensor;
mod weights;

pub use checkpoint::{Checkpoint, CheckpointError, Origin, Overrides};
pub use config::{Activation, ConfigError, LifterConfig, MambaForm, MambaGcnConfig};
pub use live::{LiveConfig, LiveLifter, LiveState};
pub use mamba_gcn::MambaGcn;
pub use model::{Lifter, ModelConfig};
pub use motionagformer::MotionAgFormer;
pub use parameters::parameter_count;
pub use tensor::{Axis, Context, SelectiveScan, Tensor};
pub use weights::{Init, WeightError, WeightSource, Weights};
