//! The coarse pass in bf16: products of tiles.

use core::mem::MaybeUninit;

use super::block::{Bits, Block, Bound, Near};
use super::{Part, Pass, certified};
use crate::codebook::PANEL;
use crate::codebook::bf16::{Bf16, STEP, pairs};
use crate::codebook::int8::above;
use crate::element::{Code, Element};
use crate::ops::search::kernel;
use crate::simd::{Kernel, Lanes, Sweep, Tiles};

/// Rows that go through the codebook together: whole panels.
pub(super) const BLOCK_ROWS: usize = kernel::BLOCK_ROWS / PANEL_ROWS * PANEL_ROWS;
/// Rows of two tiles.
const PANEL_ROWS: usize = 32;
/// Pairs of slots of a panel's rows in one step.
const PANEL_PAIRS: usize = PANEL_ROWS * STEP / 2;
/// Pairs of slots of a block's rows: at least one panel of the widest; 256 KiB.
const BLOCK_PAIRS: usize = 128 * PANEL_PAIRS;
/// Maxima of one sweep; 32 KiB.
const MAXIMA: usize = 1 << 13;
/// Bytes of codes that stay in the first cache while a block's panels pass by.
const CACHED: usize = 1 << 15;
/// Blocks of 32 codes, 32 rows and 32 slots that a sweep has at least, if there are as many: at 26 to 45 ns each, 5 µs.
const LEAST_BLOCKS: usize = 192;

/// Dimensions from which on codes are far enough apart for 16 bits: see `certificate.md`.
pub(super) const MIN_DIM: usize = 3;
/// Rows from which on tiles are worth while: fewer take as long as 32, about as long as 15 in integers at 8 dimensions.
/// From other machines' figures: not measured.
pub(super) const MIN_ROWS: usize = 16;
/// Elements of a codebook from which on tiles are worth while. From other machines' figures: not measured.
pub(super) const MIN_ELEMENTS: usize = 1 << 15;

/// [`search`](crate::ops::search()) on one part of the rows, with tiles first.
pub(in crate::ops::search) struct ByTiles<'a, E, C> {
    pub rows: Part<'a, E, C>,
    pub bf16: Bf16<'a>,
    pub tiles: Tiles,
}

impl<E: Element, C: Code> Kernel for ByTiles<'_, E, C> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { rows, bf16, tiles } = self;
        let most = BLOCK_ROWS.min(BLOCK_PAIRS / (PANEL_PAIRS * bf16.steps()) * PANEL_ROWS);
        let panels = most.min(rows.x.rows()).div_ceil(PANEL_ROWS);
        let mut pairs = [MaybeUninit::<u32>::uninit(); BLOCK_PAIRS];
        let pairs = &mut pairs[..panels * PANEL_PAIRS * bf16.steps()];
        // Panels that are filled in part have rows that do not count, but are read.
        pairs.iter_mut().for_each(|pair| *pair = MaybeUninit::new(0));
        // SAFETY: all are written; the layouts are the same.
        let pairs = unsafe { &mut *(core::ptr::from_mut(pairs) as *mut [u32]) };
        let half_norms = rows.codebook.all_half_norms();
        let groups = rows.codebook.codes().div_ceil(PANEL);
        let mut pass = InTiles { bf16, half_norms, groups, tiles, pairs, sweep: Sweep::new(), maxima: [0.0; MAXIMA] };
        // SAFETY: V by `run`'s caller.
        unsafe { certified::<E, C, V, _, BLOCK_ROWS>(rows, &mut pass, most) };
    }
}

/// What the tiles' pass knows of a row.
#[derive(Clone, Copy, Default)]
struct Row {
    /// ε.
    bound: f64,
    /// `2 ε`, and what rounding makes of the threshold.
    margin: f32,
}

impl Bound for Row {
    type Score = f32;
    const NOTHING: f32 = f32::NEG_INFINITY;
    const NEVER: f32 = f32::INFINITY;
    #[inline(always)]
    fn threshold(&self, best: f32) -> f32 {
        best - self.margin
    }
    #[inline(always)]
    fn reach(&self, score: f32) -> f32 {
        ((f64::from(score) - self.bound) as f32).next_down()
    }
}

