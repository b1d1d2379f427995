//! Losses of a reconstruction, pixel by pixel. Images `[batch, 3, height, width]` in [-1, 1]; means over all values.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;
use burn::tensor::backend::Backend;

/// What keeps DALL-E's pixels off 0 and 1, where the logit is infinite (Ramesh et al. 2021, appendix A.3).
const LOGIT_LAPLACE_EPS: f64 = 0.1;

/// `mean |x̂ − x|`.
pub fn l1<B: Backend>(reconstruction: Tensor<B, 4>, target: Tensor<B, 4>) -> Tensor<B, 1> {
    (reconstruction - target).abs().mean()
}

/// `mean (x̂ − x)²`.
pub fn l2<B: Backend>(reconstruction: Tensor<B, 4>, target: Tensor<B, 4>) -> Tensor<B, 1> {
    (reconstruction - target).square().mean()
}

/// Negative log-likelihood under DALL-E's logit-Laplace distribution (Ramesh et al. 2021, equation 2), in nats a value:
///
/// `mean [ ln 2b + ln y(1 − y) + |logit y − μ| / b ]`, with `y = (1 − 2ε)(x + 1)/2 + ε` and `ε = 0.1`.
///
/// `location` is `μ` and `log_scale` is `ln b`, both of the target's shape: a decoder of six channels gives them.
/// [`logit_laplace_image`] is the image that belongs to `μ`.
pub fn logit_laplace_nll<B: Backend>(
    location: Tensor<B, 4>,
    log_scale: Tensor<B, 4>,
    target: Tensor<B, 4>,
) -> Tensor<B, 1> {
    let y = inside(target);
    let spread = (y.clone() * y.clone().neg().add_scalar(1.0)).log();
    let distance = (logit(y) - location).abs();
    (log_scale.clone() + spread + distance * log_scale.neg().exp()).mean().add_scalar(2_f64.ln())
}

/// The image that a location of [`logit_laplace_nll`] stands for: `y = sigmoid μ`, mapped back to [-1, 1] and clamped.
pub fn logit_laplace_image<B: Backend>(location: Tensor<B, 4>) -> Tensor<B, 4> {
    let y = log_sigmoid(location).exp();
    y.sub_scalar(0.5).mul_scalar(2.0 / (1.0 - 2.0 * LOGIT_LAPLACE_EPS)).clamp(-1.0, 1.0)
}

/// [`logit_laplace_nll`] of a decoder of three channels, with `μ = logit y(x̂)` and `b = 1`, as a term beside [`l2`]
/// (ViT-VQGAN weighs it by 0.1; Yu et al. 2022, section 3.3).
///
/// Outside [-1, 1], where `y(x̂)` would pass 0 or 1, `μ` goes on as its tangent does: such values are still pulled back.
pub fn logit_laplace<B: Backend>(reconstruction: Tensor<B, 4>, target: Tensor<B, 4>) -> Tensor<B, 1> {
    let eps = LOGIT_LAPLACE_EPS;
    let slope = 0.5 * (1.0 - 2.0 * eps) / (eps * (1.0 - eps));
    let clamped = reconstruction.clone().clamp(-1.0, 1.0);
    let outside = (reconstruction - clamped.clone()).mul_scalar(slope);
    let location = logit(inside(clamped)) + outside;
    let log_scale = location.zeros_like();
    logit_laplace_nll(location, log_scale, target)
}

/// [-1, 1] to [ε, 1 − ε].
fn inside<B: Backend>(images: Tensor<B, 4>) -> Tensor<B, 4> {
    images.mul_scalar(0.5 - LOGIT_LAPLACE_EPS).add_scalar(0.5)
}

fn logit<B: Backend>(y: Tensor<B, 4>) -> Tensor<B, 4> {
    y.clone().log() - y.neg().add_scalar(1.0).log()
}

#[cfg(test)]
mod tests;
