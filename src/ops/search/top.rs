//! The m best codes of each row, and the m-th.

use super::super::{check_rows, check_weights};

use super::kernel::{ActiveRows, BLOCK_ROWS, TileRows, panel_max, panel_scores};
use crate::NO_CODE;
#[cfg(feature = "alloc")]
use crate::codebook::Metric;
use crate::codebook::{Line, PANEL, PackedCodebook};
use crate::cpu::{Cpu, Disjoint};
use crate::element::Element;
use crate::error::{Error, Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::simd::{Kernel, Lanes};

/// A code and its score for one row.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Candidate {
    /// The contract's score.
    pub score: f32,
    /// The code, or [`NO_CODE`] where fewer codes than asked for have a comparable score.
    pub code: u32,
}

// SAFETY: zero bits are a value of both fields.
unsafe impl bytemuck::Zeroable for Candidate {}
// SAFETY: an f32 and a u32 without padding, and every bit pattern is a value of each.
unsafe impl bytemuck::Pod for Candidate {}
const _: () = assert!(size_of::<Candidate>() == size_of::<f32>() + size_of::<u32>());

impl Candidate {
    /// No code: what a row's missing candidates are filled up with.
    pub const NONE: Self = Self { score: f32::NAN, code: NO_CODE };

    /// Whether it ranks behind `other`: a lower score, or an equal one with a higher code.
    pub(super) fn behind(&self, other: &Self) -> bool {
        match (self.code, other.code) {
            (_, NO_CODE) => false,
            (NO_CODE, _) => true,
            _ => self.score < other.score || (self.score == other.score && self.code > other.code),
        }
    }
}

/// The `m` best codes of each row, best first, into `best` `[rows, m]`; the order is by score, then
/// lowest code. Fewer comparable codes than `m` (a row of weight zero has none) are filled up with
/// [`Candidate::NONE`].
///
/// # Errors
/// As [`search`](super::search()); [`Error::Empty`] for an `m` of 0.
pub fn search_top<E: Element>(
    cpu: &Cpu,
    x: MatRef<E>,
    weights: Option<&[f32]>,
    codebook: &PackedCodebook<impl AsRef<[Line]>>,
    mut best: MatMut<Candidate>,
) -> Result<()> {
    const OP: &str = "search_top";
    same(OP, "columns of x", codebook.dim(), x.cols())?;
    same(OP, "rows of best", x.rows(), best.rows())?;
    check_rows(OP, x.rows())?;
    check_weights(OP, weights, x.rows())?;
    let m = best.cols();
    if m == 0 {
        return Err(Error::Empty { op: OP, arg: "columns of best" });
    }
    let (codebook, best) = (&codebook.view(), Disjoint::new(best.data()));
    cpu.divide(x.rows(), super::kernel::part_rows(x.rows(), cpu.threads(), BLOCK_ROWS), &|first, count| {
        let x = x.rows_from(first, count);
        let weights = weights.map(|w| &w[first..first + count]);
        // SAFETY: `divide` gives every row to one part.
        let best = unsafe { best.range(first * m, count * m) };
        cpu.isa().run(Top { x, weights, codebook, best, m });
    });
    Ok(())
}

/// The `m`-th best code of each row (1 is the nearest), into `codes` `[rows]`; [`NO_CODE`] where a
/// row has fewer. `scratch` holds at least `m` candidates; with `m · rows` all rows go at once.
///
/// # Errors
/// As [`search_top`]; [`Error::Shape`] for a `scratch` shorter than `m`.
pub fn search_mth<E: Element>(
    cpu: &Cpu,
    x: MatRef<E>,
    weights: Option<&[f32]>,
    codebook: &PackedCodebook<impl AsRef<[Line]>>,
    m: usize,
    codes: &mut [u32],
    scratch: &mut [Candidate],
) -> Result<()> {
    const OP: &str = "search_mth";
    same(OP, "columns of x", codebook.dim(), x.cols())?;
    same(OP, "length of codes", x.rows(), codes.len())?;
    check_weights(OP, weights, x.rows())?;
    if m == 0 {
        return Err(Error::Empty { op: OP, arg: "m" });
    }
    if scratch.len() < m {
        return Err(Error::Shape { op: OP, arg: "length of scratch", expected: m, got: scratch.len() });
    }
    let block = scratch.len() / m;
    for (first, codes) in (0..).step_by(block).zip(codes.chunks_mut(block)) {
        let best = &mut scratch[..codes.len() * m];
        let weights = weights.map(|w| &w[first..first + codes.len()]);
        search_top(cpu, x.rows_from(first, codes.len()), weights, codebook, MatMut::new(best, codes.len(), m)?)?;
        codes.iter_mut().zip(best.chunks_exact(m)).for_each(|(code, best)| *code = best[m - 1].code);
    }
    Ok(())
}

