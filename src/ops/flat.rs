//! The sweep over a plain, row-major codebook: what floats and fixed point share.

use super::search::check_codebook;
use super::{check_rows, check_weights, weight};
use crate::element::{Code, check_width};
use crate::error::{Result, same};
use crate::matrix::MatRef;

/// Rows that one pass over the codebook serves: it is read, and for L2 its norms are computed, once for
/// them all. Small, since their running maxima lie on a microcontroller's stack.
pub(super) const BLOCK_ROWS: usize = 8;

/// Codes scored at a time: as many chains whose latencies overlap.
const TILE_CODES: usize = 4;

/// What a search of a plain codebook checks before anything is written.
pub(super) fn check<X, B, C: Code, S>(
    op: &'static str,
    x: &MatRef<X>,
    weights: Option<&[f32]>,
    codebook: &MatRef<B>,
    codes: &[C],
    scores: Option<&[S]>,
) -> Result<()> {
    check_codebook(op, codebook.rows(), codebook.cols())?;
    same(op, "columns of x", codebook.cols(), x.cols())?;
    same(op, "length of codes", x.rows(), codes.len())?;
    if let Some(scores) = scores {
        same(op, "length of scores", x.rows(), scores.len())?;
    }
    check_rows(op, x.rows())?;
    check_weights(op, weights, x.rows())?;
    check_width::<C>(codebook.rows())
}

/// How a row and a plain code are scored.
pub(super) trait Scoring {
    /// An element of a row.
    type X: Copy;
    /// An element of a code.
    type Element: Copy;
    /// A score; the highest wins.
    type Score: Copy + PartialOrd;
    /// What the scores of `code` start from.
    fn start(&self, code: &[Self::Element]) -> Self::Score;
    /// The scores of `codes`, each as long as `x`.
    fn scores<const N: usize>(
        &self,
        x: &[Self::X],
        codes: &[&[Self::Element]; N],
        starts: &[Self::Score; N],
    ) -> [Self::Score; N];
}

/// The best code of a row so far.
type Best<S> = Option<(u32, <S as Scoring>::Score)>;

/// Calls `put` with the best code of each row that has one: the highest score, of equal ones the lowest code.
#[inline(always)]
pub(super) fn sweep<S: Scoring>(
    scoring: &S,
    x: MatRef<S::X>,
    weights: Option<&[f32]>,
    codebook: MatRef<S::Element>,
    mut put: impl FnMut(usize, u32, S::Score),
) {
    let whole = codebook.rows() / TILE_CODES * TILE_CODES;
    for first in (0..x.rows()).step_by(BLOCK_ROWS) {
        let rows = x.rows_from(first, BLOCK_ROWS);
        let weights = weights.map(|w| &w[first..first + rows.rows()]);
        let mut best: [Best<S>; BLOCK_ROWS] = [None; BLOCK_ROWS];
        for k in (0..whole).step_by(TILE_CODES) {
            tile::<S, TILE_CODES>(scoring, rows, weights, codebook, k, &mut best);
        }
        for k in whole..codebook.rows() {
            tile::<S, 1>(scoring, rows, weights, codebook, k, &mut best);
        }
        for (i, best) in best.into_iter().enumerate() {
            if let Some((code, score)) = best {
                put(first + i, code, score);
            }
        }
    }
}

/// Codes `k..k + N` against a block of rows.
#[inline(always)]
fn tile<S: Scoring, const N: usize>(
    scoring: &S,
    rows: MatRef<S::X>,
    weights: Option<&[f32]>,
    codebook: MatRef<S::Element>,
    k: usize,
    best: &mut [Best<S>; BLOCK_ROWS],
) {
    // Loops, not closures, which would not take on the instruction set of the kernel's entry.
    let mut codes: [&[S::Element]; N] = [&[]; N];
    for (j, code) in codes.iter_mut().enumerate() {
        *code = codebook.row(k + j);
    }
    let mut starts = [scoring.start(codes[0]); N];
    for (start, code) in starts.iter_mut().zip(codes).skip(1) {
        *start = scoring.start(code);
    }
    for (row, best) in best.iter_mut().enumerate().take(rows.rows()) {
        if weight(weights, row) == 0.0 {
            continue;
        }
        let scores = scoring.scores(rows.row(row), &codes, &starts);
        for (j, &score) in scores.iter().enumerate() {
            let better = match best {
                Some((_, highest)) => score > *highest,
                // Not NaN.
                None => score.partial_cmp(&score).is_some(),
            };
            if better {
                *best = Some(((k + j) as u32, score));
            }
        }
    }
}
