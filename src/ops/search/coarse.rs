#![doc = include_str!("certificate.md")]

mod block;
mod bytes;
mod matrices;
mod tiles;

pub(super) use block::{Bits, Block, Bound, Hard, Near};
pub(super) use bytes::{ByBytes, Row, quantize};
pub(super) use tiles::ByTiles;

use super::kernel::{ActiveRows, Found};
use super::tally::{Counts, Search};
use super::top::Candidate;
use crate::NO_CODE;
use crate::codebook::bf16::Bf16;
use crate::codebook::int8::{Int8, SUBGROUP};
use crate::codebook::{Line, PANEL, PackedCodebook};
use crate::cpu::Cpu;
use crate::element::{Code, Element};
use crate::matrix::MatRef;
use crate::simd::{Lanes, Tiles};

/// How a coarse pass scores codes.
#[derive(Clone, Copy)]
pub(super) enum Chosen<'a> {
    /// In integers of 8 bits.
    Bytes(Int8<'a>),
    /// In bf16, by the tiles of AMX.
    Tiles(Bf16<'a>, Tiles),
}

impl Chosen<'_> {
    /// Rows that go through the codebook together.
    pub fn block_rows(&self) -> usize {
        match self {
            Self::Bytes(_) => bytes::BLOCK_ROWS,
            Self::Tiles(..) => tiles::BLOCK_ROWS,
        }
    }
}

/// The coarse pass that the search of `rows` rows takes, if any.
pub(super) fn chosen<'a>(cpu: &Cpu, codebook: &'a PackedCodebook<&[Line]>, rows: usize) -> Option<Chosen<'a>> {
    let elements = codebook.codes() * codebook.dim();
    let (tiles, bytes) = match cpu.search() {
        Search::Auto => (
            elements >= tiles::MIN_ELEMENTS && codebook.dim() >= tiles::MIN_DIM && rows >= tiles::MIN_ROWS,
            cpu.isa().coarse_from().is_some_and(|from| elements >= from) && codebook.dim() >= bytes::MIN_DIM,
        ),
        Search::Coarse => (true, true),
        Search::F32 | Search::Pruned => (false, false),
    };
    // Whether tiles may be used is asked last, as the first time it asks the operating system.
    let by_tiles = || Some(Chosen::Tiles(codebook.bf16()?, cpu.isa().tiles()?));
    let by_bytes = || codebook.int8().map(Chosen::Bytes);
    tiles.then(by_tiles).flatten().or_else(|| bytes.then(by_bytes).flatten())
}

/// [`search`](super::search()) on one part of the rows.
pub(super) struct Part<'a, E, C> {
    pub x: MatRef<'a, E>,
    pub weights: Option<&'a [f32]>,
    pub codebook: &'a PackedCodebook<&'a [Line]>,
    pub found: Found<'a, C>,
    pub counts: &'a mut Counts,
}

/// A coarse pass over blocks of at most `ROWS` rows.
trait Pass<const ROWS: usize> {
    type Bound: Bound;
    /// Codes in a group, the unit that is kept or left out: 16 or 64.
    const GROUP: usize;
    /// Makes the copy of `x`, the block's row `i`; none where there is no bound for it.
    fn quantize(&mut self, x: &[f32], i: usize) -> Option<Self::Bound>;
    /// All codes against all rows of a block.
    ///
    /// # Safety
    /// Each row of the block has its copy; the CPU supports `V` and what the pass is made of.
    unsafe fn sweep<V: Lanes>(&mut self, block: &mut Block<Self::Bound, ROWS>);
}

