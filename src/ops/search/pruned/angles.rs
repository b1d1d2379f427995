//! The angles between rows and centres, and which cells they exclude.

use super::{TILE, WORDS};
use crate::codebook::PANEL;
use crate::codebook::caps::{Caps, MAX_CELLS};
use crate::ops::search::coarse::Row;
use crate::ops::search::kernel::chains;
use crate::simd::Lanes;

/// By how much a bound may be wrong: see [`pruned`](super).
const SLACK: f32 = 1e-5;

/// `x · u` for every cell's centre u and each row of a tile.
///
/// # Safety
/// Each of `x` is readable for `dim` elements; the CPU supports `V`.
#[inline(always)]
pub(super) unsafe fn all_cells<V: Lanes>(
    caps: &Caps,
    x: &[*const f32; TILE],
    dim: usize,
    angles: &mut [[f32; MAX_CELLS]; TILE],
) {
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

/// The cell whose centre is nearest.
///
/// # Safety
/// The length of `angles` is a multiple of 64; the CPU supports `V`.
#[inline(always)]
pub(super) unsafe fn largest<V: Lanes>(angles: &[f32]) -> usize {
    // Four chains, as each comparison waits for the one before.
    const CHAINS: usize = 4;
    let (mut best, mut cells) = ([f32::NEG_INFINITY; 16], [0.0f32; 16]);
    // SAFETY: the caller's claims; 16 ≥ V::N, and 64 is a multiple of 4 V::N.
    let lanes = unsafe {
        let (mut best_lanes, mut from_lanes) = ([V::splat(f32::NEG_INFINITY); CHAINS], [V::splat(0.0); CHAINS]);
        for first in (0..angles.len()).step_by(CHAINS * V::N) {
            for (chain, (best, cells)) in best_lanes.iter_mut().zip(&mut from_lanes).enumerate() {
                let from = first + chain * V::N;
                let lanes = V::load(angles.as_ptr().add(from));
                *cells = lanes.select_gt(*best, V::splat(from as f32), *cells);
                *best = lanes.max_keep(*best);
            }
        }
        let (mut largest, mut from) = (best_lanes[0], from_lanes[0]);
        for (best, cells) in best_lanes.into_iter().zip(from_lanes) {
            from = best.select_gt(largest, cells, from);
            largest = best.max_keep(largest);
        }
        largest.store(best.as_mut_ptr());
        from.store(cells.as_mut_ptr());
        // Without a branch for each lane, which would be guessed wrong.
        let largest_lane = best.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        !V::splat(largest_lane).gt_mask(largest) & ((1 << V::N) - 1)
    };
    let lane = lanes.trailing_zeros() as usize % 16;
    cells[lane] as usize + lane
}

/// Which cells a score excludes.
pub(super) struct Cut {
    cosine: f32,
    sine: f32,
    norm: f32,
}

impl Cut {
    /// Of `row` and the codes of `caps`. None where the score is not positive: then angles say nothing.
    #[inline(always)]
    pub fn new(row: &Row, caps: &Caps, score: f32) -> Option<Self> {
        Self::of(row.norm, caps.header.norm, score)
    }

    /// Of a row and codes of at most these lengths.
    #[inline(always)]
    fn of(norm: f64, code_norm: f32, score: f32) -> Option<Self> {
        let t = f64::from(score) / (norm * f64::from(code_norm)) - 2e-6;
        let t = t.min(1.0);
        let positive = score > 0.0 && t > 0.0;
        positive.then(|| Self {
            cosine: t as f32,
            sine: (crate::simd::sqrt(1.0 - t * t) + 1e-7) as f32,
            norm: norm as f32,
        })
    }

    /// A bit for each cell that may hold as good a code: words at a time, as a branch for each register would be guessed
    /// wrong too often.
    ///
    /// # Safety
    /// `angles` has the caps' number of cells; the CPU supports `V`.
    #[inline(always)]
    pub unsafe fn all<V: Lanes>(&self, caps: &Caps, angles: &[f32]) -> [u64; WORDS] {
        let (cosines, sines, mut all) = (caps.cosines(), caps.sines(), [0; WORDS]);
        for from in (0..angles.len()).step_by(V::N) {
            // SAFETY: the caller's claims; cosines and sines are as long, a multiple of V::N.
            let lanes = unsafe { self.reached::<V>(cosines, sines, angles, from) };
            all[from / 64] |= u64::from(lanes) << (from % 64);
        }
        all
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
            let cut = Cut::of(norm, 1.0, score as f32).expect("the score is positive");
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
