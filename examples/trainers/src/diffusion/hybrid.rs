//! A learned variance: L_hybrid (Nichol and Dhariwal 2021, section 3), the whole bound, and bits per dimension.
//!
//! The network's output is `[batch, 2·channels, height, width]`: the prediction, then `o` in about [-1, 1] with
//! `ln Σ = f ln β_t + (1 − f) ln β̃_t`, `f = (o + 1)/2` (there, eq. 15; improved-diffusion's `o` for the paper's `v`).

use core::f64::consts::{FRAC_2_PI, LN_2};

use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::schedule::{Diffusion, noise};
use super::target::{Noised, Objective, Prediction, per_image};
use crate::common::failure::Failure;
use crate::common::random::generator;
use crate::nets::norms::to;

/// Values of [-1, 1] lie on 256 levels; this is half the way from one to the next.
const HALF_LEVEL: f64 = 1.0 / 255.0;

/// Probabilities below are taken for this.
const LEAST: f64 = 1e-12;

/// A prediction and the logarithm of its variance, each `[batch, channels, height, width]`.
#[derive(Clone, Debug)]
pub struct Learned<B: Backend> {
    /// The network's prediction.
    pub predicted: Tensor<B, 4>,
    /// ln Σ.
    pub log_variance: Tensor<B, 4>,
}

/// Takes a network's `2·channels` apart.
///
/// # Errors
/// Where the output has not twice the image's channels.
pub fn split<B: Backend>(
    diffusion: &Diffusion,
    output: Tensor<B, 4>,
    channels: usize,
    t: &[usize],
) -> Result<Learned<B>, Failure> {
    let outputs = output.dims()[1];
    if outputs != 2 * channels {
        return Err(Failure::new(format!(
            "a learned variance takes {} output channels for {channels} of an image, the network has {outputs}",
            2 * channels
        )));
    }
    let share = output.clone().narrow(1, channels, channels).add_scalar(1.0).mul_scalar(0.5);
    let least = diffusion.of(t, |step| step.log_posterior, &share);
    let range = diffusion.of(t, |step| step.log_beta - step.log_posterior, &share);
    Ok(Learned { predicted: output.narrow(1, 0, channels), log_variance: share * range + least })
}

/// The variational bound's term of each image's step, in bits per dimension, `[batch, 1]` (Nichol and Dhariwal 2021, eqs. 4 to 7): the
/// divergence of q(x_{t−1} | x_t, x0) from the network's p, and at t = 0 the likelihood of the image's 256 levels.
///
/// Gradients reach what `learned` holds: detach `predicted` for L_hybrid's.
pub fn bound<B: Backend>(
    diffusion: &Diffusion,
    prediction: Prediction,
    learned: Learned<B>,
    noised: &Noised<B>,
) -> Tensor<B, 2> {
    let Noised { x0, xt, t, .. } = noised;
    let Learned { predicted, log_variance } = learned;
    let x0_predicted = prediction.x0(diffusion, predicted, xt.clone(), t);
    let mean = diffusion.posterior_mean(x0_predicted, xt.clone(), t);
    let kl = divergence(diffusion, mean.clone(), log_variance.clone(), noised);
    if t.iter().all(|&t| t > 0) {
        return kl;
    }
    let first: Vec<bool> = t.iter().map(|&t| t == 0).collect();
    let first = Tensor::<B, 2, Bool>::from_data(TensorData::new(first, [t.len(), 1]), &x0.device());
    kl.mask_where(first, per_image(likelihood(x0.clone(), mean, log_variance)).mul_scalar(-LN_2.recip()))
}

/// The two terms of L_hybrid, of each image, `[batch, 1]`.
#[derive(Clone, Debug)]
pub struct Hybrid<B: Backend> {
    /// The objective's own loss of the prediction.
    pub simple: Tensor<B, 2>,
    /// The bound's term in bits per dimension; its gradient in the prediction is zero.
    pub bound: Tensor<B, 2>,
}

/// L_hybrid = L_simple + λ L_vlb with λ = 1/T, so that the sum of both terms is the loss (Nichol and Dhariwal 2021, eq. 16, whose λ is 0.001): the
/// prediction learns from the first, the variance from the second.
///
/// # Errors
/// An output without a variance.
pub fn hybrid<B: Backend>(
    diffusion: &Diffusion,
    objective: &Objective,
    output: Tensor<B, 4>,
    noised: &Noised<B>,
) -> Result<Hybrid<B>, Failure> {
    let learned = split(diffusion, output, noised.x0.dims()[1], &noised.t)?;
    let simple = objective.loss(diffusion, learned.predicted.clone(), noised);
    let learned = Learned { predicted: learned.predicted.detach(), ..learned };
    Ok(Hybrid { simple, bound: bound(diffusion, objective.prediction, learned, noised) })
}

