//! StyleGAN2's discriminator (Karras et al. 2020), as enhancing-transformers' `StyleDiscriminator`.

mod tangent;

use core::f64::consts::SQRT_2;

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::activation::leaky_relu;
use burn::tensor::backend::Backend;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::cnn::COLOURS;
use super::constant;
use super::macs::{Cost, Size, area};
use super::norms::to;
use crate::common::failure::Failure;

const SLOPE: f64 = 0.2;

/// Images are halved down to this height and width.
const SMALLEST: usize = 4;

/// Images whose values are compared with each other's.
const STDDEV_GROUP: usize = 4;

/// Added to the variance within a group.
const STDDEV_EPSILON: f64 = 1e-8;

/// The filter in front of each halving, before normalization.
const BLUR: [f32; 4] = [1.0, 3.0, 3.0, 1.0];

/// Sizes of the discriminator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StyleConfig {
    /// Height and width of the images: a power of two, 8 or more.
    pub image_size: usize,
    /// Channels at 64 px and more: 16,384 times this by the size.
    pub channel_multiplier: usize,
    /// Never more channels than this; 512 in the published one.
    pub max_channels: usize,
}

impl StyleConfig {
    /// The published one, with 128 channels at 256 px.
    pub fn new(image_size: usize) -> Self {
        Self { image_size, channel_multiplier: 2, max_channels: 512 }
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// The setting that does not fit, and what would do.
    pub fn check(&self) -> Result<(), Failure> {
        if !self.image_size.is_power_of_two() || self.image_size <= SMALLEST || self.image_size > 16_384 {
            return Err(Failure::new(format!(
                "StyleGAN discriminator: images of {} px, expected a power of two from 8 to 16384",
                self.image_size
            )));
        }
        if self.channel_multiplier == 0 || self.max_channels == 0 {
            return Err(Failure::new(format!(
                "StyleGAN discriminator: channel multiplier {} and at most {} channels, expected at least 1 of each",
                self.channel_multiplier, self.max_channels
            )));
        }
        Ok(())
    }

    /// The discriminator; for sizes that [`check`](Self::check) accepts.
    pub fn init<B: Backend>(&self, device: &B::Device) -> StyleDiscriminator<B> {
        let halvings = (self.image_size / SMALLEST).max(1).ilog2();
        let widths: Vec<usize> = (0..=halvings).map(|i| self.width(self.image_size >> i)).collect();
        let last = self.width(SMALLEST);
        StyleDiscriminator {
            input: Layer::new([COLOURS, self.width(self.image_size)], 1, true, device),
            blocks: widths.windows(2).map(|pair| StyleBlock::new([pair[0], pair[1]], device)).collect(),
            final_conv: Layer::new([last + 1, last], 3, true, device),
            final_linear1: Layer::new([last, last], SMALLEST, true, device),
            final_linear2: Layer::new([last, 1], 1, true, device),
        }
    }

    /// Channels at a height and width.
    fn width(&self, size: usize) -> usize {
        let width = if size <= 32 { 512 } else { 16_384 * self.channel_multiplier / size };
        width.clamp(1, self.max_channels.max(1))
    }
}

/// A convolution with equalised learning rate: weights are drawn from N(0, 1) and multiplied by 1/√inputs when used
/// (Karras et al. 2018, §4.1).
#[derive(Module, Debug)]
struct Layer<B: Backend> {
    weight: Param<Tensor<B, 4>>,
    bias: Option<Param<Tensor<B, 1>>>,
}

impl<B: Backend> Layer<B> {
    fn new([from, to]: [usize; 2], kernel: usize, bias: bool, device: &B::Device) -> Self {
        Self {
            weight: Initializer::Normal { mean: 0.0, std: 1.0 }.init([to, from, kernel, kernel], device),
            bias: bias.then(|| Initializer::Zeros.init([to], device)),
        }
    }

    fn forward(&self, x: Tensor<B, 4>, stride: usize, padding: usize) -> Tensor<B, 4> {
        let weight = self.weight.val();
        let [_, from, height, width] = weight.dims();
        let scale = ((from * height * width) as f64).sqrt().recip();
        let options = ConvOptions::new([stride, stride], [padding, padding], [1, 1], 1);
        conv2d(x, weight * scale, self.bias.as_ref().map(|bias| bias.val()), options)
    }

    fn cost(&self, out: Size, cost: &mut Cost) -> Size {
        let bias = self.bias.as_ref().map_or(0, |bias| bias.lazy_shape().num_elements());
        cost.kernel(self.weight.lazy_shape().num_elements(), bias, out);
        out
    }

    fn channels_in(&self) -> usize {
        let [_, from, ..]: [usize; 4] = self.weight.lazy_shape().dims();
        from
    }
}

/// Leaky ReLU that keeps the mean square of its input.
fn activate<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    leaky_relu(x, SLOPE) * SQRT_2
}

