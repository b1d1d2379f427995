//! How many codes are used, and how well the used ones cover the latents (the VQGAN-LC review).
//!
//! A code is *active* where it occurs over the fixed crops of training images (the paper's definition of utilization).
//! Distances are Euclidean in the space of the search. They are compared with radii of the model's own scale: quantiles of the
//! distance from an active code to the nearest other active one. So a share of latents within the median radius tells how
//! many latents are as near to an active code as half of the active codes are to each other.

use clap::Args;
use serde::Serialize;
use serde_json::json;
use vq_kernels::ops::{Candidate, search_top};
use vq_kernels::{MatMut, MatRef, Metric, PackedCodebook};

use super::codes::{Latents, active_and_not, distance, held_out, nearest, rows_of, sample, square, used};
use super::numbers::{quantile, share_within};
use super::runs::{Run, RunOptions};
use super::table::{figure, finish, percent, text, thousands};
use crate::common::failure::Failure;
use crate::common::plots::{LineOptions, bars_svg, lines_svg};
use crate::metrics::UsageReport;
use crate::quantize::VectorQuantizer;

/// Counts used codes over a fixed set of training images, and measures how far held-out latents and unused codes are from them.
///
/// Radii are quantiles of the distance between an active code and the nearest other active one, in the space of the search.
#[derive(Clone, Debug, Args)]
pub struct CoverageOptions {
    /// The trainings.
    #[command(flatten)]
    pub runs: RunOptions,
    /// Take only so many held-out images for their latents.
    #[arg(long)]
    pub images: Option<usize>,
    /// Tokens per code over which utilization is counted.
    #[arg(long, default_value_t = 10)]
    pub tokens_per_code: usize,
    /// Measure the distances of at most so many active and so many inactive codes, by lot.
    #[arg(long, default_value_t = 4096)]
    pub most: usize,
    /// Seed of the lots.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Which quantiles of the distance between active codes are radii.
const QUANTILES: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];

/// The radius that the table shows.
const MEDIAN: f64 = 0.5;

/// One training.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The training.
    pub run: String,
    /// Utilization over the fixed set.
    pub usage: UsageReport,
    /// Held-out latents that have a code.
    pub latents: usize,
    /// Those without, which are not finite.
    pub without_code: usize,
    /// Mean `‖z − e‖²` of held-out latents and their codes, in the space of the search.
    pub error: Option<f64>,
    /// The same divided by the latents' own `mean ‖z − mean z‖²`: comparable between models.
    pub relative_error: Option<f64>,
    /// What lies within which radius of an active code; empty for fewer than two active codes.
    pub radii: Vec<Radius>,
    /// Median distance of an inactive code from the nearest active one.
    pub inactive_median: Option<f64>,
    /// Inactive codes that were measured.
    pub inactive_measured: usize,
}

/// What lies within a radius of an active code.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Radius {
    /// Which quantile of the distance between an active code and the nearest other active one.
    pub quantile: f64,
    /// The radius.
    pub radius: f64,
    /// The share of held-out latents.
    pub latents: Option<f64>,
    /// The share of inactive codes.
    pub inactive: Option<f64>,
}

/// The program `study coverage`.
///
/// # Errors
/// As [`RunOptions::each`].
pub fn run(options: &CoverageOptions) -> Result<(), Failure> {
    if options.most == 0 {
        return Err(Failure::new("--most 0: the distances of at least 1 code must be measured"));
    }
    let mut rows = Vec::new();
    options.runs.each(|run| {
        rows.push(measure(options, run)?);
        Ok(())
    })?;
    draw(options, &rows)?;
    finish(&options.runs.out, "coverage", &report(&rows), &json!({ "rows": rows }), options.runs.json)
}

fn measure(options: &CoverageOptions, run: &Run) -> Result<Row, Failure> {
    let quantizer = &run.trained.quantizer;
    let usage = used(run, options.tokens_per_code)?;
    let latents = Latents::of(run, &held_out(run, options.images)?)?;
    let dim = latents.dim;
    let coded = latents.coded().count();
    let (error, relative_error) = errors(quantizer, &latents)?;
    let [active, inactive] = active_and_not(usage.counts());
    let active_rows = rows_of(quantizer, &active)?;
    let sampled = sample(&inactive, options.most, options.seed);
    let (mut radii, mut inactive_median) = (Vec::new(), None);
    if active.len() > 1 {
        let finite: Vec<f32> = latents.coded().flat_map(|(row, _)| row.iter().copied()).collect();
        let of_latents = nearest(quantizer, &finite, &active_rows, dim)?;
        let mut of_inactive = nearest(quantizer, &rows_of(quantizer, &sampled)?, &active_rows, dim)?;
        of_inactive.sort_unstable_by(f64::total_cmp);
        inactive_median = quantile(&of_inactive, 0.5);
        let measured = sample(&(0..active.len() as u32).collect::<Vec<_>>(), options.most, options.seed);
        let mut between = to_others(quantizer, &active_rows, dim, &measured)?;
        between.sort_unstable_by(f64::total_cmp);
        radii = QUANTILES
            .into_iter()
            .filter_map(|q| {
                let radius = quantile(&between, q)?;
                let [latents, inactive] = [&of_latents, &of_inactive].map(|all| share_within(all, radius));
                Some(Radius { quantile: q, radius, latents, inactive })
            })
            .collect();
    }
    Ok(Row {
        run: run.name.clone(),
        usage: usage.report(),
        latents: coded,
        without_code: latents.codes.len() - coded,
        error,
        relative_error,
        radii,
        inactive_median,
        inactive_measured: sampled.len(),
    })
}

