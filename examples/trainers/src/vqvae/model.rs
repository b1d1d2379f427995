//! Encoder and decoder, and what a sample is to them.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Int, Tensor};

use super::config::{Config, Modality, Reconstruction};
use crate::losses::maps::{binary_cross_entropy, binary_cross_entropy_4m, cosine, cross_entropy, smooth_l1};
use crate::losses::reconstruction::{l1, l2};
use crate::nets::{Decoder, Encoder, as_grid, as_rows};
use crate::params::settle;

/// Stream of initial values.
const STREAM: u64 = 0x76;

/// Samples of one modality.
#[derive(Clone, Debug)]
pub enum Sample<B: Backend> {
    /// Images, features or masks `[batch, channels, height, width]`.
    Values(Tensor<B, 4>),
    /// Classes `[batch, height, width]`.
    Labels(Tensor<B, 3, Int>),
}

/// What the optimizer trains; the codes are the quantizer's own.
#[derive(Module, Debug)]
pub struct Autoencoder<B: Backend> {
    /// A vector for each class `[classes, channels]`, where samples are classes.
    pub cls_emb: Option<Param<Tensor<B, 2>>>,
    /// From samples to latents.
    pub encoder: Encoder<B>,
    /// From quantized latents to samples; to the logits of classes and masks.
    pub decoder: Decoder<B>,
}

impl<B: Backend> Autoencoder<B> {
    /// With initial values of the configuration's seed; classes N(0, 1), as PyTorch draws an embedding.
    pub fn new(config: &Config, device: &B::Device) -> Self {
        let (channels, dim) = (config.encoder.channels, config.codes.dim);
        let cls_emb = match config.modality {
            Modality::Labels { classes } => {
                Some(Initializer::Normal { mean: 0.0, std: 1.0 }.init([classes, channels], device))
            }
            Modality::Rgb | Modality::Features | Modality::Masks => None,
        };
        let (encoder, decoder) = (config.encoder.encoder(dim, device), config.decoder.decoder(dim, device));
        settle(Self { cls_emb, encoder, decoder }, config.settings.seed ^ STREAM)
    }

    /// Latents as rows `[batch · h · w, dim]`, in raster order, and their grid `[batch, h, w]`; computed in `dtype`.
    pub fn rows(&self, sample: Sample<B>, dtype: FloatDType) -> (Tensor<B, 2>, [usize; 3]) {
        let values = match (sample, &self.cls_emb) {
            (Sample::Values(values), _) => values,
            (Sample::Labels(labels), Some(vectors)) => embedded(vectors.val(), labels),
            // Never so: labels come with a configuration that has classes.
            (Sample::Labels(labels), None) => labels.float().unsqueeze_dim(1),
        };
        as_rows(self.encoder.forward(values.cast(dtype)))
    }

    /// Samples of rows, or their logits, `[batch, channels, height, width]`.
    pub fn samples(&self, rows: Tensor<B, 2>, grid: [usize; 3]) -> Tensor<B, 4> {
        self.decoder.forward(as_grid(rows, grid))
    }
}

/// Classes `[batch, height, width]` as maps of their vectors `[classes, channels]`.
fn embedded<B: Backend>(vectors: Tensor<B, 2>, labels: Tensor<B, 3, Int>) -> Tensor<B, 4> {
    let ([batch, height, width], [_, channels]) = (labels.dims(), vectors.dims());
    let rows = vectors.select(0, labels.reshape([batch * height * width]));
    rows.reshape([batch, height, width, channels]).permute([0, 3, 1, 2])
}

/// The loss of a reconstruction, or of its logits, in f32.
pub fn loss<B: Backend>(kind: Reconstruction, output: Tensor<B, 4>, target: Sample<B>) -> Tensor<B, 1> {
    let output = output.cast(FloatDType::F32);
    match (kind, target) {
        (_, Sample::Labels(labels)) => cross_entropy(output, labels, None),
        (Reconstruction::L1, Sample::Values(target)) => l1(output, target),
        (Reconstruction::L2 | Reconstruction::CrossEntropy, Sample::Values(target)) => l2(output, target),
        (Reconstruction::SmoothL1, Sample::Values(target)) => smooth_l1(output, target),
        (Reconstruction::Cosine, Sample::Values(target)) => cosine(output, target),
        (Reconstruction::Bce, Sample::Values(target)) => binary_cross_entropy(output, target),
        (Reconstruction::Bce4m, Sample::Values(target)) => binary_cross_entropy_4m(output, target),
    }
}