/// The textbook form of [`search_top`] on an unpacked codebook `[K, dim]`: every score, sorted. Scores are
/// f32, as the order is the contract's; no weights.
///
/// # Panics
/// Where the extents differ.
#[cfg(feature = "alloc")]
pub fn reference_top(x: MatRef, codebook: MatRef, metric: Metric, best: &mut [Candidate], m: usize) {
    for (row, best) in best.chunks_exact_mut(m.max(1)).enumerate() {
        let score = |k| super::reference_score(x.row(row), codebook.row(k), metric);
        let scored = (0..codebook.rows()).map(|k| Candidate { score: score(k), code: k as u32 });
        let mut all: alloc::vec::Vec<Candidate> = scored.filter(|candidate| !candidate.score.is_nan()).collect();
        all.sort_by(|a, b| if a.behind(b) { core::cmp::Ordering::Greater } else { core::cmp::Ordering::Less });
        all.resize(all.len().max(m), Candidate::NONE);
        best.copy_from_slice(&all[..m]);
    }
}

/// A row's candidates as a heap whose root is the hindmost.
struct Heap<'a>(&'a mut [Candidate]);

impl Heap<'_> {
    /// Takes `candidate` where it ranks before the hindmost.
    fn offer(&mut self, candidate: Candidate) {
        if self.0[0].behind(&candidate) {
            self.0[0] = candidate;
            self.sift(0, self.0.len());
        }
    }

    fn sift(&mut self, mut parent: usize, len: usize) {
        loop {
            let mut child = 2 * parent + 1;
            if child >= len {
                return;
            }
            if child + 1 < len && self.0[child + 1].behind(&self.0[child]) {
                child += 1;
            }
            if !self.0[child].behind(&self.0[parent]) {
                return;
            }
            self.0.swap(parent, child);
            parent = child;
        }
    }

    /// Best first.
    fn sort(&mut self) {
        for end in (1..self.0.len()).rev() {
            self.0.swap(0, end);
            self.sift(0, end);
        }
    }
}

struct Top<'a, E> {
    x: MatRef<'a, E>,
    weights: Option<&'a [f32]>,
    codebook: &'a PackedCodebook<&'a [Line]>,
    best: &'a mut [Candidate],
    m: usize,
}

impl<E: Element> Kernel for Top<'_, E> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { x, weights, codebook, best, m } = self;
        let dim = x.cols();
        best.fill(Candidate::NONE);
        let mut rows = ActiveRows::<E>::new(x, weights, BLOCK_ROWS);
        while let Some((indices, pointers)) = rows.next_block() {
            for p in 0..codebook.panels() {
                let tiles = indices.chunks_exact(R).zip(pointers.chunks_exact(R));
                for (indices, pointers) in tiles {
                    // SAFETY: every pointer leads to dim elements; V by `run`'s caller.
                    unsafe { tile::<V, R>(codebook, p, indices, pointers, dim, best, m) };
                }
                let rest = indices.len() - indices.len() % R;
                for (indices, pointers) in indices[rest..].chunks(1).zip(pointers[rest..].chunks(1)) {
                    // SAFETY: as above.
                    unsafe { tile::<V, 1>(codebook, p, indices, pointers, dim, best, m) };
                }
            }
        }
        best.chunks_exact_mut(m).for_each(|best| Heap(best).sort());
    }
}

/// Rows in a tile: with 4 vectors of codes, 12 chains.
const R: usize = 3;

/// One panel against one tile: rows in which some lane beats the hindmost candidate score it again.
///
/// # Safety
/// Each of `pointers` is readable for `dim` elements, the codebook's dimension; the CPU supports `V`.
#[inline(always)]
unsafe fn tile<V: Lanes, const R: usize>(
    codebook: &PackedCodebook<&[Line]>,
    p: usize,
    indices: &[u32],
    pointers: &[*const f32],
    dim: usize,
    best: &mut [Candidate],
    m: usize,
) {
    let mut x: TileRows<R> = [core::ptr::null(); R];
    x.copy_from_slice(pointers);
    let (panel, start) = (codebook.panel(p).as_ptr(), codebook.half_norms(p).map(<[f32]>::as_ptr));
    // SAFETY: the caller's claims; a panel and its half norms have their sizes by construction.
    let maxima = unsafe {
        let mut maxima = [V::splat(f32::NEG_INFINITY); R];
        panel_max::<V, R, 4>(&x, panel, start, dim, &mut maxima);
        maxima
    };
    for ((&row, &x), maximum) in indices.iter().zip(&x).zip(maxima) {
        let mut heap = Heap(&mut best[row as usize * m..][..m]);
        let hindmost = heap.0[0];
        // SAFETY: V by the caller.
        let any = hindmost.code == NO_CODE || unsafe { maximum.gt_mask(V::splat(hindmost.score)) != 0 };
        if any {
            // SAFETY: the caller's claims.
            let scores = unsafe { panel_scores::<V>(x, panel, start, dim) };
            let codes = PANEL.min(codebook.codes() - p * PANEL);
            for (lane, &score) in scores[..codes].iter().enumerate() {
                if !score.is_nan() {
                    heap.offer(Candidate { score, code: (p * PANEL + lane) as u32 });
                }
            }
        }
    }
}
