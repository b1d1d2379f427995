//! [`crate::ops::gather()`] on a GPU.

use bytemuck::Pod;

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
pub fn gather<C: Code, T: Pod>(
    queue: &impl Queue,
    codes: &DeviceRef<C>,
    codebook: &DeviceMatRef<T>,
    out: &mut DeviceMatMut<T>,
) -> Result<()> {
    const OP: &str = "gather";
    same(OP, "rows of out", codes.len(), out.rows())?;
    same(OP, "columns of out", codebook.cols(), out.cols())?;
    check_extent(OP, "number of row codes", codes.len())?;
    check_extent(OP, "number of codes", codebook.rows())?;
    let bytes = codebook.cols().saturating_mul(size_of::<T>());
    // What rows begin at multiples of.
    let aligned = codebook.data().address() | out.data().address() | bytes as u64;
    let (name, word) = match (size_of::<C>(), aligned.trailing_zeros()) {
        (2, 4..) => ("gather_u16_by16", 16),
        (2, 2..) => ("gather_u16_by4", 4),
        (2, 1) => ("gather_u16_by2", 2),
        (2, 0) => ("gather_u16_by1", 1),
        (_, 4..) => ("gather_u32_by16", 16),
        (_, 2..) => ("gather_u32_by4", 4),
        (_, 1) => ("gather_u32_by2", 2),
        (_, 0) => ("gather_u32_by1", 1),
    };
    let words = bytes / word;
    check_extent(OP, "columns of codebook", words)?;
    if codes.is_empty() {
        return Ok(());
    }
    let width = row_width(words);
    let grid = Grid::over(codes.len(), (THREADS / width) as usize, THREADS);
    let args = [
        codes.into(),
        codebook.into(),
        codebook.rows().into(),
        codes.len().into(),
        words.into(),
        width.into(),
        out.into(),
        queue.status().into(),
        Op::Gather.into(),
    ];
    // SAFETY: the kernel's parameters, over views whose extents are checked; words are aligned as chosen.
    unsafe { queue.launch(Kernel::new(&GATHER, name), grid, &args) }
}
