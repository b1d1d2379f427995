//! The parts of taming-transformers' convolutional encoder and decoder, and of diffusion's UNets.
//!
//! Field names are that project's, so that its checkpoints load by name; only a norm's `weight` and `bias` are called
//! `gamma` and `beta` here. A UNet's blocks differ in their [`Style`].

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Initializer, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

use super::macs::{Cost, Size};
use super::norms::{group_norm, softmax, spread, to};

/// The most groups of a norm (Wu and He 2018).
const GROUPS: usize = 32;

/// The fewest channels of a group: those of the published networks' finest resolution, 128 / 32.
const GROUP_CHANNELS: usize = 4;

/// In what two kinds of networks differ that are made of the same blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Style {
    /// Added to a norm's variance.
    pub epsilon: f64,
    /// Channels of the time's embedding, where residual blocks take one.
    pub time: Option<usize>,
    /// Whether a residual block and an attention begin as the identity: their last layer's values are zeros.
    pub zero_last: bool,
}

impl Style {
    /// taming-transformers'.
    pub(super) const TAMING: Self = Self { epsilon: 1e-6, time: None, zero_last: false };

    /// The last layer of a block.
    fn last<B: Backend>(&self, conv: Conv2d<B>) -> Conv2d<B> {
        if self.zero_last { zeros(conv) } else { conv }
    }
}

/// The same convolution with zeros for initial values.
pub(super) fn zeros<B: Backend>(conv: Conv2d<B>) -> Conv2d<B> {
    let device = conv.weight.lazy_device();
    let weight = Initializer::Zeros.init(conv.weight.lazy_shape().dims::<4>(), &device);
    let bias = conv.bias.as_ref().map(|bias| Initializer::Zeros.init(bias.lazy_shape().dims::<1>(), &device));
    Conv2d { weight, bias, ..conv }
}

/// A square convolution, padded so that stride 1 keeps the size, with PyTorch's initial values U(±1/√fan_in).
pub(super) fn conv<B: Backend>(from: usize, to: usize, kernel: usize, device: &B::Device) -> Conv2d<B> {
    let side = kernel / 2;
    let padding = PaddingConfig2d::Explicit(side, side, side, side);
    Conv2dConfig::new([from, to], [kernel, kernel]).with_padding(padding).init(device)
}

/// Normalization in groups: the most that divide the channels, up to 32, of four channels or more each.
///
/// At the published 128 channels and more that is 32. Small networks would normalize each channel alone with 32 groups,
/// which takes away an image's mean colour; so 32 channels have eight groups, and fewer than four channels one.
pub(super) fn norm<B: Backend>(channels: usize, epsilon: f64, device: &B::Device) -> GroupNorm<B> {
    let most = GROUPS.min(channels / GROUP_CHANNELS);
    let groups = (2..=most).rev().find(|&groups| channels.is_multiple_of(groups)).unwrap_or(1);
    GroupNormConfig::new(groups, channels).with_epsilon(epsilon).init(device)
}

/// `x + conv(swish(norm(conv(swish(norm(x))))))`; a 1×1 convolution of `x` where the channels change. A UNet's adds `linear(swish(time))` to what
/// the first convolution returns.
#[derive(Module, Debug)]
pub(super) struct ResBlock<B: Backend> {
    norm1: GroupNorm<B>,
    conv1: Conv2d<B>,
    temb_proj: Option<Linear<B>>,
    norm2: GroupNorm<B>,
    conv2: Conv2d<B>,
    nin_shortcut: Option<Conv2d<B>>,
}

