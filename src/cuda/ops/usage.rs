//! [`crate::ops::usage`] on a GPU: how often each code is used, and dropping the unused ones.

use bytemuck::Pod;

use super::check_weights;
use super::{check_extent, row_width};
use crate::cuda::images::USAGE;
use crate::cuda::memory::{DeviceMut, DeviceRef};
use crate::cuda::queue::{Grid, Kernel, Queue};
use crate::cuda::status::Op;
use crate::element::Code;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};

const THREADS: u32 = 256;
/// The one block that walks over all codes.
const WALK: Grid = Grid { blocks: [1; 3], threads: 1024 };

/// Adds 1 to `counts[k]` `[K]` for each row of code `k` and nonzero weight: weights act as a mask. A full count stays full.
///
/// A weight outside `0..=1` and a code that does not exist are noted in the queue's status; the other rows are
/// counted.
///
/// # Errors
/// [`Error::Shape`] where the lengths differ.
pub fn count<C: Code>(
    queue: &impl Queue,
    codes: &DeviceRef<C>,
    weights: Option<&DeviceRef<f32>>,
    counts: &mut DeviceMut<u64>,
) -> Result<()> {
    const OP: &str = "count";
    check_weights(OP, weights, codes.len())?;
    check_extent(OP, "rows", codes.len())?;
    check_extent(OP, "codes", counts.len())?;
    if codes.is_empty() {
        return Ok(());
    }
    let args = [
        codes.into(),
        weights.into(),
        codes.len().into(),
        counts.len().into(),
        Op::Count.into(),
        counts.into(),
        queue.status().into(),
    ];
    let name = if size_of::<C>() == 2 { "count_rows_u16" } else { "count_rows_u32" };
    let grid = Grid::over(codes.len(), THREADS as usize, THREADS);
    // SAFETY: the kernel's parameters, over views whose extents are checked.
    unsafe { queue.launch(Kernel::new(&USAGE, name), grid, &args) }
}

/// How many of the codes were used at least once, to `out` `[1]`.
///
/// # Errors
/// [`Error::Shape`] where `out` has another length.
pub fn active(queue: &impl Queue, counts: &DeviceRef<u64>, out: &mut DeviceMut<u32>) -> Result<()> {
    same("active", "length of out", 1, out.len())?;
    check_extent("active", "codes", counts.len())?;
    let args = [counts.into(), counts.len().into(), out.into()];
    // SAFETY: as above.
    unsafe { queue.launch(Kernel::new(&USAGE, "active"), WALK, &args) }
}

/// Numbers the codes that were used at least `at_least` times anew, in order: `remap[k]` `[K]` is the
/// new number or [`NO_CODE`](crate::NO_CODE). How many are kept goes to `kept` `[1]`.
///
/// # Errors
/// [`Error::Shape`] where the lengths differ.
pub fn prune(
    queue: &impl Queue,
    counts: &DeviceRef<u64>,
    at_least: u64,
    remap: &mut DeviceMut<u32>,
    kept: &mut DeviceMut<u32>,
) -> Result<()> {
    const OP: &str = "prune";
    same(OP, "length of remap", counts.len(), remap.len())?;
    same(OP, "length of kept", 1, kept.len())?;
    check_extent(OP, "codes", counts.len())?;
    let args = [counts.into(), counts.len().into(), at_least.into(), remap.into(), kept.into()];
    // SAFETY: as above.
    unsafe { queue.launch(Kernel::new(&USAGE, "prune"), WALK, &args) }
}

/// Moves the kept rows of `table` `[K, dim]` (a codebook, or any per-code state) to the front of `out`, a second
/// buffer for as many rows as are kept or more; rows behind them are not written.
///
/// A `remap` that does not number ascending rows as [`prune`] does, or more of them than `out` has room for, is
/// noted in the queue's status, and nothing is moved.
///
/// # Errors
/// [`Error::Shape`] where the length of `table` is not `K · dim`, or that of `out` not a multiple of `dim`.
pub fn compact<T: Pod>(
    queue: &impl Queue,
    table: &DeviceRef<T>,
    dim: usize,
    remap: &DeviceRef<u32>,
    out: &mut DeviceMut<T>,
) -> Result<()> {
    const OP: &str = "compact";
    same(OP, "length of table", remap.len().saturating_mul(dim), table.len())?;
    let places = out.len().checked_div(dim).unwrap_or(0);
    same(OP, "length of out", places * dim, out.len())?;
    check_extent(OP, "codes", remap.len())?;
    let places = places.min(remap.len());
    if table.is_empty() {
        return Ok(());
    }
    let bytes = dim as u64 * size_of::<T>() as u64;
    let whole = bytes.is_multiple_of(4) && table.address().is_multiple_of(4) && out.address().is_multiple_of(4);
    let (name, words) = if whole { ("compact_u32", bytes / 4) } else { ("compact_u8", bytes) };
    let width = row_width(words as usize);
    let grid = Grid::over(remap.len(), (THREADS / width) as usize, THREADS);
    let status = queue.status();
    // SAFETY: as above; rows go to `places` rows of `out`.
    unsafe {
        let args = [remap.into(), remap.len().into(), Op::Compact.into(), places.into(), status.into()];
        queue.launch(Kernel::new(&USAGE, "compact_check"), WALK, &args)?;
        let args = [
            table.into(),
            remap.into(),
            remap.len().into(),
            words.into(),
            width.into(),
            out.into(),
            places.into(),
            status.into(),
        ];
        queue.launch(Kernel::new(&USAGE, name), grid, &args)
    }
}

/// Renumbers codes by `remap`; a code that was dropped becomes [`NO_CODE`](crate::NO_CODE).
///
/// A code that does not exist is noted in the queue's status and left as it is; the others are renumbered.
///
/// # Errors
/// [`Error::TooLarge`] where there are 2³² codes or more.
pub fn renumber(queue: &impl Queue, codes: &mut DeviceMut<u32>, remap: &DeviceRef<u32>) -> Result<()> {
    const OP: &str = "renumber";
    check_extent(OP, "rows", codes.len())?;
    check_extent(OP, "codes", remap.len())?;
    if codes.is_empty() {
        return Ok(());
    }
    let rows = codes.len();
    let args =
        [codes.into(), rows.into(), remap.into(), remap.len().into(), Op::Renumber.into(), queue.status().into()];
    // SAFETY: as above.
    unsafe { queue.launch(Kernel::new(&USAGE, "renumber"), Grid::over(rows, THREADS as usize, THREADS), &args) }
}
