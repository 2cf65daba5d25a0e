//! A lifter that can be trained and evaluated.

use anyhow::Context as _;
use formats::StateDict;
use network::{Context, MambaForm, ModelConfig, Tensor as _, WeightError};
use tch::{Device, Kind, Tensor};

use crate::{
    tensor::Eager,
    weights::{self, Drawing, Store},
};

/// The network with all its weights.
pub struct Lifter {
    /// What shapes it.
    pub config: ModelConfig,
    /// Its weights, shared with `network`.
    pub weights: Store,
    /// The layers.
    pub network: network::Lifter<Eager>,
    device: Device,
    kind: Kind,
}

/// Whether the scan of such a model, if it has one, can be computed on the device: asked before slow work is done, not in its first step.
///
/// # Errors
/// A GPU whose kernels cannot be compiled or run, or that take fewer states than the model has.
pub fn check_scan(config: &ModelConfig, device: Device) -> anyhow::Result<()> {
    let states = match config {
        ModelConfig::MotionAgFormer(config) => {
            config.mamba_gcn.as_ref().filter(|mamba| mamba.mamba == MambaForm::Selective).map(|mamba| mamba.d_state)
        }
        ModelConfig::Live(config) => Some(config.d_state),
    };
    match states {
        Some(states) if device.is_cuda() => poselift_scan_torch::try_cuda_kernels(device, states).context("--device cuda"),
        _ => Ok(()),
    }
}

impl Lifter {
    /// With new weights.
    ///
    /// # Errors
    /// [`WeightError`].
    pub fn new(config: &ModelConfig, drawing: Drawing, device: Device) -> Result<Self, WeightError> {
        let (network, weights) = weights::with_new(drawing, Kind::Float, device, |w| network::Lifter::new(w, config))?;
        Ok(Self { config: config.clone(), weights, network, device, kind: Kind::Float })
    }

    /// With the weights of a file, in f32 or f64.
    ///
    /// # Errors
    /// [`WeightError`] when they do not fit the configuration.
    pub fn load(config: &ModelConfig, state: &StateDict, kind: Kind, device: Device) -> Result<Self, WeightError> {
        let (network, weights) = weights::with_loaded(state, kind, device, |w| network::Lifter::new(w, config))?;
        Ok(Self { config: config.clone(), weights, network, device, kind })
    }

    /// A replica in f32 that shares the parameters of `weights`, with buffers and gradients of its own.
    ///
    /// # Errors
    /// [`WeightError`] when they do not fit the configuration.
    pub fn on(config: &ModelConfig, weights: &Store, device: Device) -> Result<Self, WeightError> {
        let (network, weights) = weights::with_shared(weights, Kind::Float, device, |w| network::Lifter::new(w, config))?;
        Ok(Self { config: config.clone(), weights, network, device, kind: Kind::Float })
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Row-major values as a tensor of this model's type and device.
    pub fn tensor(&self, values: &[f32], shape: [usize; 4]) -> Tensor {
        Tensor::from_slice(values).reshape(shape.map(|n| n as i64)).to_device(self.device).to_kind(self.kind)
    }

    /// x (B, T, J, dim_in) -> (B, T, J, 3), or (B, T, J, 3 K) of a live lifter of K look-aheads.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        self.network.forward(&Eager(x.shallow_clone()), context).0
    }

    /// Evaluation without gradients. `flip` averages with the prediction of the mirrored input, mirrored back.
    /// Of a live lifter, with the first of its look-aheads.
    pub fn predict(&self, x: &Tensor, flip: bool) -> Tensor {
        let forward = |x: &Tensor| self.forward(x, &Context::EVALUATION).narrow(-1, 0, 3);
        tch::no_grad(|| {
            let plain = forward(x);
            if flip { (plain + mirror(&forward(&mirror(x)))) / 2.0 } else { plain }
        })
    }

    /// Number of trainable values.
    pub fn parameter_count(&self) -> u64 {
        self.weights.parameters().map(|(_, tensor)| tensor.numel() as u64).sum()
    }
}

/// x negated, left and right joints exchanged; every other channel as it is: (B, T, J, C) -> (B, T, J, C).
pub fn mirror(x: &Tensor) -> Tensor {
    let joints = pose::skeleton::flip_index().map(|j| j as i64);
    let swapped = x.index_select(2, &Tensor::from_slice(&joints).to_device(x.device()));
    let mut signs = vec![1f32; x.size()[3] as usize];
    signs[0] = -1.0;
    let signs = Tensor::from_slice(&signs).to_device(x.device()).to_kind(x.kind());
    Eager(swapped).mul(&Eager(signs)).0
}
