//! Codes and latents in the space where search compares them: unit rows where the quantizer normalizes.
//!
//! Distances are Euclidean there. For unit rows the nearest code is the same as by the cosine.

use burn::tensor::Tensor;
use vq_kernels::{MatMut, MatRef, Metric, NO_CODE, PackedCodebook, ops};

use super::runs::Run;
use crate::backend::Host;
use crate::common::failure::Failure;
use crate::data::{FixedCrops, Permutation, fixed_crops};
use crate::metrics::{Definition, UsageCounter};
use crate::params::host;
use crate::quantize::VectorQuantizer;
use crate::vqgan::evaluate::{CROPS, each_batch, held_out_crops, usage, usage_crops};

/// Tokens of a set of images.
pub struct Latents {
    /// As search sees them, `[tokens, dim]`.
    pub rows: Vec<f32>,
    /// Their codes; [`NO_CODE`] of latents that are not finite.
    pub codes: Vec<u32>,
    /// Dimensions.
    pub dim: usize,
}

impl Latents {
    /// Of all crops, in their order.
    ///
    /// # Errors
    /// Ctrl-C.
    pub fn of(run: &Run, crops: &FixedCrops) -> Result<Self, Failure> {
        let (quantizer, dim) = (&run.trained.quantizer, run.trained.config.codes.dim);
        let (mut rows, mut codes) = (Vec::new(), Vec::new());
        each_batch(&run.trained, crops, "latents", |images| {
            let (latents, _) = run.trained.rows(images);
            codes.extend(quantizer.encode(latents.clone())?);
            rows.extend(searched(quantizer, latents)?);
            Ok(())
        })?;
        Ok(Self { rows, codes, dim })
    }

    /// Those that have a code, and their codes.
    pub fn coded(&self) -> impl Iterator<Item = (&[f32], u32)> {
        let all = self.rows.chunks_exact(self.dim.max(1)).zip(self.codes.iter().copied());
        all.filter(|(_, code)| *code != NO_CODE)
    }
}

/// Latents `[tokens, dim]` as [`Quantizer::encode`](vq_kernels::quantizer::Quantizer::encode) searches with them.
fn searched(quantizer: &VectorQuantizer, latents: Tensor<Host, 2>) -> Result<Vec<f32>, Failure> {
    let [n, dim] = latents.dims();
    let rows = host(latents);
    match quantizer.config().normalize {
        true => unit(quantizer, &rows, n, dim),
        false => Ok(rows),
    }
}

/// Rows `[n, dim]` to length 1; zeros stay.
///
/// # Errors
/// Where the shape is not theirs.
pub fn unit(quantizer: &VectorQuantizer, rows: &[f32], n: usize, dim: usize) -> Result<Vec<f32>, Failure> {
    let mut unit = vec![0.0; rows.len()];
    ops::normalize(&quantizer.cpu(), MatRef::new(rows, n, dim)?, MatMut::new(&mut unit, n, dim)?, None)?;
    Ok(unit)
}

/// The crops of held-out images that quality is measured on, or the first `images` of them.
///
/// # Errors
/// Where `images` is 0.
pub fn held_out(run: &Run, images: Option<usize>) -> Result<FixedCrops, Failure> {
    let all = held_out_crops(&run.trained, &run.data)?;
    match images {
        Some(images) => fixed_crops(&run.data.held_out, all.image_size(), images.min(all.len()), CROPS),
        None => Ok(all),
    }
}

/// How often each code occurs over the fixed crops of training images, by the paper's definition of utilization.
///
/// # Errors
/// Ctrl-C.
pub fn used(run: &Run, tokens_per_code: usize) -> Result<UsageCounter, Failure> {
    usage(&run.trained, &usage_crops(&run.trained, &run.data, tokens_per_code)?, Definition::TrainingSet)
}

/// The codes that occurred, and those that did not, ascending.
pub fn active_and_not(counts: &[u64]) -> [Vec<u32>; 2] {
    let (active, inactive) = (0..counts.len() as u32).partition(|&code| counts[code as usize] > 0);
    [active, inactive]
}

/// At most `most` of the codes, by lot.
pub fn sample(codes: &[u32], most: usize, seed: u64) -> Vec<u32> {
    if codes.len() <= most {
        return codes.to_vec();
    }
    let lots = Permutation::new(codes.len() as u64, seed);
    (0..most as u64).map(|i| codes[lots.at(i) as usize]).collect()
}

/// Rows `[codes, dim]` of the codebook, as search sees them.
///
/// # Errors
/// As [`VectorQuantizer::read`].
pub fn rows_of(quantizer: &VectorQuantizer, codes: &[u32]) -> Result<Vec<f32>, Failure> {
    let rows = quantizer.read(|quantizer| {
        let codebook = quantizer.codebook();
        codes.iter().flat_map(|&code| codebook.row(code as usize).iter().copied()).collect()
    })?;
    Ok(rows)
}

/// The distance of each of `rows` `[n, dim]` from the nearest of `codes` `[k, dim]`; infinite for a row that is not
/// finite.
///
/// # Errors
/// No code, or more than search takes.
pub fn nearest(quantizer: &VectorQuantizer, rows: &[f32], codes: &[f32], dim: usize) -> Result<Vec<f64>, Failure> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let (n, codebook) = (rows.len() / dim.max(1), MatRef::new(codes, codes.len() / dim.max(1), dim)?);
    let packed = PackedCodebook::new(codebook, Metric::L2)?;
    let mut found = vec![NO_CODE; n];
    ops::search(&quantizer.cpu(), MatRef::new(rows, n, dim)?, None, &packed, &mut found, None)?;
    let measure = |(row, &code): (&[f32], &u32)| match code {
        NO_CODE => f64::INFINITY,
        code => distance(row, codebook.row(code as usize)),
    };
    Ok(rows.chunks_exact(dim.max(1)).zip(&found).map(measure).collect())
}

/// The Euclidean distance.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    square(a, b).sqrt()
}

/// The square of the Euclidean distance.
pub fn square(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_parted_by_use() {
        assert_eq!(active_and_not(&[0, 3, 0, 1]), [vec![1, 3], vec![0, 2]]);
    }

    #[test]
    fn a_sample_has_distinct_codes() {
        let codes: Vec<u32> = (10..110).collect();
        let mut sampled = sample(&codes, 30, 1);
        assert_ne!(sampled, sample(&codes, 30, 2));
        sampled.sort_unstable();
        sampled.dedup();
        assert_eq!(sampled.len(), 30);
        assert!(sampled.iter().all(|code| codes.contains(code)));
        assert_eq!(sample(&codes, 100, 1), codes);
    }
}