/// The nearest code of each row of `part`: by `pass`, in blocks of at most `rows` rows, and then in f32.
///
/// # Safety
/// `rows ≤ ROWS`; the CPU supports `V` and what `pass` is made of.
#[inline(always)]
unsafe fn certified<E, C, V, P, const ROWS: usize>(part: Part<'_, E, C>, pass: &mut P, rows: usize)
where
    E: Element,
    C: Code,
    V: Lanes,
    P: Pass<ROWS>,
{
    let Part { x, weights, codebook, mut found, counts } = part;
    let dim = x.cols();
    let mut rows = ActiveRows::<E>::new(x, weights, rows);
    let mut block = Block::<P::Bound, ROWS>::new();
    // SAFETY: V by the caller.
    let mut hard = unsafe { Hard::<V, ROWS>::new() };
    let mut useless = false;
    while let Some((indices, pointers)) = rows.next_block() {
        counts.rows += pointers.len();
        block.clear();
        for (at, &x) in pointers.iter().enumerate() {
            // SAFETY: every pointer leads to dim elements.
            let x = unsafe { core::slice::from_raw_parts(x, dim) };
            match (!useless).then(|| pass.quantize(x, block.len)).flatten() {
                Some(row) => block.push(at, row),
                None => hard.push(at),
            }
        }
        if block.len > 0 {
            // SAFETY: `quantize` has made the copies; the CPU by the caller.
            unsafe { pass.sweep::<V>(&mut block) };
            block.sort();
        }
        for i in 0..block.len {
            let at = block.at[i] as usize;
            // SAFETY: every pointer leads to dim elements; V by the caller.
            match unsafe { rescore::<V, P, ROWS>(codebook, pointers[at], dim, &block, i, counts) } {
                Some((code, score)) => found.put(indices[at], code, score),
                None => hard.push(at),
            }
        }
        // SAFETY: as above.
        let exact = unsafe { hard.search(codebook, pointers, indices, dim, &mut found) };
        counts.exact += exact;
        // Hostile codes or rows: the bound excludes too little to be worth its pass.
        useless |= 2 * exact > pointers.len();
    }
}

/// The nearest code of row `i` of a block, and its score; none where too much was kept.
///
/// # Safety
/// `x` is readable for `dim` elements, the codebook's dimension; the CPU supports `V`.
#[inline(always)]
unsafe fn rescore<V: Lanes, P: Pass<ROWS>, const ROWS: usize>(
    codebook: &PackedCodebook<&[Line]>,
    x: *const f32,
    dim: usize,
    block: &Block<P::Bound, ROWS>,
    i: usize,
    counts: &mut Counts,
) -> Option<(u32, f32)> {
    let (row, near) = (&block.rows[i], block.near(i));
    // The best one's f32 score excludes more than coarse scores can: ε instead of 2 ε.
    let first = near.iter().copied().reduce(|best, near| if near.score > best.score { near } else { best })?;
    let subgroups = (P::GROUP / SUBGROUP) as u32;
    // SAFETY: the caller's claims.
    let mut best = unsafe {
        match subgroups {
            1 => exact::<V, 1>(codebook, x, dim, &[first.group]),
            _ => exact::<V, 4>(codebook, x, dim, &[0, 1, 2, 3].map(|s| 4 * first.group + s)),
        }
    };
    if best.code == NO_CODE {
        return None;
    }
    let reach = row.reach(best.score);
    let others = near.iter().filter(|near| near.score >= reach && near.group != first.group);
    let mut others = others.flat_map(|near| near.group * subgroups..(near.group + 1) * subgroups);
    counts.rescored += P::GROUP;
    while let Some(other) = others.next() {
        // Four chains at a time, as each alone would wait for its own sums; the last one is repeated.
        let mut four = [other; 4];
        counts.rescored += SUBGROUP;
        for (subgroup, other) in four[1..].iter_mut().zip(others.by_ref()) {
            *subgroup = other;
            counts.rescored += SUBGROUP;
        }
        // SAFETY: the caller's claims.
        let other = unsafe { exact::<V, 4>(codebook, x, dim, &four) };
        best = if best.behind(&other) { other } else { best };
    }
    Some((best.code, best.score))
}

/// The best code of `S` subgroups of 16 codes by the contract's scores.
///
/// # Safety
/// As [`rescore`]; the subgroups are those of the codebook's panels.
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
