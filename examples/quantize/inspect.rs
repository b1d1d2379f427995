//! `inspect`: what a file holds.

use core::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use vq_kernels::NO_CODE;
use vq_kernels::ops::usage::Usage;

use crate::common::Failure;
use crate::common::tensors::{Dtype, SafetensorsFile};
use crate::common::terminal::print;
use crate::index::describe;

/// The settings that this program, `train_codebook` and PyTorch write beside tensors.
const KNOWN_METADATA: [&str; 11] =
    ["format", "metric", "normalize", "input", "patch", "mean", "scale", "learn", "steps", "codes", "plan"];

/// What `inspect` is asked for.
#[derive(Args)]
pub struct Options {
    /// A safetensors file, or an index.
    file: PathBuf,
}

/// Prints the tensors, the known metadata, and figures of `codebook` and `codes` where they are there.
pub fn inspect(options: &Options) -> Result<(), Failure> {
    let mut lines = vec![options.file.display().to_string()];
    if let Some(index) = describe(&options.file)? {
        lines.push(index);
        return print(&lines.join("\n"));
    }
    let mut file = SafetensorsFile::open(&options.file)?;
    for name in file.names() {
        if let Some((dtype, shape)) = file.info(&name) {
            lines.push(format!("  tensor    {name} {dtype} {shape:?}"));
        }
    }
    for key in KNOWN_METADATA {
        lines.extend(file.metadata(key).map(|value| format!("  metadata  {key} = {value}")));
    }
    let floats = [Dtype::F32, Dtype::F16, Dtype::BF16];
    match file.info("codebook") {
        Some((dtype, shape)) if floats.contains(&dtype) && shape.len() == 2 => {
            lines.push(codebook(&mut file, shape[0], shape[1])?);
        }
        _ => {}
    }
    if let Some((Dtype::U32, _)) = file.info("codes") {
        lines.push(codes(file.read("codes")?));
    }
    print(&lines.join("\n"))
}

/// Lengths, duplicates, and elements that are no numbers.
fn codebook(file: &mut SafetensorsFile, codes: usize, dim: usize) -> Result<String, Failure> {
    let mut values = Vec::new();
    file.read_rows_f32("codebook", 0, codes, &mut values)?;
    let mut rows: Vec<&[f32]> = values.chunks_exact(dim.max(1)).collect();
    let length = |row: &&[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let mut norms: Vec<f64> = rows.iter().map(length).filter(|norm| norm.is_finite()).collect();
    norms.sort_by(f64::total_cmp);
    // Duplicates stand side by side after sorting; by bits, so that NaN equals itself.
    fn bits(row: &[f32]) -> impl Iterator<Item = u32> {
        row.iter().map(|x| x.to_bits())
    }
    rows.sort_unstable_by(|a, b| bits(a).cmp(bits(b)));
    let distinct = rows.chunk_by(|a, b| bits(a).eq(bits(b))).count();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match (norms.first(), norms.last()) {
        (Some(min), Some(max)) => {
            let median = f64::midpoint(norms[(norms.len() - 1) / 2], norms[norms.len() / 2]);
            writeln!(text, "  codebook  norms: min {min:.6}, median {median:.6}, max {max:.6}")
        }
        _ => writeln!(text, "  codebook  norms: no finite code"),
    };
    let broken = rows.len() - norms.len();
    let _ = write!(text, "  codebook  {} exact duplicates, {broken} codes with NaN or infinity", rows.len() - distinct);
    Ok(text)
}

/// Range and variety. The number of codes in the codebook is not in the file, so only used ones are counted.
fn codes(mut codes: Vec<u32>) -> String {
    let all = codes.len();
    codes.retain(|&code| code != NO_CODE);
    codes.sort_unstable();
    let counts: Vec<u64> = codes.chunk_by(|a, b| a == b).map(|run| run.len() as u64).collect();
    let usage = Usage::of(&counts);
    let without = all - codes.len();
    match (codes.first(), codes.last()) {
        (Some(min), Some(max)) => format!(
            "  codes     min {min}, max {max}, {} active, perplexity {:.3}, {without} rows without a code",
            usage.active, usage.perplexity
        ),
        _ => format!("  codes     none; {without} rows without a code"),
    }
}
