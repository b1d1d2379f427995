//! WebAssembly's 128-bit vectors: four lanes. What they compute is the same on every engine; the relaxed
//! instructions, whose results are not, are never used.

mod wasm_bytes;

use core::arch::wasm32::*;

use crate::simd::{DotKernel, Kernel, Lanes};

/// What the build target has; there is no detection at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Simd128,
}

impl Tier {
    pub const DOTS: bool = true;

    pub fn available() -> impl Iterator<Item = Self> {
        core::iter::once(Self::Simd128)
    }

    pub fn name(self) -> &'static str {
        "simd128"
    }

    pub fn lanes(self) -> usize {
        F32x4::N
    }

    /// Measured (Node 20 on x86, µs a row, f32 and coarse): 8 dimensions, 256 codes 6.2 and 1.4, 4,096 codes 87 and
    /// 3.4; 32 dimensions, 100,000 codes 8,600 and 164.
    pub fn coarse_from(self) -> Option<usize> {
        Some(1 << 10)
    }

    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the build target has these vectors.
        unsafe { kernel.run::<F32x4>() }
    }

    #[inline]
    pub fn run_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        // SAFETY: the build target has these vectors.
        unsafe { kernel.run::<F32x4, wasm_bytes::Bytes>() }
    }
}

/// Four f32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F32x4(v128);

/// `a · b + c`, rounded once, of two lanes that were f32: the sum is rounded to odd in f64, as in
/// [`soft_fma32`](crate::simd::fma::soft_fma32), of which this is the form without branches.
#[inline(always)]
fn fma_of_two(a: v128, b: v128, c: v128) -> v128 {
    let product = f64x2_mul(a, b);
    let sum = f64x2_add(product, c);
    let back = f64x2_sub(sum, product);
    let error = f64x2_add(f64x2_sub(product, f64x2_sub(sum, back)), f64x2_sub(c, back));
    let zero = f64x2_splat(0.0);
    let (above, below) = (f64x2_gt(error, zero), f64x2_lt(error, zero));
    // Neither of them where the sum is exact, or where it is NaN or infinite and so the error NaN.
    let inexact = v128_or(above, below);
    // Towards zero, one less in the bits, where the error points there; then the last bit stands for the rest.
    let towards_zero = v128_and(v128_xor(above, f64x2_gt(sum, zero)), inexact);
    let odd = v128_or(i64x2_add(sum, towards_zero), v128_and(inexact, i64x2_splat(1)));
    f32x4_demote_f64x2_zero(odd)
}

// SAFETY (every block below): the build target has these vectors, and `Lanes` demands the validity of the pointers.
impl Lanes for F32x4 {
    const N: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(f32x4_splat(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(v128_load(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self {
        debug_assert!(n < 4);
        // SAFETY: see above: elements below n are read.
        unsafe {
            Self(match n {
                0 => f32x4_splat(0.0),
                1 => v128_load32_zero(p.cast()),
                2 => v128_load64_zero(p.cast()),
                _ => v128_load32_lane::<2>(v128_load64_zero(p.cast()), p.add(2).cast()),
            })
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe { v128_store(p.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize) {
        debug_assert!(n < 4);
        // SAFETY: see above: elements below n are written.
        unsafe {
            if n >= 2 {
                v128_store64_lane::<0>(self.0, p.cast());
            }
            match n {
                1 => v128_store32_lane::<0>(self.0, p.cast()),
                3 => v128_store32_lane::<2>(self.0, p.add(2).cast()),
                _ => {}
            }
        }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        let low = |lanes: Self| f64x2_promote_low_f32x4(lanes.0);
        let high = |lanes: Self| f64x2_promote_low_f32x4(i32x4_shuffle::<2, 3, 2, 3>(lanes.0, lanes.0));
        let [low, high] = [fma_of_two(low(self), low(b), low(c)), fma_of_two(high(self), high(b), high(c))];
        Self(i32x4_shuffle::<0, 1, 4, 5>(low, high))
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        Self(f32x4_sub(self.0, b.0))
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Self(f32x4_mul(self.0, b.0))
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        Self(f32x4_div(self.0, b.0))
    }
    #[inline(always)]
    unsafe fn max_keep(self, best: Self) -> Self {
        // best < self ? self : best
        Self(f32x4_pmax(best.0, self.0))
    }
    #[inline(always)]
    unsafe fn gt_mask(self, b: Self) -> u32 {
        u32::from(i32x4_bitmask(f32x4_gt(self.0, b.0)))
    }
    #[inline(always)]
    unsafe fn select_gt(self, b: Self, a: Self, otherwise: Self) -> Self {
        Self(v128_bitselect(a.0, otherwise.0, f32x4_gt(self.0, b.0)))
    }
}
