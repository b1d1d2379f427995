//! The program `evaluate`: trained models side by side.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::backend::AutodiffBackend;
use clap::Parser;
use serde::Serialize;
use serde_json::Value;

use super::evaluate::{Evaluation, evaluate};
use super::run::{Data, check_data};
use super::trained::Trained;
use super::trainer::TrainBackend;
use crate::backend::Device;
use crate::codebook;
use crate::common::failure::{Context, Failure};
use crate::common::files::{create_writable, write_atomic};
use crate::common::plots::bars_svg;
use crate::common::terminal::print;
use crate::losses::perceptual::Perceptual;
use crate::on_device;
use crate::shell::{DataOptions, Files, pool, write_json};

/// Evaluates trained models on the same images, and puts them side by side.
#[derive(Clone, Debug, Parser)]
#[command(name = "evaluate", version)]
pub struct Options {
    /// Directories of train_vqgan, or checkpoint files.
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// The images, as in the trainings.
    #[command(flatten)]
    pub data: DataOptions,
    /// Evaluate on images that the models were not trained and tested on.
    #[arg(long)]
    pub other_data: bool,
    /// Weights of the perceptual distance's network, safetensors [default: a frozen random network].
    #[arg(long)]
    pub perceptual: Option<PathBuf>,
    /// LPIPS's linear weights for that network, safetensors.
    #[arg(long, requires = "perceptual")]
    pub lpips: Option<PathBuf>,
    /// Refuse models of VQGAN-LC whose frozen centres are not this file's.
    #[arg(long)]
    pub codebook: Option<PathBuf>,
    /// Weights of Inception-v3 (pytorch-fid's), safetensors: adds FID, in a build with --features metrics.
    #[arg(long)]
    pub inception: Option<PathBuf>,
    /// Tokens per code over which utilization is counted.
    #[arg(long, default_value_t = 10)]
    pub tokens_per_code: usize,
    /// Where to compute: cpu, or cuda[:N] in a build with --features cuda.
    #[arg(long, default_value = "cpu")]
    pub device: Device,
    /// Where table.txt, table.json and pictures go.
    #[arg(long, default_value = "out/evaluation")]
    pub out: PathBuf,
    /// Print the results as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// A model and what it is worth.
#[derive(Serialize)]
struct Row {
    run: String,
    model: &'static str,
    codes: usize,
    dim: usize,
    l2_norm: bool,
    restart: bool,
    steps: u64,
    centres: String,
    evaluation: Evaluation,
    fid: Option<f64>,
}

/// The program `evaluate`.
///
/// # Errors
/// Runs, data or weights that cannot be read, or do not belong together.
pub fn run(options: &Options) -> Result<(), Failure> {
    on_device!(options.device, run_on, options)
}

fn run_on<B: TrainBackend>(options: &Options, device: B::Device) -> Result<(), Failure> {
    create_writable(&options.out)?;
    if options.inception.is_some() && !cfg!(feature = "metrics") {
        return Err(Failure::new("--inception takes a build with --features metrics"));
    }
    let perceptual =
        Perceptual::<B::InnerBackend>::load(options.perceptual.as_deref(), options.lpips.as_deref(), &device)?;
    let pool = pool()?;
    let centres = options.codebook.as_deref().map(codebook::load).transpose()?;
    let mut rows: Vec<Row> = Vec::new();
    for run in &options.runs {
        let path = Files::checkpoint_at(run);
        let trained = Trained::<B::InnerBackend>::open(&path, Some(Arc::clone(&pool)), device.clone())?;
        let name = run.display().to_string();
        if let (Some(centres), false) = (&centres, trained.config.codes.source_hash.is_empty())
            && centres.hash != trained.config.codes.source_hash
        {
            let (theirs, expected) = (&trained.config.codes.source_hash, &centres.hash);
            return Err(Failure::new(format!("`{name}` has centres of hash {theirs}, --codebook has {expected}")));
        }
        eprintln!("evaluating    {name}");
        let size = trained.config.backbone.image_size();
        perceptual.check_size(size, size)?;
        let data = Data::open(&options.data, &trained.config)?;
        check_data(&path, &data, options.other_data)?;
        let evaluation = evaluate(&trained, Some(&perceptual), &data, options.tokens_per_code)?;
        let fid = fid::<B>(options, &trained, &data)?;
        let codes = &trained.config.codes;
        rows.push(Row {
            run: name,
            model: codes.system.name(),
            codes: codes.codes,
            dim: codes.dim,
            l2_norm: codes.normalize,
            restart: codes.restart,
            steps: trained.step,
            centres: codes.source_hash.clone(),
            evaluation,
            fid,
        });
    }
    let text = table(&rows);
    let value = serde_json::to_value(&rows).context(|| "cannot write the table down".into())?;
    save(&options.out, &rows, &text, &value)?;
    match options.json {
        true => print(&value.to_string()),
        false => print(&text),
    }
}

/// FID of the held-out crops, where Inception's weights are given.
#[cfg(feature = "metrics")]
fn fid<B: AutodiffBackend<InnerBackend: crate::quantize::QuantizeBackend>>(
    options: &Options,
    trained: &Trained<B::InnerBackend>,
    data: &Data,
) -> Result<Option<f64>, Failure> {
    use super::evaluate::{each_batch, held_out_crops};
    use crate::metrics::Frechet;
    use crate::metrics::burn::Inception;

    let Some(path) = &options.inception else { return Ok(None) };
    let net = Inception::<B::InnerBackend>::load(path, &trained.device)?;
    let (mut of_images, mut of_copies) = (Frechet::new(net.width())?, Frechet::new(net.width())?);
    each_batch(trained, &held_out_crops(trained, data)?, "FID", |images| {
        let (codes, grid) = trained.encode(images.clone())?;
        of_images.add(&net.features(images))?;
        of_copies.add(&net.features(trained.decode(&codes, grid)?.clamp(-1.0, 1.0)))
    })?;
    of_images.distance(&of_copies).map(Some)
}

#[cfg(not(feature = "metrics"))]
#[expect(clippy::unnecessary_wraps, reason = "the form of the other build")]
fn fid<B: AutodiffBackend<InnerBackend: crate::quantize::QuantizeBackend>>(
    _: &Options,
    _: &Trained<B::InnerBackend>,
    _: &Data,
) -> Result<Option<f64>, Failure> {
    Ok(None)
}

/// The table as text: a row a model.
fn table(rows: &[Row]) -> String {
    let heads = [
        "model",
        "codes",
        "d",
        "l2",
        "restart",
        "steps",
        "used %",
        "tokens",
        "active",
        "perplexity",
        "held-out used %",
        "PSNR dB",
        "SSIM",
        "perceptual",
    ];
    let mut cells: Vec<Vec<String>> = vec![heads.map(str::to_owned).to_vec()];
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    for row in rows {
        let Evaluation { quality, usage, held_out_usage, .. } = &row.evaluation;
        cells.push(vec![
            row.model.to_owned(),
            row.codes.to_string(),
            row.dim.to_string(),
            yes(row.l2_norm),
            yes(row.restart),
            row.steps.to_string(),
            format!("{:.2}", 100.0 * usage.utilization),
            usage.tokens.to_string(),
            usage.active.to_string(),
            format!("{:.0}", usage.perplexity),
            format!("{:.2}", 100.0 * held_out_usage.utilization),
            format!("{:.2}", quality.psnr_db),
            format!("{:.3}", quality.ssim),
            quality.perceptual.as_ref().map_or_else(String::new, |named| format!("{:.4}", named.value)),
        ]);
    }
    let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")).collect::<Vec<_>>().join("  ")
    };
    let mut text = cells.iter().map(line).collect::<Vec<_>>().join("\n");
    if let Some(Evaluation { quality, usage, .. }) = rows.first().map(|row| &row.evaluation) {
        text += &format!("\n\nused: at least once over {} (at least so many tokens for other sizes)", usage.set);
        text += &format!("\nPSNR, SSIM, perceptual: {}", quality.set);
        text += &format!("\nperceptual: {}", quality.perceptual.as_ref().map_or("none", |named| &named.name));
    }
    for row in rows {
        if let Some(fid) = row.fid {
            text += &format!("\nFID of {} over {} images: {fid:.2}", row.run, row.evaluation.quality.images);
        }
    }
    text
}

fn save(out: &Path, rows: &[Row], text: &str, value: &Value) -> Result<(), Failure> {
    let path = out.join("table.txt");
    write_atomic(&path, |file| writeln!(file, "{text}").map_err(|cause| Failure::io("write", &path, &cause)))?;
    write_json(&out.join("table.json"), value)?;
    let names: Vec<String> = rows.iter().map(|row| format!("{} {}", row.model, row.codes)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let series = |of: fn(&Row) -> f64| rows.iter().map(of).collect::<Vec<_>>();
    let used = series(|row| 100.0 * row.evaluation.usage.utilization);
    let held_out = series(|row| 100.0 * row.evaluation.held_out_usage.utilization);
    bars_svg(
        &out.join("utilization.svg"),
        "Codes used at least once",
        "% of the codebook",
        &names,
        &[("training images", &used), ("held-out images", &held_out)],
    )?;
    let psnr = series(|row| row.evaluation.quality.psnr_db);
    bars_svg(&out.join("psnr.svg"), "Reconstruction of held-out images", "PSNR, dB", &names, &[("PSNR", &psnr)])
}
