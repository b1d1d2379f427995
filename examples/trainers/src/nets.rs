//! Networks: encoders and decoders with convolutions, transformers or linear layers, codes that are seen by attention, and
//! discriminators.

pub mod bottleneck;
pub mod cnn;
pub mod convnext;
pub mod macs;
pub mod memcodes;
pub mod patchgan;
pub mod stylegan;
pub mod transformer;
pub mod unet;
pub mod vit;

mod blocks;
pub(crate) mod norms;
mod tangent;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::common::failure::Failure;
use cnn::{CnnConfig, CnnDecoder, CnnEncoder};
use macs::{Cost, Size};
use vit::{VitConfig, VitDecoder, VitEncoder};

/// From images to latents.
#[expect(clippy::large_enum_variant, reason = "there is one of each, and it is not moved in a loop")]
#[derive(Module, Debug)]
pub enum Encoder<B: Backend> {
    /// Convolutions.
    Cnn(CnnEncoder<B>),
    /// A transformer.
    Vit(VitEncoder<B>),
}

impl<B: Backend> Encoder<B> {
    /// Latents `[batch, dim, h, w]` of images `[batch, channels, height, width]`; of colour images in [-1, 1].
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        match self {
            Self::Cnn(net) => net.forward(images),
            Self::Vit(net) => net.forward(images),
        }
    }

    /// Adds what one image of `size` costs, and returns the size of its latents.
    pub fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        match self {
            Self::Cnn(net) => net.cost(size, cost),
            Self::Vit(net) => net.cost(size, cost),
        }
    }
}

/// From latents to images, the last layer apart.
///
/// The adaptive weight of VQGAN's adversarial loss (Esser et al. 2021, eq. 7) needs the gradient at the last layer alone:
/// [`head`](Self::head) takes that layer's values from outside, so they and the trunk's output can be leaves of their own.
#[expect(clippy::large_enum_variant, reason = "there is one of each, and it is not moved in a loop")]
#[derive(Module, Debug)]
pub enum Decoder<B: Backend> {
    /// Convolutions.
    Cnn(CnnDecoder<B>),
    /// A transformer.
    Vit(VitDecoder<B>),
}

impl<B: Backend> Decoder<B> {
    /// All but the last layer, from latents `[batch, dim, h, w]`.
    pub fn trunk(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        match self {
            Self::Cnn(net) => net.trunk(latents),
            Self::Vit(net) => net.trunk(latents),
        }
    }

    /// The last layer, a convolution.
    pub fn last_layer(&self) -> &Conv2d<B> {
        match self {
            Self::Cnn(net) => net.last_layer(),
            Self::Vit(net) => net.last_layer(),
        }
    }

    /// The last layer with other values: `[batch, channels, height, width]`, of colours about [-1, 1], from the trunk's output.
    pub fn head(&self, trunk: Tensor<B, 4>, weight: Tensor<B, 4>, bias: Tensor<B, 1>) -> Tensor<B, 4> {
        match self {
            Self::Cnn(net) => net.head(trunk, weight, bias),
            Self::Vit(net) => net.head(trunk, weight, bias),
        }
    }

    /// Images of latents.
    pub fn forward(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        let trunk = self.trunk(latents);
        let last = self.last_layer();
        let weight = last.weight.val();
        let bias = match &last.bias {
            Some(bias) => bias.val(),
            None => Tensor::zeros([weight.dims()[0]], (&weight.device(), weight.dtype())),
        };
        self.head(trunk, weight, bias)
    }

    /// Adds what one image costs whose latents are of `size`, and returns the image's size.
    pub fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        match self {
            Self::Cnn(net) => net.cost(size, cost),
            Self::Vit(net) => net.cost(size, cost),
        }
    }
}

/// An encoder and its decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backbone {
    /// Convolutions.
    Cnn(CnnConfig),
    /// Transformers, which may differ in all but image and patch.
    Vit {
        /// From images to latents.
        encoder: VitConfig,
        /// From latents to images.
        decoder: VitConfig,
    },
}

impl Backbone {
    /// The same transformer twice.
    pub fn vit(config: VitConfig) -> Self {
        Self::Vit { encoder: config.clone(), decoder: config }
    }

    /// Checks all sizes.
    ///
    /// # Errors
    /// The setting that does not fit, and what would do.
    pub fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Cnn(config) => config.check(),
            Self::Vit { encoder, decoder } => {
                encoder.check()?;
                decoder.check()?;
                if (encoder.image_size, encoder.patch) == (decoder.image_size, decoder.patch) {
                    return Ok(());
                }
                Err(Failure::new(format!(
                    "ViT: the encoder has {} px in patches of {}, the decoder {} px in patches of {}: make them equal",
                    encoder.image_size, encoder.patch, decoder.image_size, decoder.patch
                )))
            }
        }
    }

    /// From images to latents of `dim` channels; for sizes that [`check`](Self::check) accepts.
    pub fn encoder<B: Backend>(&self, dim: usize, device: &B::Device) -> Encoder<B> {
        match self {
            Self::Cnn(config) => config.encoder(dim, device),
            Self::Vit { encoder, .. } => encoder.encoder(dim, device),
        }
    }

    /// From latents of `dim` channels to images; for sizes that [`check`](Self::check) accepts.
    pub fn decoder<B: Backend>(&self, dim: usize, device: &B::Device) -> Decoder<B> {
        match self {
            Self::Cnn(config) => config.decoder(dim, device),
            Self::Vit { decoder, .. } => decoder.decoder(dim, device),
        }
    }

    /// Height and width of the images, pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Cnn(config) => config.image_size,
            Self::Vit { encoder, .. } => encoder.image_size,
        }
    }

    /// Pixels of an image's side to one token.
    pub fn downsampling(&self) -> usize {
        match self {
            Self::Cnn(config) => config.downsampling(),
            Self::Vit { encoder, .. } => encoder.downsampling(),
        }
    }

    /// Tokens of an image's side; their square is an image's.
    pub fn grid(&self) -> usize {
        self.image_size() / self.downsampling().max(1)
    }
}

/// Latents `[batch, dim, h, w]` as rows `[batch · h · w, dim]`, in raster order, and their grid `[batch, h, w]`.
pub fn as_rows<B: Backend>(latents: Tensor<B, 4>) -> (Tensor<B, 2>, [usize; 3]) {
    let [batch, dim, height, width] = latents.dims();
    (latents.permute([0, 2, 3, 1]).reshape([batch * height * width, dim]), [batch, height, width])
}

/// Rows `[batch · h · w, dim]` as `[batch, dim, h, w]`.
pub fn as_grid<B: Backend>(rows: Tensor<B, 2>, [batch, height, width]: [usize; 3]) -> Tensor<B, 4> {
    let [_, dim] = rows.dims();
    rows.reshape([batch, height, width, dim]).permute([0, 3, 1, 2])
}

/// A tensor of the same type and on the same device as `like`, not of its graph.
pub(crate) fn constant<B: Backend, const D: usize, const L: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    like: &Tensor<B, L>,
) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values, shape), (&like.device(), like.dtype()))
}
