//! The pruned search: cells of codes that cannot hold the nearest one are left out.
//!
//! A cell's codes are unit vectors (of length at most `C`) within the angle θ of its centre u. A row at the angle α
//! from u is at least `α − θ` from each of them, so that no score of the cell is above `‖x‖·C·cos(α − θ)`, or 0 where
//! that is more than a right angle. With `t` a little below `S/(‖x‖·C)`, S the best score so far, `0 < t ≤ 1` and
//! `τ = arccos t`, the cell can only hold as good a code where `α ≤ θ + τ`, that is, as `θ + τ ≤ π`, where
//! `cos α ≥ t·cos θ − √(1 − t²)·sin θ`. [`SLACK`] covers every rounding on the way: those of `x·u` (a chain of at
//! most 16 f32 products, and the length of u, 1 but for the rounding of its elements: 2·10⁻⁶), of cosine, sine and root (each at most 10⁻⁶ off on the right
//! side), of this expression in f32 (3·10⁻⁷), and of the contract's score against the exact product (10⁻⁶).
//!
//! Cells that are visited are scored in integers; see [`coarse`](super::coarse) for the bound.

use core::mem::MaybeUninit;

use super::coarse::{BLOCK_ROWS, Bits, Bound, Row, quantize};
use super::kernel::{ActiveRows, Found, Running, chains, nearest_block};
use super::tally::{Counts, Search};
use super::top::Candidate;
use crate::NO_CODE;
use crate::codebook::caps::{Caps, LANES, MAX_CELLS, MAX_DIM};
use crate::codebook::{Line, PANEL, PackedCodebook};
use crate::cpu::Cpu;
use crate::element::{Code, Element};
use crate::matrix::MatRef;
use crate::simd::{DotKernel, Dots, Lanes};

/// By how much a bound may be wrong: see above.
const SLACK: f32 = 1e-5;
/// Codes that a row may keep for the exact pass.
const KEPT: usize = 256;
/// Rows whose angles to the centres are computed together.
const TILE: usize = 4;

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
        let Self { x, weights, codebook, caps, mut found, counts } = self;
        let dim = x.cols();
        let mut rows = ActiveRows::<E>::new(x, weights, BLOCK_ROWS);
        // SAFETY: V by `run`'s caller.
        let mut running = [unsafe { Running::<V>::nothing() }; BLOCK_ROWS];
        let mut angles = [[0.0f32; MAX_CELLS]; TILE];
        let mut kept = [MaybeUninit::uninit(); KEPT];
        while let Some((indices, pointers)) = rows.next_block() {
            counts.rows += pointers.len();
            let (mut hard, mut hard_rows, mut hard_len) = ([0u32; BLOCK_ROWS], [core::ptr::null(); BLOCK_ROWS], 0);
            for (first, tile) in (0..).step_by(TILE).zip(pointers.chunks(TILE)) {
                // A last tile that is not whole repeats its first row.
                let mut of_tile = [tile[0]; TILE];
                of_tile[..tile.len()].copy_from_slice(tile);
                // SAFETY: every pointer leads to dim elements; V by `run`'s caller.
                unsafe { all_cells::<V>(&caps, &of_tile, dim, &mut angles) };
                for ((at, &x), angles) in (first..).zip(tile).zip(&angles) {
                    // SAFETY: as above.
                    let nearest = unsafe {
                        match caps.steps() {
                            1 => one_row::<V, D, 1>(codebook, &caps, x, dim, angles, &mut kept, counts),
                            2 => one_row::<V, D, 2>(codebook, &caps, x, dim, angles, &mut kept, counts),
                            3 => one_row::<V, D, 3>(codebook, &caps, x, dim, angles, &mut kept, counts),
                            _ => one_row::<V, D, 4>(codebook, &caps, x, dim, angles, &mut kept, counts),
                        }
                    };
                    match nearest {
                        Some((code, score)) => found.put(indices[at], code, score),
                        None => {
                            (hard[hard_len], hard_rows[hard_len]) = (at as u32, x);
                            hard_len += 1;
                        }
                    }
                }
            }
            counts.exact += hard_len;
            // SAFETY: as above.
            unsafe {
                nearest_block::<V>(
                    codebook,
                    &hard_rows[..hard_len],
                    dim,
                    &mut running[..hard_len],
                    |i, code, score| {
                        found.put(indices[hard[i] as usize], code, score);
                    },
                );
            }
        }
    }
}