impl<B: Backend> ResBlock<B> {
    pub(super) fn new(from: usize, to: usize, style: &Style, device: &B::Device) -> Self {
        Self {
            norm1: norm(from, style.epsilon, device),
            conv1: conv(from, to, 3, device),
            temb_proj: style.time.map(|time| LinearConfig::new(time, to).init(device)),
            norm2: norm(to, style.epsilon, device),
            conv2: style.last(conv(to, to, 3, device)),
            nin_shortcut: (from != to).then(|| conv(from, to, 1, device)),
        }
    }

    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.forward_at(x, None)
    }

    /// With the time's embedding `[batch, channels]`, behind its activation.
    pub(super) fn forward_at(&self, x: Tensor<B, 4>, time: Option<&Tensor<B, 2>>) -> Tensor<B, 4> {
        let mut inner = self.conv1.forward(silu(group_norm(&self.norm1, x.clone())));
        if let (Some(time), Some(layer)) = (time, &self.temb_proj) {
            let [batch, channels, height, width] = inner.dims();
            let shift = to(inner.dtype(), layer.forward(time.clone())).reshape([batch * channels, 1]);
            inner = inner + spread(shift, height * width).reshape([batch, channels, height, width]);
        }
        let inner = self.conv2.forward(silu(group_norm(&self.norm2, inner)));
        let shortcut = match &self.nin_shortcut {
            Some(conv) => conv.forward(x),
            None => x,
        };
        shortcut + inner
    }

    pub(super) fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        cost.group_norm(&self.norm1);
        cost.group_norm(&self.norm2);
        if let Some(shortcut) = &self.nin_shortcut {
            cost.conv(shortcut, size);
        }
        if let Some(layer) = &self.temb_proj {
            cost.linear(layer, 1);
        }
        let size = cost.conv(&self.conv1, size);
        cost.conv(&self.conv2, size)
    }
}

/// `x + proj(attention(norm(x)))`, one head over all positions, scores scaled by 1/√channels (Vaswani et al. 2017, eq. 1).
#[derive(Module, Debug)]
pub(super) struct Attention<B: Backend> {
    norm: GroupNorm<B>,
    q: Conv2d<B>,
    k: Conv2d<B>,
    v: Conv2d<B>,
    proj_out: Conv2d<B>,
}

impl<B: Backend> Attention<B> {
    pub(super) fn new(channels: usize, style: &Style, device: &B::Device) -> Self {
        let pointwise = || conv(channels, channels, 1, device);
        let [q, k, v] = [(); 3].map(|()| pointwise());
        Self { norm: norm(channels, style.epsilon, device), q, k, v, proj_out: style.last(pointwise()) }
    }

    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [batch, channels, height, width] = x.dims();
        let inner = group_norm(&self.norm, x.clone());
        let [q, k, v] = [&self.q, &self.k, &self.v]
            .map(|conv| conv.forward(inner.clone()).reshape([batch, channels, height * width]));
        let scale = (channels as f64).sqrt().recip();
        let weights = softmax(q.swap_dims(1, 2).matmul(k) * scale);
        let inner = v.matmul(weights.swap_dims(1, 2)).reshape([batch, channels, height, width]);
        x + self.proj_out.forward(inner)
    }

    pub(super) fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        cost.group_norm(&self.norm);
        for pointwise in [&self.q, &self.k, &self.v, &self.proj_out] {
            cost.conv(pointwise, size);
        }
        let [channels, ..]: [usize; 4] = self.v.weight.lazy_shape().dims();
        cost.attention(size, channels);
        size
    }
}

/// A residual block, attention, a residual block.
#[derive(Module, Debug)]
pub(super) struct Middle<B: Backend> {
    block_1: ResBlock<B>,
    attn_1: Attention<B>,
    block_2: ResBlock<B>,
}

impl<B: Backend> Middle<B> {
    pub(super) fn new(channels: usize, style: &Style, device: &B::Device) -> Self {
        Self {
            block_1: ResBlock::new(channels, channels, style, device),
            attn_1: Attention::new(channels, style, device),
            block_2: ResBlock::new(channels, channels, style, device),
        }
    }

    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.forward_at(x, None)
    }

    /// With the time's embedding, as [`ResBlock::forward_at`].
    pub(super) fn forward_at(&self, x: Tensor<B, 4>, time: Option<&Tensor<B, 2>>) -> Tensor<B, 4> {
        self.block_2.forward_at(self.attn_1.forward(self.block_1.forward_at(x, time)), time)
    }

    pub(super) fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        let size = self.block_1.cost(size, cost);
        let size = self.attn_1.cost(size, cost);
        self.block_2.cost(size, cost)
    }
}

