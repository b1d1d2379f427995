//! The copy of a codebook in bf16 that the tiles of AMX read, and how far it is from the codes.
//!
//! A tile of codes is 16 rows of 64 bytes, a [`Line`] each: one code and 32 *slots* in bf16. Codes of more than 8
//! dimensions have a slot for each. Codes of at most 8 have four, `[ch, cl, ch, cl]` with `ch` the code's element in bf16
//! and `cl` what is missing of it, against `[xh, xh, xl, xl]` of a row: all four products of two numbers with 16 bits each
//! for what one instruction costs anyway. Layout: `[⌈K/64⌉ groups][2][steps][32 codes]` lines, a *step* of 32 slots;
//! the last group is filled up with its first code.

use super::int8::{Header, Squares};
use super::{Line, PANEL};
use crate::element::Element;
use crate::matrix::MatRef;
use crate::simd::{Kernel, Lanes};

/// Slots in a step: what one instruction takes of a row and of a code.
pub(crate) const STEP: usize = 32;
/// The most dimensions that have four slots each.
const SPLIT: usize = 8;
/// Codes whose tiles lie together.
const BLOCK: usize = 32;

/// Steps of a code.
pub(crate) const fn steps(dim: usize) -> usize {
    let slots = if dim <= SPLIT { 4 * dim } else { dim };
    slots.div_ceil(STEP)
}

/// Lines that the copy takes (saturated).
pub(super) const fn lines_len(codes: usize, dim: usize) -> usize {
    codes.div_ceil(PANEL).saturating_mul(PANEL).saturating_mul(steps(dim)).saturating_add(1)
}

/// The copy, to be read.
#[derive(Clone, Copy)]
pub(crate) struct Bf16<'a> {
    /// Its `scale` is 1, or 0 where there is no copy, since codes are not finite or are huge.
    pub header: Header,
    lines: &'a [Line],
    steps: usize,
}

impl<'a> Bf16<'a> {
    pub(super) fn new(lines: &'a [Line], dim: usize) -> Self {
        let (header, lines) = lines.split_at(1);
        Self { header: bytemuck::cast_slice(header)[0], lines, steps: steps(dim) }
    }

    /// Steps of a code.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Groups `first .. first + count`, of 64 codes each.
    pub fn groups(&self, first: usize, count: usize) -> &'a [Line] {
        &self.lines[first * PANEL * self.steps..][..count * PANEL * self.steps]
    }
}

/// Two numbers in bf16, the first in the lower half.
pub(crate) type Pair = u32;

/// `x` as tiles have it: in bf16 (nearest, ties to even; subnormal ones are 0), and the same of what is missing.
///
/// What is not finite, or nearly, is not near their sum.
#[inline(always)]
pub(crate) fn split(x: f32) -> [u32; 2] {
    let nearest = |x: f32| {
        let bits = x.to_bits();
        let bits = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        if bits & 0x7f80 == 0 { 0 } else { bits }
    };
    let high = nearest(x);
    // Exact, as the difference has no more bits than were rounded away.
    [high, nearest(x - widen(high))]
}

/// What a number in bf16 is.
#[inline(always)]
pub(crate) fn widen(bf16: u32) -> f32 {
    f32::from_bits(bf16 << 16)
}

/// The pairs of slots of `x`, a code or (for [`SPLIT`] dimensions or fewer) a row: `put(p, pair)` for slots `2 p` and
/// `2 p + 1`; and `seen(x, x̂)` for each element, `x̂` what the slots make of it.
#[inline(always)]
pub(crate) fn pairs<E: Element>(x: &[E], row: bool, mut put: impl FnMut(usize, Pair), mut seen: impl FnMut(f32, f64)) {
    if x.len() <= SPLIT {
        for (i, x) in x.iter().enumerate() {
            let x = x.to_f32();
            let [high, low] = split(x);
            let slots = if row { [high | high << 16, low | low << 16] } else { [high | low << 16; 2] };
            put(2 * i, slots[0]);
            put(2 * i + 1, slots[1]);
            seen(x, f64::from(widen(high)) + f64::from(widen(low)));
        }
    } else {
        for (p, x) in x.chunks(2).enumerate() {
            let mut pair = 0;
            for (half, x) in x.iter().enumerate() {
                let x = x.to_f32();
                let [high, _] = split(x);
                pair |= high << (16 * half);
                seen(x, f64::from(widen(high)));
            }
            put(p, pair);
        }
    }
}

/// Copies codes; plain loops, compiled for the instruction set that it is run on.
pub(super) struct Pack<'a, E> {
    /// The copy's lines.
    pub copy: &'a mut [Line],
    /// All h; none for cosine.
    pub half_norms: &'a [f32],
    /// What is copied.
    pub codebook: MatRef<'a, E>,
    /// Which codes; all, where none are given.
    pub changed: Option<&'a [u32]>,
}

impl<E: Element> Kernel for Pack<'_, E> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { copy, half_norms, codebook, changed } = self;
        let (header, lines) = copy.split_at_mut(1);
        let header: &mut Header = &mut bytemuck::cast_slice_mut(header)[0];
        let mut copy = Copying { header, lines, half_norms, codebook };
        if let Some(changed) = changed {
            copy.header.changed += changed.len() as f32;
            // Bounds that only widen would be those of codes that are long gone.
            let stale = copy.header.scale == 0.0 || copy.header.changed as usize >= codebook.rows().max(1 << 10);
            if !stale && changed.iter().all(|&k| copy.code(k as usize)) {
                return;
            }
        }
        *copy.header = bytemuck::Zeroable::zeroed();
        let fit = (0..codebook.rows()).all(|k| copy.code(k));
        copy.header.scale = if fit { 1.0 } else { 0.0 };
    }
}

/// The copy, being written.
struct Copying<'a, E> {
    header: &'a mut Header,
    lines: &'a mut [Line],
    half_norms: &'a [f32],
    codebook: MatRef<'a, E>,
}

impl<E: Element> Copying<'_, E> {
    /// Copies code `k`; whether it may have a copy.
    #[inline(always)]
    fn code(&mut self, k: usize) -> bool {
        let (codes, steps) = (self.codebook.rows(), steps(self.codebook.cols()));
        // Codes that do not exist are their group's first one.
        let padding = if k.is_multiple_of(PANEL) { codes.max(k + 1)..k + PANEL } else { 0..0 };
        let line = move |j: usize, s: usize| (j / BLOCK * steps + s) * BLOCK + j % BLOCK;
        for s in 0..steps {
            self.lines[line(k, s)] = Line([0.0; 16]);
        }
        let (mut squares, mut fits) = (Squares::default(), true);
        let (lines, code) = (&mut *self.lines, self.codebook.row(k));
        pairs(
            code,
            false,
            |p, pair| {
                let line: &mut [u32] = bytemuck::cast_slice_mut(&mut lines[line(k, p / 16)].0);
                line[p % 16] = pair;
            },
            |c, coarse| {
                // NaN is not.
                fits &= c.abs() <= 1e18;
                let c = f64::from(c);
                squares.residual += (c - coarse) * (c - coarse);
                squares.norm += c * c;
                squares.coarse += coarse * coarse;
            },
        );
        for j in padding {
            for s in 0..steps {
                self.lines[line(j, s)] = self.lines[line(k, s)];
            }
        }
        let h = self.half_norms.get(k).map_or(0.0, |h| h.abs());
        self.header.widen(&squares);
        self.header.half_norm = self.header.half_norm.max(h);
        fits && h <= 1e36
    }
}
