//! Encoder and decoder, and the layout of tokens between them.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::config::{Adversary, Config, Judge};
use crate::nets::patchgan::PatchDiscriminator;
use crate::nets::stylegan::StyleDiscriminator;
use crate::nets::{Decoder, Encoder, as_grid, as_rows};
use crate::params::settle;

/// What the optimizer of the generator's side trains; the codes are the quantizer's own.
#[derive(Module, Debug)]
pub struct Autoencoder<B: Backend> {
    /// From images to latents.
    pub encoder: Encoder<B>,
    /// From quantized latents to images.
    pub decoder: Decoder<B>,
}

/// Streams of initial values, so that no two networks start alike.
const AUTOENCODER: u64 = 0x61;
const DISCRIMINATOR: u64 = 0x64;

impl<B: Backend> Autoencoder<B> {
    /// With initial values of the configuration's seed.
    pub fn new(config: &Config, device: &B::Device) -> Self {
        let (backbone, dim) = (&config.backbone, config.codes.dim);
        let module = Self { encoder: backbone.encoder(dim, device), decoder: backbone.decoder(dim, device) };
        settle(module, config.settings.seed ^ AUTOENCODER)
    }

    /// Latents of images as rows `[batch · h · w, dim]`, in raster order, and their grid `[batch, h, w]`.
    pub fn rows(&self, images: Tensor<B, 4>) -> (Tensor<B, 2>, [usize; 3]) {
        as_rows(self.encoder.forward(images))
    }

    /// Images of rows, which are [`rows`](Self::rows)' layout.
    pub fn images(&self, rows: Tensor<B, 2>, grid: [usize; 3]) -> Tensor<B, 4> {
        self.decoder.forward(as_grid(rows, grid))
    }
}

/// The network that tells images from reconstructions.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of them")]
pub enum Discriminator<B: Backend> {
    /// PatchGAN.
    Patch(PatchDiscriminator<B>),
    /// StyleGAN2's.
    Style(StyleDiscriminator<B>),
}

impl<B: Backend> Discriminator<B> {
    /// With initial values of the configuration's seed.
    pub fn new(config: &Config, adversary: &Adversary, device: &B::Device) -> Self {
        let module = match &adversary.judge {
            Judge::Patch(net) => Self::Patch(net.init(device)),
            Judge::Style(net) => Self::Style(net.init(device)),
        };
        settle(module, config.settings.seed ^ DISCRIMINATOR)
    }

    /// Logits of images `[batch, 3, height, width]` in [-1, 1]: one for each patch, or one for each image; `[n]`.
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 1> {
        match self {
            Self::Patch(net) => net.forward(images).reshape([-1]),
            Self::Style(net) => net.forward(images).reshape([-1]),
        }
    }

    /// The derivative of [`forward`](Self::forward)'s logits along `direction`, a change of the images.
    pub fn derivative(&self, images: Tensor<B, 4>, direction: Tensor<B, 4>) -> Tensor<B, 1> {
        match self {
            Self::Patch(net) => net.derivative(images, direction).reshape([-1]),
            Self::Style(net) => net.derivative(images, direction).reshape([-1]),
        }
    }
}
