//! The 8-bit copy of a codebook that the certified coarse pass reads, and how far it is from the codes.
//!
//! `ĉ = scale · ĉ_int`, one scale for all codes, `ĉ_int` within ±127 and stored as `ĉ_int + 128`, so that a
//! row's integer score is too large by the same `128 · Σ x̂_int` for every code. A *group* is 256 codes,
//! `[4 quarters][⌈dim/4⌉][4 vectors][16 lanes][4 dimensions]` bytes; lane `l` of vector `v` of quarter `q` is
//! code `16 l + 4 q + v`, and so each lane of a vectorwise maximum stands for 16 consecutive codes, a *subgroup*.

use super::{Line, PANEL};
use crate::element::Element;
use crate::matrix::MatRef;
use crate::simd::{Kernel, Lanes};

/// Codes in a group.
pub(crate) const GROUP: usize = 256;
/// Codes in a subgroup: those that share a lane.
pub(crate) const SUBGROUP: usize = 16;
/// Bytes of a group for each four dimensions.
const STEP: usize = 4 * GROUP;
/// Bytes of a vector.
pub(crate) const VECTOR: usize = 64;
/// Bytes of a quarter of a group for each four dimensions.
pub(crate) const QUARTER: usize = 4 * VECTOR;
/// Largest `|h|` in units of its scale.
const HALF_NORM_MAX: f64 = 2047.0;
/// A codebook that changes code by code may outgrow the first scale by this much.
pub(super) const HEADROOM: f32 = 1.0 + 1.0 / 32.0;

/// What the copy's first line holds.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Header {
    /// `ĉ / ĉ_int`; 0 where there is no copy, since codes are not finite, all zero, tiny or huge.
    pub scale: f32,
    /// At least `‖c − ĉ‖` of every code.
    pub residual: f32,
    /// At least `‖c‖` of every code.
    pub norm: f32,
    /// At least `‖ĉ‖` of every code.
    pub coarse_norm: f32,
    /// At least `|h|` of every code.
    pub half_norm: f32,
    /// `h / h_int`; 0 where every h is 0.
    pub half_norm_scale: f32,
    /// Codes that were packed one by one since all were.
    pub(super) changed: f32,
    unused: [f32; 9],
}

// SAFETY: 16 f32, of which zero bits are a value.
unsafe impl bytemuck::Zeroable for Header {}
// SAFETY: 16 f32 without padding; every bit pattern is a value.
unsafe impl bytemuck::Pod for Header {}
const _: () = assert!(size_of::<Header>() == 16 * size_of::<f32>());

impl Header {
    /// Widens the bounds to what one code needs.
    #[inline(always)]
    pub(super) fn widen(&mut self, squares: &Squares) {
        let widen = |bound: &mut f32, square: f64| *bound = bound.max(up(crate::simd::sqrt(square)));
        widen(&mut self.residual, squares.residual);
        widen(&mut self.norm, squares.norm);
        widen(&mut self.coarse_norm, squares.coarse);
    }
}

/// Lines that the copy takes (saturated).
pub(super) const fn lines_len(codes: usize, dim: usize, half_norms: bool) -> usize {
    let steps = dim.div_ceil(4) + half_norms as usize;
    codes.div_ceil(GROUP).saturating_mul(steps.saturating_mul(STEP / size_of::<Line>())).saturating_add(1)
}

/// The copy, to be read.
#[derive(Clone, Copy)]
pub(crate) struct Int8<'a> {
    pub header: Header,
    bytes: &'a [u8],
    half_norms: Option<&'a [u8]>,
    steps: usize,
}

impl<'a> Int8<'a> {
    pub(super) fn new(lines: &'a [Line], codes: usize, dim: usize, half_norms: bool) -> Self {
        let (header, rest) = lines.split_at(1);
        let steps = dim.div_ceil(4);
        let (bytes, rest) = bytemuck::cast_slice(rest).split_at(codes.div_ceil(GROUP) * steps * STEP);
        Self { header: bytemuck::cast_slice(header)[0], bytes, half_norms: half_norms.then_some(rest), steps }
    }

