//! What a trained DiVAE is worth: its loss on held-out samples before and after, what samples of right and of shuffled tokens are like, use of
//! the codes, bits.

use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};

use super::config::Variance;
use super::data::Data;
use super::tokenizer::Tokenizer;
use crate::common::failure::Failure;
use crate::common::terminal::{Count, Progress, interrupted};
use crate::data::Permutation;
use crate::diffusion::hybrid::{Bits, bits_per_dim, split};
use crate::diffusion::noise;
use crate::diffusion::target::Noised;
use crate::metrics::{Definition, UsageCounter, UsageReport};
use crate::params::host;
use crate::quantize::QuantizeBackend;

/// Samples at a time.
const BATCH: usize = 16;

/// Seed of evaluation's noise and order: one for all runs, so that their figures compare.
const SEED: u64 = 0;

/// Samples whose bits are counted, and parts of the process in which one step is looked at.
const BIT_SAMPLES: usize = 16;
const STRATA: usize = 50;

/// How much is evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Held-out samples that are drawn again from their tokens, at most.
    pub samples: usize,
    /// Steps of DDIM.
    pub steps: usize,
    /// The guidance's scale; 1 is none.
    pub guidance: f64,
    /// Tokens per code over which utilization is counted.
    pub tokens_per_code: usize,
}

/// Held-out losses, at fixed steps and noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// The objective's.
    pub loss: f64,
    /// Of a learned variance: bits per dimension of whole images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<Bits>,
}

/// What a trained model is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The held-out set.
    pub set: String,
    /// Its samples that were looked at.
    pub samples: usize,
    /// Before the first step.
    pub before: Option<Losses>,
    /// After the last.
    pub after: Losses,
    /// The loss as a share of that before.
    pub relative_loss: Option<f64>,
    /// DDIM's steps.
    pub steps: usize,
    /// PSNR of samples of the right tokens, dB, for values in [-1, 1]; each sample's by itself, then the mean.
    pub psnr_db: f64,
    /// The same of samples whose tokens are other ones of the same samples, by lot.
    pub shuffled_psnr_db: f64,
    /// Mean distance of a sample's mean of each channel from its original's.
    pub colour_shift: f64,
    /// Codes over training samples, after the training.
    pub usage: UsageReport,
    /// How often each code occurred in `usage`.
    #[serde(skip)]
    pub counts: Vec<u64>,
}

impl Losses {
    /// Of all held-out samples, each at its own step: the k-th of n at the middle of the k-th of n parts of the process, in an order by lot.
    ///
    /// # Errors
    /// Ctrl-C; as the parts.
    pub fn of<B: QuantizeBackend>(tokenizer: &Tokenizer<B>, data: &Data, effort: &Effort) -> Result<Self, Failure> {
        let (diffusion, config) = (&tokenizer.diffusion, &tokenizer.config);
        // Every sample at several steps where there are few.
        let rounds = effort.samples.div_ceil(data.held_out().len().max(1)).max(1);
        let count = rounds * data.held_out().len();
        let order = Permutation::new(count as u64, SEED);
        let (mut sum, mut place) = (0.0, 0);
        for round in 0..rounds as u64 {
            for batch in data.held_out().batches(BATCH) {
                stop()?;
                let (first, n) = (place as u64, batch.len());
                let t = |i: u64| (order.at(i) as usize * diffusion.len() + diffusion.len() / 2) / count;
                let x0: Tensor<B, 4> = batch.to_tensor(&tokenizer.device);
                let (codes, grid) = tokenizer.encode(x0.clone())?;
                let noise = noise(SEED, round, first, x0.dims(), &tokenizer.device);
                let noised = Noised::new(diffusion, x0, noise, (first..first + n as u64).map(t).collect());
                let condition = tokenizer.condition(&codes, grid)?;
                let mut output = tokenizer.model.decoder.forward(noised.xt.clone(), &noised.t, condition);
                if config.variance != Variance::Fixed {
                    output = split(diffusion, output, config.kind.channels(), &noised.t)?.predicted;
                }
                sum += host(config.objective.loss(diffusion, output, &noised)).into_iter().map(f64::from).sum::<f64>();
                place += n;
            }
        }
        Ok(Self { loss: sum / place.max(1) as f64, bits: bits(tokenizer, data)? })
    }
}

/// Bits per dimension of the first held-out samples, of a learned variance.
fn bits<B: QuantizeBackend>(tokenizer: &Tokenizer<B>, data: &Data) -> Result<Option<Bits>, Failure> {
    if tokenizer.config.variance == Variance::Fixed {
        return Ok(None);
    }
    let x0: Tensor<B, 4> = data.held_out().batch(0, BIT_SAMPLES).to_tensor(&tokenizer.device);
    let (codes, grid) = tokenizer.encode(x0.clone())?;
    let condition = tokenizer.condition(&codes, grid)?;
    let prediction = tokenizer.config.objective.prediction;
    bits_per_dim(&tokenizer.diffusion, prediction, x0, STRATA, SEED, |xt, t| {
        stop()?;
        Ok(tokenizer.model.decoder.forward(xt, t, condition.clone()))
    })
    .map(Some)
}

