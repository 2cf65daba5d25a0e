//! Plain arrays, for any CPU: the compiler turns them into what its target has (SSE2 on any x86-64, NEON on any AArch64).

use crate::element::Element;
use crate::forms::Kernels;
use crate::lanes::{EXP2, EXP2_RANGE, Lanes, ROUND};
use crate::{backward, forward};

/// Runs everywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable(());

const WIDTH: usize = 8;

/// A vector; aligned so that the compiler's own registers fit it.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(crate) struct Vector([f32; WIDTH]);

impl Portable {
    pub(crate) fn new() -> Option<Self> {
        Some(Self(()))
    }
}

#[inline(always)]
fn map(f: impl Fn(usize) -> f32) -> Vector {
    let mut out = [0.0; WIDTH];
    for i in 0..WIDTH {
        out[i] = f(i);
    }
    Vector(out)
}

/// a * b + c. Without the instruction `f32::mul_add` calls a library for every single value.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn exp2(x: f32) -> f32 {
    let (low, high) = EXP2_RANGE;
    // Comparisons rather than clamp: these two are one instruction each, and let NaN pass.
    let x = if x < low { low } else { x };
    let x = if x > high { high } else { x };
    let rounded = x + ROUND;
    let f = x - (rounded - ROUND);
    let [c1, c2, c3, c4, c5] = EXP2;
    let p = mul_add(mul_add(mul_add(mul_add(mul_add(c5, f, c4), f, c3), f, c2), f, c1), f, 1.0);
    p * f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23))
}

impl Lanes for Portable {
    type F = Vector;
    const WIDTH: usize = WIDTH;

    #[inline(always)]
    fn splat(self, value: f32) -> Vector {
        Vector([value; WIDTH])
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Vector {
        let mut out = [0.0; WIDTH];
        out.copy_from_slice(&from[..WIDTH]);
        Vector(out)
    }
    #[inline(always)]
    fn store(self, value: Vector, to: &mut [f32]) {
        to[..WIDTH].copy_from_slice(&value.0);
    }
    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        map(|i| a.0[i] + b.0[i])
    }
    #[inline(always)]
    fn sub(self, a: Vector, b: Vector) -> Vector {
        map(|i| a.0[i] - b.0[i])
    }
    #[inline(always)]
    fn mul(self, a: Vector, b: Vector) -> Vector {
        map(|i| a.0[i] * b.0[i])
    }
    #[inline(always)]
    fn div(self, a: Vector, b: Vector) -> Vector {
        map(|i| a.0[i] / b.0[i])
    }
    #[inline(always)]
    fn mul_add(self, a: Vector, b: Vector, c: Vector) -> Vector {
        map(|i| mul_add(a.0[i], b.0[i], c.0[i]))
    }
    #[inline(always)]
    fn max(self, a: Vector, b: Vector) -> Vector {
        map(|i| if a.0[i] > b.0[i] { a.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    fn neg_abs(self, a: Vector) -> Vector {
        map(|i| -a.0[i].abs())
    }
    #[inline(always)]
    fn exp2(self, a: Vector) -> Vector {
        map(|i| exp2(a.0[i]))
    }
    #[inline(always)]
    fn sum(self, a: Vector) -> f32 {
        let [a, b, c, d, e, f, g, h] = a.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

impl Kernels for Portable {
    fn forward<T: Element>(self, call: &forward::Call<'_, T>, task: usize, memory: &mut [f32]) {
        forward::run(self, call, task, memory);
    }
    fn backward<T: Element>(self, call: &backward::Call<'_, T>, task: usize, memory: &mut [f32]) {
        backward::run(self, call, task, memory);
    }
    fn width(self) -> usize {
        WIDTH
    }
}
