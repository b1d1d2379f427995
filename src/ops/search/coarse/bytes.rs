//! The coarse pass in integers: products of bytes.

use core::marker::PhantomData;

use super::block::{Bits, Block, Bound, Near};
use super::matrices::{by_matrices, multiply, pair_rows, part_rows};
use super::{Part as Rows, Pass, certified};
use crate::codebook::int8::{GROUP, Header, Int8, QUARTER, SUBGROUP, VECTOR, above, nearest};
use crate::element::{Code, Element};
use crate::simd::{DotKernel, Dots, Lanes};

/// Rows that go through the codebook together: whole tiles.
pub(in crate::ops::search) const BLOCK_ROWS: usize = 126;
/// Bytes of quantized rows in a block: wide rows make smaller blocks.
const BLOCK_BYTES: usize = 1 << 16;
/// Dimensions from which on codes are far enough apart: of 100,000 random unit codes of 4 dimensions, 95 % of
/// the rows have more near ones than a block keeps, of 5 dimensions none.
pub(super) const MIN_DIM: usize = 5;
/// Below every integer score: those are below 2²⁸ in magnitude.
const NOTHING: i32 = -(1 << 29);
/// Lanes of a group.
const LANES: usize = GROUP / SUBGROUP;

/// [`search`](crate::ops::search()) on one part of the rows, with integers first.
pub(in crate::ops::search) struct ByBytes<'a, E, C> {
    pub rows: Rows<'a, E, C>,
    pub int8: Int8<'a>,
}

impl<E: Element, C: Code> DotKernel for ByBytes<'_, E, C> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes, D: Dots>(self) {
        let Self { rows, int8 } = self;
        let mut words = [0i32; BLOCK_BYTES / 4];
        let mut pass = Bytes::<D> {
            int8,
            codes: rows.codebook.codes(),
            words: &mut words,
            factors: [0; BLOCK_ROWS],
            registers: PhantomData,
        };
        let most = BLOCK_ROWS.min(BLOCK_BYTES / (4 * int8.steps()));
        // SAFETY: V and D by `run`'s caller.
        unsafe { certified::<E, C, V, _, BLOCK_ROWS>(rows, &mut pass, most) };
    }
}

/// The rows of a block in integers.
struct Bytes<'a, D> {
    int8: Int8<'a>,
    codes: usize,
    /// `[rows][steps]`.
    words: &'a mut [i32; BLOCK_BYTES / 4],
    factors: [i32; BLOCK_ROWS],
    registers: PhantomData<D>,
}

impl<D: Dots> Pass<BLOCK_ROWS> for Bytes<'_, D> {
    type Bound = Row;
    const GROUP: usize = SUBGROUP;

    #[inline(always)]
    fn quantize(&mut self, x: &[f32], i: usize) -> Option<Row> {
        let steps = self.int8.steps();
        let row = quantize::<D>(x, &self.int8.header, &mut self.words[i * steps..][..steps])?;
        self.factors[i] = row.factors;
        Some(row)
    }

    #[inline(always)]
    unsafe fn sweep<V: Lanes>(&mut self, block: &mut Block<Row, BLOCK_ROWS>) {
        let subgroups = self.codes.div_ceil(SUBGROUP);
        for g in 0..subgroups.div_ceil(LANES) {
            // SAFETY: each of the block's rows has `steps` words; D by the caller.
            unsafe { self.sweep_group(g, LANES.min(subgroups - g * LANES), block) };
        }
    }
}

/// What the coarse pass knows of a row beside its integers.
#[derive(Clone, Copy, Default)]
pub(in crate::ops::search) struct Row {
    /// `2 ε` in units of the row's integer scores, rounded up.
    pub margin: i32,
    /// What h is multiplied with: 16 bits for h, 16 for h/64. 0 for cosine.
    factors: i32,
    /// `BIAS · Σ x̂_int`, by which integer scores are too large.
    bias: i32,
    /// What an integer score is multiplied with.
    unit: f64,
    /// ε.
    bound: f64,
    /// `‖x‖`, or a little more.
    pub norm: f64,
}

impl Bound for Row {
    type Score = i32;
    const NOTHING: i32 = NOTHING;
    const NEVER: i32 = i32::MAX;
    #[inline(always)]
    fn threshold(&self, best: i32) -> i32 {
        best - self.margin
    }
    #[inline(always)]
    fn reach(&self, score: f32) -> i32 {
        let least = (f64::from(score) - self.bound) / self.unit;
        // Rounding is far below 1: the quotient is below 2³¹, or the conversion saturates.
        (least as i32).saturating_sub(2).saturating_add(self.bias)
    }
}

