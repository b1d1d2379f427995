//! Products of bytes on NEON, four lanes: by matrices (USMMLA), by SDOT, or by four instructions instead.

use core::arch::aarch64::*;

use super::mask;
use crate::simd::Dots;

/// NEON alone.
pub(super) type Neon = Bytes<PLAIN>;
/// NEON with dot products.
pub(super) type NeonDot = Bytes<DOT>;
/// NEON with products of matrices of bytes.
pub(super) type NeonI8mm = Bytes<I8MM>;

const PLAIN: u8 = 0;
const DOT: u8 = 1;
const I8MM: u8 = 2;

/// Four lanes, with the instructions that `SET` names.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bytes<const SET: u8>(int32x4_t);

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

/// The same for unsigned `a`.
///
/// # Safety
/// The CPU has products of matrices of bytes.
#[inline(always)]
unsafe fn usdot(sum: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: as in `sdot`.
    unsafe {
        core::arch::asm!(
            "usdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// `sum + a · bᵀ`: 2 × 2 sums, of the 2 × 8 unsigned bytes of `a` and the 2 × 8 signed ones of `b`.
///
/// # Safety
/// The CPU has products of matrices of bytes.
#[inline(always)]
unsafe fn usmmla(sum: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: as in `sdot`.
    unsafe {
        core::arch::asm!(
            "usmmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// As [`sdot`], with `|b| ≤ 127`.
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

// SAFETY (every block below): the build target has NEON, and `Dots` demands the instruction set of `SET`, and the
// validity of the pointers.
impl<const SET: u8> Dots for Bytes<SET> {
    const N: usize = 4;
    const REGISTERS: usize = 32;
    const ROW_MAX: i8 = 127;
    /// Where no instruction multiplies unsigned bytes, codes are made signed, once for all rows of a tile.
    const BIAS: i32 = if SET == I8MM { 128 } else { 0 };
    const MATRIX: bool = SET == I8MM;
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
            let (codes, row) = (vreinterpretq_u8_s32(codes.0), vreinterpretq_s8_s32(row.0));
            let signed = vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(0x80)));
            Self(match SET {
                I8MM => usdot(self.0, codes, row),
                DOT => sdot(self.0, signed, row),
                _ => widened(self.0, signed, row),
            })
        }
    }
    #[inline(always)]
    unsafe fn zip(self, other: Self) -> [Self; 2] {
        // SAFETY: see above.
        unsafe { [Self(vzip1q_s32(self.0, other.0)), Self(vzip2q_s32(self.0, other.0))] }
    }
    #[inline(always)]
    unsafe fn unzip(self, other: Self) -> [Self; 2] {
        // SAFETY: see above.
        unsafe { [Self(vuzp1q_s32(self.0, other.0)), Self(vuzp2q_s32(self.0, other.0))] }
    }
    #[inline(always)]
    unsafe fn dot_matrix(self, codes: Self, rows: Self) -> Self {
        debug_assert!(Self::MATRIX);
        // SAFETY: see above.
        unsafe { Self(usmmla(self.0, vreinterpretq_u8_s32(codes.0), vreinterpretq_s8_s32(rows.0))) }
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