/// D_KL(N(μ̃, β̃) ‖ N(μ, Σ)) (Nichol and Dhariwal 2021, eq. 6; both diagonal).
fn divergence<B: Backend>(
    diffusion: &Diffusion,
    mean: Tensor<B, 4>,
    log_variance: Tensor<B, 4>,
    noised: &Noised<B>,
) -> Tensor<B, 2> {
    let Noised { x0, xt, t, .. } = noised;
    let difference = diffusion.posterior_mean(x0.clone(), xt.clone(), t) - mean;
    let log_true = diffusion.of(t, |step| step.log_posterior, x0);
    let ratio = log_variance.clone().neg() + log_true;
    let squared = difference.clone() * difference * log_variance.neg().exp();
    per_image(ratio.clone().exp() - ratio + squared).sub_scalar(1.0).mul_scalar(0.5 / LN_2)
}

/// ln of a normal distribution's share of the level that each value lies on; the outermost levels go on for ever (Ho et al. 2020, eq. 13).
fn likelihood<B: Backend>(x: Tensor<B, 4>, mean: Tensor<B, 4>, log_variance: Tensor<B, 4>) -> Tensor<B, 4> {
    let scale = log_variance.mul_scalar(-0.5).exp();
    let centred = x.clone() - mean;
    let above = cdf(centred.clone().add_scalar(HALF_LEVEL) * scale.clone());
    let below = cdf(centred.sub_scalar(HALF_LEVEL) * scale);
    let ln = |share: Tensor<B, 4>| share.clamp_min(LEAST).log();
    let (lowest, highest) = (x.clone().lower_elem(-0.999), x.greater_elem(0.999));
    ln(above.clone() - below.clone()).mask_where(lowest, ln(above)).mask_where(highest, ln(below.neg().add_scalar(1.0)))
}

/// The normal distribution's, about: (1 + tanh √(2/π) (x + 0.044715 x³)) / 2, as improved-diffusion has it.
fn cdf<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    // Far out the tangent is ±1 in any case, and a cube could overflow.
    let x = x.clamp(-1e6, 1e6);
    let cube = x.clone() * x.clone() * x.clone();
    (x + cube * 0.044_715).mul_scalar(FRAC_2_PI.sqrt()).tanh().add_scalar(1.0).mul_scalar(0.5)
}

/// How many bits per dimension images cost whole: every term of the bound and the prior.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bits {
    /// All of it.
    pub total: f64,
    /// The term of the first step, the levels' likelihood.
    pub first: f64,
    /// The other steps' divergences, summed over all steps.
    pub between: f64,
    /// The divergence of q(x_T | x0) from normal noise (Nichol and Dhariwal 2021, eq. 4's last).
    pub prior: f64,
}

/// The bound of images `x0`, a mean over them. The network is asked at the first step and once in each of `strata` equal parts of
/// the others, at a step drawn from the seed: as many strata as there are other steps is every step, fewer an estimate without bias.
///
/// # Errors
/// The network's, and an output without a variance.
pub fn bits_per_dim<B: Backend>(
    diffusion: &Diffusion,
    prediction: Prediction,
    x0: Tensor<B, 4>,
    strata: usize,
    seed: u64,
    mut network: impl FnMut(Tensor<B, 4>, &[usize]) -> Result<Tensor<B, 4>, Failure>,
) -> Result<Bits, Failure> {
    let shape = x0.dims();
    let mut term = |t: usize| -> Result<f64, Failure> {
        let noise = to(x0.dtype(), noise(seed, t as u64, 0, shape, &x0.device()));
        let noised = Noised::new(diffusion, x0.clone(), noise, vec![t; shape[0]]);
        let output = network(noised.xt.clone(), &noised.t)?;
        let learned = split(diffusion, output, shape[1], &noised.t)?;
        Ok(scalar(bound(diffusion, prediction, learned, &noised).mean()))
    };
    let first = term(0)?;
    let others = diffusion.len() - 1;
    let strata = strata.clamp(1, others.max(1));
    let mut between = 0.0;
    for stratum in 0..strata {
        let (from, to) = (stratum * others / strata, (stratum + 1) * others / strata);
        if to > from {
            let at = generator("bits", seed, stratum as u64, 0).below(to - from);
            between += term(1 + from + at)? * (to - from) as f64;
        }
    }
    let prior = prior_bits(diffusion, x0);
    Ok(Bits { total: first + between + prior, first, between, prior })
}

/// D_KL(q(x_T | x0) ‖ N(0, 1)) in bits per dimension, a mean over images.
fn prior_bits<B: Backend>(diffusion: &Diffusion, x0: Tensor<B, 4>) -> f64 {
    let abar = diffusion.step(usize::MAX).abar;
    let square = scalar((x0.clone() * x0).mean());
    // Mean √ᾱ x0, variance 1 − ᾱ.
    0.5 * (abar * square - abar - (-abar).ln_1p()) / LN_2
}

fn scalar<B: Backend>(x: Tensor<B, 1>) -> f64 {
    x.into_data().iter::<f64>().next().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests;
