//! The convolutional encoder and decoder of VQGAN (Esser et al. 2021; taming-transformers' `Encoder` and `Decoder`).

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use serde::{Deserialize, Serialize};

use super::blocks::{Level, Middle, Style, Then, conv, norm};
use super::macs::{Cost, Size};
use super::norms::group_norm;
use super::{Decoder, Encoder};
use crate::common::failure::Failure;

/// Colours of an image.
pub(crate) const COLOURS: usize = 3;

/// Sizes of a convolutional encoder and decoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CnnConfig {
    /// Channels at full resolution.
    pub channels: usize,
    /// Channels of each resolution, as multiples of `channels`; the size is halved from one to the next.
    pub multipliers: Vec<usize>,
    /// Residual blocks of each resolution in the encoder; the decoder has one more.
    pub res_blocks: usize,
    /// Feature maps of these heights have attention behind each residual block, counted for `image_size`.
    pub attention_resolutions: Vec<usize>,
    /// Channels on both sides of the quantizer's 1×1 convolutions.
    pub z_channels: usize,
    /// Height and width of the images, pixels.
    pub image_size: usize,
}

impl CnnConfig {
    /// VQGAN's and VQGAN-LC's: 256 px to 16 × 16 tokens.
    pub fn f16() -> Self {
        Self {
            channels: 128,
            multipliers: vec![1, 1, 2, 2, 4],
            res_blocks: 2,
            attention_resolutions: vec![16],
            z_channels: 256,
            image_size: 256,
        }
    }

    /// VQGAN-LC's of factor 8: 256 px to 32 × 32 tokens; its one attention is in the middle.
    pub fn f8() -> Self {
        Self { multipliers: vec![1, 2, 2, 4], ..Self::f16() }
    }

    /// The first, for 512 px: 32 × 32 tokens.
    ///
    /// Fully convolutional: the attentions stay in the layers where a 256 px network has them.
    pub fn f16_512() -> Self {
        Self { image_size: 512, attention_resolutions: vec![32], ..Self::f16() }
    }

    /// Checks that images of `image_size` come out as whole tokens.
    ///
    /// # Errors
    /// The setting that is zero, or that does not divide, and what would do.
    pub fn check(&self) -> Result<(), Failure> {
        let sizes = [
            ("channels", self.channels),
            ("res_blocks", self.res_blocks),
            ("z_channels", self.z_channels),
            ("image_size", self.image_size),
            ("multipliers", self.multipliers.len()),
        ];
        for (name, size) in sizes {
            if size == 0 {
                return Err(Failure::new(format!("CNN: `{name}` is 0 or empty, expected at least 1")));
            }
        }
        // More is taken for a mistyped number: one such convolution takes 600 MB.
        const MOST: usize = 4096;
        let widest = self.multipliers.iter().map(|multiplier| self.channels.saturating_mul(*multiplier)).max();
        if self.z_channels > MOST || widest.is_some_and(|channels| channels > MOST) {
            return Err(Failure::new(format!("CNN: layers of more than {MOST} channels: choose fewer")));
        }
        if self.multipliers.contains(&0) {
            return Err(Failure::new(format!(
                "CNN: `multipliers` {:?} contain 0, expected at least 1",
                self.multipliers
            )));
        }
        if self.multipliers.len() > 16 {
            return Err(Failure::new(format!("CNN: {} resolutions, expected at most 16", self.multipliers.len())));
        }
        let factor = self.downsampling();
        if !self.image_size.is_multiple_of(factor) {
            return Err(Failure::new(format!(
                "CNN: images of {} px do not halve {} times: choose a multiple of {factor}, or fewer multipliers",
                self.image_size,
                self.multipliers.len() - 1
            )));
        }
        Ok(())
    }

    /// Pixels of an image's side to one token.
    pub fn downsampling(&self) -> usize {
        1 << self.multipliers.len().saturating_sub(1)
    }

    /// From images to latents of `dim` channels, one for each token.
    pub fn encoder<B: Backend>(&self, dim: usize, device: &B::Device) -> Encoder<B> {
        Encoder::Cnn(CnnEncoder::new(self, dim, device))
    }

    /// From latents of `dim` channels to images.
    pub fn decoder<B: Backend>(&self, dim: usize, device: &B::Device) -> Decoder<B> {
        Decoder::Cnn(CnnDecoder::new(self, dim, device))
    }

    /// Channels of the resolution `level`, 0 being the finest.
    fn width(&self, level: usize) -> usize {
        self.channels * self.multipliers.get(level).copied().unwrap_or(1)
    }

    fn attends(&self, level: usize) -> bool {
        self.attention_resolutions.contains(&(self.image_size >> level))
    }
}

