//! Products of bytes by VNNI: eight lanes (AVX-VNNI), sixteen (AVX-512 VNNI).

use super::Dots;
use core::arch::x86_64::*;

// SAFETY (every block below): `Dots` demands AVX2 and AVX-VNNI, and the validity of the pointers.
impl Dots for __m256i {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(p.cast(), self) }
    }
    #[inline(always)]
    unsafe fn dot(self, codes: Self, row: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_dpbusd_avx_epi32(self, codes, row) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_madd_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_max_epi32(self, other) }
    }
    #[inline(always)]
    unsafe fn ge_mask(self, other: Self) -> u32 {
        // SAFETY: see above.
        unsafe { !_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(other, self))) as u32 & 0xff }
    }
}

// SAFETY (every block below): `Dots` demands AVX-512 F, BW and VNNI, and the validity of the pointers.
impl Dots for __m512i {
    const N: usize = 16;
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(p.cast(), self) }
    }
    #[inline(always)]
    unsafe fn dot(self, codes: Self, row: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(self, codes, row) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_madd_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_max_epi32(self, other) }
    }
    #[inline(always)]
    unsafe fn ge_mask(self, other: Self) -> u32 {
        // SAFETY: see above.
        unsafe { u32::from(_mm512_cmpge_epi32_mask(self, other)) }
    }
}
