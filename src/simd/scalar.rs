//! One lane: any machine.

use super::{Lanes, fma32};

impl Lanes for f32 {
    const N: usize = 1;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        x
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's `p` is valid for one element.
        unsafe { p.read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_partial(_: *const f32, _: usize) -> Self {
        0.0
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's `p` is valid for one element.
        unsafe { p.write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, _: *mut f32, _: usize) {}
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        fma32(self, b, c)
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self - b
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self * b
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        self / b
    }
    #[inline(always)]
    unsafe fn max_keep(self, best: Self) -> Self {
        if self > best { self } else { best }
    }
    #[inline(always)]
    unsafe fn gt_mask(self, b: Self) -> u32 {
        u32::from(self > b)
    }
    #[inline(always)]
    unsafe fn select_gt(self, b: Self, a: Self, otherwise: Self) -> Self {
        if self > b { a } else { otherwise }
    }
}
