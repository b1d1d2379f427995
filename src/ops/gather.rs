//! Codes to rows: `out[i] = codebook[codes[i]]`; zeros where a row has no code.
//!
//! codes: `[rows]`; codebook: `[K, dim]`; out: `[rows, dim]`. Its gradient at the codebook is
//! [`Statistics::accumulate`](super::ema::Statistics::accumulate) of the rows' gradients: an exact sum per code.

use super::check_codes;
use crate::cpu::{Cpu, Disjoint};
use crate::element::Code;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};
use crate::matrix::{MatMut, MatRef};

const OP: &str = "gather";

/// Copies the code of each row into `out` `[rows, dim]`.
///
/// # Errors
/// [`Error::Shape`] where the extents differ;
/// [`Error::CodeOutOfRange`] for a code that does not
/// exist, with nothing written.
///
/// ```
/// use vq_kernels::{Cpu, MatMut, MatRef, NO_CODE, ops};
/// let (codebook, mut out) = ([1.0f32, 2.0, 3.0, 4.0], [9.0; 6]);
/// ops::gather(&Cpu::new(), &[1u32, NO_CODE, 0], MatRef::new(&codebook, 2, 2)?, MatMut::new(&mut out, 3, 2)?)?;
/// assert_eq!(out, [3.0, 4.0, 0.0, 0.0, 1.0, 2.0]);
/// # Ok::<(), vq_kernels::Error>(())
/// ```
pub fn gather<C: Code, T: Copy + Default + Send + Sync>(
    cpu: &Cpu,
    codes: &[C],
    codebook: MatRef<T>,
    mut out: MatMut<T>,
) -> Result<()> {
    same(OP, "rows of out", codes.len(), out.rows())?;
    same(OP, "columns of out", codebook.cols(), out.cols())?;
    check_codes(OP, codes.len(), codes, codebook.rows())?;
    let (dim, out) = (codebook.cols(), Disjoint::new(out.data()));
    cpu.divide(codes.len(), super::ROW_BLOCK, &|first, count| {
        // SAFETY: `divide` gives every row to one part.
        let out = unsafe { out.range(first * dim, count * dim) };
        reference(&codes[first..first + count], codebook, out);
    });
    Ok(())
}

/// The textbook loop, which is also the kernel: copying has no order of arithmetic.
pub fn reference<C: Code, T: Copy + Default>(codes: &[C], codebook: MatRef<T>, out: &mut [T]) {
    let dim = codebook.cols().max(1);
    for (out, k) in out.chunks_exact_mut(dim).zip(codes) {
        match codebook.row(k.to_u32() as usize) {
            [] => out.fill(T::default()),
            code => out.copy_from_slice(code),
        }
    }
}
