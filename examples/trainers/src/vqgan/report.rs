//! What a person looks at: curves, sheets, a summary.

use std::path::Path;

use serde_json::Value;

use super::evaluate::{Evaluation, held_out_crops};
use super::run::Data;
use super::trained::Trained;
use super::trainer::{TrainBackend, Trainer};
use crate::common::failure::Failure;
use crate::common::images::Rgb;
use crate::common::plots::sheet_png;
use crate::params::host;
use crate::quantize::QuantizeBackend;
use crate::shell::{counts_svg, curves_svg, pictures, utilization_svg};

/// Pictures of a sheet.
const SHEET: usize = 10;

/// What is drawn of the log.
const CURVES: [(&str, &str); 8] = [
    ("L1", "l1"),
    ("L2", "l2"),
    ("logit-Laplace", "logit_laplace"),
    ("perceptual", "perceptual"),
    ("commitment", "commitment"),
    ("coverage", "coverage"),
    ("generator against D", "gan"),
    ("D", "discriminator"),
];

/// losses.svg, utilization.svg, counts.svg, reconstruction.png.
///
/// # Errors
/// Where a file cannot be written.
pub fn draw<B: QuantizeBackend>(
    out: &Path,
    trained: &Trained<B>,
    data: &Data,
    history: &[Value],
    evaluation: &Evaluation,
) -> Result<(), Failure> {
    curves_svg(&out.join("losses.svg"), "Loss terms, unweighted", &CURVES, history)?;
    utilization_svg(&out.join("utilization.svg"), history)?;
    counts_svg(&out.join("counts.svg"), "training set", &evaluation.counts)?;
    let [originals, copies] = sheet(trained, data)?;
    sheet_png(&out.join("reconstruction.png"), &[originals.iter().collect(), copies.iter().collect()])
}

/// Held-out images and their reconstructions.
fn sheet<B: QuantizeBackend>(trained: &Trained<B>, data: &Data) -> Result<[Vec<Rgb>; 2], Failure> {
    let batch = held_out_crops(trained, data)?.batch(0, SHEET);
    let (codes, grid) = trained.encode(batch.to_tensor(&trained.device))?;
    let copies = host(trained.decode(&codes, grid)?);
    Ok([pictures(&batch.images, batch.size), pictures(&copies, batch.size)])
}

/// For the person at the terminal.
pub fn print_summary<B: TrainBackend>(trainer: &Trainer<B>, data: &Data, evaluation: &Evaluation, seconds: f64) {
    let Evaluation { quality, usage, held_out_usage, .. } = evaluation;
    let config = trainer.config();
    eprintln!("model         {}, {} codes of {} dimensions", config.codes.system.name(), usage.codes, config.codes.dim);
    eprintln!("data          {} ({} images)", data.train.name(), data.train.len());
    eprintln!(
        "utilization   {:.2} % over {} tokens of {}; perplexity {:.0}",
        100.0 * usage.utilization,
        usage.tokens,
        usage.set,
        usage.perplexity
    );
    eprintln!(
        "              {:.2} % over {} tokens of the held-out part",
        100.0 * held_out_usage.utilization,
        held_out_usage.tokens
    );
    eprintln!(
        "held out      PSNR {:.2} dB (each image's own mean colour: {:.2} dB), SSIM {:.3}, {} images",
        quality.psnr_db, quality.psnr_mean_colour_db, quality.ssim, quality.images
    );
    if let Some(perceptual) = &quality.perceptual {
        eprintln!("              {}: {:.4}", perceptual.name, perceptual.value);
    }
    eprintln!(
        "time          {seconds:.0} s for {} steps of {} images in all",
        trainer.steps_taken(),
        config.settings.batch
    );
}
