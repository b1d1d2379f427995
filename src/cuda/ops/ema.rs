//! [`crate::ops::ema`] on a GPU: exact sums of rows per code, and moving averages over steps.
//!
//! The sums are the integers of the CPU's [`Statistics`](crate::ops::ema::Statistics), added by 64-bit
//! atomics: integers have no order, so the bits are the same. What only the data can show is noted in
//! the queue's status, in the words of the CPU's error. Unlike there, the other rows have been added:
//! statistics with a refusal are to be cleared. Only rows of a full code differ in more: its limit of
//! 2²² is held against the rows in the order of their arrival, and a refusal may take rows of the same
//! code beside it along.

use super::{check_extent, check_weights, row_width};
use crate::cuda::images::EMA;
use crate::cuda::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use crate::cuda::queue::{Arg, Grid, Kernel, Queue};
use crate::cuda::status::Op;
use crate::error::{Error, Result, same};
use crate::ops::ema::check_decay;

/// Threads of a block, and of one whose warps take 32 rows each.
const THREADS: u32 = 256;
const TILE_THREADS: u32 = 128;
/// Blocks that sum up the weight of all codes.
const PARTS: usize = 128;

/// Fills words with zeros.
pub(crate) fn zero<T>(queue: &impl Queue, room: &mut DeviceMut<T>) -> Result<()> {
    let words = room.len() * size_of::<T>() / 4;
    if words == 0 {
        return Ok(());
    }
    let grid = Grid::over(words, THREADS as usize, THREADS);
    // SAFETY: the kernel's parameters; T is of whole words.
    unsafe { queue.launch(Kernel::new(&EMA, "zero"), grid, &[(words as u64).into(), room.into()]) }
}

/// [`exponent`](crate::ops::ema::exponent) into `out` `[1]`: the smallest `E` with `|x| ≤ 2^E` for every element of
/// the rows that have a code and a weight. Only L2 needs it, and the host only after a copy; unit rows have 0.
///
/// A weight outside `0..=1` is noted in the queue's status.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
pub fn exponent(
    queue: &impl Queue,
    x: &DeviceMatRef,
    codes: &DeviceRef<u32>,
    weights: Option<&DeviceRef<f32>>,
    out: &mut DeviceMut<i32>,
) -> Result<()> {
    const OP: &str = "exponent";
    same(OP, "number of row codes", x.rows(), codes.len())?;
    check_weights(OP, weights, x.rows())?;
    same(OP, "length of out", 1, out.len())?;
    check_extent(OP, "rows", x.rows())?;
    check_extent(OP, "columns", x.cols())?;
    let one = Grid::over(1, 1, 1);
    // SAFETY: the kernels' parameters, over views whose extents are checked; `out` holds the bits of the largest
    // magnitude until the last launch.
    unsafe {
        queue.launch(Kernel::new(&EMA, "exponent_start"), one, &[(&mut *out).into()])?;
        if x.rows() > 0 {
            let args = [
                x.into(),
                codes.into(),
                weights.into(),
                x.rows().into(),
                x.cols().into(),
                row_width(x.cols()).into(),
                Op::Exponent.into(),
                (&mut *out).into(),
                queue.status().into(),
            ];
            let grid = Grid::over(x.rows(), TILE_THREADS as usize, TILE_THREADS);
            queue.launch(Kernel::new(&EMA, "exponent_most"), grid, &args)?;
        }
        queue.launch(Kernel::new(&EMA, "exponent_finish"), one, &[out.into()])
    }
}

/// Exact weights and sums per code in device memory: [`Statistics`](crate::ops::ema::Statistics).
pub struct DeviceStatistics<'a> {
    weights: DeviceMut<'a, i64>,
    sums: DeviceMut<'a, i64>,
    dim: usize,
    exponent: i32,
    /// Address of the exponent where only the device knows it; else 0.
    exponent_there: Arg,
}

impl<'a> DeviceStatistics<'a> {
    /// Empty statistics in `weights` `[K]` and `sums` `[K, dim]`, for rows within ±2^`exponent`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths do not fit, [`Error::Empty`] for a `dim` of 0.
    pub fn new_in(
        queue: &impl Queue,
        weights: DeviceMut<'a, i64>,
        sums: DeviceMut<'a, i64>,
        dim: usize,
        exponent: i32,
    ) -> Result<Self> {
        let mut statistics = Self::from_parts(weights, sums, dim, exponent)?;
        zero(queue, &mut statistics.weights)?;
        zero(queue, &mut statistics.sums)?;
        Ok(statistics)
    }

