//! Vectors of f32 lanes: what the kernels are written in, once, for every instruction set.

use half::{bf16, f16};

/// The most lanes that a form has.
pub(crate) const MAX_WIDTH: usize = 16;

/// 2^f = 1 + f (c1 + f (c2 + ...)) on -0.5..=0.5. Minimax in the relative error with the constant held at exactly 1, so
/// that a small step does not drift: 9e-8 in exact arithmetic, 1.6e-7 in f32.
#[expect(clippy::approx_constant, reason = "close to ln 2, and not it: the best fit of this degree")]
pub(crate) const EXP2: [f32; 5] = [0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_514, 0.001_326_473];

/// Exponents beyond these give 0 and infinity.
pub(crate) const EXP2_RANGE: (f32, f32) = (-127.0, 128.0);

/// 1.5 * 2^23: adding it rounds to the nearest integer, which then stands in the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// A form's lanes. A value of the form is the proof that the CPU has the instructions, so every method is safe.
///
/// NaN in a lane stays NaN in that lane and touches no other.
// `pub` in a private module: the sealed trait of elements names it, nobody outside can.
pub trait Lanes: Copy + Send + Sync {
    /// A vector.
    type F: Copy;
    /// Lanes in it, at most [`MAX_WIDTH`].
    const WIDTH: usize;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::F;
    /// The first WIDTH values; panics where there are fewer.
    fn load(self, from: &[f32]) -> Self::F;
    /// Writes the first WIDTH values; panics where there is less room.
    fn store(self, value: Self::F, to: &mut [f32]);
    /// a + b
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a - b
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, with one rounding where the CPU has it.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of the two, `b` where it is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// -|a|
    fn neg_abs(self, a: Self::F) -> Self::F;
    /// 2^a; 0 below 2^-127, infinity from 2^127.5 on.
    fn exp2(self, a: Self::F) -> Self::F;
    /// The sum of the lanes.
    fn sum(self, a: Self::F) -> f32;

    /// Transposes WIDTH x WIDTH values: rows of `from` start `from_stride` values apart, those of `to` `to_stride`, both at least WIDTH.
    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        for row in 0..Self::WIDTH {
            for column in 0..Self::WIDTH {
                to[column * to_stride + row] = from[row * from_stride + column];
            }
        }
    }

    /// At most WIDTH values; missing lanes are 0.
    #[inline(always)]
    fn load_up_to(self, from: &[f32]) -> Self::F {
        if from.len() >= Self::WIDTH {
            return self.load(from);
        }
        let mut padded = [0.0; MAX_WIDTH];
        padded[..from.len()].copy_from_slice(from);
        self.load(&padded)
    }

    /// Writes as many lanes as there is room for, at most WIDTH.
    #[inline(always)]
    fn store_up_to(self, value: Self::F, to: &mut [f32]) {
        if to.len() >= Self::WIDTH {
            return self.store(value, to);
        }
        let mut padded = [0.0; MAX_WIDTH];
        self.store(value, &mut padded);
        to.copy_from_slice(&padded[..to.len()]);
    }

    /// [`Self::load_up_to`] from f16.
    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> Self::F {
        let mut wide = [0.0; MAX_WIDTH];
        wide.iter_mut().zip(from).for_each(|(wide, value)| *wide = value.to_f32());
        self.load(&wide)
    }

    /// [`Self::store_up_to`] to f16, rounded to nearest even.
    #[inline(always)]
    fn store_f16(self, value: Self::F, to: &mut [f16]) {
        let mut wide = [0.0; MAX_WIDTH];
        self.store(value, &mut wide);
        to.iter_mut().zip(wide).take(Self::WIDTH).for_each(|(to, wide)| *to = f16::from_f32(wide));
    }

    /// [`Self::load_up_to`] from bf16.
    #[inline(always)]
    fn load_bf16(self, from: &[bf16]) -> Self::F {
        let mut wide = [0.0; MAX_WIDTH];
        wide.iter_mut().zip(from).for_each(|(wide, value)| *wide = f32::from_bits(u32::from(value.to_bits()) << 16));
        self.load(&wide)
    }

    /// [`Self::store_up_to`] to bf16, rounded to nearest even.
    #[inline(always)]
    fn store_bf16(self, value: Self::F, to: &mut [bf16]) {
        let mut wide = [0.0; MAX_WIDTH];
        self.store(value, &mut wide);
        to.iter_mut().zip(wide).take(Self::WIDTH).for_each(|(to, wide)| *to = bf16::from_f32(wide));
    }
}

/// Asks the CPU to bring what lies at `start[index]` near. Nothing is read: the place need not exist.
#[inline(always)]
pub(crate) fn prefetch<T>(start: *const T, index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 CPU has the instruction, and it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(index).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, index);
}

/// 1 / (1 + e^-x)
#[inline(always)]
pub(crate) fn sigmoid<L: Lanes>(lanes: L, x: L::F) -> L::F {
    let one = lanes.splat(1.0);
    let e = lanes.exp2(lanes.mul(x, lanes.splat(-std::f32::consts::LOG2_E)));
    lanes.div(one, lanes.add(one, e))
}

/// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|)
#[inline(always)]
pub(crate) fn softplus<L: Lanes>(lanes: L, x: L::F) -> L::F {
    let e = lanes.exp2(lanes.mul(lanes.neg_abs(x), lanes.splat(std::f32::consts::LOG2_E)));
    lanes.add(lanes.max(lanes.splat(0.0), x), ln_1p_unit(lanes, e))
}

/// ln(1 + e) for e in 0..=1, with a small relative error for small e as well: 2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...) with
/// s = e / (2 + e), at most 1/3, so that seven terms leave 2e-8.
#[inline(always)]
fn ln_1p_unit<L: Lanes>(lanes: L, e: L::F) -> L::F {
    let s = lanes.div(e, lanes.add(e, lanes.splat(2.0)));
    let square = lanes.mul(s, s);
    let mut series = lanes.splat(2.0 / 13.0);
    for odd in [11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = lanes.mul_add(series, square, lanes.splat(2.0 / odd));
    }
    lanes.mul(series, s)
}

/// Runs a block for every state `$n`: where `$fixed` is 16 written out sixteen times, else as a loop over `$states`.
///
/// The compiler would unroll such a loop only where it finds it small, and a state stays in registers only where it is
/// unrolled.
macro_rules! each_state {
    ($n:ident in $fixed:ident or $states:expr => $body:block) => {
        if $fixed == 16 {
            each_state!(@ $n $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        } else {
            for $n in 0..$states $body
        }
    };
    (@ $n:ident $body:block $($value:literal)*) => {
        $({
            let $n: usize = $value;
            $body
        })*
    };
}

pub(crate) use each_state;
