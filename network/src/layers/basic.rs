//! Linear maps and normalisation.

use crate::{Activation, Init, Tensor, WeightError, Weights};

/// Epsilon of every normalisation here (PyTorch's default).
const EPS: f64 = 1e-5;

/// `y = x weight^T + bias`: weight (out, in), bias (out).
pub struct Linear<T> {
    weight: T,
    bias: Option<T>,
}

impl<T> Linear<T> {
    /// With a bias.
    ///
    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, inputs: usize, outputs: usize) -> Result<Self, WeightError> {
        Self::with_init(weights, inputs, outputs, Init::fan_in(inputs), Init::fan_in(inputs))
    }

    /// With a bias, and other first values than PyTorch's default.
    ///
    /// # Errors
    /// [`WeightError`].
    pub fn with_init(weights: &Weights<'_, T>, inputs: usize, outputs: usize, weight: Init, bias: Init) -> Result<Self, WeightError> {
        Ok(Self {
            weight: weights.parameter("weight", &[outputs, inputs], weight)?,
            bias: Some(weights.parameter("bias", &[outputs], bias)?),
        })
    }

    /// Without a bias.
    ///
    /// # Errors
    /// [`WeightError`].
    pub fn without_bias(weights: &Weights<'_, T>, inputs: usize, outputs: usize) -> Result<Self, WeightError> {
        Ok(Self { weight: weights.parameter("weight", &[outputs, inputs], Init::fan_in(inputs))?, bias: None })
    }
}

impl<T: Tensor> Linear<T> {
    /// (.., in) -> (.., out).
    #[track_caller]
    pub fn forward(&self, x: &T) -> T {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// Normalisation over the last axis.
pub struct LayerNorm<T> {
    weight: T,
    bias: T,
}

impl<T> LayerNorm<T> {
    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, channels: usize) -> Result<Self, WeightError> {
        Ok(Self {
            weight: weights.parameter("weight", &[channels], Init::Constant(1.0))?,
            bias: weights.parameter("bias", &[channels], Init::Constant(0.0))?,
        })
    }
}

impl<T: Tensor> LayerNorm<T> {
    /// (.., C) -> (.., C).
    #[track_caller]
    pub fn forward(&self, x: &T) -> T {
        x.layer_norm(&self.weight, &self.bias, EPS)
    }
}

/// `BatchNorm1d` over the nodes of a graph, F of them.
pub struct BatchNorm<T> {
    /// (F)
    pub weight: T,
    /// (F)
    pub bias: T,
    /// (F); updated in place in training
    pub running_mean: T,
    /// (F); updated in place in training
    pub running_var: T,
    /// Scalar count of the updates
    pub num_batches_tracked: T,
}

impl<T> BatchNorm<T> {
    /// Added to the variance.
    pub const EPS: f64 = EPS;
    /// Weight of the newest batch in the running statistics.
    pub const MOMENTUM: f64 = 0.1;

    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, nodes: usize) -> Result<Self, WeightError> {
        Ok(Self {
            weight: weights.parameter("weight", &[nodes], Init::Constant(1.0))?,
            bias: weights.parameter("bias", &[nodes], Init::Constant(0.0))?,
            running_mean: weights.buffer("running_mean", &[nodes], &vec![0.0; nodes])?,
            running_var: weights.buffer("running_var", &[nodes], &vec![1.0; nodes])?,
            num_batches_tracked: weights.counter("num_batches_tracked")?,
        })
    }
}

/// Two linear maps with an activation between.
pub struct Mlp<T> {
    fc1: Linear<T>,
    fc2: Linear<T>,
    activation: Activation,
}

impl<T> Mlp<T> {
    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, channels: usize, hidden: usize, activation: Activation) -> Result<Self, WeightError> {
        Ok(Self {
            fc1: Linear::new(&weights.at("fc1"), channels, hidden)?,
            fc2: Linear::new(&weights.at("fc2"), hidden, channels)?,
            activation,
        })
    }
}

impl<T: Tensor> Mlp<T> {
    /// (.., C) -> (.., C).
    #[track_caller]
    pub fn forward(&self, x: &T) -> T {
        let hidden = self.fc1.forward(x);
        self.fc2.forward(&match self.activation {
            Activation::Gelu => hidden.gelu(),
            Activation::Relu => hidden.relu(),
        })
    }
}
