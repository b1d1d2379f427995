//! The nearest code of each row in a plain codebook, exactly: contract A without packing.
//!
//! x: `[rows, dim]`; codebook: `[K, dim]`, row after row, in f32, f16 or bf16, as it lies in flash or in a
//! file; codes: `[rows]`. Scores, ties, NaN and their bits are those of [`search`](mod@super::search), whose
//! `reference` this op has as well.
//!
//! How: eight rows at a time, four chains side by side; elements are widened where they are read. Cost:
//! `K·dim` fused multiply-adds a row, and for [`Metric::L2`] as many again for eight rows; no memory but the
//! outputs and some hundred bytes of stack. For microcontrollers, and for a handful of rows:
//! elsewhere [`search`](super::search()) on a [`PackedCodebook`](crate::PackedCodebook) is many times as fast.

use super::flat::{BLOCK_ROWS, Scoring, check, sweep};
use crate::NO_CODE;
use crate::codebook::Metric;
use crate::cpu::{Cpu, Disjoint};
use crate::element::{Code, Element};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::matrix::MatRef;
use crate::simd::{Kernel, Lanes};
use core::marker::PhantomData;

pub use super::search::reference;

const OP: &str = "search_unpacked";

/// The nearest code of each row of `x` `[rows, dim]` in a plain `codebook` `[K, dim]`, into `codes` `[rows]`,
/// and its score into `scores` `[rows]` where that is given: the codes of [`search`](super::search()).
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
/// static CODEBOOK: [f32; 6] = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8]; // 3 codes of 2 dimensions, in flash
/// let (codebook, mut code) = (MatRef::new(&CODEBOOK, 3, 2)?, [0u16]);
/// ops::search_unpacked(&Cpu::new(), MatRef::new(&[0.5f32, 0.9], 1, 2)?, None, codebook, Metric::Cosine, &mut code, None)?;
/// assert_eq!(code, [2]);
/// # Ok::<(), vq_kernels::Error>(())
/// ```
pub fn search_unpacked<E: Element, B: Element, C: Code>(
    cpu: &Cpu,
    x: MatRef<E>,
    weights: Option<&[f32]>,
    codebook: MatRef<B>,
    metric: Metric,
    codes: &mut [C],
    scores: Option<&mut [f32]>,
) -> Result<()> {
    check(OP, &x, weights, &codebook, codes, scores.as_deref())?;
    let (codes, scores) = (Disjoint::new(codes), scores.map(Disjoint::new));
    cpu.divide(x.rows(), BLOCK_ROWS, &|first, count| {
        let x = x.rows_from(first, count);
        let weights = weights.map(|w| &w[first..first + count]);
        // SAFETY: `divide` gives every row to one part.
        let codes = unsafe { codes.range(first, count) };
        // SAFETY: as above.
        let scores = scores.as_ref().map(|scores| unsafe { scores.range(first, count) });
        cpu.isa().run(Nearest { x, weights, codebook, metric, codes, scores });
    });
    Ok(())
}

/// [`search_unpacked`] on one part of the rows.
struct Nearest<'a, E, B, C> {
    x: MatRef<'a, E>,
    weights: Option<&'a [f32]>,
    codebook: MatRef<'a, B>,
    metric: Metric,
    codes: &'a mut [C],
    scores: Option<&'a mut [f32]>,
}

impl<E: Element, B: Element, C: Code> Kernel for Nearest<'_, E, B, C> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { x, weights, codebook, metric, codes, mut scores } = self;
        codes.fill(C::from_u32(NO_CODE));
        if let Some(scores) = &mut scores {
            scores.fill(f32::NAN);
        }
        // SAFETY: V by `run`'s caller.
        let chains = unsafe { Chains::<V, E, B>::new(metric) };
        sweep(&chains, x, weights, codebook, |row, code, score| {
            codes[row] = C::from_u32(code);
            if let Some(scores) = &mut scores {
                scores[row] = score;
            }
        });
    }
}

/// Chains of f32, one lane of a register each: what counts is the fused multiply-add, not the width.
struct Chains<V, E, B> {
    metric: Metric,
    types: PhantomData<(V, E, B)>,
}

impl<V: Lanes, E: Element, B: Element> Chains<V, E, B> {
    /// # Safety
    /// The CPU supports `V`.
    #[inline(always)]
    unsafe fn new(metric: Metric) -> Self {
        Self { metric, types: PhantomData }
    }

    /// `sum + a·b`, rounded once.
    #[inline(always)]
    fn mul_add(&self, a: V, b: f32, sum: V) -> V {
        // SAFETY: the CPU supports V (`new`).
        unsafe { a.mul_add(V::splat(b), sum) }
    }

    #[inline(always)]
    fn splat(&self, x: f32) -> V {
        // SAFETY: the CPU supports V (`new`).
        unsafe { V::splat(x) }
    }

    #[inline(always)]
    fn lane(&self, sum: V) -> f32 {
        let mut lanes = [0.0; 16];
        // SAFETY: the CPU supports V (`new`), and 16 ≥ V::N.
        unsafe { sum.store(lanes.as_mut_ptr()) };
        lanes[0]
    }
}

impl<V: Lanes, E: Element, B: Element> Scoring for Chains<V, E, B> {
    type X = E;
    type Element = B;
    type Score = f32;

    #[inline(always)]
    fn start(&self, code: &[B]) -> f32 {
        match self.metric {
            Metric::Cosine => 0.0,
            Metric::L2 => {
                let mut n = self.splat(0.0);
                for c in code {
                    let c = c.to_f32();
                    n = self.mul_add(self.splat(c), c, n);
                }
                -0.5 * self.lane(n)
            }
        }
    }

    #[inline(always)]
    fn scores<const N: usize>(&self, x: &[E], codes: &[&[B]; N], starts: &[f32; N]) -> [f32; N] {
        let mut sums = [self.splat(0.0); N];
        for (sum, &start) in sums.iter_mut().zip(starts) {
            *sum = self.splat(start);
        }
        // Cut to the row's length, which they have: indices need no check.
        let codes = codes.map(|code| &code[..x.len()]);
        for (i, x) in x.iter().enumerate() {
            let x = self.splat(x.to_f32());
            for (sum, code) in sums.iter_mut().zip(codes) {
                *sum = self.mul_add(x, code[i].to_f32(), *sum);
            }
        }
        let mut scores = [0.0; N];
        for (score, sum) in scores.iter_mut().zip(sums) {
            *score = self.lane(sum);
        }
        scores
    }
}
