//! A block of rows on its way through the cells.

use super::angles::{Cut, largest};
use super::{BLOCK_ROWS, TILE, WORDS};
use crate::NO_CODE;
use crate::codebook::caps::{Caps, LANES, MAX_CELLS};
use crate::codebook::{Line, PANEL, PackedCodebook};
use crate::ops::search::coarse::{Bits, Block, Bound, Hard, Near, Row, quantize};
use crate::ops::search::top::Candidate;
use crate::simd::{Dots, Lanes, prefetch};

/// Rows that visit a cell together.
const VISITORS: usize = 4;

/// The rows of a block on their way through the cells.
pub(super) struct Pruning<'a, const S: usize> {
    pub codebook: &'a PackedCodebook<&'a [Line]>,
    pub caps: Caps<'a>,
    pub dim: usize,
    /// What is kept are single codes.
    pub block: Block<Row, BLOCK_ROWS>,
    /// The rows in integers.
    pub words: [[i32; S]; BLOCK_ROWS],
    /// The best code so far by its exact score; no code where a row takes the f32 pass.
    pub best: [Candidate; BLOCK_ROWS],
    /// Which cells may hold a better one, a bit for each.
    pub reached: [[u64; BLOCK_ROWS]; WORDS],
    /// Vectors that were scored, counted once for each row.
    pub visited: usize,
}