    /// Statistics as they stand in `weights` and `sums`: those of an earlier view, or another worker's. Nobody
    /// checks the integers: ones that no rows can give make averages that no rows can give.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths do not fit, [`Error::Empty`] for a `dim` of 0.
    pub fn from_parts(
        weights: DeviceMut<'a, i64>,
        sums: DeviceMut<'a, i64>,
        dim: usize,
        exponent: i32,
    ) -> Result<Self> {
        const OP: &str = "statistics";
        if dim == 0 {
            return Err(Error::Empty { op: OP, arg: "dim" });
        }
        same(OP, "length of sums", weights.len().saturating_mul(dim), sums.len())?;
        check_extent(OP, "codes", weights.len())?;
        check_extent(OP, "dim", dim)?;
        weights.aligned(8)?;
        sums.aligned(8)?;
        Ok(Self { weights, sums, dim, exponent: exponent.clamp(-149, 128), exponent_there: Arg::NONE })
    }

    /// Weights `[K]` in multiples of 2⁻⁴⁰ and sums `[K, dim]` in multiples of `2^(E−40)`: what workers add up.
    pub fn as_parts(&self) -> (&DeviceMut<'a, i64>, &DeviceMut<'a, i64>) {
        (&self.weights, &self.sums)
    }

    /// Number of codes.
    pub fn codes(&self) -> usize {
        self.weights.len()
    }

    /// Dimensions of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The `E` of the terms' unit `2^(E−40)`.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// Empties them again, for rows within ±2^`exponent`; only codes that were hit are written.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn clear(&mut self, queue: &impl Queue, exponent: i32) -> Result<()> {
        self.exponent = exponent.clamp(-149, 128);
        self.exponent_there = Arg::NONE;
        if self.codes() == 0 {
            return Ok(());
        }
        let args = [self.codes().into(), self.dim.into(), (&mut self.weights).into(), (&mut self.sums).into()];
        // SAFETY: the kernel's parameters; the extents are checked when the view is made.
        unsafe { queue.launch(Kernel::new(&EMA, "clear"), by_code_tiles(self.weights.len()), &args) }
    }

    /// [`clear`](Self::clear) for rows within ±2^`exponent` `[1]`, which [`exponent`] has found and only the device
    /// knows; the caller keeps it there while these sums are used.
    ///
    /// # Errors
    /// [`Error::Shape`] unless it is one number; what the driver refuses.
    pub(crate) fn clear_for(&mut self, queue: &impl Queue, exponent: &DeviceRef<i32>) -> Result<()> {
        same("clear", "length of exponent", 1, exponent.len())?;
        self.clear(queue, 0)?;
        self.exponent_there = exponent.into();
        Ok(())
    }

    /// [`coarsen`](Self::coarsen) to the exponent `needed` `[1]`, where it is larger than these sums' own: `exponent`
    /// `[1]`, that of [`clear_for`](Self::clear_for), which moves on to it.
    ///
    /// # Errors
    /// [`Error::Shape`] unless each is one number; what the driver refuses.
    pub(crate) fn coarsen_for(
        &mut self,
        queue: &impl Queue,
        needed: &DeviceRef<i32>,
        exponent: &mut DeviceMut<i32>,
    ) -> Result<()> {
        same("coarsen", "length of needed", 1, needed.len())?;
        same("coarsen", "length of exponent", 1, exponent.len())?;
        let there = Arg::from(&*exponent);
        let args = [(self.sums.len() as u64).into(), there, needed.into(), (&mut self.sums).into()];
        let grid = Grid::over(self.sums.len(), THREADS as usize, THREADS);
        // SAFETY: the kernels' parameters, over views whose extents are checked.
        unsafe {
            queue.launch(Kernel::new(&EMA, "coarsen_there"), grid, &args)?;
            queue.launch(Kernel::new(&EMA, "exponent_raise"), Grid::over(1, 1, 1), &[needed.into(), there])
        }
    }

    pub(crate) fn known(&self) -> Result<()> {
        match self.exponent_there == Arg::NONE {
            true => Ok(()),
            false => Err(Error::Config { field: "exponent", expected: "one that the host knows" }),
        }
    }

    /// The exponent as kernels take it: a number, and where to find a better one.
    pub(crate) fn exponent_args(&self) -> [Arg; 2] {
        [self.exponent.into(), self.exponent_there]
    }

    /// Makes room for rows within ±2^`exponent`, a larger one than before: sums as they stand are
    /// rounded once, to even, to the coarser unit.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn coarsen(&mut self, queue: &impl Queue, exponent: i32) -> Result<()> {
        self.known()?;
        let exponent = exponent.clamp(self.exponent, 128);
        let shift = (exponent - self.exponent).min(100);
        self.exponent = exponent;
        if shift == 0 || self.sums.is_empty() {
            return Ok(());
        }
        let grid = Grid::over(self.sums.len(), THREADS as usize, THREADS);
        let args = [(self.sums.len() as u64).into(), shift.into(), (&mut self.sums).into()];
        // SAFETY: as above.
        unsafe { queue.launch(Kernel::new(&EMA, "coarsen"), grid, &args) }
    }

    /// Adds the rows of `x` `[rows, dim]` to their `codes` `[rows]`, and to `left_out` `[1]`, where it is given, how
    /// many rows with a code were left out for an infinity or NaN in them; a full count stays full.
    ///
    /// A weight outside `0..=1`, an element beyond ±2^`exponent`, a code that does not exist, and more than 2²² rows
    /// of a code are noted in the queue's status; those rows are not added.
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ.
    pub fn accumulate(
        &mut self,
        queue: &impl Queue,
        x: &DeviceMatRef,
        codes: &DeviceRef<u32>,
        weights: Option<&DeviceRef<f32>>,
        left_out: Option<&mut DeviceMut<u32>>,
    ) -> Result<()> {
        const OP: &str = "accumulate";
        same(OP, "columns of x", self.dim, x.cols())?;
        same(OP, "number of row codes", x.rows(), codes.len())?;
        check_weights(OP, weights, x.rows())?;
        if let Some(left_out) = &left_out {
            same(OP, "length of left_out", 1, left_out.len())?;
        }
        check_extent(OP, "rows", x.rows())?;
        if x.rows() == 0 {
            return Ok(());
        }
        let [here, there] = self.exponent_args();
        let args = [
            x.into(),
            codes.into(),
            weights.into(),
            x.rows().into(),
            self.dim.into(),
            row_width(self.dim).into(),
            self.codes().into(),
            here,
            there,
            Op::Accumulate.into(),
            (&mut self.weights).into(),
            (&mut self.sums).into(),
            left_out.as_deref().into(),
            queue.status().into(),
        ];
        let grid = Grid::over(x.rows(), TILE_THREADS as usize, TILE_THREADS);
        // SAFETY: the kernel's parameters, over views whose extents are checked.
        unsafe { queue.launch(Kernel::new(&EMA, "accumulate"), grid, &args) }
    }

    /// Adds another worker's statistics: exact, whatever the order of workers. A code that would take more than 2²²
    /// rows is noted in the queue's status and left as it is; the others are merged.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shapes differ, [`Error::Config`] where the exponents do.
    pub fn merge(&mut self, queue: &impl Queue, other: &DeviceStatistics) -> Result<()> {
        const OP: &str = "merge";
        same(OP, "number of codes", self.codes(), other.codes())?;
        same(OP, "dim", self.dim, other.dim)?;
        self.known()?;
        other.known()?;
        if self.exponent != other.exponent {
            return Err(Error::Config {
                field: "exponent",
                expected: "the same exponent in all workers: the largest of theirs",
            });
        }
        if self.codes() == 0 {
            return Ok(());
        }
        let args = [
            (&other.weights.as_ref()).into(),
            (&other.sums.as_ref()).into(),
            self.codes().into(),
            self.dim.into(),
            Op::Merge.into(),
            (&mut self.weights).into(),
            (&mut self.sums).into(),
            queue.status().into(),
        ];
        // SAFETY: as above.
        unsafe { queue.launch(Kernel::new(&EMA, "merge"), by_code_tiles(self.weights.len()), &args) }
    }
}

