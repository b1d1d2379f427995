//! Codes of unit length in cells, each within a cap of the sphere, and their 8-bit copy in the cells' order: what
//! the pruned search reads.
//!
//! A cell's cap has the centre `u` and the angle `θ` that no code of the cell is farther from `u` than. Cells are
//! those of the codes nearest to one of a few codes, which are the centres; a cell is padded to whole vectors of 16.

use super::int8::{HEADROOM, Header, VECTOR};
use super::{Line, Metric, PANEL, PackedCodebook, Packing};
use crate::NO_CODE;
use crate::cpu::Cpu;
use crate::element::Element;
use crate::matrix::MatRef;
use crate::simd::{Kernel, Lanes};

/// Codes in a vector.
pub(crate) const LANES: usize = 16;
/// The most cells.
pub(crate) const MAX_CELLS: usize = 1024;
/// Beyond, caps overlap so much that nearly every cell is visited.
pub(crate) const MAX_DIM: usize = 16;
/// Codes of a cell, about.
const CELL: usize = 96;
/// How far from 1 a code's length may be.
const TOLERANCE: f64 = 1e-3;

/// Number of cells: whole panels.
const fn cells(codes: usize) -> usize {
    let panels = codes / CELL / PANEL;
    let most = MAX_CELLS / PANEL;
    (if panels < 1 {
        1
    } else if panels > most {
        most
    } else {
        panels
    }) * PANEL
}

/// Where the parts begin, in lines; the last is their end.
#[derive(Clone, Copy)]
struct Layout {
    cells: usize,
    vectors: usize,
    steps: usize,
    centres: usize,
    cosines: usize,
    sines: usize,
    starts: usize,
    order: usize,
    places: usize,
    bytes: usize,
    end: usize,
}

impl Layout {
    const fn new(codes: usize, dim: usize) -> Self {
        let (cells, steps) = (cells(codes), dim.div_ceil(4));
        let vectors = codes.div_ceil(LANES).saturating_add(cells);
        let centres = 1;
        let cosines = centres + cells / 16 * dim;
        let sines = cosines + cells / 16;
        let starts = sines + cells / 16;
        let order = starts + cells / 16 + 1;
        let places = order + vectors;
        let bytes = places + codes.div_ceil(16);
        Self {
            cells,
            vectors,
            steps,
            centres,
            cosines,
            sines,
            starts,
            order,
            places,
            bytes,
            end: bytes + vectors * steps,
        }
    }
}

/// Lines that the caps take; none where they cannot help.
pub(super) const fn lines_len(codes: usize, dim: usize) -> usize {
    if dim == 0 || dim > MAX_DIM || codes > super::MAX_CODES { 0 } else { Layout::new(codes, dim).end }
}

/// The caps, to be read.
#[derive(Clone, Copy)]
pub(crate) struct Caps<'a> {
    pub header: Header,
    lines: &'a [Line],
    layout: Layout,
    dim: usize,
}

impl<'a> Caps<'a> {
    pub(super) fn new(lines: &'a [Line], codes: usize, dim: usize) -> Self {
        Self { header: bytemuck::cast_slice(&lines[..1])[0], lines, layout: Layout::new(codes, dim), dim }
    }

    #[inline(always)]
    pub fn cells(&self) -> usize {
        self.layout.cells
    }

    /// Groups of four dimensions.
    #[inline(always)]
    pub fn steps(&self) -> usize {
        self.layout.steps
    }

    /// The centres of 64 cells, `[dim][64]`.
    #[inline(always)]
    pub fn centres(&self, panel: usize) -> &'a [f32] {
        let lines = PANEL / 16 * self.dim;
        bytemuck::cast_slice(&self.lines[self.layout.centres + panel * lines..][..lines])
    }

    /// `cos θ` of each cell; −∞ where it is always visited.
    #[inline(always)]
    pub fn cosines(&self) -> &'a [f32] {
        bytemuck::cast_slice(&self.lines[self.layout.cosines..self.layout.sines])
    }

    /// `sin θ` of each cell.
    #[inline(always)]
    pub fn sines(&self) -> &'a [f32] {
        bytemuck::cast_slice(&self.lines[self.layout.sines..self.layout.starts])
    }

    /// The vectors of a cell, whatever was written there.
    #[inline(always)]
    pub fn vectors(&self, cell: usize) -> core::ops::Range<usize> {
        let starts: &[u32] = bytemuck::cast_slice(&self.lines[self.layout.starts..self.layout.order]);
        let bounded = |at: usize| (starts[at] as usize).min(self.layout.vectors);
        bounded(cell)..bounded(cell + 1)
    }

    /// The codes of a vector's lanes; [`NO_CODE`] where a lane is padding.
    #[inline(always)]
    pub fn codes(&self, vector: usize) -> &'a [u32] {
        bytemuck::cast_slice(&self.lines[self.layout.order + vector..][..1])
    }

    /// The bytes of some vectors, `[vectors][steps][16][4]`.
    #[inline(always)]
    pub fn bytes(&self, vectors: core::ops::Range<usize>) -> &'a [u8] {
        let steps = self.layout.steps;
        bytemuck::cast_slice(&self.lines[self.layout.bytes..][vectors.start * steps..vectors.end * steps])
    }
}