/// The integers of `x`, within `±ROW_MAX` and four to a word, and the row's margin; none where the bound cannot be given.
#[inline(always)]
pub(in crate::ops::search) fn quantize<D: Dots>(x: &[f32], header: &Header, words: &mut [i32]) -> Option<Row> {
    let (mut largest, mut poison) = (0.0f32, 0.0f32);
    for &x in x {
        largest = if x.abs() > largest { x.abs() } else { largest };
        poison += x * 0.0;
    }
    let scale = largest / f32::from(D::ROW_MAX);
    // Not NaN, not infinite, and far from the subnormal numbers and from overflow.
    if poison != 0.0 || !(1e-30..1e18).contains(&scale) {
        return None;
    }
    // Any integers do, as their error is measured; these are all but the nearest.
    let inverse = 1.0 / scale;
    let (mut error, mut square, mut sums) = ([0.0f64; 4], [0.0f64; 4], [0i32; 4]);
    for (word, x) in words.iter_mut().zip(x.chunks(4)) {
        let mut bytes = [0u8; 4];
        for ((((byte, &x), error), square), sum) in
            bytes.iter_mut().zip(x).zip(&mut error).zip(&mut square).zip(&mut sums)
        {
            let int = nearest(x * inverse);
            *byte = (int as i8) as u8;
            *sum += int as i32;
            // Exact but for the rounding of the square and the sum: see `above`.
            let (x, coarse) = (f64::from(x), f64::from(scale) * f64::from(int));
            *error += (x - coarse) * (x - coarse);
            *square += x * x;
        }
        *word = i32::from_ne_bytes(bytes);
    }
    let [error, norm] = [error, square].map(|s| above(crate::simd::sqrt((s[0] + s[1]) + (s[2] + s[3]))));
    let [residual, code_norm, coarse_norm, half_norm] =
        [header.residual, header.norm, header.coarse_norm, header.half_norm].map(f64::from);
    let unit = f64::from(scale) * f64::from(header.scale);
    let (mut factors, mut half_norm_error) = (0, 0.0);
    if half_norm > 0.0 {
        let factor = f64::from(header.half_norm_scale) / unit;
        let fine = f64::from(nearest(factor.min(1e6) as f32));
        let coarse = f64::from(nearest(((factor - fine) * 64.0).clamp(-1e6, 1e6) as f32));
        if fine > 32_767.0 || coarse.abs() > 32_767.0 {
            return None;
        }
        let ([a, b], [c, d]) = ((fine as i16).to_ne_bytes(), (coarse as i16).to_ne_bytes());
        factors = i32::from_ne_bytes([a, b, c, d]);
        let most = half_norm / f64::from(header.half_norm_scale) + 1.0;
        let of_fine = fine * (0.5 + most * 6e-8);
        let of_coarse = coarse.abs() * (0.5 + 1.0 / 128.0 + most * 6e-8);
        half_norm_error = unit * (most * (factor - fine - coarse / 64.0).abs() + of_fine + of_coarse);
    }
    let chain = (x.len() + 1) as f64 * (half_norm + norm * code_norm) * 6e-8 + x.len() as f64 * 1e-44;
    let bound = norm * residual + error * coarse_norm + half_norm_error + chain;
    let margin = 2.0 * bound / unit * (1.0 + 1e-9) + 1.0;
    let overflow = norm * code_norm.max(coarse_norm) + half_norm >= 8e37;
    // A margin is at least 1, whatever the header holds.
    if overflow || !(1.0..f64::from(1 << 28)).contains(&margin) {
        return None;
    }
    Some(Row { margin: margin as i32 + 1, factors, bias: D::BIAS * sums.iter().sum::<i32>(), unit, bound, norm })
}
/// Some quarters of a group of which `lanes` lanes have codes.
#[derive(Clone, Copy)]
struct Part {
    group: usize,
    lanes: usize,
    quarters: [usize; 2],
}

/// The rows of a block, with integer scores.
type RowBlock = Block<Row, BLOCK_ROWS>;

