//! Products of bytes in WebAssembly, four lanes, by its dot product of 16-bit integers.

use core::arch::wasm32::*;

use crate::simd::Dots;

/// Four lanes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bytes(v128);

// SAFETY (every block below): the build target has these vectors, and `Dots` demands the validity of the pointers.
impl Dots for Bytes {
    const N: usize = 4;
    /// Those of the machines beneath: an engine has no more than 16 on x86.
    const REGISTERS: usize = 16;
    const ROW_MAX: i8 = 127;
    const BIAS: i32 = 128;
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        Self(i32x4_splat(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self(v128_load(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        // SAFETY: see above.
        unsafe { v128_store(p.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn dot(self, codes: Self, row: Self) -> Self {
        // Bytes 0 and 2 of each lane, then 1 and 3, as 16 bits. What is done to codes alone is done once for all
        // rows of a tile, what is done to the row once for all codes.
        let even = i32x4_dot_i16x8(v128_and(codes.0, i16x8_splat(0xff)), i16x8_shr(i16x8_shl(row.0, 8), 8));
        let odd = i32x4_dot_i16x8(u16x8_shr(codes.0, 8), i16x8_shr(row.0, 8));
        Self(i32x4_add(self.0, i32x4_add(even, odd)))
    }
    #[inline(always)]
    unsafe fn dot_pairs(a: Self, b: Self) -> Self {
        Self(i32x4_dot_i16x8(a.0, b.0))
    }
    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        Self(i32x4_max(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn ge_mask(self, other: Self) -> u32 {
        u32::from(i32x4_bitmask(i32x4_ge(self.0, other.0)))
    }
}
