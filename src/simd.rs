//! One small vector trait under every kernel, and the choice of instruction set at run time.
//!
//! An algorithm is written once, generic over [`Lanes`], as a [`Kernel`]; the files below this one
//! hold the register types and no algorithm.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bytes;
mod dots;
mod fixed;
mod fma;
mod scalar;

pub(crate) use dots::Dots;
pub(crate) use fixed::{dots_q7, dots_q15};
pub(crate) use fma::fma32;

use crate::error::{Error, Result};

/// A register of f32 lanes.
///
/// Methods are `#[inline(always)]` and carry no `target_feature` of their own: they take on the
/// features of the entry (in [`Isa::run`]) that the kernel is inlined into.
///
/// # Safety (of every method)
/// The CPU must support the implementing type's instruction set. Pointers need no alignment but
/// must be valid for `N` elements (`n` for the partial forms).
pub(crate) trait Lanes: Copy {
    /// Number of lanes: 1, 8 or 16; always a divisor of 64.
    const N: usize;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// Lanes from `p[0..N]`.
    unsafe fn load(p: *const f32) -> Self;
    /// Lanes from `p[0..n]`, `n < N`; the others are +0.
    unsafe fn load_partial(p: *const f32, n: usize) -> Self;
    /// Lanes to `p[0..N]`.
    unsafe fn store(self, p: *mut f32);
    /// The first `n < N` lanes to `p[0..n]`.
    unsafe fn store_partial(self, p: *mut f32, n: usize);
    /// `self · b + c`, rounded once.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `self − b`.
    unsafe fn sub(self, b: Self) -> Self;
    /// `self · b`.
    unsafe fn mul(self, b: Self) -> Self;
    /// `self / b`.
    unsafe fn div(self, b: Self) -> Self;
    /// The larger of `self` (the candidate) and `best`; `best` where either is NaN.
    unsafe fn max_keep(self, best: Self) -> Self;
    /// Bit `l` is set where lane `l` of `self` is greater than that of `b`.
    unsafe fn gt_mask(self, b: Self) -> u32;
    /// Lane by lane `a` where `self > b`, else `otherwise`; bits are moved, not computed with.
    unsafe fn select_gt(self, b: Self, a: Self, otherwise: Self) -> Self;
}

/// An algorithm over [`Lanes`] with its arguments.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// Runs it on registers of type `V`; must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The CPU supports `V`'s instruction set.
    unsafe fn run<V: Lanes>(self) -> Self::Output;
}

/// An algorithm over [`Lanes`] and [`Dots`] with its arguments.
pub(crate) trait DotKernel {
    /// What it returns.
    type Output;
    /// Runs it on registers of types `V` and `D`; must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The CPU supports both types' instruction sets.
    unsafe fn run<V: Lanes, D: Dots>(self) -> Self::Output;
}

