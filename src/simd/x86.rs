//! AVX2 and AVX-512, with the dot products of bytes (VNNI) and without, and with AMX beside.

mod avx2;
mod avx512;
mod bytes;

use core::arch::x86_64::{__m256, __m256i, __m512, __m512i};

use crate::simd::{DotKernel, Kernel};

/// What detection may find; a value is proof of support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Avx2,
    Avx2Vnni,
    Avx512,
    Avx512Vnni,
    Amx,
}

impl Tier {
    pub const DOTS: bool = true;

    /// Slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let (avx2, avx512) = (has_avx2(), has_avx2() && has_avx512());
        let all = [
            (Self::Avx2, avx2),
            (Self::Avx2Vnni, avx2 && has_avx_vnni()),
            (Self::Avx512, avx512),
            (Self::Avx512Vnni, avx512 && has_avx512_vnni()),
            (Self::Amx, avx512 && has_avx512_vnni() && crate::simd::tiles::detected()),
        ];
        all.into_iter().filter_map(|(tier, has)| has.then_some(tier))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Avx2 => "avx2",
            Self::Avx2Vnni => "avx2vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
            Self::Amx => "amx",
        }
    }

    pub fn lanes(self) -> usize {
        match self {
            Self::Avx2 | Self::Avx2Vnni => 8,
            Self::Avx512 | Self::Avx512Vnni | Self::Amx => 16,
        }
    }

    /// Measured (`speed --search f32` and `coarse`, AVX-512, µs a row): 8 dimensions, 4,096 codes 0.64 and 1.66,
    /// 16,384 codes 1.9 and 1.3; 64 dimensions, 1,024 codes 1.3 and 1.9, 2,048 codes 2.2 and 1.4.
    pub fn coarse_from(self) -> Option<usize> {
        match self {
            // Without VNNI the bytes of AVX2 are slower than 16 lanes of f32.
            Self::Avx512 => None,
            Self::Avx2 | Self::Avx2Vnni | Self::Avx512Vnni | Self::Amx => Some(1 << 17),
        }
    }

    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: these are constructed only after `has_avx2`.
            Self::Avx2 | Self::Avx2Vnni => unsafe { avx2_entry(kernel) },
            // SAFETY: these are constructed only after `has_avx2` and `has_avx512`.
            Self::Avx512 | Self::Avx512Vnni | Self::Amx => unsafe { avx512_entry(kernel) },
        }
    }

    #[inline]
    pub fn run_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: these are constructed only after `has_avx2`.
            Self::Avx2 | Self::Avx512 => unsafe { avx2_dots_entry(kernel) },
            // SAFETY: constructed only after `has_avx2` and `has_avx_vnni`.
            Self::Avx2Vnni => unsafe { avx2_vnni_entry(kernel) },
            // SAFETY: constructed only after `has_avx2`, `has_avx512` and `has_avx512_vnni`.
            Self::Avx512Vnni | Self::Amx => unsafe { avx512_vnni_entry(kernel) },
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn avx2_entry<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the type.
    unsafe { kernel.run::<__m256>() }
}

#[target_feature(enable = "avx2,fma,avx512f")]
fn avx512_entry<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the type.
    unsafe { kernel.run::<__m512>() }
}

#[target_feature(enable = "avx2,fma")]
fn avx2_dots_entry<K: DotKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the types.
    unsafe { kernel.run::<__m256, bytes::Avx2>() }
}

#[target_feature(enable = "avx2,fma,avxvnni")]
fn avx2_vnni_entry<K: DotKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the types.
    unsafe { kernel.run::<__m256, __m256i>() }
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn avx512_vnni_entry<K: DotKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the types.
    unsafe { kernel.run::<__m512, __m512i>() }
}

/// Whether the machine has each of these features; without `std`, whether the build target has them.
macro_rules! has {
    ($($feature:tt),*) => {{
        #[cfg(feature = "std")]
        let all = $(std::arch::is_x86_feature_detected!($feature) &&)* true;
        #[cfg(not(feature = "std"))]
        let all = cfg!(all($(target_feature = $feature),*));
        all
    }};
}

fn has_avx2() -> bool {
    has!("avx2", "fma")
}

fn has_avx_vnni() -> bool {
    has!("avxvnni")
}

fn has_avx512() -> bool {
    has!("avx512f")
}

fn has_avx512_vnni() -> bool {
    has!("avx512bw", "avx512vnni")
}
