//! The discriminator's derivative along a direction.

use super::*;
use crate::nets::tangent::Dual;

impl<B: Backend> StyleDiscriminator<B> {
    /// The derivative `[batch, 1]` of [`forward`](Self::forward)'s logits where `images` move along `direction`, all of them at
    /// once: both `[batch, 3, size, size]`.
    pub fn derivative(&self, images: Tensor<B, 4>, direction: Tensor<B, 4>) -> Tensor<B, 2> {
        let batch = images.dims()[0];
        let images = Dual { value: images * 0.5 + 0.5, slope: direction * 0.5 };
        let mut x = activate_dual(self.input.dual(images, 1, 0));
        for block in &self.blocks {
            x = block.dual(x);
        }
        let x = activate_dual(self.final_conv.dual(with_stddev_dual(x), 1, 1));
        let x = activate_dual(self.final_linear1.dual(x, 1, 0));
        self.final_linear2.dual(x, 1, 0).slope.reshape([batch, 1])
    }
}

impl<B: Backend> Layer<B> {
    /// A slope has no bias.
    fn dual(&self, x: Dual<B>, stride: usize, padding: usize) -> Dual<B> {
        let weightless = Self { weight: self.weight.clone(), bias: None };
        Dual { value: self.forward(x.value, stride, padding), slope: weightless.forward(x.slope, stride, padding) }
    }
}

impl<B: Backend> StyleBlock<B> {
    fn dual(&self, x: Dual<B>) -> Dual<B> {
        let skip = Dual { value: x.value.clone(), slope: x.slope.clone() }.map(|x| blur(x, 1, 2));
        let skip = self.skip.dual(skip, 1, 0);
        let inner = activate_dual(self.conv1.dual(x, 1, 1));
        let inner = activate_dual(self.conv2.dual(inner.map(|x| blur(x, 2, 1)), 2, 0));
        let half = SQRT_2.recip();
        Dual { value: (inner.value + skip.value) * half, slope: (inner.slope + skip.slope) * half }
    }
}

fn activate_dual<B: Backend>(x: Dual<B>) -> Dual<B> {
    x.leaky_relu(SLOPE, SQRT_2)
}

/// [`with_stddev`] and its derivative: that of a deviation `√(mean c²)` is `mean(c c′) / √(mean c²)`.
fn with_stddev_dual<B: Backend>(x: Dual<B>) -> Dual<B> {
    let (dtype, [batch, channels, height, width]) = (x.slope.dtype(), x.slope.dims());
    let groups = groups(batch);
    let each = batch / groups;
    let centred = |x: Tensor<B, 4>| {
        let x = to(DType::F32, x).reshape([each, groups, channels * height * width]);
        x.clone() - x.mean_dim(0)
    };
    let (value, slope) = (centred(x.value.clone()), centred(x.slope.clone()));
    let deviation = (value.clone().square().mean_dim(0) + STDDEV_EPSILON).sqrt();
    let change = ((value * slope).mean_dim(0) / deviation).mean_dim(2);
    let change = change.reshape([1, groups, 1, 1]).repeat(&[each, 1, height, width]).reshape([batch, 1, height, width]);
    Dual { value: with_stddev(x.value), slope: Tensor::cat(vec![x.slope, to(dtype, change)], 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Host;
    use crate::params;
    use burn::tensor::Distribution;

    #[test]
    fn it_is_the_difference_along_the_direction() {
        let device = Default::default();
        let net = StyleConfig { max_channels: 8, ..StyleConfig::new(16) }.init::<Host>(&device);
        let net = params::settle(net, 4);
        let random = || Tensor::<Host, 4>::random([8, 3, 16, 16], Distribution::Uniform(-1.0, 1.0), &device);
        let (images, direction) = (random(), random());
        let derivative = params::host(net.derivative(images.clone(), direction.clone()));
        let step = 0.01;
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
