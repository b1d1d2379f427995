//! The max-only pass and the locate pass, generic over `Lanes`.

use crate::NO_CODE;
use crate::codebook::{Line, MAX_DIM, PANEL, PackedCodebook};
use crate::element::{Code, Element};
use crate::matrix::MatRef;
use crate::ops::weight;
use crate::simd::{Kernel, Lanes, prefetch};

/// Rows whose running maxima are kept at a time: the codebook is streamed once for each block.
///
/// Measured at K = 100,000 on AVX-512 (`speed --op search`, µs a row at dim 8 / 32 / 256): 96 rows 11.4 /
/// 42.7 / 413, 192 rows 11.0 / 41.3 / 363, 384 rows 10.9 / 40.9 / 346. Small machines have small stacks.
pub(crate) const BLOCK_ROWS: usize = if cfg!(target_pointer_width = "64") { 384 } else { 24 };

/// Rows in parts of the batch that threads take: even parts, as many for each thread, of whole tiles; of
/// whole blocks of `block` rows, or nearly so, where there are many.
pub(crate) fn part_rows(rows: usize, threads: usize, block: usize) -> usize {
    const TILE: usize = 6;
    let parts = threads * (rows / (threads * block)).clamp(1, 4);
    rows.div_ceil(parts).next_multiple_of(TILE).max(TILE)
}

/// Lines of a panel in each dimension.
const LINES: usize = size_of::<[f32; PANEL]>() / size_of::<Line>();

/// The panels of group `g`, the unit that the max-only pass remembers. Larger groups cost the locate
/// pass, smaller ones the max-only pass: 4 panels cost each of them about 1 % at dim 32 and 100,000 codes,
/// but of 1,024 codes locating takes a quarter of the time then.
#[inline(always)]
fn group(codebook: &PackedCodebook<&[Line]>, g: usize) -> core::ops::Range<usize> {
    let size = group_panels(codebook);
    g * size..((g + 1) * size).min(codebook.panels())
}

#[inline(always)]
fn group_panels(codebook: &PackedCodebook<&[Line]>) -> usize {
    if codebook.panels() < 128 { 1 } else { 4 }
}

/// The rows of one tile: pointers, so that masked rows can be left out.
pub(super) type TileRows<const R: usize> = [*const f32; R];

/// The chains of `R` rows and `W · N` codes of a panel, from column `first` on.
///
/// # Safety
/// Each of `x` is readable for `dim` elements; `panel` holds `dim × PANEL`; `first + W·N ≤ PANEL`;
/// `start` holds `PANEL` where it is given; the CPU supports `V`.
#[inline(always)]
pub(super) unsafe fn chains<V: Lanes, const R: usize, const W: usize>(
    x: &TileRows<R>,
    panel: *const f32,
    start: Option<*const f32>,
    first: usize,
    dim: usize,
) -> [[V; W]; R] {
    // SAFETY: the caller's claims.
    unsafe {
        let mut sums = [[V::splat(0.0); W]; R];
        if let Some(start) = start {
            for sums in &mut sums {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(start.add(first + v * V::N));
                }
            }
        }
        for i in 0..dim {
            let column = panel.add(i * PANEL + first);
            // R broadcasts stay in registers while the code vectors pass by.
            let mut rows = [V::splat(0.0); R];
            for (row, x) in rows.iter_mut().zip(x) {
                *row = V::splat(*x.add(i));
            }
            for v in 0..W {
                let codes = V::load(column.add(v * V::N));
                for (row, sums) in rows.iter().zip(&mut sums) {
                    sums[v] = row.mul_add(codes, sums[v]);
                }
            }
        }
        sums
    }
}

/// The largest score of each lane in a panel, for `R` rows, kept in `best`.
///
/// # Safety
/// As [`chains`].
#[inline(always)]
pub(super) unsafe fn panel_max<V: Lanes, const R: usize, const W: usize>(
    x: &TileRows<R>,
    panel: *const f32,
    start: Option<*const f32>,
    dim: usize,
    best: &mut [V; R],
) {
    for part in 0..PANEL / (W * V::N) {
        // SAFETY: the caller's claims, and `(part + 1)·W·N ≤ PANEL`.
        unsafe {
            let sums = chains::<V, R, W>(x, panel, start, part * W * V::N, dim);
            for (sums, best) in sums.into_iter().zip(best.iter_mut()) {
                for sum in sums {
                    *best = sum.max_keep(*best);
                }
            }
        }
    }
}