impl<const S: usize> Pruning<'_, S> {
    /// The nearest cell of each row of a tile, from row `first` of the block on, and the cells that its best code leaves.
    ///
    /// # Safety
    /// Each of `tile` is readable for `dim` elements; `S` is the number of steps of the caps; the CPU supports `V` and `D`.
    #[inline(always)]
    pub unsafe fn begin<V: Lanes, D: Dots>(
        &mut self,
        first: usize,
        tile: &[*const f32],
        angles: &[[f32; MAX_CELLS]; TILE],
        hard: &mut Hard<V, BLOCK_ROWS>,
    ) {
        let from = self.block.len;
        let (mut x, mut of_row, mut nearest) = ([core::ptr::null(); TILE], [&angles[0][..]; TILE], [0; TILE]);
        for ((at, &pointer), angles) in (first..).zip(tile).zip(angles) {
            let i = self.block.len;
            // SAFETY: the caller's claim.
            let row = unsafe { core::slice::from_raw_parts(pointer, self.dim) };
            let Some(row) = quantize::<D>(row, &self.caps.header, &mut self.words[i]) else {
                hard.push(at);
                continue;
            };
            self.block.push(at, row);
            let angles = &angles[..self.caps.cells()];
            // SAFETY: the caller's claims.
            let cell = unsafe { largest::<V>(angles) };
            (x[i - from], of_row[i - from], nearest[i - from]) = (pointer, angles, cell);
            self.caps.bytes(self.caps.vectors(cell)).iter().step_by(64).for_each(|byte| prefetch(byte));
        }
        // Row after row in several loops, so that their ways from memory overlap.
        for i in from..self.block.len {
            // SAFETY: the caller's claims.
            let code = unsafe { self.visit::<D, 1>(nearest[i - from], [i]) };
            self.best[i] = Candidate { code, ..Candidate::NONE };
            self.prefetch(code);
        }
        for i in from..self.block.len {
            // SAFETY: the caller's claims.
            self.best[i] = unsafe { self.exact::<V>(x[i - from], self.best[i].code) };
        }
        for i in from..self.block.len {
            let (row, score) = (self.block.rows[i], self.best[i].score);
            let Some(cut) = Cut::new(&row, &self.caps, score) else {
                self.best[i] = Candidate::NONE;
                self.reached.iter_mut().for_each(|word| word[i] = 0);
                continue;
            };
            self.block.demand(i, row.reach(score));
            // SAFETY: the caller's claims.
            let reached = unsafe { cut.all::<V>(&self.caps, of_row[i - from]) };
            self.reached.iter_mut().zip(reached).for_each(|(word, cells)| word[i] = cells);
            let nearest = nearest[i - from];
            self.reached[nearest / 64][i] &= !(1 << (nearest % 64));
        }
    }

    /// Every cell, for all rows that it may hold a better code of.
    ///
    /// # Safety
    /// As [`begin`](Self::begin).
    #[inline(always)]
    pub unsafe fn sweep<D: Dots>(&mut self) {
        let mut rows = [[0u8; BLOCK_ROWS]; 64];
        for word in 0..self.caps.cells() / 64 {
            let mut len = [0usize; 64];
            for i in 0..self.block.len {
                let mut cells = self.reached[word][i];
                while cells != 0 {
                    let cell = cells.trailing_zeros() as usize;
                    rows[cell][len[cell]] = i as u8;
                    len[cell] += 1;
                    cells &= cells - 1;
                }
            }
            for (cell, (rows, len)) in (64 * word..).zip(rows.iter().zip(len)) {
                self.visited += len * self.caps.vectors(cell).len();
                for rows in rows[..len].chunks(VISITORS) {
                    // Those that are missing are the first one again.
                    let rows: [usize; VISITORS] = core::array::from_fn(|r| *rows.get(r).unwrap_or(&rows[0]) as usize);
                    // SAFETY: the caller's claims.
                    unsafe { self.visit::<D, VISITORS>(cell, rows) };
                }
            }
        }
    }

    /// Keeps the codes of a cell that come near the best ones of some rows; the best of the last row's by its coarse score.
    ///
    /// # Safety
    /// As [`begin`](Self::begin).
    #[inline(always)]
    unsafe fn visit<D: Dots, const R: usize>(&mut self, cell: usize, rows: [usize; R]) -> u32 {
        let vectors = self.caps.vectors(cell);
        let (bytes, words) = (self.caps.bytes(vectors.clone()), rows.map(|i| self.words[i]));
        let mut maxima = [[i32::MIN; LANES]; R];
        // SAFETY: D by the caller; a vector has 64 bytes for each step, 4 for each lane; 16 ≥ D::N.
        let mut reached = unsafe {
            let mut best = [D::splat(i32::MIN); R];
            for bytes in bytes.chunks_exact(S * 4 * LANES) {
                for from in (0..LANES).step_by(D::N) {
                    for (best, scores) in best.iter_mut().zip(scores::<D, R, S>(bytes, from, &words)) {
                        *best = best.larger(scores);
                    }
                }
            }
            best.iter().zip(&mut maxima).for_each(|(best, maxima)| best.store(maxima.as_mut_ptr()));
            (0..R).fold(0, |any, r| any | u32::from(best[r].ge_mask(D::splat(self.block.threshold[rows[r]])) != 0) << r)
        };
        let mut found = NO_CODE;
        while reached != 0 {
            let r = reached.trailing_zeros() as usize;
            // A row that stands for missing ones comes once.
            reached &= if rows[r] == rows[0] {
                !(0..R).fold(0, |all, q| all | u32::from(rows[q] == rows[0]) << q)
            } else {
                reached - 1
            };
            self.block.raise(rows[r], maxima[r].into_iter().fold(i32::MIN, i32::max));
            // SAFETY: the caller's claims.
            found = unsafe { self.keep_cell::<D>(vectors.clone(), rows[r]) };
        }
        found
    }

    /// Keeps the codes of some vectors that come near row `i`'s best one; the one of them with the best coarse score.
    ///
    /// # Safety
    /// As [`begin`](Self::begin).
    #[inline(always)]
    unsafe fn keep_cell<D: Dots>(&mut self, vectors: core::ops::Range<usize>, i: usize) -> u32 {
        let words = [self.words[i]];
        let (bytes, mut sums) = (self.caps.bytes(vectors.clone()), [i32::MIN; LANES]);
        let mut found = Near { group: NO_CODE, score: i32::MIN };
        for (vector, bytes) in vectors.zip(bytes.chunks_exact(S * 4 * LANES)) {
            for from in (0..LANES).step_by(D::N) {
                // SAFETY: as in `visit`; 16 ≥ D::N.
                let reached = unsafe {
                    let [scores] = scores::<D, 1, S>(bytes, from, &words);
                    scores.store(sums.as_mut_ptr());
                    scores.ge_mask(D::splat(self.block.threshold[i]))
                };
                if reached != 0 {
                    keep(&mut self.block, i, reached, &sums, &self.caps.codes(vector)[from..], &mut found);
                }
            }
        }
        found.group
    }

    /// The elements of a code, if there is such a one.
    #[inline(always)]
    fn prefetch(&self, code: u32) {
        let at = code as usize;
        if at < self.codebook.codes() {
            self.codebook.panel(at / PANEL)[at % PANEL..].iter().step_by(PANEL).for_each(|c| prefetch(c));
        }
    }

    /// The contract's score of one code; no code where there is none of that number.
    ///
    /// # Safety
    /// `x` is readable for `dim` elements; the CPU supports `V`.
    #[inline(always)]
    unsafe fn exact<V: Lanes>(&self, x: *const f32, code: u32) -> Candidate {
        let at = code as usize;
        if at >= self.codebook.codes() {
            return Candidate::NONE;
        }
        let (panel, mut score) = (self.codebook.panel(at / PANEL), [0.0; 16]);
        // SAFETY: the caller's claims; 16 ≥ V::N.
        unsafe {
            let mut sum = V::splat(0.0);
            for i in 0..self.dim {
                sum = V::splat(*x.add(i)).mul_add(V::splat(panel[i * PANEL + at % PANEL]), sum);
            }
            sum.store(score.as_mut_ptr());
        }
        Candidate { score: score[0], code }
    }

    /// The codes that row `i` has kept.
    #[inline(always)]
    pub fn prefetch_kept(&self, i: usize) {
        self.block.near(i).iter().for_each(|near| self.prefetch(near.group));
    }

    /// The nearest code of row `i`, from what was kept; none where it takes the f32 pass.
    ///
    /// # Safety
    /// As [`exact`](Self::exact).
    #[inline(always)]
    pub unsafe fn rescore<V: Lanes>(&self, x: *const f32, i: usize, rescored: &mut usize) -> Option<Candidate> {
        let mut best = self.best[i];
        if best.code == NO_CODE || self.block.threshold[i] == Row::NEVER {
            return None;
        }
        let (row, first) = (&self.block.rows[i], best.code);
        let mut reach = row.reach(best.score);
        for near in self.block.near(i) {
            if near.score >= reach && near.group != first {
                *rescored += 1;
                // SAFETY: the caller's claims.
                let other = unsafe { self.exact::<V>(x, near.group) };
                if other.code == NO_CODE {
                    return None;
                }
                if best.behind(&other) {
                    best = other;
                    reach = row.reach(best.score);
                }
            }
        }
        Some(best)
    }
}

