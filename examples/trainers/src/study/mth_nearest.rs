//! How much codes matter: reconstructions where each token's code is replaced by its M-th nearest (the VQGAN-LC review).
//!
//! The question leaves two things open, and both answers are given:
//! * nearest to what: to the token's *code* (M = 1 is the code itself) or to its *latent* (M = 1 is the ordinary code);
//! * which M at K codes: the same *absolute* M (the authors' answer), or the same share of the codebook (the reviewer's
//!   request), *relative* to 16,384 codes: rank `max(1, round(M · K / 16,384))`.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use vq_kernels::ops::{Candidate, search_mth};
use vq_kernels::{MatRef, NO_CODE};

use super::codes::{Latents, held_out, rows_of};
use super::runs::{Run, RunOptions};
use super::table::{figure, file_part, finish, percent, text, thousands};
use crate::backend::Host;
use crate::common::failure::{Context, Failure};
use crate::common::plots::{LineOptions, lines_svg};
use crate::common::terminal::{Count, Progress, interrupted};
use crate::losses::perceptual::Perceptual;
use crate::quantize::VectorQuantizer;
use crate::vqgan::evaluate::{Quality, quality_of};

/// Replaces the codes of held-out images by their M-th nearest codes, and measures the reconstructions.
///
/// Both the M-th nearest to a token's code (M = 1 is the code itself) and to its latent (M = 1 is the ordinary code), and
/// both as M itself and scaled with the codebook: rank max(1, round(M · K / 16,384)) at K codes.
#[derive(Clone, Debug, Args)]
pub struct MthOptions {
    /// The trainings.
    #[command(flatten)]
    pub runs: RunOptions,
    /// The M, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,50,100,1000")]
    pub m: Vec<usize>,
    /// Take only so many held-out images.
    #[arg(long)]
    pub images: Option<usize>,
    /// Weights of the perceptual distance's network, safetensors [default: a frozen random network].
    #[arg(long)]
    pub perceptual: Option<PathBuf>,
    /// LPIPS's linear weights for that network, safetensors.
    #[arg(long, requires = "perceptual")]
    pub lpips: Option<PathBuf>,
}

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

/// One training, reading, rule and M.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The training.
    pub run: String,
    /// Its codes.
    pub codes: usize,
    /// Nearest to what.
    pub reading: Reading,
    /// Which rank an M is.
    pub rule: Rule,
    /// The M that was asked for.
    pub m: usize,
    /// Its rank in this codebook.
    pub rank: usize,
    /// What came of it.
    pub result: Option<Replaced>,
    /// Why nothing did.
    pub error: Option<String>,
}

/// Reconstructions of replaced codes.
#[derive(Clone, Debug, Serialize)]
pub struct Replaced {
    /// The share of tokens that got another code than their own.
    pub changed: f64,
    /// The reconstructions.
    pub quality: Quality,
}

/// The program `study mth-nearest`.
///
/// # Errors
/// An M of 0; as [`RunOptions::each`].
pub fn run(options: &MthOptions) -> Result<(), Failure> {
    let ms: BTreeSet<usize> = options.m.iter().copied().collect();
    if ms.is_empty() || ms.contains(&0) {
        return Err(Failure::new("--m takes numbers from 1 on, separated by commas: the nearest code is M = 1"));
    }
    let mut rows = Vec::new();
    options.runs.each(|run| {
        rows.extend(measure(options, run, &ms)?);
        Ok(())
    })?;
    draw(options, &rows)?;
    let falls = falling(&rows);
    let json = json!({ "rows": rows, "psnr_falls": falls });
    finish(&options.runs.out, "mth_nearest", &report(&rows, &falls), &json, options.runs.json)
}

/// All readings, rules and M of one training.
fn measure(options: &MthOptions, run: &Run, ms: &BTreeSet<usize>) -> Result<Vec<Row>, Failure> {
    let device = Default::default();
    let perceptual = Perceptual::<Host>::load(options.perceptual.as_deref(), options.lpips.as_deref(), &device)?;
    let crops = held_out(run, options.images)?;
    let size = crops.image_size();
    perceptual.check_size(size, size).context(|| format!("the perceptual distance for {}", run.name))?;
    let latents = Latents::of(run, &crops)?;
    let codes = run.trained.config.codes.codes;
    let grid = run.trained.config.backbone.grid();
    // Several M may be one rank, and both rules are one at 16,384 codes.
    let mut known: BTreeMap<(Reading, usize), Replaced> = BTreeMap::new();
    let mut rows = Vec::new();
    for reading in [Reading::Code, Reading::Latent] {
        for rule in [Rule::Absolute, Rule::Relative] {
            for &m in ms {
                let rank = rule.rank(m, codes);
                let mut row = Row { run: run.name.clone(), codes, reading, rule, m, rank, result: None, error: None };
                if rank > codes {
                    row.error = Some(format!("not possible: there are only {} codes", thousands(codes)));
                    rows.push(row);
                    continue;
                }
                if !known.contains_key(&(reading, rank)) {
                    let replaced = replaced(&run.trained.quantizer, &latents, reading, rank)?;
                    let mut at = 0;
                    let quality = quality_of(&run.trained, Some(&perceptual), &crops, |images| {
                        let [batch, ..] = images.dims();
                        // The batches are those of `Latents::of`, in the same order.
                        let tokens = batch * grid * grid;
                        let codes = replaced.get(at..at + tokens).unwrap_or_default();
                        at += tokens;
                        run.trained.decode(codes, [batch, grid, grid])
                    })?;
                    let changed = replaced.iter().zip(&latents.codes).filter(|(new, old)| new != old).count();
                    let changed = changed as f64 / latents.codes.len().max(1) as f64;
                    known.insert((reading, rank), Replaced { changed, quality });
                }
                row.result = known.get(&(reading, rank)).cloned();
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// Each token's code of that rank.
fn replaced(
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
            let found = ranked(quantizer, &rows_of(quantizer, &distinct), latents.dim, rank)?;
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
        })?;
        done += codes.len() as u64;
        progress.tick(done, format!("rank {rank}"));
    }
    progress.done();
    Ok(codes)
}

/// Whether PSNR falls with M over one training's rows of one reading and rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Falls {
    run: String,
    reading: Reading,
    rule: Rule,
    falls: bool,
}

