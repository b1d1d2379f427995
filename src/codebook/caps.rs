//! Codes of unit length in cells, each within a cap of the sphere, and their 8-bit copy in the cells' order: what
//! the pruned search reads.
//!
//! A cell's cap has the centre `u` and the angle `θ` that no code of the cell is farther from `u` than. Cells are
//! those of the codes nearest to one of a few codes, which are the centres; a cell is padded to whole vectors of 16.

use super::adaptive::State;
use super::int8::{HEADROOM, Header, Panels, Squares, VECTOR};
use super::{Line, Metric, PANEL, PackedCodebook, Packing};
use crate::NO_CODE;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::matrix::MatRef;
use crate::simd::{Kernel, Lanes, sqrt, sqrtf};

/// Codes in a vector.
pub(crate) const LANES: usize = 16;
/// The most cells.
pub(crate) const MAX_CELLS: usize = 1024;
/// Beyond, caps overlap so much that nearly every cell is visited.
pub(crate) const MAX_DIM: usize = 16;
/// Lines before the centres: the header, and what an adaptive codebook remembers.
pub(super) const HEADERS: usize = 2;
/// Codes of a cell, about.
const CELL: usize = 96;
/// How far from 1 a code's length may be.
const TOLERANCE: f64 = 1e-3;
/// Of so many codes one is asked where the centres should move: as good as all of them.
pub(super) const ASKED: usize = 4;
/// Codes that are taken out of the panels together.
pub(super) const ROWS: usize = 384;

/// Number of cells: whole panels.
pub(super) const fn cells(codes: usize) -> usize {
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
        let centres = HEADERS;
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

/// What an adaptive codebook remembers, in the lines of its caps.
pub(super) fn state(lines: &mut [Line]) -> &mut State {
    &mut bytemuck::cast_slice_mut(&mut lines[1..2])[0]
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

    /// What an adaptive codebook remembers.
    pub(super) fn state(&self) -> State {
        bytemuck::cast_slice(&self.lines[1..2])[0]
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
        let first = bounded(cell);
        first..bounded(cell + 1).max(first)
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
pub(super) struct Pack<'a> {
    pub lines: &'a mut [Line],
    pub panels: Panels<'a>,
    pub work: Work<'a>,
}

/// What is written of the caps.
#[derive(Clone, Copy)]
pub(super) enum Work<'a> {
    /// Everything anew.
    Build,
    /// Every code, in the cell that it is in.
    Refill,
    /// These codes, in the cells that they are in.
    Renew(&'a [u32]),
    /// Only centres as good as any: some of the codes.
    Seed,
}

impl Kernel for Pack<'_> {
    type Output = bool;
    /// Whether it went well: all codes are of unit length, and what is kept can be kept. The caps are not to be used else.
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) -> bool {
        let mut writing = Writing::new(self.lines, self.panels);
        let done = match self.work {
            Work::Build => writing.build(),
            Work::Refill => writing.largest().is_some_and(|largest| writing.fill(largest)),
            Work::Renew(changed) => writing.renew(changed),
            Work::Seed => writing.largest().is_some() && writing.seed(),
        };
        if !done {
            writing.header.scale = 0.0;
        }
        done
    }
}

/// All codes, or those in `changed`.
pub(super) fn pack(lines: &mut [Line], panels: Panels, changed: Option<&[u32]>) {
    let isa = crate::simd::Isa::detect();
    let mut renewed = false;
    if let Some(changed) = changed {
        let header: &mut Header = &mut bytemuck::cast_slice_mut(&mut lines[..1])[0];
        header.changed += changed.len() as f32;
        // With as many changes as codes, other cells would be better.
        if header.scale != 0.0 && (header.changed as usize) < panels.codes {
            renewed = isa.run(Pack { lines, panels, work: Work::Renew(changed) });
        }
    }
    if !renewed {
        isa.run(Pack { lines, panels, work: Work::Build });
    }
}

/// The seeds of the cells, after [`Work::Seed`].
pub(super) fn seeds<'a>(lines: &'a [Line], panels: &Panels) -> Result<PackedCodebook<&'a [Line]>> {
    let layout = Layout::new(panels.codes, panels.dim);
    let centres = &lines[layout.centres..layout.cosines];
    PackedCodebook::from_lines(centres, layout.cells, panels.dim, Metric::Cosine, Packing::F32)
}

/// Codes `first`, `first + step`, … out of the panels, at most [`ROWS`]: one after another, and how many they are.
#[inline(always)]
pub(super) fn gather(panels: &Panels, first: usize, step: usize, rows: &mut [f32; ROWS * MAX_DIM]) -> usize {
    let codes = (first..panels.codes).step_by(step).zip(rows.chunks_exact_mut(panels.dim)).take(ROWS);
    codes.fold(0, |count, (k, row)| {
        row.copy_from_slice(&panels.code::<MAX_DIM>(k)[..panels.dim]);
        count + 1
    })
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
    panels: Panels<'a>,
}

