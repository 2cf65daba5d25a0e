//! The selective scan as an autograd function of libtorch, and the few things that training needs and tch lacks:
//! fused Adam and AdamW whose state is plain tensors, bf16 autocast, and CUDA loaded at run time.

mod autocast;
mod cuda;
mod error;
mod kernel;
mod optimiser;
mod scan_function;
mod shim;

pub use autocast::autocast_bf16;
pub use cuda::{load_cuda_backend, try_cuda_kernels};
pub use error::Error;
pub use optimiser::{AdamSettings, AdamState, WeightDecay, fused_adam_step};
pub use scan_function::{ScanTensors, selective_scan};