    /// Groups of four dimensions, the last one filled up with zeros.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Group `g`: `[4][steps][4][16][4]` bytes.
    pub fn group(&self, g: usize) -> &'a [u8] {
        &self.bytes[g * self.steps * STEP..][..self.steps * STEP]
    }

    /// The h of group `g`: `[4][4][16]` pairs of `h_int` and `round(h_int / 64)`, 16 bits each. None for cosine.
    pub fn half_norms(&self, g: usize) -> Option<&'a [u8]> {
        self.half_norms.map(|pairs| &pairs[g * STEP..][..STEP])
    }
}

/// The f32 panels that a copy is made of.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub codes: usize,
    pub dim: usize,
    /// `[panels][dim][64]`.
    pub values: &'a [f32],
    /// `[panels][64]`; empty for cosine.
    pub half_norms: &'a [f32],
}

impl Panels<'_> {
    /// Code `k` and zeros; not more than its first `N` elements.
    #[inline(always)]
    pub fn code<const N: usize>(&self, k: usize) -> [f32; N] {
        let panel = &self.values[k / PANEL * self.dim * PANEL..][..self.dim * PANEL];
        let mut code = [0.0; N];
        code.iter_mut().zip(panel[k % PANEL..].iter().step_by(PANEL)).for_each(|(slot, &c)| *slot = c);
        code
    }

    fn subgroups(&self) -> usize {
        self.codes.div_ceil(SUBGROUP)
    }

    /// Dimension `i` of subgroup `s`; codes that do not exist are its first one.
    #[inline(always)]
    fn column(&self, s: usize, i: usize) -> [f32; SUBGROUP] {
        let first = s * SUBGROUP;
        self.exist(s, &self.values[(first / PANEL * self.dim + i) * PANEL + first % PANEL..])
    }

    /// `h` of subgroup `s`, in the same way.
    fn half_norms(&self, s: usize) -> [f32; SUBGROUP] {
        if self.half_norms.is_empty() { [0.0; SUBGROUP] } else { self.exist(s, &self.half_norms[s * SUBGROUP..]) }
    }

    #[inline(always)]
    fn exist(&self, s: usize, values: &[f32]) -> [f32; SUBGROUP] {
        let mut lanes = [0.0; SUBGROUP];
        lanes.copy_from_slice(&values[..SUBGROUP]);
        let used = self.codes - s * SUBGROUP;
        if used < SUBGROUP {
            lanes[used..].fill(values[0]);
        }
        lanes
    }

    /// The largest magnitudes of elements and of h; NaN where one is not finite.
    #[inline(always)]
    fn magnitudes(&self) -> [f32; 2] {
        // x · 0 is 0 for finite x and NaN for others.
        let (mut largest, mut poison) = ([[0.0f32; SUBGROUP]; 2], [0.0f32; SUBGROUP]);
        let mut see = |largest: &mut [f32; SUBGROUP], column: [f32; SUBGROUP]| {
            for ((largest, poison), x) in largest.iter_mut().zip(&mut poison).zip(column) {
                *largest = if x.abs() > *largest { x.abs() } else { *largest };
                *poison += x * 0.0;
            }
        };
        for s in 0..self.subgroups() {
            (0..self.dim).for_each(|i| see(&mut largest[0], self.column(s, i)));
            see(&mut largest[1], self.half_norms(s));
        }
        let poison: f32 = poison.iter().sum();
        largest.map(|lanes| lanes.into_iter().fold(0.0, f32::max) + poison)
    }
}

/// Copies codes; plain loops, compiled for the instruction set that it is run on.
pub(super) struct Pack<'a, E> {
    /// The copy's lines.
    pub copy: &'a mut [Line],
    /// What is copied.
    pub panels: Panels<'a>,
    /// The same by rows.
    pub codebook: MatRef<'a, E>,
    /// Which codes; all, where none are given.
    pub changed: Option<&'a [u32]>,
}

impl<E: Element> Kernel for Pack<'_, E> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        match self.changed {
            Some(changed) => pack_changed(self.copy, self.panels, changed, self.codebook),
            None => pack_all(self.copy, self.panels),
        }
    }
}

