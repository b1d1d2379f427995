//! What codes cost: multiply-accumulates, parameters, time and memory, and what going from 16,384 to 100,000 adds.
//!
//! VQGAN-LC (Zhu et al. 2024, table of the appendix) counts about 0.3 % more multiply-accumulates; here the whole step is measured.

mod measure;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::runs::checkpoint;
use super::table::{NONE, figure, finish, percent, text, thousands};
use crate::backend::Host;
use crate::common::failure::Failure;
use crate::common::files::create_writable;
use crate::common::terminal::peak_rss_mb;
use crate::losses::perceptual::Perceptual;
use crate::nets::macs::table::{Codebook, Row as Macs};
use crate::on_device;
use crate::shell::pool;
use crate::vqgan::checkpoint::KIND;
use crate::vqgan::config::{Config, System};
use crate::vqgan::options::Options;
use crate::vqgan::trained::Trained;
use crate::vqgan::trainer::TrainBackend;
use measure::{Times, measure};

/// Measures whole training steps and the quantizer's share of them, for several numbers of codes.
///
/// Settings are those of finished trainings (--runs), or of --preset and the other options of train_vqgan. Codes are as they
/// start; VQGAN-LC gets synthetic centres. A step without the adversary is measured, unless --gan-start 0.
/// --batch is 1 by default for images from 128 px on, and then one step is measured, the first, without a warm-up: on a
/// processor it takes long enough.
#[derive(Clone, Debug, Args)]
#[command(mut_arg("out", |arg| arg.default_value("out/study")))]
pub struct CostOptions {
    /// Directories of trainings whose settings are measured, separated by commas [default: those of --preset].
    #[arg(long, value_delimiter = ',')]
    pub runs: Vec<PathBuf>,
    /// Numbers of codes, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "16384,100000")]
    pub at: Vec<usize>,
    /// Measured steps of each number of codes, after one to warm up where they are several; the least time counts
    /// [default: 3; 1 for images from 128 px on].
    #[arg(long)]
    pub repeats: Option<usize>,
    /// Dimensions of VQGAN-LC's synthetic centres, where a training does not tell [default: 64; CLIP's 768 for images from 128 px on].
    #[arg(long)]
    pub source_dim: Option<usize>,
    /// The settings.
    #[command(flatten)]
    pub train: Options,
}

/// Images from this size on are of published configurations.
const LARGE: usize = 128;

/// One configuration with one number of codes.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The configuration.
    pub name: String,
    /// Codes.
    pub codes: usize,
    /// Dimensions of a code.
    pub dim: usize,
    /// Dimensions of a synthetic centre; 0 without centres.
    pub source_dim: usize,
    /// Images a step.
    pub batch: usize,
    /// Tokens a step.
    pub tokens: usize,
    /// Whether the step had an adversary.
    pub adversary: bool,
    /// What measured the perceptual loss.
    pub perceptual: Option<String>,
    /// Steps measured; the least time counts.
    pub repeats: usize,
    /// The whole step.
    pub step_seconds: f64,
    /// The quantizer's forward, backward and update.
    pub quantizer_seconds: f64,
    /// Most memory that the process held so far: rows come in the order of measuring.
    pub peak_rss_mb: Option<f64>,
    /// Parameters and multiply-accumulates of one image, forward.
    pub macs: Macs,
}

/// What more codes add.
#[derive(Clone, Debug, Serialize)]
pub struct Overhead {
    /// The configuration.
    pub name: String,
    /// From so many codes.
    pub from: usize,
    /// To so many.
    pub to: usize,
    /// By the two steps' times: what other work on the machine did is in it.
    pub step: f64,
    /// By the difference of the two quantizers' times, as a share of the step with fewer codes.
    pub quantizer: f64,
    /// In multiply-accumulates of one image, forward.
    pub macs: f64,
}

/// The program `study cost`.
///
/// # Errors
/// Settings that do not fit; a directory without a training; Ctrl-C.
pub fn run(options: &CostOptions) -> Result<(), Failure> {
    let out = &options.train.run.directory(KIND);
    if options.train.code.codes.is_some() {
        return Err(Failure::new("--codes is for one training; give the numbers of codes to measure with --at"));
    }
    if options.at.is_empty() || options.at.contains(&0) {
        return Err(Failure::new("--at takes numbers of codes from 1 on, separated by commas"));
    }
    create_writable(out)?;
    let rows = on_device!(options.train.run.device, measure_on, options)?;
    let overheads = overheads(&rows);
    let json = json!({ "rows": rows, "overheads": overheads });
    finish(out, "cost", &report(&rows, &overheads), &json, options.train.run.json)
}

/// The settings to measure, by name.
fn configs(options: &CostOptions) -> Result<Vec<(String, Config)>, Failure> {
    if options.runs.is_empty() {
        let config = options.train.config()?;
        let preset = options.train.preset.to_possible_value();
        let preset = preset.as_ref().map_or("preset", |preset| preset.get_name());
        return Ok(vec![(format!("{preset}, {}", config.codes.system.name()), config)]);
    }
    let config = |dir: &PathBuf| {
        let trained = Trained::<Host>::open(&checkpoint(dir)?, None, Default::default())?;
        let mut config = trained.config;
        config.settings.batch = options.train.settings.batch.unwrap_or(config.settings.batch);
        Ok((format!("{} ({})", config.codes.system.name(), dir.display()), config))
    };
    options.runs.iter().map(config).collect()
}

