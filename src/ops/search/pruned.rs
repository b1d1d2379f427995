//! The pruned search: cells of codes that cannot hold the nearest one are left out.
//!
//! A cell's codes are unit vectors (of length at most `C`) within the angle θ of its centre u. A row at the angle α
//! from u is at least `α − θ` from each of them, so that no score of the cell is above `‖x‖·C·cos(α − θ)`, or 0 where
//! that is more than a right angle. With `t` a little below `S/(‖x‖·C)`, S the best score so far, `0 < t ≤ 1` and
//! `τ = arccos t`, the cell can only hold as good a code where `α ≤ θ + τ`, that is, as `θ + τ ≤ π`, where
//! `cos α ≥ t·cos θ − √(1 − t²)·sin θ`. `SLACK` covers every rounding on the way: those of `x·u` (a chain of at
//! most 16 f32 products, and the length of u, 1 but for the rounding of its elements: 2·10⁻⁶), of cosine, sine and root (each at most 10⁻⁶ off on the right
//! side), of this expression in f32 (3·10⁻⁷), and of the contract's score against the exact product (10⁻⁶).
//!
//! Cells that are visited are scored in integers; see [`coarse`](super::coarse) for the bound.

mod angles;
mod cells;

use super::coarse::{Block, Hard};
use super::kernel::{ActiveRows, Found};
use super::tally::{Counts, Search};
use super::top::Candidate;
use crate::codebook::caps::{Caps, LANES, MAX_CELLS};
use crate::codebook::{Line, PackedCodebook};
use crate::cpu::Cpu;
use crate::element::{Code, Element};
use crate::matrix::MatRef;
use crate::simd::{DotKernel, Dots, Lanes};
use angles::all_cells;
use cells::Pruning;

/// Rows that are searched together, so that a cell is read once for all of them that reach it.
pub(super) const BLOCK_ROWS: usize = 252;
/// Rows whose angles to the centres are computed together.
const TILE: usize = 4;
/// Words of a bit for each cell.
const WORDS: usize = MAX_CELLS / 64;

/// The caps, where the search is pruned by them.
pub(super) fn chosen<'a>(cpu: &Cpu, codebook: &'a PackedCodebook<&[Line]>) -> Option<Caps<'a>> {
    matches!(cpu.search(), Search::Auto | Search::Pruned).then(|| codebook.caps()).flatten()
}

/// [`search`](super::search()) on one part of the rows, pruned.
pub(super) struct Pruned<'a, E, C> {
    pub x: MatRef<'a, E>,
    pub weights: Option<&'a [f32]>,
    pub codebook: &'a PackedCodebook<&'a [Line]>,
    pub caps: Caps<'a>,
    pub found: Found<'a, C>,
    pub counts: &'a mut Counts,
}

impl<E: Element, C: Code> DotKernel for Pruned<'_, E, C> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes, D: Dots>(self) {
        // SAFETY: the number of steps; V and D by `run`'s caller.
        unsafe {
            match self.caps.steps() {
                1 => self.blocks::<V, D, 1>(),
                2 => self.blocks::<V, D, 2>(),
                3 => self.blocks::<V, D, 3>(),
                _ => self.blocks::<V, D, 4>(),
            }
        }
    }
}

impl<E: Element, C: Code> Pruned<'_, E, C> {
    /// # Safety
    /// `S` is the number of steps of the caps; the CPU supports `V` and `D`.
    #[inline(always)]
    unsafe fn blocks<V: Lanes, D: Dots, const S: usize>(self) {
        let Self { x, weights, codebook, caps, mut found, counts } = self;
        let dim = x.cols();
        let mut rows = ActiveRows::<E>::new(x, weights, BLOCK_ROWS);
        // SAFETY: V by the caller.
        let mut hard = unsafe { Hard::<V, BLOCK_ROWS>::new() };
        let mut pruning = Pruning::<S> {
            codebook,
            caps,
            dim,
            block: Block::new(),
            words: [[0; S]; BLOCK_ROWS],
            best: [Candidate::NONE; BLOCK_ROWS],
            reached: [[0; BLOCK_ROWS]; WORDS],
            visited: 0,
        };
        let mut angles = [[0.0f32; MAX_CELLS]; TILE];
        while let Some((indices, pointers)) = rows.next_block() {
            counts.rows += pointers.len();
            pruning.block.clear();
            for (first, tile) in (0..).step_by(TILE).zip(pointers.chunks(TILE)) {
                // A last tile that is not whole repeats its first row.
                let mut of_tile = [tile[0]; TILE];
                of_tile[..tile.len()].copy_from_slice(tile);
                // SAFETY: every pointer leads to dim elements; V, D and S by the caller.
                unsafe {
                    all_cells::<V>(&caps, &of_tile, dim, &mut angles);
                    pruning.begin::<V, D>(first, tile, &angles, &mut hard);
                }
            }
            // SAFETY: as above.
            unsafe { pruning.sweep::<D>() };
            pruning.block.sort();
            counts.rescored += pruning.block.len;
            counts.visited += core::mem::take(&mut pruning.visited) * LANES;
            for i in 0..pruning.block.len {
                const AHEAD: usize = 4;
                if i + AHEAD < pruning.block.len {
                    pruning.prefetch_kept(i + AHEAD);
                }
                let at = pruning.block.at[i] as usize;
                // SAFETY: as above.
                match unsafe { pruning.rescore::<V>(pointers[at], i, &mut counts.rescored) } {
                    Some(Candidate { score, code }) => found.put(indices[at], code, score),
                    None => hard.push(at),
                }
            }
            // SAFETY: as above.
            counts.exact += unsafe { hard.search(codebook, pointers, indices, dim, &mut found) };
        }
    }
}