/// Copies every code, with scales of its own.
#[inline(always)]
fn pack_all(lines: &mut [Line], panels: Panels) {
    let [largest, half_norm] = panels.magnitudes();
    let mut copy = Copying::new(lines, panels);
    let scale = largest * HEADROOM / 127.0;
    let half_norm_scale = (f64::from(half_norm * HEADROOM) / HALF_NORM_MAX) as f32;
    *copy.header = bytemuck::Zeroable::zeroed();
    // Scales near the subnormal numbers would not be precise, and squares of large ones overflow.
    if !(1e-30..1e18).contains(&scale) || !(half_norm_scale == 0.0 || (1e-30..1e36).contains(&half_norm_scale)) {
        return;
    }
    copy.header.scale = scale;
    copy.header.half_norm_scale = half_norm_scale;
    (0..panels.subgroups()).for_each(|s| copy.pack(s));
}

/// Copies the codes in `changed`; all codes where those have outgrown the scales, or where so many have
/// changed that the scales should be chosen anew.
#[inline(always)]
fn pack_changed<E: Element>(lines: &mut [Line], panels: Panels, changed: &[u32], codebook: MatRef<E>) {
    let mut copy = Copying::new(lines, panels);
    copy.header.changed += changed.len() as f32;
    let stale = copy.header.scale == 0.0 || copy.header.changed as usize >= panels.codes.max(1 << 10);
    if stale || !changed.iter().all(|&k| copy.pack_code(k as usize, codebook.row(k as usize))) {
        pack_all(lines, panels);
    }
}

/// The copy, being written.
struct Copying<'a> {
    header: &'a mut Header,
    bytes: &'a mut [u8],
    half_norms: &'a mut [u8],
    panels: Panels<'a>,
}

impl<'a> Copying<'a> {
    fn new(lines: &'a mut [Line], panels: Panels<'a>) -> Self {
        let (header, rest) = lines.split_at_mut(1);
        let bytes = panels.codes.div_ceil(GROUP) * panels.dim.div_ceil(4) * STEP;
        let (bytes, half_norms) = bytemuck::cast_slice_mut(rest).split_at_mut(bytes);
        Self { header: &mut bytemuck::cast_slice_mut(header)[0], bytes, half_norms, panels }
    }

    /// Copies subgroup `s`, which fits the scales.
    #[inline(always)]
    fn pack(&mut self, s: usize) {
        let (panels, scale) = (self.panels, self.header.scale);
        let mut sums = [[0.0f64; SUBGROUP]; 3];
        for step in 0..panels.dim.div_ceil(4) {
            let mut quads = [0x8080_8080u32; SUBGROUP];
            for i in 4 * step..panels.dim.min(4 * step + 4) {
                let (column, shift) = (panels.column(s, i), 8 * (i % 4));
                // Lane by lane in arrays, which the compiler makes vectors of.
                let mut ints = [0.0f32; SUBGROUP];
                for v in 0..SUBGROUP {
                    ints[v] = nearest(column[v] / scale).clamp(-127.0, 127.0);
                }
                for v in 0..SUBGROUP {
                    // The sign bit is the 128 that is there already.
                    quads[v] ^= (ints[v] as i32 as u32 & 0xff) << shift;
                    let (c, coarse) = (f64::from(column[v]), f64::from(scale) * f64::from(ints[v]));
                    sums[0][v] += (c - coarse) * (c - coarse);
                    sums[1][v] += c * c;
                    sums[2][v] += coarse * coarse;
                }
            }
            for (v, quad) in quads.iter().enumerate() {
                self.put(s * SUBGROUP + v, step, quad.to_le_bytes());
            }
        }
        let [residual, norm, coarse] = sums.map(|lanes| lanes.into_iter().fold(0.0, f64::max));
        self.header.widen(&Squares { residual, norm, coarse });
        (0..SUBGROUP).zip(panels.half_norms(s)).for_each(|(v, h)| self.put_half_norm(s * SUBGROUP + v, h));
    }

