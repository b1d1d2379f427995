//! The discriminator's derivative along a direction.

use burn::tensor::DType;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;

use super::*;
use crate::nets::norms::to;
use crate::nets::tangent::Dual;

impl<B: Backend> PatchDiscriminator<B> {
    /// The derivative `[batch, 1, h, w]` of [`forward`](Self::forward)'s logits where `images` move along `direction`, all of
    /// them at once: both `[batch, 3, height, width]`. The norms take the batch's own statistics; the running ones stay.
    pub fn derivative(&self, images: Tensor<B, 4>, direction: Tensor<B, 4>) -> Tensor<B, 4> {
        let last = self.convs.len().saturating_sub(1);
        let mut x = Dual { value: images, slope: direction };
        for (i, conv) in self.convs.iter().enumerate() {
            let options = ConvOptions::new(conv.stride, [1; 2], [1; 2], 1);
            x = Dual { value: conv.forward(x.value), slope: conv2d(x.slope, conv.weight.val(), None, options) };
            if let Some(norm) = i.checked_sub(1).and_then(|i| self.norms.get(i)) {
                x = normalized(norm, x);
            }
            if i < last {
                x = x.leaky_relu(SLOPE, 1.0);
            }
        }
        x.slope
    }
}

/// Batch normalization and its derivative: that of `c / √(v + ε)`, with `v = mean c²`, is
/// `[c′ − c mean(c c′) / (v + ε)] / √(v + ε)`.
fn normalized<B: Backend>(norm: &BatchNorm<B>, x: Dual<B>) -> Dual<B> {
    let (dtype, [batch, channels, height, width]) = (x.slope.dtype(), x.slope.dims());
    let shape = [batch, channels, height * width];
    let mean = |x: Tensor<B, 3>| x.mean_dim(2).mean_dim(0);
    let centred = |x: Tensor<B, 4>| {
        let x = to(DType::F32, x).reshape(shape);
        x.clone() - mean(x)
    };
    let (value, slope) = (centred(x.value), centred(x.slope));
    let variance = mean(value.clone().square()) + norm.epsilon;
    let row = |values: Tensor<B, 1>| to(DType::F32, values).reshape([1, channels, 1]);
    let scale = row(norm.gamma.val()) / variance.clone().sqrt();
    let along = mean(value.clone() * slope.clone()) / variance;
    let back = |x: Tensor<B, 3>| to(dtype, x.reshape([batch, channels, height, width]));
    Dual {
        slope: back((slope - value.clone() * along) * scale.clone()),
        value: back(value * scale + row(norm.beta.val())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::HostTrain;
    use crate::params;
    use burn::tensor::Distribution;

    #[test]
    fn it_is_the_difference_along_the_direction() {
        let device = Default::default();
        let net = PatchConfig { n_layers: 2, channels: 8 }.init::<HostTrain>(&device);
        let net = params::settle(net, 4);
        let random = || Tensor::<HostTrain, 4>::random([2, 3, 16, 16], Distribution::Uniform(-1.0, 1.0), &device);
        let (images, direction) = (random(), random());
        let derivative = params::host(net.derivative(images.clone(), direction.clone()));
        let step = 1e-3;
        let moved = |by: f64| net.forward(images.clone() + direction.clone() * by);
        let difference = params::host((moved(step) - moved(-step)) / (2.0 * step));
        let largest = derivative.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert!(largest > 1e-3, "nothing to compare");
        for (a, b) in derivative.iter().zip(difference) {
            // In between some units switch.
            assert!((a - b).abs() < 0.05 * largest, "{a} and {b}");
        }
    }
}
