//! No tiers of its own: an architecture that has only the scalar one.

use crate::simd::{DotKernel, Kernel};

/// Nothing to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {}

impl Tier {
    /// WebAssembly has no FMA, so that integers are many times faster. Microcontrollers have not the stack.
    pub const DOTS: bool = cfg!(target_family = "wasm");

    pub fn available() -> impl Iterator<Item = Self> {
        core::iter::empty()
    }

    pub fn name(self) -> &'static str {
        match self {}
    }

    pub fn lanes(self) -> usize {
        match self {}
    }

    pub fn coarse_from(self) -> Option<usize> {
        match self {}
    }

    pub fn run<K: Kernel>(self, _: K) -> K::Output {
        match self {}
    }

    pub fn run_dots<K: DotKernel>(self, _: K) -> K::Output {
        match self {}
    }
}
