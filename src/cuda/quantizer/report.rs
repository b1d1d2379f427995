//! What a step on a device found, as the words that its last kernel writes.

use crate::ops::loss::SquaredError;
use crate::ops::restart::Summary;
use crate::quantizer::{Loss, Report};

/// Number of u64 words of a report.
pub const REPORT_WORDS: usize = 10;

/// The report of a step from its words, for codes of `dim` dimensions.
pub fn decode(words: &[u64; REPORT_WORDS], dim: usize) -> Report {
    let [codebook, codebook_weight, commitment, commitment_weight, norms, rows, wanted, active, stale, restarted] =
        *words;
    let mean =
        |sum: u64, weight: u64| SquaredError { sum: f64::from_bits(sum), weight: f64::from_bits(weight) }.mean(dim);
    Report {
        loss: Loss { codebook: mean(codebook, codebook_weight), commitment: mean(commitment, commitment_weight) },
        rows: rows as usize,
        without_code: (wanted - rows.min(wanted)) as usize,
        active: active as usize,
        mean_norm: f64::from_bits(norms) / rows.max(1) as f64,
        restart: Summary { stale: stale as usize, restarted: restarted as usize },
    }
}