/// All 64 scores of one row in a panel.
///
/// # Safety
/// As [`chains`].
#[inline(always)]
pub(super) unsafe fn panel_scores<V: Lanes>(
    x: *const f32,
    panel: *const f32,
    start: Option<*const f32>,
    dim: usize,
) -> [f32; PANEL] {
    let mut scores = [0.0; PANEL];
    for part in 0..PANEL / (4 * V::N) {
        // SAFETY: the caller's claims; `(part + 1)·4·N ≤ PANEL`.
        unsafe {
            let [sums] = chains::<V, 1, 4>(&[x], panel, start, part * 4 * V::N, dim);
            for (v, sum) in sums.into_iter().enumerate() {
                sum.store(scores.as_mut_ptr().add((part * 4 + v) * V::N));
            }
        }
    }
    scores
}

/// The running maximum of a row: per lane its value, and the group that it was found in.
#[derive(Clone, Copy)]
pub(super) struct Running<V> {
    best: V,
    /// The group's number as the bits of an f32: only moved, never computed with.
    group: V,
}

impl<V: Lanes> Running<V> {
    /// Below everything.
    ///
    /// # Safety
    /// The CPU supports `V`.
    #[inline(always)]
    pub unsafe fn nothing() -> Self {
        // SAFETY: the caller's claim.
        unsafe { Self { best: V::splat(f32::NEG_INFINITY), group: V::splat(0.0) } }
    }
}

/// Where one part of the rows has its results.
pub(super) struct Found<'a, C> {
    codes: &'a mut [C],
    scores: Option<&'a mut [f32]>,
}

impl<'a, C: Code> Found<'a, C> {
    /// Nothing found yet.
    #[inline(always)]
    pub fn new(codes: &'a mut [C], mut scores: Option<&'a mut [f32]>) -> Self {
        codes.fill(C::from_u32(NO_CODE));
        if let Some(scores) = &mut scores {
            scores.fill(f32::NAN);
        }
        Self { codes, scores }
    }

    /// The code of one row.
    #[inline(always)]
    pub fn put(&mut self, row: u32, code: u32, score: f32) {
        self.codes[row as usize] = C::from_u32(code);
        if let Some(scores) = &mut self.scores {
            scores[row as usize] = score;
        }
    }
}

/// [`search`](super::search) on one part of the rows, every score in f32.
pub(super) struct Nearest<'a, E, C> {
    pub x: MatRef<'a, E>,
    pub weights: Option<&'a [f32]>,
    pub codebook: &'a PackedCodebook<&'a [Line]>,
    pub found: Found<'a, C>,
}

impl<E: Element, C: Code> Kernel for Nearest<'_, E, C> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { x, weights, codebook, mut found } = self;
        let dim = x.cols();
        let mut rows = ActiveRows::<E>::new(x, weights, BLOCK_ROWS);
        // SAFETY: V by `run`'s caller.
        let mut running = [unsafe { Running::<V>::nothing() }; BLOCK_ROWS];
        while let Some((indices, pointers)) = rows.next_block() {
            let running = &mut running[..pointers.len()];
            // SAFETY: every pointer leads to dim elements; V by `run`'s caller.
            unsafe {
                nearest_block::<V>(codebook, pointers, dim, running, |i, code, score| {
                    found.put(indices[i], code, score);
                });
            }
        }
    }
}

/// The nearest code of each row of a block, in f32; rows without one are not put.
///
/// # Safety
/// Each of `x` is readable for `dim` elements, the codebook's dimension; the CPU supports `V`.
#[inline(always)]
pub(super) unsafe fn nearest_block<V: Lanes>(
    codebook: &PackedCodebook<&[Line]>,
    x: &[*const f32],
    dim: usize,
    running: &mut [Running<V>],
    mut put: impl FnMut(usize, u32, f32),
) {
    if x.is_empty() {
        return;
    }
    // SAFETY: the caller's claims.
    unsafe {
        running.fill(Running::nothing());
        for group in 0..codebook.panels().div_ceil(group_panels(codebook)) {
            match V::N {
                // 24 chains, 4 codes, 1 broadcast: 29 of 32 registers.
                16 => sweep::<V, 6, 4>(codebook, group, x, dim, running),
                // 12 chains, 3 broadcasts, 1 code: all 16 registers.
                8 => sweep::<V, 3, 4>(codebook, group, x, dim, running),
                _ => sweep::<V, 2, 4>(codebook, group, x, dim, running),
            }
        }
        for (i, (&x, running)) in x.iter().zip(running).enumerate() {
            if let Some((code, score)) = locate(codebook, x, dim, *running) {
                put(i, code, score);
            }
        }
    }
}