/// Writes the caps; plain loops, compiled for the instruction set that it is run on.
pub(super) struct Pack<'a, E> {
    pub lines: &'a mut [Line],
    pub codebook: MatRef<'a, E>,
    /// Which codes; all, where none are given.
    pub changed: Option<&'a [u32]>,
}

impl<E: Element> Kernel for Pack<'_, E> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let mut writing = Writing::new(self.lines, self.codebook.rows(), self.codebook.cols());
        let stale = writing.header.scale == 0.0;
        let kept = self.changed.filter(|changed| !stale && writing.renew(self.codebook, changed));
        if kept.is_none() {
            writing.build(self.codebook);
        }
    }
}

/// The caps, being written.
struct Writing<'a> {
    header: &'a mut Header,
    centres: &'a mut [Line],
    cosines: &'a mut [f32],
    sines: &'a mut [f32],
    starts: &'a mut [u32],
    order: &'a mut [u32],
    places: &'a mut [u32],
    bytes: &'a mut [u8],
    layout: Layout,
}

impl<'a> Writing<'a> {
    fn new(lines: &'a mut [Line], codes: usize, dim: usize) -> Self {
        let layout = Layout::new(codes, dim);
        let (header, rest) = lines.split_at_mut(layout.centres);
        let (centres, rest) = rest.split_at_mut(layout.cosines - layout.centres);
        let (cosines, rest) = rest.split_at_mut(layout.sines - layout.cosines);
        let (sines, rest) = rest.split_at_mut(layout.starts - layout.sines);
        let (starts, rest) = rest.split_at_mut(layout.order - layout.starts);
        let (order, rest) = rest.split_at_mut(layout.places - layout.order);
        let (places, bytes) = rest.split_at_mut(layout.bytes - layout.places);
        Self {
            header: &mut bytemuck::cast_slice_mut(header)[0],
            centres,
            cosines: bytemuck::cast_slice_mut(cosines),
            sines: bytemuck::cast_slice_mut(sines),
            starts: bytemuck::cast_slice_mut(starts),
            order: bytemuck::cast_slice_mut(order),
            places: &mut bytemuck::cast_slice_mut(places)[..codes],
            bytes: bytemuck::cast_slice_mut(bytes),
            layout,
        }
    }

    /// Everything anew; no scale where the codes are not of unit length.
    #[inline(always)]
    fn build<E: Element>(&mut self, codebook: MatRef<E>) {
        *self.header = bytemuck::Zeroable::zeroed();
        let (codes, cells) = (codebook.rows(), self.layout.cells);
        let mut largest = 0.0f32;
        for k in 0..codes {
            let norm = norm(codebook.row(k));
            // NaN is not near 1.
            if !matches!((norm - 1.0).abs(), 0.0..=TOLERANCE) {
                return;
            }
            codebook.row(k).iter().for_each(|c| largest = largest.max(c.to_f32().abs()));
        }
        let centres: &mut [f32] = bytemuck::cast_slice_mut(self.centres);
        for cell in 0..cells {
            let code = codebook.row((cell * codes / cells) % codes);
            // Of unit length in f32, which the codes need not be.
            let norm = norm(code);
            let panel = &mut centres[cell / PANEL * code.len() * PANEL + cell % PANEL..];
            panel
                .iter_mut()
                .step_by(PANEL)
                .zip(code)
                .for_each(|(slot, c)| *slot = (f64::from(c.to_f32()) / norm) as f32);
        }
        // One step of k-means: a fifth fewer codes are visited then.
        if !self.assign(codebook) {
            return;
        }
        self.move_centres(codebook);
        if !self.assign(codebook) {
            return;
        }
        // Sizes of cells, then their first vectors.
        self.starts.fill(0);
        self.places.iter().for_each(|&cell| self.starts[cell as usize + 1] += 1);
        for cell in 0..cells {
            self.starts[cell + 1] = self.starts[cell] + self.starts[cell + 1].div_ceil(LANES as u32);
        }
        self.header.scale = largest * HEADROOM / 127.0;
        self.cosines.fill(1.0);
        self.order.fill(NO_CODE);
        // The sines count the codes of each cell for now.
        self.sines.fill(0.0);
        for k in 0..codes {
            let cell = self.places[k] as usize;
            let at = self.starts[cell] as usize * LANES + self.sines[cell] as usize;
            self.sines[cell] += 1.0;
            self.order[at] = k as u32;
            self.places[k] = at as u32;
            self.put(at, cell, codebook.row(k));
        }
        (0..cells).for_each(|cell| self.close(cell));
    }

    /// Each code's cell, into its place; whether that went well.
    #[inline(always)]
    fn assign<E: Element>(&mut self, codebook: MatRef<E>) -> bool {
        let (cells, dim) = (self.layout.cells, codebook.cols());
        PackedCodebook::from_lines(&*self.centres, cells, dim, Metric::Cosine, Packing::F32)
            .and_then(|centres| crate::ops::search(&Cpu::new(), codebook, None, &centres, self.places, None))
            .is_ok()
    }

