//! The nearest code of each row, exactly: contract A.
//!
//! x: `[rows, dim]` in f32, f16 or bf16; codebook: `[K, dim]`, packed; codes: `[rows]`.
//!
//! Score: `s = +0; s = fma(x[i], c[k][i], s)` for `i = 0..dim` in order, in f32; for
//! [`Metric::L2`] the chain starts at `h_k = −½ n_k`, `n_k` the chain `n = fma(c[k][i], c[k][i], n)`
//! (so the score is `x·c − ½‖c‖²`, and the squared distance `‖x‖² − 2s`). The highest score wins;
//! among equals the lowest code. Infinite scores compare as usual. NaN never wins: a row whose
//! scores are all NaN, or whose weight is zero, gets [`NO_CODE`] and the score NaN.
//! Search never normalizes; cosine similarity is the inner product of what is passed.
//!
//! How: lanes run across codes, tiles of rows and codes stay in registers, and a max-only pass
//! remembers per lane the best group of 64 or 256 codes; the winning group is then scored again to
//! locate the code. Cost: `K·(dim + 1) / lanes` vector operations a row; memory: the outputs.
//! On processors that multiply bytes, integers take that pass, and the codes that a proved bound
//! leaves over are scored in f32: `K·(⌈dim/4⌉ + 1) / lanes`; on those with AMX, tiles in bf16 do: a 512th of a
//! matrix instruction for each code and 32 dimensions (8, with two halves each). [`Search`] names the ways.

mod coarse;
mod kernel;
mod pruned;
mod tally;
mod top;

pub(crate) use kernel::HalfNorms;
pub(crate) use tally::Counts;
pub use tally::Search;
#[cfg(target_has_atomic = "ptr")]
pub use tally::Tally;
#[cfg(feature = "alloc")]
pub use top::reference_top;
pub use top::{Candidate, search_mth, search_top};

use super::{check_rows, check_weights};
use crate::NO_CODE;
use crate::codebook::caps::Caps;
use crate::codebook::{Line, MAX_CODES, MAX_DIM, Metric, PackedCodebook};
use crate::cpu::{Cpu, Disjoint};
use crate::element::{Code, Element, check_width};
use crate::error::{Error, Result, same};
use crate::matrix::MatRef;
use crate::real::Real;
use crate::simd::Isa;

const OP: &str = "search";

/// The nearest code of each row of `x` `[rows, dim]`, into `codes` `[rows]` (u32, or u16 where the
/// number of codes allows it), and its score into `scores` `[rows]` where that is given.
///
/// Rows of weight zero are not searched.
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::Value`] for weights outside `0..=1`,
/// [`Error::CodeWidth`] where `codes`' type cannot number all codes.
///
/// ```
/// use vq_kernels::{Cpu, MatRef, Metric, PackedCodebook, ops};
/// let codebook = PackedCodebook::new(MatRef::new(&[1.0f32, 0.0, 0.0, 1.0], 2, 2)?, Metric::Cosine)?;
/// let (x, mut codes, mut scores) = ([0.6f32, 0.8, 5.0, -1.0], [0u32; 2], [0.0; 2]);
/// ops::search(&Cpu::new(), MatRef::new(&x, 2, 2)?, None, &codebook, &mut codes, Some(&mut scores))?;
/// assert_eq!((codes, scores), ([1, 0], [0.8, 5.0]));
/// # Ok::<(), vq_kernels::Error>(())
/// ```
pub fn search<E: Element, C: Code>(
    cpu: &Cpu,
    x: MatRef<E>,
    weights: Option<&[f32]>,
    codebook: &PackedCodebook<impl AsRef<[Line]>>,
    codes: &mut [C],
    scores: Option<&mut [f32]>,
) -> Result<()> {
    same(OP, "columns of x", codebook.dim(), x.cols())?;
    same(OP, "length of codes", x.rows(), codes.len())?;
    if let Some(scores) = &scores {
        same(OP, "length of scores", x.rows(), scores.len())?;
    }
    check_rows(OP, x.rows())?;
    check_weights(OP, weights, x.rows())?;
    check_width::<C>(codebook.codes())?;
    let (codebook, codes, scores) = (&codebook.view(), Disjoint::new(codes), scores.map(Disjoint::new));
    let (caps, coarse) = match Isa::DOTS {
        true => (pruned::chosen(cpu, codebook), coarse::chosen(cpu, codebook, x.rows())),
        false => (None, None),
    };
    let block = match (caps, coarse) {
        (Some(_), _) => pruned::BLOCK_ROWS,
        (None, Some(coarse)) => coarse.block_rows(),
        (None, None) => kernel::BLOCK_ROWS,
    };
    cpu.divide(x.rows(), kernel::part_rows(x.rows(), cpu.threads(), block), &|first, count| {
        let x = x.rows_from(first, count);
        let weights = weights.map(|w| &w[first..first + count]);
        // SAFETY: `divide` gives every row to one part.
        let codes = unsafe { codes.range(first, count) };
        // SAFETY: as above.
        let scores = scores.as_ref().map(|scores| unsafe { scores.range(first, count) });
        let found = kernel::Found::new(codes, scores);
        let mut counts = tally::Counts::default();
        match (caps, coarse) {
            (Some(caps), _) if Isa::DOTS => {
                cpu.isa().run_dots(pruned::Pruned { x, weights, codebook, caps, found, counts: &mut counts });
            }
            (None, Some(coarse::Chosen::Bytes(int8))) if Isa::DOTS => {
                let rows = coarse::Part { x, weights, codebook, found, counts: &mut counts };
                cpu.isa().run_dots(coarse::ByBytes { rows, int8 });
            }
            (None, Some(coarse::Chosen::Tiles(bf16, tiles))) if Isa::DOTS => {
                let rows = coarse::Part { x, weights, codebook, found, counts: &mut counts };
                tiles.run(coarse::ByTiles { rows, bf16, tiles });
            }
            _ => cpu.isa().run(kernel::Nearest { x, weights, codebook, found }),
        }
        cpu.count(counts);
    });
    Ok(())
}

