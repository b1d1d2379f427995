//! What data brings: trainings on n and on 2n images, with otherwise the same settings and as many steps (the VQGAN-LC review).

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::numbers::Spread;
use super::table::{figure, finish, percent, text, thousands};
use crate::common::failure::{At, Context, Failure};
use crate::common::files::create_writable;
use crate::common::plots::{LineOptions, lines_svg};
use crate::common::terminal::interrupted;
use crate::shell::RunOptions;
use crate::vqgan::checkpoint::KIND;
use crate::vqgan::evaluate::Evaluation;
use crate::vqgan::options::Options;
use crate::vqgan::run;

/// Trains on n (--images) and on 2n images with several seeds, and compares held-out figures.
///
/// All other settings are those of train_vqgan and equal, the number of steps too. The smaller set is part of the larger
/// one of the same seed. VQGAN-LC's centres are of each training's own images, unless --codebook gives some for all.
/// Each training has a directory of its own in --out; --resume goes on with those that are there.
#[derive(Clone, Debug, Args)]
#[command(mut_arg("out", |arg| arg.default_value("out/study")))]
pub struct ScalingOptions {
    /// Trainings of each size, with seeds from --seed on.
    #[arg(long, default_value_t = 3)]
    pub seeds: u64,
    /// The settings of a training.
    #[command(flatten)]
    pub train: Options,
}

/// One training.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Images that it was trained on.
    pub images: usize,
    /// Its seed.
    pub seed: u64,
    /// Its results.
    pub out: PathBuf,
    /// What came of it.
    pub evaluation: Evaluation,
}

/// Where a figure is.
type Get = fn(&Evaluation) -> Option<f64>;

/// A figure of a training.
type Figure = (&'static str, &'static str, Get);

/// Names for files and people, and where the figures are.
const FIGURES: [Figure; 3] = [
    ("psnr", "PSNR of held-out images, dB", |evaluation| Some(evaluation.quality.psnr_db)),
    ("ssim", "SSIM of held-out images", |evaluation| Some(evaluation.quality.ssim)),
    ("perceptual", "perceptual distance of held-out images", |evaluation| {
        evaluation.quality.perceptual.as_ref().map(|named| named.value)
    }),
];

/// The program `study data-scaling`.
///
/// # Errors
/// As [`run::run`]; no --images, or more than half of the training images.
pub fn run(options: &ScalingOptions) -> Result<(), Failure> {
    let sizes = match options.train.images {
        Some(n) if n > 0 => [n, n.saturating_mul(2)],
        _ => return Err(Failure::new("give --images N: trainings are on N and on 2 N images, from 1 on")),
    };
    if options.seeds == 0 {
        return Err(Failure::new("--seeds 0: at least one training of each size is needed"));
    }
    let out = &options.train.run.directory(KIND);
    create_writable(out)?;
    let mut rows = Vec::new();
    for seed in (0..options.seeds).map(|i| options.train.settings.seed.wrapping_add(i)) {
        // The larger set first: where there are too few images, one learns it before the first training.
        for images in sizes.into_iter().rev() {
            if interrupted() {
                return Err(Failure::interrupted());
            }
            rows.push(train(&options.train, images, seed)?);
        }
    }
    rows.sort_by_key(|row| (row.images, row.seed));
    draw(out, &rows)?;
    let differences: Vec<Value> = FIGURES
        .iter()
        .map(|(name, _, figure)| json!({ "figure": name, "gain": gain(&rows, sizes, *figure) }))
        .collect();
    let json = json!({ "rows": rows, "differences": differences });
    finish(out, "data_scaling", &report(&rows, sizes), &json, options.train.run.json)
}

fn train(options: &Options, images: usize, seed: u64) -> Result<Row, Failure> {
    let out = options.run.directory(KIND).join(format!("{images}-{seed}"));
    eprintln!("training      {} images, seed {seed}: {}", thousands(images), out.display());
    let resume = options.run.resume && out.join("checkpoint.safetensors").is_file();
    let mut options = Options { images: Some(images), ..options.clone() };
    options.settings.seed = seed;
    options.run = RunOptions { out: Some(out.clone()), json: false, resume, ..options.run };
    run::run(&options)?;
    let evaluation = evaluation(&out.join("summary.json"))?;
    Ok(Row { images, seed, out, evaluation })
}

