//! What k-means needs beyond search and exact sums, as ops.

use crate::codebook::Metric;
use crate::cuda::images::KMEANS;
use crate::cuda::memory::{DeviceMatMut, DeviceMatRef, DeviceMut};
use crate::cuda::ops::ema::DeviceStatistics;
use crate::cuda::ops::{check_extent, row_width};
use crate::cuda::queue::{Grid, Kernel, Queue};
use crate::cuda::status::Op;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};

const THREADS: u32 = 256;
const TILE_THREADS: u32 = 128;

/// Moves the hit centres of `centres` `[K, dim]` to the mean of the statistics' rows; with `keep` (mini-batch), to
/// that of all rows that they ever took, `seen` `[K]` by weight. With [`Metric::Cosine`], centres become the means'
/// directions. `seen` is moved on; the statistics are left as they are, to be cleared.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
pub fn move_centres(
    queue: &impl Queue,
    statistics: &DeviceStatistics,
    metric: Metric,
    keep: bool,
    seen: &mut DeviceMut<f64>,
    centres: &mut DeviceMatMut,
) -> Result<()> {
    const OP: &str = "move_centres";
    let (codes, dim) = (statistics.codes(), statistics.dim());
    same(OP, "length of seen", codes, seen.len())?;
    same(OP, "rows of centres", codes, centres.rows())?;
    same(OP, "columns of centres", dim, centres.cols())?;
    if codes == 0 {
        return Ok(());
    }
    let (weights, sums) = statistics.as_parts();
    let [here, there] = statistics.exponent_args();
    let width = row_width(dim);
    let args = [
        weights.into(),
        sums.into(),
        codes.into(),
        dim.into(),
        width.into(),
        here,
        there,
        u32::from(keep).into(),
        u32::from(metric == Metric::Cosine).into(),
        seen.into(),
        centres.into(),
    ];
    let grid = Grid::over(codes, (THREADS / width) as usize, THREADS);
    // SAFETY: the kernel's parameters, over views whose extents are checked.
    unsafe { queue.launch(Kernel::new(&KMEANS, "move_centres"), grid, &args) }
}

/// The squared distance of each row of `x` `[rows, dim]` from its centre, in f64 in the order of the dimensions, to
/// `distances` `[rows]`; 0 for a row without one. A row whose distance is not finite loses its centre: its code
/// becomes [`NO_CODE`](crate::NO_CODE).
///
/// A code that does not exist is noted in the queue's status and becomes `NO_CODE` to the op, not in `codes`.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
pub fn distances(
    queue: &impl Queue,
    x: &DeviceMatRef,
    centres: &DeviceMatRef,
    codes: &mut DeviceMut<u32>,
    distances: &mut DeviceMut<f64>,
) -> Result<()> {
    const OP: &str = "distances";
    same(OP, "columns of centres", x.cols(), centres.cols())?;
    same(OP, "number of row codes", x.rows(), codes.len())?;
    same(OP, "length of distances", x.rows(), distances.len())?;
    check_extent(OP, "rows", x.rows())?;
    check_extent(OP, "columns", x.cols())?;
    check_extent(OP, "centres", centres.rows())?;
    if x.rows() == 0 {
        return Ok(());
    }
    let args = [
        x.into(),
        centres.into(),
        x.rows().into(),
        x.cols().into(),
        centres.rows().into(),
        Op::Distances.into(),
        codes.into(),
        distances.into(),
        queue.status().into(),
    ];
    let grid = Grid::over(x.rows(), TILE_THREADS as usize, TILE_THREADS);
    // SAFETY: the kernel's parameters, over views whose extents are checked.
    unsafe { queue.launch(Kernel::new(&KMEANS, "distances"), grid, &args) }
}