/// The residual blocks of one resolution, each with attention behind it or none, and the way to the next resolution.
#[derive(Module, Debug)]
pub(super) struct Level<B: Backend> {
    block: Vec<ResBlock<B>>,
    attn: Vec<Attention<B>>,
    downsample: Option<Downsample<B>>,
    upsample: Option<Upsample<B>>,
}

/// What follows the blocks of a resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Down,
    Up,
    Stay,
}

impl<B: Backend> Level<B> {
    pub(super) fn new([from, to]: [usize; 2], blocks: usize, attention: bool, then: Then, device: &B::Device) -> Self {
        Self {
            block: (0..blocks)
                .map(|i| ResBlock::new(if i == 0 { from } else { to }, to, &Style::TAMING, device))
                .collect(),
            attn: (0..if attention { blocks } else { 0 }).map(|_| Attention::new(to, &Style::TAMING, device)).collect(),
            downsample: (then == Then::Down).then(|| Downsample::new(to, device)),
            upsample: (then == Then::Up).then(|| Upsample::new(to, device)),
        }
    }

    pub(super) fn forward(&self, mut x: Tensor<B, 4>) -> Tensor<B, 4> {
        for (i, block) in self.block.iter().enumerate() {
            x = block.forward(x);
            if let Some(attention) = self.attn.get(i) {
                x = attention.forward(x);
            }
        }
        match (&self.downsample, &self.upsample) {
            (Some(down), _) => down.forward(x),
            (_, Some(up)) => up.forward(x),
            (None, None) => x,
        }
    }

    pub(super) fn cost(&self, mut size: Size, cost: &mut Cost) -> Size {
        for (i, block) in self.block.iter().enumerate() {
            size = block.cost(size, cost);
            if let Some(attention) = self.attn.get(i) {
                size = attention.cost(size, cost);
            }
        }
        match (&self.downsample, &self.upsample) {
            (Some(down), _) => down.cost(size, cost),
            (_, Some(up)) => up.cost(size, cost),
            (None, None) => size,
        }
    }
}

/// Half the size by a 3×3 convolution of stride 2, with zeros on the right and below only.
#[derive(Module, Debug)]
pub(super) struct Downsample<B: Backend> {
    conv: Conv2d<B>,
}

impl<B: Backend> Downsample<B> {
    pub(super) fn new(channels: usize, device: &B::Device) -> Self {
        let config = Conv2dConfig::new([channels, channels], [3, 3]).with_stride([2, 2]);
        Self { conv: config.with_padding(PaddingConfig2d::Explicit(2, 2, 2, 2)).init(device) }
    }

    /// With two zeros on all sides, without the first row and column of the result: burn pads one-sidedly in a copy of `x`, and
    /// in f32 only.
    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [_, _, height, width] = x.dims();
        self.conv.forward(x).narrow(2, 1, height / 2).narrow(3, 1, width / 2)
    }

    pub(super) fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        // As published, without the row and the column that are dropped.
        let half = size.map(|side| side / 2);
        cost.conv_to(&self.conv, half);
        half
    }
}

/// Twice the size: each value becomes a square of four, then a 3×3 convolution.
#[derive(Module, Debug)]
pub(super) struct Upsample<B: Backend> {
    conv: Conv2d<B>,
}

