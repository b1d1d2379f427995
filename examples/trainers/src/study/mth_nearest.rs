//! How much codes matter: reconstructions where each token's code is replaced by its M-th nearest (the VQGAN-LC review).
//!
//! The question leaves two things open, and both answers are given:
//! * nearest to what: to the token's *code* (M = 1 is the code itself) or to its *latent* (M = 1 is the ordinary code);
//! * which M at K codes: the same *absolute* M (the authors' answer), or the same share of the codebook (the reviewer's
//!   request), *relative* to 16,384 codes: rank `max(1, round(M · K / 16,384))`.

mod ranks;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::codes::{Latents, held_out};
use super::runs::{Run, RunOptions};
use super::table::{figure, file_part, finish, percent, text, thousands};
use crate::backend::Host;
use crate::common::failure::{Context, Failure};
use crate::common::plots::{LineOptions, lines_svg};
use crate::data::FixedCrops;
use crate::losses::perceptual::Perceptual;
use crate::vqgan::evaluate::{Quality, quality_of};
use ranks::replaced;

pub use ranks::{Reading, Rule};

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
                row.result = Some(match known.entry((reading, rank)) {
                    Entry::Occupied(found) => found.get().clone(),
                    Entry::Vacant(place) => {
                        let codes = replaced(&run.trained.quantizer, &latents, reading, rank)?;
                        place.insert(judge(run, &perceptual, &crops, &latents.codes, &codes)?).clone()
                    }
                });
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// Reconstructs all crops from other codes than their own.
fn judge(
    run: &Run,
    perceptual: &Perceptual<Host>,
    crops: &FixedCrops,
    own: &[u32],
    replaced: &[u32],
) -> Result<Replaced, Failure> {
    let grid = run.trained.config.backbone.grid();
    let mut at = 0;
    let quality = quality_of(&run.trained, Some(perceptual), crops, |images| {
        let [batch, ..] = images.dims();
        // The batches are those of `Latents::of`, in the same order.
        let tokens = batch * grid * grid;
        let codes = replaced.get(at..at + tokens).unwrap_or_default();
        at += tokens;
        run.trained.decode(codes, [batch, grid, grid])
    })?;
    let changed = replaced.iter().zip(own).filter(|(new, old)| new != old).count();
    Ok(Replaced { changed: changed as f64 / own.len().max(1) as f64, quality })
}

/// Whether PSNR falls with M over one training's rows of one reading and rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Falls {
    run: String,
    reading: Reading,
    rule: Rule,
    /// `None` where fewer than two ranks were measured.
    falls: Option<bool>,
}

fn falling(rows: &[Row]) -> Vec<Falls> {
    let same = |a: &Row, b: &Row| (&a.run, a.reading, a.rule) == (&b.run, b.reading, b.rule);
    let curve = |rows: &[Row]| {
        let psnr = |row: &Row| Some((row.rank, row.result.as_ref()?.quality.psnr_db));
        let mut points: Vec<(usize, f64)> = rows.iter().filter_map(psnr).collect();
        points.dedup_by_key(|point| point.0);
        (points.len() > 1).then(|| points.windows(2).all(|pair| pair[1].1 < pair[0].1))
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
        let verb = match falls {
            Some(true) => "falls",
            Some(false) => "does not fall",
            None => continue,
        };
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