fn measure_on<B: TrainBackend>(options: &CostOptions, device: B::Device) -> Result<Vec<Row>, Failure> {
    let pool = pool()?;
    // Fewer codes first: the process's peak of memory then belongs to the last row so far.
    let mut at = options.at.clone();
    at.sort_unstable();
    at.dedup();
    let mut rows = Vec::new();
    for (name, settled) in configs(options)? {
        let large = settled.backbone.image_size() >= LARGE;
        let repeats = options.repeats.unwrap_or(if large { 1 } else { 3 });
        for &codes in &at {
            let mut config = settled.clone();
            config.codes.codes = codes;
            if large && options.train.settings.batch.is_none() {
                config.settings.batch = 1;
            }
            if config.codes.system == System::Lc && (config.codes.source_dim == 0 || options.source_dim.is_some()) {
                config.codes.source_dim = options.source_dim.unwrap_or(if large { 768 } else { 64 });
            }
            let perceptual = match config.losses.perceptual > 0.0 {
                true => {
                    let files = (options.train.perceptual.as_deref(), options.train.lpips.as_deref());
                    Some(Perceptual::<B>::load(files.0, files.1, &device)?)
                }
                false => None,
            };
            let distance = perceptual.as_ref().map(|perceptual| perceptual.name().to_owned());
            eprintln!("measuring     {name}, {} codes, batch {}", thousands(codes), config.settings.batch);
            let Times { step, quantizer } = measure::<B>(&config, perceptual, Arc::clone(&pool), repeats, &device)?;
            let source = (config.codes.system == System::Lc).then_some(config.codes.source_dim);
            let codebook = Codebook { codes, dim: config.codes.dim, source };
            rows.push(Row {
                name: name.clone(),
                codes,
                dim: config.codes.dim,
                source_dim: source.unwrap_or(0),
                batch: config.settings.batch,
                tokens: config.settings.batch * config.tokens(),
                adversary: config.adversary.as_ref().is_some_and(|adversary| adversary.start == 0),
                perceptual: distance,
                repeats,
                step_seconds: step,
                quantizer_seconds: quantizer,
                peak_rss_mb: peak_rss_mb(),
                macs: Macs::tokenizer(&name, &config.backbone, codebook)?,
            });
        }
    }
    Ok(rows)
}

/// From the fewest to the most codes of each configuration.
fn overheads(rows: &[Row]) -> Vec<Overhead> {
    let of = |rows: &[Row]| {
        let (from, to) = (rows.first()?, rows.last()?);
        let step = from.step_seconds;
        (from.codes < to.codes).then(|| Overhead {
            name: from.name.clone(),
            from: from.codes,
            to: to.codes,
            step: to.step_seconds / step - 1.0,
            quantizer: (to.quantizer_seconds - from.quantizer_seconds) / step,
            macs: to.macs.macs as f64 / from.macs.macs as f64 - 1.0,
        })
    };
    rows.chunk_by(|a, b| a.name == b.name).filter_map(of).collect()
}

fn report(rows: &[Row], overheads: &[Overhead]) -> String {
    let heads = [
        "",
        "codes",
        "dim",
        "centres",
        "batch",
        "tokens",
        "step s",
        "quantizer s",
        "share %",
        "peak MB",
        "M",
        "GMAC",
        "search",
        "projector",
    ];
    let giga = |macs: u64| format!("{:.3}", macs as f64 / 1e9);
    let line = |row: &Row| {
        vec![
            row.name.clone(),
            thousands(row.codes),
            row.dim.to_string(),
            if row.source_dim > 0 { row.source_dim.to_string() } else { NONE.to_owned() },
            row.batch.to_string(),
            thousands(row.tokens),
            figure(Some(row.step_seconds), 3),
            figure(Some(row.quantizer_seconds), 4),
            percent(Some(row.quantizer_seconds / row.step_seconds)),
            figure(row.peak_rss_mb, 0),
            format!("{:.3}", row.macs.parameters as f64 / 1e6),
            giga(row.macs.macs),
            giga(row.macs.search_macs),
            giga(row.macs.projector_macs),
        ]
    };
    let lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    let mut out = text(&heads, &lines);
    out.push('\n');
    for Overhead { name, from, to, step, quantizer, macs } in overheads {
        out += &format!(
            "{name}: {} codes instead of {} take {:+.2} % of a step by the quantizer's time, {:+.2} % by the whole step's, \
             {:+.2} % of multiply-accumulates\n",
            thousands(*to),
            thousands(*from),
            100.0 * quantizer,
            100.0 * step,
            100.0 * macs
        );
    }
    for row in rows.chunk_by(|a, b| a.name == b.name).filter_map(<[Row]>::first) {
        let warm = match row.repeats {
            1 => "the first step alone, without a warm-up".to_owned(),
            repeats => format!("the least of {repeats} steps after one"),
        };
        let adversary = if row.adversary { "with" } else { "without" };
        let perceptual = row.perceptual.as_deref().unwrap_or("no perceptual distance");
        out += &format!("{}: {warm}, {adversary} an adversary; {perceptual}\n", row.name);
    }
    out + "share: the quantizer's forward, backward and update, alone on the same latents, of the whole training step.\n\
           codes are as they start, VQGAN-LC's centres synthetic: times do not depend on them. peak: of the process so far.\n\
           M, GMAC: parameters in 10⁶ without codes; multiply-accumulates in 10⁹ of one image, forward.\n"
}
