//! Every foreign file: pickle, npy, npz, .pth, keypoint files; motion as BVH, GLB, TRC, C3D, CSV and NDJSON.
//!
//! Files come from strangers: nothing in them runs, sizes are checked before memory is taken, and what is wrong with one is
//! said in one sentence that names it. Every file is written aside and renamed, so that a full disk or a crash leaves the old
//! one as it was.

mod archive;
mod aside;
pub mod calibration;
pub mod chart;
mod error;
pub mod keypoints;
pub mod lens;
pub mod motion;
pub mod npy;
pub mod npz;
pub mod pickle;
pub mod pth;
mod state_dict;
mod strided;
mod tensor;
mod value;

pub use aside::write_aside;
pub use error::Error;
pub use half;
pub use state_dict::StateDict;
pub use tensor::{DType, Data, Tensor};
pub use value::Value;