/// `x · u` for every cell's centre u and each row of a tile.
///
/// # Safety
/// Each of `x` is readable for `dim` elements; the CPU supports `V`.
#[inline(always)]
unsafe fn all_cells<V: Lanes>(caps: &Caps, x: &[*const f32; TILE], dim: usize, angles: &mut [[f32; MAX_CELLS]; TILE]) {
    for panel in 0..caps.cells() / PANEL {
        let centres = caps.centres(panel).as_ptr();
        for first in (0..PANEL).step_by(2 * V::N) {
            // SAFETY: the caller's claims; a panel has dim × PANEL elements, and `first + 2 N ≤ PANEL`, or N is 1
            // and `first + 2 ≤ PANEL`.
            unsafe {
                let sums = chains::<V, TILE, 2>(x, centres, None, first, dim);
                for (sums, angles) in sums.into_iter().zip(angles.iter_mut()) {
                    for (v, sum) in sums.into_iter().enumerate() {
                        sum.store(angles.as_mut_ptr().add(panel * PANEL + first + v * V::N));
                    }
                }
            }
        }
    }
}

/// A code that came near a row's best one, and its integer score.
#[derive(Clone, Copy)]
struct Near {
    code: u32,
    score: i32,
}

/// What a row has kept: the first `count` are written.
struct KeptCodes<'a> {
    codes: &'a mut [MaybeUninit<Near>; KEPT],
    count: usize,
    best: i32,
    threshold: i32,
    margin: i32,
    overflow: bool,
}

impl KeptCodes<'_> {
    fn written(&mut self) -> &mut [Near] {
        let written = &mut self.codes[..self.count];
        // SAFETY: `count` counts those that were written, from the first on; the layouts are the same.
        unsafe { &mut *(core::ptr::from_mut(written) as *mut [Near]) }
    }

    fn raise(&mut self, threshold: i32) {
        self.threshold = self.threshold.max(threshold);
    }

    fn thin(&mut self) {
        let threshold = self.threshold;
        let written = self.written();
        let mut count = 0;
        for k in 0..written.len() {
            if written[k].score >= threshold {
                written[count] = written[k];
                count += 1;
            }
        }
        self.count = count;
    }

    /// Some lanes of a vector reach the threshold.
    #[cold]
    #[inline(never)]
    fn keep(&mut self, reached: u32, scores: &[i32; LANES], codes: &[u32]) {
        let lanes = Bits(reached);
        self.best = lanes.fold(self.best, |best, lane| best.max(scores[lane]));
        self.raise(self.best - self.margin);
        for lane in lanes {
            if scores[lane] < self.threshold || codes[lane] == NO_CODE {
                continue;
            }
            if self.count == KEPT {
                self.thin();
                if self.count == KEPT {
                    self.overflow = true;
                    return;
                }
            }
            self.codes[self.count].write(Near { code: codes[lane], score: scores[lane] });
            self.count += 1;
        }
    }
}

/// The nearest code of one row and its score, given `x · u` of every cell; none where it takes the f32 pass.
///
/// # Safety
/// `x` is readable for `dim` elements, the codebook's dimension; `S` is the number of steps of `caps`; the CPU
/// supports `V` and `D`.
#[inline(always)]
unsafe fn one_row<V: Lanes, D: Dots, const S: usize>(
    codebook: &PackedCodebook<&[Line]>,
    caps: &Caps,
    x: *const f32,
    dim: usize,
    angles: &[f32; MAX_CELLS],
    kept: &mut [MaybeUninit<Near>; KEPT],
    counts: &mut Counts,
) -> Option<(u32, f32)> {
    let mut words = [0i32; MAX_DIM / 4];
    // SAFETY: the caller's claim.
    let row = quantize::<D>(unsafe { core::slice::from_raw_parts(x, dim) }, &caps.header, &mut words)?;
    let mut kept = KeptCodes {
        codes: kept,
        count: 0,
        best: Row::NOTHING,
        threshold: Row::NOTHING,
        margin: row.margin,
        overflow: false,
    };
    let angles = &angles[..caps.cells()];
    // SAFETY: V by the caller.
    let nearest = unsafe { largest::<V>(angles) };
    // SAFETY: the caller's claims.
    unsafe { visit::<D, S>(caps, nearest, &words, &mut kept) };
    // The exact score of the best code so far, or of any: it need not be the best.
    let first =
        kept.written().iter().copied().reduce(|best, near| if near.score > best.score { near } else { best })?;
    // SAFETY: the caller's claims.
    let mut best = Candidate { score: unsafe { exact::<V>(codebook, x, dim, first.code) }?, code: first.code };
    counts.rescored += 1;
    kept.raise(row.reach(best.score));
    let cut = Cut::new(row.norm, caps.header.norm, best.score)?;
    // A bit for each cell, words at a time: a branch for each register would be guessed wrong too often.
    let mut reached = [0u64; MAX_CELLS / 64];
    let (cosines, sines) = (caps.cosines(), caps.sines());
    for from in (0..angles.len()).step_by(V::N) {
        // SAFETY: the lengths of cosines and sines are that of `angles`, a multiple of V::N.
        let lanes = unsafe { cut.reached::<V>(cosines, sines, angles, from) };
        reached[from / 64] |= u64::from(lanes) << (from % 64);
    }
    reached[nearest / 64] &= !(1 << (nearest % 64));
    for (word, mut cells) in reached.into_iter().enumerate() {
        while cells != 0 {
            // SAFETY: the caller's claims.
            unsafe { visit::<D, S>(caps, 64 * word + cells.trailing_zeros() as usize, &words, &mut kept) };
            cells &= cells - 1;
        }
    }
    if kept.overflow {
        return None;
    }
    for near in 0..kept.count {
        let Near { code, score } = kept.written()[near];
        if score >= kept.threshold && code != first.code {
            counts.rescored += 1;
            // SAFETY: the caller's claims.
            let other = Candidate { score: unsafe { exact::<V>(codebook, x, dim, code) }?, code };
            best = if best.behind(&other) { other } else { best };
            kept.raise(row.reach(best.score));
        }
    }
    Some((best.code, best.score))
}

