//! What a person looks at: curves, sheets, a summary.

use std::path::Path;

use serde_json::Value;

use super::evaluate::{Evaluation, held_out_crops};
use super::run::Data;
use super::trained::Trained;
use super::trainer::{TrainBackend, Trainer};
use crate::common::failure::{At, Context, Failure};
use crate::common::files::write_atomic;
use crate::common::images::Rgb;
use crate::common::plots::{LineOptions, lines_svg, sheet_png};
use crate::params::host;
use crate::quantize::QuantizeBackend;

/// Pictures of a sheet.
const SHEET: usize = 10;

/// The lines of a log.
///
/// # Errors
/// Where the file cannot be read.
pub fn read_log(path: &Path) -> Result<Vec<Value>, Failure> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).at("read", path)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Writes a JSON file, whole or not at all.
///
/// # Errors
/// Where it cannot be written.
pub fn write_json(path: &Path, value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).context(|| format!("cannot write `{}`", path.display()))?;
    write_atomic(path, |file| writeln!(file, "{text}").at("write", path))
}

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
    let curve = |field: &str, scale: f64| -> Vec<(f64, f64)> {
        history.iter().filter_map(|line| Some((line["step"].as_f64()?, scale * line[field].as_f64()?))).collect()
    };
    let fields = [
        ("L1", "l1"),
        ("L2", "l2"),
        ("logit-Laplace", "logit_laplace"),
        ("perceptual", "perceptual"),
        ("commitment", "commitment"),
        ("generator against D", "gan"),
        ("D", "discriminator"),
    ];
    let curves: Vec<(&str, Vec<(f64, f64)>)> = fields
        .into_iter()
        .map(|(name, field)| (name, curve(field, 1.0)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let series: Vec<(&str, &[(f64, f64)])> = curves.iter().map(|(name, points)| (*name, points.as_slice())).collect();
    lines_svg(&out.join("losses.svg"), "Loss terms, unweighted", "step", "loss", &series, LineOptions::default())?;
    let percent: Vec<(f64, f64)> = history
        .iter()
        .filter_map(|line| Some((line["epoch"].as_f64()?, 100.0 * line["recent_utilization"].as_f64()?)))
        .collect();
    lines_svg(
        &out.join("utilization.svg"),
        "Codebook utilization during training",
        "epoch",
        "codes hit recently, %",
        &[("utilization", &percent)],
        LineOptions { y_range: Some((0.0, 100.0)), ..LineOptions::default() },
    )?;
    let mut sorted = evaluation.counts.clone();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let thin = sorted.len().div_ceil(1000).max(1);
    // A log scale has no zero: unused codes are shown at a tenth of a hit.
    let counts: Vec<(f64, f64)> =
        sorted.iter().enumerate().step_by(thin).map(|(i, &n)| (i as f64 + 1.0, (n as f64).max(0.1))).collect();
    lines_svg(
        &out.join("counts.svg"),
        "How often each code is used (training set)",
        "codes, most used first",
        "tokens (a code without any is drawn at 0.1)",
        &[("tokens per code", &counts)],
        LineOptions { log_y: true, ..LineOptions::default() },
    )?;
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

/// Images `[n, 3, size, size]` in about [-1, 1] as pictures.
pub fn pictures(images: &[f32], size: usize) -> Vec<Rgb> {
    let area = size * size;
    let picture = |(index, image): (usize, &[f32])| {
        let value =
            |place: usize| (0..3).map(move |channel| 0.5 + 0.5 * image[channel * area + place].clamp(-1.0, 1.0));
        Rgb { name: index.to_string(), width: size, height: size, pixels: (0..area).flat_map(value).collect() }
    };
    images.chunks_exact(3 * area).enumerate().map(picture).collect()
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
    eprintln!("time          {seconds:.0} s for {} steps of {} images in all", trainer.steps_taken(), config.batch);
}