/// The lanes in `reached` of `scores`, the maxima of subgroups from `first` on, reach row `i`'s threshold.
#[cold]
#[inline(never)]
fn keep(block: &mut RowBlock, i: usize, first: usize, reached: u32, scores: &[i32; LANES]) {
    let lanes = Bits(reached);
    block.raise(i, lanes.fold(NOTHING, |best, lane| best.max(scores[lane])));
    for lane in lanes {
        block.keep(i, Near { group: (first + lane) as u32, score: scores[lane] });
    }
}

impl<D: Dots> Bytes<'_, D> {
    /// One group, of which `lanes` lanes have codes, against all rows of a block.
    ///
    /// A group that does not fit in the first cache is taken by quarters.
    ///
    /// # Safety
    /// Each of the block's rows has as many words as `int8` has steps; the CPU supports `D`.
    #[inline(always)]
    unsafe fn sweep_group(&self, g: usize, lanes: usize, block: &mut RowBlock) {
        let half_norms = self.int8.half_norms(g).is_some();
        let quarters = if self.int8.steps() * GROUP * 4 > 24 << 10 { 1 } else { 4 };
        for first in (0..4).step_by(quarters) {
            let part = Part { group: g, lanes, quarters: [first, first + quarters] };
            // SAFETY: the caller's claims.
            unsafe {
                match (D::N, self.int8.steps(), half_norms) {
                    // 8 sums, 4 vectors of codes, a word of a row, ones, a product: 15 of 16 registers.
                    (8, _, false) if D::ROW_MAX < 127 => self.tiles::<2, 4, 0, false>(part, block),
                    (8, _, true) if D::ROW_MAX < 127 => self.tiles::<2, 4, 0, true>(part, block),
                    (16, 1, false) => self.tiles::<6, 2, 1, false>(part, block),
                    (16, 2, false) => self.tiles::<6, 1, 2, false>(part, block),
                    // 24 sums, 4 vectors of codes, 1 word of a row: 29 of 32 registers.
                    (16, _, false) => self.tiles::<6, 4, 0, false>(part, block),
                    (16, 1, true) => self.tiles::<6, 2, 1, true>(part, block),
                    (16, 2, true) => self.tiles::<6, 1, 2, true>(part, block),
                    (16, _, true) => self.tiles::<6, 4, 0, true>(part, block),
                    (8, _, false) => self.tiles::<3, 4, 0, false>(part, block),
                    (8, _, true) => self.tiles::<3, 4, 0, true>(part, block),
                    // 12 sums, 4 vectors of codes side by side, 3 of rows: 24 sums would be spilled.
                    (4, _, false) if D::MATRIX => self.tiles::<6, 2, 0, false>(part, block),
                    (4, _, true) if D::MATRIX => self.tiles::<6, 2, 0, true>(part, block),
                    (4, _, false) if D::REGISTERS == 32 => self.tiles::<6, 4, 0, false>(part, block),
                    (4, _, true) if D::REGISTERS == 32 => self.tiles::<6, 4, 0, true>(part, block),
                    // 6 sums, and 16-bit halves of 2 vectors of codes and of a word of a row: 12 of 16 registers.
                    (4, _, false) => self.tiles::<3, 2, 0, false>(part, block),
                    (4, _, true) => self.tiles::<3, 2, 0, true>(part, block),
                    (_, _, false) => self.tiles::<1, 4, 0, false>(part, block),
                    (_, _, true) => self.tiles::<1, 4, 0, true>(part, block),
                }
            }
        }
    }

    /// [`sweep`] in tiles of `R` rows and `W` vectors of codes; `FIXED` is the number of steps where it is small, and
    /// `H` whether there are h.
    ///
    /// # Safety
    /// As [`sweep`].
    #[inline(always)]
    unsafe fn tiles<const R: usize, const W: usize, const FIXED: usize, const H: bool>(
        &self,
        part: Part,
        block: &mut RowBlock,
    ) {
        let whole = block.len / R * R;
        for first in (0..whole).step_by(R) {
            // SAFETY: the caller's claims.
            unsafe { self.tile::<R, W, FIXED, H>(part, block, first) };
        }
        for first in whole..block.len {
            // SAFETY: the caller's claims.
            unsafe { self.tile::<1, 4, FIXED, H>(part, block, first) };
        }
    }

    /// One part of a group against `R` rows from `first` on.
    ///
    /// # Safety
    /// As [`sweep`]; `first + R ≤ block.len`.
    #[inline(always)]
    unsafe fn tile<const R: usize, const W: usize, const FIXED: usize, const H: bool>(
        &self,
        part: Part,
        block: &mut RowBlock,
        first: usize,
    ) {
        for from in (0..LANES).step_by(D::N) {
            // SAFETY: the caller's claims; the bytes and h of a group have their sizes by construction.
            let (maxima, any) = unsafe {
                let maxima = self.part_max::<R, W, FIXED, H>(part, from, first);
                let reached = |r: usize| maxima[r].ge_mask(D::splat(block.threshold[first + r]));
                (maxima, (0..R).fold(0, |any, r| any | reached(r)))
            };
            if any != 0 {
                for (r, maxima) in maxima.into_iter().enumerate() {
                    let mut scores = [i32::MIN; LANES];
                    // SAFETY: 16 ≥ D::N; D by the caller.
                    let reached = unsafe {
                        maxima.store(scores.as_mut_ptr());
                        maxima.ge_mask(D::splat(block.threshold[first + r]))
                    };
                    // Not lanes without codes, whatever bytes they have.
                    let reached = reached & ((1 << part.lanes.saturating_sub(from)) - 1);
                    if reached != 0 {
                        keep(block, first + r, part.group * LANES + from, reached, &scores);
                    }
                }
            }
        }
    }

    /// The largest scores in each lane of one part, lanes from `from` on, for `R` rows.
    ///
    /// # Safety
    /// As [`tile`]; `from + D::N ≤ 16`.
    #[inline(always)]
    unsafe fn part_max<const R: usize, const W: usize, const FIXED: usize, const H: bool>(
        &self,
        part: Part,
        from: usize,
        first: usize,
    ) -> [D; R] {
        let int8 = &self.int8;
        let steps = if FIXED > 0 { FIXED } else { int8.steps() };
        let bytes = int8.group(part.group)[4 * from..].as_ptr();
        let half_norms = int8.half_norms(part.group).map_or(core::ptr::null(), |pairs| pairs[4 * from..].as_ptr());
        // Arrays, so that loops over them are unrolled and the sums stay in registers.
        let factors: [i32; R] = core::array::from_fn(|r| self.factors[first + r]);
        // SAFETY: the caller's claims; vector `v + w < 16` of step `i < steps` lies within the group's bytes, and the
        // words of row `first + r` within those of the block.
        unsafe {
            let words: [*const i32; R] = core::array::from_fn(|r| self.words.as_ptr().add((first + r) * int8.steps()));
            // Few words stay in registers.
            let mut held = [[D::splat(0); FIXED]; R];
            for (held, words) in held.iter_mut().zip(words) {
                for (i, held) in held.iter_mut().enumerate() {
                    *held = D::splat(*words.add(i));
                }
            }
            let mut best = [D::splat(i32::MIN); R];
            let quarters = if FIXED > 0 { [0, 4] } else { part.quarters };
            for q in quarters[0]..quarters[1] {
                let bytes = bytes.add(q * steps * QUARTER);
                for v in (0..4).step_by(W) {
                    let mut sums = [[D::splat(0); W]; R];
                    if H {
                        for (sums, factors) in sums.iter_mut().zip(factors) {
                            let factors = D::splat(factors);
                            for (w, sum) in sums.iter_mut().enumerate() {
                                *sum = D::dot_pairs(D::load(half_norms.add(q * QUARTER + (v + w) * VECTOR)), factors);
                            }
                        }
                    }
                    if by_matrices::<D, R>() {
                        pair_rows(&mut sums);
                        multiply(&mut sums, bytes.add(v * VECTOR), &words, steps);
                    } else {
                        for i in 0..steps {
                            let mut codes = [D::splat(0); W];
                            for (w, codes) in codes.iter_mut().enumerate() {
                                *codes = D::load(bytes.add(i * QUARTER + (v + w) * VECTOR));
                            }
                            for ((words, held), sums) in words.iter().zip(&held).zip(&mut sums) {
                                let row = if FIXED > 0 { held[i] } else { D::splat(*words.add(i)) };
                                for (sum, &codes) in sums.iter_mut().zip(&codes) {
                                    *sum = sum.dot(codes, row);
                                }
                            }
                        }
                    }
                    for (best, sums) in best.iter_mut().zip(sums) {
                        for sum in sums {
                            *best = best.larger(sum);
                        }
                    }
                }
            }
            if by_matrices::<D, R>() {
                part_rows(&mut best);
            }
            best
        }
    }
}
