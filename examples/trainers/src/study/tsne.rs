//! Where used and unused codes lie, on maps of t-SNE (the VQGAN-LC review).
//!
//! Each training has a map of its own, with as many used as unused codes at most, as search sees them. A joint map shows
//! a sample of every codebook, its codes scaled to length 1 so that models of different scales compare.

use clap::Args;
use serde_json::{Value, json};
use vq_kernels::{Cpu, MatRef};

use super::codes::{active_and_not, rows_of, sample, unit, used};
use super::embed::{LEAST, Map, Settings, embed};
use super::runs::{Run, RunOptions};
use super::scatter::{Point, scatter_svg};
use super::table::{figure, file_part, finish, text, thousands};
use crate::common::failure::Failure;
use crate::common::terminal::interrupted;

/// Draws used and unused codes of each training in the plane, and codes of all trainings, scaled to length 1, in one map.
///
/// A code is used where it occurs over the fixed crops of training images.
#[derive(Clone, Debug, Args)]
pub struct TsneOptions {
    /// The trainings.
    #[command(flatten)]
    pub runs: RunOptions,
    /// At most so many used and so many unused codes of a training on its map, by lot.
    #[arg(long, default_value_t = 2000)]
    pub most: usize,
    /// At most so many codes on the joint map, equally many of each training, by lot; 0 for no such map.
    #[arg(long, default_value_t = 6000)]
    pub joint: usize,
    /// Effective number of neighbours.
    #[arg(long, default_value_t = 30)]
    pub perplexity: usize,
    /// Passes of gradient descent.
    #[arg(long, default_value_t = 1000)]
    pub epochs: usize,
    /// Tokens per code over which used codes are counted.
    #[arg(long, default_value_t = 10)]
    pub tokens_per_code: usize,
    /// Seed of lots and of first places.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// A training's part of the joint map.
struct Share {
    run: String,
    dim: usize,
    /// Of length 1, `[codes, dim]`.
    rows: Vec<f32>,
    /// Whether each code is used.
    active: Vec<bool>,
}

/// A line of the report.
struct Line {
    map: String,
    codes: usize,
    active: usize,
    drawn: [usize; 2],
    result: Result<Map, Failure>,
}

/// The program `study tsne`.
///
/// # Errors
/// As [`RunOptions::each`].
pub fn run(options: &TsneOptions) -> Result<(), Failure> {
    if options.most == 0 {
        return Err(Failure::new("--most 0: a map needs codes"));
    }
    options.settings().check()?;
    let (mut lines, mut shares) = (Vec::new(), Vec::new());
    let share = options.joint / options.runs.runs.len().max(1);
    options.runs.each(|run| {
        let [active, inactive] = active_and_not(used(run, options.tokens_per_code)?.counts());
        lines.push(own_map(options, run, [&active, &inactive])?);
        let all: Vec<u32> = (0..run.trained.config.codes.codes as u32).collect();
        let codes = sample(&all, share, options.seed);
        let (dim, rows) = (run.trained.config.codes.dim, rows_of(&run.trained.quantizer, &codes)?);
        shares.push(Share {
            run: run.name.clone(),
            dim,
            rows: unit(&run.trained.quantizer, &rows, codes.len(), dim)?,
            active: codes.iter().map(|code| active.binary_search(code).is_ok()).collect(),
        });
        Ok(())
    })?;
    if interrupted() {
        return Err(Failure::interrupted());
    }
    let joint = joint_map(options, &shares);
    let mut notes = String::from("used codes are discs, unused ones rings; places on a map have no unit\n");
    match joint {
        Ok(line) => lines.push(line),
        Err(reason) => notes += &format!("no joint map: {reason}\n"),
    }
    finish(&options.runs.out, "tsne", &report(&lines, &notes), &as_json(&lines, &notes), options.runs.json)
}

impl TsneOptions {
    fn settings(&self) -> Settings {
        Settings { perplexity: self.perplexity, epochs: self.epochs, seed: self.seed }
    }
}

/// One training's used and unused codes.
fn own_map(options: &TsneOptions, run: &Run, parts: [&Vec<u32>; 2]) -> Result<Line, Failure> {
    let quantizer = &run.trained.quantizer;
    let [active, inactive] = parts.map(|codes| sample(codes, options.most, options.seed));
    let codes = [active.as_slice(), inactive.as_slice()].concat();
    let rows = rows_of(quantizer, &codes)?;
    let result = embed(&quantizer.cpu(), &rows, run.trained.config.codes.dim, options.settings(), &run.name);
    if let Ok(map) = &result {
        let points: Vec<Point> = map
            .places
            .iter()
            .enumerate()
            .map(|(i, &place)| Point { place, series: usize::from(i >= active.len()), hollow: i >= active.len() })
            .collect();
        let names = [
            format!("used: {} of {} codes", thousands(active.len()), thousands(parts[0].len())),
            format!("unused: {} of {} codes", thousands(inactive.len()), thousands(parts[1].len())),
        ];
        let path = options.runs.out.join(format!("tsne_{}.svg", file_part(&run.name)));
        scatter_svg(&path, &format!("Codes of {}", run.name), &names.each_ref().map(String::as_str), &points)?;
    }
    Ok(Line {
        map: run.name.clone(),
        codes: run.trained.config.codes.codes,
        active: parts[0].len(),
        drawn: [active.len(), inactive.len()],
        result,
    })
}

/// Codes of all trainings in one map.
fn joint_map(options: &TsneOptions, shares: &[Share]) -> Result<Line, Failure> {
    if options.joint == 0 {
        return Err(Failure::new("--joint 0"));
    }
    let dim = equal_dim(shares.iter().map(|share| (share.run.as_str(), share.dim)))?;
    let rows: Vec<f32> = shares.iter().flat_map(|share| share.rows.iter().copied()).collect();
    let n = rows.len() / dim.max(1);
    MatRef::new(&rows, n, dim)?;
    let map = embed(&Cpu::new(), &rows, dim, options.settings(), "joint map")?;
    let kinds = || {
        let share = |(series, share): (usize, &Share)| {
            share.active.iter().map(move |&active| (series, active)).collect::<Vec<_>>()
        };
        shares.iter().enumerate().flat_map(share)
    };
    let points: Vec<Point> = map
        .places
        .iter()
        .zip(kinds())
        .map(|(&place, (series, active))| Point { place, series, hollow: !active })
        .collect();
    let names: Vec<&str> = shares.iter().map(|share| share.run.as_str()).collect();
    let title = "Codes of all models, scaled to length 1 (rings: unused)";
    scatter_svg(&options.runs.out.join("tsne_joint.svg"), title, &names, &points)?;
    let active = kinds().filter(|(_, active)| *active).count();
    Ok(Line { map: "joint".into(), codes: n, active, drawn: [active, n - active], result: Ok(map) })
}

/// The number of dimensions that all have.
fn equal_dim<'a>(mut dims: impl Iterator<Item = (&'a str, usize)>) -> Result<usize, Failure> {
    let Some((first, dim)) = dims.next() else { return Err(Failure::new("no training was given")) };
    match dims.find(|(_, other)| *other != dim) {
        Some((run, other)) => Err(Failure::new(format!(
            "the codes of {first} have {dim} dimensions, those of {run} {other}: a map of both needs equal ones"
        ))),
        None => Ok(dim),
    }
}