/// A warp for 32 codes.
fn by_code_tiles(codes: usize) -> Grid {
    Grid::over(codes, THREADS as usize, THREADS)
}

/// Moves the mean of each hit code towards this step's rows; with `direction`, writes the mean's
/// direction there too (the cosine form). Codes that were not hit are not touched.
///
/// `mean` `[K, dim]` and `direction` `[K, dim]`; `cluster_size` `[K]` is `N` *before* this step
/// ([`DeviceActivity::observe`] moves it on).
///
/// # Errors
/// [`Error::Shape`] where the extents differ; [`Error::Config`] for a decay outside `[0, 1)`.
pub fn update_means(
    queue: &impl Queue,
    decay: f64,
    statistics: &DeviceStatistics,
    cluster_size: &DeviceRef<f32>,
    mean: &mut DeviceMatMut,
    direction: Option<&mut DeviceMatMut>,
) -> Result<()> {
    const OP: &str = "update_means";
    check_decay(decay)?;
    let (codes, dim) = (statistics.codes(), statistics.dim());
    same(OP, "length of cluster_size", codes, cluster_size.len())?;
    same(OP, "rows of mean", codes, mean.rows())?;
    same(OP, "columns of mean", dim, mean.cols())?;
    if let Some(direction) = &direction {
        same(OP, "rows of direction", codes, direction.rows())?;
        same(OP, "columns of direction", dim, direction.cols())?;
    }
    if codes == 0 {
        return Ok(());
    }
    let width = row_width(dim);
    let [here, there] = statistics.exponent_args();
    let args = [
        decay.into(),
        (&statistics.weights).into(),
        (&statistics.sums).into(),
        codes.into(),
        dim.into(),
        width.into(),
        here,
        there,
        cluster_size.into(),
        mean.into(),
        direction.into(),
    ];
    let grid = Grid::over(codes, (THREADS / width) as usize, THREADS);
    // SAFETY: the kernel's parameters, over views whose extents are checked.
    unsafe { queue.launch(Kernel::new(&EMA, "update_means"), grid, &args) }
}

