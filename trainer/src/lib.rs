//! Trains and evaluates lifters with libtorch.

pub mod loss;
pub mod model;
pub mod optimiser;
pub mod schedule;
pub mod tensor;
pub mod weights;
