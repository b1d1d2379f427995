//! [`crate::ops::loss`] on a GPU.

use super::{check_extent, check_weights, check_workspace, row_width};
use crate::cuda::images::LOSS;
use crate::cuda::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use crate::cuda::queue::{Arg, Grid, Kernel, Queue};
use crate::cuda::status::Op;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};
use crate::ops::ROW_BLOCK;

const THREADS: u32 = 256;

/// Rows, dim and what else every op here checks.
fn check(op: &'static str, x: &DeviceMatRef, quantized: (usize, usize), codes: &DeviceRef<u32>) -> Result<()> {
    same(op, "rows of quantized", x.rows(), quantized.0)?;
    same(op, "columns of quantized", x.cols(), quantized.1)?;
    same(op, "number of row codes", x.rows(), codes.len())?;
    check_extent(op, "rows", x.rows())?;
    check_extent(op, "columns", x.cols())
}

/// Number of f32 that [`squared_error`] needs at least as workspace for `rows`.
pub const fn squared_error_workspace_len(rows: usize) -> usize {
    2 * rows + 2 * rows.div_ceil(ROW_BLOCK)
}

/// Adds `Σ w ‖x − quantized‖²` and `Σ w` to `total` `[2]`: the fields of
/// [`SquaredError`](crate::ops::loss::SquaredError).
///
/// A weight outside `0..=1` is noted in the queue's [status](crate::cuda::status::decode) as
/// [`Error::Value`], and counts as 0.
///
/// # Errors
/// [`Error::Shape`] where the extents differ or `workspace` is shorter than [`squared_error_workspace_len`],
/// [`Error::TooLarge`] for an extent that u32 cannot count.
pub fn squared_error(
    queue: &impl Queue,
    x: &DeviceMatRef,
    quantized: &DeviceMatRef,
    codes: &DeviceRef<u32>,
    weights: Option<&DeviceRef<f32>>,
    total: &mut DeviceMut<f64>,
    workspace: &mut DeviceMut<f32>,
) -> Result<()> {
    const OP: &str = "squared_error";
    check(OP, x, (quantized.rows(), quantized.cols()), codes)?;
    check_weights(OP, weights, x.rows())?;
    same(OP, "length of total", 2, total.len())?;
    let rows = x.rows();
    check_workspace(OP, squared_error_workspace_len(rows), workspace)?;
    if rows == 0 {
        return Ok(());
    }
    let blocks = rows.div_ceil(ROW_BLOCK);
    let mut part = |first: usize, len: usize| Arg::from(&mut workspace.part::<f32>(first * size_of::<f32>(), len));
    let (distances, counted, sums) = (part(0, rows), part(rows, rows), part(2 * rows, 2 * blocks));
    let width = row_width(x.cols());
    let grid = Grid::over(rows, (THREADS / width) as usize, THREADS);
    let args = [
        x.into(),
        quantized.into(),
        codes.into(),
        weights.into(),
        rows.into(),
        x.cols().into(),
        width.into(),
        distances,
        counted,
        queue.status().into(),
        Op::SquaredError.into(),
    ];
    // SAFETY: the kernels' parameters, over views whose extents are checked and parts of the workspace.
    unsafe {
        queue.launch(Kernel::new(&LOSS, "squared_error_rows"), grid, &args)?;
        let args = [distances, counted, rows.into(), sums];
        queue.launch(Kernel::new(&LOSS, "squared_error_blocks"), Grid::over(blocks, 1, 128), &args)?;
        let args = [sums, blocks.into(), total.into()];
        queue.launch(Kernel::new(&LOSS, "squared_error_total"), Grid::over(1, 1, 32), &args)
    }
}

