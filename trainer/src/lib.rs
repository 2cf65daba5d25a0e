//! Trains and evaluates lifters with libtorch.

pub mod bench;
pub mod canvas;
pub mod chart;
pub mod checkpoint;
pub mod data;
pub mod distributed;
pub mod ema;
pub mod evaluate;
pub mod finetune;
pub mod lora;
pub mod loss;
pub mod model;
pub mod optimiser;
pub mod progress;
pub mod protocol;
pub mod recipe;
pub mod replica;
pub mod report;
pub mod schedule;
pub mod tensor;
pub mod tensorboard;
pub mod train;
pub mod tuning;
pub mod weights;

/// Tells glibc to keep freed memory: activations are allocated anew in each step, and first touch of fresh pages costs up to a quarter
/// of a training step. Call it first in `main`; elsewhere than on glibc it does nothing.
pub fn keep_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        const M_TRIM_THRESHOLD: c_int = -1;
        const M_MMAP_THRESHOLD: c_int = -3;
        // SAFETY: glibc's mallopt only sets two of the allocator's numbers.
        unsafe {
            mallopt(M_MMAP_THRESHOLD, c_int::MAX);
            mallopt(M_TRIM_THRESHOLD, c_int::MAX);
        }
    }
}