    /// Copies code `k`; whether it fits the scales.
    #[inline(always)]
    fn pack_code<E: Element>(&mut self, k: usize, code: &[E]) -> bool {
        let Header { scale, half_norm_scale, .. } = *self.header;
        let h = self.panels.half_norms.get(k).map_or(0.0, |h| h.abs());
        // NaN fits nothing.
        let fits = code.iter().all(|c| c.to_f32().abs() <= scale * 127.0);
        if !(fits && f64::from(h) <= f64::from(half_norm_scale) * HALF_NORM_MAX) {
            return false;
        }
        // Codes that do not exist are their subgroup's first one.
        let (codes, first) = (self.panels.codes, k.is_multiple_of(SUBGROUP));
        let copies = (k..k + SUBGROUP).filter(move |&j| j == k || (first && j >= codes));
        let mut squares = Squares::default();
        for (step, code) in code.chunks(4).enumerate() {
            let mut quad = [128u8; 4];
            quad.iter_mut().zip(code).for_each(|(byte, c)| *byte = squares.add(c.to_f32(), scale));
            copies.clone().for_each(|j| self.put(j, step, quad));
        }
        self.header.widen(&squares);
        copies.for_each(|j| self.put_half_norm(j, -h));
        true
    }

    /// The bytes of code `k` for one step.
    #[inline(always)]
    fn put(&mut self, k: usize, step: usize, quad: [u8; 4]) {
        let (group, lane, v) = (k / GROUP, k / SUBGROUP % (GROUP / SUBGROUP), k % SUBGROUP);
        let steps = self.panels.dim.div_ceil(4);
        let at = group * steps * STEP + (v / 4 * steps + step) * QUARTER + v % 4 * VECTOR + 4 * lane;
        self.bytes[at..at + 4].copy_from_slice(&quad);
    }

    /// The pair of code `k`'s h, and the header's bound; nothing for cosine.
    #[inline(always)]
    fn put_half_norm(&mut self, k: usize, h: f32) {
        if self.half_norms.is_empty() {
            return;
        }
        self.header.half_norm = self.header.half_norm.max(h.abs());
        let int = if h == 0.0 { 0.0 } else { nearest(h / self.header.half_norm_scale) };
        let at = k / GROUP * STEP + k % SUBGROUP * VECTOR + k / SUBGROUP % (GROUP / SUBGROUP) * 4;
        self.half_norms[at..at + 2].copy_from_slice(&(int as i16).to_ne_bytes());
        self.half_norms[at + 2..at + 4].copy_from_slice(&(nearest(int / 64.0) as i16).to_ne_bytes());
    }
}

/// `Σ (c − ĉ)²`, `Σ c²` and `Σ ĉ²` of a code.
#[derive(Clone, Copy, Default)]
pub(super) struct Squares {
    pub residual: f64,
    pub norm: f64,
    pub coarse: f64,
}

impl Squares {
    /// The larger of each.
    #[inline(always)]
    pub fn larger(self, other: Self) -> Self {
        Self {
            residual: self.residual.max(other.residual),
            norm: self.norm.max(other.norm),
            coarse: self.coarse.max(other.coarse),
        }
    }

    /// Adds an element's, and returns its byte.
    #[inline(always)]
    pub fn add(&mut self, c: f32, scale: f32) -> u8 {
        let int = nearest(c / scale).clamp(-127.0, 127.0);
        let (c, coarse) = (f64::from(c), f64::from(scale) * f64::from(int));
        self.residual += (c - coarse) * (c - coarse);
        self.norm += c * c;
        self.coarse += coarse * coarse;
        (int as i32 + 128) as u8
    }
}

/// The nearest integer of `|x| < 2²²`, ties to even.
#[inline(always)]
pub(crate) fn nearest(x: f32) -> f32 {
    // The sum's unit in the last place is 1.
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC) - MAGIC
}

/// What `x ≥ 0` would be without the rounding of the up to 4,096 squares and additions that it is the
/// root of, or more.
#[inline(always)]
pub(crate) fn above(x: f64) -> f64 {
    x * (1.0 + 1e-11)
}

/// The least f32 that is not below [`above`].
fn up(x: f64) -> f32 {
    let x = above(x);
    let narrow = x as f32;
    if f64::from(narrow) < x { narrow.next_up() } else { narrow }
}
