//! No tiles: a build target other than x86-64 Linux with `std`.

use crate::codebook::Line;
use crate::simd::Kernel;

/// Never had.
#[derive(Clone, Copy)]
pub(crate) enum Tiles {}

/// The scores of a part of the codes and their maxima; see `simd/amx.rs`.
pub(crate) struct Sweep {}

#[cfg(target_arch = "x86_64")]
pub(super) fn detected() -> bool {
    false
}

impl Tiles {
    #[cfg(target_arch = "x86_64")]
    pub fn ask() -> Option<Self> {
        None
    }

    pub fn run<K: Kernel>(self, _: K) -> K::Output {
        match self {}
    }
}

impl Sweep {
    pub fn new() -> Self {
        Self {}
    }

    pub fn maxima(&mut self, tiles: Tiles, _: &[Line], _: Option<&[f32]>, _: &[u32], _: usize, _: &mut [f32]) {
        match tiles {}
    }
}
