//! Perceptual distances: how far apart two images are in a frozen network's features.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Tensor};

use crate::common::Failure;
use crate::features::{FeatureNet, Weights, load_feature_net};
use crate::nets::norms::sums;

/// Added to the length of a position's features before dividing by it (LPIPS v0.1).
const EPS: f64 = 1e-10;

/// A perceptual distance in the form of LPIPS (Zhang et al. 2018, equation 1, version 0.1): over the layers `l` and
/// positions `p` of a frozen network,
///
/// `Σ_l mean_p Σ_c w_lc · (f̂_lpc − ĝ_lpc)²`,
///
/// where `f̂` are features divided by their length over the channels. Without linear weights `w` the layers are
/// averaged: `w = 1 / layers`. There is no dropout, as in LPIPS when it is used and not trained.
///
/// [`name`](Self::name) says which distance it is. Only LPIPS's own networks with the weights that were fitted to them
/// are called LPIPS.
#[derive(Module, Debug)]
pub struct Perceptual<B: Backend> {
    net: FeatureNet<B>,
    /// Of each layer, `[1, channels, 1, 1]`.
    linear: Option<Vec<Param<Tensor<B, 4>>>>,
}

impl<B: Backend> Perceptual<B> {
    /// The distance without linear weights.
    pub fn new(net: FeatureNet<B>) -> Self {
        Self { net, linear: None }
    }

    /// The distance with LPIPS's linear weights from a safetensors file: tensors `{vgg,alex,squeeze}.lin{i}.weight`, or the
    /// published names `lin{i}.model.1.weight` of one network, of shape `[1, channels, 1, 1]`.
    ///
    /// # Errors
    /// A file that cannot be read; missing, misshaped, non-float or negative tensors, by name; and random features, for
    /// which there are no such weights.
    pub fn with_linear(net: FeatureNet<B>, path: &Path, device: &B::Device) -> Result<Self, Failure> {
        let prefix = match net {
            FeatureNet::Vgg16(_) => "vgg",
            FeatureNet::AlexNet(_) => "alex",
            FeatureNet::SqueezeNet(_) => "squeeze",
            FeatureNet::Random(_) => {
                return Err(Failure::new(format!(
                    "`{}` has linear weights for trained networks, and none was given: name a network's file too",
                    path.display()
                )));
            }
        };
        let mut weights = Weights::open(path)?;
        let mut linear = Vec::with_capacity(net.widths().len());
        for (at, &width) in net.widths().iter().enumerate() {
            let (ours, published) = (format!("{prefix}.lin{at}.weight"), format!("lin{at}.model.1.weight"));
            let name = if weights.has(&published) { published } else { ours };
            let param: Param<Tensor<B, 4>> = weights.param(&name, [1, width, 1, 1], device)?;
            if crate::params::host(param.val()).iter().any(|&value| value < 0.0) {
                return Err(Failure::new(format!(
                    "`{}`: tensor `{name}` has negative values: it is not of LPIPS, and no distance",
                    path.display()
                )));
            }
            linear.push(param);
        }
        Ok(Self { net, linear: Some(linear) })
    }

    /// The distance from files: the network's weights and LPIPS's linear weights, each if given, else random features and
    /// the plain average.
    ///
    /// # Errors
    /// As [`load_feature_net`] and [`with_linear`](Self::with_linear).
    pub fn load(net: Option<&Path>, linear: Option<&Path>, device: &B::Device) -> Result<Self, Failure> {
        let net = match net {
            Some(path) => load_feature_net(path, device)?,
            None => FeatureNet::random(device),
        };
        match linear {
            Some(path) => Self::with_linear(net, path, device),
            None => Ok(Self::new(net)),
        }
    }

    /// The frozen network.
    pub fn net(&self) -> &FeatureNet<B> {
        &self.net
    }

    /// What this distance may be called in reports.
    pub fn name(&self) -> &'static str {
        match (&self.net, self.linear.is_some()) {
            (FeatureNet::Vgg16(_), true) => "LPIPS (VGG16)",
            (FeatureNet::AlexNet(_), true) => "LPIPS (AlexNet)",
            // The linear weights were fitted to torchvision's training of the network, which Caffe's is not.
            (FeatureNet::SqueezeNet(net), true) if net.is_caffe() => "SqueezeNet perceptual distance",
            (FeatureNet::SqueezeNet(_), true) => "LPIPS (SqueezeNet)",
            (FeatureNet::Vgg16(_), false) => "VGG16 perceptual distance, uniform weights",
            (FeatureNet::AlexNet(_), false) => "AlexNet perceptual distance, uniform weights",
            (FeatureNet::SqueezeNet(_), false) => "SqueezeNet perceptual distance, uniform weights",
            (FeatureNet::Random(_), _) => "random-features distance",
        }
    }

    /// Refuses images that are too small for the network.
    ///
    /// # Errors
    /// What the least size is.
    pub fn check_size(&self, height: usize, width: usize) -> Result<(), Failure> {
        let least = self.net.smallest_input();
        if height.min(width) >= least {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{} needs images of {least} × {least} pixels or more, and these have {width} × {height}",
            self.net.name()
        )))
    }

    /// The distance `[batch]` of each image from its target, both `[batch, 3, height, width]` in [-1, 1] and not smaller
    /// than [`check_size`](Self::check_size) asks.
    ///
    /// Gradients flow to `images` alone; nothing of the target's way through the network is kept. The network computes in its
    /// weights' type ([`cast`](crate::params::cast)), the comparison in f32 at least.
    pub fn distance(&self, images: Tensor<B, 4>, target: Tensor<B, 4>) -> Tensor<B, 1> {
        let target: Vec<_> = self.net.taps(target.detach()).into_iter().map(directions).collect();
        let layers = target.len();
        let batch = images.dims()[0];
        let device = images.device();
        let taps = self.net.taps(images);
        let distances = taps.into_iter().zip(target).enumerate().map(|(at, (features, target))| {
            let [_, channels, height, width] = features.dims();
            let difference = directions(features) - target;
            let dtype = difference.dtype();
            let squares = sums((difference.clone() * difference).reshape([batch * channels, height * width]));
            let weights = match &self.linear {
                Some(linear) => linear[at].val().cast(dtype).reshape([channels, 1]),
                None => Tensor::full([channels, 1], 1.0 / layers as f64, (&device, dtype)),
            };
            squares.reshape([batch, channels]).matmul(weights).div_scalar((height * width) as f64).reshape([batch])
        });
        distances.reduce(|sum, distance| sum + distance).unwrap_or_else(|| Tensor::zeros([batch], &device))
    }
}

/// Features divided by their length over the channels, in f32 at least.
fn directions<B: Backend>(features: Tensor<B, 4>) -> Tensor<B, 4> {
    let features = match features.dtype() {
        DType::F64 => features,
        _ => features.cast(FloatDType::F32),
    };
    let [batch, channels, height, width] = features.dims();
    let features = features.reshape([batch, channels, height * width]);
    // Sums over channels and their way back are products with ones, as in `norms`.
    let ones = |shape: [usize; 3]| Tensor::ones(shape, (&features.device(), features.dtype()));
    let squared = ones([batch, 1, channels]).matmul(features.clone() * features.clone());
    // Where all channels are 0 the root's slope would be infinite, and 0 · ∞ is no gradient.
    let scale = squared.clamp_min(EPS * EPS).sqrt().add_scalar(EPS).recip();
    let scale = ones([batch, channels, 1]).matmul(scale);
    (features * scale).reshape([batch, channels, height, width])
}

#[cfg(test)]
mod tests;
