//! What a person looks at: held-out vectors over their copies, how often codes are used, a summary.

use std::path::Path;

use super::config::Config;
use super::data::Data;
use super::evaluate::Evaluation;
use super::tokenizer::Tokenizer;
use crate::common::failure::Failure;
use crate::common::images::Rgb;
use crate::common::plots::sheet_png;
use crate::data::maps::{Map, picture_of};
use crate::quantize::QuantizeBackend;
use crate::shell::counts_svg;

/// Vectors of a sheet.
const SHEET: usize = 10;

/// counts.svg, reconstruction.png.
///
/// # Errors
/// Where a file cannot be written.
pub fn draw<B: QuantizeBackend>(
    out: &Path,
    tokenizer: &Tokenizer<B>,
    data: &Data,
    evaluation: &Evaluation,
) -> Result<(), Failure> {
    counts_svg(&out.join("counts.svg"), "training set", &evaluation.counts)?;
    let (held_out, modality) = (data.held_out().maps(), tokenizer.config.modality);
    // Neighbours in a clip look alike: from all over the set.
    let apart = (held_out.len() / SHEET).max(1);
    let originals: Vec<Map> = (0..held_out.len()).step_by(apart).take(SHEET).map(|i| held_out.map(i)).collect();
    let copy = |map: &Map| {
        let values = tokenizer.decode(&tokenizer.encode(&map.values)?)?;
        Ok(Map { values, ..map.clone() })
    };
    let copies = originals.iter().map(copy).collect::<Result<Vec<_>, Failure>>()?;
    let [originals, copies] =
        [originals, copies].map(|maps| maps.iter().map(|map| picture_of(modality, map)).collect::<Vec<Rgb>>());
    sheet_png(&out.join("reconstruction.png"), &[originals.iter().collect(), copies.iter().collect()])
}

/// For the person at the terminal.
pub fn print_summary(config: &Config, data: &Data, evaluation: &Evaluation) {
    let Evaluation { set, samples, loss, usage, held_out_usage, .. } = evaluation;
    let (heads, codes) = (config.coding.heads(), config.coding.codes());
    eprintln!(
        "tokens        {heads} of {codes} codes ({}), {:.0} bits, of {}",
        config.coding.name(),
        evaluation.bits,
        config.modality
    );
    eprintln!("data          {} ({} samples)", data.name(), data.train().len());
    eprintln!("held out      {set}: {samples} samples, loss {loss:.5}");
    eprintln!(
        "              {:.1} % of the mean predictor's loss of {:.5}",
        100.0 * evaluation.relative_loss,
        evaluation.mean_predictor_loss
    );
    eprintln!(
        "              cosine {:.4} (the mean: {:.4}; {heads} principal components: {:.4}; the spectrum's bound: {:.4})",
        evaluation.cosine, evaluation.mean_predictor_cosine, evaluation.pca_cosine, evaluation.spectrum_cosine
    );
    eprintln!(
        "utilization   {:.2} % over {} tokens of the training set, perplexity {:.0}; {:.2} % over {} held-out tokens",
        100.0 * usage.utilization,
        usage.tokens,
        usage.perplexity,
        100.0 * held_out_usage.utilization,
        held_out_usage.tokens
    );
}
