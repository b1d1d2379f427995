//! What searches did beside finding codes: for measurements.

/// How rows and codes are searched. The codes found never depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Search {
    /// The fastest way for the shape, the codebook and the machine.
    #[default]
    Auto,
    /// Every score in f32.
    F32,
    /// Only cells of codes that could hold the nearest one, where the codebook is
    /// [packed](crate::Packing::Caps) in cells.
    Pruned,
    /// Integer scores first, where the codebook is [packed](crate::Packing::Int8) for it; only codes that
    /// come near a row's best are scored in f32. Slow where the machine has no instruction for it. Scores in bf16
    /// instead, where the codebook is [packed](crate::Packing::Bf16) for AMX and it [may be used](crate::Isa::amx()).
    Coarse,
}

/// What one part of a search did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub rows: usize,
    pub rescored: usize,
    pub exact: usize,
    pub visited: usize,
}

/// Counts what the coarse passes of searches did: give it to
/// [`Cpu::with_tally`](crate::Cpu::with_tally).
#[cfg(target_has_atomic = "ptr")]
#[derive(Debug, Default)]
pub struct Tally {
    rows: core::sync::atomic::AtomicUsize,
    rescored: core::sync::atomic::AtomicUsize,
    exact: core::sync::atomic::AtomicUsize,
    visited: core::sync::atomic::AtomicUsize,
}

#[cfg(target_has_atomic = "ptr")]
impl Tally {
    pub(crate) fn add(&self, counts: Counts) {
        use core::sync::atomic::Ordering::Relaxed;
        self.rows.fetch_add(counts.rows, Relaxed);
        self.rescored.fetch_add(counts.rescored, Relaxed);
        self.exact.fetch_add(counts.exact, Relaxed);
        self.visited.fetch_add(counts.visited, Relaxed);
    }

    /// Rows that took a coarse pass or were pruned, those included that ended in f32.
    pub fn rows(&self) -> usize {
        self.rows.load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Codes that were scored again in f32 after it, over all rows.
    pub fn rescored_codes(&self) -> usize {
        self.rescored.load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Rows of those for which every code was scored in f32 after all.
    pub fn exact_rows(&self) -> usize {
        self.exact.load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Codes in the cells that pruned rows visited beside their nearest one, over all rows: what pruning costs. Padding is
    /// counted as codes.
    pub fn visited_codes(&self) -> usize {
        self.visited.load(core::sync::atomic::Ordering::Relaxed)
    }
}
