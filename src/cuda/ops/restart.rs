//! [`crate::ops::restart()`] on a GPU: the same picks for the same inputs.
//!
//! Stale codes are listed in ascending order, donors in the order of the keyed permutation, and the j-th of one
//! becomes the j-th of the other. Where a row equals the old value of its own code, and that code is stale itself
//! (a batch that [`DeviceActivity::observe`] has not seen), only the CPU's sequential loop can tell; a kernel
//! that is always launched and returns at once otherwise then runs it.

use super::check_weights;
use super::ema::DeviceActivity;
use super::{check_extent, row_width};
use crate::cuda::images::RESTART;
use crate::cuda::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use crate::cuda::queue::{Arg, Grid, Kernel, Queue};
use crate::cuda::status::Op;
use crate::error::{Error, Result, same};
use crate::ops::restart::{Rule, scratch_len};

/// Codes or positions of a block: `TILE` of `cuda/restart.cu`.
const TILE: usize = 512;
/// Rows of a block whose warps take 32 each.
const CLAIM_THREADS: u32 = 128;
/// Rows that positions of 30 bits can order.
const MOST_ROWS: usize = 1 << 30;

/// One replaced code, and why: [`Restarted`](crate::ops::restart::Restarted) as kernels write it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct DeviceRestarted {
    /// The code.
    pub code: u32,
    /// The row of the batch that it became.
    pub row: u32,
    /// Its share before, in units of a fair one.
    pub relative_use: f32,
    /// The hits that a fairly used code would have had since this one's last hit or birth.
    pub expected_hits: f32,
}

// SAFETY: four words without gaps, for which all zeros is a value.
unsafe impl bytemuck::Zeroable for DeviceRestarted {}
// SAFETY: four words without gaps, for which any bits are values.
unsafe impl bytemuck::Pod for DeviceRestarted {}
const _: () = assert!(size_of::<DeviceRestarted>() == 4 * size_of::<u32>());

/// Where a call's number is known.
#[derive(Clone, Copy)]
pub enum Step<'s> {
    /// On the host.
    Here(u64),
    /// Only on the device, `[1]`, when the kernels run.
    There(&'s DeviceRef<'s, u64>),
}

impl From<u64> for Step<'_> {
    fn from(step: u64) -> Self {
        Self::Here(step)
    }
}

/// The parts of the scratch, by their first words.
struct Parts {
    head: usize,
    stale_of_tile: usize,
    list: usize,
    row_at: usize,
    slot_at: usize,
    donors_of_tile: usize,
    table: usize,
    slots: usize,
    len: usize,
}

impl Parts {
    const fn new(rows: usize, codes: usize) -> Self {
        let (head, stale_of_tile) = (0, 2);
        let list = stale_of_tile + codes.div_ceil(TILE);
        let row_at = list + codes;
        let slot_at = row_at + rows;
        let donors_of_tile = slot_at + rows;
        let table = donors_of_tile + rows.div_ceil(TILE);
        let slots = scratch_len(rows);
        Self { head, stale_of_tile, list, row_at, slot_at, donors_of_tile, table, slots, len: table + slots }
    }
}

/// Number of `u32` that [`restart()`] needs at least as scratch for a batch of `rows` (up to 2³⁰) and a codebook of
/// `codes`.
pub const fn restart_scratch_len(rows: usize, codes: usize) -> usize {
    if rows > MOST_ROWS || codes > u32::MAX as usize { usize::MAX } else { Parts::new(rows, codes).len }
}

