//! Stale codes are replaced by rows of the batch.
//!
//! A code is judged only once it has gone unhit for as long as a fairly used code would collect
//! [`Rule::patience`] hits (8: a fairly used code is unlucky for so long with probability e⁻⁸), counted
//! from its last hit or its birth, initial codes included. It is stale where its share of the rows,
//! `N / A` of [`Activity`], is also below [`Rule::share`] (1/32) of a fair one: the threshold of Mizrahi
//! et al., "4M" (NeurIPS 2023), relative to the batch and the number of codes, and corrected for the
//! bias of a young average. (Judging at once and absolutely, as peers do, restarts half to all of a
//! uniformly used codebook at step one; judging from birth only, without the last hit, restarts live
//! codes where the average's window spans only a few expected hits.)
//!
//! The j-th stale code, in ascending order, takes the j-th donor. Donors are the batch's rows in the
//! order of a keyed [`Permutation`], without rows that have no code, weight or finite value, rows equal
//! to an earlier donor, and rows equal to their own code (a copy of a code would never win). Code and
//! statistics are reset together, so that the new code survives the next update.

use super::ema::Activity;
use super::{check_codes, check_rows, check_weights, weight};
use crate::NO_CODE;
use crate::error::{Error, Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::rng::Permutation;

/// When a code is stale, and the key of the donors' order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// A code is stale below this share of a fair one (P in the 4M paper; 1/32).
    pub share: f64,
    /// Expected hits that a code is given before it is judged (8).
    pub patience: f64,
    /// Key of the permutation that orders donors.
    pub seed: u64,
}

impl Rule {
    pub(crate) fn check(&self) -> Result<()> {
        match self.share >= 0.0 && self.patience > 0.0 {
            true => Ok(()),
            false => Err(Error::Config { field: "restart", expected: "a share of at least 0 and a patience above 0" }),
        }
    }
}

impl Default for Rule {
    fn default() -> Self {
        Self { share: 1.0 / 32.0, patience: 8.0, seed: 0 }
    }
}

/// One replaced code, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Restarted {
    /// The code.
    pub code: u32,
    /// The row of the batch that it became.
    pub row: u32,
    /// Its share before, in units of a fair one.
    pub relative_use: f32,
    /// The hits that a fairly used code would have had since this one's last hit or birth.
    pub expected_hits: f32,
}

/// What a call of [`restart()`] found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Codes that were stale.
    pub stale: usize,
    /// Codes that were replaced; the others wait for the next step.
    pub restarted: usize,
}

/// Number of `u32` that [`restart()`] needs at least as scratch for a batch of `rows`.
pub const fn scratch_len(rows: usize) -> usize {
    // A hash table at most half full.
    match rows.checked_mul(2) {
        Some(slots) if slots <= 1 << (usize::BITS - 1) => slots.next_power_of_two(),
        _ => usize::MAX,
    }
}

