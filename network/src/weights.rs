//! Weights by name: who makes or loads them is behind one trait.

use std::{cell::RefCell, rc::Rc};

/// How a new weight is drawn. A loaded one ignores it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f64),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in `-bound..bound`.
    Uniform {
        /// Largest absolute value.
        bound: f64,
    },
    /// `ln(1..=N)` in each row of (D, N): Mamba's A_log (S4D-real).
    LogArange,
    /// softplus^-1 of a log-uniform draw in `min..max`: Mamba's bias of delta.
    InverseSoftplusLogUniform {
        /// Smallest delta.
        min: f64,
        /// Largest delta.
        max: f64,
    },
}

impl Init {
    /// PyTorch's default for the weight and the bias of a linear layer or convolution: U(±1/sqrt(fan_in)).
    #[must_use]
    pub fn fan_in(fan_in: usize) -> Self {
        Self::Uniform { bound: 1.0 / (fan_in as f64).sqrt() }
    }

    /// Glorot's uniform: U(±sqrt(6 / (fan_in + fan_out))).
    #[must_use]
    pub fn xavier(fan_in: usize, fan_out: usize) -> Self {
        Self::Uniform { bound: (6.0 / (fan_in + fan_out) as f64).sqrt() }
    }
}

/// Why a weight could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The file lacks it.
    #[error(
        "the checkpoint has no weight `{name}` (expected shape {expected:?}): it belongs to another architecture, or its configuration was told wrongly"
    )]
    Missing {
        /// Path in the state dict.
        name: String,
        /// Shape that the architecture needs.
        expected: Vec<usize>,
    },
    /// It has another shape.
    #[error("weight `{name}` has shape {found:?} where {expected:?} was expected: the checkpoint belongs to another architecture or size")]
    Shape {
        /// Path in the state dict.
        name: String,
        /// Shape that the architecture needs.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// The file has weights that the architecture does not know.
    #[error("the checkpoint has {} weight(s) that this architecture does not have, the first is `{}`: it belongs to another architecture, or its configuration was told wrongly", names.len(), names.first().map_or("", String::as_str))]
    Extra {
        /// Paths in the state dict.
        names: Vec<String>,
    },
    /// Whoever makes the tensors failed.
    #[error("weight `{name}` cannot be made: {cause}")]
    Backend {
        /// Path in the state dict.
        name: String,
        /// What the library said.
        cause: String,
    },
}

/// Where weights come from: new ones drawn, or those of a file.
///
/// Weights are asked for in the order in which the PyTorch reference registers them, which is the order of the
/// parameters in an optimiser's state.
pub trait WeightSource<T> {
    /// A trainable weight.
    ///
    /// # Errors
    /// [`WeightError`] when it is missing or of another shape.
    fn parameter(&mut self, name: &str, shape: &[usize], init: Init) -> Result<T, WeightError>;
    /// A tensor that is saved but not trained, with its first value (row-major).
    ///
    /// # Errors
    /// [`WeightError`] when it is missing or of another shape.
    fn buffer(&mut self, name: &str, shape: &[usize], value: &[f32]) -> Result<T, WeightError>;
    /// A saved 64-bit integer scalar that counts (`num_batches_tracked`), 0 at first.
    ///
    /// # Errors
    /// [`WeightError`] when it is missing or no scalar.
    fn counter(&mut self, name: &str) -> Result<T, WeightError>;
    /// A constant of the architecture: not saved, not trained (row-major).
    ///
    /// # Errors
    /// [`WeightError::Backend`].
    fn constant(&mut self, shape: &[usize], value: &[f32]) -> Result<T, WeightError>;
}

/// A place in the state dict: `weights.at("layers").at(0).at("norm1")`.
pub struct Weights<'a, T> {
    source: Rc<RefCell<dyn WeightSource<T> + 'a>>,
    prefix: String,
}

impl<T> Clone for Weights<'_, T> {
    fn clone(&self) -> Self {
        Self { source: Rc::clone(&self.source), prefix: self.prefix.clone() }
    }
}

impl<'a, T> Weights<'a, T> {
    /// The root of a state dict.
    pub fn new(source: Rc<RefCell<dyn WeightSource<T> + 'a>>) -> Self {
        Self { source, prefix: String::new() }
    }

    /// One level down.
    #[must_use]
    pub fn at(&self, part: impl std::fmt::Display) -> Self {
        Self { source: Rc::clone(&self.source), prefix: self.path(&part.to_string()) }
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// See [`WeightSource::parameter`].
    ///
    /// # Errors
    /// [`WeightError`].
    pub fn parameter(&self, name: &str, shape: &[usize], init: Init) -> Result<T, WeightError> {
        self.source.borrow_mut().parameter(&self.path(name), shape, init)
    }

    /// See [`WeightSource::buffer`].
    ///
    /// # Errors
    /// [`WeightError`].
    pub fn buffer(&self, name: &str, shape: &[usize], value: &[f32]) -> Result<T, WeightError> {
        self.source.borrow_mut().buffer(&self.path(name), shape, value)
    }

    /// See [`WeightSource::counter`].
    ///
    /// # Errors
    /// [`WeightError`].
    pub fn counter(&self, name: &str) -> Result<T, WeightError> {
        self.source.borrow_mut().counter(&self.path(name))
    }

    /// See [`WeightSource::constant`].
    ///
    /// # Errors
    /// [`WeightError::Backend`].
    pub fn constant(&self, shape: &[usize], value: &[f32]) -> Result<T, WeightError> {
        self.source.borrow_mut().constant(shape, value)
    }
}
