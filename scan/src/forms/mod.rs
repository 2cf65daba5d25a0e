//! One module for each instruction set. They have the same names and the same content: a type that only exists on a CPU
//! that can run it, its lanes, and the kernels compiled for it.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

use crate::element::Element;
use crate::{backward, forward};

/// The kernels of a form.
pub(crate) trait Kernels {
    /// One task of a forward call, in `forward::Call::scratch` values.
    fn forward<T: Element>(self, call: &forward::Call<'_, T>, task: usize, memory: &mut [f32]);
    /// One task of a backward call, in `backward::Call::scratch` values.
    fn backward(self, call: &backward::Call<'_>, task: usize, memory: &mut [f32]);
    /// Lanes in a vector.
    fn width(self) -> usize;
}
