//! One small vector trait under every kernel, and the choice of instruction set at run time.
//!
//! An algorithm is written once, generic over [`Lanes`], as a [`Kernel`]; the files below this one
//! hold the register types and no algorithm.

mod dots;
mod fixed;
mod fma;
mod prefetch;
mod root;
mod scalar;

/// The architecture's own tiers: an enum `Tier` of what run-time detection may find.
#[cfg_attr(target_arch = "x86_64", path = "simd/x86.rs")]
#[cfg_attr(all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"), path = "simd/neon.rs")]
#[cfg_attr(all(target_arch = "wasm32", target_feature = "simd128"), path = "simd/wasm.rs")]
mod native;

/// Products of tiles: an uninhabited type where the build target has none.
#[cfg_attr(
    all(target_arch = "x86_64", target_pointer_width = "64", target_os = "linux", feature = "std", not(miri)),
    path = "simd/amx.rs"
)]
mod tiles;

pub(crate) use dots::Dots;
pub(crate) use fixed::{dots_q7, dots_q15};
pub(crate) use fma::fma32;
pub(crate) use prefetch::prefetch;
pub(crate) use root::{sqrt, sqrtf};
#[cfg(all(
    test,
    target_arch = "x86_64",
    target_pointer_width = "64",
    target_os = "linux",
    feature = "std",
    not(miri)
))]
pub(crate) use tiles::emulator;
pub(crate) use tiles::{Sweep, Tiles};

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
    /// Number of lanes: 1, 4, 8 or 16; always a divisor of 64.
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
    /// The larger of `self` (the candidate) and `best`, which is not NaN; `best` where `self` is NaN. No NaN is a
    /// signalling one: none comes out of arithmetic.
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
    Native(native::Tier),
}

impl Isa {
    /// One lane; any machine. Without a hardware FMA that is known at compile time, each FMA is an
    /// exact software one.
    pub const SCALAR: Self = Self(Tier::Scalar);

    /// Names that [`from_name`](Self::from_name) knows, on any machine.
    pub const NAMES: &'static [&'static str] =
        &["scalar", "avx2", "avx2vnni", "avx512", "avx512vnni", "amx", "neon", "neoni8mm", "neondot", "simd128"];

    /// AVX2 with FMA, where this machine has both.
    pub fn avx2() -> Option<Self> {
        Self::find("avx2")
    }

    /// AVX2 with FMA and AVX-VNNI, where this machine has all three.
    pub fn avx2_vnni() -> Option<Self> {
        Self::find("avx2vnni")
    }

    /// AVX-512 (F), where this machine has it beside AVX2 and FMA.
    pub fn avx512() -> Option<Self> {
        Self::find("avx512")
    }

    /// AVX-512 (F, BW, VNNI), where this machine has it beside AVX2 and FMA.
    pub fn avx512_vnni() -> Option<Self> {
        Self::find("avx512vnni")
    }

    /// AVX-512 (F, BW, VNNI) and AMX (tiles, and their products in bf16), where this machine has all of them and Linux.
    ///
    /// Finding it only looks. Linux is asked for the permission to use tiles by the first search that would; where it
    /// refuses, searches go on as [`avx512_vnni`](Self::avx512_vnni) does. Choose that one to opt out.
    pub fn amx() -> Option<Self> {
        Self::find("amx")
    }

    /// NEON: every little-endian aarch64 machine, but for targets without floating point.
    pub fn neon() -> Option<Self> {
        Self::find("neon")
    }

    /// NEON with the dot products of bytes (Armv8.2 FEAT_DotProd), where this machine has both.
    pub fn neon_dot() -> Option<Self> {
        Self::find("neondot")
    }

    /// NEON with the products of matrices of bytes (Armv8.6 FEAT_I8MM), where this machine has both.
    ///
    /// No machine has timed it yet, so [`detect`](Self::detect) prefers [`neon_dot`](Self::neon_dot).
    pub fn neon_i8mm() -> Option<Self> {
        Self::find("neoni8mm")
    }

    /// WebAssembly's 128-bit vectors, where the build target has them (`-C target-feature=+simd128`).
    pub fn simd128() -> Option<Self> {
        Self::find("simd128")
    }

    /// The fastest that this machine has. Without `std` only what the build target guarantees is seen.
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Self::SCALAR)
    }

    /// All that this machine has, slowest first as far as that was measured.
    pub fn available() -> impl Iterator<Item = Self> {
        let native = native::Tier::available().map(|tier| Self(Tier::Native(tier)));
        core::iter::once(Self::SCALAR).chain(native)
    }

    fn find(name: &str) -> Option<Self> {
        Self::available().find(|isa| isa.name() == name)
    }

    /// By name, one of [`NAMES`](Self::NAMES), or `"auto"` for [`detect`](Self::detect).
    ///
    /// # Errors
    /// [`Error::Isa`] where the machine lacks it or the name is unknown.
    pub fn from_name(name: &str) -> Result<Self> {
        if name == "auto" {
            return Ok(Self::detect());
        }
        const UNKNOWN: &str = "instruction set of that name \
            (scalar, avx2, avx2vnni, avx512, avx512vnni, amx, neon, neoni8mm, neondot, simd128, auto)";
        let lacking = Self::NAMES.iter().find(|&&known| known == name).unwrap_or(&UNKNOWN);
        Self::find(name).ok_or(Error::Isa { name: lacking })
    }

    /// One of [`NAMES`](Self::NAMES).
    pub fn name(self) -> &'static str {
        match self.0 {
            Tier::Scalar => "scalar",
            Tier::Native(tier) => tier.name(),
        }
    }

    /// Number of f32 lanes in a register, or in the registers that are used as one.
    pub fn lanes(self) -> usize {
        match self.0 {
            Tier::Scalar => 1,
            Tier::Native(tier) => tier.lanes(),
        }
    }

    /// Whether some tier of the build target gains by products of bytes: elsewhere kernels of them are not compiled.
    pub(crate) const DOTS: bool = native::Tier::DOTS;

    /// Elements of a codebook from which on multiplying bytes finds the nearest code sooner than f32 does; none
    /// where it never does.
    pub(crate) fn coarse_from(self) -> Option<usize> {
        match self.0 {
            // In WebAssembly an f32 takes a software FMA, and integers do not.
            Tier::Scalar => cfg!(target_family = "wasm").then_some(1 << 10),
            Tier::Native(tier) => tier.coarse_from(),
        }
    }

    /// The right to use products of tiles, where this instruction set has them and the operating system allows it.
    pub(crate) fn tiles(self) -> Option<Tiles> {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Tier::Native(native::Tier::Amx) => Tiles::ask(),
            _ => None,
        }
    }

    /// Runs `kernel` on this instruction set's registers: the one dispatch of a call.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        assert_environment();
        match self.0 {
            // SAFETY: f32 lanes need no instruction set.
            Tier::Scalar => unsafe { kernel.run::<f32>() },
            Tier::Native(tier) => tier.run(kernel),
        }
    }

    /// [`run`](Self::run) for a kernel of dot products. Not inlined: their stack is large.
    #[inline(never)]
    pub(crate) fn run_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        assert_environment();
        match self.0 {
            // SAFETY: single lanes need no instruction set.
            Tier::Scalar => unsafe { kernel.run::<f32, i32>() },
            Tier::Native(tier) => tier.run_dots(kernel),
        }
    }
}

fn assert_environment() {
    debug_assert!(
        core::hint::black_box(f32::MIN_POSITIVE) * 0.5 != 0.0,
        "the contracts assume that subnormals are not flushed (FTZ/DAZ off)"
    );
}

#[cfg(test)]
mod tests;
