//! Trains and evaluates lifters with libtorch.
