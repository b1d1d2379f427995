//! Products of bytes: eight lanes by AVX2 or AVX-VNNI, sixteen by AVX-512 VNNI.

use crate::simd::Dots;
use core::arch::x86_64::*;

/// Bit `l` is set where lane `l` of `a` is at least that of `b`.
///
/// # Safety
/// The CPU supports AVX2.
#[inline(always)]
unsafe fn ge_mask(a: __m256i, b: __m256i) -> u32 {
    // SAFETY: the caller's claim.
    unsafe { !_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a))) as u32 & 0xff }
}

// SAFETY (every block below): `Dots` demands AVX2 and AVX-VNNI, and the validity of the pointers.
impl Dots for __m256i {
    const N: usize = 8;
    const REGISTERS: usize = 16;
    const ROW_MAX: i8 = 127;
    const BIAS: i32 = 128;
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
        unsafe { ge_mask(self, other) }
    }
}

// SAFETY (every block below): `Dots` demands AVX-512 F, BW and VNNI, and the validity of the pointers.
impl Dots for __m512i {
    const N: usize = 16;
    const REGISTERS: usize = 32;
    const ROW_MAX: i8 = 127;
    const BIAS: i32 = 128;
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

/// Eight lanes without VNNI: three instructions instead of one.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Avx2(__m256i);

// SAFETY (every block below): `Dots` demands AVX2, and the validity of the pointers.
impl Dots for Avx2 {
    const N: usize = 8;
    const REGISTERS: usize = 16;
    /// Two products are added up in 16 bits, and 2 · 255 · 64 is the most that fits there.
    const ROW_MAX: i8 = 64;
    const BIAS: i32 = 128;
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(p.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn dot(self, codes: Self, row: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let pairs = _mm256_maddubs_epi16(codes.0, row.0);
            Self(_mm256_add_epi32(self.0, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))))
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_madd_epi16(a.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_max_epi32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn ge_mask(self, other: Self) -> u32 {
        // SAFETY: see above.
        unsafe { ge_mask(self.0, other.0) }
    }
}