/// What a training wrote down in the end.
fn evaluation(path: &Path) -> Result<Evaluation, Failure> {
    let refuse = || format!("cannot read the figures in `{}`", path.display());
    let summary: Value = serde_json::from_str(&fs::read_to_string(path).at("read", path)?).context(refuse)?;
    serde_json::from_value(summary["evaluation"].clone()).context(refuse)
}

/// A figure of all trainings of one size.
fn values(rows: &[Row], images: usize, figure: Get) -> Vec<f64> {
    rows.iter().filter(|row| row.images == images).filter_map(|row| figure(&row.evaluation)).collect()
}

/// What twice as many images change, training by training of the same seed.
fn gain(rows: &[Row], sizes: [usize; 2], figure: Get) -> Option<Spread> {
    let [fewer, more] = sizes.map(|images| values(rows, images, figure));
    let differences: Vec<f64> = fewer.iter().zip(&more).map(|(fewer, more)| more - fewer).collect();
    Spread::of(&differences)
}

fn report(rows: &[Row], sizes: [usize; 2]) -> String {
    let heads = ["images", "seed", "PSNR dB", "SSIM", "perceptual", "utilization %"];
    let line = |row: &Row| {
        let Evaluation { quality, usage, .. } = &row.evaluation;
        vec![
            thousands(row.images),
            row.seed.to_string(),
            figure(Some(quality.psnr_db), 3),
            figure(Some(quality.ssim), 4),
            figure(quality.perceptual.as_ref().map(|named| named.value), 4),
            percent(Some(usage.utilization)),
        ]
    };
    let mut lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    let [psnr, ssim, perceptual] = FIGURES.map(|(_, _, figure)| figure);
    let summary = |name: String, of: &dyn Fn(Get) -> Option<Spread>| {
        let cell =
            |figure, decimals| of(figure).map_or_else(|| super::table::NONE.into(), |spread| spread.text(decimals));
        vec![name, "mean".into(), cell(psnr, 3), cell(ssim, 4), cell(perceptual, 4)]
    };
    for images in sizes {
        lines.push(summary(thousands(images), &|figure| Spread::of(&values(rows, images, figure))));
    }
    lines.push(summary("twice as many".into(), &|figure| gain(rows, sizes, figure)));
    let mut out = text(&heads, &lines);
    if let Some(row) = rows.first() {
        let distance = row.evaluation.quality.perceptual.as_ref().map_or("none", |named| named.name.as_str());
        out += &format!("\nimages: {}; perceptual: {distance}\n", row.evaluation.quality.set);
    }
    out + "mean ± standard deviation over seeds; twice as many: the differences of trainings of the same seed.\n"
}

/// A curve for each seed, and their mean.
fn draw(out: &Path, rows: &[Row]) -> Result<(), Failure> {
    let mut seeds: Vec<u64> = rows.iter().map(|row| row.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let mut sizes: Vec<usize> = rows.iter().map(|row| row.images).collect();
    sizes.dedup();
    for (name, label, figure) in FIGURES {
        let of_seed = |seed: u64| -> Vec<(f64, f64)> {
            let point = |row: &Row| Some((row.images as f64, figure(&row.evaluation)?));
            rows.iter().filter(|row| row.seed == seed).filter_map(point).collect()
        };
        let mean = |&images: &usize| Some((images as f64, Spread::of(&values(rows, images, figure))?.mean));
        let mut curves: Vec<(String, Vec<(f64, f64)>)> = vec![("mean".into(), sizes.iter().filter_map(mean).collect())];
        curves.extend(seeds.iter().map(|&seed| (format!("seed {seed}"), of_seed(seed))));
        let series: Vec<(&str, &[(f64, f64)])> = curves
            .iter()
            .filter(|(_, points)| !points.is_empty())
            .map(|(name, points)| (name.as_str(), points.as_slice()))
            .collect();
        if series.is_empty() {
            continue;
        }
        let path = out.join(format!("data_scaling_{name}.svg"));
        lines_svg(&path, "Twice as many training images", "training images", label, &series, LineOptions::default())?;
    }
    Ok(())
}
