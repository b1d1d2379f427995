#![doc = include_str!("certificate.md")]

use core::mem::MaybeUninit;

use super::kernel::{ActiveRows, Found, Running, nearest_block};
use super::tally::{Counts, Search};
use super::top::Candidate;
use crate::NO_CODE;
use crate::codebook::int8::{GROUP, Header, Int8, QUARTER, SUBGROUP, VECTOR, above, nearest};
use crate::codebook::{Line, PANEL, PackedCodebook};
use crate::cpu::Cpu;
use crate::element::{Code, Element};
use crate::matrix::MatRef;
use crate::simd::{DotKernel, Dots, Lanes};

/// Rows that go through the codebook together: whole tiles.
pub(super) const BLOCK_ROWS: usize = 126;
/// Bytes of quantized rows in a block: wide rows make smaller blocks.
const BLOCK_BYTES: usize = 1 << 16;
/// Subgroups that a block may keep for the exact pass; rows that need more go through the f32 pass.
///
/// Of 6,250, random unit codes of 8, 32 and 256 dimensions leave 8, 4 and 18 a row on average.
const LOG: usize = 64 * BLOCK_ROWS;
/// Dimensions from which on codes are far enough apart: of 100,000 random unit codes of 4 dimensions, 95 % of
/// the rows have more near ones than a block keeps, of 5 dimensions none.
const MIN_DIM: usize = 5;
/// Below every integer score: those are below 2²⁸ in magnitude.
pub(super) const NOTHING: i32 = -(1 << 29);
/// Lanes of a group.
const LANES: usize = GROUP / SUBGROUP;

/// The 8-bit copy, where the search takes a coarse pass.
pub(super) fn chosen<'a>(cpu: &Cpu, codebook: &'a PackedCodebook<&[Line]>) -> Option<Int8<'a>> {
    let (codes, dim) = (codebook.codes(), codebook.dim());
    let worthwhile = cpu.isa().coarse_from().is_some_and(|from| codes * dim >= from) && dim >= MIN_DIM;
    let wanted = match cpu.search() {
        Search::Auto => worthwhile,
        Search::Coarse => true,
        Search::F32 | Search::Pruned => false,
    };
    wanted.then(|| codebook.int8()).flatten()
}

/// [`search`](super::search()) on one part of the rows, by the coarse pass.
pub(super) struct Coarse<'a, E, C> {
    pub x: MatRef<'a, E>,
    pub weights: Option<&'a [f32]>,
    pub codebook: &'a PackedCodebook<&'a [Line]>,
    pub int8: Int8<'a>,
    pub found: Found<'a, C>,
    pub counts: &'a mut Counts,
}

