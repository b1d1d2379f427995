//! The R1 gradient penalty without second derivatives, which burn has not: by a derivative along a direction.

use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;

/// The R1 penalty and what it adds to a discriminator's gradients.
pub struct GradientPenalty<B: AutodiffBackend> {
    /// By parameter, the gradients of [`value`](Self::value).
    pub gradients: GradientsParams,
    /// The penalty, `[1]`.
    pub value: Tensor<B::InnerBackend, 1>,
}

/// The lazy R1 penalty of a discriminator on real images (Mescheder et al. 2018, equation 9; every `interval` steps and
/// `interval` times as strong: Karras et al. 2020, section 3.1) and its gradients at the discriminator's parameters:
///
/// `interval · γ/2 · mean over images of |g|²`, with `g = ∇ₓ S`, an image's own part of it, and `S` the sum of all logits.
///
/// `∇_θ ½|∇ₓ S|² = ∇_θ (∂/∂ε S(x + ε g))` with `g` held fixed, and a derivative along a direction needs no backward pass:
/// `derivative` computes it beside the network's values (forward mode), so that one backward pass from it gives the
/// gradients. They are those of a second derivative, exactly, also where images depend on each other, as by batch
/// normalization or a minibatch's deviation.
///
/// Differences of two gradients, `[∇_θ S(x + ε g) − ∇_θ S(x − ε g)] / 2ε`, are no substitute with leaky ReLUs: each unit that
/// switches in between adds a jump. Held against PyTorch's second derivative, the sum of them was three to twelve times as
/// long as the gradient and pointed elsewhere (cosine 0.1 to 0.3).
///
/// `forward` runs the discriminator on `[batch, 3, height, width]`; `derivative` takes the images and a direction for each.
pub fn r1<B, D, const R: usize>(
    discriminator: &D,
    forward: impl Fn(&D, Tensor<B, 4>) -> Tensor<B, R>,
    derivative: impl Fn(&D, Tensor<B, 4>, Tensor<B, 4>) -> Tensor<B, R>,
    real: Tensor<B, 4>,
    gamma: f64,
    interval: usize,
) -> GradientPenalty<B>
where
    B: AutodiffBackend,
    D: AutodiffModule<B>,
{
    let strength = gamma * interval as f64 / real.dims()[0] as f64;
    let (real, g) = slope(discriminator, forward, real);
    // S changes along g by |g|².
    let change = derivative(discriminator, Tensor::from_inner(real), Tensor::from_inner(g.clone())).sum();
    let gradients = change.mul_scalar(strength).backward();
    GradientPenalty {
        gradients: GradientsParams::from_grads(gradients, discriminator),
        value: g.square().sum().mul_scalar(0.5 * strength),
    }
}

/// The images, and the gradient of the sum of their logits at them.
fn slope<B, D, const R: usize>(
    discriminator: &D,
    forward: impl Fn(&D, Tensor<B, 4>) -> Tensor<B, R>,
    real: Tensor<B, 4>,
) -> (Tensor<B::InnerBackend, 4>, Tensor<B::InnerBackend, 4>)
where
    B: AutodiffBackend,
    D: AutodiffModule<B>,
{
    let leaf = Tensor::<B, 4>::from_inner(real.inner()).require_grad();
    let gradients = forward(&discriminator.clone().no_grad(), leaf.clone()).sum().backward();
    let gradient = leaf.grad(&gradients);
    let real = leaf.inner();
    let gradient = gradient.unwrap_or_else(|| real.zeros_like());
    (real, gradient)
}