/// Evaluates a model.
///
/// # Errors
/// Ctrl-C; as the parts.
pub fn evaluate<B: QuantizeBackend>(
    tokenizer: &Tokenizer<B>,
    data: &Data,
    before: Option<Losses>,
    effort: &Effort,
) -> Result<Evaluation, Failure> {
    let after = Losses::of(tokenizer, data, effort)?;
    let sampler = crate::diffusion::Sampler { guidance: effort.guidance, ..tokenizer.sampler(effort.steps, SEED) };
    let count = data.held_out().len().min(effort.samples);
    let mut progress = Progress::new("samples of held-out tokens", count as u64, Count::Items);
    let [mut right, mut shuffled, mut shift] = [0.0; 3];
    for from in (0..count).step_by(BATCH) {
        stop()?;
        let batch = data.held_out().batch(from, BATCH.min(count - from));
        let x0: Tensor<B, 4> = batch.to_tensor(&tokenizer.device);
        let (codes, grid) = tokenizer.encode(x0.clone())?;
        let order = Permutation::new(codes.len() as u64, SEED);
        let other: Vec<u32> = (0..codes.len() as u64).map(|i| codes[order.at(i) as usize]).collect();
        let drawn = tokenizer.decode(&codes, grid, &sampler, from as u64)?;
        let of_other = tokenizer.decode(&other, grid, &sampler, from as u64)?;
        shift += channel_shift(drawn.clone(), x0.clone());
        right += psnr(drawn, x0.clone());
        shuffled += psnr(of_other, x0);
        progress.tick((from + batch.len()) as u64, "");
    }
    progress.done();
    let usage = usage(tokenizer, data, effort.tokens_per_code)?;
    let n = count.max(1) as f64;
    Ok(Evaluation {
        set: data.held_out().name(),
        samples: count,
        relative_loss: before.map(|before| after.loss / before.loss),
        before,
        after,
        steps: effort.steps,
        psnr_db: right / n,
        shuffled_psnr_db: shuffled / n,
        colour_shift: shift / n,
        usage: usage.report(),
        counts: usage.counts().to_vec(),
    })
}

/// Each sample's mean squared error as decibels under the square of 2, the range of [-1, 1]; summed. At most 100 dB each.
fn psnr<B: Backend>(drawn: Tensor<B, 4>, original: Tensor<B, 4>) -> f64 {
    let [batch, ..] = drawn.dims();
    let squares = (drawn - original).square().cast(FloatDType::F32);
    let each = squares.dims().iter().skip(1).product::<usize>();
    let errors = host(squares.reshape([batch, each]).mean_dim(1));
    errors.into_iter().map(|error| 10.0 * (4.0 / f64::from(error).max(4e-10)).log10()).sum()
}

/// Each sample's mean over channels of the distance between the channel's means; summed.
fn channel_shift<B: Backend>(drawn: Tensor<B, 4>, original: Tensor<B, 4>) -> f64 {
    let [batch, channels, height, width] = drawn.dims();
    let means = (drawn - original).reshape([batch * channels, height * width]).mean_dim(1);
    host(means).into_iter().map(|mean| f64::from(mean).abs()).sum::<f64>() / channels.max(1) as f64
}

/// Counts codes over training samples: at least `tokens_per_code` tokens a code, as far as there are samples.
fn usage<B: QuantizeBackend>(
    tokenizer: &Tokenizer<B>,
    data: &Data,
    tokens_per_code: usize,
) -> Result<UsageCounter, Failure> {
    let config = &tokenizer.config;
    let needed = config.codes.codes.saturating_mul(tokens_per_code.max(1)).div_ceil(config.tokens().max(1));
    let count = needed.min(data.fixed().len());
    let set = format!("{}, {count} of them", data.fixed().name());
    let mut usage = UsageCounter::new(Definition::TrainingSet, set, config.codes.codes)?;
    let mut progress = Progress::new("utilization", count as u64, Count::Items);
    for from in (0..count).step_by(BATCH) {
        stop()?;
        let batch = data.fixed().batch(from, BATCH.min(count - from));
        usage.add(&tokenizer.encode(batch.to_tensor(&tokenizer.device))?.0)?;
        progress.tick((from + batch.len()) as u64, "");
    }
    progress.done();
    Ok(usage)
}

fn stop() -> Result<(), Failure> {
    if interrupted() { Err(Failure::interrupted()) } else { Ok(()) }
}
