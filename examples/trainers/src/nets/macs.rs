//! What a network costs: its parameters, and the multiplications and additions of one image.
//!
//! The counts are of the module itself: each layer adds its own, from the shapes of its weights and the size of the
//! feature map that reaches it. Nothing is computed, and no weight is drawn.

use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, GroupNorm, Linear, PaddingConfig2d};
use burn::tensor::backend::Backend;
use serde::Serialize;

use super::norms::LayerNorm;

pub mod table;

/// Height and width of a feature map, or of an image.
pub type Size = [usize; 2];

/// Parameters, and multiply-accumulates of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Parameters of all layers but the normalizing ones.
    pub weights: u64,
    /// Scales and shifts of normalizing layers.
    pub norms: u64,
    /// Multiply-accumulates of convolutions: what the published tables count.
    pub conv_macs: u64,
    /// Of layers that take one token at a time.
    pub linear_macs: u64,
    /// Of attention's two products, scores and weighted values.
    pub attention_macs: u64,
    /// Of filters without parameters.
    pub filter_macs: u64,
}

impl Cost {
    /// All parameters.
    pub fn parameters(&self) -> u64 {
        self.weights + self.norms
    }

    /// All multiply-accumulates that are counted; norms, activations and sums are not.
    pub fn macs(&self) -> u64 {
        self.conv_macs + self.linear_macs + self.attention_macs + self.filter_macs
    }

    /// A convolution over a map of `size`; returns the size of its result.
    pub(super) fn conv<B: Backend>(&mut self, conv: &Conv2d<B>, [height, width]: Size) -> Size {
        let [y, x] = conv.stride;
        let out = match conv.padding {
            PaddingConfig2d::Same => [height.div_ceil(y), width.div_ceil(x)],
            PaddingConfig2d::Valid => self::out([height, width], conv.kernel_size, conv.stride),
            PaddingConfig2d::Explicit(top, left, bottom, right) => {
                self::out([height + top + bottom, width + left + right], conv.kernel_size, conv.stride)
            }
        };
        self.conv_to(conv, out);
        out
    }

    /// A convolution whose result is of size `out`.
    pub(super) fn conv_to<B: Backend>(&mut self, conv: &Conv2d<B>, out: Size) {
        let bias = conv.bias.as_ref().map_or(0, |bias| bias.lazy_shape().num_elements());
        self.kernel(conv.weight.lazy_shape().num_elements(), bias, out);
    }

    /// A convolution of so many weights, whose result is of size `out`.
    pub(super) fn kernel(&mut self, weights: usize, bias: usize, out: Size) {
        self.weights += (weights + bias) as u64;
        self.conv_macs += weights as u64 * area(out);
    }

    /// A linear layer over so many tokens.
    pub(super) fn linear<B: Backend>(&mut self, linear: &Linear<B>, tokens: u64) {
        let weights = linear.weight.lazy_shape().num_elements() as u64;
        let bias = linear.bias.as_ref().map_or(0, |bias| bias.lazy_shape().num_elements());
        self.weights += weights + bias as u64;
        self.linear_macs += weights * tokens;
    }

    /// Attention of all tokens of a map to all of them, over `channels` in all heads together.
    pub(super) fn attention(&mut self, size: Size, channels: usize) {
        self.attention_macs += 2 * area(size).pow(2) * channels as u64;
    }

    pub(super) fn group_norm<B: Backend>(&mut self, norm: &GroupNorm<B>) {
        let values = |row: &Option<_>| row.as_ref().map_or(0, |_| norm.num_channels);
        self.norms += (values(&norm.gamma) + values(&norm.beta)) as u64;
    }

    pub(super) fn batch_norm<B: Backend>(&mut self, norm: &BatchNorm<B>) {
        self.norms += (norm.gamma.lazy_shape().num_elements() + norm.beta.lazy_shape().num_elements()) as u64;
    }

    pub(super) fn layer_norm<B: Backend>(&mut self, norm: &LayerNorm<B>) {
        self.norms += (norm.gamma.lazy_shape().num_elements() + norm.beta.lazy_shape().num_elements()) as u64;
    }
}

/// The size of a convolution's result over a padded map.
fn out(padded: Size, kernel: [usize; 2], stride: [usize; 2]) -> Size {
    core::array::from_fn(|i| padded[i].checked_sub(kernel[i]).map_or(0, |rest| rest / stride[i] + 1))
}

/// Positions of a map.
pub(super) fn area([height, width]: Size) -> u64 {
    height as u64 * width as u64
}
