use std::ptr;

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use crate::{Error, shim};

/// What weight decay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightDecay {
    /// AdamW: weights shrink by `lr * weight_decay`, apart from the gradient (Loshchilov and Hutter, 2019).
    Decoupled,
    /// Adam: `weight_decay * weight` is added to the gradient.
    L2,
}

/// The settings of one step; the defaults are PyTorch's AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first and of the second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// How strongly weights decay.
    pub weight_decay: f64,
    /// In which of the two ways.
    pub decay: WeightDecay,
}

impl Default for AdamSettings {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2, decay: WeightDecay::Decoupled }
    }
}

/// Adam's state, one tensor for each parameter, in the names of PyTorch's `state_dict`: plain tensors, to be saved and loaded.
#[derive(Debug)]
pub struct AdamState {
    /// First moments, shaped as the parameters.
    pub exp_avg: Vec<Tensor>,
    /// Second moments.
    pub exp_avg_sq: Vec<Tensor>,
    /// The largest second moments so far; `Some` makes the step AMSGrad.
    pub max_exp_avg_sq: Option<Vec<Tensor>>,
    /// Steps made: f32 scalars on the parameters' device.
    pub step: Vec<Tensor>,
}

impl AdamState {
    /// Zero moments and no step made.
    pub fn new(parameters: &[Tensor], amsgrad: bool) -> Self {
        let zeros = || parameters.iter().map(|parameter| parameter.detach().zeros_like()).collect::<Vec<_>>();
        let step = parameters.iter().map(|parameter| Tensor::zeros([], (Kind::Float, parameter.device()))).collect();
        Self { exp_avg: zeros(), exp_avg_sq: zeros(), max_exp_avg_sq: amsgrad.then(zeros), step }
    }
}

fn handles(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr().cast_mut()).collect()
}

/// One fused step of Adam or AdamW, in place on `parameters` and `state`, with each parameter's `.grad()`.
///
/// A parameter without a gradient is left alone, as in PyTorch.
///
/// # Errors
/// Lists of different lengths, or a type or device that libtorch's fused kernel refuses.
pub fn fused_adam_step(parameters: &[Tensor], state: &mut AdamState, settings: &AdamSettings) -> Result<(), Error> {
    let expected = parameters.len();
    let lists = [("first moments", &state.exp_avg), ("second moments", &state.exp_avg_sq), ("step counters", &state.step)];
    for (what, list) in lists.into_iter().chain(state.max_exp_avg_sq.as_ref().map(|list| ("largest second moments", list))) {
        if list.len() != expected {
            return Err(Error::Count { what, expected, found: list.len() });
        }
    }
    let gradients: Vec<Tensor> = parameters.iter().map(Tensor::grad).collect();
    let with_gradient: Vec<usize> = (0..expected).filter(|&i| gradients[i].defined()).collect();
    let pick = |tensors: &[Tensor]| -> Vec<*mut C_tensor> {
        let all = handles(tensors);
        with_gradient.iter().map(|&i| all[i]).collect()
    };
    let (p, g, m, v, steps) = (pick(parameters), pick(&gradients), pick(&state.exp_avg), pick(&state.exp_avg_sq), pick(&state.step));
    let largest = state.max_exp_avg_sq.as_deref().map(pick);
    let largest = largest.as_ref().map_or(ptr::null(), |list| list.as_ptr());
    if p.is_empty() {
        return Ok(());
    }
    let AdamSettings { lr, betas: (beta1, beta2), eps, weight_decay, decay } = *settings;
    let decoupled = (decay == WeightDecay::Decoupled).into();
    // SAFETY: every list has `p.len()` live tensors (checked above), which outlive the call.
    let status = unsafe {
        shim::poselift_torch_fused_adam(
            decoupled,
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            largest,
            steps.as_ptr(),
            p.len(),
            lr,
            beta1,
            beta2,
            weight_decay,
            eps,
        )
    };
    if status == 0 { Ok(()) } else { Err(Error::last()) }
}
