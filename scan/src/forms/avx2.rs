//! AVX2 with FMA and F16C: 8 lanes.

use std::arch::x86_64::*;

use half::f16;

use crate::element::Element;
use crate::forms::Kernels;
use crate::lanes::{EXP2, EXP2_RANGE, Lanes, MAX_WIDTH, ROUND};
use crate::{backward, forward};

/// Exists only where the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

const WIDTH: usize = 8;

impl Avx2 {
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")).then_some(Self(()))
    }
}

// Everywhere below: `self` was made by `new`, so the CPU has the instructions; loads and stores check their slices first.
impl Lanes for Avx2 {
    type F = __m256;
    const WIDTH: usize = WIDTH;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: the CPU has AVX2.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        assert!(from.len() >= WIDTH);
        // SAFETY: the CPU has AVX2; eight values are there.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32]) {
        assert!(to.len() >= WIDTH);
        // SAFETY: the CPU has AVX2; there is room for eight values.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the CPU has AVX2.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the CPU has AVX2.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the CPU has AVX2.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the CPU has AVX2.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the CPU has FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the CPU has AVX2. The instruction returns its second operand where either is NaN.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn neg_abs(self, a: __m256) -> __m256 {
        // SAFETY: the CPU has AVX2. Sets the sign bit.
        unsafe { _mm256_or_ps(a, _mm256_set1_ps(-0.0)) }
    }
    #[inline(always)]
    fn exp2(self, a: __m256) -> __m256 {
        let (low, high) = EXP2_RANGE;
        // Not `map`: a closure would be compiled without the form's instructions.
        let [c1, c2, c3, c4, c5] = EXP2;
        let (c1, c2, c3, c4, c5) = (self.splat(c1), self.splat(c2), self.splat(c3), self.splat(c4), self.splat(c5));
        // SAFETY: the CPU has AVX2 and FMA. The second operand of max and min is the one that survives a NaN.
        unsafe {
            let x = _mm256_min_ps(self.splat(high), _mm256_max_ps(self.splat(low), a));
            let rounded = _mm256_add_ps(x, self.splat(ROUND));
            let f = _mm256_sub_ps(x, _mm256_sub_ps(rounded, self.splat(ROUND)));
            let p = _mm256_fmadd_ps(c5, f, c4);
            let p = _mm256_fmadd_ps(p, f, c3);
            let p = _mm256_fmadd_ps(p, f, c2);
            let p = _mm256_fmadd_ps(p, f, c1);
            let p = _mm256_fmadd_ps(p, f, self.splat(1.0));
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(rounded));
            let scale = _mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23));
            _mm256_mul_ps(p, _mm256_castsi256_ps(scale))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: the CPU has AVX2. Halves are added until one lane is left.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        assert!(from_stride >= WIDTH && from.len() >= (WIDTH - 1) * from_stride + WIDTH);
        assert!(to_stride >= WIDTH && to.len() >= (WIDTH - 1) * to_stride + WIDTH);
        for column in [0, 4] {
            // Four values of rows i and i + 4: then each 128 bits are a 4 x 4 transpose of their own.
            // SAFETY: the CPU has AVX2; rows up to 7 of 8 values each are there (just checked), in both.
            unsafe {
                let mut rows = [_mm256_setzero_ps(); 4];
                for i in 0..4 {
                    let (row, below) = (from.as_ptr().add(i * from_stride + column), from.as_ptr().add((i + 4) * from_stride + column));
                    rows[i] = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(row)), _mm_loadu_ps(below));
                }
                let [a, b, c, d] = rows;
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                let out = to.as_mut_ptr().add(column * to_stride);
                _mm256_storeu_ps(out, _mm256_shuffle_ps::<0x44>(ab, cd));
                _mm256_storeu_ps(out.add(to_stride), _mm256_shuffle_ps::<0xee>(ab, cd));
                _mm256_storeu_ps(out.add(2 * to_stride), _mm256_shuffle_ps::<0x44>(ab_high, cd_high));
                _mm256_storeu_ps(out.add(3 * to_stride), _mm256_shuffle_ps::<0xee>(ab_high, cd_high));
            }
        }
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> __m256 {
        let mut padded = [f16::ZERO; MAX_WIDTH];
        let from = if from.len() >= WIDTH {
            from
        } else {
            padded[..from.len()].copy_from_slice(from);
            &padded
        };
        // SAFETY: the CPU has F16C; eight values of 16 bits are there.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store_f16(self, value: __m256, to: &mut [f16]) {
        let mut out = [f16::ZERO; WIDTH];
        // SAFETY: the CPU has F16C; `out` has room for eight values of 16 bits.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value)) };
        let length = to.len().min(WIDTH);
        to[..length].copy_from_slice(&out[..length]);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run_forward<T: Element>(form: Avx2, call: &forward::Call<'_, T>, task: usize, memory: &mut [f32]) {
    forward::run(form, call, task, memory);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run_backward<T: Element>(form: Avx2, call: &backward::Call<'_, T>, task: usize, memory: &mut [f32]) {
    backward::run(form, call, task, memory);
}

impl Kernels for Avx2 {
    fn forward<T: Element>(self, call: &forward::Call<'_, T>, task: usize, memory: &mut [f32]) {
        // SAFETY: `self` was made by `new`, so the CPU has what the function is compiled for.
        unsafe { run_forward(self, call, task, memory) }
    }
    fn backward<T: Element>(self, call: &backward::Call<'_, T>, task: usize, memory: &mut [f32]) {
        // SAFETY: as above.
        unsafe { run_backward(self, call, task, memory) }
    }
    fn width(self) -> usize {
        WIDTH
    }
}