/// How much each code has been used of late, in device memory: [`Activity`](crate::ops::ema::Activity).
pub struct DeviceActivity<'a> {
    /// `N` for each code, `[K]` f32.
    pub cluster_size: DeviceMut<'a, f32>,
    /// `A` for each code, `[K]` f32.
    pub exposure: DeviceMut<'a, f32>,
    /// Rows seen (by weight) when the code was last hit or born, `[K]` f64.
    pub last_seen: DeviceMut<'a, f64>,
    /// Rows seen so far, by weight, `[1]` f64.
    pub rows_seen: DeviceMut<'a, f64>,
}

/// Number of `u64` that [`DeviceActivity::observe`] needs as scratch.
pub const fn observe_scratch_len() -> usize {
    2 * PARTS
}

impl<'a> DeviceActivity<'a> {
    /// All codes born now, in storage for `K` codes each and for the one number of rows.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths differ.
    pub fn new_in(
        queue: &impl Queue,
        cluster_size: DeviceMut<'a, f32>,
        exposure: DeviceMut<'a, f32>,
        last_seen: DeviceMut<'a, f64>,
        rows_seen: DeviceMut<'a, f64>,
    ) -> Result<Self> {
        let mut activity = Self { cluster_size, exposure, last_seen, rows_seen };
        activity.check()?;
        zero(queue, &mut activity.cluster_size)?;
        zero(queue, &mut activity.exposure)?;
        zero(queue, &mut activity.last_seen)?;
        zero(queue, &mut activity.rows_seen)?;
        Ok(activity)
    }

    /// One of each for every code.
    pub(super) fn check(&self) -> Result<()> {
        let codes = self.cluster_size.len();
        same("activity", "length of exposure", codes, self.exposure.len())?;
        same("activity", "length of last_seen", codes, self.last_seen.len())?;
        same("activity", "length of rows_seen", 1, self.rows_seen.len())?;
        check_extent("activity", "codes", codes)
    }

    /// Moves all averages on by one step: `N ← βN + (1−β)n`, `A ← βA + (1−β)M`, in f64, rounded to
    /// f32; below 2⁻¹⁰⁰ they become 0. `scratch` has [`observe_scratch_len`] elements at least.
    ///
    /// # Errors
    /// [`Error::Shape`] where the number of codes differs or the scratch is short; [`Error::Config`] for a decay
    /// outside `[0, 1)`.
    pub fn observe(
        &mut self,
        queue: &impl Queue,
        decay: f64,
        statistics: &DeviceStatistics,
        scratch: &mut DeviceMut<u64>,
    ) -> Result<()> {
        const OP: &str = "observe";
        check_decay(decay)?;
        self.check()?;
        let codes = self.cluster_size.len();
        same(OP, "number of codes", codes, statistics.codes())?;
        if scratch.len() < observe_scratch_len() {
            let expected = observe_scratch_len();
            return Err(Error::Shape { op: OP, arg: "length of scratch", expected, got: scratch.len() });
        }
        if codes == 0 {
            return Ok(());
        }
        let grid = Grid::over(codes, THREADS as usize, THREADS);
        let blocks = grid.blocks[0].min(PARTS as u32);
        let weights = &statistics.weights;
        // SAFETY: the kernels' parameters, over views whose extents are checked; a block has two parts in the scratch.
        unsafe {
            let total = Kernel::new(&EMA, "observe_total");
            let parts = Grid { blocks: [blocks, 1, 1], threads: THREADS };
            queue.launch(total, parts, &[weights.into(), codes.into(), (&mut *scratch).into()])?;
            let seen = Kernel::new(&EMA, "observe_seen");
            let args = [(&mut *scratch).into(), blocks.into(), (&mut self.rows_seen).into()];
            queue.launch(seen, Grid { blocks: [1; 3], threads: 32 }, &args)?;
            let args = [
                decay.into(),
                weights.into(),
                codes.into(),
                scratch.into(),
                (&self.rows_seen).into(),
                (&mut self.cluster_size).into(),
                (&mut self.exposure).into(),
                (&mut self.last_seen).into(),
            ];
            queue.launch(Kernel::new(&EMA, "observe"), grid, &args)
        }
    }
}
