//! What the network predicts, what that says of the image and of the noise, and the loss.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::schedule::{Diffusion, Step};
use crate::common::failure::Failure;
use crate::nets::norms::sums;

/// What the network predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The clean image x0: 4M's.
    Sample,
    /// The noise n (Ho et al. 2020, eq. 14): DiVAE's.
    Epsilon,
    /// v = √ᾱ n − √(1 − ᾱ) x0 (Salimans and Ho 2022, section 4).
    V,
}

impl Prediction {
    /// Refuses noise prediction where the last step is noise alone: x0 would be divided by 0.
    ///
    /// # Errors
    /// That, and what to take.
    pub fn check(self, diffusion: &Diffusion) -> Result<(), Failure> {
        if self == Self::Epsilon && diffusion.ends_in_noise() {
            return Err(Failure::new(
                "a network that predicts the noise says nothing of the image at a last step of pure noise: predict sample or v, \
                 or do without zero terminal SNR",
            ));
        }
        Ok(())
    }

    /// What a perfect network would return.
    pub fn target<B: Backend>(
        self,
        diffusion: &Diffusion,
        x0: Tensor<B, 4>,
        noise: Tensor<B, 4>,
        t: &[usize],
    ) -> Tensor<B, 4> {
        match self {
            Self::Sample => x0,
            Self::Epsilon => noise,
            Self::V => {
                let (signal, spread) = (diffusion.of(t, signal, &x0), diffusion.of(t, spread, &x0));
                noise * signal - x0 * spread
            }
        }
    }

    /// The clean image of a prediction at x_t.
    pub fn x0<B: Backend>(
        self,
        diffusion: &Diffusion,
        predicted: Tensor<B, 4>,
        xt: Tensor<B, 4>,
        t: &[usize],
    ) -> Tensor<B, 4> {
        match self {
            Self::Sample => predicted,
            Self::Epsilon => {
                let of_xt = diffusion.of(t, |step| signal(step).recip(), &xt);
                let of_noise = diffusion.of(t, |step| spread(step) / signal(step), &xt);
                xt * of_xt - predicted * of_noise
            }
            Self::V => {
                let (signal, spread) = (diffusion.of(t, signal, &xt), diffusion.of(t, spread, &xt));
                xt * signal - predicted * spread
            }
        }
    }

    /// The noise of a prediction at x_t.
    pub fn epsilon<B: Backend>(
        self,
        diffusion: &Diffusion,
        predicted: Tensor<B, 4>,
        xt: Tensor<B, 4>,
        t: &[usize],
    ) -> Tensor<B, 4> {
        match self {
            Self::Sample => {
                let of_xt = diffusion.of(t, |step| spread(step).recip(), &xt);
                let of_x0 = diffusion.of(t, |step| signal(step) / spread(step), &xt);
                xt * of_xt - predicted * of_x0
            }
            Self::Epsilon => predicted,
            Self::V => {
                let (signal, spread) = (diffusion.of(t, signal, &xt), diffusion.of(t, spread, &xt));
                xt * spread + predicted * signal
            }
        }
    }
}

fn signal(step: &Step) -> f64 {
    step.abar.sqrt()
}

fn spread(step: &Step) -> f64 {
    (1.0 - step.abar).sqrt()
}

/// How a difference becomes a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Its square.
    Mse,
    /// Its size.
    L1,
    /// Half its square below 1, its size less one half above (Girshick 2015, eq. 3): 4M's for depth and edges.
    SmoothL1,
}

impl Form {
    fn of<B: Backend>(self, difference: Tensor<B, 4>) -> Tensor<B, 4> {
        match self {
            Self::Mse => difference.clone() * difference,
            Self::L1 => difference.abs(),
            Self::SmoothL1 => {
                let size = difference.abs();
                // With m = min(|d|, 1): m²/2 + (|d| − m) is both branches.
                let inner = size.clone().clamp_max(1.0);
                inner.clone() * inner.clone() * 0.5 + (size - inner)
            }
        }
    }
}