/// The latents' mean squared distance from their codes, and the same by their own variance.
fn errors(quantizer: &VectorQuantizer, latents: &Latents) -> Result<(Option<f64>, Option<f64>), Failure> {
    let n = latents.coded().count() as f64;
    let mut mean = vec![0.0; latents.dim];
    for (row, _) in latents.coded() {
        mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += f64::from(x) / n);
    }
    let spread = |row: &[f32]| row.iter().zip(&mean).map(|(&x, mean)| (f64::from(x) - mean).powi(2)).sum::<f64>();
    let (error, variance) = quantizer.read(|quantizer| {
        let codebook = quantizer.codebook();
        latents.coded().fold((0.0, 0.0), |(error, variance), (row, code)| {
            (error + square(row, codebook.row(code as usize)) / n, variance + spread(row) / n)
        })
    })?;
    Ok(((n > 0.0).then_some(error), (n > 0.0 && variance > 0.0).then(|| error / variance)))
}

/// The distance of each of the `measured` of `rows` `[k, dim]` from the nearest other one of `rows`.
fn to_others(quantizer: &VectorQuantizer, rows: &[f32], dim: usize, measured: &[u32]) -> Result<Vec<f64>, Failure> {
    let all = MatRef::new(rows, rows.len() / dim.max(1), dim)?;
    let packed = PackedCodebook::new(all, Metric::L2)?;
    let queries: Vec<f32> = measured.iter().flat_map(|&row| all.row(row as usize).iter().copied()).collect();
    let mut best = vec![Candidate::NONE; 2 * measured.len()];
    let found = MatMut::new(&mut best, measured.len(), 2)?;
    search_top(&quantizer.cpu(), MatRef::new(&queries, measured.len(), dim)?, None, &packed, found)?;
    let to_other = |(&row, best): (&u32, &[Candidate])| {
        let other = best.iter().map(|candidate| candidate.code).find(|&code| code != row)?;
        ((other as usize) < all.rows()).then(|| distance(all.row(row as usize), all.row(other as usize)))
    };
    Ok(measured.iter().zip(best.chunks_exact(2)).filter_map(to_other).collect())
}

fn report(rows: &[Row]) -> String {
    let heads = [
        "",
        "tokens",
        "active",
        "utilization %",
        "perplexity",
        "error",
        "error / variance",
        "median r",
        "latents within r %",
        "unused within r %",
        "unused, median",
    ];
    let line = |row: &Row| {
        let median = row.radii.iter().find(|radius| radius.quantile == MEDIAN);
        vec![
            row.run.clone(),
            thousands(row.usage.tokens as usize),
            thousands(row.usage.active),
            percent(Some(row.usage.utilization)),
            figure(Some(row.usage.perplexity), 0),
            figure(row.error, 5),
            figure(row.relative_error, 4),
            figure(median.map(|median| median.radius), 5),
            percent(median.and_then(|median| median.latents)),
            percent(median.and_then(|median| median.inactive)),
            figure(row.inactive_median, 5),
        ]
    };
    let lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    let mut out = text(&heads, &lines);
    out.push('\n');
    for row in rows {
        let without =
            if row.without_code > 0 { format!(", {} without a code", row.without_code) } else { String::new() };
        out +=
            &format!("{}: codes counted over {}; {} held-out latents{without}\n", row.run, row.usage.set, row.latents);
    }
    out + "error: mean squared distance of a held-out latent from its code, in the space of the search; by the latents' variance.\n\
           median r: half of the active codes are nearer than this to another active one.\n\
           unused: distance of a code that is not active from the nearest active one.\n"
}

/// A share of a radius.
type Share = fn(&Radius) -> Option<f64>;

fn draw(options: &CoverageOptions, rows: &[Row]) -> Result<(), Failure> {
    let out = &options.runs.out;
    let names: Vec<&str> = rows.iter().map(|row| row.run.as_str()).collect();
    let utilization: Vec<f64> = rows.iter().map(|row| 100.0 * row.usage.utilization).collect();
    if utilization.iter().any(|&percent| percent > 0.0) {
        let series: [(&str, &[f64]); 1] = [("utilization", &utilization)];
        bars_svg(&out.join("coverage_utilization.svg"), "Codes used over the fixed set", "codes, %", &names, &series)?;
    }
    let pictures: [(&str, &str, Share); 2] = [
        ("latents", "Held-out latents within r of an active code", |radius| radius.latents),
        ("unused", "Unused codes within r of an active code", |radius| radius.inactive),
    ];
    for (name, title, share) in pictures {
        let curve = |row: &Row| -> Vec<(f64, f64)> {
            let point = |radius: &Radius| Some((100.0 * radius.quantile, 100.0 * share(radius)?));
            row.radii.iter().filter_map(point).collect()
        };
        let curves: Vec<Vec<(f64, f64)>> = rows.iter().map(curve).collect();
        let series: Vec<(&str, &[(f64, f64)])> = names
            .iter()
            .zip(&curves)
            .filter(|(_, points)| !points.is_empty())
            .map(|(name, points)| (*name, points.as_slice()))
            .collect();
        if series.is_empty() {
            continue;
        }
        lines_svg(
            &out.join(format!("coverage_{name}.svg")),
            title,
            "r: active codes that are nearer than r to another one, %",
            "share, %",
            &series,
            LineOptions { y_range: Some((0.0, 100.0)), ..LineOptions::default() },
        )?;
    }
    Ok(())
}
