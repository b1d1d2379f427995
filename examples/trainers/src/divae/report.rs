//! What a person looks at: a sheet of held-out samples, their reconstructions and other draws, how often codes are used, a summary.

use std::path::Path;

use burn::tensor::Tensor;

use super::config::{Config, Kind};
use super::data::Data;
use super::evaluate::{Effort, Evaluation};
use super::tokenizer::Tokenizer;
use crate::common::failure::Failure;
use crate::common::images::Rgb;
use crate::common::plots::sheet_png;
use crate::diffusion::Sampler;
use crate::diffusion::sampler::Method;
use crate::params::host;
use crate::quantize::QuantizeBackend;
use crate::shell::{counts_svg, enlarged, pictures};

/// Samples of a sheet.
const SHEET: usize = 10;

/// Pixels of a sheet's picture, at least: smaller ones are enlarged in whole squares.
const SIDE: usize = 112;

/// Distances are drawn from black, so many deviations nearer than the mean, to white, as many further away.
const DEVIATIONS: f32 = 2.0;

/// counts.svg, samples.png: held-out samples, what DDIM makes of their tokens, and two draws of DDPM.
///
/// # Errors
/// Where a file cannot be written.
pub fn draw<B: QuantizeBackend>(
    out: &Path,
    tokenizer: &Tokenizer<B>,
    data: &Data,
    evaluation: &Evaluation,
    effort: &Effort,
) -> Result<(), Failure> {
    counts_svg(&out.join("counts.svg"), "training set", &evaluation.counts)?;
    let batch = data.held_out().batch(0, SHEET);
    let x0: Tensor<B, 4> = batch.to_tensor(&tokenizer.device);
    let (codes, grid) = tokenizer.encode(x0.clone())?;
    let ddim = Sampler { guidance: effort.guidance, ..tokenizer.sampler(effort.steps, 0) };
    let ddpm = |seed| Sampler { method: Method::Ddpm, seed, ..ddim };
    let mut rows = vec![shown(tokenizer.config.kind, &host(x0), batch.size)];
    for sampler in [ddim, ddpm(1), ddpm(2)] {
        let drawn = tokenizer.decode(&codes, grid, &sampler, 0)?;
        rows.push(shown(tokenizer.config.kind, &host(drawn), batch.size));
    }
    let rows: Vec<Vec<&Rgb>> = rows.iter().map(|row| row.iter().collect()).collect();
    sheet_png(&out.join("samples.png"), &rows)
}

/// Samples as pictures.
fn shown(kind: Kind, values: &[f32], size: usize) -> Vec<Rgb> {
    let colours: Vec<f32> = match kind {
        Kind::Rgb | Kind::Normals => values.to_vec(),
        // One channel three times.
        Kind::Depth | Kind::Edges => {
            let scale = if kind == Kind::Depth { DEVIATIONS } else { 1.0 };
            let plane = |plane: &[f32]| plane.iter().map(|value| value / scale).collect::<Vec<f32>>().repeat(3);
            values.chunks_exact((size * size).max(1)).flat_map(plane).collect()
        }
    };
    pictures(&colours, size).into_iter().map(|picture| enlarged(&picture, SIDE)).collect()
}

/// For the person at the terminal.
pub fn print_summary(config: &Config, data: &Data, evaluation: &Evaluation) {
    let Evaluation { set, samples, before, after, usage, .. } = evaluation;
    let (grid, codes) = (config.grid(), &config.codes);
    eprintln!(
        "tokens        {grid} × {grid}, {} codes of {} dimensions, of {}",
        codes.codes,
        codes.dim,
        config.kind.modality()
    );
    eprintln!("data          {} ({} samples)", data.name(), data.len());
    let share = evaluation.relative_loss.map(|share| format!(", {:.1} % of that at the start", 100.0 * share));
    eprintln!("held out      {set}: loss {:.5}{}", after.loss, share.unwrap_or_default());
    if let Some(bits) = after.bits {
        let start = before.and_then(|before| before.bits).map(|bits| format!(", {:.3} at the start", bits.total));
        eprintln!("              {:.3} bits per dimension{}", bits.total, start.unwrap_or_default());
    }
    eprintln!(
        "              {samples} samples by DDIM of {} steps: PSNR {:.2} dB, of shuffled tokens {:.2} dB; mean of a channel off by {:.4}",
        evaluation.steps, evaluation.psnr_db, evaluation.shuffled_psnr_db, evaluation.colour_shift
    );
    eprintln!(
        "utilization   {:.2} % over {} tokens of the training set, perplexity {:.0}",
        100.0 * usage.utilization,
        usage.tokens,
        usage.perplexity
    );
}