/// The most rows that [`sample`] takes.
pub(crate) const SAMPLE: usize = 32;

/// What pruning at most [`SAMPLE`] rows of `x` takes.
pub(crate) fn sample<E: Element>(isa: Isa, x: MatRef<E>, codebook: &PackedCodebook<&[Line]>, caps: Caps) -> Counts {
    let (mut codes, mut counts, x) = ([0u32; SAMPLE], Counts::default(), x.rows_from(0, SAMPLE));
    if Isa::DOTS {
        let found = kernel::Found::new(&mut codes[..x.rows()], None);
        isa.run_dots(pruned::Pruned { x, weights: None, codebook, caps, found, counts: &mut counts });
    }
    counts
}

/// The textbook loops of [`search`] on an unpacked codebook `[K, dim]`, generic over the float type;
/// the f32 form is the contract. No weights: a masked row's code is overwritten afterwards.
///
/// # Panics
/// Where the extents differ.
pub fn reference<F: Real>(
    x: MatRef<F>,
    codebook: MatRef<F>,
    metric: Metric,
    codes: &mut [u32],
    mut scores: Option<&mut [F]>,
) {
    for (row, code) in codes.iter_mut().enumerate() {
        let (mut best, mut found) = (F::nan(), NO_CODE);
        for k in 0..codebook.rows() {
            let score = reference_score(x.row(row), codebook.row(k), metric);
            if score > best || (found == NO_CODE && !score.is_nan()) {
                (best, found) = (score, k as u32);
            }
        }
        *code = found;
        if let Some(scores) = &mut scores {
            scores[row] = best;
        }
    }
}

/// One row's score of one code, as the contract defines it; elements beyond the shorter are left out.
pub fn reference_score<F: Real>(x: &[F], code: &[F], metric: Metric) -> F {
    let start = match metric {
        Metric::Cosine => F::zero(),
        Metric::L2 => code.iter().fold(F::zero(), |n, &c| c.fma(c, n)) * F::of(-0.5),
    };
    x.iter().zip(code).fold(start, |s, (&x, &c)| x.fma(c, s))
}

/// Checks what a codebook's shape must fulfil.
pub(crate) fn check_codebook(op: &'static str, codes: usize, dim: usize) -> Result<()> {
    for (arg, got, max) in [("number of codes", codes, MAX_CODES), ("dim", dim, MAX_DIM)] {
        if got == 0 {
            return Err(Error::Empty { op, arg });
        }
        if got > max {
            return Err(Error::TooLarge { op, arg, max: max as u64, got: got as u64 });
        }
    }
    Ok(())
}