/// What the loss of an image is multiplied by, by the signal-to-noise ratio of its step; for networks that predict x0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// Nothing: 4M.
    None,
    /// √SNR (patch diffusion: Luhman and Luhman 2022).
    SqrtSnr,
    /// SNR: the loss of the noise (Salimans and Ho 2022, eq. 9).
    Snr,
    /// SNR + 1: the loss of v (there, eq. 11).
    SnrPlusOne,
    /// max(SNR, 1) (there, eq. 10).
    Truncated,
}

impl Weight {
    fn of(self, step: &Step) -> f64 {
        match self {
            Self::None => 1.0,
            Self::SqrtSnr => step.snr().sqrt(),
            Self::Snr => step.snr(),
            Self::SnrPlusOne => step.snr() + 1.0,
            Self::Truncated => step.snr().max(1.0),
        }
    }
}

/// A network's prediction and its loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objective {
    /// What the network predicts.
    pub prediction: Prediction,
    /// How a difference becomes a loss.
    pub form: Form,
    /// What it is multiplied by.
    pub weight: Weight,
    /// Whether a predicted v is turned into noise first, and the noise compared (4M's `v_prediction-epsilon_loss`).
    pub epsilon_loss: bool,
}

impl Objective {
    /// 4M's for images: the mean squared error of the clean image.
    pub fn sample() -> Self {
        Self { prediction: Prediction::Sample, form: Form::Mse, weight: Weight::None, epsilon_loss: false }
    }

    /// Checks what fits together.
    ///
    /// # Errors
    /// Noise prediction with zero terminal SNR, weights for anything but x0, the noise's loss for anything but v.
    pub fn check(&self, diffusion: &Diffusion) -> Result<(), Failure> {
        self.prediction.check(diffusion)?;
        if self.weight != Weight::None && self.prediction != Prediction::Sample {
            return Err(Failure::new(
                "weights by the signal-to-noise ratio are for networks that predict the sample: take that, or no weight",
            ));
        }
        if self.epsilon_loss && self.prediction != Prediction::V {
            return Err(Failure::new(
                "the loss of the noise in place of the prediction's is for networks that predict v: take that, or leave it out",
            ));
        }
        Ok(())
    }

    /// The loss of each image, `[batch, 1]`: the weighted mean over its values of the difference between the prediction at
    /// x_t and its target.
    pub fn loss<B: Backend>(&self, diffusion: &Diffusion, predicted: Tensor<B, 4>, noised: &Noised<B>) -> Tensor<B, 2> {
        let Noised { x0, noise, xt, t } = noised;
        let difference = if self.epsilon_loss {
            self.prediction.epsilon(diffusion, predicted, xt.clone(), t) - noise.clone()
        } else {
            predicted - self.prediction.target(diffusion, x0.clone(), noise.clone(), t)
        };
        let loss = per_image(self.form.of(difference));
        match self.weight {
            Weight::None => loss,
            weight => loss * diffusion.of(t, |step| weight.of(step), x0).reshape([t.len(), 1]),
        }
    }
}

/// Images on their way to noise.
#[derive(Clone, Debug)]
pub struct Noised<B: Backend> {
    /// The clean images.
    pub x0: Tensor<B, 4>,
    /// The noise.
    pub noise: Tensor<B, 4>,
    /// Both together, each image at its step.
    pub xt: Tensor<B, 4>,
    /// The steps.
    pub t: Vec<usize>,
}

impl<B: Backend> Noised<B> {
    /// Noises images; `t` has one step for each.
    pub fn new(diffusion: &Diffusion, x0: Tensor<B, 4>, noise: Tensor<B, 4>, t: Vec<usize>) -> Self {
        let xt = diffusion.add_noise(x0.clone(), noise.clone(), &t);
        Self { x0, noise, xt, t }
    }
}

/// Each image's mean, `[batch, 1]`.
pub(super) fn per_image<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 2> {
    let [batch, channels, height, width] = x.dims();
    let count = channels * height * width;
    sums(x.reshape([batch, count])) / count as f64
}

#[cfg(test)]
mod tests;
