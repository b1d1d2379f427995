//! A value and its derivative along one direction, side by side through a network (forward mode).
//!
//! The gradient of such a derivative by the parameters takes one ordinary backward pass, where the gradient of a gradient would
//! take a second derivative, which burn has not.

use burn::tensor::Tensor;
use burn::tensor::activation::leaky_relu;
use burn::tensor::backend::Backend;

/// A feature map `[batch, channels, height, width]` and how it changes along the direction.
pub(super) struct Dual<B: Backend> {
    /// The map.
    pub value: Tensor<B, 4>,
    /// Its derivative.
    pub slope: Tensor<B, 4>,
}

impl<B: Backend> Dual<B> {
    /// Both through a linear map.
    pub fn map(self, linear: impl Fn(Tensor<B, 4>) -> Tensor<B, 4>) -> Self {
        Self { value: linear(self.value), slope: linear(self.slope) }
    }

    /// Both through a leaky ReLU times `scale`: its own slope is one of two numbers, and does not change.
    pub fn leaky_relu(self, negative: f64, scale: f64) -> Self {
        let dtype = self.slope.dtype();
        let positive = self.value.clone().detach().greater_elem(0.0).float().cast(dtype);
        let gain = positive.mul_scalar(scale * (1.0 - negative)).add_scalar(scale * negative);
        Self { value: leaky_relu(self.value, negative).mul_scalar(scale), slope: self.slope * gain }
    }
}