/// Replaces stale codes in `codebook` `[K, dim]` (and in `mean`, where averages are kept apart) by
/// rows of `x` `[rows, dim]`, whose codes are `codes` `[rows]`; restarts their `activity` and lists
/// them in `log`. At most `log.len()` codes are replaced.
///
/// `step` numbers the call: with the rule's seed it keys the donors' order.
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::Value`] for weights outside `0..=1`,
/// [`Error::CodeOutOfRange`] for a code that does not exist, [`Error::Config`] for a negative or NaN
/// rule or a patience of 0; with nothing replaced.
#[expect(clippy::too_many_arguments, reason = "the batch, the rule and the three states it resets together")]
pub fn restart<F: AsRef<[f32]> + AsMut<[f32]>, D: AsRef<[f64]> + AsMut<[f64]>>(
    x: MatRef,
    codes: &[u32],
    weights: Option<&[f32]>,
    rule: &Rule,
    step: u64,
    activity: &mut Activity<F, D>,
    mut codebook: MatMut,
    mut mean: Option<MatMut>,
    scratch: &mut [u32],
    log: &mut [Restarted],
) -> Result<Summary> {
    const OP: &str = "restart";
    let k = codebook.rows();
    same(OP, "columns of x", codebook.cols(), x.cols())?;
    activity.check()?;
    same(OP, "codes in activity", k, activity.cluster_size.as_ref().len())?;
    if let Some(mean) = &mean {
        same(OP, "rows of mean", k, mean.rows())?;
        same(OP, "columns of mean", codebook.cols(), mean.cols())?;
    }
    check_codes(OP, x.rows(), codes, k)?;
    check_weights(OP, weights, x.rows())?;
    check_rows(OP, x.rows())?;
    let needed = scratch_len(x.rows());
    let scratch = match scratch.len() >= needed {
        true => &mut scratch[..needed],
        false => {
            return Err(Error::Shape { op: OP, arg: "length of scratch", expected: needed, got: scratch.len() });
        }
    };
    rule.check()?;
    scratch.fill(0);
    let mut donors = Donors {
        x,
        codes,
        weights,
        order: Permutation::new(rule.seed, step, x.rows() as u64),
        next: 0,
        taken: scratch,
    };
    let mut summary = Summary::default();
    for code in 0..k {
        // Most codes have been hit lately: their share is not even computed.
        let expected_hits = activity.expected_hits(code);
        if expected_hits < rule.patience {
            continue;
        }
        let relative_use = activity.relative_use(code);
        if relative_use >= rule.share {
            continue;
        }
        summary.stale += 1;
        if summary.restarted == log.len() {
            continue;
        }
        let Some(row) = donors.next(&codebook) else { continue };
        codebook.row(code).copy_from_slice(x.row(row));
        if let Some(mean) = &mut mean {
            mean.row(code).copy_from_slice(x.row(row));
        }
        activity.reset(code);
        log[summary.restarted] = Restarted {
            code: code as u32,
            row: row as u32,
            relative_use: relative_use as f32,
            expected_hits: expected_hits as f32,
        };
        summary.restarted += 1;
    }
    Ok(summary)
}

/// The batch's rows in the permutation's order, without those that cannot be donors.
struct Donors<'a> {
    x: MatRef<'a>,
    codes: &'a [u32],
    weights: Option<&'a [f32]>,
    order: Permutation,
    next: u64,
    /// Rows already taken, by hash of their value; row + 1, 0 is empty.
    taken: &'a mut [u32],
}

impl Donors<'_> {
    fn next(&mut self, codebook: &MatMut) -> Option<usize> {
        while self.next < self.x.rows() as u64 {
            let row = self.order.permuted(self.next) as usize;
            self.next += 1;
            let (x, code) = (self.x.row(row), self.codes[row]);
            let usable = code != NO_CODE
                && weight(self.weights, row) > 0.0
                && x.iter().all(|x| x.is_finite())
                && x != codebook.as_ref().row(code as usize);
            if usable && self.take(row) {
                return Some(row);
            }
        }
        None
    }

    /// Whether `row`'s value was not taken before; takes it.
    fn take(&mut self, row: usize) -> bool {
        let mask = self.taken.len() - 1;
        let mut slot = hash(self.x.row(row)) as usize & mask;
        loop {
            match self.taken[slot] {
                0 => break,
                earlier if self.x.row(earlier as usize - 1) == self.x.row(row) => return false,
                _ => slot = (slot + 1) & mask,
            }
        }
        self.taken[slot] = row as u32 + 1;
        true
    }
}

/// A hash of a row's value: −0 counts as +0.
pub(crate) fn hash(row: &[f32]) -> u64 {
    let mix =
        |h: u64, x: &f32| (h ^ u64::from((x + 0.0).to_bits())).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let h = row.iter().fold(0x243F_6A88_85A3_08D3, mix);
    (h ^ (h >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}
