//! Whether cells pay: what an adaptive codebook decides for the rows that come.
//!
//! Every way finds the same codes, so that a decision costs time at worst, and how much is bounded: cells are built
//! where one batch gains more than that takes, or when searching took twenty times as long since they were last built.
//! What they gain is seen on a few rows. Those are pruned where there are cells; else their nearest codes tell how
//! many caps they would reach, were the cells those of some of the codes.
//!
//! Ways are compared by counted work, each unit of it with the nanoseconds that it took on one machine (AVX-512 VNNI,
//! [`Costs`]); only their ratios matter.

use super::caps::{self, ASKED, Caps, MAX_DIM, Pack, ROWS, Work, gather, seeds};
use super::int8::Panels;
use super::{Line, PackedCodebook};
use crate::cpu::Cpu;
use crate::element::Element;
use crate::matrix::MatRef;
use crate::ops::search::{SAMPLE, sample};
use crate::simd::Isa;

/// Searching takes as many times as long as building that its batches do not pay for.
const PATIENCE: f64 = 20.0;
/// Rows that are searched beside each that is sampled.
const SPARSE: usize = 64;
/// What a build must gain at least, in times what it costs: estimates are rough.
const CLEARLY: f64 = 1.25;
/// Of the [`ROWS`] codes whose nearest seeds tell how wide caps will be, so many may be outside: a cap holds all of about 100 codes.
const OUTSIDE: usize = 3;

/// What is remembered between batches; nanoseconds of the machine that [`Costs`] were measured on.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct State {
    /// 1 where codes are in cells.
    filled: f32,
    /// 1 where codes have changed that the cells do not know.
    behind: f32,
    /// Searching since cells were last built or refused.
    spent: f32,
    /// A pruned row, when last sampled.
    row: f32,
    /// The same right after building.
    fresh: f32,
    /// By how much batches since then were slower than fresh cells would have made them.
    lost: f32,
    /// What the last batch gained.
    gain: f32,
    unused: [f32; 9],
}

// SAFETY: 16 f32, of which zero bits are a value.
unsafe impl bytemuck::Zeroable for State {}
// SAFETY: 16 f32 without padding; every bit pattern is a value.
unsafe impl bytemuck::Pod for State {}
const _: () = assert!(size_of::<State>() == size_of::<Line>());

impl State {
    /// Whether rows should be pruned.
    pub fn wins(&self) -> bool {
        self.filled == 1.0 && self.behind == 0.0 && self.gain > 0.0
    }
}

/// Nanoseconds on the machine of the findings in `benches/README.md`.
#[derive(Clone, Copy)]
struct Costs {
    /// A row's search without cells.
    plain: f64,
    /// A row's search with cells, but for what it visits.
    row: f64,
    /// 16 codes that a row visits.
    vector: f64,
    /// A changed code into its cell.
    code: f64,
    /// All cells.
    build: f64,
}

impl Costs {
    fn new(isa: Isa, codes: usize, dim: usize) -> Self {
        // A register of 16 codes: four products of bytes, and one FMA.
        let (bytes, fma) = match isa.name() {
            "avx512vnni" | "amx" => (0.25, 0.2),
            "avx2vnni" => (0.49, 0.4),
            "avx2" => (0.87, 0.4),
            "avx512" => (0.87, 0.2),
            // What has no tier of its own was not timed: as if each lane took as long.
            _ => (6.4 / isa.lanes() as f64, 3.2 / isa.lanes() as f64),
        };
        let (vectors, steps) = (codes as f64 / 16.0, dim.div_ceil(4) as f64);
        let centres = caps::cells(codes) as f64 / 16.0 * (dim + 1) as f64 * fma;
        let by_fma = vectors * (dim + 1) as f64 * fma;
        let by_bytes = vectors * (steps + 1.0) * bytes;
        let plain = if isa.coarse_from().is_some_and(|from| codes * dim >= from) { by_bytes } else { by_fma };
        let code = 150.0;
        Self {
            plain,
            row: 900.0 + 2.0 * centres,
            vector: (steps + 1.0) * (0.5 + 2.0 * bytes),
            code,
            build: codes as f64 * (2.0 * code + centres * (1.0 + 1.0 / ASKED as f64)),
        }
    }
}

/// The codes in `changed`, or all, are others now: cells follow where that is cheaper than what they gain.
pub(super) fn changed(lines: &mut [Line], panels: Panels, changed: Option<&[u32]>) {
    let state = *caps::state(lines);
    if state.filled != 1.0 || state.behind != 0.0 {
        return;
    }
    let costs = Costs::new(Isa::detect(), panels.codes, panels.dim);
    let renewed = changed.is_some_and(|changed| {
        let cheap = state.wins() && changed.len() as f64 * costs.code < f64::from(state.gain);
        cheap && Isa::detect().run(Pack { lines, panels, work: Work::Renew(changed) })
    });
    caps::state(lines).behind = if renewed { 0.0 } else { 1.0 };
}

/// A batch that is about to be searched, with what it is searched by.
pub(super) struct Batch<'a, E> {
    pub cpu: &'a Cpu<'a>,
    pub x: MatRef<'a, E>,
    pub panels: Panels<'a>,
    /// Where the cells are.
    pub lines: &'a mut [Line],
    /// The codebook without its cells.
    pub plain: PackedCodebook<&'a [Line]>,
}

