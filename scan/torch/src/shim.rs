//! What cpp/shim.cpp exports.

use std::ffi::{c_char, c_int, c_void};

use torch_sys::C_tensor;

unsafe extern "C" {
    pub(crate) fn poselift_torch_last_error() -> *const c_char;
    pub(crate) fn poselift_torch_selective_scan(inputs: *const *mut C_tensor, delta_softplus: c_int, outputs: *mut *mut C_tensor) -> c_int;
    pub(crate) fn poselift_torch_parallel_for(
        count: usize,
        task: unsafe extern "C" fn(*const c_void, usize),
        context: *const c_void,
    ) -> c_int;
    pub(crate) fn poselift_torch_fused_adam(
        decoupled: c_int,
        parameters: *const *mut C_tensor,
        gradients: *const *mut C_tensor,
        exp_avg: *const *mut C_tensor,
        exp_avg_sq: *const *mut C_tensor,
        max_exp_avg_sq: *const *mut C_tensor,
        steps: *const *mut C_tensor,
        count: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> c_int;
    pub(crate) fn poselift_torch_autocast_enter(cuda: c_int, was_enabled: *mut c_int) -> c_int;
    pub(crate) fn poselift_torch_autocast_exit(cuda: c_int, was_enabled: c_int) -> c_int;
    pub(crate) fn poselift_torch_load_cuda_backend() -> c_int;
}
