//! The layers that the frozen networks are made of.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use burn::tensor::backend::Backend;
use burn::tensor::module::{conv2d, max_pool2d};
use burn::tensor::ops::ConvOptions;

use super::weights::{Weights, frozen};
use crate::common::Failure;

/// A convolution with fixed weights.
#[derive(Module, Debug)]
pub struct FrozenConv<B: Backend> {
    /// `[out, in, kernel, kernel]`
    weight: Param<Tensor<B, 4>>,
    /// `[out]`
    bias: Option<Param<Tensor<B, 1>>>,
    stride: usize,
    padding: usize,
}

impl<B: Backend> FrozenConv<B> {
    /// Reads `{name}.weight` of shape `[out, in, kernel, kernel]`, and `{name}.bias`.
    pub(super) fn load(
        weights: &mut Weights,
        name: &str,
        shape: [usize; 4],
        step: [usize; 2],
        device: &B::Device,
    ) -> Result<Self, Failure> {
        let unbiased = Self::load_unbiased(weights, &format!("{name}.weight"), shape, step, device)?;
        Ok(Self { bias: Some(weights.param(&format!("{name}.bias"), [shape[0]], device)?), ..unbiased })
    }

    /// The same without bias, from a tensor named in full.
    pub(super) fn load_unbiased(
        weights: &mut Weights,
        name: &str,
        shape: [usize; 4],
        [stride, padding]: [usize; 2],
        device: &B::Device,
    ) -> Result<Self, Failure> {
        Ok(Self { weight: weights.param(name, shape, device)?, bias: None, stride, padding })
    }

    /// From values in memory.
    pub(super) fn new(
        name: &str,
        weight: (Vec<f32>, [usize; 4]),
        bias: Vec<f32>,
        [stride, padding]: [usize; 2],
        device: &B::Device,
    ) -> Self {
        let shape = [bias.len()];
        let bias = Some(frozen(&format!("{name}.bias"), bias, shape, device));
        Self { weight: frozen(&format!("{name}.weight"), weight.0, weight.1, device), bias, stride, padding }
    }

    /// The same convolution of input whose channels come in the opposite order.
    pub(super) fn flip_input_channels(mut self) -> Self {
        self.weight = self.weight.map(|weight| weight.flip([1]));
        self
    }

    /// The convolution.
    pub fn forward(&self, input: Tensor<B, 4>) -> Tensor<B, 4> {
        let options = ConvOptions::new([self.stride; 2], [self.padding; 2], [1; 2], 1);
        conv2d(input, self.weight.val(), self.bias.as_ref().map(Param::val), options)
    }

    /// The convolution and a ReLU.
    pub fn relu(&self, input: Tensor<B, 4>) -> Tensor<B, 4> {
        relu(self.forward(input))
    }
}

/// What a network does to the three channels first: `x · scale + shift`.
#[derive(Module, Debug)]
pub struct Channelwise<B: Backend> {
    /// `[1, 3, 1, 1]`
    scale: Param<Tensor<B, 4>>,
    /// `[1, 3, 1, 1]`
    shift: Param<Tensor<B, 4>>,
}

impl<B: Backend> Channelwise<B> {
    /// LPIPS's own scaling of images in [-1, 1] (Zhang et al. 2018, `ScalingLayer`): `(x − shift) / scale`, which is
    /// ImageNet's usual mean and deviation of images in [0, 1].
    pub(super) fn lpips(device: &B::Device) -> Self {
        Self::standardize([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450], device)
    }

    /// Caffe's input for images in [-1, 1]: 0..255 minus the mean, here in the order R, G, B.
    pub(super) fn caffe(device: &B::Device) -> Self {
        Self::new([127.5; 3], [123.68, 116.779, 103.939].map(|mean| 127.5 - mean), device)
    }

    /// CLIP's input for images in [-1, 1]: images in [0, 1] minus mean by deviation (Radford et al. 2021).
    pub(super) fn clip(device: &B::Device) -> Self {
        let mean = [0.481_454_66, 0.457_827_5, 0.408_210_73].map(|mean: f32| 2.0 * mean - 1.0);
        let deviation = [0.268_629_54, 0.261_302_6, 0.275_777_1].map(|deviation: f32| 2.0 * deviation);
        Self::standardize(mean, deviation, device)
    }

    fn standardize(mean: [f32; 3], deviation: [f32; 3], device: &B::Device) -> Self {
        let shift = [0, 1, 2].map(|channel| -mean[channel] / deviation[channel]);
        Self::new(deviation.map(f32::recip), shift, device)
    }

    fn new(scale: [f32; 3], shift: [f32; 3], device: &B::Device) -> Self {
        let param = |name, values: [f32; 3]| frozen(name, values.to_vec(), [1, 3, 1, 1], device);
        Self { scale: param("input.scale", scale), shift: param("input.shift", shift) }
    }

    /// Images `[batch, 3, height, width]` as the network wants them, in the type of its weights.
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let scale = self.scale.val();
        images.cast(scale.dtype()) * scale + self.shift.val()
    }
}

/// Max-pooling 3 × 3 by steps of 2, with a last window that may hang over the edge (Caffe).
pub(super) fn pool_ceil<B: Backend>(input: Tensor<B, 4>) -> Tensor<B, 4> {
    max_pool2d(input, [3; 2], [2; 2], [0; 2], [1; 2], true)
}

/// Max-pooling by steps of 2 with windows inside the input.
pub(super) fn pool<B: Backend>(input: Tensor<B, 4>, window: usize) -> Tensor<B, 4> {
    max_pool2d(input, [window; 2], [2; 2], [0; 2], [1; 2], false)
}