/// Some lanes of a vector reach row `i`'s threshold.
#[cold]
#[inline(never)]
fn keep(
    block: &mut Block<Row, BLOCK_ROWS>,
    i: usize,
    reached: u32,
    scores: &[i32; LANES],
    codes: &[u32],
    best: &mut Near<i32>,
) {
    for lane in Bits(reached) {
        let near = Near { group: codes[lane], score: scores[lane] };
        if near.group != NO_CODE {
            block.keep(i, near);
            *best = if near.score > best.score { near } else { *best };
        }
    }
}

/// The integer scores of a vector's lanes from `from` on, for `R` rows.
///
/// # Safety
/// `bytes` has S times 64; `from + D::N ≤ 16`; the CPU supports `D`.
#[inline(always)]
unsafe fn scores<D: Dots, const R: usize, const S: usize>(bytes: &[u8], from: usize, words: &[[i32; S]; R]) -> [D; R] {
    // SAFETY: the caller's claims.
    unsafe {
        let mut sums = [D::splat(0); R];
        for step in 0..S {
            let codes = D::load(bytes.as_ptr().add(4 * (step * LANES + from)));
            for (sum, words) in sums.iter_mut().zip(words) {
                *sum = sum.dot(codes, D::splat(words[step]));
            }
        }
        sums
    }
}
