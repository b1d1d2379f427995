//! What a trained VQ-VAE is worth: reconstructions of held-out samples by the measures of their modality, and use of the codes.

use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};

use super::config::{Modality, Reconstruction};
use super::data::{BATCH, Data, Samples, Values};
use super::model::loss;
use super::tokenizer::{Tokenizer, classes};
use crate::common::failure::Failure;
use crate::common::terminal::{Count, Progress, interrupted};
use crate::metrics::maps::{LabelScore, MeanPredictor, mask_iou, mean_cosine};
use crate::metrics::{Definition, Pair, UsageCounter, UsageReport};
use crate::params::host;
use crate::quantize::QuantizeBackend;

/// The most held-out samples that are reconstructed, and the training samples of which a mean predictor's mean is taken: whole batches.
const MOST_SAMPLES: usize = 1024;
const MEAN_SAMPLES: usize = 256;

/// What a trained model is worth; figures of other modalities are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The held-out set.
    pub set: String,
    /// Its samples.
    pub samples: usize,
    /// The training's loss, its mean over the samples.
    pub loss: f64,
    /// Of classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelFigures>,
    /// Of masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masks: Option<MaskFigures>,
    /// Of images and features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<NumberFigures>,
    /// Codes over training samples, after the training.
    pub usage: UsageReport,
    /// Codes over the held-out samples.
    pub held_out_usage: UsageReport,
    /// How often each code occurred in `usage`.
    #[serde(skip)]
    pub counts: Vec<u64>,
}

/// Of reconstructed classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabelFigures {
    /// Share of pixels that are right.
    pub accuracy: f64,
    /// Share of the most frequent class.
    pub majority: f64,
    /// Mean intersection over union of the classes that occur.
    pub mean_iou: f64,
}

/// Of reconstructed masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MaskFigures {
    /// Intersection over union, its mean over the masks.
    pub iou: f64,
    /// That of the whole square.
    pub iou_of_all: f64,
}

/// Of reconstructed images and features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NumberFigures {
    /// The loss of each channel's mean over the training set.
    pub mean_predictor_loss: f64,
    /// The loss as a share of that.
    pub relative_loss: f64,
    /// Mean cosine of the channels of a position, as the networks see them.
    pub cosine: f64,
    /// PSNR, dB, of colour images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psnr_db: Option<f64>,
}

/// Sums over samples.
#[derive(Default)]
struct Sums {
    samples: usize,
    loss: f64,
    mean_loss: f64,
    cosine: f64,
    psnr: f64,
    iou: f64,
    iou_of_all: f64,
}

/// Evaluates a model.
///
/// # Errors
/// Ctrl-C; samples that are not finite; as the parts.
pub fn evaluate<B: QuantizeBackend>(
    tokenizer: &Tokenizer<B>,
    data: &Data,
    tokens_per_code: usize,
) -> Result<Evaluation, Failure> {
    let config = &tokenizer.config;
    let codes = config.codes.codes;
    let mut held_out_usage = UsageCounter::new(Definition::HeldOut, data.held_out_name(), codes)?;
    let mut score = match config.modality {
        Modality::Labels { classes } => Some(LabelScore::new(classes)?),
        Modality::Rgb | Modality::Features | Modality::Masks => None,
    };
    let predictor = mean_predictor(tokenizer, data)?;
    let count = data.held_out_len().min(MOST_SAMPLES);
    let mut sums = Sums::default();
    each_batch("held-out samples", count, |from, n| {
        let samples = data.held_out(from, n);
        let (tokens, grid) = tokenizer.encode(samples.to_sample(&tokenizer.device))?;
        held_out_usage.add(&tokens)?;
        let output = tokenizer.decode(&tokens, grid)?.cast(FloatDType::F32);
        let loss = host(loss(config.loss, output.clone(), samples.to_sample(&tokenizer.device)));
        sums.samples += samples.count;
        sums.loss += f64::from(loss.first().copied().unwrap_or(f32::NAN)) * samples.count as f64;
        match (&samples.values, &mut score) {
            (Values::Classes(labels), Some(score)) => score.add(&classes(output), labels, None),
            (Values::Numbers(values), _) => {
                sums.add_numbers(values, &host(output), &samples, config.loss, predictor.as_ref())
            }
            (Values::Classes(_), None) => Ok(()),
        }
    })?;
    let usage = usage(tokenizer, data, tokens_per_code)?;
    let n = sums.samples.max(1) as f64;
    let numbers = NumberFigures {
        mean_predictor_loss: sums.mean_loss / n,
        relative_loss: sums.loss / sums.mean_loss,
        cosine: sums.cosine / n,
        psnr_db: (config.modality == Modality::Rgb).then_some(sums.psnr / n),
    };
    Ok(Evaluation {
        set: data.held_out_name(),
        samples: sums.samples,
        loss: sums.loss / n,
        labels: score.map(|score| LabelFigures {
            accuracy: score.accuracy().unwrap_or_default(),
            majority: score.majority().unwrap_or_default(),
            mean_iou: score.mean_iou().unwrap_or_default(),
        }),
        masks: (config.modality == Modality::Masks)
            .then_some(MaskFigures { iou: sums.iou / n, iou_of_all: sums.iou_of_all / n }),
        numbers: predictor.is_some().then_some(numbers),
        usage: usage.report(),
        held_out_usage: held_out_usage.report(),
        counts: usage.counts().to_vec(),
    })
}

