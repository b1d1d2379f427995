//! What every op over rows checks alike: row weights and codes.

use crate::NO_CODE;
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

/// The weight of `row`, 1 where there are none.
#[inline(always)]
pub(crate) fn weight(weights: Option<&[f32]>, row: usize) -> f32 {
    weights.map_or(1.0, |w| w[row])
}

/// One code for each row, each below `codes` or [`NO_CODE`].
pub(crate) fn check_codes(op: &'static str, rows: usize, row_codes: &[u32], codes: usize) -> Result<()> {
    same(op, "number of row codes", rows, row_codes.len())?;
    match row_codes.iter().position(|&k| k != NO_CODE && k as usize >= codes) {
        Some(row) => Err(Error::CodeOutOfRange { op, row, code: row_codes[row], codes }),
        None => Ok(()),
    }
}