    /// Moves each centre into the direction of its codes' sum.
    #[inline(always)]
    fn move_centres<E: Element>(&mut self, codebook: MatRef<E>) {
        let dim = codebook.cols();
        // The bytes are not written yet, and they are more.
        let sums: &mut [f32] = &mut bytemuck::cast_slice_mut(self.bytes)[..self.layout.cells * dim];
        sums.fill(0.0);
        for (k, &cell) in self.places.iter().enumerate() {
            let sum = &mut sums[cell as usize * dim..][..dim];
            sum.iter_mut().zip(codebook.row(k)).for_each(|(sum, c)| *sum += c.to_f32());
        }
        let centres: &mut [f32] = bytemuck::cast_slice_mut(self.centres);
        for (cell, sum) in sums.chunks_exact(dim).enumerate() {
            let norm = libm::sqrtf(sum.iter().map(|s| s * s).sum());
            // Codes that cancel each other out, or none at all, leave the centre as it was.
            if norm > 1e-3 {
                let panel = &mut centres[cell / PANEL * dim * PANEL + cell % PANEL..];
                panel.iter_mut().step_by(PANEL).take(dim).zip(sum).for_each(|(slot, s)| *slot = s / norm);
            }
        }
    }

    /// The changed codes in the cells that they are in, whose caps become wider where they must; whether the scale
    /// still fits and not too many have changed.
    #[inline(always)]
    fn renew<E: Element>(&mut self, codebook: MatRef<E>, changed: &[u32]) -> bool {
        self.header.changed += changed.len() as f32;
        if self.header.changed as usize >= codebook.rows() {
            return false;
        }
        for &k in changed {
            let code = codebook.row(k as usize);
            let fits = code.iter().all(|c| c.to_f32().abs() <= self.header.scale * 127.0);
            if !(fits && (norm(code) - 1.0).abs() <= TOLERANCE) {
                return false;
            }
            let at = self.places[k as usize] as usize;
            let after = self.starts[..=self.layout.cells]
                .partition_point(|&start| (start as usize).saturating_mul(LANES) <= at);
            let Some(cell) = after.checked_sub(1).filter(|&cell| cell < self.layout.cells && at < self.order.len())
            else {
                return false;
            };
            self.put(at, cell, code);
            self.close(cell);
        }
        true
    }

    /// One code into its place, and its cell's cosine so that the cap holds it.
    #[inline(always)]
    fn put<E: Element>(&mut self, at: usize, cell: usize, code: &[E]) {
        let (scale, steps) = (self.header.scale, self.layout.steps);
        let centres: &[f32] = bytemuck::cast_slice(self.centres);
        let centre = &centres[cell / PANEL * code.len() * PANEL + cell % PANEL..];
        let (mut dot, mut centre_square) = (0.0f64, 0.0f64);
        let mut squares = super::int8::Squares::default();
        for (step, (code, centre)) in code.chunks(4).zip(centre.chunks(4 * PANEL)).enumerate() {
            let mut quad = [128u8; 4];
            for ((byte, c), u) in quad.iter_mut().zip(code).zip(centre.iter().step_by(PANEL)) {
                let (c, u) = (c.to_f32(), f64::from(*u));
                *byte = squares.add(c, scale);
                dot += f64::from(c) * u;
                centre_square += u * u;
            }
            self.bytes[(at / LANES * steps + step) * VECTOR + at % LANES * 4..][..4].copy_from_slice(&quad);
        }
        self.header.widen(&squares);
        let cosine = dot / libm::sqrt(squares.norm * centre_square) - 1e-6;
        self.cosines[cell] = self.cosines[cell].min(cosine as f32);
    }

    /// The sine of a cell, and its padding: the bytes of its first code, so that it never wins alone.
    #[inline(always)]
    fn close(&mut self, cell: usize) {
        let cosine = f64::from(self.cosines[cell]) - 1e-6;
        self.sines[cell] = (libm::sqrt((1.0 - cosine * cosine).max(0.0)) + 1e-6).min(1.0) as f32;
        if cosine <= 0.0 {
            self.cosines[cell] = f32::NEG_INFINITY;
        }
        let steps = self.layout.steps;
        let [first, end] = [cell, cell + 1].map(|at| (self.starts[at] as usize).saturating_mul(LANES));
        for at in first..end.min(self.order.len()) {
            for step in 0..if self.order[at] == NO_CODE { steps } else { 0 } {
                let from = (first / LANES * steps + step) * VECTOR;
                self.bytes.copy_within(from..from + 4, (at / LANES * steps + step) * VECTOR + at % LANES * 4);
            }
        }
    }
}

/// A code's length.
#[inline(always)]
fn norm<E: Element>(code: &[E]) -> f64 {
    libm::sqrt(code.iter().map(|c| f64::from(c.to_f32()) * f64::from(c.to_f32())).sum())
}