/// An instruction set that this machine can execute.
///
/// A value is proof of support: it comes from detection only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Tier);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Isa {
    /// One lane; any machine. Without a hardware FMA that is known at compile time, each FMA is an
    /// exact software one.
    pub const SCALAR: Self = Self(Tier::Scalar);

    /// Names that [`from_name`](Self::from_name) knows, on any machine.
    pub const NAMES: &'static [&'static str] = &["scalar", "avx2", "avx2vnni", "avx512", "avx512vnni"];

    /// AVX2 with FMA, where this machine has both.
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if has_avx2() {
            return Some(Self(Tier::Avx2));
        }
        None
    }

    /// AVX2 with FMA and AVX-VNNI, where this machine has all three.
    pub fn avx2_vnni() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if has_avx2() && has_avx_vnni() {
            return Some(Self(Tier::Avx2Vnni));
        }
        None
    }

    /// AVX-512 (F), where this machine has it beside AVX2 and FMA.
    pub fn avx512() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if has_avx2() && has_avx512() {
            return Some(Self(Tier::Avx512));
        }
        None
    }

    /// AVX-512 (F, BW, VNNI), where this machine has it beside AVX2 and FMA.
    pub fn avx512_vnni() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if has_avx2() && has_avx512() && has_avx512_vnni() {
            return Some(Self(Tier::Avx512Vnni));
        }
        None
    }

    /// The fastest that this machine has. Without `std` only what the build target guarantees is seen.
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Self::SCALAR)
    }

    /// All that this machine has, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let all = [Some(Self::SCALAR), Self::avx2(), Self::avx2_vnni(), Self::avx512(), Self::avx512_vnni()];
        all.into_iter().flatten()
    }

    /// By name, one of [`NAMES`](Self::NAMES), or `"auto"` for [`detect`](Self::detect).
    ///
    /// # Errors
    /// [`Error::Isa`] where the machine lacks it or the name is unknown.
    pub fn from_name(name: &str) -> Result<Self> {
        if name == "auto" {
            return Ok(Self::detect());
        }
        let known = Self::NAMES.iter().find(|&&known| known == name);
        let lacking =
            known.unwrap_or(&"instruction set of that name (scalar, avx2, avx2vnni, avx512, avx512vnni, auto)");
        Self::available().find(|isa| isa.name() == name).ok_or(Error::Isa { name: lacking })
    }

    /// One of [`NAMES`](Self::NAMES).
    pub fn name(self) -> &'static str {
        match self.0 {
            Tier::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2Vnni => "avx2vnni",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Vnni => "avx512vnni",
        }
    }

    /// Number of f32 lanes in a register.
    pub fn lanes(self) -> usize {
        match self.0 {
            Tier::Scalar => 1,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 | Tier::Avx2Vnni => 8,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 | Tier::Avx512Vnni => 16,
        }
    }

    /// Whether some tier of the build target multiplies bytes: elsewhere kernels of dot products are not compiled.
    pub(crate) const DOTS: bool = cfg!(target_arch = "x86_64");

    /// Whether it multiplies bytes faster than f32.
    pub(crate) fn has_dots(self) -> bool {
        match self.0 {
            Tier::Scalar => false,
            // Without VNNI the bytes of AVX2 are slower than 16 lanes of f32.
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => false,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 | Tier::Avx2Vnni | Tier::Avx512Vnni => true,
        }
    }

    /// Runs `kernel` on this instruction set's registers: the one dispatch of a call.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        assert_environment();
        match self.0 {
            // SAFETY: f32 lanes need no instruction set.
            Tier::Scalar => unsafe { kernel.run::<f32>() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: these are constructed only after `has_avx2`.
            Tier::Avx2 | Tier::Avx2Vnni => unsafe { avx2_entry(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: these are constructed only after `has_avx2` and `has_avx512`.
            Tier::Avx512 | Tier::Avx512Vnni => unsafe { avx512_entry(kernel) },
        }
    }

    /// [`run`](Self::run) for a kernel of dot products. Not inlined: their stack is large.
    #[inline(never)]
    pub(crate) fn run_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        assert_environment();
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: these are constructed only after `has_avx2`.
            Tier::Avx2 | Tier::Avx512 => unsafe { avx2_dots_entry(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: constructed only after `has_avx2` and `has_avx_vnni`.
            Tier::Avx2Vnni => unsafe { avx2_vnni_entry(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: constructed only after `has_avx2`, `has_avx512` and `has_avx512_vnni`.
            Tier::Avx512Vnni => unsafe { avx512_vnni_entry(kernel) },
            // SAFETY: single lanes need no instruction set.
            Tier::Scalar => unsafe { kernel.run::<f32, i32>() },
        }
    }
}

fn assert_environment() {
    debug_assert!(
        core::hint::black_box(f32::MIN_POSITIVE) * 0.5 != 0.0,
        "the contracts assume that subnormals are not flushed (FTZ/DAZ off)"
    );
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_entry<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the type.
    unsafe { kernel.run::<core::arch::x86_64::__m256>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f")]
fn avx512_entry<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the type.
    unsafe { kernel.run::<core::arch::x86_64::__m512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_dots_entry<K: DotKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the types.
    unsafe { kernel.run::<core::arch::x86_64::__m256, bytes::Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avxvnni")]
fn avx2_vnni_entry<K: DotKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the types.
    unsafe { kernel.run::<core::arch::x86_64::__m256, core::arch::x86_64::__m256i>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn avx512_vnni_entry<K: DotKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the types.
    unsafe { kernel.run::<core::arch::x86_64::__m512, core::arch::x86_64::__m512i>() }
}

/// Whether the machine has each of these features; without `std`, whether the build target has them.
#[cfg(target_arch = "x86_64")]
macro_rules! has {
    ($($feature:tt),*) => {{
        #[cfg(feature = "std")]
        let all = $(std::arch::is_x86_feature_detected!($feature) &&)* true;
        #[cfg(not(feature = "std"))]
        let all = cfg!(all($(target_feature = $feature),*));
        all
    }};
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    has!("avx2", "fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx_vnni() -> bool {
    has!("avxvnni")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has!("avx512f")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_vnni() -> bool {
    has!("avx512bw", "avx512vnni")
}

#[cfg(test)]
mod tests;
