//! Images from noise: DDPM and DDIM, with guidance.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::hybrid::{Learned, split};
use super::schedule::{Diffusion, noise};
use super::target::Prediction;
use crate::common::failure::Failure;
use crate::nets::constant;
use crate::params::host;

/// The way of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Ancestral: noise of the posterior's variance, or of the learned one, is added at every step but the last (Ho et al. 2020, algorithm 2).
    Ddpm,
    /// Without noise of its own, η = 0 (Song et al. 2021, eq. 12).
    Ddim,
}

/// What the predicted clean image is held to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clip {
    /// Nothing.
    None,
    /// [-1, 1].
    Unit,
    /// [-s, s], then divided by s: the quantile `ratio` of an image's absolute values, at least 1 and at most `most` (Saharia et al. 2022,
    /// section 2.3). 4M has 0.995 and 1, which is [-1, 1].
    Dynamic {
        /// Which quantile.
        ratio: f64,
        /// The largest s.
        most: f64,
    },
}

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampler {
    /// The way of a step.
    pub method: Method,
    /// How many steps, trailing.
    pub steps: usize,
    /// What the predicted clean image is held to.
    pub clip: Clip,
    /// w of `unconditional + w · (conditional − unconditional)` (Ho and Salimans 2022, eq. 6, whose w is one less); at 1 the network is
    /// asked once a step.
    pub guidance: f64,
    /// Whether the network has twice the image's channels, a learned variance's among them.
    pub learned_variance: bool,
    /// Of the noise.
    pub seed: u64,
}

impl Sampler {
    /// DDIM of so many steps within [-1, 1], without guidance.
    pub fn ddim(steps: usize, seed: u64) -> Self {
        Self { method: Method::Ddim, steps, clip: Clip::Unit, guidance: 1.0, learned_variance: false, seed }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// A count of steps that is none, guidance that is not finite, a quantile outside (0, 1] or a bound below 1.
    pub fn check(&self, diffusion: &Diffusion) -> Result<(), Failure> {
        diffusion.trailing(self.steps)?;
        if !self.guidance.is_finite() {
            return Err(Failure::new(format!("a guidance of {}: give a finite number, 1 for none", self.guidance)));
        }
        match self.clip {
            Clip::Dynamic { ratio, most } if !(ratio > 0.0 && ratio <= 1.0 && most >= 1.0) => {
                Err(Failure::new(format!(
                    "dynamic thresholding by the quantile {ratio} up to {most}: give a quantile above 0 and at most 1, and a bound of 1 or more"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Samples images of `shape`, the first of which is the sampler's number `first`: an image depends on the seed and its own number, not on its
/// batch. `network` is asked for x_t, the images' steps, and whether it is to ignore its condition.
///
/// # Errors
/// Settings that [`Sampler::check`] refuses, noise prediction with zero terminal SNR, the network's own.
pub fn sample<B: Backend>(
    diffusion: &Diffusion,
    prediction: Prediction,
    sampler: &Sampler,
    shape: [usize; 4],
    first: u64,
    device: &B::Device,
    mut network: impl FnMut(Tensor<B, 4>, &[usize], bool) -> Result<Tensor<B, 4>, Failure>,
) -> Result<Tensor<B, 4>, Failure> {
    sampler.check(diffusion)?;
    prediction.check(diffusion)?;
    let [batch, channels, ..] = shape;
    let timesteps = diffusion.trailing(sampler.steps)?;
    let process = diffusion.spaced(&timesteps);
    // Noise 0 is the start, and each step's is numbered by what it leads from.
    let mut x = noise(sampler.seed, 0, first, shape, device);
    for (i, &t) in timesteps.iter().enumerate() {
        let (asked, own) = (vec![t; batch], vec![timesteps.len() - 1 - i; batch]);
        let mut output = network(x.clone(), &asked, false)?;
        if sampler.guidance != 1.0 {
            let without = network(x.clone(), &asked, true)?;
            output = guided(output, without, sampler.guidance, channels);
        }
        let learned = match sampler.learned_variance {
            true => split(&process, output, channels, &own)?,
            false => {
                let log_variance = process.of(&own, |step| step.log_posterior, &output);
                Learned { predicted: output, log_variance }
            }
        };
        let epsilon = prediction.epsilon(&process, learned.predicted.clone(), x.clone(), &own);
        let x0 = clip(sampler.clip, prediction.x0(&process, learned.predicted, x.clone(), &own));
        x = match sampler.method {
            Method::Ddim => {
                let of_x0 = process.of(&own, |step| step.abar_before.sqrt(), &x0);
                let of_epsilon = process.of(&own, |step| (1.0 - step.abar_before).sqrt(), &x0);
                x0 * of_x0 + epsilon * of_epsilon
            }
            Method::Ddpm => {
                let mean = process.posterior_mean(x0, x, &own);
                if i + 1 == timesteps.len() {
                    return Ok(mean);
                }
                let z = noise(sampler.seed, 1 + t as u64, first, shape, device);
                mean + z * (learned.log_variance * 0.5).exp()
            }
        };
    }
    Ok(x)
}

/// The prediction away from the unconditional one; a learned variance stays the conditional one's.
fn guided<B: Backend>(with: Tensor<B, 4>, without: Tensor<B, 4>, scale: f64, channels: usize) -> Tensor<B, 4> {
    let outputs = with.dims()[1];
    let without = without.narrow(1, 0, channels);
    let moved = without.clone() + (with.clone().narrow(1, 0, channels) - without) * scale;
    match outputs > channels {
        true => Tensor::cat(vec![moved, with.narrow(1, channels, outputs - channels)], 1),
        false => moved,
    }
}

fn clip<B: Backend>(clip: Clip, x0: Tensor<B, 4>) -> Tensor<B, 4> {
    match clip {
        Clip::None => x0,
        Clip::Unit => x0.clamp(-1.0, 1.0),
        Clip::Dynamic { ratio, most } => {
            let [batch, channels, height, width] = x0.dims();
            let mut values = host(x0.clone());
            let scales: Vec<f32> = values
                .chunks_exact_mut((channels * height * width).max(1))
                .map(|image| quantile(image, ratio).clamp(1.0, most) as f32)
                .collect();
            let scale = constant(scales, [batch, 1, 1, 1], &x0);
            (x0 / scale).clamp(-1.0, 1.0)
        }
    }
}

/// The quantile of absolute values, between the two nearest in proportion; the values become them, in order.
fn quantile(values: &mut [f32], ratio: f64) -> f64 {
    values.iter_mut().for_each(|value| *value = value.abs());
    values.sort_unstable_by(f32::total_cmp);
    let place = ratio * values.len().saturating_sub(1) as f64;
    let at = |i: usize| values.get(i).or(values.last()).map_or(0.0, |&value| f64::from(value));
    let (low, part) = (at(place.floor() as usize), place.fract());
    low + (at(place.floor() as usize + 1) - low) * part
}

#[cfg(test)]
mod tests;
