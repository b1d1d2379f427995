//! [`crate::ops::search_top`] and [`crate::ops::search_mth`] on a GPU: a block a row, all scores in f32.

use super::{check_extent, check_weights};
use crate::cuda::codebook::PackedDeviceCodebook;
use crate::cuda::images::SEARCH_TOP;
use crate::cuda::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use crate::cuda::queue::{Arg, Grid, Kernel, Queue};
use crate::cuda::status::Op;
use crate::element::Element;
use crate::error::{Error, Result, same};
use crate::ops::search::Candidate;

/// The `m` best codes of each row, best first, into `best` `[rows, m]`; the order is by score, then
/// lowest code. Fewer comparable codes than `m` (a row of weight zero has none) are filled up with
/// [`Candidate::NONE`].
///
/// # Errors
/// As [`search`](super::search); [`Error::Empty`] for an `m` of 0.
pub fn search_top<E: Element>(
    queue: &impl Queue,
    x: &DeviceMatRef<E>,
    weights: Option<&DeviceRef<f32>>,
    codebook: &PackedDeviceCodebook,
    best: &mut DeviceMatMut<Candidate>,
) -> Result<()> {
    same(Op::SearchTop.name(), "rows of best", x.rows(), best.rows())?;
    let m = best.cols();
    launch(queue, Op::SearchTop, x, weights, codebook, m, 0..x.rows(), &mut best.data())
}

/// The `m`-th best code of each row (1 is the nearest), into `codes` `[rows]`; [`NO_CODE`](crate::NO_CODE) where a
/// row has fewer. `scratch` holds at least `m` candidates; with `m · rows` all rows go at once.
///
/// # Errors
/// As [`search_top`]; [`Error::Shape`] for a `scratch` shorter than `m`.
pub fn search_mth<E: Element>(
    queue: &impl Queue,
    x: &DeviceMatRef<E>,
    weights: Option<&DeviceRef<f32>>,
    codebook: &PackedDeviceCodebook,
    m: usize,
    codes: &mut DeviceMut<u32>,
    scratch: &mut DeviceMut<Candidate>,
) -> Result<()> {
    const OP: &str = Op::SearchMth.name();
    same(OP, "length of codes", x.rows(), codes.len())?;
    if m == 0 {
        return Err(Error::Empty { op: OP, arg: "m" });
    }
    if scratch.len() < m {
        return Err(Error::Shape { op: OP, arg: "length of scratch", expected: m, got: scratch.len() });
    }
    let block = scratch.len() / m;
    for first in (0..x.rows()).step_by(block) {
        let rows = block.min(x.rows() - first);
        launch(queue, Op::SearchMth, x, weights, codebook, m, first..first + rows, scratch)?;
        let picked = codes.arg(4 * first);
        let args = [Arg::from(&*scratch), rows.into(), m.into(), picked];
        // SAFETY: the kernel's parameters; scratch holds the rows' candidates, codes a place for each row.
        unsafe { queue.launch(Kernel::new(&SEARCH_TOP, "search_mth"), Grid::over(rows, 256, 256), &args)? };
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the two ops' arguments, and which rows")]
fn launch<E: Element>(
    queue: &impl Queue,
    number: Op,
    x: &DeviceMatRef<E>,
    weights: Option<&DeviceRef<f32>>,
    codebook: &PackedDeviceCodebook,
    m: usize,
    rows: core::ops::Range<usize>,
    best: &mut DeviceMut<Candidate>,
) -> Result<()> {
    let op = number.name();
    same(op, "columns of x", codebook.dim(), x.cols())?;
    check_weights(op, weights, x.rows())?;
    check_extent(op, "rows", x.rows())?;
    check_extent(op, "m", m)?;
    if m == 0 {
        return Err(Error::Empty { op, arg: "columns of best" });
    }
    // A candidate is written as one word of eight bytes.
    best.aligned(8)?;
    if rows.is_empty() {
        return Ok(());
    }
    let codes = &codebook.codebook;
    let vector = codebook.dim().is_multiple_of(4) && codes.data().address().is_multiple_of(16);
    let kernel = Kernel::of::<E>(&SEARCH_TOP, ["search_top_f32", "search_top_f16", "search_top_bf16"]);
    let args = [
        x.into(),
        weights.into(),
        codes.into(),
        codebook.half_norms(),
        rows.start.into(),
        rows.len().into(),
        codebook.codes().into(),
        codebook.dim().into(),
        u32::from(vector).into(),
        m.into(),
        Arg::from(&*best),
        queue.status().into(),
        number.into(),
    ];
    let blocks = rows.len().min(8 * queue.processors().max(1) as usize) as u32;
    // SAFETY: the kernel's parameters; best holds m candidates for each of the rows.
    unsafe { queue.launch(kernel, Grid { blocks: [blocks, 1, 1], threads: 256 }, &args) }
}