fn falling(rows: &[Row]) -> Vec<Falls> {
    let same = |a: &Row, b: &Row| (&a.run, a.reading, a.rule) == (&b.run, b.reading, b.rule);
    let curve = |rows: &[Row]| {
        let psnr = |row: &Row| Some((row.rank, row.result.as_ref()?.quality.psnr_db));
        let mut points: Vec<(usize, f64)> = rows.iter().filter_map(psnr).collect();
        points.dedup_by_key(|point| point.0);
        points.windows(2).all(|pair| pair[1].1 < pair[0].1)
    };
    rows.chunk_by(same)
        .filter_map(|rows| {
            let first = rows.first()?;
            Some(Falls { run: first.run.clone(), reading: first.reading, rule: first.rule, falls: curve(rows) })
        })
        .collect()
}

fn report(rows: &[Row], falls: &[Falls]) -> String {
    let heads = ["", "nearest to", "M is", "M", "rank", "changed %", "PSNR dB", "SSIM", "perceptual"];
    let line = |row: &Row| {
        let quality = row.result.as_ref().map(|result| &result.quality);
        let mut cells =
            vec![row.run.clone(), row.reading.to_string(), row.rule.to_string(), thousands(row.m), thousands(row.rank)];
        match &row.error {
            Some(error) => cells.push(error.clone()),
            None => cells.extend([
                percent(row.result.as_ref().map(|result| result.changed)),
                figure(quality.map(|quality| quality.psnr_db), 2),
                figure(quality.map(|quality| quality.ssim), 3),
                figure(quality.and_then(|quality| quality.perceptual.as_ref()).map(|named| named.value), 4),
            ]),
        }
        cells
    };
    let lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    let mut out = text(&heads, &lines);
    out.push('\n');
    for Falls { run, reading, rule, falls } in falls {
        let verb = if *falls { "falls" } else { "does not fall" };
        out += &format!("{run}: PSNR {verb} with every step of M (nearest to the {reading}, {rule})\n");
    }
    let quality = rows.iter().find_map(|row| row.result.as_ref()).map(|result| &result.quality);
    if let Some(quality) = quality {
        let distance = quality.perceptual.as_ref().map_or("none", |named| named.name.as_str());
        out += &format!("\nimages: {}; perceptual: {distance}\n", quality.set);
    }
    out + "changed: tokens whose code is another than their own. relative: rank max(1, round(M · K / 16,384)) of K codes.\n"
}

/// PSNR over M, a curve for each training, a picture for each reading and rule.
fn draw(options: &MthOptions, rows: &[Row]) -> Result<(), Failure> {
    for reading in [Reading::Code, Reading::Latent] {
        for rule in [Rule::Absolute, Rule::Relative] {
            let mut curves: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
            for row in rows.iter().filter(|row| (row.reading, row.rule) == (reading, rule)) {
                let Some(result) = &row.result else { continue };
                let point = (row.m as f64, result.quality.psnr_db);
                match curves.last_mut() {
                    Some((run, points)) if *run == row.run => points.push(point),
                    _ => curves.push((&row.run, vec![point])),
                }
            }
            if curves.is_empty() {
                continue;
            }
            let series: Vec<(&str, &[(f64, f64)])> =
                curves.iter().map(|(run, points)| (*run, points.as_slice())).collect();
            let label = match rule {
                Rule::Absolute => "M",
                Rule::Relative => "M at 16,384 codes; M · K / 16,384 at K codes",
            };
            let name = file_part(&format!("mth nearest {reading} {rule}"));
            lines_svg(
                &options.runs.out.join(format!("{name}.svg")),
                &format!("Each code replaced by the M-th nearest to the {reading}"),
                label,
                "PSNR of held-out images, dB",
                &series,
                LineOptions { log_x: true, ..LineOptions::default() },
            )?;
        }
    }
    Ok(())
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
