//! What every op over rows checks alike: row weights and codes.

use crate::NO_CODE;
use crate::element::Code;
use crate::error::{Error, Result, same};

/// Row weights: none, or one for each row, each within `0..=1`. A mask is weights of 0 and 1.
pub(crate) fn check_weights(op: &'static str, weights: Option<&[f32]>, rows: usize) -> Result<()> {
    let Some(weights) = weights else { return Ok(()) };
    same(op, "number of weights", rows, weights.len())?;
    match weights.iter().position(|w| !(0.0..=1.0).contains(w)) {
        Some(index) => Err(Error::Value { op, arg: "weights", index, expected: "weights within 0..=1" }),
        None => Ok(()),
    }
}

/// Rows are numbered by u32, and the largest number stands for none.
pub(crate) fn check_rows(op: &'static str, rows: usize) -> Result<()> {
    const MAX: u64 = u32::MAX as u64 - 1;
    match rows as u64 <= MAX {
        true => Ok(()),
        false => Err(Error::TooLarge { op, arg: "rows", max: MAX, got: rows as u64 }),
    }
}

/// The weight of `row`, 1 where there are none.
#[inline(always)]
pub(crate) fn weight(weights: Option<&[f32]>, row: usize) -> f32 {
    weights.map_or(1.0, |w| w[row])
}

/// One code for each row, each below `codes` or [`NO_CODE`].
pub(crate) fn check_codes<C: Code>(op: &'static str, rows: usize, row_codes: &[C], codes: usize) -> Result<()> {
    same(op, "number of row codes", rows, row_codes.len())?;
    let bad = |code: &C| code.to_u32() != NO_CODE && code.to_u32() as usize >= codes;
    match row_codes.iter().position(bad) {
        Some(row) => Err(Error::CodeOutOfRange { op, row, code: row_codes[row].to_u32(), codes }),
        None => Ok(()),
    }
}
