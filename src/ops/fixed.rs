//! The nearest code of each fixed-point row, exactly: contract B.
//!
//! x: `[rows, dim]`, codebook: `[K, dim]`, row after row, both q7 (`i8`) or both q15 (`i16`); codes: `[rows]`.
//!
//! Score: `Σ x[i]·c[k][i]`, for [`Metric::L2`] `2 Σ x[i]·c[k][i] − Σ c[k][i]²` (so the squared distance is
//! `Σ x[i]² − s`), as a whole number: nothing is rounded and nothing overflows up to [`MAX_DIM`](crate::MAX_DIM)
//! dimensions (|s| < 2⁴⁴). The highest score wins; among equals the lowest code. A row whose weight is zero gets
//! [`NO_CODE`] and the score `i64::MIN`. Any machine gives the same codes; they differ from those that
//! [`search`](super::search()) finds for the floats behind them, as rounding to fixed point moves rows and codes.
//!
//! Under [`Metric::Cosine`] rows and codes may have scales of their own; under [`Metric::L2`] they must share one.
//!
//! How: eight rows at a time, four codes side by side; on a Cortex-M with the feature `cortex-m-dsp` two products
//! an instruction (SMLAD for q7, SMLALD for q15). Cost: `K·dim` multiply-adds a row, and for L2 as many again for
//! eight rows; no memory but the outputs and some hundred bytes of stack.

use super::flat::{BLOCK_ROWS, Scoring, check, sweep};
use crate::NO_CODE;
use crate::codebook::Metric;
use crate::cpu::{Cpu, Disjoint};
use crate::element::{Code, Element, Fixed};
use crate::error::{Error, Result, same};
use crate::matrix::{MatMut, MatRef};
use core::marker::PhantomData;

const OP: &str = "search_fixed";

/// The nearest code of each row of `x` `[rows, dim]` in a plain `codebook` `[K, dim]`, into `codes` `[rows]`,
/// and its score into `scores` `[rows]` where that is given.
///
/// Rows of weight zero are not searched.
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::Empty`] and [`Error::TooLarge`] for codebooks that
/// cannot be, [`Error::Value`] for weights outside `0..=1`, [`Error::CodeWidth`] where `codes`' type cannot
/// number all codes.
///
/// ```
/// use vq_kernels::{Cpu, MatRef, Metric, ops};
/// static CODEBOOK: [i8; 6] = [127, 0, 0, 127, 76, 102]; // 3 codes of 2 dimensions, in flash
/// let (codebook, mut code) = (MatRef::new(&CODEBOOK, 3, 2)?, [0u16]);
/// ops::search_fixed(&Cpu::new(), MatRef::new(&[64i8, 114], 1, 2)?, None, codebook, Metric::Cosine, &mut code, None)?;
/// assert_eq!(code, [2]);
/// # Ok::<(), vq_kernels::Error>(())
/// ```
pub fn search_fixed<F: Fixed, C: Code>(
    cpu: &Cpu,
    x: MatRef<F>,
    weights: Option<&[f32]>,
    codebook: MatRef<F>,
    metric: Metric,
    codes: &mut [C],
    scores: Option<&mut [i64]>,
) -> Result<()> {
    check(OP, &x, weights, &codebook, codes, scores.as_deref())?;
    let (codes, scores) = (Disjoint::new(codes), scores.map(Disjoint::new));
    cpu.divide(x.rows(), BLOCK_ROWS, &|first, count| {
        let x = x.rows_from(first, count);
        let weights = weights.map(|w| &w[first..first + count]);
        // SAFETY: `divide` gives every row to one part.
        let codes = unsafe { codes.range(first, count) };
        // SAFETY: as above.
        let mut scores = scores.as_ref().map(|scores| unsafe { scores.range(first, count) });
        codes.fill(C::from_u32(NO_CODE));
        if let Some(scores) = &mut scores {
            scores.fill(i64::MIN);
        }
        sweep(&Integers { metric, element: PhantomData }, x, weights, codebook, |row, code, score| {
            codes[row] = C::from_u32(code);
            if let Some(scores) = &mut scores {
                scores[row] = score;
            }
        });
    });
    Ok(())
}

