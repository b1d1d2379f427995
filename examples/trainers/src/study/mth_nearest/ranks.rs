//! Which code is the M-th nearest.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use vq_kernels::ops::{Candidate, search_mth};
use vq_kernels::{MatRef, NO_CODE};

use super::super::codes::{Latents, rows_of};
use crate::common::failure::Failure;
use crate::common::terminal::{Count, Progress, interrupted};
use crate::quantize::VectorQuantizer;

/// What the M-th nearest code is nearest to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// To the token's code, as a row of the codebook.
    Code,
    /// To the token's latent.
    Latent,
}

/// Which rank an M is at K codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// M.
    Absolute,
    /// M's share of 16,384 codes, of K codes.
    Relative,
}

/// The number of codes at which both rules are one.
const AT: u128 = 16_384;

impl Rule {
    /// The rank of `m` in a codebook of `codes` codes, from 1; it may be above their number.
    pub fn rank(self, m: usize, codes: usize) -> usize {
        match self {
            Self::Absolute => m,
            // Below 2^128 for all sizes; halves are rounded up.
            Self::Relative => {
                let rank = (m as u128 * codes as u128 + AT / 2) / AT;
                usize::try_from(rank).unwrap_or(usize::MAX).max(1)
            }
        }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Latent => "latent",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absolute => "absolute",
            Self::Relative => "relative",
        })
    }
}

/// Each token's code of that rank; [`NO_CODE`] of a latent that is not finite.
///
/// # Errors
/// A rank of 0; Ctrl-C.
pub fn replaced(
    quantizer: &VectorQuantizer,
    latents: &Latents,
    reading: Reading,
    rank: usize,
) -> Result<Vec<u32>, Failure> {
    match (reading, rank) {
        // By definition; of two equal codes, search would find the first.
        (Reading::Code, 1) => Ok(latents.codes.clone()),
        (Reading::Code, _) => {
            let distinct: BTreeSet<u32> = latents.codes.iter().copied().filter(|&code| code != NO_CODE).collect();
            let distinct: Vec<u32> = distinct.into_iter().collect();
            let found = ranked(quantizer, &rows_of(quantizer, &distinct)?, latents.dim, rank)?;
            let of: BTreeMap<u32, u32> = distinct.into_iter().zip(found).collect();
            Ok(latents.codes.iter().map(|code| of.get(code).copied().unwrap_or(NO_CODE)).collect())
        }
        (Reading::Latent, _) => ranked(quantizer, &latents.rows, latents.dim, rank),
    }
}

/// Candidates that are in memory at a time: 64 MiB.
const CANDIDATES: usize = 1 << 23;

/// The `rank`-th nearest code of each of `rows` `[n, dim]`, by the quantizer's own metric.
fn ranked(quantizer: &VectorQuantizer, rows: &[f32], dim: usize, rank: usize) -> Result<Vec<u32>, Failure> {
    let n = rows.len() / dim.max(1);
    // Some thousand rows at a time keep the threads busy and Ctrl-C heard.
    let block = (CANDIDATES / rank.max(1)).clamp(1, 4096);
    let mut scratch = vec![Candidate::NONE; rank * block.min(n)];
    let mut codes = vec![NO_CODE; n];
    let mut progress = Progress::new("ranks", n as u64, Count::Items);
    let mut done = 0;
    for (codes, rows) in codes.chunks_mut(block).zip(rows.chunks(block * dim.max(1))) {
        if interrupted() {
            return Err(Failure::interrupted());
        }
        let rows = MatRef::new(rows, codes.len(), dim)?;
        quantizer.read(|quantizer_now| {
            search_mth(&quantizer.cpu(), rows, None, quantizer_now.packed(), rank, codes, &mut scratch)
        })??;
        done += codes.len() as u64;
        progress.tick(done, format!("rank {rank}"));
    }
    progress.done();
    Ok(codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_scale_with_the_codebook() {
        let relative =
            [(1000, 100_000, 6104), (50, 16_384, 50), (1, 100_000, 6), (1, 1024, 1), (50, 1024, 3), (8, 1024, 1)];
        for (m, codes, expected) in relative {
            assert_eq!(Rule::Relative.rank(m, codes), expected, "{m} of {codes}");
            assert_eq!(Rule::Absolute.rank(m, codes), m);
        }
        assert_eq!(Rule::Relative.rank(usize::MAX, usize::MAX), usize::MAX);
    }

    #[test]
    fn replaced_codes_are_those_of_the_sorted_distances() {
        use vq_kernels::quantizer::{Config, Initial, Learner, Quantizer};
        let codebook = vec![0.0, 1.0, 3.0, 7.0];
        let config = Config {
            inputs: 1,
            dim: 1,
            codes: 4,
            factorize: false,
            normalize: false,
            restart: None,
            learner: Learner::Frozen,
            ..Config::default()
        };
        let quantizer = VectorQuantizer::new(Quantizer::new(config, Initial::Codes(codebook)).expect("four codes"));
        let latents = Latents { rows: vec![2.9, 0.2, f32::NAN], codes: vec![2, 0, NO_CODE], dim: 1 };
        let at = |reading, rank| replaced(&quantizer, &latents, reading, rank).expect("a rank of four");
        assert_eq!(at(Reading::Code, 1), latents.codes);
        assert_eq!(at(Reading::Latent, 1), latents.codes);
        // From 3: 3, 1, 0, 7. From 0: 0, 1, 3, 7. From 2.9: 3, 1, 0, 7.
        assert_eq!(at(Reading::Code, 3), [0, 2, NO_CODE]);
        assert_eq!(at(Reading::Latent, 4), [3, 3, NO_CODE]);
    }
}
