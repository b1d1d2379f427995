//! Eight lanes: AVX2 with FMA.

use crate::simd::Lanes;
use core::arch::x86_64::*;

/// All ones in the first `n < 8` lanes.
#[inline(always)]
unsafe fn first(n: usize) -> __m256i {
    const ONES_THEN_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    debug_assert!(n < 8);
    // SAFETY: 8 elements from index `8 − n ≥ 1` end at or before the 16th.
    unsafe { _mm256_loadu_si256(ONES_THEN_ZEROS.as_ptr().add(8 - n).cast()) }
}

// SAFETY (every block below): `Lanes` demands AVX2 and FMA, and the validity of the pointers.
impl Lanes for __m256 {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self {
        // SAFETY: see above; masked lanes are not read.
        unsafe { _mm256_maskload_ps(p, first(n)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(p, self) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize) {
        // SAFETY: see above; masked lanes are not written.
        unsafe { _mm256_maskstore_ps(p, first(n), self) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_sub_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_div_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn max_keep(self, best: Self) -> Self {
        // SAFETY: see above. vmaxps returns its second operand where either is NaN.
        unsafe { _mm256_max_ps(self, best) }
    }
    #[inline(always)]
    unsafe fn gt_mask(self, b: Self) -> u32 {
        // SAFETY: see above.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self, b)) as u32 }
    }
    #[inline(always)]
    unsafe fn select_gt(self, b: Self, a: Self, otherwise: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_blendv_ps(otherwise, a, _mm256_cmp_ps::<_CMP_GT_OQ>(self, b)) }
    }
}
