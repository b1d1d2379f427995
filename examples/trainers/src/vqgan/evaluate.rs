//! What a trained model is worth: reconstructions of held-out images, and use of the codes.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::run::Data;
use super::trained::Trained;
use crate::common::failure::Failure;
use crate::common::terminal::{Count, Progress, interrupted};
use crate::data::{FixedCrops, fixed_crops};
use crate::losses::perceptual::Perceptual;
use crate::metrics::{Definition, Frechet, Pair, UsageCounter, UsageReport};
use crate::params::host;
use crate::quantize::QuantizeBackend;

/// Images at a time.
const BATCH: usize = 32;

/// The most held-out crops that are reconstructed.
const MOST_CROPS: usize = 1024;

/// Seed of the evaluation crops: one for all runs, so that their figures compare.
pub(crate) const CROPS: u64 = 0;

/// A figure that goes by the name of what measured it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// What measured it.
    pub name: String,
    /// The figure.
    pub value: f64,
}

/// Means over the images of a named set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The set.
    pub set: String,
    /// Its images.
    pub images: usize,
    /// PSNR over R, G and B, dB.
    pub psnr_db: f64,
    /// PSNR of the luma, dB: what VQGAN-LC reports.
    pub psnr_luma_db: f64,
    /// PSNR of each image's own mean colour, dB.
    pub psnr_mean_colour_db: f64,
    /// SSIM.
    pub ssim: f64,
    /// MS-SSIM, with as many scales as the images have room for.
    pub ms_ssim: f64,
    /// The perceptual distance, where the training had one.
    pub perceptual: Option<Named>,
    /// Fréchet distance of the last layer of the perceptual distance's network, averaged over positions: no FID.
    pub frechet: Option<Named>,
}

/// What a trained model is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Reconstructions of held-out images.
    pub quality: Quality,
    /// Codes over a fixed set of crops of training images, after the training: the paper's definition.
    pub usage: UsageReport,
    /// Codes over the held-out crops.
    pub held_out_usage: UsageReport,
    /// How often each code occurred in `usage`.
    #[serde(skip)]
    pub counts: Vec<u64>,
}

/// The crops of held-out images that quality is measured on: every image once, by its centre.
///
/// # Errors
/// As [`fixed_crops`].
pub fn held_out_crops<B: QuantizeBackend>(trained: &Trained<B>, data: &Data) -> Result<FixedCrops, Failure> {
    fixed_crops(&data.held_out, trained.config.backbone.image_size(), data.held_out.len().min(MOST_CROPS), CROPS)
}

/// The crops of training images that utilization is counted on: at least `tokens_per_code` tokens a code.
///
/// # Errors
/// As [`fixed_crops`].
pub fn usage_crops<B: QuantizeBackend>(
    trained: &Trained<B>,
    data: &Data,
    tokens_per_code: usize,
) -> Result<FixedCrops, Failure> {
    let config = &trained.config;
    let count = config.codes.codes.saturating_mul(tokens_per_code.max(1)).div_ceil(config.tokens());
    fixed_crops(&data.train, config.backbone.image_size(), count, CROPS)
}

/// Evaluates a model.
///
/// # Errors
/// Ctrl-C; as the parts.
pub fn evaluate<B: QuantizeBackend>(
    trained: &Trained<B>,
    perceptual: Option<&Perceptual<B>>,
    data: &Data,
    tokens_per_code: usize,
) -> Result<Evaluation, Failure> {
    let held_out = held_out_crops(trained, data)?;
    let quality = quality(trained, perceptual, &held_out)?;
    let usage = usage(trained, &usage_crops(trained, data, tokens_per_code)?, Definition::TrainingSet)?;
    let held_out_usage = self::usage(trained, &held_out, Definition::HeldOut)?;
    Ok(Evaluation {
        quality,
        usage: usage.report(),
        held_out_usage: held_out_usage.report(),
        counts: usage.counts().to_vec(),
    })
}

/// Counts the codes of a set.
///
/// # Errors
/// Ctrl-C; a latent that is not finite has no code and is not counted.
pub fn usage<B: QuantizeBackend>(
    trained: &Trained<B>,
    crops: &FixedCrops,
    definition: Definition,
) -> Result<UsageCounter, Failure> {
    let mut counter = UsageCounter::new(definition, crops.name(), trained.config.codes.codes)?;
    each_batch(trained, crops, "utilization", |images| counter.add(&trained.encode(images)?.0))?;
    Ok(counter)
}