impl<E: Element, C: Code> DotKernel for Coarse<'_, E, C> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes, D: Dots>(self) {
        let Self { x, weights, codebook, int8, mut found, counts } = self;
        let (dim, steps) = (x.cols(), int8.steps());
        let mut rows = ActiveRows::<E>::new(x, weights, BLOCK_ROWS.min(BLOCK_BYTES / (4 * steps)));
        let mut block = Block::new();
        let mut words = [0i32; BLOCK_BYTES / 4];
        // SAFETY: V by `run`'s caller.
        let mut running = [unsafe { Running::<V>::nothing() }; BLOCK_ROWS];
        let mut useless = false;
        while let Some((indices, pointers)) = rows.next_block() {
            counts.rows += pointers.len();
            block.clear();
            let (mut hard, mut hard_len) = ([0u32; BLOCK_ROWS], 0);
            for (at, (&x, words)) in pointers.iter().zip(words.chunks_exact_mut(steps)).enumerate() {
                // SAFETY: every pointer leads to dim elements.
                let x = unsafe { core::slice::from_raw_parts(x, dim) };
                match (!useless).then(|| quantize::<D>(x, &int8.header, words)).flatten() {
                    Some(row) => block.push(at, words.as_ptr(), row),
                    None => {
                        hard[hard_len] = at as u32;
                        hard_len += 1;
                    }
                }
            }
            if block.len > 0 {
                let subgroups = codebook.codes().div_ceil(SUBGROUP);
                for g in 0..subgroups.div_ceil(LANES) {
                    // SAFETY: each of the block's rows has `steps` words; D by `run`'s caller.
                    unsafe { sweep::<D>(&int8, g, LANES.min(subgroups - g * LANES), &mut block) };
                }
                block.sort();
            }
            for i in 0..block.len {
                let at = block.at[i] as usize;
                // SAFETY: every pointer leads to dim elements; V by `run`'s caller.
                match unsafe { rescore::<V>(codebook, pointers[at], dim, &block, i, counts) } {
                    Some((code, score)) => found.put(indices[at], code, score),
                    None => {
                        hard[hard_len] = at as u32;
                        hard_len += 1;
                    }
                }
            }
            // Hostile codes or rows: the bound excludes too little to be worth its pass.
            useless |= 2 * hard_len > pointers.len();
            counts.exact += hard_len;
            let mut hard_rows = [core::ptr::null(); BLOCK_ROWS];
            hard_rows.iter_mut().zip(&hard[..hard_len]).for_each(|(row, &at)| *row = pointers[at as usize]);
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

/// What the coarse pass knows of a row beside its integers.
#[derive(Clone, Copy, Default)]
pub(super) struct Row {
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

impl Row {
    /// An integer score that only codes with a score below `score` are below.
    #[inline(always)]
    pub fn reach(&self, score: f32) -> i32 {
        let least = (f64::from(score) - self.bound) / self.unit;
        // Rounding is far below 1: the quotient is below 2³¹, or the conversion saturates.
        (least as i32).saturating_sub(2).saturating_add(self.bias)
    }
}

/// The integers of `x`, within `±ROW_MAX` and four to a word, and the row's margin; none where the bound cannot be given.
#[inline(always)]
pub(super) fn quantize<D: Dots>(x: &[f32], header: &Header, words: &mut [i32]) -> Option<Row> {
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
    let [error, norm] = [error, square].map(|s| above(libm::sqrt((s[0] + s[1]) + (s[2] + s[3]))));
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

/// A subgroup that came near a row's best one.
#[derive(Clone, Copy)]
struct Kept {
    row: u32,
    near: Near,
}

/// A subgroup and the largest integer score in it.
#[derive(Clone, Copy)]
struct Near {
    subgroup: u32,
    score: i32,
}

/// The rows of a block on their way through the groups, a field to an array.
struct Block {
    len: usize,
    at: [u32; BLOCK_ROWS],
    words: [*const i32; BLOCK_ROWS],
    factors: [i32; BLOCK_ROWS],
    rows: [Row; BLOCK_ROWS],
    best: [i32; BLOCK_ROWS],
    /// What a subgroup must reach to be kept; out of reach where too many were.
    threshold: [i32; BLOCK_ROWS],
    /// What all rows have kept, in the order of the groups: a log, since rows would be far apart in memory.
    /// The first `logged` are written.
    log: [MaybeUninit<Kept>; LOG],
    logged: usize,
    /// Subgroups by row, in the end: those of row `i` from `starts[i]` to `starts[i + 1]`.
    by_row: [MaybeUninit<Near>; LOG],
    starts: [u32; BLOCK_ROWS + 1],
}

impl Block {
    #[inline(always)]
    fn new() -> Self {
        Self {
            len: 0,
            at: [0; BLOCK_ROWS],
            words: [core::ptr::null(); BLOCK_ROWS],
            factors: [0; BLOCK_ROWS],
            rows: [Row::default(); BLOCK_ROWS],
            best: [0; BLOCK_ROWS],
            threshold: [0; BLOCK_ROWS],
            log: [MaybeUninit::uninit(); LOG],
            logged: 0,
            by_row: [MaybeUninit::uninit(); LOG],
            starts: [0; BLOCK_ROWS + 1],
        }
    }

    #[inline(always)]
    fn clear(&mut self) {
        (self.len, self.logged) = (0, 0);
    }

    #[inline(always)]
    fn push(&mut self, at: usize, words: *const i32, row: Row) {
        let i = self.len;
        self.at[i] = at as u32;
        self.words[i] = words;
        self.factors[i] = row.factors;
        self.rows[i] = row;
        self.best[i] = NOTHING;
        self.threshold[i] = NOTHING - row.margin;
        self.len += 1;
    }

    /// The lanes in `reached` of `scores`, the maxima of subgroups from `first` on, reach row `i`'s threshold.
    #[cold]
    #[inline(never)]
    fn keep(&mut self, i: usize, first: usize, reached: u32, scores: &[i32; LANES]) {
        if self.threshold[i] == i32::MAX {
            return;
        }
        let lanes = Bits(reached);
        self.best[i] = lanes.fold(self.best[i], |best, lane| best.max(scores[lane]));
        let threshold = self.best[i] - self.rows[i].margin;
        self.threshold[i] = threshold;
        for lane in lanes.filter(|&lane| scores[lane] >= threshold) {
            if self.logged == LOG {
                self.thin();
                if self.logged > LOG / 8 * 7 {
                    // What it has kept goes with the next thinning.
                    self.threshold[i] = i32::MAX;
                    return;
                }
            }
            let near = Near { subgroup: (first + lane) as u32, score: scores[lane] };
            self.log[self.logged].write(Kept { row: i as u32, near });
            self.logged += 1;
        }
    }

    /// Drops what is below its row's threshold by now.
    fn thin(&mut self) {
        let logged = &mut self.log[..self.logged];
        // SAFETY: `logged` counts those that were written; the layouts are the same.
        let log = unsafe { &mut *(core::ptr::from_mut(logged) as *mut [Kept]) };
        let mut count = 0;
        for k in 0..log.len() {
            if log[k].near.score >= self.threshold[log[k].row as usize] {
                log[count] = log[k];
                count += 1;
            }
        }
        self.logged = count;
    }

    /// Sorts what was kept by row; within a row the order stays, that of the groups.
    fn sort(&mut self) {
        self.thin();
        // SAFETY: as in `thin`.
        let log = unsafe { &*(core::ptr::from_ref(&self.log[..self.logged]) as *const [Kept]) };
        self.starts.fill(0);
        log.iter().for_each(|kept| self.starts[kept.row as usize + 1] += 1);
        (0..BLOCK_ROWS).for_each(|i| self.starts[i + 1] += self.starts[i]);
        let mut next = self.starts;
        // Every place of `by_row` below the last start is written once.
        for kept in log {
            self.by_row[next[kept.row as usize] as usize].write(kept.near);
            next[kept.row as usize] += 1;
        }
    }

    /// The subgroups one of which has row `i`'s nearest code; none where they were too many.
    fn near(&self, i: usize) -> &[Near] {
        let of_row = &self.by_row[self.starts[i] as usize..self.starts[i + 1] as usize];
        // SAFETY: `sort` has written all below the last start; the layouts are the same.
        unsafe { &*(core::ptr::from_ref(of_row) as *const [Near]) }
    }
}

/// The numbers of the bits that are set.
#[derive(Clone, Copy)]
pub(super) struct Bits(pub u32);

impl Iterator for Bits {
    type Item = usize;
    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let lowest = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (lowest < 32).then_some(lowest as usize)
    }
}

/// One group, of which `lanes` lanes have codes, against all rows of a block.
///
/// A group that does not fit in the first cache is taken by quarters.
///
/// # Safety
/// Each of the block's rows has as many words as `int8` has steps; the CPU supports `D`.
#[inline(always)]
unsafe fn sweep<D: Dots>(int8: &Int8, g: usize, lanes: usize, block: &mut Block) {
    let half_norms = int8.half_norms(g).is_some();
    let quarters = if int8.steps() * GROUP * 4 > 24 << 10 { 1 } else { 4 };
    for first in (0..4).step_by(quarters) {
        let part = Part { group: g, lanes, quarters: [first, first + quarters] };
        // SAFETY: the caller's claims.
        unsafe {
            match (D::N, int8.steps(), half_norms) {
                // 8 sums, 4 vectors of codes, a word of a row, ones, a product: 15 of 16 registers.
                (8, _, false) if D::ROW_MAX < 127 => tiles::<D, 2, 4, 0, false>(int8, part, block),
                (8, _, true) if D::ROW_MAX < 127 => tiles::<D, 2, 4, 0, true>(int8, part, block),
                (16, 1, false) => tiles::<D, 6, 2, 1, false>(int8, part, block),
                (16, 2, false) => tiles::<D, 6, 1, 2, false>(int8, part, block),
                // 24 sums, 4 vectors of codes, 1 word of a row: 29 of 32 registers.
                (16, _, false) => tiles::<D, 6, 4, 0, false>(int8, part, block),
                (16, 1, true) => tiles::<D, 6, 2, 1, true>(int8, part, block),
                (16, 2, true) => tiles::<D, 6, 1, 2, true>(int8, part, block),
                (16, _, true) => tiles::<D, 6, 4, 0, true>(int8, part, block),
                (8, _, false) => tiles::<D, 3, 4, 0, false>(int8, part, block),
                (8, _, true) => tiles::<D, 3, 4, 0, true>(int8, part, block),
                (4, _, false) if D::REGISTERS == 32 => tiles::<D, 6, 4, 0, false>(int8, part, block),
                (4, _, true) if D::REGISTERS == 32 => tiles::<D, 6, 4, 0, true>(int8, part, block),
                // 6 sums, and 16-bit halves of 2 vectors of codes and of a word of a row: 12 of 16 registers.
                (4, _, false) => tiles::<D, 3, 2, 0, false>(int8, part, block),
                (4, _, true) => tiles::<D, 3, 2, 0, true>(int8, part, block),
                (_, _, false) => tiles::<D, 1, 4, 0, false>(int8, part, block),
                (_, _, true) => tiles::<D, 1, 4, 0, true>(int8, part, block),
            }
        }
    }
}

/// Some quarters of a group of which `lanes` lanes have codes.
#[derive(Clone, Copy)]
struct Part {
    group: usize,
    lanes: usize,
    quarters: [usize; 2],
}

/// [`sweep`] in tiles of `R` rows and `W` vectors of codes; `FIXED` is the number of steps where it is small, and
/// `H` whether there are h.
///
/// # Safety
/// As [`sweep`].
#[inline(always)]
unsafe fn tiles<D: Dots, const R: usize, const W: usize, const FIXED: usize, const H: bool>(
    int8: &Int8,
    part: Part,
    block: &mut Block,
) {
    let whole = block.len / R * R;
    for first in (0..whole).step_by(R) {
        // SAFETY: the caller's claims.
        unsafe { tile::<D, R, W, FIXED, H>(int8, part, block, first) };
    }
    for first in whole..block.len {
        // SAFETY: the caller's claims.
        unsafe { tile::<D, 1, 4, FIXED, H>(int8, part, block, first) };
    }
}

/// One part of a group against `R` rows from `first` on.
///
/// # Safety
/// As [`sweep`]; `first + R ≤ block.len`.
#[inline(always)]
unsafe fn tile<D: Dots, const R: usize, const W: usize, const FIXED: usize, const H: bool>(
    int8: &Int8,
    part: Part,
    block: &mut Block,
    first: usize,
) {
    for from in (0..LANES).step_by(D::N) {
        // SAFETY: the caller's claims; the bytes and h of a group have their sizes by construction.
        let (maxima, any) = unsafe {
            let maxima = part_max::<D, R, W, FIXED, H>(int8, part, from, block, first);
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
                    block.keep(first + r, part.group * LANES + from, reached, &scores);
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
unsafe fn part_max<D: Dots, const R: usize, const W: usize, const FIXED: usize, const H: bool>(
    int8: &Int8,
    part: Part,
    from: usize,
    block: &Block,
    first: usize,
) -> [D; R] {
    let steps = if FIXED > 0 { FIXED } else { int8.steps() };
    let bytes = int8.group(part.group)[4 * from..].as_ptr();
    let half_norms = int8.half_norms(part.group).map_or(core::ptr::null(), |pairs| pairs[4 * from..].as_ptr());
    // Arrays, so that loops over them are unrolled and the sums stay in registers.
    let words: [*const i32; R] = core::array::from_fn(|r| block.words[first + r]);
    let factors: [i32; R] = core::array::from_fn(|r| block.factors[first + r]);
    // SAFETY: the caller's claims; vector `v + w < 16` of step `i < steps` lies within the group's bytes.
    unsafe {
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
                for (best, sums) in best.iter_mut().zip(sums) {
                    for sum in sums {
                        *best = best.larger(sum);
                    }
                }
            }
        }
        best
    }
}

/// The nearest code of row `i` of a block, and its score; none where too much was kept.
///
/// # Safety
/// `x` is readable for `dim` elements, the codebook's dimension; the CPU supports `V`.
#[inline(always)]
unsafe fn rescore<V: Lanes>(
    codebook: &PackedCodebook<&[Line]>,
    x: *const f32,
    dim: usize,
    block: &Block,
    i: usize,
    counts: &mut Counts,
) -> Option<(u32, f32)> {
    let (row, near) = (&block.rows[i], block.near(i));
    // The best one's f32 score excludes more than integer scores can: ε instead of 2 ε.
    let first = near.iter().copied().reduce(|best, near| if near.score > best.score { near } else { best })?;
    // SAFETY: the caller's claims.
    let mut best = unsafe { exact::<V, 1>(codebook, x, dim, &[first.subgroup]) };
    if best.code == NO_CODE {
        return None;
    }
    let reach = row.reach(best.score);
    let mut others = near.iter().filter(|near| near.score >= reach && near.subgroup != first.subgroup);
    counts.rescored += SUBGROUP;
    while let Some(other) = others.next() {
        // Four chains at a time, as each alone would wait for its own sums; the last one is repeated.
        let mut subgroups = [other.subgroup; 4];
        counts.rescored += SUBGROUP;
        for (subgroup, near) in subgroups[1..].iter_mut().zip(others.by_ref()) {
            *subgroup = near.subgroup;
            counts.rescored += SUBGROUP;
        }
        // SAFETY: the caller's claims.
        let other = unsafe { exact::<V, 4>(codebook, x, dim, &subgroups) };
        best = if best.behind(&other) { other } else { best };
    }
    Some((best.code, best.score))
}

/// The best code of `S` subgroups by the contract's scores.
///
/// # Safety
/// As [`rescore`].
#[inline(always)]
unsafe fn exact<V: Lanes, const S: usize>(
    codebook: &PackedCodebook<&[Line]>,
    x: *const f32,
    dim: usize,
    subgroups: &[u32; S],
) -> Candidate {
    let mut found = Candidate::NONE;
    for part in (0..SUBGROUP).step_by(V::N) {
        let codes = subgroups.map(|s| s as usize * SUBGROUP + part);
        let mut scores = [[0.0f32; 16]; S];
        // SAFETY: the caller's claims; a subgroup's codes are those of a panel, or its padding.
        unsafe {
            let (mut sums, mut columns) = ([V::splat(0.0); S], [core::ptr::null::<f32>(); S]);
            for ((&code, column), sum) in codes.iter().zip(&mut columns).zip(&mut sums) {
                *column = codebook.panel(code / PANEL).as_ptr().add(code % PANEL);
                if let Some(start) = codebook.half_norms(code / PANEL) {
                    *sum = V::load(start.as_ptr().add(code % PANEL));
                }
            }
            for i in 0..dim {
                let row = V::splat(*x.add(i));
                for (sum, column) in sums.iter_mut().zip(&columns) {
                    *sum = row.mul_add(V::load(column.add(i * PANEL)), *sum);
                }
            }
            sums.iter().zip(&mut scores).for_each(|(sum, scores)| sum.store(scores.as_mut_ptr()));
        }
        for (scores, &first) in scores.iter().zip(&codes) {
            // Not the padding, whatever `from_lines` was given for it.
            for (&score, code) in scores[..V::N].iter().zip(first..codebook.codes()) {
                let candidate = Candidate { score, code: code as u32 };
                if found.behind(&candidate) && !score.is_nan() {
                    found = candidate;
                }
            }
        }
    }
    found
}