impl Sums {
    /// Measures reconstructions beside their originals.
    fn add_numbers(
        &mut self,
        originals: &[f32],
        copies: &[f32],
        samples: &Samples,
        loss: Reconstruction,
        predictor: Option<&MeanPredictor>,
    ) -> Result<(), Failure> {
        let (channels, size) = (samples.channels, samples.size);
        let each = (channels * size * size).max(1);
        for (original, copy) in originals.chunks_exact(each).zip(copies.chunks_exact(each)) {
            match (predictor, loss.distance()) {
                (Some(predictor), Some(distance)) => {
                    self.mean_loss += predictor.distance(original, distance)?;
                    self.cosine += mean_cosine(original, copy, channels)?;
                }
                // A mask's logits are positive inside.
                _ => {
                    let inside: Vec<f32> = copy.iter().map(|&logit| f32::from(u8::from(logit > 0.0))).collect();
                    self.iou += mask_iou(&inside, original, 0.5)?;
                    self.iou_of_all += mask_iou(&vec![1.0; original.len()], original, 0.5)?;
                }
            }
            if channels == 3 {
                let clamped: Vec<f32> = copy.iter().map(|value| value.clamp(-1.0, 1.0)).collect();
                self.psnr += Pair::new(original, &clamped, size, size)?.psnr();
            }
        }
        Ok(())
    }
}

/// The mean of each channel over the first training samples; none of classes and masks.
fn mean_predictor<B: QuantizeBackend>(tokenizer: &Tokenizer<B>, data: &Data) -> Result<Option<MeanPredictor>, Failure> {
    let config = &tokenizer.config;
    if config.loss.distance().is_none() {
        return Ok(None);
    }
    let mut predictor = MeanPredictor::new(config.decoder.channels);
    each_batch("the mean predictor", MEAN_SAMPLES, |from, _| {
        let samples = data.fixed(from / BATCH);
        let each = (samples.channels * samples.size * samples.size).max(1);
        match &samples.values {
            Values::Numbers(values) => values.chunks_exact(each).try_for_each(|map| predictor.add(map)),
            Values::Classes(_) => Ok(()),
        }
    })?;
    Ok(Some(predictor))
}

/// Counts codes over training samples: at least `tokens_per_code` tokens a code.
fn usage<B: QuantizeBackend>(
    tokenizer: &Tokenizer<B>,
    data: &Data,
    tokens_per_code: usize,
) -> Result<UsageCounter, Failure> {
    let config = &tokenizer.config;
    let count = config.codes.codes.saturating_mul(tokens_per_code.max(1)).div_ceil(config.tokens().max(1));
    let count = count.div_ceil(BATCH) * BATCH;
    let set = format!("{}: {count} samples", data.name());
    let mut usage = UsageCounter::new(Definition::TrainingSet, set, config.codes.codes)?;
    each_batch("utilization", count, |from, _| {
        usage.add(&tokenizer.encode(data.fixed(from / BATCH).to_sample(&tokenizer.device))?.0)
    })?;
    Ok(usage)
}

/// Calls `with` for the samples `0..count`, some at a time, with progress.
fn each_batch(
    what: &str,
    count: usize,
    mut with: impl FnMut(usize, usize) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut progress = Progress::new(what, count as u64, Count::Items);
    for from in (0..count).step_by(BATCH) {
        if interrupted() {
            return Err(Failure::interrupted());
        }
        let n = BATCH.min(count - from);
        with(from, n)?;
        progress.tick((from + n) as u64, "");
    }
    progress.done();
    Ok(())
}