/// `(down(conv(x)) + skip(x)) / √2`, both at half the size.
#[derive(Module, Debug)]
struct StyleBlock<B: Backend> {
    conv1: Layer<B>,
    conv2: Layer<B>,
    skip: Layer<B>,
}

impl<B: Backend> StyleBlock<B> {
    fn new([from, to]: [usize; 2], device: &B::Device) -> Self {
        Self {
            conv1: Layer::new([from, from], 3, true, device),
            conv2: Layer::new([from, to], 3, true, device),
            skip: Layer::new([from, to], 1, false, device),
        }
    }

    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        // A 1×1 convolution of stride 2 sees every second pixel: only those are blurred.
        let skip = self.skip.forward(blur(x.clone(), 1, 2), 1, 0);
        let inner = activate(self.conv1.forward(x, 1, 1));
        let inner = activate(self.conv2.forward(blur(inner, 2, 1), 2, 0));
        (inner + skip) * SQRT_2.recip()
    }

    fn cost(&self, [height, width]: Size, cost: &mut Cost) -> Size {
        let half = [height / 2, width / 2];
        self.conv1.cost([height, width], cost);
        // The blur as two rows of four taps: over the columns of the map that enters, then over its rows.
        let taps = (BLUR.len() * self.conv1.channels_in()) as u64;
        cost.filter_macs += taps * (area([height, width + 1]) + area([height + 1, width + 1]));
        cost.filter_macs += taps * (area([height, width / 2]) + area(half));
        self.skip.cost(half, cost);
        self.conv2.cost(half, cost)
    }
}

/// Filters rows and columns by [1, 3, 3, 1] / 8 with zeros outside, every `stride`-th result.
///
/// As products with a banded matrix: on the host, burn's convolutions of single channels take three to four times as long.
fn blur<B: Backend>(x: Tensor<B, 4>, padding: usize, stride: usize) -> Tensor<B, 4> {
    let [batch, channels, height, width] = x.dims();
    let [rows, columns] = [height, width].map(|side| (side + 2 * padding - BLUR.len()) / stride + 1);
    let right = band(width, columns, padding, stride);
    let left = if [height, rows] == [width, columns] { right.clone() } else { band(height, rows, padding, stride) };
    let right = constant(right, [width, columns], &x);
    let left = constant(left, [height, rows], &x).transpose();
    let x = x.reshape([batch * channels * height, width]).matmul(right).reshape([batch * channels, height, columns]);
    left.unsqueeze::<3>().matmul(x).reshape([batch, channels, rows, columns])
}

/// `[from, to]`: what each input adds to each output.
fn band(from: usize, to: usize, padding: usize, stride: usize) -> Vec<f32> {
    let sum: f32 = BLUR.iter().sum();
    let mut values = vec![0.0; from * to];
    for output in 0..to {
        for (tap, weight) in BLUR.iter().enumerate() {
            if let Some(input) = (output * stride + tap).checked_sub(padding).filter(|&input| input < from) {
                values[input * to + output] = weight / sum;
            }
        }
    }
    values
}

/// Says of an image whether it looks real.
///
/// In enhancing-transformers `input` is `blocks.0`, `blocks.i` is `blocks.(i + 1)`, and a bias that an activation follows
/// belongs to the activation; `final_linear1` there is a linear layer over the same values in the same order.
#[derive(Module, Debug)]
pub struct StyleDiscriminator<B: Backend> {
    input: Layer<B>,
    blocks: Vec<StyleBlock<B>>,
    final_conv: Layer<B>,
    final_linear1: Layer<B>,
    final_linear2: Layer<B>,
}

impl<B: Backend> StyleDiscriminator<B> {
    /// Logits `[batch, 1]` of images `[batch, 3, size, size]` in [-1, 1], `size` as configured: the higher, the more real.
    ///
    /// The network itself takes [0, 1], as published. Images of a batch are compared with each other.
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        let batch = images.dims()[0];
        let mut x = activate(self.input.forward(images * 0.5 + 0.5, 1, 0));
        for block in &self.blocks {
            x = block.forward(x);
        }
        let x = activate(self.final_conv.forward(with_stddev(x), 1, 1));
        let x = activate(self.final_linear1.forward(x, 1, 0));
        self.final_linear2.forward(x, 1, 0).reshape([batch, 1])
    }

    /// Adds what one image of `size` costs, and returns the size of its logits.
    pub fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        let mut size = self.input.cost(size, cost);
        for block in &self.blocks {
            size = block.cost(size, cost);
        }
        self.final_conv.cost(size, cost);
        self.final_linear1.cost([1, 1], cost);
        self.final_linear2.cost([1, 1], cost)
    }
}

/// Groups are of four images, or of the next more that divide the batch.
fn groups(batch: usize) -> usize {
    (1..=(batch / STDDEV_GROUP).max(1)).rev().find(|&n| batch.is_multiple_of(n)).unwrap_or(1)
}

