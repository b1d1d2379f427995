//! How often each code is used over a named set of rows; dropping the unused ones.

use super::{check_codes, check_weights};
use crate::NO_CODE;
use crate::element::Code;
use crate::error::{Error, Result, same};

/// What a set of counts amounts to: a report, outside the bit contract.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// Number of codes.
    pub codes: usize,
    /// Codes used at least once.
    pub active: usize,
    /// Rows counted.
    pub rows: u64,
    /// `exp(−Σ p ln p)`, the number of equally used codes that would be as varied; 0 without rows.
    pub perplexity: f64,
}

impl Usage {
    /// From counts `[K]`.
    pub fn of(counts: &[u64]) -> Self {
        let rows = counts.iter().fold(0u64, |sum, &n| sum.saturating_add(n));
        let entropy = |n: &u64| -(*n as f64 / rows as f64) * libm::log(*n as f64 / rows as f64);
        let used = counts.iter().filter(|&&n| n > 0);
        let perplexity = if rows > 0 { libm::exp(used.clone().map(entropy).sum()) } else { 0.0 };
        Self { codes: counts.len(), active: used.count(), rows, perplexity }
    }

    /// Share of the codes that were used at least once.
    pub fn utilization(&self) -> f64 {
        if self.codes > 0 { self.active as f64 / self.codes as f64 } else { 0.0 }
    }
}

/// Adds 1 to `counts[k]` `[K]` for each row of code `k` and nonzero weight: weights act as a mask. A full count stays full.
///
/// # Errors
/// [`Error::Shape`] where the lengths differ, [`Error::Value`] for weights outside `0..=1`, [`Error::CodeOutOfRange`] for a code that does not
/// exist; with nothing counted.
///
/// ```
/// use vq_kernels::ops::usage::{Usage, count};
/// let mut counts = [0; 4];
/// count(&[0u32, 2, 2, 0], None, &mut counts)?;
/// let usage = Usage::of(&counts);
/// assert_eq!((usage.active, usage.utilization()), (2, 0.5));
/// assert!((usage.perplexity - 2.0).abs() < 1e-12);
/// # Ok::<(), vq_kernels::Error>(())
/// ```
pub fn count<C: Code>(codes: &[C], weights: Option<&[f32]>, counts: &mut [u64]) -> Result<()> {
    const OP: &str = "count";
    check_weights(OP, weights, codes.len())?;
    check_codes(OP, codes.len(), codes, counts.len())?;
    for (row, k) in codes.iter().enumerate() {
        if k.to_u32() != NO_CODE && super::weight(weights, row) > 0.0 {
            let count = &mut counts[k.to_u32() as usize];
            *count = count.saturating_add(1);
        }
    }
    Ok(())
}

/// Numbers the codes that were used at least `at_least` times anew, in order: `remap[k]` `[K]` is the
/// new number or [`NO_CODE`]. Returns how many are kept.
///
/// # Errors
/// [`Error::Shape`] where the lengths differ.
pub fn prune(counts: &[u64], at_least: u64, remap: &mut [u32]) -> Result<usize> {
    same("prune", "length of remap", counts.len(), remap.len())?;
    super::check_rows("prune", counts.len())?;
    let mut kept = 0;
    for (new, &n) in remap.iter_mut().zip(counts) {
        *new = if n >= at_least { kept } else { NO_CODE };
        kept += u32::from(n >= at_least);
    }
    Ok(kept as usize)
}

/// Moves the kept rows of `table` `[K, dim]` (a codebook, or any per-code state) to the front.
///
/// # Errors
/// [`Error::Shape`] where the length is not `K · dim`; [`Error::CodeOutOfRange`] for a `remap` that
/// does not number ascending rows as [`prune`] does; with nothing moved.
pub fn compact<T: Copy>(table: &mut [T], dim: usize, remap: &[u32]) -> Result<()> {
    const OP: &str = "compact";
    same(OP, "length of table", remap.len().saturating_mul(dim), table.len())?;
    super::check_rows(OP, remap.len())?;
    let mut next = 0;
    for (row, &new) in remap.iter().enumerate() {
        if new != NO_CODE && new != next {
            return Err(Error::CodeOutOfRange { op: OP, row, code: new, codes: next as usize });
        }
        next += u32::from(new != NO_CODE);
    }
    for (old, &new) in remap.iter().enumerate().filter(|(_, new)| **new != NO_CODE) {
        table.copy_within(old * dim..(old + 1) * dim, new as usize * dim);
    }
    Ok(())
}

/// Renumbers codes by `remap`; a code that was dropped becomes [`NO_CODE`].
///
/// # Errors
/// [`Error::CodeOutOfRange`] for a code that does not exist, with nothing changed.
pub fn renumber(codes: &mut [u32], remap: &[u32]) -> Result<()> {
    check_codes("renumber", codes.len(), codes, remap.len())?;
    for code in codes.iter_mut().filter(|code| **code != NO_CODE) {
        *code = remap[*code as usize];
    }
    Ok(())
}
