//! NEON: every aarch64 machine has it. Eight lanes in two registers; products of bytes where there are any.

mod neon_bytes;

use core::arch::aarch64::*;

use crate::simd::{DotKernel, Kernel, Lanes};

/// What detection may find; a value is proof of support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Neon,
    NeonI8mm,
    NeonDot,
}

impl Tier {
    pub const DOTS: bool = true;

    /// Slowest first; SMMLA's kind comes before SDOT, the one to be chosen, until a machine has timed it.
    pub fn available() -> impl Iterator<Item = Self> {
        let tiers = [(Self::Neon, true), (Self::NeonI8mm, has_i8mm()), (Self::NeonDot, has_dotprod())];
        tiers.into_iter().filter_map(|(tier, has)| has.then_some(tier))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Neon => "neon",
            Self::NeonI8mm => "neoni8mm",
            Self::NeonDot => "neondot",
        }
    }

    pub fn lanes(self) -> usize {
        Pair::N
    }

    /// As AVX-VNNI, whose bytes are as many times faster than its f32; not measured.
    pub fn coarse_from(self) -> Option<usize> {
        match self {
            // Four instructions for 16 products, which is no more than f32 takes.
            Self::Neon => None,
            Self::NeonI8mm | Self::NeonDot => Some(1 << 17),
        }
    }

    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the build target has NEON.
        unsafe { kernel.run::<Pair>() }
    }

    #[inline]
    pub fn run_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: the build target has NEON.
            Self::Neon => unsafe { kernel.run::<Pair, neon_bytes::Neon>() },
            // SAFETY: constructed only after `has_i8mm`.
            Self::NeonI8mm => unsafe { i8mm_entry(kernel) },
            // SAFETY: constructed only after `has_dotprod`.
            Self::NeonDot => unsafe { dot_entry(kernel) },
        }
    }
}

#[target_feature(enable = "dotprod")]
fn dot_entry<K: DotKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target feature is that of the type.
    unsafe { kernel.run::<Pair, neon_bytes::NeonDot>() }
}

#[target_feature(enable = "i8mm")]
fn i8mm_entry<K: DotKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target feature is that of the type.
    unsafe { kernel.run::<Pair, neon_bytes::NeonI8mm>() }
}

/// Whether the machine has products of matrices of bytes; without `std`, whether the build target has them.
fn has_i8mm() -> bool {
    #[cfg(feature = "std")]
    let has = std::arch::is_aarch64_feature_detected!("i8mm");
    #[cfg(not(feature = "std"))]
    let has = cfg!(target_feature = "i8mm");
    has
}

/// Whether the machine has dot products; without `std`, whether the build target has them.
fn has_dotprod() -> bool {
    #[cfg(feature = "std")]
    let has = std::arch::is_aarch64_feature_detected!("dotprod");
    #[cfg(not(feature = "std"))]
    let has = cfg!(target_feature = "dotprod");
    has
}

/// Two registers as one: the register tiles of the kernels, made for AVX2's 16, then fill NEON's 32.
#[derive(Clone, Copy)]
pub(super) struct Pair(float32x4_t, float32x4_t);

/// The first `n < 4` lanes from memory; the others are +0.
///
/// # Safety
/// `p` is readable for `n` elements.
#[inline(always)]
unsafe fn load_partial(p: *const f32, n: usize) -> float32x4_t {
    // SAFETY: the caller's claim: elements below n are read.
    unsafe {
        let zero = vdupq_n_f32(0.0);
        match n {
            0 => zero,
            1 => vsetq_lane_f32::<0>(p.read_unaligned(), zero),
            2 => vcombine_f32(vld1_f32(p), vdup_n_f32(0.0)),
            _ => vsetq_lane_f32::<2>(p.add(2).read_unaligned(), vcombine_f32(vld1_f32(p), vdup_n_f32(0.0))),
        }
    }
}

/// The first `n < 4` lanes to memory.
///
/// # Safety
/// `p` is writable for `n` elements.
#[inline(always)]
unsafe fn store_partial(lanes: float32x4_t, p: *mut f32, n: usize) {
    // SAFETY: the caller's claim: elements below n are written.
    unsafe {
        if n >= 2 {
            vst1_f32(p, vget_low_f32(lanes));
        }
        match n {
            1 => p.write_unaligned(vgetq_lane_f32::<0>(lanes)),
            3 => p.add(2).write_unaligned(vgetq_lane_f32::<2>(lanes)),
            _ => {}
        }
    }
}

/// Bit `l` is set where lane `l`, all ones or zero, is ones.
///
/// # Safety
/// None but NEON.
#[inline(always)]
unsafe fn mask(lanes: uint32x4_t) -> u32 {
    const BITS: [u32; 4] = [1, 2, 4, 8];
    // SAFETY: the build target has NEON; `BITS` has four elements.
    unsafe { vaddvq_u32(vandq_u32(lanes, vld1q_u32(BITS.as_ptr()))) }
}

// SAFETY (every block below): the build target has NEON, and `Lanes` demands the validity of the pointers.
impl Lanes for Pair {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(vdupq_n_f32(x), vdupq_n_f32(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(vld1q_f32(p), vld1q_f32(p.add(4))) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self {
        debug_assert!(n < 8);
        // SAFETY: see above.
        unsafe {
            if n < 4 {
                Self(load_partial(p, n), vdupq_n_f32(0.0))
            } else {
                Self(vld1q_f32(p), load_partial(p.add(4), n - 4))
            }
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe {
            vst1q_f32(p, self.0);
            vst1q_f32(p.add(4), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize) {
        debug_assert!(n < 8);
        // SAFETY: see above.
        unsafe {
            if n < 4 {
                store_partial(self.0, p, n);
            } else {
                vst1q_f32(p, self.0);
                store_partial(self.1, p.add(4), n - 4);
            }
        }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: see above. FMLA is fused.
        unsafe { Self(vfmaq_f32(c.0, self.0, b.0), vfmaq_f32(c.1, self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vsubq_f32(self.0, b.0), vsubq_f32(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vmulq_f32(self.0, b.0), vmulq_f32(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vdivq_f32(self.0, b.0), vdivq_f32(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn max_keep(self, best: Self) -> Self {
        // SAFETY: see above. FMAXNM returns the number where the other one is a quiet NaN.
        unsafe { Self(vmaxnmq_f32(self.0, best.0), vmaxnmq_f32(self.1, best.1)) }
    }
    #[inline(always)]
    unsafe fn gt_mask(self, b: Self) -> u32 {
        // SAFETY: see above.
        unsafe { mask(vcgtq_f32(self.0, b.0)) | mask(vcgtq_f32(self.1, b.1)) << 4 }
    }
    #[inline(always)]
    unsafe fn select_gt(self, b: Self, a: Self, otherwise: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            Self(
                vbslq_f32(vcgtq_f32(self.0, b.0), a.0, otherwise.0),
                vbslq_f32(vcgtq_f32(self.1, b.1), a.1, otherwise.1),
            )
        }
    }
}
