//! Vision encoders whose patch features become codebooks.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::module::{adaptive_avg_pool2d, interpolate};
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

use super::clip::ClipVision;
use super::random::{self, RandomFeatures};
use super::squeezenet::SqueezeNet;
use super::weights::Weights;
use crate::common::Failure;

/// Pixels that give SqueezeNet's fire8 14 × 14 positions.
const SQUEEZENET_INPUT: usize = 227;

/// Pixels and positions of the random features: as a vision transformer with patches of 16.
const RANDOM_INPUT: usize = 224;
const RANDOM_GRID: usize = 14;

/// A frozen encoder of images to a grid of features, one a patch.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are one or two in a run")]
pub enum VisionEncoder<B: Backend> {
    /// SqueezeNet v1.1, fire8: 512 channels, 14 × 14.
    SqueezeNet(SqueezeNet<B>),
    /// CLIP's vision tower: each patch's token after the projection. ViT-L/14 makes VQGAN-LC's codebook: 768 channels, 16 × 16.
    Clip(ClipVision<B>),
    /// Our own network with fixed random weights: all its layers, averaged to 14 × 14 and side by side.
    Random(RandomFeatures<B>),
}

impl<B: Backend> VisionEncoder<B> {
    /// Our own network with fixed random weights: the same ones on every machine.
    pub fn random(device: &B::Device) -> Self {
        Self::Random(RandomFeatures::new(device))
    }

    /// Features `[batch, width, h, w]` of images `[batch, 3, height, width]` in [-1, 1].
    ///
    /// Images of another size than [`input_size`](Self::input_size) are resized bicubically first. That does not average
    /// what it leaves out: shrink large pictures properly before.
    pub fn patch_features(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let images = resized(images, self.input_size());
        match self {
            Self::SqueezeNet(net) => net.fire8(images),
            Self::Clip(net) => net.patch_features(images),
            Self::Random(net) => {
                let grid = |tap| adaptive_avg_pool2d(tap, [RANDOM_GRID; 2]);
                Tensor::cat(net.taps(images).into_iter().map(grid).collect(), 1)
            }
        }
    }

    /// The number of channels of [`patch_features`](Self::patch_features).
    pub fn width(&self) -> usize {
        match self {
            Self::SqueezeNet(_) => 512,
            Self::Clip(net) => net.width(),
            Self::Random(_) => random::WIDTHS.iter().sum(),
        }
    }

    /// The height and width of its images, in pixels.
    pub fn input_size(&self) -> usize {
        match self {
            Self::SqueezeNet(_) => SQUEEZENET_INPUT,
            Self::Clip(net) => net.input_size(),
            Self::Random(_) => RANDOM_INPUT,
        }
    }

    /// Its name in reports and file names.
    pub fn name(&self) -> String {
        match self {
            Self::SqueezeNet(_) => "SqueezeNet fire8".into(),
            Self::Clip(net) => net.name(),
            Self::Random(_) => random::NAME.into(),
        }
    }
}

fn resized<B: Backend>(images: Tensor<B, 4>, size: usize) -> Tensor<B, 4> {
    if images.dims()[2..] == [size; 2] {
        return images;
    }
    let options = InterpolateOptions::new(InterpolateMode::Bicubic).with_align_corners(false);
    interpolate(images, [size; 2], options).clamp(-1.0, 1.0)
}

/// Reads a vision encoder from a safetensors file; which one is told from the tensors' names.
///
/// # Errors
/// A file that cannot be read or is none of these, and missing, misshaped or non-float tensors, by name.
pub fn load_vision_encoder<B: Backend>(path: &Path, device: &B::Device) -> Result<VisionEncoder<B>, Failure> {
    let mut weights = Weights::open(path)?;
    if weights.has("fire2/squeeze1x1.weight") || weights.has("features.3.squeeze.weight") {
        return Ok(VisionEncoder::SqueezeNet(SqueezeNet::load(&mut weights, device)?));
    }
    if ClipVision::<B>::is_in(&weights) {
        return Ok(VisionEncoder::Clip(ClipVision::load(&mut weights, device)?));
    }
    Err(weights
        .unknown("SqueezeNet v1.1 (Caffe or torchvision names) or CLIP's vision tower (Hugging Face or OpenAI names)"))
}
