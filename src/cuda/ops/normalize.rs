//! [`crate::ops::normalize()`] and its gradient on a GPU.

use super::{check_extent, row_width};
use crate::cuda::images::NORMALIZE;
use crate::cuda::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use crate::cuda::queue::{Grid, Kernel, Queue};
use crate::element::Element;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};

const THREADS: u32 = 256;

/// Scales each row of `x` `[rows, dim]` to unit length, into `y` `[rows, dim]`; the lengths go to
/// `norms` `[rows]` where it is given.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
pub fn normalize<E: Element>(
    queue: &impl Queue,
    x: &DeviceMatRef<E>,
    y: &mut DeviceMatMut,
    norms: Option<&mut DeviceMut<f32>>,
) -> Result<()> {
    const OP: &str = "normalize";
    same(OP, "rows of y", x.rows(), y.rows())?;
    same(OP, "columns of y", x.cols(), y.cols())?;
    if let Some(norms) = &norms {
        same(OP, "number of norms", x.rows(), norms.len())?;
    }
    check_extent(OP, "rows", x.rows())?;
    check_extent(OP, "columns", x.cols())?;
    if x.rows() == 0 {
        return Ok(());
    }
    let kernel = Kernel::of::<E>(&NORMALIZE, ["normalize_f32", "normalize_f16", "normalize_bf16"]);
    let width = row_width(x.cols());
    let grid = Grid::over(x.rows(), (THREADS / width) as usize, THREADS);
    let args = [x.into(), x.rows().into(), x.cols().into(), width.into(), y.into(), norms.as_deref().into()];
    // SAFETY: the kernel's parameters, over views whose extents are checked.
    unsafe { queue.launch(kernel, grid, &args) }
}

/// The gradient at `x`, into `dx` `[rows, dim]`, from `y` and `norms` of [`normalize`] and the
/// gradient `dy` at `y`.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
pub fn normalize_backward(
    queue: &impl Queue,
    y: &DeviceMatRef,
    norms: &DeviceRef<f32>,
    dy: &DeviceMatRef,
    dx: &mut DeviceMatMut,
) -> Result<()> {
    const OP: &str = "normalize_backward";
    same(OP, "number of norms", y.rows(), norms.len())?;
    same(OP, "rows of dy", y.rows(), dy.rows())?;
    same(OP, "columns of dy", y.cols(), dy.cols())?;
    same(OP, "rows of dx", y.rows(), dx.rows())?;
    same(OP, "columns of dx", y.cols(), dx.cols())?;
    check_extent(OP, "rows", y.rows())?;
    check_extent(OP, "columns", y.cols())?;
    if y.rows() == 0 {
        return Ok(());
    }
    let width = row_width(y.cols());
    let grid = Grid::over(y.rows(), (THREADS / width) as usize, THREADS);
    let args = [y.into(), norms.into(), dy.into(), y.rows().into(), y.cols().into(), width.into(), dx.into()];
    // SAFETY: the kernel's parameters, over views whose extents are checked.
    unsafe { queue.launch(Kernel::new(&NORMALIZE, "normalize_backward"), grid, &args) }
}
