//! The adaptive weight of the adversarial loss, by splitting the graph at the generator's last layer.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, backend::Backend};

/// Added to the adversarial gradient's length (Esser et al. 2021, equation 7, takes 1e-6; the code 1e-4).
const DELTA: f64 = 1e-4;

/// The most that the gradients' ratio counts (taming-transformers).
const LARGEST_RATIO: f64 = 1e4;

/// How much the adversarial loss counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GanWeight {
    /// This factor times the ratio of the gradients: see [`adaptive_weight`].
    Adaptive(f64),
    /// This factor alone.
    Fixed(f64),
}

/// VQGAN's weight of the adversarial loss (Esser et al. 2021, equation 7), from the lengths of the last layer's
/// gradients: `λ = factor · min(|∇ nll| / (|∇ gan| + 1e-4), 1e4)`.
pub fn adaptive_weight<B: Backend>(nll_norm: Tensor<B, 1>, gan_norm: Tensor<B, 1>, factor: f64) -> Tensor<B, 1> {
    (nll_norm / gan_norm.add_scalar(DELTA)).clamp_max(LARGEST_RATIO).mul_scalar(factor)
}

/// The adversarial part of [`split_backward`].
pub struct GanTerm<G> {
    /// Images to the generator's adversarial loss. Put a discriminator in it that has [`no_grad`](burn::module::Module::no_grad):
    /// else its own gradients are computed, and dropped.
    pub loss: G,
    /// How much it counts.
    pub weight: GanWeight,
}

/// What [`split_backward`] found. All without gradients of their own.
#[derive(Clone, Debug)]
pub struct SplitGradients<B: AutodiffBackend> {
    /// The gradient of `nll + λ gan` at the trunk's output.
    pub trunk: Tensor<B::InnerBackend, 4>,
    /// The gradient of `nll + λ gan` at the last layer's weight.
    pub weight: Tensor<B::InnerBackend, 4>,
    /// The gradient of `nll + λ gan` at the last layer's bias.
    pub bias: Tensor<B::InnerBackend, 1>,
    /// λ, `[1]`; `None` without an adversarial part.
    pub lambda: Option<Tensor<B::InnerBackend, 1>>,
    /// The reconstruction loss, `[1]`.
    pub nll: Tensor<B::InnerBackend, 1>,
    /// The generator's adversarial loss before its weight, `[1]`; `None` without an adversarial part.
    pub gan: Option<Tensor<B::InnerBackend, 1>>,
    /// The head's images.
    pub images: Tensor<B::InnerBackend, 4>,
}

impl<B: AutodiffBackend> SplitGradients<B> {
    /// A scalar whose gradient at `trunk`, the tensor that was split at, is that of `nll + λ gan`: add the losses that do not pass
    /// through the images, and go backward once. Its value means nothing.
    pub fn surrogate(&self, trunk: Tensor<B, 4>) -> Tensor<B, 1> {
        (trunk * Tensor::from_inner(self.trunk.clone())).sum()
    }
}

/// The gradients of `nll(x̂) + λ gan(x̂)`, with `x̂ = head(h, w, b)`, where λ depends on the gradients at `w`.
///
/// burn frees a graph when it goes backward, so the two losses' gradients cannot come from one graph, one after the
/// other. The graph is cut at the trunk's output `h` instead:
///
/// 1. `h`, `w`, `b` as leaves; `nll` of their head, backward;
/// 2. the same leaves anew; `gan` of their head, backward;
/// 3. λ from the two gradients at `w`;
/// 4. the sums of the gradients at `h`, `w` and `b`.
///
/// The caller then goes backward from [`SplitGradients::surrogate`] through trunk, quantizer and encoder, once, and registers the sums
/// of `w` and `b` with the other gradients (`GradientsParams::register`, by the parameters' ids). The result is that of
/// the combined loss, for less than three passes through the losses' networks.
///
/// Without `gan` (before the adversarial loss starts) there is one backward.
pub fn split_backward<B, H, N, G>(
    trunk: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Tensor<B, 1>,
    head: H,
    nll: N,
    gan: Option<GanTerm<G>>,
) -> SplitGradients<B>
where
    B: AutodiffBackend,
    H: Fn(Tensor<B, 4>, Tensor<B, 4>, Tensor<B, 1>) -> Tensor<B, 4>,
    N: FnOnce(Tensor<B, 4>) -> Tensor<B, 1>,
    G: FnOnce(Tensor<B, 4>) -> Tensor<B, 1>,
{
    let values = Leaves { trunk: trunk.inner(), weight: weight.inner(), bias: bias.inner() };
    let (of_nll, nll, images) = values.clone().backward(&head, nll);
    let Some(GanTerm { loss, weight }) = gan else {
        let Leaves { trunk, weight, bias } = of_nll;
        return SplitGradients { trunk, weight, bias, lambda: None, nll, gan: None, images };
    };
    let (of_gan, gan, _) = values.backward(&head, loss);
    let lambda = match weight {
        GanWeight::Adaptive(factor) => adaptive_weight(norm(&of_nll.weight), norm(&of_gan.weight), factor),
        GanWeight::Fixed(factor) => nll.full_like(factor),
    };
    SplitGradients {
        trunk: of_nll.trunk + of_gan.trunk * lambda.clone().reshape([1; 4]),
        weight: of_nll.weight + of_gan.weight * lambda.clone().reshape([1; 4]),
        bias: of_nll.bias + of_gan.bias * lambda.clone(),
        lambda: Some(lambda),
        nll,
        gan: Some(gan),
        images,
    }
}

/// The three tensors that the graph is cut at, or their gradients.
#[derive(Clone)]
struct Leaves<B: Backend> {
    trunk: Tensor<B, 4>,
    weight: Tensor<B, 4>,
    bias: Tensor<B, 1>,
}

impl<B: Backend> Leaves<B> {
    /// Gradients, loss and images of `loss(head(leaves))`.
    fn backward<T: AutodiffBackend<InnerBackend = B>>(
        self,
        head: impl Fn(Tensor<T, 4>, Tensor<T, 4>, Tensor<T, 1>) -> Tensor<T, 4>,
        loss: impl FnOnce(Tensor<T, 4>) -> Tensor<T, 1>,
    ) -> (Self, Tensor<B, 1>, Tensor<B, 4>) {
        let trunk = Tensor::from_inner(self.trunk).require_grad();
        let weight = Tensor::from_inner(self.weight).require_grad();
        let bias = Tensor::from_inner(self.bias).require_grad();
        let images = head(trunk.clone(), weight.clone(), bias.clone());
        let loss = loss(images.clone());
        let gradients = loss.backward();
        // A loss that does not depend on a leaf has no gradient there: 0.
        let gradients = Self {
            trunk: trunk.grad(&gradients).unwrap_or_else(|| trunk.inner().zeros_like()),
            weight: weight.grad(&gradients).unwrap_or_else(|| weight.inner().zeros_like()),
            bias: bias.grad(&gradients).unwrap_or_else(|| bias.inner().zeros_like()),
        };
        (gradients, loss.inner(), images.inner())
    }
}

/// The length of a tensor as one vector, `[1]`.
fn norm<B: Backend>(tensor: &Tensor<B, 4>) -> Tensor<B, 1> {
    tensor.clone().square().sum().sqrt()
}
