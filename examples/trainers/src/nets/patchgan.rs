//! A discriminator of patches (Isola et al. 2017), as taming-transformers' `NLayerDiscriminator`.

mod tangent;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, PaddingConfig2d};
use burn::tensor::Tensor;
use burn::tensor::activation::leaky_relu;
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::cnn::COLOURS;
use super::macs::{Cost, Size};
use super::norms::batch_norm;
use crate::common::failure::Failure;

const KERNEL: usize = 4;
const SLOPE: f64 = 0.2;

/// Sizes of a patch discriminator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchConfig {
    /// Convolutions of stride 2; two of stride 1 follow.
    pub n_layers: usize,
    /// Channels of the first; each next one has twice as many, up to eight times.
    pub channels: usize,
}

impl PatchConfig {
    /// VQGAN's.
    pub fn vqgan() -> Self {
        Self { n_layers: 3, channels: 64 }
    }

    /// VQGAN-LC's.
    pub fn vqgan_lc() -> Self {
        Self { n_layers: 2, channels: 64 }
    }

    /// Checks that images of this height and width leave a logit.
    ///
    /// # Errors
    /// A setting of 0, or images that are too small, and what would do.
    pub fn check(&self, image_size: usize) -> Result<(), Failure> {
        if self.n_layers == 0 || self.channels == 0 {
            return Err(Failure::new(format!(
                "patch discriminator: {} layers of {} channels, expected at least 1 of each",
                self.n_layers, self.channels
            )));
        }
        let size = |side: usize, stride: usize| (side + 2).checked_sub(KERNEL).map_or(0, |rest| rest / stride + 1);
        let strided = (0..self.n_layers).fold(image_size, |side, _| size(side, 2));
        if strided == 0 || size(size(strided, 1), 1) == 0 {
            return Err(Failure::new(format!(
                "patch discriminator: {} layers leave nothing of {image_size} px: choose fewer layers, or larger images",
                self.n_layers
            )));
        }
        Ok(())
    }

    /// The discriminator; for sizes that [`check`](Self::check) accepts.
    pub fn init<B: Backend>(&self, device: &B::Device) -> PatchDiscriminator<B> {
        let width = |layer: usize| self.channels * (1_usize << layer.min(3));
        let mut convs = vec![conv(COLOURS, width(0), 2, true, device)];
        convs.extend((1..self.n_layers).map(|i| conv(width(i - 1), width(i), 2, false, device)));
        convs.push(conv(width(self.n_layers.saturating_sub(1)), width(self.n_layers), 1, false, device));
        convs.push(conv(width(self.n_layers), 1, 1, true, device));
        let norms = (1..=self.n_layers).map(|i| norm(width(i), device)).collect();
        PatchDiscriminator { convs, norms }
    }
}

/// Weights N(0, 0.02); a bias as PyTorch draws it, and none in front of a norm.
fn conv<B: Backend>(from: usize, to: usize, stride: usize, bias: bool, device: &B::Device) -> Conv2d<B> {
    let conv = Conv2dConfig::new([from, to], [KERNEL, KERNEL])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_bias(false)
        .with_initializer(Initializer::Normal { mean: 0.0, std: 0.02 })
        .init(device);
    let bound = ((from * KERNEL * KERNEL).max(1) as f64).sqrt().recip();
    let uniform = Initializer::Uniform { min: -bound, max: bound };
    Conv2d { bias: bias.then(|| uniform.init([to], device)), ..conv }
}

/// Scales N(1, 0.02), shifts zero.
fn norm<B: Backend>(channels: usize, device: &B::Device) -> BatchNorm<B> {
    let gamma = Initializer::Normal { mean: 1.0, std: 0.02 }.init([channels], device);
    BatchNorm { gamma, ..BatchNormConfig::new(channels).init(device) }
}

/// Says of each patch of an image whether it looks real.
///
/// `convs.0` is taming-transformers' `main.0`; `convs.i` and `norms.(i − 1)` are its `main.(3 i − 1)` and `main.(3 i)`.
#[derive(Module, Debug)]
pub struct PatchDiscriminator<B: Backend> {
    convs: Vec<Conv2d<B>>,
    norms: Vec<BatchNorm<B>>,
}

impl<B: Backend> PatchDiscriminator<B> {
    /// Logits `[batch, 1, h, w]` of images `[batch, 3, height, width]` in [-1, 1]: the higher, the more real.
    ///
    /// With gradients, the norms take the batch's own statistics and move the running ones; without, the running ones.
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let last = self.convs.len().saturating_sub(1);
        let mut x = images;
        for (i, conv) in self.convs.iter().enumerate() {
            x = conv.forward(x);
            if let Some(norm) = i.checked_sub(1).and_then(|i| self.norms.get(i)) {
                x = batch_norm(norm, x);
            }
            if i < last {
                x = leaky_relu(x, SLOPE);
            }
        }
        x
    }

    /// Adds what one image of `size` costs, and returns the size of its logits.
    pub fn cost(&self, mut size: Size, cost: &mut Cost) -> Size {
        for conv in &self.convs {
            size = cost.conv(conv, size);
        }
        for norm in &self.norms {
            cost.batch_norm(norm);
        }
        size
    }
}
