use std::ptr;

use tch::Tensor;

use crate::{Error, shim};

/// What goes into [`selective_scan`].
#[derive(Clone, Copy, Debug)]
pub struct ScanTensors<'a> {
    /// (S, L, D)
    pub u: &'a Tensor,
    /// (S, L, D), before bias and softplus
    pub delta: &'a Tensor,
    /// (D, N), usually negative
    pub a: &'a Tensor,
    /// (S, L, N)
    pub b: &'a Tensor,
    /// (S, L, N)
    pub c: &'a Tensor,
    /// (D), the skip connection
    pub d: Option<&'a Tensor>,
    /// (S, L, D), the gate: y is multiplied with silu(z)
    pub z: Option<&'a Tensor>,
    /// (D), added to delta
    pub delta_bias: Option<&'a Tensor>,
    /// (S, D, N), zero where absent
    pub initial_state: Option<&'a Tensor>,
    /// Whether delta (with its bias) goes through softplus.
    pub delta_softplus: bool,
}

/// The selective scan with gradients: `y` (S, L, D) and the state after the last frame (S, D, N).
///
/// On the CPU, f32 runs on the vector kernels and f64 on the scalar oracle; bf16 and f16 are widened to f32 and `y` is then f32. Work is
/// spread over libtorch's own threads. On CUDA, activations (u, delta, B, C, z) are read as they are where all are f32, all bf16 or all f16,
/// and `y` is of that type; parameters, states and the arithmetic are f32. Work goes to libtorch's current stream; once a shape has run,
/// it may be captured into a CUDA graph.
///
/// The first derivative of every input is there, no second one.
///
/// # Errors
/// A shape, type or device that does not fit, with its name; on CUDA also f64, more than 128 states, a driver or NVRTC that is missing.
pub fn selective_scan(inputs: &ScanTensors<'_>) -> Result<(Tensor, Tensor), Error> {
    let ScanTensors { u, delta, a, b, c, d, z, delta_bias, initial_state, delta_softplus } = *inputs;
    // The order of `enum Input` in cpp/shim.cpp.
    let handles = [Some(u), Some(delta), Some(a), Some(b), Some(c), d, z, delta_bias, initial_state]
        .map(|tensor| tensor.map_or(ptr::null_mut(), |tensor| tensor.as_ptr().cast_mut()));
    let mut outputs = [ptr::null_mut(); 2];
    // SAFETY: nine handles that are null or live tensors, borrowed for the call; two places for what comes back.
    let status = unsafe { shim::poselift_torch_selective_scan(handles.as_ptr(), delta_softplus.into(), outputs.as_mut_ptr()) };
    if status != 0 {
        return Err(Error::last());
    }
    // SAFETY: on success the shim hands over two tensors that nobody else owns.
    Ok(unsafe { (Tensor::from_ptr(outputs[0]), Tensor::from_ptr(outputs[1])) })
}