/// The textbook loops of [`search_fixed`]. No weights: a masked row's code is overwritten afterwards.
///
/// # Panics
/// Where the extents differ.
pub fn reference<F: Fixed>(
    x: MatRef<F>,
    codebook: MatRef<F>,
    metric: Metric,
    codes: &mut [u32],
    mut scores: Option<&mut [i64]>,
) {
    for (row, code) in codes.iter_mut().enumerate() {
        let mut best = None;
        for k in 0..codebook.rows() {
            let score = reference_score(x.row(row), codebook.row(k), metric);
            if best.is_none_or(|(highest, _)| score > highest) {
                best = Some((score, k as u32));
            }
        }
        let (score, k) = best.unwrap_or((i64::MIN, NO_CODE));
        *code = k;
        if let Some(scores) = &mut scores {
            scores[row] = score;
        }
    }
}

/// One row's score of one code, as the contract defines it; elements beyond the shorter are left out.
pub fn reference_score<F: Fixed>(x: &[F], code: &[F], metric: Metric) -> i64 {
    let dot = |a: &[F]| a.iter().zip(code).map(|(&a, &c)| a.into() * c.into()).sum::<i64>();
    match metric {
        Metric::Cosine => dot(x),
        Metric::L2 => 2 * dot(x) - dot(code),
    }
}

/// Rows to fixed point: `out = x·scale`, the exact product rounded once, ties to even; beyond the type's ends,
/// the end. For q7 a scale of 127 takes unit rows to all of the range, for q15 one of 32,767.
///
/// # Errors
/// [`Error::Shape`] where the extents differ; [`Error::Config`] unless `scale` is finite and above zero;
/// [`Error::Value`] for NaN, with nothing written.
///
/// ```
/// use vq_kernels::{Cpu, MatMut, MatRef, ops};
/// let (x, mut out) = ([0.5f32, -1.0, 2.5 / 127.0, 9.0], [0i8; 4]);
/// ops::to_fixed(&Cpu::new(), MatRef::new(&x, 2, 2)?, 127.0, MatMut::new(&mut out, 2, 2)?)?;
/// assert_eq!(out, [64, -127, 2, 127]); // 63.5 and 2.5 are ties
/// # Ok::<(), vq_kernels::Error>(())
/// ```
pub fn to_fixed<E: Element, F: Fixed>(cpu: &Cpu, x: MatRef<E>, scale: f32, mut out: MatMut<F>) -> Result<()> {
    const OP: &str = "to_fixed";
    same(OP, "rows of out", x.rows(), out.rows())?;
    same(OP, "columns of out", x.cols(), out.cols())?;
    check_scale(scale)?;
    if let Some(index) = x.data().iter().position(|x| x.to_f32().is_nan()) {
        return Err(Error::Value { op: OP, arg: "x", index, expected: "a number" });
    }
    let (dim, out) = (x.cols(), Disjoint::new(out.data()));
    cpu.divide(x.rows(), super::ROW_BLOCK, &|first, count| {
        // SAFETY: `divide` gives every row to one part.
        let out = unsafe { out.range(first * dim, count * dim) };
        for (out, x) in out.iter_mut().zip(x.rows_from(first, count).data()) {
            // The product of two f32 is exact in f64.
            *out = F::nearest(f64::from(x.to_f32()) * f64::from(scale));
        }
    });
    Ok(())
}

/// A scale that fixed point can have.
pub(crate) fn check_scale(scale: f32) -> Result<()> {
    match scale.is_finite() && scale > 0.0 {
        true => Ok(()),
        false => Err(Error::Config { field: "scale", expected: "a finite number above 0" }),
    }
}

/// Scores in integers.
struct Integers<F> {
    metric: Metric,
    element: PhantomData<F>,
}

impl<F: Fixed> Scoring for Integers<F> {
    type X = F;
    type Element = F;
    type Score = i64;

    #[inline(always)]
    fn start(&self, code: &[F]) -> i64 {
        match self.metric {
            Metric::Cosine => 0,
            Metric::L2 => -F::dots(code, [code])[0],
        }
    }

    #[inline(always)]
    fn scores<const N: usize>(&self, x: &[F], codes: &[&[F]; N], starts: &[i64; N]) -> [i64; N] {
        let mut scores = F::dots(x, *codes);
        if self.metric == Metric::L2 {
            for (score, start) in scores.iter_mut().zip(starts) {
                *score = 2 * *score + start;
            }
        }
        scores
    }
}