/// Replaces stale codes in `codebook` `[K, dim]` (and in `mean`, where averages are kept apart) by
/// rows of `x` `[rows, dim]`, whose codes are `codes` `[rows]`; restarts their `activity` and lists
/// them in `log`, as many as are replaced. At most `log.len()` codes are. How many were stale and how many were
/// replaced goes to `summary` `[2]`.
///
/// `step` numbers the call: with the rule's seed it keys the donors' order. A number is captured in a graph as it is; one
/// [on the device](Step::There) may change from replay to replay.
/// `scratch` has [`restart_scratch_len`] elements at least.
///
/// Where a code is stale, a weight outside `0..=1` and a code that does not exist are noted in the queue's status;
/// such rows are no donors. Where none is, the rows are not looked at.
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::TooLarge`] for more than 2³⁰ rows, [`Error::Config`] for a
/// negative or NaN rule or a patience of 0.
#[expect(clippy::too_many_arguments, reason = "the CPU's arguments, a queue and the summary")]
pub fn restart<'s>(
    queue: &impl Queue,
    x: &DeviceMatRef,
    codes: &DeviceRef<u32>,
    weights: Option<&DeviceRef<f32>>,
    rule: &Rule,
    step: impl Into<Step<'s>>,
    activity: &mut DeviceActivity,
    codebook: &mut DeviceMatMut,
    mean: Option<&mut DeviceMatMut>,
    scratch: &mut DeviceMut<u32>,
    log: &mut DeviceMut<DeviceRestarted>,
    summary: &mut DeviceMut<u32>,
) -> Result<()> {
    const OP: &str = "restart";
    let (rows, dim, k) = (x.rows(), x.cols(), codebook.rows());
    same(OP, "columns of x", codebook.cols(), dim)?;
    activity.check()?;
    same(OP, "codes in activity", k, activity.cluster_size.len())?;
    if let Some(mean) = &mean {
        same(OP, "rows of mean", k, mean.rows())?;
        same(OP, "columns of mean", dim, mean.cols())?;
    }
    same(OP, "number of row codes", rows, codes.len())?;
    check_weights(OP, weights, rows)?;
    same(OP, "length of summary", 2, summary.len())?;
    check_extent(OP, "columns", dim)?;
    if rows > MOST_ROWS {
        return Err(Error::TooLarge { op: OP, arg: "rows", max: MOST_ROWS as u64, got: rows as u64 });
    }
    let parts = Parts::new(rows, k);
    if scratch.len() < parts.len {
        return Err(Error::Shape { op: OP, arg: "length of scratch", expected: parts.len, got: scratch.len() });
    }
    rule.check()?;
    let part = |word: usize| scratch.arg(4 * word);
    let Parts { head, stale_of_tile, list, row_at, slot_at, donors_of_tile, table, .. } = parts;
    let [head, stale_of_tile, list, row_at] = [head, stale_of_tile, list, row_at].map(part);
    let [slot_at, donors_of_tile, table] = [slot_at, donors_of_tile, table].map(part);
    let places = log.len().min(k);
    // As `rng::Permutation`: half of the smallest even number of bits that holds the rows.
    let half_bits = (u32::BITS - (rows.saturating_sub(1) as u32).leading_zeros()).div_ceil(2).max(1);
    let (step, step_there) = match step.into() {
        Step::Here(step) => (step, Arg::NONE),
        Step::There(step) => {
            same(OP, "length of step", 1, step.len())?;
            (0, step.into())
        }
    };
    let order: [Arg; 4] = [rule.seed.into(), step.into(), step_there, half_bits.into()];
    let state: [Arg; 4] = [
        (&mut activity.cluster_size).into(),
        (&mut activity.exposure).into(),
        (&mut activity.last_seen).into(),
        (&activity.rows_seen).into(),
    ];
    let judged: [Arg; 3] = [k.into(), rule.share.into(), rule.patience.into()];
    let [count, share, patience] = judged;
    let batch: [Arg; 3] = [x.into(), codes.into(), weights.into()];
    let (n, d, slots): (Arg, Arg, Arg) = (rows.into(), dim.into(), parts.slots.into());
    let (code_tiles, row_tiles) = (k.div_ceil(TILE), rows.div_ceil(TILE));
    let codebook: Arg = codebook.into();
    let mean: Arg = mean.into();
    let [log, summary]: [Arg; 2] = [log.into(), summary.into()];
    let (op, status): (Arg, Arg) = (Op::Restart.into(), queue.status().into());

    let launch = |name, grid, args: &[&[Arg]]| {
        // SAFETY: the kernels' parameters, over views whose extents are checked and parts of the scratch as long as
        // kernels take them to be.
        unsafe { queue.launch(Kernel::new(&RESTART, name), grid, &args.concat()) }
    };
    let tiles = |items: usize| Grid::over(items, TILE, TILE as u32);
    if k > 0 {
        launch("restart_judge", tiles(k), &[&state, &judged, &[stale_of_tile]])?;
    }
    let list_args = [n, stale_of_tile, code_tiles.into(), head, list, row_at, slots, table];
    launch("restart_list", tiles(k.max(rows)), &[&state, &judged, &order, &list_args])?;
    if rows > 0 {
        let by_row = Grid::over(rows, CLAIM_THREADS as usize, CLAIM_THREADS);
        let shape = [n, d, row_width(dim).into(), count, share, patience];
        let places_of = [codebook, head, row_at, slot_at, slots, table, op, status];
        launch("restart_claim", by_row, &[&batch, &shape, &state, &places_of])?;
        launch("restart_count", tiles(rows), &[&[n, head, slot_at, table, donors_of_tile]])?;
    }
    let found = [codebook, mean, head, list, row_at, slot_at, table, donors_of_tile, row_tiles.into()];
    launch("restart_apply", tiles(rows), &[&[batch[0], n, d, count], &state, &found, &[log, places.into(), summary]])?;
    let once = Grid { blocks: [1; 3], threads: 256 };
    let rest = [codebook, mean, head, slots, table, log, places.into(), op, summary, status];
    launch("restart_ref", once, &[&batch, &[n, d, count, share, patience], &order, &state, &rest])
}