impl<B: Backend> Upsample<B> {
    pub(super) fn new(channels: usize, device: &B::Device) -> Self {
        Self { conv: conv(channels, channels, 3, device) }
    }

    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [_, _, height, width] = x.dims();
        let x = interpolate(x, [2 * height, 2 * width], InterpolateOptions::new(InterpolateMode::Nearest));
        self.conv.forward(x)
    }

    pub(super) fn cost(&self, [height, width]: Size, cost: &mut Cost) -> Size {
        cost.conv(&self.conv, [2 * height, 2 * width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Host;
    use crate::params::{HostTensor, host, load, settle};
    use burn::tensor::TensorData;

    fn ramp(shape: [usize; 4]) -> Tensor<Host, 4> {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| i as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), &Default::default())
    }

    #[test]
    fn groups_are_32_where_published_and_of_four_channels_below() {
        let groups = |channels| norm::<Host>(channels, 1e-6, &Default::default()).num_groups;
        for channels in [128, 256, 512] {
            assert_eq!(groups(channels), 32);
        }
        for (channels, expected) in [(64, 16), (32, 8), (16, 4), (12, 3), (4, 1), (3, 1), (1, 1), (37, 1), (160, 32)] {
            assert_eq!(groups(channels), expected, "{channels} channels");
        }
    }

    /// A module whose one convolution picks the tap `tap` of its single channel.
    fn picking<M: Module<Host>>(module: M, tap: usize) -> M {
        let pick = |name: &str| {
            let weight = (0..9).map(|i| if i == tap { 1.0 } else { 0.0 }).collect();
            Ok(match name {
                "conv.weight" => HostTensor { shape: vec![1, 1, 3, 3], values: weight },
                _ => HostTensor { shape: vec![1], values: vec![0.0] },
            })
        };
        load(module, pick).expect("one channel")
    }

    #[test]
    fn halving_pads_on_the_right_and_below() {
        let device = Default::default();
        for [height, width] in [[4, 6], [5, 7]] {
            for tap in 0..9 {
                let y = picking(Downsample::<Host>::new(1, &device), tap).forward(ramp([1, 1, height, width]));
                let [rows, columns] = [height / 2, width / 2];
                assert_eq!(y.dims(), [1, 1, rows, columns]);
                for (i, y) in host(y).into_iter().enumerate() {
                    let (row, column) = (i / columns * 2 + tap / 3, i % columns * 2 + tap % 3);
                    let inside = row < height && column < width;
                    assert_eq!(y, if inside { (row * width + column) as f32 } else { 0.0 }, "tap {tap} at {i}");
                }
            }
        }
    }

    #[test]
    fn doubling_repeats_each_value() {
        let y = picking(Upsample::<Host>::new(1, &Default::default()), 4).forward(ramp([1, 1, 2, 3]));
        let row = |a: f32, b: f32, c: f32| [a, a, b, b, c, c];
        let expected = [row(0.0, 1.0, 2.0), row(0.0, 1.0, 2.0), row(3.0, 4.0, 5.0), row(3.0, 4.0, 5.0)];
        assert_eq!(host(y), expected.concat());
    }

    #[test]
    fn attention_is_its_definition() {
        let (channels, tokens) = (4, 6);
        let net = settle(Attention::<Host>::new(channels, &Style::TAMING, &Default::default()), 3);
        let x = ramp([1, channels, 2, 3]) * 0.3;
        let inner = group_norm(&net.norm, x.clone());
        let [q, k, v] = [&net.q, &net.k, &net.v].map(|conv| host(conv.forward(inner.clone())));
        let mut mixed = vec![0.0; channels * tokens];
        for query in 0..tokens {
            let score = |key: usize| {
                let dot: f32 = (0..channels).map(|c| q[c * tokens + query] * k[c * tokens + key]).sum();
                (dot / (channels as f32).sqrt()).exp()
            };
            let total: f32 = (0..tokens).map(score).sum();
            for c in 0..channels {
                mixed[c * tokens + query] = (0..tokens).map(|key| score(key) / total * v[c * tokens + key]).sum();
            }
        }
        let mixed = Tensor::from_data(TensorData::new(mixed, [1, channels, 2, 3]), &Default::default());
        let expected = host(x.clone() + net.proj_out.forward(mixed));
        for (y, expected) in host(net.forward(x)).into_iter().zip(expected) {
            assert!((y - expected).abs() < 1e-5, "{y} for {expected}");
        }
    }
}
