//! What a pass gathers beside the exact sums (its report, and the rows farthest from their centres), and how it ends.
//!
//! The farthest rows are found by sorting: those kept so far and the batch's, greatest distance first and then by value,
//! and of them the first distinct ones, as the CPU's ordered map keeps them.

use super::DeviceKMeans;
use super::places::padded;
use crate::cuda::images::KMEANS_PASS;
use crate::cuda::memory::{DeviceMatRef, DeviceRef};
use crate::cuda::ops::zero;
use crate::cuda::queue::{Arg, Grid, Kernel, Queue};
use crate::error::Result;
use crate::kmeans::{Pass, kept_rows};

/// Number of u64 words of a pass's report.
pub const PASS_WORDS: usize = 5;
/// Words of `Sums` and `Entry`, and the entries that a block sorts, of `cuda/kmeans_pass.cu`.
pub(super) const SUMS_WORDS: usize = 3;
pub(super) const ENTRY_WORDS: usize = 2;
pub(super) const SORTED: usize = 1024;

const THREADS: u32 = 256;

/// What a pass came to, from its words.
pub fn decode(words: &[u64; PASS_WORDS]) -> Pass {
    let &[rows, weight, squared, empty, refilled] = words;
    let (weight, squared) = (f64::from_bits(weight), f64::from_bits(squared));
    Pass::new(rows, weight, squared, empty as usize, refilled as usize)
}

impl DeviceKMeans<'_> {
    /// Nothing is gathered.
    pub(super) fn begin_pass(&self, queue: &impl Queue) -> Result<()> {
        zero(queue, &mut self.arena.at(self.places.hits))?;
        zero(queue, &mut self.arena.at(self.places.pass))?;
        zero(queue, &mut self.arena.at(self.places.keys))
    }

    /// Adds a batch's rows to the pass's sums, and to the farthest where they are among them.
    pub(super) fn gather(
        &self,
        queue: &impl Queue,
        x: &DeviceMatRef,
        weights: Option<&DeviceRef<f32>>,
        codes: &DeviceRef<u32>,
        distances: &DeviceRef<f64>,
    ) -> Result<()> {
        let (rows, dim, places) = (x.rows(), x.cols(), &self.places);
        let room = kept_rows(self.packed.codes());
        let [pass, keys, entries, chosen] =
            [places.pass, places.keys, places.entries, places.chosen].map(|place| Arg::from(&self.arena.at(place)));
        let [farthest, taken] = [places.farthest, places.taken].map(|place| Arg::from(&self.arena.at(place)));
        let [nearest, taken_nearest] =
            [places.nearest, places.taken_nearest].map(|place| Arg::from(&self.arena.at(place)));
        let (codes, distances) = (Arg::from(codes), Arg::from(distances));
        let padded = padded(room, rows);
        let (room, wide) = (Arg::from(room), Grid::over(room * dim, THREADS as usize, THREADS));
        let over = |items| Grid::over(items, THREADS as usize, THREADS);
        let launch = |name, grid, args: &[Arg]| {
            // SAFETY: the kernels' parameters, over places laid out for them.
            unsafe { queue.launch(Kernel::new(&KMEANS_PASS, name), grid, args) }
        };
        launch("pass_sums", Grid::over(1, 1, 32), &[codes, weights.into(), distances, rows.into(), pass])?;
        let batch = [x.into(), codes, distances, rows.into(), dim.into(), room, padded.into(), keys, entries];
        launch("farthest_enter", over(padded), &batch)?;
        // -- sorted within blocks; then each longer run: across blocks, and within them
        let blocks = Grid::over(padded, SORTED, SORTED as u32 / 2);
        launch("farthest_sort", blocks, &[2u32.into(), SORTED.into(), entries])?;
        let mut run = 2 * SORTED;
        while run <= padded {
            let mut apart = run / 2;
            while apart >= SORTED {
                launch("farthest_step", over(padded / 2), &[padded.into(), run.into(), apart.into(), entries])?;
                apart /= 2;
            }
            launch("farthest_sort", blocks, &[run.into(), run.into(), entries])?;
            run *= 2;
        }
        launch("farthest_choose", Grid::over(1, 1, 1024), &[entries, padded.into(), room, chosen])?;
        let from = [chosen, room, dim.into(), x.into(), codes, farthest, nearest, taken, taken_nearest];
        launch("farthest_take", wide, &from)?;
        launch("farthest_keep", wide, &[chosen, taken, taken_nearest, room, dim.into(), keys, farthest, nearest])
    }

    /// Empty centres become the farthest rows; the report is written.
    pub(super) fn refill(&mut self, queue: &impl Queue) -> Result<()> {
        let (codes, dim, places) = (self.packed.codes(), self.packed.dim(), &self.places);
        let room = kept_rows(codes);
        let [usable, distinct, list, empty, nearest] =
            [places.usable, places.distinct, places.list, places.empty, places.nearest]
                .map(|place| Arg::from(&self.arena.at(place)));
        let [keys, pass, hits, report] =
            [places.keys, places.pass, places.hits, places.report].map(|place| Arg::from(&self.arena.at(place)));
        let (farthest, seen) = (Arg::from(&self.arena.at(places.farthest)), Arg::from(&self.arena.at(places.seen)));
        let centres = Arg::from(&mut self.centres);
        let over = |items| Grid::over(items, THREADS as usize, THREADS);
        let launch = |name, grid, args: &[Arg]| {
            // SAFETY: the kernels' parameters, over places laid out for them.
            unsafe { queue.launch(Kernel::new(&KMEANS_PASS, name), grid, args) }
        };
        let (n, d) = (Arg::from(room), Arg::from(dim));
        launch("refill_usable", over(room), &[keys, farthest, nearest, n, d, centres, usable])?;
        launch("refill_distinct", over(room), &[keys, usable, n, distinct])?;
        let lists = [distinct, n, hits, codes.into(), pass, list, empty, report];
        launch("refill_list", Grid::over(1, 1, 1024), &lists)?;
        launch("refill", over(room * dim), &[list, empty, report, n, d, farthest, seen, centres])
    }
}