/// The cell whose centre is nearest.
///
/// # Safety
/// The length of `angles` is a multiple of V::N; the CPU supports `V`.
#[inline(always)]
unsafe fn largest<V: Lanes>(angles: &[f32]) -> usize {
    let (mut best, mut cells) = ([f32::NEG_INFINITY; 16], [0.0f32; 16]);
    // SAFETY: the caller's claims; 16 ≥ V::N.
    unsafe {
        let (mut best_lanes, mut from_lanes) = (V::splat(f32::NEG_INFINITY), V::splat(0.0));
        for from in (0..angles.len()).step_by(V::N) {
            let lanes = V::load(angles.as_ptr().add(from));
            from_lanes = lanes.select_gt(best_lanes, V::splat(from as f32), from_lanes);
            best_lanes = lanes.max_keep(best_lanes);
        }
        best_lanes.store(best.as_mut_ptr());
        from_lanes.store(cells.as_mut_ptr());
    }
    let lane = (1..V::N).fold(0, |lane, l| if best[l] > best[lane] { l } else { lane });
    cells[lane] as usize + lane
}

/// Which cells a score excludes.
struct Cut {
    cosine: f32,
    sine: f32,
    norm: f32,
}

impl Cut {
    /// Of a row and codes of at most these lengths. None where the score is not positive: then angles say nothing.
    #[inline(always)]
    fn new(norm: f64, code_norm: f32, score: f32) -> Option<Self> {
        let t = f64::from(score) / (norm * f64::from(code_norm)) - 2e-6;
        let t = t.min(1.0);
        let positive = score > 0.0 && t > 0.0;
        positive.then(|| Self { cosine: t as f32, sine: (libm::sqrt(1.0 - t * t) + 1e-7) as f32, norm: norm as f32 })
    }

    /// Bit l is set where cell `from + l` may hold as good a code.
    ///
    /// # Safety
    /// `from + V::N` is at most the number of cells, the length of each slice; the CPU supports `V`.
    #[inline(always)]
    unsafe fn reached<V: Lanes>(&self, cosines: &[f32], sines: &[f32], angles: &[f32], from: usize) -> u32 {
        // SAFETY: the caller's claims.
        unsafe {
            let norm = V::splat(self.norm);
            let cosines = V::load(cosines.as_ptr().add(from));
            let sines = V::load(sines.as_ptr().add(from));
            // t·cos θ − √(1 − t²)·sin θ − slack, times the row's length.
            let sines = sines.mul_add(V::splat(self.sine), V::splat(SLACK));
            let bound = V::splat(self.cosine).mul(cosines).sub(sines).mul(norm);
            // Not less, so that NaN is visited.
            !bound.gt_mask(V::load(angles.as_ptr().add(from))) & ((1 << V::N) - 1)
        }
    }
}

