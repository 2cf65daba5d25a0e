//! AVX-512 (F, VL, DQ, BW): 16 lanes, 32 registers, so that a state of 16 never leaves them.

use std::arch::x86_64::*;
use std::f32::consts::LN_2;

use half::f16;

use crate::element::Element;
use crate::forms::Kernels;
use crate::lanes::{Lanes, ROUND};
use crate::{backward, forward};

/// Exists only where the CPU has AVX-512.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

const WIDTH: usize = 16;

/// 2^(j / 16)
#[expect(clippy::approx_constant, reason = "they are roots of two, one of them the square root")]
static SIXTEENTHS: [f32; 16] = [
    1.000_000_0,
    1.044_273_8,
    1.090_507_7,
    1.138_788_6,
    1.189_207_1,
    1.241_857_8,
    1.296_839_6,
    1.354_255_5,
    1.414_213_6,
    1.476_826_1,
    1.542_210_8,
    1.610_490_3,
    1.681_792_8,
    1.756_252_2,
    1.834_008_1,
    1.915_206_6,
];

/// 2^f = 1 + f (c1 + f (c2 + f c3)) on -1/32..=1/32: within 1e-8 in exact arithmetic, and c1 is ln 2, so that a small step does not drift.
const EXP2_NEAR: [f32; 3] = [LN_2, 0.240_226_5, 0.055_498_56];

impl Avx512 {
    pub(crate) fn new() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("avx2");
        has_all.then_some(Self(()))
    }
}

/// One bit for each of the first `length` lanes, at most all of them.
#[inline(always)]
fn first(length: usize) -> __mmask16 {
    if length >= WIDTH { !0 } else { (1 << length) - 1 }
}

// Everywhere below: `self` was made by `new`, so the CPU has the instructions; loads and stores check their slices first,
// or touch only the lanes that the slice has.
impl Lanes for Avx512 {
    type F = __m512;
    const WIDTH: usize = WIDTH;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        assert!(from.len() >= WIDTH);
        // SAFETY: the CPU has AVX-512; sixteen values are there.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, value: __m512, to: &mut [f32]) {
        assert!(to.len() >= WIDTH);
        // SAFETY: the CPU has AVX-512; there is room for sixteen values.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }
    #[inline(always)]
    fn load_up_to(self, from: &[f32]) -> __m512 {
        // SAFETY: the CPU has AVX-512; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(first(from.len()), from.as_ptr()) }
    }
    #[inline(always)]
    fn store_up_to(self, value: __m512, to: &mut [f32]) {
        // SAFETY: the CPU has AVX-512; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), value) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the CPU has AVX-512. The instruction returns its second operand where either is NaN.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn neg_abs(self, a: __m512) -> __m512 {
        // SAFETY: the CPU has AVX-512. Sets the sign bit.
        unsafe { _mm512_or_ps(a, _mm512_set1_ps(-0.0)) }
    }
    #[inline(always)]
    fn exp2(self, a: __m512) -> __m512 {
        let [c1, c2, c3] = EXP2_NEAR;
        // SAFETY: the CPU has AVX-512; the table has sixteen values.
        unsafe {
            // a = k + j / 16 + f with |f| at most 1/32: 2^a = 2^k SIXTEENTHS[j] 2^f. Fewer multiplications than a longer polynomial takes, and
            // these are what there are too few units for.
            let near = _mm512_roundscale_ps::<{ 4 << 4 | _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
            let f = _mm512_sub_ps(a, near);
            // The low four bits are j.
            let j = _mm512_castps_si512(_mm512_add_ps(a, self.splat(ROUND / 16.0)));
            let root = _mm512_permutexvar_ps(j, _mm512_loadu_ps(SIXTEENTHS.as_ptr()));
            let p = _mm512_fmadd_ps(self.splat(c3), f, self.splat(c2));
            let p = _mm512_fmadd_ps(p, f, self.splat(c1));
            let p = _mm512_fmadd_ps(p, _mm512_mul_ps(root, f), root);
            // p 2^k with the right answer at both ends, as the exponent is rounded down: no clamp is needed.
            _mm512_scalef_ps(p, near)
        }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        assert!(from_stride >= WIDTH && from.len() >= (WIDTH - 1) * from_stride + WIDTH);
        assert!(to_stride >= WIDTH && to.len() >= (WIDTH - 1) * to_stride + WIDTH);
        for column in [0, 4, 8, 12] {
            // Four values of rows i, i + 4, i + 8 and i + 12: then each 128 bits are a 4 x 4 transpose of their own.
            // SAFETY: the CPU has AVX-512; rows up to 15 of 16 values each are there (just checked), in both.
            unsafe {
                let mut rows = [_mm512_setzero_ps(); 4];
                for i in 0..4 {
                    let row = from.as_ptr().add(i * from_stride + column);
                    let first = _mm512_castps128_ps512(_mm_loadu_ps(row));
                    let second = _mm512_insertf32x4::<1>(first, _mm_loadu_ps(row.add(4 * from_stride)));
                    let third = _mm512_insertf32x4::<2>(second, _mm_loadu_ps(row.add(8 * from_stride)));
                    rows[i] = _mm512_insertf32x4::<3>(third, _mm_loadu_ps(row.add(12 * from_stride)));
                }
                let [a, b, c, d] = rows;
                let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                let (ab_high, cd_high) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                let out = to.as_mut_ptr().add(column * to_stride);
                _mm512_storeu_ps(out, _mm512_shuffle_ps::<0x44>(ab, cd));
                _mm512_storeu_ps(out.add(to_stride), _mm512_shuffle_ps::<0xee>(ab, cd));
                _mm512_storeu_ps(out.add(2 * to_stride), _mm512_shuffle_ps::<0x44>(ab_high, cd_high));
                _mm512_storeu_ps(out.add(3 * to_stride), _mm512_shuffle_ps::<0xee>(ab_high, cd_high));
            }
        }
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> __m512 {
        // SAFETY: the CPU has AVX-512 (VL and BW for the masked load of 16-bit lanes); masked lanes are not read.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(from.len()), from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store_f16(self, value: __m512, to: &mut [f16]) {
        // SAFETY: as above; masked lanes are not written.
        unsafe {
            let narrow = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value);
            _mm256_mask_storeu_epi16(to.as_mut_ptr().cast(), first(to.len()), narrow);
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn run_forward<T: Element>(form: Avx512, call: &forward::Call<'_, T>, task: usize, memory: &mut [f32]) {
    forward::run(form, call, task, memory);
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn run_backward<T: Element>(form: Avx512, call: &backward::Call<'_, T>, task: usize, memory: &mut [f32]) {
    backward::run(form, call, task, memory);
}

impl Kernels for Avx512 {
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
