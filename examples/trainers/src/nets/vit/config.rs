//! A transformer's sizes and variants.

use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::{VitDecoder, VitEncoder};
use crate::common::failure::Failure;
use crate::nets::cnn::COLOURS;
use crate::nets::transformer::Activation;
use crate::nets::{Decoder, Encoder};

/// Sizes and variants of a transformer over the patches of an image or of a map of features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Height and width of the images, pixels; of a map of features, positions.
    pub image_size: usize,
    /// Height and width of a patch, which becomes a token; 1 for a map of features, whose positions are tokens already.
    pub patch: usize,
    /// Channels that an encoder reads or a decoder writes: 3 of colour images.
    #[serde(default = "colours")]
    pub channels: usize,
    /// Channels of a token.
    pub dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Channels of a head; times `heads` they need not be `dim`.
    pub head_dim: usize,
    /// Hidden channels of the MLPs, as a multiple of `dim`.
    pub mlp_ratio: usize,
    /// The blocks' activation.
    pub activation: Activation,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Added to the norms' variance.
    pub norm_eps: f64,
    /// Whether a norm follows the blocks.
    pub final_norm: bool,
    /// Whether `x + mlp(norm(x))` with tanh follows the blocks.
    pub post_mlp: bool,
    /// Convolutions behind a decoder's patches; encoders have none.
    #[serde(default)]
    pub out_conv: Option<OutConv>,
}

/// What smooths the seams of a decoder's patches: ConvNeXt blocks at full resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutConv {
    /// Blocks; 4M has two.
    pub blocks: usize,
    /// Channels that the patches have meanwhile; where these are not the decoder's own, a 1×1 convolution follows.
    ///
    /// 4M's are the decoder's own. With the one channel of a mask that does nothing: a norm over one channel leaves its shift,
    /// and the block adds a constant. Wider patches learn.
    pub width: usize,
}

impl OutConv {
    /// 4M's two blocks, of a decoder of so many channels.
    pub fn four_m(channels: usize) -> Self {
        Self { blocks: 2, width: channels }
    }
}

/// The channels of configurations that were written before they could differ.
fn colours() -> usize {
    COLOURS
}

impl VitConfig {
    /// 4M's kind of transformer, of any size: bias, GELU, no norm at the end but an MLP with tanh.
    pub fn new(image_size: usize, patch: usize, dim: usize, depth: usize, heads: usize) -> Self {
        Self {
            image_size,
            patch,
            channels: COLOURS,
            dim,
            depth,
            heads,
            head_dim: dim / heads.max(1),
            mlp_ratio: 4,
            activation: Activation::Gelu,
            qkv_bias: true,
            norm_eps: 1e-6,
            final_norm: false,
            post_mlp: true,
            out_conv: None,
        }
    }

    /// 4M's kind over a map of features `[channels, grid, grid]`: each position is a token, by a 1×1 convolution.
    pub fn feature_map(channels: usize, grid: usize, dim: usize, depth: usize, heads: usize) -> Self {
        Self::new(grid, 1, dim, depth, heads).with_channels(channels)
    }

    /// The same with other channels.
    pub fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// 4M's ViT-B of patches of 16: 224 px to 14 × 14 tokens.
    pub fn vit_b() -> Self {
        Self::new(224, 16, 768, 12, 12)
    }

    /// ViT-VQGAN's kind, as in enhancing-transformers: heads of 64, no bias, tanh, a norm at the end, patches of 8 of 256 px.
    ///
    /// There the way back to pixels has one bias for each colour, here one for each value of a patch; and of a token's
    /// channels the first half tells the row, there the column.
    pub fn vit_vqgan(dim: usize, depth: usize, heads: usize) -> Self {
        Self {
            head_dim: 64,
            activation: Activation::Tanh,
            qkv_bias: false,
            norm_eps: 1e-5,
            final_norm: true,
            post_mlp: false,
            ..Self::new(256, 8, dim, depth, heads)
        }
    }

    /// Checks that images of `image_size` are whole patches and that the channels can tell rows from columns.
    ///
    /// # Errors
    /// The setting that does not fit, and what would do.
    pub fn check(&self) -> Result<(), Failure> {
        let Self { image_size, patch, dim, heads, head_dim, .. } = *self;
        let out_conv = self.out_conv.unwrap_or(OutConv { blocks: 1, width: 1 });
        let sizes = [
            ("image_size", image_size),
            ("patch", patch),
            ("channels", self.channels),
            ("out_conv.blocks", out_conv.blocks),
            ("out_conv.width", out_conv.width),
            ("dim", dim),
            ("depth", self.depth),
            ("heads", heads),
            ("head_dim", head_dim),
            ("mlp_ratio", self.mlp_ratio),
        ];
        for (name, size) in sizes {
            if size == 0 {
                return Err(Failure::new(format!("ViT: `{name}` is 0, expected at least 1")));
            }
        }
        if !image_size.is_multiple_of(patch) {
            return Err(Failure::new(format!(
                "ViT: images of {image_size} px are not whole patches of {patch} px: choose a multiple of {patch}"
            )));
        }
        if !dim.is_multiple_of(4) {
            return Err(Failure::new(format!(
                "ViT: {dim} channels cannot hold sines and cosines of rows and of columns: choose a multiple of 4"
            )));
        }
        if self.norm_eps.is_nan() || self.norm_eps <= 0.0 {
            return Err(Failure::new(format!("ViT: `norm_eps` is {}, expected a positive number", self.norm_eps)));
        }
        Ok(())
    }

    /// Pixels of an image's side to one token.
    pub fn downsampling(&self) -> usize {
        self.patch
    }

    /// From images `[batch, channels, height, width]` to latents of `dim` channels, one for each token.
    pub fn encoder<B: Backend>(&self, dim: usize, device: &B::Device) -> Encoder<B> {
        Encoder::Vit(VitEncoder::new(self, dim, device))
    }

    /// From latents of `dim` channels to images `[batch, channels, height, width]`.
    pub fn decoder<B: Backend>(&self, dim: usize, device: &B::Device) -> Decoder<B> {
        Decoder::Vit(VitDecoder::new(self, dim, device))
    }

    /// Tokens of an image's side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch.max(1)
    }
}
