//! Frozen feature networks: what perceptual distances compare, and what codebooks are made of.
//!
//! ```text
//! images ─ FeatureNet::taps ─ losses::Perceptual          (SqueezeNet, VGG16, AlexNet, random features)
//! images ─ VisionEncoder::patch_features ─ codebook       (SqueezeNet fire8, CLIP, random features)
//! ```
//! Weights come from safetensors files and are never trained: gradients flow through the networks to their input.
//! Without a file there is a network of our own with random weights, which calls itself "random-features" everywhere.

mod alexnet;
mod clip;
mod encoder;
mod layers;
mod random;
mod squeezenet;
mod vgg;
mod weights;

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

pub use alexnet::AlexNet;
pub use clip::ClipVision;
pub use encoder::{VisionEncoder, load_vision_encoder};
pub use layers::{Channelwise, FrozenConv};
pub use random::RandomFeatures;
pub use squeezenet::{Fire, SqueezeNet};
pub use vgg::Vgg16;
pub use weights::Weights;

use crate::common::Failure;

/// A frozen feature network: never trained, no gradients to its weights, gradients through it to its input.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are one or two in a run")]
pub enum FeatureNet<B: Backend> {
    /// SqueezeNet v1.1, from Caffe or from torchvision weights.
    SqueezeNet(SqueezeNet<B>),
    /// VGG16 from torchvision weights.
    Vgg16(Vgg16<B>),
    /// AlexNet from torchvision weights.
    AlexNet(AlexNet<B>),
    /// Our own network with fixed random weights.
    Random(RandomFeatures<B>),
}

impl<B: Backend> FeatureNet<B> {
    /// Our own network with fixed random weights: the same ones on every machine.
    pub fn random(device: &B::Device) -> Self {
        Self::Random(RandomFeatures::new(device))
    }

    /// The layers that LPIPS compares (Zhang et al. 2018), from images `[batch, 3, height, width]` in [-1, 1]:
    /// one tensor `[batch, channels, h, w]` a layer, after ReLU.
    ///
    /// Height and width must be at least [`smallest_input`](Self::smallest_input).
    pub fn taps(&self, images: Tensor<B, 4>) -> Vec<Tensor<B, 4>> {
        match self {
            Self::SqueezeNet(net) => net.taps(images),
            Self::Vgg16(net) => net.taps(images),
            Self::AlexNet(net) => net.taps(images),
            Self::Random(net) => net.taps(images),
        }
    }

    /// The channels of each layer of [`taps`](Self::taps).
    pub fn widths(&self) -> &'static [usize] {
        match self {
            Self::SqueezeNet(_) => &squeezenet::WIDTHS,
            Self::Vgg16(_) => &vgg::WIDTHS,
            Self::AlexNet(_) => &alexnet::WIDTHS,
            Self::Random(_) => &random::WIDTHS,
        }
    }

    /// The least height and width of an image, in pixels: below it a pooling window would not fit.
    pub fn smallest_input(&self) -> usize {
        match self {
            Self::SqueezeNet(_) => squeezenet::SMALLEST_INPUT,
            Self::Vgg16(_) => vgg::SMALLEST_INPUT,
            Self::AlexNet(_) => alexnet::SMALLEST_INPUT,
            Self::Random(_) => 1,
        }
    }

    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SqueezeNet(_) => "SqueezeNet",
            Self::Vgg16(_) => "VGG16",
            Self::AlexNet(_) => "AlexNet",
            Self::Random(_) => random::NAME,
        }
    }
}

/// Reads a feature network from a safetensors file; which one is told from the tensors' names.
///
/// | network | names |
/// |---|---|
/// | SqueezeNet v1.1 of Caffe (input B, G, R in 0..255 minus a mean) | `conv1.weight`, `fire2/squeeze1x1.weight` … |
/// | SqueezeNet v1.1 of torchvision | `features.0.weight`, `features.3.squeeze.weight` … |
/// | VGG16 of torchvision | `features.0.weight` … `features.28.weight` |
/// | AlexNet of torchvision | `features.0.weight` … `features.10.weight` |
///
/// Classifier tensors may be there and are not read.
///
/// # Errors
/// A file that cannot be read or is none of these, and missing, misshaped or non-float tensors, by name.
pub fn load_feature_net<B: Backend>(path: &Path, device: &B::Device) -> Result<FeatureNet<B>, Failure> {
    let mut weights = Weights::open(path)?;
    if weights.has("fire2/squeeze1x1.weight") || weights.has("features.3.squeeze.weight") {
        Ok(FeatureNet::SqueezeNet(SqueezeNet::load(&mut weights, device)?))
    } else if weights.has("features.17.weight") && weights.has("features.28.weight") {
        Ok(FeatureNet::Vgg16(Vgg16::load(&mut weights, device)?))
    } else if weights.has("features.8.weight")
        && weights.has("features.10.weight")
        && !weights.has("features.12.weight")
    {
        Ok(FeatureNet::AlexNet(AlexNet::load(&mut weights, device)?))
    } else {
        Err(weights.unknown("SqueezeNet v1.1 (Caffe or torchvision names), VGG16 or AlexNet (torchvision names)"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
