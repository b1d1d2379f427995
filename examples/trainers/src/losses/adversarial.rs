//! Adversarial losses, the adaptive weight, and the gradient penalty.
//!
//! Logits of any rank: one an image, or one a patch; losses are means over all of them.

mod penalty;
mod split;

use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, relu};
use burn::tensor::backend::Backend;

pub use penalty::{GradientPenalty, r1};
pub use split::{GanTerm, GanWeight, SplitGradients, adaptive_weight, split_backward};

/// Hinge loss of a discriminator (Lim and Ye 2017): `½ [mean max(0, 1 − D(x)) + mean max(0, 1 + D(x̂))]`.
///
/// The ½ is VQGAN's (Esser et al. 2021, taming-transformers).
pub fn hinge_d<B: Backend, const D: usize>(real: Tensor<B, D>, fake: Tensor<B, D>) -> Tensor<B, 1> {
    (relu(real.neg().add_scalar(1.0)).mean() + relu(fake.add_scalar(1.0)).mean()).mul_scalar(0.5)
}

/// Hinge loss of a generator: `−mean D(x̂)`.
pub fn hinge_g<B: Backend, const D: usize>(fake: Tensor<B, D>) -> Tensor<B, 1> {
    fake.mean().neg()
}

/// The original loss of a discriminator (Goodfellow et al. 2014, equation 1): `½ [mean s(−D(x)) + mean s(D(x̂))]`, with
/// the softplus `s(t) = ln(1 + eᵗ)`.
///
/// The ½ is VQGAN's, as in [`hinge_d`].
pub fn softplus_d<B: Backend, const D: usize>(real: Tensor<B, D>, fake: Tensor<B, D>) -> Tensor<B, 1> {
    (softplus(real.neg()).mean() + softplus(fake).mean()).mul_scalar(0.5)
}

/// The original, non-saturating loss of a generator (Goodfellow et al. 2014, section 3): `mean s(−D(x̂))`.
pub fn softplus_g<B: Backend, const D: usize>(fake: Tensor<B, D>) -> Tensor<B, 1> {
    softplus(fake.neg()).mean()
}

/// `ln(1 + eᵗ)` without overflow: burn's own softplus takes the exponential of any `t`.
fn softplus<B: Backend, const D: usize>(t: Tensor<B, D>) -> Tensor<B, D> {
    log_sigmoid(t.neg()).neg()
}

#[cfg(test)]
mod tests;
