//! [`crate::ops::gather()`] on a GPU.

use super::{check_extent, row_width};
use crate::cuda::images::GATHER;
use crate::cuda::memory::{DeviceMatMut, DeviceMatRef, DeviceRef};
use crate::cuda::queue::{Grid, Kernel, Queue};
use crate::cuda::status::Op;
use crate::element::Code;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};

const THREADS: u32 = 256;

/// Copies the code of each row into `out` `[rows, dim]`; zeros where a row has none.
///
/// A code that does not exist is noted in the queue's [status](crate::cuda::status::decode) as
/// [`Error::CodeOutOfRange`], and its row gets zeros.
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::TooLarge`] for one that u32 cannot count.
pub fn gather<C: Code>(
    queue: &impl Queue,
    codes: &DeviceRef<C>,
    codebook: &DeviceMatRef,
    out: &mut DeviceMatMut,
) -> Result<()> {
    const OP: &str = "gather";
    same(OP, "rows of out", codes.len(), out.rows())?;
    same(OP, "columns of out", codebook.cols(), out.cols())?;
    check_extent(OP, "number of row codes", codes.len())?;
    check_extent(OP, "number of codes", codebook.rows())?;
    check_extent(OP, "columns of codebook", codebook.cols())?;
    if codes.is_empty() {
        return Ok(());
    }
    let dim = codebook.cols();
    let by4 = dim.is_multiple_of(4) && (codebook.data().address() | out.data().address()).is_multiple_of(16);
    let (name, dim) = match (size_of::<C>(), by4) {
        (2, false) => ("gather_u16", dim),
        (2, true) => ("gather_u16_by4", dim / 4),
        (_, false) => ("gather_u32", dim),
        (_, true) => ("gather_u32_by4", dim / 4),
    };
    let width = row_width(dim);
    let grid = Grid::over(codes.len(), (THREADS / width) as usize, THREADS);
    let args = [
        codes.into(),
        codebook.into(),
        codebook.rows().into(),
        codes.len().into(),
        dim.into(),
        width.into(),
        out.into(),
        queue.status().into(),
        Op::Gather.into(),
    ];
    // SAFETY: the kernel's parameters, over views whose extents are checked; those by fours are aligned.
    unsafe { queue.launch(Kernel::new(&GATHER, name), grid, &args) }
}