impl<E: Element> Batch<'_, E> {
    /// Builds the cells or leaves them, and decides whether rows are pruned.
    pub fn prepare(&mut self) {
        let costs = Costs::new(self.cpu.isa(), self.panels.codes, self.panels.dim);
        let share = self.x.rows() as f64 / self.cpu.threads() as f64;
        let batch = share * costs.plain;
        let gain = |row: f64| share * (costs.plain - row);
        let mut state = *caps::state(self.lines);
        state.spent += batch as f32;
        if state.filled == 1.0 && state.behind != 0.0 {
            let all = self.panels.codes as f64 * costs.code;
            if gain(f64::from(state.row)) > all {
                state.filled = self.run(Work::Refill);
                state.behind = 0.0;
            }
        }
        if state.filled == 1.0 && state.behind == 0.0 {
            state.row = self.sampled(&costs).map_or(state.row, |row| row as f32);
            let lost = f64::from(state.row).min(costs.plain) - f64::from(state.fresh);
            state.lost += (share * lost).max(0.0) as f32;
            if f64::from(state.lost) > CLEARLY * costs.build {
                self.build(&mut state, &costs);
            }
        } else if state.filled != 1.0 && (batch > costs.build || f64::from(state.spent) > PATIENCE * costs.build) {
            let gains = self.expected(&costs).is_some_and(|row| {
                let alone = gain(row) > CLEARLY * costs.build;
                alone || (f64::from(state.spent) > PATIENCE * costs.build && gain(row) > batch / PATIENCE)
            });
            match gains {
                true => self.build(&mut state, &costs),
                false => state.spent = 0.0,
            }
        }
        state.gain = gain(f64::from(state.row)) as f32;
        *caps::state(self.lines) = state;
    }

    /// 1 where it went well.
    fn run(&mut self, work: Work) -> f32 {
        f32::from(u8::from(Isa::detect().run(Pack { lines: self.lines, panels: self.panels, work })))
    }

    fn build(&mut self, state: &mut State, costs: &Costs) {
        *state = State { filled: self.run(Work::Build), ..bytemuck::Zeroable::zeroed() };
        // Fewer rows than can be sampled do not build.
        let row = self.sampled(costs).unwrap_or(costs.plain) as f32;
        (state.row, state.fresh) = (row, row);
    }

    /// What a row costs that is pruned, from some that are; none where there are too few.
    fn sampled(&self, costs: &Costs) -> Option<f64> {
        let caps = Caps::new(self.lines, self.panels.codes, self.panels.dim);
        let rows = (self.x.rows() / SPARSE).min(SAMPLE);
        if rows == 0 || caps.header.scale == 0.0 {
            return None;
        }
        // Runs of neighbours, from all over the batch.
        let runs = rows.min(4);
        let counts = (0..runs).map(|run| {
            let first = self.x.rows() / runs * run;
            sample(self.cpu.isa(), self.x.rows_from(first, rows / runs), &self.plain, caps)
        });
        let [rows, visited, hard] = counts.fold([0.0; 3], |sums, counts| {
            [sums[0] + counts.rows as f64, sums[1] + counts.visited as f64, sums[2] + counts.exact as f64]
        });
        // Rows that take the f32 pass: at least as long as without cells.
        Some(costs.row + (visited / 16.0 * costs.vector + hard * costs.plain) / rows)
    }

    /// What a row would cost with cells; none where codes are not of unit length.
    fn expected(&mut self, costs: &Costs) -> Option<f64> {
        let panels = self.panels;
        if self.run(Work::Seed) != 1.0 {
            return None;
        }
        let seeds = seeds(self.lines, &panels).ok()?;
        let cpu = Cpu::with_isa(self.cpu.isa());
        let (mut rows, mut codes, mut scores) = ([0.0; ROWS * MAX_DIM], [0u32; ROWS], [0.0f32; ROWS]);
        let count = gather(&panels, 0, (panels.codes / ROWS).max(1) | 1, &mut rows);
        let asked = MatRef::new(&rows[..count * panels.dim], count, panels.dim).ok()?;
        crate::ops::search(&cpu, asked, None, &seeds, &mut codes[..count], Some(&mut scores[..count])).ok()?;
        scores[..count].sort_unstable_by(f32::total_cmp);
        let cosine = f64::from(scores[OUTSIDE.min(count - 1)]).clamp(-1.0, 1.0);
        let sine = libm::sqrt(1.0 - cosine * cosine);
        let (step, mut reached, mut searched) = ((self.x.rows() / SAMPLE).max(1), 0, 0);
        for first in (0..self.x.rows()).step_by(step).take(SAMPLE) {
            let x = self.x.rows_from(first, 1);
            let (mut code, mut score) = ([0u32], [0.0]);
            crate::ops::search(&cpu, x, None, &self.plain, &mut code, Some(&mut score)).ok()?;
            let norm = libm::sqrt(x.row(0).iter().map(|x| f64::from(x.to_f32()) * f64::from(x.to_f32())).sum());
            let t = (f64::from(score[0]) / norm).clamp(-1.0, 1.0);
            // Not where a row is zero or NaN, which no cell excludes.
            let bound = norm * (t * cosine - libm::sqrt(1.0 - t * t) * sine);
            let excluded = (0..seeds.codes()).filter(|&cell| dot(x.row(0), &seeds, cell) < bound).count();
            reached += seeds.codes() - excluded;
            searched += 1;
        }
        let cells = reached as f64 / searched as f64;
        let vectors = panels.codes as f64 / 16.0 / seeds.codes() as f64 + 0.5;
        Some(costs.row + cells * vectors * costs.vector)
    }
}

/// `x · u`, u a cell's seed.
fn dot<E: Element>(x: &[E], seeds: &PackedCodebook<&[Line]>, cell: usize) -> f64 {
    let panel = seeds.panel(cell / super::PANEL);
    let seed = panel[cell % super::PANEL..].iter().step_by(super::PANEL);
    x.iter().zip(seed).map(|(x, &u)| f64::from(x.to_f32() * u)).sum()
}