/// Reconstructs a set and compares.
///
/// # Errors
/// Ctrl-C; images of values that are not finite.
pub fn quality<B: QuantizeBackend>(
    trained: &Trained<B>,
    perceptual: Option<&Perceptual<B>>,
    crops: &FixedCrops,
) -> Result<Quality, Failure> {
    let reconstructed = |images: Tensor<B, 4>| {
        let (codes, grid) = trained.encode(images)?;
        trained.decode(&codes, grid)
    };
    quality_of(trained, perceptual, crops, reconstructed)
}

/// Compares a set with what `reconstructed` makes of it.
///
/// # Errors
/// As [`quality`], and what `reconstructed` returns.
pub fn quality_of<B: QuantizeBackend>(
    trained: &Trained<B>,
    perceptual: Option<&Perceptual<B>>,
    crops: &FixedCrops,
    mut reconstructed: impl FnMut(Tensor<B, 4>) -> Result<Tensor<B, 4>, Failure>,
) -> Result<Quality, Failure> {
    let size = crops.image_size();
    let mut sums = [0.0; 6];
    let mut features = perceptual.map(|_| [None, None]);
    each_batch(trained, crops, "held-out images", |images| {
        let copies = reconstructed(images.clone())?.clamp(-1.0, 1.0);
        if let (Some(perceptual), Some(features)) = (perceptual, &mut features) {
            let distances = host(perceptual.distance(copies.clone(), images.clone()));
            sums[5] += distances.into_iter().map(f64::from).sum::<f64>();
            for (features, images) in features.iter_mut().zip([&images, &copies]) {
                add_features(features, perceptual, images.clone())?;
            }
        }
        let (originals, copies) = (host(images), host(copies));
        let values = 3 * size * size;
        for (original, copy) in originals.chunks_exact(values).zip(copies.chunks_exact(values)) {
            let pair = Pair::new(original, copy, size, size)?;
            let flat = mean_colour(original);
            let figures = [pair.psnr(), pair.psnr_luma(), Pair::new(original, &flat, size, size)?.psnr()];
            let similar = [pair.ssim(), pair.ms_ssim().value];
            sums.iter_mut().zip(figures.into_iter().chain(similar)).for_each(|(sum, x)| *sum += x);
        }
        Ok(())
    })?;
    let n = crops.len() as f64;
    let frechet = match &features {
        Some([Some(of_images), Some(of_copies)]) if of_images.rows() > 1 => Some(of_images.distance(of_copies)?),
        _ => None,
    };
    let named = |what: &str, value: f64| perceptual.map(|p| Named { name: format!("{what}{}", p.name()), value });
    Ok(Quality {
        set: crops.name(),
        images: crops.len(),
        psnr_db: sums[0] / n,
        psnr_luma_db: sums[1] / n,
        psnr_mean_colour_db: sums[2] / n,
        ssim: sums[3] / n,
        ms_ssim: sums[4] / n,
        perceptual: named("", sums[5] / n),
        frechet: frechet.and_then(|value| named("Fréchet distance of mean features of: ", value)),
    })
}

/// Adds each image's last features, averaged over positions.
fn add_features<B: QuantizeBackend>(
    features: &mut Option<Frechet>,
    perceptual: &Perceptual<B>,
    images: Tensor<B, 4>,
) -> Result<(), Failure> {
    let Some(last) = perceptual.net().taps(images).pop() else { return Ok(()) };
    let [batch, channels, _, _] = last.dims();
    let rows = host(last.mean_dim(3).mean_dim(2).reshape([batch, channels]));
    match features {
        Some(features) => features.add(&rows),
        None => features.insert(Frechet::new(channels)?).add(&rows),
    }
}

/// An image `[3, n]` of its own mean colour.
fn mean_colour(image: &[f32]) -> Vec<f32> {
    let channel = |values: &[f32]| {
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
        vec![mean as f32; values.len()]
    };
    image.chunks_exact(image.len() / 3).flat_map(channel).collect()
}

/// Calls `with` for all crops, a batch at a time, with progress.
pub(crate) fn each_batch<B: QuantizeBackend>(
    trained: &Trained<B>,
    crops: &FixedCrops,
    what: &str,
    mut with: impl FnMut(Tensor<B, 4>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut progress = Progress::new(what, crops.len() as u64, Count::Items);
    let mut done = 0;
    for batch in crops.batches(BATCH) {
        if interrupted() {
            return Err(Failure::interrupted());
        }
        with(batch.to_tensor(&trained.device))?;
        done += batch.len() as u64;
        progress.tick(done, "");
    }
    progress.done();
    Ok(())
}
