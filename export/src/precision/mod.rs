//! Smaller numbers inside a recorded model: f16 for GPUs, int8 for processors. Inputs, outputs and states stay f32, so whoever
//! runs the file need not know.
//!
//! Both work on the finished graph in f32, whose weights and operators they replace, and both have a price, which
//! [`cost`] measures on real motion.

mod f16;
mod int8;

pub mod cost;

use std::fmt;

pub use f16::to_f16;
pub use int8::{Calibration, Products, to_int8};

/// The numbers that a model computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32 bits, as trained
    #[default]
    F32,
    /// 16 bits, for GPUs: half the file; on processors slower than f32
    F16,
    /// 8 bits in the products with weights, for processors: a quarter of the file, and faster; needs --calibrate
    Int8,
}

impl Precision {
    /// The name in files and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a model cannot be had in that precision.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The scans' function body.
    #[error(transparent)]
    Scan(#[from] crate::scan_function::TwoForms),
    /// The model cannot be run.
    #[error(transparent)]
    Run(#[from] crate::session::Error),
    /// The lifter, or a clip for it.
    #[error(transparent)]
    Lift(#[from] runtime::Error),
    /// Nothing to make smaller.
    #[error(
        "the model has no product with weights of at least {} x {} that int8 would help: export it in f32",
        int8::SMALLEST,
        int8::SMALLEST
    )]
    NoProducts,
    /// Values that are not finite in the middle of a model.
    #[error("the model's values {value} are not finite on the calibration clips: are the weights of the checkpoint finite?")]
    NotFinite {
        /// Their name in the graph.
        value: String,
    },
    /// A step graph.
    #[error("int8 is for windows and sequences; a step graph is too little work for it to gain anything: export it in f32 or f16")]
    Step,
    /// f16 cannot hold a weight.
    #[error("the weight {name} has the value {value:e}, beyond f16's largest number of 65504: export the model in f32")]
    TooLarge {
        /// Its name.
        name: String,
        /// The value.
        value: f32,
    },
}
