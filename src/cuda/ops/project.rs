//! [`crate::ops::project()`] and its gradients on a GPU, and the projection to unit rows in one pass.

use super::{check_extent, check_workspace, normalize};
use crate::cuda::images::PROJECT;
use crate::cuda::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use crate::cuda::queue::{Arg, Grid, Kernel, Queue};
use crate::element::Element;
use crate::error::{Error, Result, same};
use crate::ops::ROW_BLOCK;

/// Which operands may be accessed by 16 bytes, as `Vectors` in `cuda/project.cu`.
const LEFT: u32 = 1;
const RIGHT: u32 = 2;
const OUTPUT: u32 = 4;

/// `flag` where rows of `cols` elements of `size` bytes from `address` on all start at a multiple of 16.
fn vectors(flag: u32, address: u64, cols: usize, size: usize) -> u32 {
    if address.is_multiple_of(16) && (cols * size).is_multiple_of(16) { flag } else { 0 }
}

/// How a product's output is divided: tiles of `rows`, and `turns` blocks that share a row of tiles, `per` each.
struct Division {
    grid: Grid,
    turns: usize,
    per: usize,
}

impl Division {
    fn new(queue: &impl Queue, (rows, cols): (usize, usize), tile: (usize, usize), threads: u32) -> Self {
        let (down, across) = (rows.div_ceil(tile.0), cols.div_ceil(tile.1));
        // Few rows: their tiles go to several blocks, so that every processor has four.
        let turns = (4 * queue.processors() as usize).div_ceil(down).clamp(1, across);
        let per = across.div_ceil(turns);
        let turns = across.div_ceil(per);
        Self { grid: Grid::over(down * turns, 1, threads), turns, per }
    }

    /// Whether tiles of 128 × 32 would leave processors idle.
    fn small(queue: &impl Queue, rows: usize, cols: usize) -> bool {
        rows.div_ceil(128) * cols.div_ceil(32) < 2 * queue.processors() as usize
    }
}

/// The kernel of [`project`], which also makes unit rows of up to 32 outputs.
fn launch<E: Element>(
    queue: &impl Queue,
    x: &DeviceMatRef<E>,
    weight: &DeviceMatRef,
    bias: Option<&DeviceRef<f32>>,
    y: &mut DeviceMatMut,
    unit: Option<&mut DeviceMatMut>,
    norms: Option<&mut DeviceMut<f32>>,
) -> Result<()> {
    let (rows, inputs, outputs) = (x.rows(), x.cols(), weight.rows());
    if rows == 0 || outputs == 0 {
        return Ok(());
    }
    let (names, tile, threads) = if outputs <= 8 {
        (["project_128x8_f32", "project_128x8_f16", "project_128x8_bf16"], (128, 8), 128)
    } else if Division::small(queue, rows, outputs) {
        (["project_32x32_f32", "project_32x32_f16", "project_32x32_bf16"], (32, 32), 64)
    } else {
        (["project_128x32_f32", "project_128x32_f16", "project_128x32_bf16"], (128, 32), 64)
    };
    let Division { grid, turns, per } = Division::new(queue, (rows, outputs), tile, threads);
    let (unit_address, unit) = unit.map_or((0, Arg::NONE), |unit| {
        let unit = unit.data();
        (unit.address(), unit.arg(0))
    });
    let vectors = vectors(LEFT, x.data().address(), inputs, size_of::<E>())
        | vectors(RIGHT, weight.data().address(), inputs, 4)
        | vectors(OUTPUT, y.data().address() | unit_address, outputs, 4);
    let args = [
        x.into(),
        weight.into(),
        bias.into(),
        rows.into(),
        inputs.into(),
        outputs.into(),
        turns.into(),
        per.into(),
        vectors.into(),
        y.into(),
        unit,
        norms.as_deref().into(),
    ];
    // SAFETY: the kernel's parameters, over views whose extents the callers have checked.
    unsafe { queue.launch(Kernel::of::<E>(&PROJECT, names), grid, &args) }
}

fn check(
    op: &'static str,
    x: (usize, usize),
    weight: &DeviceMatRef,
    bias: Option<&DeviceRef<f32>>,
    y: &DeviceMatMut,
) -> Result<()> {
    same(op, "columns of weight", x.1, weight.cols())?;
    same(op, "rows of y", x.0, y.rows())?;
    same(op, "columns of y", weight.rows(), y.cols())?;
    if let Some(bias) = bias {
        same(op, "length of bias", weight.rows(), bias.len())?;
    }
    check_extents(op, x.0, x.1, weight.rows())
}

