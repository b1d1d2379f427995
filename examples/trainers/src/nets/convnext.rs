//! A ConvNeXt block (Liu et al. 2022, figure 4), as 4M puts two of them behind a decoder's patches.
//!
//! Field names are the published code's (`dwconv`, `norm`, `pwconv1`, `pwconv2`, `gamma`).

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, Linear, PaddingConfig2d};
use burn::tensor::Tensor;
use burn::tensor::activation::gelu;
use burn::tensor::backend::Backend;

use super::macs::{Cost, Size, area};
use super::norms::to;
use super::transformer::{LayerNorm, affine, linear, xavier};

/// Height and width of the channelwise convolution.
const KERNEL: usize = 7;

/// Added to the norm's variance.
const EPSILON: f64 = 1e-6;

/// What a block's own branch is multiplied by at the start (Touvron et al. 2021, LayerScale).
const LAYER_SCALE: f64 = 1e-6;

/// `x + γ · (gelu(norm(channelwise 7×7 (x)) W₁) W₂)`, the norm over the channels of each position, 4 times as many channels between.
#[derive(Module, Debug)]
pub struct ConvNextBlock<B: Backend> {
    /// Over each channel alone.
    pub dwconv: Conv2d<B>,
    /// Over the channels of a position.
    pub norm: LayerNorm<B>,
    /// To four times the channels.
    pub pwconv1: Linear<B>,
    /// And back.
    pub pwconv2: Linear<B>,
    /// Scale of each channel.
    pub gamma: Param<Tensor<B, 1>>,
}

impl<B: Backend> ConvNextBlock<B> {
    /// Of so many channels. Linear weights uniform by Xavier and biases zero, the convolution as PyTorch draws it.
    pub fn new(channels: usize, device: &B::Device) -> Self {
        let (side, hidden) = (KERNEL / 2, 4 * channels);
        let dwconv = Conv2dConfig::new([channels, channels], [KERNEL, KERNEL]).with_groups(channels);
        Self {
            dwconv: dwconv.with_padding(PaddingConfig2d::Explicit(side, side, side, side)).init(device),
            norm: LayerNorm::new(channels, EPSILON, device),
            pwconv1: linear([channels, hidden], xavier(channels, hidden), true, device),
            pwconv2: linear([hidden, channels], xavier(hidden, channels), true, device),
            gamma: Initializer::Constant { value: LAYER_SCALE }.init([channels], device),
        }
    }

    /// `[batch, channels, height, width]` to the same.
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let dtype = x.dtype();
        let [_, channels, _, _] = x.dims();
        let inner = self.norm.forward(self.dwconv.forward(x.clone()).permute([0, 2, 3, 1]));
        let inner = affine(&self.pwconv2, gelu(affine(&self.pwconv1, inner)));
        let scaled = inner * to(dtype, self.gamma.val()).reshape([1, 1, 1, channels]);
        x + scaled.permute([0, 3, 1, 2])
    }

    pub(super) fn cost(&self, size: Size, cost: &mut Cost) {
        cost.conv(&self.dwconv, size);
        cost.layer_norm(&self.norm);
        cost.linear(&self.pwconv1, area(size));
        cost.linear(&self.pwconv2, area(size));
        cost.weights += self.gamma.lazy_shape().num_elements() as u64;
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::backend::Host;
    use crate::params::{HostTensor, host, load_named, settle, tensors};

    /// Numbers that any program can make, of about ±1.
    fn formula(count: usize, factor: usize, modulus: usize) -> Vec<f32> {
        (0..count).map(|i| (i * factor % modulus) as f32 / modulus as f32 * 2.0 - 1.0).collect()
    }

    #[test]
    fn a_block_is_pytorchs() {
        let device = Default::default();
        let block = settle(ConvNextBlock::<Host>::new(2, &device), 1);
        let mut named = tensors(&block);
        for (at, (_, tensor)) in named.iter_mut().enumerate() {
            *tensor = HostTensor {
                values: formula(tensor.values.len(), 7 + 2 * at, 31 + 6 * at),
                shape: tensor.shape.clone(),
            };
        }
        let block = load_named(block, &named, "a block").expect("the same shapes");
        let x = Tensor::from_data(TensorData::new(formula(2 * 2 * 3 * 4, 5, 29), [2, 2, 3, 4]), &device);
        let y = host(block.forward(x));
        for (at, expected) in GOLDEN {
            assert!((y[at] - expected).abs() < 2e-5, "{at}: {} for {expected}", y[at]);
        }
    }

    // PyTorch 2 in f64: the same formulas for parameters by sorted name, linear weights transposed.
    const GOLDEN: [(usize, f32); 7] = [
        (0, 0.835_248_2),
        (7, 0.676_447_6),
        (14, 0.798_388_3),
        (21, 1.212_173_3),
        (28, 1.917_828_3),
        (35, 0.331_618_5),
        (42, 0.453_558_6),
    ];

    #[test]
    fn a_block_starts_as_almost_nothing() {
        let device = Default::default();
        let block = settle(ConvNextBlock::<Host>::new(3, &device), 1);
        let values = formula(2 * 3 * 5 * 5, 11, 37);
        let x = Tensor::from_data(TensorData::new(values.clone(), [2, 3, 5, 5]), &device);
        for (y, x) in host(block.forward(x)).iter().zip(&values) {
            assert!((y - x).abs() < 1e-4, "{y} for {x}");
        }
    }

    #[test]
    fn over_one_channel_the_norm_leaves_a_constant() {
        let device = Default::default();
        let block = settle(ConvNextBlock::<Host>::new(1, &device), 1);
        let mut named = tensors(&block);
        named.insert("gamma".into(), HostTensor { shape: vec![1], values: vec![1.0] });
        named.insert("norm.beta".into(), HostTensor { shape: vec![1], values: vec![0.7] });
        let block = load_named(block, &named, "a block").expect("the same shapes");
        let values = formula(36, 11, 37);
        let x = Tensor::from_data(TensorData::new(values.clone(), [1, 1, 6, 6]), &device);
        let added: Vec<f32> = host(block.forward(x)).iter().zip(&values).map(|(y, x)| y - x).collect();
        assert!(added.iter().all(|a| (a - added[0]).abs() < 1e-5) && added[0] != 0.0, "{added:?}");
    }
}