impl<'a> Writing<'a> {
    fn new(lines: &'a mut [Line], panels: Panels<'a>) -> Self {
        let layout = Layout::new(panels.codes, panels.dim);
        let (header, rest) = lines.split_at_mut(1);
        let (_, rest) = rest.split_at_mut(layout.centres - 1);
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
            places: &mut bytemuck::cast_slice_mut(places)[..panels.codes],
            bytes: bytemuck::cast_slice_mut(bytes),
            layout,
            panels,
        }
    }

    /// The largest magnitude of an element; none where a code is not of unit length.
    #[inline(always)]
    fn largest(&self) -> Option<f32> {
        (0..self.panels.codes).try_fold(0.0f32, |largest, k| {
            let code = self.panels.code::<MAX_DIM>(k);
            is_unit(&code).then(|| code.iter().fold(largest, |largest, c| largest.max(c.abs())))
        })
    }

    /// Everything anew.
    #[inline(always)]
    fn build(&mut self) -> bool {
        let Some(largest) = self.largest() else { return false };
        // One step of k-means: a fifth fewer codes are visited then.
        if !(self.seed() && self.move_centres() && self.assign()) {
            return false;
        }
        // Sizes of cells, then their first vectors.
        let cells = self.layout.cells;
        self.starts.fill(0);
        self.places.iter().for_each(|&cell| self.starts[cell as usize + 1] += 1);
        for cell in 0..cells {
            self.starts[cell + 1] = self.starts[cell] + self.starts[cell + 1].div_ceil(LANES as u32);
        }
        self.order.fill(NO_CODE);
        // The sines count the codes of each cell for now.
        self.sines.fill(0.0);
        for (k, place) in self.places.iter_mut().enumerate() {
            let cell = *place as usize;
            let at = self.starts[cell] as usize * LANES + self.sines[cell] as usize;
            self.sines[cell] += 1.0;
            self.order[at] = k as u32;
            *place = at as u32;
        }
        self.fill(largest)
    }

    /// Some of the codes as centres, of unit length in f32, which the codes need not be.
    #[inline(always)]
    fn seed(&mut self) -> bool {
        let (codes, cells, dim) = (self.panels.codes, self.layout.cells, self.panels.dim);
        for cell in 0..cells {
            let code = self.panels.code::<MAX_DIM>((cell * codes / cells) % codes);
            let norm = sqrt(square(&code));
            self.centre(cell).zip(&code[..dim]).for_each(|(u, c)| *u = (f64::from(*c) / norm) as f32);
        }
        true
    }

    /// The elements of a cell's centre.
    #[inline(always)]
    fn centre(&mut self, cell: usize) -> impl Iterator<Item = &mut f32> {
        let (dim, centres) = (self.panels.dim, bytemuck::cast_slice_mut::<_, f32>(self.centres));
        centres[cell / PANEL * dim * PANEL + cell % PANEL..].iter_mut().step_by(PANEL).take(dim)
    }

    /// Each code's cell, into its place; whether that went well.
    #[inline(always)]
    fn assign(&mut self) -> bool {
        let (panels, mut rows) = (self.panels, [0.0; ROWS * MAX_DIM]);
        let places = (0..panels.codes).step_by(ROWS).zip(self.places.chunks_mut(ROWS));
        let centres: &[Line] = self.centres;
        places.fold(true, |done, (first, places)| {
            gather(&panels, first, 1, &mut rows);
            done && nearest(centres, self.layout.cells, &rows, panels.dim, places)
        })
    }

    /// Moves each centre into the direction of its codes' sum, as far as those are asked.
    #[inline(always)]
    fn move_centres(&mut self) -> bool {
        let (panels, mut rows, mut cells) = (self.panels, [0.0; ROWS * MAX_DIM], [0u32; ROWS]);
        let dim = panels.dim;
        // The bytes are not written yet, and they are more.
        let sums: &mut [f32] = &mut bytemuck::cast_slice_mut(self.bytes)[..self.layout.cells * dim];
        sums.fill(0.0);
        for first in (0..panels.codes).step_by(ASKED * ROWS) {
            let count = gather(&panels, first, ASKED, &mut rows);
            if !nearest(self.centres, self.layout.cells, &rows, dim, &mut cells[..count]) {
                return false;
            }
            for (&cell, row) in cells[..count].iter().zip(rows.chunks_exact(dim)) {
                sums[cell as usize * dim..][..dim].iter_mut().zip(row).for_each(|(sum, c)| *sum += c);
            }
        }
        let centres: &mut [f32] = bytemuck::cast_slice_mut(self.centres);
        for (cell, sum) in sums.chunks_exact(dim).enumerate() {
            let norm = sqrtf(sum.iter().map(|s| s * s).sum());
            // Codes that cancel each other out, or none at all, leave the centre as it was.
            if norm > 1e-3 {
                let panel = &mut centres[cell / PANEL * dim * PANEL + cell % PANEL..];
                panel.iter_mut().step_by(PANEL).take(dim).zip(sum).for_each(|(slot, s)| *slot = s / norm);
            }
        }
        true
    }

    /// Every code into its place, and every cap as wide as it must be; whether places are those of cells.
    #[inline(always)]
    fn fill(&mut self, largest: f32) -> bool {
        *self.header = bytemuck::Zeroable::zeroed();
        self.header.scale = largest * HEADROOM / 127.0;
        self.cosines.fill(1.0);
        let mut worst = Squares::default();
        for k in 0..self.panels.codes {
            let Some((at, cell)) = self.place(k) else { return false };
            worst = worst.larger(self.put(at, cell, &self.panels.code::<MAX_DIM>(k)));
        }
        self.header.widen(&worst);
        (0..self.layout.cells).for_each(|cell| self.close(cell));
        true
    }

    /// The changed codes in the cells that they are in, whose caps become wider where they must; whether the scale
    /// still fits.
    #[inline(always)]
    fn renew(&mut self, changed: &[u32]) -> bool {
        let mut worst = Squares::default();
        for &k in changed {
            let code = self.panels.code::<MAX_DIM>(k as usize);
            let fits = code.iter().all(|c| c.abs() <= self.header.scale * 127.0);
            let Some((at, cell)) = self.place(k as usize).filter(|_| fits && is_unit(&code)) else { return false };
            worst = worst.larger(self.put(at, cell, &code));
            self.close(cell);
        }
        self.header.widen(&worst);
        true
    }

    /// Where code `k` is and in which cell, unless the lines were never packed.
    #[inline(always)]
    fn place(&self, k: usize) -> Option<(usize, usize)> {
        let at = self.places[k] as usize;
        let starts = &self.starts[..=self.layout.cells];
        let after = starts.partition_point(|&start| (start as usize).saturating_mul(LANES) <= at);
        let cell = after.checked_sub(1).filter(|&cell| cell < self.layout.cells && at < self.order.len())?;
        Some((at, cell))
    }

    /// One code into its place, and its cell's cosine so that the cap holds it.
    #[inline(always)]
    fn put(&mut self, at: usize, cell: usize, code: &[f32; MAX_DIM]) -> Squares {
        let (scale, steps, dim) = (self.header.scale, self.layout.steps, self.panels.dim);
        let centres: &[f32] = bytemuck::cast_slice(self.centres);
        let centre = &centres[cell / PANEL * dim * PANEL + cell % PANEL..];
        let (mut dot, mut centre_square) = (0.0f64, 0.0f64);
        let mut squares = Squares::default();
        for (step, (code, centre)) in code[..dim].chunks(4).zip(centre.chunks(4 * PANEL)).enumerate() {
            let mut quad = [128u8; 4];
            for ((byte, &c), u) in quad.iter_mut().zip(code).zip(centre.iter().step_by(PANEL)) {
                let u = f64::from(*u);
                *byte = squares.add(c, scale);
                dot += f64::from(c) * u;
                centre_square += u * u;
            }
            self.bytes[(at / LANES * steps + step) * VECTOR + at % LANES * 4..][..4].copy_from_slice(&quad);
        }
        let cosine = dot / sqrt(squares.norm * centre_square) - 1e-6;
        self.cosines[cell] = self.cosines[cell].min(cosine as f32);
        squares
    }

    /// The sine of a cell, and its padding: the bytes of its first code, so that it never wins alone.
    #[inline(always)]
    fn close(&mut self, cell: usize) {
        let cosine = f64::from(self.cosines[cell]) - 1e-6;
        self.sines[cell] = (sqrt((1.0 - cosine * cosine).max(0.0)) + 1e-6).min(1.0) as f32;
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

/// The cells nearest to some rows; whether that went well.
#[inline(always)]
fn nearest(centres: &[Line], cells: usize, rows: &[f32], dim: usize, places: &mut [u32]) -> bool {
    let rows = MatRef::new(&rows[..places.len() * dim], places.len(), dim);
    PackedCodebook::from_lines(centres, cells, dim, Metric::Cosine, Packing::F32)
        .and_then(|centres| crate::ops::search(&Cpu::new(), rows?, None, &centres, places, None))
        .is_ok()
}

/// `‖c‖²`.
#[inline(always)]
fn square(code: &[f32; MAX_DIM]) -> f64 {
    code.iter().map(|&c| f64::from(c) * f64::from(c)).sum()
}

/// Whether a code is long enough and not too long; NaN is neither.
#[inline(always)]
fn is_unit(code: &[f32; MAX_DIM]) -> bool {
    const LEAST: f64 = (1.0 - TOLERANCE) * (1.0 - TOLERANCE);
    const MOST: f64 = (1.0 + TOLERANCE) * (1.0 + TOLERANCE);
    (LEAST..=MOST).contains(&square(code))
}
