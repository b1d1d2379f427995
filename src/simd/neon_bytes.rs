//! Products of bytes on NEON, four lanes: by SDOT, or by four instructions instead.

use core::arch::aarch64::*;

use super::mask;
use crate::simd::Dots;

/// NEON alone.
pub(super) type Neon = Bytes<false>;
/// NEON with dot products.
pub(super) type NeonDot = Bytes<true>;

/// Four lanes; `DOT` with the instruction for it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bytes<const DOT: bool>(int32x4_t);

/// `sum + Σ a[j] · b[j]` over the four bytes of a lane.
///
/// # Safety
/// The CPU has dot products.
#[inline(always)]
unsafe fn sdot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the caller's claim; it reads and writes these registers only. (Intrinsics are not stable in Rust 1.89.)
    unsafe {
        core::arch::asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The same, with `|b| ≤ 127`.
///
/// # Safety
/// None but NEON.
#[inline(always)]
unsafe fn widened(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the build target has NEON. Two products are added up in 16 bits: 2 · 128 · 127 fits there.
    unsafe {
        let pairs = vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
        vpadalq_s16(sum, pairs)
    }
}

// SAFETY (every block below): the build target has NEON, and `Dots` demands the instruction set of `DOT`, and the
// validity of the pointers.
impl<const DOT: bool> Dots for Bytes<DOT> {
    const N: usize = 4;
    const REGISTERS: usize = 32;
    const ROW_MAX: i8 = 127;
    /// Codes are made signed, once for all rows of a tile.
    const BIAS: i32 = 0;
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: see above.
        unsafe { Self(vdupq_n_s32(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(vreinterpretq_s32_u8(vld1q_u8(p))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        // SAFETY: see above.
        unsafe { vst1q_s32(p, self.0) }
    }
    #[inline(always)]
    unsafe fn dot(self, codes: Self, row: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let codes = vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_s32(codes.0), vdupq_n_u8(0x80)));
            let row = vreinterpretq_s8_s32(row.0);
            Self(if DOT { sdot(self.0, codes, row) } else { widened(self.0, codes, row) })
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let (a, b) = (vreinterpretq_s16_s32(a.0), vreinterpretq_s16_s32(b.0));
            Self(vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)))
        }
    }
    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vmaxq_s32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn ge_mask(self, other: Self) -> u32 {
        // SAFETY: see above.
        unsafe { mask(vcgeq_s32(self.0, other.0)) }
    }
}