/// The codes of one cell.
///
/// # Safety
/// `S` is the number of steps of `caps`; the CPU supports `D`.
#[inline(always)]
unsafe fn visit<D: Dots, const S: usize>(caps: &Caps, cell: usize, words: &[i32; MAX_DIM / 4], kept: &mut KeptCodes) {
    let vectors = caps.vectors(cell);
    if vectors.is_empty() {
        return;
    }
    let bytes = caps.bytes(vectors.clone());
    // SAFETY: D by the caller.
    let (mut best, threshold) = unsafe { (D::splat(i32::MIN), D::splat(kept.threshold)) };
    for bytes in bytes.chunks_exact(S * 4 * LANES) {
        for from in (0..LANES).step_by(D::N) {
            // SAFETY: the caller's claim; a vector has 64 bytes for each step, 4 for each lane.
            best = unsafe { best.larger(scores::<D, S>(bytes, from, words)) };
        }
    }
    // SAFETY: D by the caller.
    if unsafe { best.ge_mask(threshold) } == 0 {
        return;
    }
    for (vector, bytes) in vectors.zip(bytes.chunks_exact(S * 4 * LANES)) {
        for from in (0..LANES).step_by(D::N) {
            let mut sums = [0; LANES];
            // SAFETY: as above; 16 ≥ D::N.
            let reached = unsafe {
                let scores = scores::<D, S>(bytes, from, words);
                scores.store(sums.as_mut_ptr());
                scores.ge_mask(D::splat(kept.threshold))
            };
            if reached != 0 {
                kept.keep(reached, &sums, &caps.codes(vector)[from..]);
            }
        }
    }
}

/// The integer scores of a vector's lanes from `from` on.
///
/// # Safety
/// `bytes` has S times 64; `from + D::N ≤ 16`; the CPU supports `D`.
#[inline(always)]
unsafe fn scores<D: Dots, const S: usize>(bytes: &[u8], from: usize, words: &[i32; MAX_DIM / 4]) -> D {
    // SAFETY: the caller's claims.
    unsafe {
        let mut sum = D::splat(0);
        for (step, &word) in words[..S].iter().enumerate() {
            sum = sum.dot(D::load(bytes.as_ptr().add(4 * (step * LANES + from))), D::splat(word));
        }
        sum
    }
}

/// The contract's score of one code; none where there is no such code.
///
/// # Safety
/// `x` is readable for `dim` elements, the codebook's dimension; the CPU supports `V`.
#[inline(always)]
unsafe fn exact<V: Lanes>(codebook: &PackedCodebook<&[Line]>, x: *const f32, dim: usize, code: u32) -> Option<f32> {
    let code = code as usize;
    if code >= codebook.codes() {
        return None;
    }
    let (panel, mut score) = (codebook.panel(code / PANEL), [0.0; 16]);
    // SAFETY: the caller's claims; 16 ≥ V::N.
    unsafe {
        let mut sum = V::splat(0.0);
        for i in 0..dim {
            sum = V::splat(*x.add(i)).mul_add(V::splat(panel[i * PANEL + code % PANEL]), sum);
        }
        sum.store(score.as_mut_ptr());
    }
    Some(score[0])
}

#[cfg(test)]
mod tests {
    use core::f64::consts::FRAC_PI_2;

    use super::*;

    /// The proof's roundings at their worst, all on the wrong side: a cell that touches the angle is still visited; one
    /// that is clearly behind it is not.
    #[test]
    fn a_cell_is_visited_wherever_roundings_may_have_hidden_it() {
        let parts = if cfg!(miri) { 7 } else { 60 };
        let angle = move |k: i32| f64::from(k) / f64::from(parts) * FRAC_PI_2;
        let angles = (1..parts).flat_map(|i| (1..parts).map(move |j| [i, j].map(angle)));
        for ([theta, tau], norm) in angles.flat_map(|angles| [1.0, 1e-20, 3e15].map(|norm| (angles, norm))) {
            let score = norm * (libm::cos(tau) + 1e-6);
            let cut = Cut::new(norm, 1.0, score as f32).expect("the score is positive");
            let reached = |below: f64| {
                let [cosine, sine] = [libm::cos(theta) as f32, libm::sin(theta) as f32];
                let angle = (norm * (libm::cos(theta + tau) - below)) as f32;
                // SAFETY: one lane, and one cell.
                unsafe { cut.reached::<f32>(&[cosine], &[sine], &[angle], 0) == 1 }
            };
            assert!(reached(2e-6), "{theta} {tau} {norm}");
            assert!(!reached(1e-3), "{theta} {tau} {norm}");
        }
    }
}
