//! Losses of reconstructed labels, masks, feature maps and vectors; those of images are in [`reconstruction`](super::reconstruction).
//!
//! Maps are `[batch, channels, height, width]`; a vector is a map of one position. The losses are those of 4M's `run_training_vqvae.py`.

use burn::tensor::activation::log_sigmoid;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use crate::nets::norms::sums;

/// PyTorch's `cosine_similarity`: the least length that a vector is divided by.
const EPS: f64 = 1e-8;

/// Cross-entropy of labels `[batch, height, width]`, 0 to `classes − 1`, under logits `[batch, classes, height, width]`, in nats:
///
/// `mean (ln Σ_c exp l_c − l_label)`, over the positions whose label is not `ignore`; 0 where there is none.
///
/// The largest logit is subtracted first: no exponential overflows. Labels beyond the classes must not occur (burn's backends
/// panic or read elsewhere): loaders check them.
pub fn cross_entropy<B: Backend>(logits: Tensor<B, 4>, labels: Tensor<B, 3, Int>, ignore: Option<i64>) -> Tensor<B, 1> {
    let [batch, classes, height, width] = logits.dims();
    let (area, dtype, device) = (height * width, logits.dtype(), logits.device());
    let (logits, labels) = (logits.reshape([batch, classes, area]), labels.reshape([batch, 1, area]));
    // The classes stay where they are: to bring them last is two copies of the logits. Products with ones, as in `norms`.
    let ones = |shape: [usize; 3]| Tensor::<B, 3>::ones(shape, (&device, dtype));
    // Constants to the gradient, which does not depend on it.
    let largest = ones([1, classes, 1]).matmul(logits.clone().detach().max_dim(1));
    let logits = logits - largest;
    let total = ones([1, 1, classes]).matmul(logits.clone().exp()).log();
    let Some(ignore) = ignore else {
        return (total - logits.gather(1, labels)).mean();
    };
    let ignored = labels.clone().equal_elem(ignore);
    let counted = ignored.clone().bool_not().float().cast(dtype);
    let nll = total - logits.gather(1, labels.mask_fill(ignored, 0));
    (nll * counted.clone()).sum() / counted.sum().clamp_min(1.0)
}

/// Smooth L1 (Girshick 2015, equation 3), the mean over all values of `d²/2` where `|d| < 1`, else `|d| − ½`.
pub fn smooth_l1<B: Backend, const D: usize>(reconstruction: Tensor<B, D>, target: Tensor<B, D>) -> Tensor<B, 1> {
    let distance = (reconstruction - target).abs();
    let near = distance.clone().clamp_max(1.0);
    (near.clone() * (near * 0.5 - 1.0) + distance).mean()
}

/// `mean (1 − cos)` of the angle between the channels of each position: 4M's `cosine_1d`. Between zeros and anything cos is 0.
pub fn cosine<B: Backend>(reconstruction: Tensor<B, 4>, target: Tensor<B, 4>) -> Tensor<B, 1> {
    let [reconstruction, target] = [reconstruction, target].map(|map| {
        let [batch, channels, height, width] = map.dims();
        map.permute([0, 2, 3, 1]).reshape([batch * height * width, channels])
    });
    // The smallest square keeps the root's gradient finite at zeros, as PyTorch does.
    let length = |rows: Tensor<B, 2>| sums(rows.square()).clamp_min(EPS * EPS).sqrt();
    let dot = sums(reconstruction.clone() * target.clone());
    (dot / (length(reconstruction) * length(target))).mean().neg() + 1.0
}

/// Binary cross-entropy of targets in `0..=1` under logits of the same shape, in nats, the mean over all values:
///
/// `max(l, 0) − l t + ln(1 + e^−|l|)`, which no logit overflows.
pub fn binary_cross_entropy<B: Backend>(logits: Tensor<B, 4>, targets: Tensor<B, 4>) -> Tensor<B, 1> {
    // −t ln σ(l) − (1 − t) ln σ(−l), with ln σ(−l) = ln σ(l) − l.
    let positive = log_sigmoid(logits.clone());
    (logits.clone() - logits * targets - positive).mean()
}

/// What 4M calls binary cross-entropy: a cross-entropy that takes `σ(l)` and `1 − σ(l)` for logits, a softmax behind a sigmoid.
///
/// That is [`binary_cross_entropy`] of the logit `2 σ(l) − 1`: it never falls below `ln(1 + 1/e) ≈ 0.313`, where a logit is infinite. For comparison
/// with 4M only.
pub fn binary_cross_entropy_4m<B: Backend>(logits: Tensor<B, 4>, targets: Tensor<B, 4>) -> Tensor<B, 1> {
    binary_cross_entropy(burn::tensor::activation::sigmoid(logits) * 2.0 - 1.0, targets)
}

#[cfg(test)]
mod tests;