/// The rows of a block in bf16.
struct InTiles<'a> {
    bf16: Bf16<'a>,
    /// All h; none for cosine.
    half_norms: Option<&'a [f32]>,
    /// Groups of 64 codes.
    groups: usize,
    tiles: Tiles,
    /// `[panels][steps][2 tiles][16 pairs][16 rows]`.
    pairs: &'a mut [u32],
    sweep: Sweep,
    /// `[panels][groups][32 rows]`.
    maxima: [f32; MAXIMA],
}

impl Pass<BLOCK_ROWS> for InTiles<'_> {
    type Bound = Row;
    const GROUP: usize = PANEL;

    #[inline(always)]
    fn quantize(&mut self, x: &[f32], i: usize) -> Option<Row> {
        let steps = self.bf16.steps();
        let panel = &mut self.pairs[i / PANEL_ROWS * PANEL_PAIRS * steps..][..PANEL_PAIRS * steps];
        let first = i % PANEL_ROWS / 16 * (PANEL_PAIRS / 2) + i % 16;
        let (mut error, mut square) = (0.0f64, 0.0f64);
        pairs(
            x,
            true,
            |p, pair| panel[p / 16 * PANEL_PAIRS + first + p % 16 * 16] = pair,
            |x, coarse| {
                // Exact but for the rounding of the square and the sum: see `above`.
                let x = f64::from(x);
                error += (x - coarse) * (x - coarse);
                square += x * x;
            },
        );
        let [error, norm] = [error, square].map(|s| above(crate::simd::sqrt(s)));
        let header = &self.bf16.header;
        let [residual, code_norm, coarse_norm, half_norm] =
            [header.residual, header.norm, header.coarse_norm, header.half_norm].map(f64::from);
        // What partial sums are at the most.
        let sums = half_norm + 1.02 * (norm + error) * coarse_norm;
        let accumulation = (18 + steps) as f64 * sums * 6e-8 + 36.0 * steps as f64 * 1.2e-38;
        let chain = (x.len() + 1) as f64 * (half_norm + norm * code_norm) * 6e-8 + x.len() as f64 * 1e-44;
        let bound = norm * residual + error * coarse_norm + accumulation + chain;
        let margin = 2.0 * bound * (1.0 + 1e-6) + 1.3e-7 * (sums + bound);
        // Overflow, or NaN; and rows of zeros, to which all codes are alike.
        let within = sums.max(half_norm + norm * code_norm) < 8e37 && margin < 8e37 && norm > 0.0;
        within.then(|| Row { bound, margin: (margin as f32).next_up() })
    }

    #[inline(always)]
    unsafe fn sweep<V: Lanes>(&mut self, block: &mut Block<Row, BLOCK_ROWS>) {
        let Self { bf16, half_norms, groups, tiles, pairs, sweep, maxima } = self;
        let (steps, panels) = (bf16.steps(), block.len.div_ceil(PANEL_ROWS));
        let least = LEAST_BLOCKS.div_ceil(2 * panels * steps);
        let most = MAXIMA / (panels * PANEL_ROWS);
        let together = (CACHED / (PANEL * STEP * 2 * steps)).max(least).min(most);
        for first in (0..*groups).step_by(together) {
            let count = together.min(*groups - first);
            let maxima = &mut maxima[..panels * count * PANEL_ROWS];
            let half_norms = half_norms.map(|h| &h[first * PANEL..][..count * PANEL]);
            let rows = &pairs[..panels * PANEL_PAIRS * steps];
            sweep.maxima(*tiles, bf16.groups(first, count), half_norms, rows, steps, maxima);
            for (part, maxima) in maxima.chunks_exact(V::N).enumerate() {
                let (vector, panel_group) = (part % (PANEL_ROWS / V::N), part / (PANEL_ROWS / V::N));
                let row = panel_group / count * PANEL_ROWS + vector * V::N;
                // SAFETY: the chunk has V::N maxima; whole panels of thresholds, as many as `maxima` has; V by the caller.
                let below = unsafe {
                    let threshold = V::load(block.threshold[row..row + V::N].as_ptr());
                    threshold.gt_mask(V::load(maxima.as_ptr()))
                };
                let reached = !below & (((1u64 << V::N) - 1) as u32);
                if reached != 0 {
                    keep(block, row, (first + panel_group % count) as u32, reached, maxima);
                }
            }
        }
    }
}