/// One group of panels against all rows of a block.
///
/// # Safety
/// Each of `x` is readable for `dim` elements, the codebook's dimension; the CPU supports `V`.
#[inline(always)]
unsafe fn sweep<V: Lanes, const R: usize, const W: usize>(
    codebook: &PackedCodebook<&[Line]>,
    group: usize,
    x: &[*const f32],
    dim: usize,
    running: &mut [Running<V>],
) {
    let mut tiles = x.chunks_exact(R);
    let mut states = running.chunks_exact_mut(R);
    // The next group comes from memory meanwhile, each tile asking for its share: 2, 5 and 2 % on AVX-512 at dim 8, 32 and 256,
    // 1 to 2 % on AVX2 (`speed --op search --search f32`, 1,152 rows). Few tiles' shares would be in this group's way: one tile
    // at dim 768 took a third longer.
    const TILES: usize = 16;
    let next = if tiles.len() < TILES { 0..0 } else { self::group(codebook, group + 1) };
    let next = codebook.lines().get(next.start * dim * LINES..next.end * dim * LINES).unwrap_or_default();
    let mut coming = next.chunks(next.len().div_ceil(tiles.len().max(1)).max(1));
    for (x, running) in tiles.by_ref().zip(states.by_ref()) {
        coming.next().unwrap_or_default().iter().for_each(|line| prefetch(line));
        // SAFETY: the caller's claims.
        unsafe { tile::<V, R, W>(codebook, group, x, dim, running) };
    }
    for (x, running) in tiles.remainder().iter().zip(states.into_remainder()) {
        // SAFETY: the caller's claims.
        unsafe { tile::<V, 1, W>(codebook, group, core::slice::from_ref(x), dim, core::slice::from_mut(running)) };
    }
}

/// One group of panels against one tile of `R` rows.
///
/// # Safety
/// As [`sweep`].
#[inline(always)]
unsafe fn tile<V: Lanes, const R: usize, const W: usize>(
    codebook: &PackedCodebook<&[Line]>,
    group: usize,
    x: &[*const f32],
    dim: usize,
    running: &mut [Running<V>],
) {
    let panels = self::group(codebook, group);
    let mut rows = [core::ptr::null(); R];
    rows.copy_from_slice(x);
    // SAFETY: the caller's claims; panels and half norms have their sizes by construction.
    unsafe {
        let mut best = [V::splat(f32::NEG_INFINITY); R];
        for p in panels {
            let start = codebook.half_norms(p).map(<[f32]>::as_ptr);
            panel_max::<V, R, W>(&rows, codebook.panel(p).as_ptr(), start, dim, &mut best);
        }
        let group = V::splat(f32::from_bits(group as u32));
        for (best, running) in best.into_iter().zip(running) {
            running.group = best.select_gt(running.best, group, running.group);
            running.best = best.max_keep(running.best);
        }
    }
}

/// The lowest code whose score is the row's maximum, and that score.
///
/// # Safety
/// As [`sweep`].
#[inline(always)]
unsafe fn locate<V: Lanes>(
    codebook: &PackedCodebook<&[Line]>,
    x: *const f32,
    dim: usize,
    running: Running<V>,
) -> Option<(u32, f32)> {
    let (mut best, mut groups) = ([f32::NEG_INFINITY; 16], [0.0f32; 16]);
    // SAFETY: 16 ≥ V::N.
    unsafe {
        running.best.store(best.as_mut_ptr());
        running.group.store(groups.as_mut_ptr());
    }
    let maximum = best.iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m });
    let panels = if maximum == f32::NEG_INFINITY {
        // Either no comparable score at all, or all of them −inf: look everywhere.
        0..codebook.panels()
    } else {
        let of_maximum = best.iter().zip(groups).filter(|(s, _)| **s == maximum);
        group(codebook, of_maximum.map(|(_, g)| g.to_bits() as usize).min().unwrap_or(0))
    };
    for p in panels {
        let start = codebook.half_norms(p).map(<[f32]>::as_ptr);
        // SAFETY: the caller's claims.
        let scores = unsafe { panel_scores::<V>(x, codebook.panel(p).as_ptr(), start, dim) };
        // Not the padding, whatever `from_lines` was given for it.
        let codes = &scores[..PANEL.min(codebook.codes() - p * PANEL)];
        if let Some(lane) = codes.iter().position(|&s| s == maximum) {
            return Some(((p * PANEL + lane) as u32, codes[lane]));
        }
    }
    None
}

