//! What a person looks at: curves, and values as pictures.

use std::path::Path;

use serde_json::Value;

use crate::common::failure::{At, Context, Failure};
use crate::common::files::write_atomic;
use crate::common::images::Rgb;
use crate::common::plots::{LineOptions, lines_svg};

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

/// Curves of a log: what each is called, and its field. A field that no line has is left out.
///
/// # Errors
/// Where the file cannot be written.
pub fn curves_svg(path: &Path, title: &str, fields: &[(&str, &str)], history: &[Value]) -> Result<(), Failure> {
    let curve = |field: &str| -> Vec<(f64, f64)> {
        history.iter().filter_map(|line| Some((line["step"].as_f64()?, line[field].as_f64()?))).collect()
    };
    let curves: Vec<(&str, Vec<(f64, f64)>)> =
        fields.iter().map(|(name, field)| (*name, curve(field))).filter(|(_, points)| !points.is_empty()).collect();
    let series: Vec<(&str, &[(f64, f64)])> = curves.iter().map(|(name, points)| (*name, points.as_slice())).collect();
    lines_svg(path, title, "step", "loss", &series, LineOptions::default())
}

/// The share of codes that were hit of late, over the epochs.
///
/// # Errors
/// Where the file cannot be written.
pub fn utilization_svg(path: &Path, history: &[Value]) -> Result<(), Failure> {
    let percent: Vec<(f64, f64)> = history
        .iter()
        .filter_map(|line| Some((line["epoch"].as_f64()?, 100.0 * line["recent_utilization"].as_f64()?)))
        .collect();
    lines_svg(
        path,
        "Codebook utilization during training",
        "epoch",
        "codes hit recently, %",
        &[("utilization", &percent)],
        LineOptions { y_range: Some((0.0, 100.0)), ..LineOptions::default() },
    )
}

/// How often each code occurs in the set that `of` names, most used first.
///
/// # Errors
/// Where the file cannot be written.
pub fn counts_svg(path: &Path, of: &str, counts: &[u64]) -> Result<(), Failure> {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let thin = sorted.len().div_ceil(1000).max(1);
    // A log scale has no zero: unused codes are shown at a tenth of a hit.
    let counts: Vec<(f64, f64)> =
        sorted.iter().enumerate().step_by(thin).map(|(i, &n)| (i as f64 + 1.0, (n as f64).max(0.1))).collect();
    lines_svg(
        path,
        &format!("How often each code is used ({of})"),
        "codes, most used first",
        "tokens (a code without any is drawn at 0.1)",
        &[("tokens per code", &counts)],
        LineOptions { log_y: true, ..LineOptions::default() },
    )
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

/// A small picture, every pixel as a square, at least `side` pixels wide.
pub fn enlarged(small: &Rgb, side: usize) -> Rgb {
    let by = side.div_ceil(small.width.max(1)).max(1);
    let (width, height) = (small.width * by, small.height * by);
    let pixel = |at: usize| {
        let from = at / width / by * small.width + at % width / by;
        small.pixels[3 * from..3 * from + 3].iter().copied()
    };
    Rgb { name: small.name.clone(), width, height, pixels: (0..width * height).flat_map(pixel).collect() }
}