/// The rows `first + lane` for the lanes in `reached` of `maxima` have a group that reaches their thresholds.
#[cold]
#[inline(never)]
fn keep(block: &mut Block<Row, BLOCK_ROWS>, first: usize, group: u32, reached: u32, maxima: &[f32]) {
    for lane in Bits(reached) {
        let (i, score) = (first + lane, maxima[lane]);
        block.raise(i, score);
        block.keep(i, Near { group, score });
    }
}

/// Each code's coarse score against the contract's, by the emulator of AMX.
#[cfg(all(test, target_arch = "x86_64", target_pointer_width = "64", target_os = "linux", feature = "std", not(miri)))]
mod tests {
    use super::*;
    use crate::codebook::{Metric, PackedCodebook, Packing};
    use crate::common::hard::{Hard, hard_cases};
    use crate::common::mat;
    use crate::ops::search::reference_score;
    use crate::simd::emulator;

    #[test]
    fn every_score_is_within_the_bound() {
        let Some(isa) = emulator::isa() else { return };
        let tiles = isa.tiles().expect("the emulator allows it");
        let (mut largest, mut compared, mut without) = ([0.0f64; 3], 0, 0);
        for (width, (distinct, dim)) in
            [(12, 1), (12, 5), (12, 8), (12, 9), (12, 32), (12, 33), (10, 257)].into_iter().enumerate()
        {
            for Hard { why, codes, rows, .. } in hard_cases(distinct, dim, 1000 + width as u64) {
                // Each group is one code 64 times: its maximum is that code's score.
                let book: Vec<f32> = codes.chunks_exact(dim).flat_map(|code| code.repeat(PANEL)).collect();
                for metric in [Metric::Cosine, Metric::L2] {
                    let packed =
                        PackedCodebook::with_packing(mat(&book, distinct * PANEL, dim), metric, Packing::Bf16).unwrap();
                    let Some(bf16) = packed.bf16() else {
                        without += 1;
                        continue;
                    };
                    for rows in rows.chunks(PANEL_ROWS * dim) {
                        let mut pairs = vec![0; PANEL_PAIRS * bf16.steps()];
                        let half_norms = packed.all_half_norms();
                        let mut pass = InTiles {
                            bf16,
                            half_norms,
                            groups: distinct,
                            tiles,
                            pairs: &mut pairs,
                            sweep: Sweep::new(),
                            maxima: [0.0; MAXIMA],
                        };
                        let bounds: Vec<_> =
                            rows.chunks_exact(dim).zip(0..).map(|(x, i)| pass.quantize(x, i)).collect();
                        let (codes_in_tiles, steps) = (bf16.groups(0, distinct), bf16.steps());
                        let maxima = &mut pass.maxima[..distinct * PANEL_ROWS];
                        emulator::clean(|| {
                            pass.sweep.maxima(tiles, codes_in_tiles, half_norms, pass.pairs, steps, maxima);
                        });
                        for (i, (x, bound)) in rows.chunks_exact(dim).zip(bounds).enumerate() {
                            let Some(bound) = bound else { continue };
                            for (k, code) in codes.chunks_exact(dim).enumerate() {
                                let score = f64::from(reference_score(x, code, metric));
                                let error = (score - f64::from(maxima[k * PANEL_ROWS + i])).abs();
                                let context = format!("{why}, {dim} dimensions, {metric:?}, row {i}, code {k}");
                                assert!(error <= bound.bound, "{context}: {error:e} > {:e}", bound.bound);
                                let kind = if dim <= 8 { 0 } else { usize::from(dim > 32) + 1 };
                                largest[kind] = largest[kind].max(error / bound.bound);
                                compared += 1;
                            }
                        }
                    }
                }
            }
        }
        println!(
            "{compared} scores; the largest error is {largest:.2?} of the bound, {without} codebooks without a copy"
        );
        // The bound is no wider than it need be by much, or it would exclude little.
        assert!(largest.iter().all(|&share| share > 0.3) && compared > 40_000, "{largest:?} of {compared}");
    }
}