/// Adds `scale · w · (x − quantized)` to `dx` `[rows, dim]`: the gradient of
/// `scale / 2 · Σ w ‖x − quantized‖²` at `x`. Its negative is the gradient at `quantized`.
///
/// A weight outside `0..=1` is noted as by [`squared_error`].
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::TooLarge`] for one that u32 cannot count.
pub fn squared_error_backward(
    queue: &impl Queue,
    x: &DeviceMatRef,
    quantized: &DeviceMatRef,
    codes: &DeviceRef<u32>,
    weights: Option<&DeviceRef<f32>>,
    scale: f32,
    dx: &mut DeviceMatMut,
) -> Result<()> {
    squared_error_backward_by(queue, x, quantized, codes, weights, Scale::Here(scale), dx)
}

/// Where a factor is known.
pub(crate) enum Scale<'s> {
    /// On the host.
    Here(f32),
    /// Only on the device, `[1]`.
    There(&'s DeviceRef<'s, f32>),
}

/// [`squared_error_backward`] by a scale that may be the device's.
pub(crate) fn squared_error_backward_by(
    queue: &impl Queue,
    x: &DeviceMatRef,
    quantized: &DeviceMatRef,
    codes: &DeviceRef<u32>,
    weights: Option<&DeviceRef<f32>>,
    scale: Scale,
    dx: &mut DeviceMatMut,
) -> Result<()> {
    const OP: &str = "squared_error_backward";
    check(OP, x, (quantized.rows(), quantized.cols()), codes)?;
    check(OP, x, (dx.rows(), dx.cols()), codes)?;
    check_weights(OP, weights, x.rows())?;
    if x.rows() == 0 {
        return Ok(());
    }
    let (here, there) = match scale {
        Scale::Here(scale) => (scale, Arg::NONE),
        Scale::There(scale) => (0.0, Arg::from(scale)),
    };
    let width = row_width(x.cols());
    let grid = Grid::over(x.rows(), (THREADS / width) as usize, THREADS);
    let args = [
        x.into(),
        quantized.into(),
        codes.into(),
        weights.into(),
        x.rows().into(),
        x.cols().into(),
        width.into(),
        here.into(),
        there,
        dx.into(),
        queue.status().into(),
        Op::SquaredErrorBackward.into(),
    ];
    // SAFETY: the kernel's parameters, over views whose extents are checked.
    unsafe { queue.launch(Kernel::new(&LOSS, "squared_error_backward"), grid, &args) }
}

/// The straight-through estimator: `dx = dquantized` where a row has a code, else 0.
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::TooLarge`] for one that u32 cannot count.
pub fn straight_through_backward(
    queue: &impl Queue,
    codes: &DeviceRef<u32>,
    dquantized: &DeviceMatRef,
    dx: &mut DeviceMatMut,
) -> Result<()> {
    check("straight_through_backward", dquantized, (dx.rows(), dx.cols()), codes)?;
    let (rows, dim) = (dquantized.rows(), dquantized.cols());
    if rows == 0 {
        return Ok(());
    }
    let width = row_width(dim);
    let grid = Grid::over(rows, (THREADS / width) as usize, THREADS);
    let args = [codes.into(), dquantized.into(), rows.into(), dim.into(), width.into(), dx.into()];
    // SAFETY: the kernel's parameters, over views whose extents are checked.
    unsafe { queue.launch(Kernel::new(&LOSS, "straight_through_backward"), grid, &args) }
}

/// The rotation trick's gradient at `x`, into `dx` `[rows, dim]`, as
/// [on the CPU](crate::ops::loss::rotation_backward); zeros where a row has no code.
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::TooLarge`] for one that u32 cannot count.
pub fn rotation_backward(
    queue: &impl Queue,
    x: &DeviceMatRef,
    quantized: &DeviceMatRef,
    codes: &DeviceRef<u32>,
    dquantized: &DeviceMatRef,
    dx: &mut DeviceMatMut,
) -> Result<()> {
    const OP: &str = "rotation_backward";
    check(OP, x, (quantized.rows(), quantized.cols()), codes)?;
    check(OP, x, (dquantized.rows(), dquantized.cols()), codes)?;
    check(OP, x, (dx.rows(), dx.cols()), codes)?;
    let (rows, dim) = (x.rows(), x.cols());
    if rows == 0 {
        return Ok(());
    }
    let width = row_width(dim);
    // Rows that a row's threads take in turn: enough to share out the f64 work, few enough to fill the device.
    let turns = width.min(8);
    let grid = Grid::over(rows, (THREADS / width * turns) as usize, THREADS);
    let args = [
        x.into(),
        quantized.into(),
        codes.into(),
        dquantized.into(),
        rows.into(),
        dim.into(),
        width.into(),
        turns.into(),
        dx.into(),
    ];
    // SAFETY: the kernel's parameters, over views whose extents are checked.
    unsafe { queue.launch(Kernel::new(&LOSS, "rotation_backward"), grid, &args) }
}