/// Adds a channel: the mean deviation between the images of a group (Karras et al. 2018, §3).
///
/// Groups are of four images, or of the next more that divide the batch; image i belongs to group i modulo their number.
fn with_stddev<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    let (dtype, [batch, channels, height, width]) = (x.dtype(), x.dims());
    let groups = groups(batch);
    let each = batch / groups;
    let grouped = to(DType::F32, x.clone()).reshape([each, groups, channels * height * width]);
    let centred = grouped.clone() - grouped.mean_dim(0);
    let deviation = (centred.square().mean_dim(0) + STDDEV_EPSILON).sqrt().mean_dim(2);
    let deviation = deviation.reshape([1, groups, 1, 1]).repeat(&[each, 1, height, width]);
    Tensor::cat(vec![x, to(dtype, deviation.reshape([batch, 1, height, width]))], 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Host;
    use crate::common::random::SplitMix64;
    use crate::params::host;
    use burn::tensor::TensorData;

    fn noise(shape: [usize; 4]) -> (Vec<f32>, Tensor<Host, 4>) {
        let mut random = SplitMix64::new(1);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.uniform(-1.0, 1.0)).collect();
        (values.clone(), Tensor::from_data(TensorData::new(values, shape), &Default::default()))
    }

    #[test]
    fn channels_are_the_published_ones() {
        let config = StyleConfig::new(256);
        let widths = [256, 128, 64, 32, 16, 8, 4].map(|size| config.width(size));
        assert_eq!(widths, [128, 256, 512, 512, 512, 512, 512]);
        let config = StyleConfig { channel_multiplier: 1, max_channels: 100, ..config };
        assert_eq!([256, 128, 4].map(|size| config.width(size)), [64, 100, 100]);
    }

    #[test]
    fn the_blur_is_its_definition() {
        let [height, width] = [6, 8];
        let (values, x) = noise([2, 3, height, width]);
        for (padding, stride) in [(2, 1), (1, 2)] {
            let y = blur(x.clone(), padding, stride);
            let [_, _, rows, columns] = y.dims();
            assert_eq!([rows, columns], if stride == 1 { [height + 1, width + 1] } else { [height / 2, width / 2] });
            for (i, y) in host(y).into_iter().enumerate() {
                let (plane, row, column) = (i / (rows * columns), i / columns % rows, i % columns);
                let mut expected = 0.0;
                for (a, down) in BLUR.iter().enumerate() {
                    for (b, right) in BLUR.iter().enumerate() {
                        let at = |index: usize, tap: usize, side: usize| {
                            (index * stride + tap).checked_sub(padding).filter(|&index| index < side)
                        };
                        if let (Some(r), Some(c)) = (at(row, a, height), at(column, b, width)) {
                            expected += down * right / 64.0 * values[(plane * height + r) * width + c];
                        }
                    }
                }
                assert!((y - expected).abs() < 1e-6, "{y} for {expected} at {i}");
            }
        }
    }

    #[test]
    fn the_deviation_is_that_of_every_second_image_where_two_groups_fit() {
        let (values, x) = noise([8, 2, 2, 2]);
        let y = host(with_stddev(x.clone()));
        let expected: [f32; 2] = core::array::from_fn(|group| {
            let deviation = |position: usize| {
                let of = |image: usize| f64::from(values[(group + 2 * image) * 8 + position]);
                let mean = (0..4).map(of).sum::<f64>() / 4.0;
                ((0..4).map(|image| (of(image) - mean).powi(2)).sum::<f64>() / 4.0 + 1e-8).sqrt()
            };
            ((0..8).map(deviation).sum::<f64>() / 8.0) as f32
        });
        for (image, y) in y.chunks_exact(12).enumerate() {
            assert_eq!(y[..8], values[image * 8..][..8]);
            assert!(y[8..].iter().all(|y| (y - expected[image % 2]).abs() < 1e-6), "{y:?}");
        }
        // Where fours do not divide the batch: one group of all seven, and three groups of five.
        for (batch, groups) in [(1, 1), (3, 1), (7, 1), (15, 3)] {
            let y = host(with_stddev(noise([batch, 1, 1, 1]).1));
            let mut deviations: Vec<u32> = y.chunks_exact(2).map(|pair| pair[1].to_bits()).collect();
            deviations.sort_unstable();
            deviations.dedup();
            assert_eq!(deviations.len(), groups, "{batch}");
        }
    }

    #[test]
    fn activations_keep_the_scale() {
        let device = Default::default();
        let y = activate(Tensor::<Host, 4>::from_data([[[[1.0_f32, -1.0]]]], &device));
        assert_eq!(host(y), [SQRT_2 as f32, -(0.2 * SQRT_2) as f32]);
    }
}