/// The encoder, with the 1×1 convolution to the codes' width.
#[derive(Module, Debug)]
pub struct CnnEncoder<B: Backend> {
    conv_in: Conv2d<B>,
    down: Vec<Level<B>>,
    mid: Middle<B>,
    norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
    quant_conv: Conv2d<B>,
}

impl<B: Backend> CnnEncoder<B> {
    /// From images to `dim` channels.
    pub fn new(config: &CnnConfig, dim: usize, device: &B::Device) -> Self {
        let last = config.multipliers.len().saturating_sub(1);
        let down = |level: usize| {
            let (to, attends) = (config.width(level), config.attends(level));
            let from = if level == 0 { config.channels } else { config.width(level - 1) };
            let then = if level < last { Then::Down } else { Then::Stay };
            Level::new([from, to], config.res_blocks, attends, then, device)
        };
        let width = config.width(last);
        Self {
            conv_in: conv(COLOURS, config.channels, 3, device),
            down: (0..=last).map(down).collect(),
            mid: Middle::new(width, &Style::TAMING, device),
            norm_out: norm(width, Style::TAMING.epsilon, device),
            conv_out: conv(width, config.z_channels, 3, device),
            quant_conv: conv(config.z_channels, dim, 1, device),
        }
    }

    /// Latents `[batch, dim, h, w]` of images `[batch, 3, height, width]` in [-1, 1].
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let mut x = self.conv_in.forward(images);
        for down in &self.down {
            x = down.forward(x);
        }
        let x = silu(group_norm(&self.norm_out, self.mid.forward(x)));
        self.quant_conv.forward(self.conv_out.forward(x))
    }

    /// Adds what one image of `size` costs, and returns the size of its latents.
    pub fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        let mut size = cost.conv(&self.conv_in, size);
        for down in &self.down {
            size = down.cost(size, cost);
        }
        size = self.mid.cost(size, cost);
        cost.group_norm(&self.norm_out);
        size = cost.conv(&self.conv_out, size);
        cost.conv(&self.quant_conv, size)
    }
}

/// The decoder, with the 1×1 convolution from the codes' width.
#[derive(Module, Debug)]
pub struct CnnDecoder<B: Backend> {
    post_quant_conv: Conv2d<B>,
    conv_in: Conv2d<B>,
    mid: Middle<B>,
    /// The finest resolution first, as in taming-transformers; run in reverse.
    up: Vec<Level<B>>,
    norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
}

impl<B: Backend> CnnDecoder<B> {
    /// From `dim` channels to images.
    pub fn new(config: &CnnConfig, dim: usize, device: &B::Device) -> Self {
        let last = config.multipliers.len().saturating_sub(1);
        let up = |level: usize| {
            let (to, attends) = (config.width(level), config.attends(level));
            let from = config.width((level + 1).min(last));
            let then = if level > 0 { Then::Up } else { Then::Stay };
            Level::new([from, to], config.res_blocks + 1, attends, then, device)
        };
        let width = config.width(last);
        Self {
            post_quant_conv: conv(dim, config.z_channels, 1, device),
            conv_in: conv(config.z_channels, width, 3, device),
            mid: Middle::new(width, &Style::TAMING, device),
            up: (0..=last).map(up).collect(),
            norm_out: norm(config.width(0), Style::TAMING.epsilon, device),
            conv_out: conv(config.width(0), COLOURS, 3, device),
        }
    }

    /// All but the last layer: latents `[batch, dim, h, w]` to `[batch, channels, height, width]`.
    pub fn trunk(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.conv_in.forward(self.post_quant_conv.forward(latents));
        let mut x = self.mid.forward(x);
        for up in self.up.iter().rev() {
            x = up.forward(x);
        }
        silu(group_norm(&self.norm_out, x))
    }

    /// The last layer, a 3×3 convolution.
    pub fn last_layer(&self) -> &Conv2d<B> {
        &self.conv_out
    }

    /// Images from the trunk's output, by other values for the last layer's.
    pub fn head(&self, trunk: Tensor<B, 4>, weight: Tensor<B, 4>, bias: Tensor<B, 1>) -> Tensor<B, 4> {
        conv2d(trunk, weight, Some(bias), ConvOptions::new([1, 1], [1, 1], [1, 1], 1))
    }

    /// Adds what one image costs whose latents are of `size`, and returns the image's size.
    pub fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        let size = cost.conv(&self.post_quant_conv, size);
        let size = cost.conv(&self.conv_in, size);
        let mut size = self.mid.cost(size, cost);
        for up in self.up.iter().rev() {
            size = up.cost(size, cost);
        }
        cost.group_norm(&self.norm_out);
        cost.conv(&self.conv_out, size)
    }
}
