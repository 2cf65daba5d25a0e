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
    fn backward<T: Element>(self, call: &backward::Call<'_, T>, task: usize, memory: &mut [f32]);
    /// Lanes in a vector.
    fn width(self) -> usize;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::{Lanes, MAX_WIDTH};

    fn exp2<L: Lanes>(lanes: L, x: f32) -> f32 {
        let mut out = [0.0; MAX_WIDTH];
        lanes.store(lanes.exp2(lanes.splat(x)), &mut out);
        out[0]
    }

    fn powers_of_two<L: Lanes>(lanes: L, name: &str) {
        for i in -1_000_000..=1_000_000 {
            // dense about 0, where a small step must stay a small step, and up to where f32 ends
            let x = 126.0 * (i as f32 / 1e6).powi(3);
            let (found, truth) = (f64::from(exp2(lanes, x)), f64::from(x).exp2());
            assert!((found - truth).abs() <= 3e-7 * truth, "{name}: 2^{x} is {truth}, found {found}");
        }
        assert_eq!(exp2(lanes, 0.0), 1.0, "{name}");
        for x in [-128.0, -1e4, -786_432.0, -1e9, f32::MIN, f32::NEG_INFINITY] {
            assert!(exp2(lanes, x) < 3e-39, "{name}: 2^{x} is {}", exp2(lanes, x));
        }
        for x in [128.0, 1e4, 786_432.0, 1e9, f32::MAX, f32::INFINITY] {
            assert_eq!(exp2(lanes, x), f32::INFINITY, "{name}: {x}");
        }
        assert!(exp2(lanes, f32::NAN).is_nan(), "{name}");
    }

    #[test]
    fn exp2_is_right_everywhere() {
        powers_of_two(portable::Portable::new().expect("runs everywhere"), "portable");
        #[cfg(target_arch = "x86_64")]
        {
            avx2::Avx2::new().into_iter().for_each(|form| powers_of_two(form, "AVX2"));
            avx512::Avx512::new().into_iter().for_each(|form| powers_of_two(form, "AVX-512"));
        }
    }
}