fn report(lines: &[Line], notes: &str) -> String {
    let heads = ["map", "codes", "used", "used, drawn", "unused, drawn", "perplexity", "divergence"];
    let line = |line: &Line| {
        let mut cells = vec![
            line.map.clone(),
            thousands(line.codes),
            thousands(line.active),
            thousands(line.drawn[0]),
            thousands(line.drawn[1]),
        ];
        match &line.result {
            Ok(map) => cells.extend([map.perplexity.to_string(), figure(map.divergence.map(f64::from), 3)]),
            Err(reason) => cells.push(reason.to_string()),
        }
        cells
    };
    let lines: Vec<Vec<String>> = lines.iter().map(line).collect();
    format!("{}\n{notes}maps need at least {LEAST} codes\n", text(&heads, &lines))
}

fn as_json(lines: &[Line], notes: &str) -> Value {
    let line = |line: &Line| {
        let map = line.result.as_ref().ok();
        json!({
            "map": line.map,
            "codes": line.codes,
            "used": line.active,
            "used_drawn": line.drawn[0],
            "unused_drawn": line.drawn[1],
            "perplexity": map.map(|map| map.perplexity),
            "divergence": map.and_then(|map| map.divergence),
            "error": line.result.as_ref().err().map(ToString::to_string),
        })
    };
    json!({ "maps": lines.iter().map(line).collect::<Vec<_>>(), "notes": notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joint_map_needs_equal_dimensions() {
        assert_eq!(equal_dim([("a", 8), ("b", 8)].into_iter()), Ok(8));
        let refused = equal_dim([("a", 8), ("b", 256)].into_iter()).expect_err("other dimensions").to_string();
        assert!(refused.contains("of a have 8") && refused.contains("of b 256"), "{refused}");
        assert!(equal_dim([].into_iter()).is_err());
    }
}