fn check_extents(op: &'static str, rows: usize, inputs: usize, outputs: usize) -> Result<()> {
    check_extent(op, "rows", rows)?;
    check_extent(op, "inputs", inputs)?;
    check_extent(op, "outputs", outputs)
}

/// `y = x·weightᵀ + bias`, for x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` and y `[rows, outputs]`.
///
/// Fastest where `inputs` is a multiple of 4 (of 8 for half precision) and the buffers are aligned to 16 bytes.
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::TooLarge`] for one that u32 cannot count.
pub fn project<E: Element>(
    queue: &impl Queue,
    x: &DeviceMatRef<E>,
    weight: &DeviceMatRef,
    bias: Option<&DeviceRef<f32>>,
    y: &mut DeviceMatMut,
) -> Result<()> {
    check("project", (x.rows(), x.cols()), weight, bias, y)?;
    launch(queue, x, weight, bias, y, None, None)
}

/// [`project`] into `z` and [`normalize`](super::normalize()) of that into `unit` `[rows, outputs]` and, where it is
/// given, `norms` `[rows]`: the same bits as by the two, in one pass over memory up to 32 outputs.
///
/// # Errors
/// As [`project`].
pub fn project_normalize<E: Element>(
    queue: &impl Queue,
    x: &DeviceMatRef<E>,
    weight: &DeviceMatRef,
    bias: Option<&DeviceRef<f32>>,
    z: &mut DeviceMatMut,
    unit: &mut DeviceMatMut,
    norms: Option<&mut DeviceMut<f32>>,
) -> Result<()> {
    const OP: &str = "project_normalize";
    check(OP, (x.rows(), x.cols()), weight, bias, z)?;
    same(OP, "rows of unit", z.rows(), unit.rows())?;
    same(OP, "columns of unit", z.cols(), unit.cols())?;
    if let Some(norms) = &norms {
        same(OP, "number of norms", x.rows(), norms.len())?;
    }
    if (1..=32).contains(&weight.rows()) {
        return launch(queue, x, weight, bias, z, Some(unit), norms);
    }
    launch(queue, x, weight, bias, z, None, None)?;
    normalize::normalize(queue, &z.as_ref(), unit, norms)
}

/// The gradient at `x`, into `dx` `[rows, inputs]`, from the gradient `dy` `[rows, outputs]`.
///
/// # Errors
/// As [`project`].
pub fn project_backward_input(
    queue: &impl Queue,
    dy: &DeviceMatRef,
    weight: &DeviceMatRef,
    dx: &mut DeviceMatMut,
) -> Result<()> {
    const OP: &str = "project_backward_input";
    same(OP, "columns of dy", weight.rows(), dy.cols())?;
    same(OP, "rows of dx", dy.rows(), dx.rows())?;
    same(OP, "columns of dx", weight.cols(), dx.cols())?;
    let (rows, inputs, outputs) = (dy.rows(), weight.cols(), dy.cols());
    check_extents(OP, rows, inputs, outputs)?;
    if rows == 0 || inputs == 0 {
        return Ok(());
    }
    let (name, tile) = match Division::small(queue, rows, inputs) {
        true => ("project_backward_input_32x32", (32, 32)),
        false => ("project_backward_input_128x32", (128, 32)),
    };
    let Division { grid, turns, per } = Division::new(queue, (rows, inputs), tile, 64);
    let vectors = vectors(LEFT, dy.data().address(), outputs, 4)
        | vectors(RIGHT, weight.data().address(), inputs, 4)
        | vectors(OUTPUT, dx.data().address(), inputs, 4);
    let args = [
        dy.into(),
        weight.into(),
        rows.into(),
        outputs.into(),
        inputs.into(),
        turns.into(),
        per.into(),
        vectors.into(),
        dx.into(),
    ];
    // SAFETY: the kernel's parameters, over views whose extents are checked.
    unsafe { queue.launch(Kernel::new(&PROJECT, name), grid, &args) }
}

/// Number of f32 that [`project_backward_weight`] needs at least as workspace.
pub const fn project_backward_weight_workspace_len(rows: usize, inputs: usize, outputs: usize) -> usize {
    rows.div_ceil(ROW_BLOCK).saturating_mul(outputs).saturating_mul(inputs.saturating_add(1))
}

/// Adds the gradients at the weight and the bias to `dw` `[outputs, inputs]` and `db` `[outputs]`, from `dy`
/// `[rows, outputs]` and `x` `[rows, inputs]`.
///
/// # Errors
/// [`Error::Shape`] where the extents differ or `workspace` is shorter than
/// [`project_backward_weight_workspace_len`]; [`Error::TooLarge`] for an extent that u32 cannot count.
pub fn project_backward_weight(
    queue: &impl Queue,
    dy: &DeviceMatRef,
    x: &DeviceMatRef,
    dw: &mut DeviceMatMut<f64>,
    db: Option<&mut DeviceMut<f64>>,
    workspace: &mut DeviceMut<f32>,
) -> Result<()> {
    project_backward_weight_of(queue, dy, x, None, dw, db, workspace)
}

/// [`project_backward_weight`] without the rows that have no code, which may hold infinities and NaN.
pub(crate) fn project_backward_weight_of(
    queue: &impl Queue,
    dy: &DeviceMatRef,
    x: &DeviceMatRef,
    codes: Option<&DeviceRef<u32>>,
    dw: &mut DeviceMatMut<f64>,
    db: Option<&mut DeviceMut<f64>>,
    workspace: &mut DeviceMut<f32>,
) -> Result<()> {
    const OP: &str = "project_backward_weight";
    const TILE: (usize, usize) = (32, 128);
    same(OP, "rows of dy", x.rows(), dy.rows())?;
    same(OP, "rows of dw", dy.cols(), dw.rows())?;
    same(OP, "columns of dw", x.cols(), dw.cols())?;
    if let Some(db) = &db {
        same(OP, "length of db", dy.cols(), db.len())?;
    }
    let (rows, inputs, outputs) = (x.rows(), x.cols(), dy.cols());
    check_extents(OP, rows, inputs, outputs)?;
    check_workspace(OP, project_backward_weight_workspace_len(rows, inputs, outputs), workspace)?;
    if rows == 0 || outputs == 0 {
        return Ok(());
    }
    let (blocks, count) = (rows.div_ceil(ROW_BLOCK), outputs * inputs);
    let grid = |items: usize, threads| match i32::try_from(items) {
        Ok(_) => Ok(Grid::over(items, 1, threads)),
        Err(_) => Err(Error::TooLarge { op: OP, arg: "tiles of dw", max: i32::MAX as u64, got: items as u64 }),
    };
    let tiles = inputs.div_ceil(TILE.1).max(1).saturating_mul(outputs.div_ceil(TILE.0)).saturating_mul(blocks);
    let vectors = vectors(LEFT, x.data().address(), inputs, 4)
        | vectors(RIGHT, dy.data().address(), outputs, 4)
        | vectors(OUTPUT, workspace.address(), inputs, 4);
    let mut part = |first: usize, len: usize| Arg::from(&mut workspace.part::<f32>(first * size_of::<f32>(), len));
    let (dw_sums, db_sums) = (part(0, blocks * count), part(blocks * count, blocks * outputs));
    let db_sums_or_none = if db.is_some() { db_sums } else { Arg::NONE };
    let args = [
        dy.into(),
        x.into(),
        codes.into(),
        rows.into(),
        outputs.into(),
        inputs.into(),
        vectors.into(),
        dw_sums,
        db_sums_or_none,
    ];
    let total = Kernel::new(&PROJECT, "project_backward_weight_total");
    // SAFETY: the kernels' parameters, over views whose extents are checked and parts of the workspace.
    unsafe {
        queue.launch(Kernel::new(&PROJECT, "project_backward_weight_blocks"), grid(tiles, 128)?, &args)?;
        if count > 0 {
            let args = [dw_sums, blocks.into(), Arg::U64(count as u64), dw.into()];
            queue.launch(total, grid(count.div_ceil(256), 256)?, &args)?;
        }
        if let Some(db) = db {
            let args = [db_sums, blocks.into(), Arg::U64(outputs as u64), db.into()];
            queue.launch(total, grid(outputs.div_ceil(256), 256)?, &args)?;
        }
    }
    Ok(())
}