/// The rows to be searched, block by block, as f32: those of nonzero weight.
pub(super) struct ActiveRows<'a, E: Element> {
    x: MatRef<'a, E>,
    weights: Option<&'a [f32]>,
    next: usize,
    block: usize,
    indices: [u32; BLOCK_ROWS],
    pointers: [*const f32; BLOCK_ROWS],
    widened: E::Widened,
}

impl<'a, E: Element> ActiveRows<'a, E> {
    /// In blocks of at most `most` rows, and of [`BLOCK_ROWS`].
    #[inline(always)]
    pub fn new(x: MatRef<'a, E>, weights: Option<&'a [f32]>, most: usize) -> Self {
        let in_place = E::as_f32(x.data()).is_some();
        let most = most.min(BLOCK_ROWS);
        let block = if in_place { most } else { (MAX_DIM / x.cols().max(1)).clamp(1, most) };
        let (indices, pointers) = ([0; BLOCK_ROWS], [core::ptr::null(); BLOCK_ROWS]);
        Self { x, weights, next: 0, block, indices, pointers, widened: E::widened() }
    }

    /// The next rows' indices within this part, and where their f32 elements lie until the next call.
    #[inline(always)]
    pub fn next_block(&mut self) -> Option<(&[u32], &[*const f32])> {
        let dim = self.x.cols();
        // One pointer for the whole block: rows that were handed out stay valid while others are written.
        let widened = self.widened.as_mut().as_mut_ptr();
        let mut count = 0;
        while count < self.block && self.next < self.x.rows() {
            let row = self.next;
            self.next += 1;
            if weight(self.weights, row) == 0.0 {
                continue;
            }
            self.indices[count] = row as u32;
            self.pointers[count] = match E::as_f32(self.x.row(row)) {
                Some(x) => x.as_ptr(),
                None => {
                    // SAFETY: `count < block ≤ max(1, MAX_DIM / dim)` and `dim ≤ MAX_DIM`, the buffer's
                    // length; rows of a block do not overlap.
                    let wide = unsafe { core::slice::from_raw_parts_mut(widened.add(count * dim), dim) };
                    wide.iter_mut().zip(self.x.row(row)).for_each(|(w, x)| *w = x.to_f32());
                    wide.as_ptr()
                }
            };
            count += 1;
        }
        (count > 0).then(|| (&self.indices[..count], &self.pointers[..count]))
    }
}

/// `h = −½ Σ c²` of all 64 codes of each of some panels, lanes across codes: see the contract.
pub(crate) struct HalfNorms<'a, I> {
    /// Which panels.
    pub panels: I,
    /// All panels, `[panels][dim][64]`.
    pub codes: &'a [f32],
    /// `h` for all panels, `[panels][64]`.
    pub half_norms: &'a mut [f32],
    /// Dimensions of a code.
    pub dim: usize,
}

impl<I: Iterator<Item = usize>> Kernel for HalfNorms<'_, I> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        for p in self.panels {
            let panel = &self.codes[p * self.dim * PANEL..][..self.dim * PANEL];
            let half_norms = &mut self.half_norms[p * PANEL..][..PANEL];
            for first in (0..PANEL).step_by(V::N) {
                // SAFETY: `first + N ≤ PANEL` and the panel has dim × PANEL elements; V by the caller.
                unsafe {
                    let mut n = V::splat(0.0);
                    for i in 0..self.dim {
                        let c = V::load(panel.as_ptr().add(i * PANEL + first));
                        n = c.mul_add(c, n);
                    }
                    n.mul(V::splat(-0.5)).store(half_norms.as_mut_ptr().add(first));
                }
            }
        }
    }
}
