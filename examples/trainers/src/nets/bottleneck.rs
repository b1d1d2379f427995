//! 4M's encoder and decoder of vectors: the inverted-bottleneck MLP of Bachmann et al. 2023 ("Scaling MLPs", section 3).
//!
//! Field names are ml-4m's (`linear_in`, `blocks`, `layernorms`, `linear_out`), but that a block's layers are `fc1` and `fc2`.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::macs::Cost;
use super::transformer::{Activation, LayerNorm, Mlp, affine};
use crate::common::failure::Failure;

/// Added to the norms' variance: PyTorch's default, as 4M leaves it.
const EPSILON: f64 = 1e-5;

/// Sizes of a bottleneck MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BottleneckConfig {
    /// Blocks.
    pub blocks: usize,
    /// Channels between blocks.
    pub width: usize,
    /// Hidden channels of a block, as a multiple of `width`.
    pub ratio: usize,
}

impl BottleneckConfig {
    /// 4M's `BottleneckMLP/B_6-Wi_1024`.
    pub fn four_m() -> Self {
        Self { blocks: 6, width: 1024, ratio: 4 }
    }

    /// Checks that no size is 0.
    ///
    /// # Errors
    /// The size that is 0.
    pub fn check(&self) -> Result<(), Failure> {
        for (name, size) in [("blocks", self.blocks), ("width", self.width), ("ratio", self.ratio)] {
            if size == 0 {
                return Err(Failure::new(format!("bottleneck MLP: `{name}` is 0, expected at least 1")));
            }
        }
        Ok(())
    }

    /// The network from rows of `inputs` values to rows of `outputs`.
    pub fn init<B: Backend>(&self, inputs: usize, outputs: usize, device: &B::Device) -> BottleneckMlp<B> {
        BottleneckMlp::new(self, inputs, outputs, device)
    }
}

/// A linear layer, blocks `x + (gelu(norm(x) W₁) W₂)`, a linear layer; each row by itself.
#[derive(Module, Debug)]
pub struct BottleneckMlp<B: Backend> {
    /// To the channels between blocks.
    pub linear_in: Linear<B>,
    /// The blocks' layers.
    pub blocks: Vec<Mlp<B>>,
    /// In front of each block.
    pub layernorms: Vec<LayerNorm<B>>,
    /// To the outputs.
    pub linear_out: Linear<B>,
}

impl<B: Backend> BottleneckMlp<B> {
    /// With PyTorch's initial values, as 4M leaves them: U(±1/√inputs) of each layer.
    pub fn new(config: &BottleneckConfig, inputs: usize, outputs: usize, device: &B::Device) -> Self {
        let (width, hidden) = (config.width, config.width * config.ratio);
        Self {
            linear_in: LinearConfig::new(inputs, width).init(device),
            blocks: (0..config.blocks).map(|_| Mlp::plain(width, hidden, Activation::Gelu, device)).collect(),
            layernorms: (0..config.blocks).map(|_| LayerNorm::new(width, EPSILON, device)).collect(),
            linear_out: LinearConfig::new(width, outputs).init(device),
        }
    }

    /// Rows `[n, inputs]` to rows `[n, outputs]`.
    pub fn forward(&self, rows: Tensor<B, 2>) -> Tensor<B, 2> {
        let mut x = affine(&self.linear_in, rows);
        for (block, norm) in self.blocks.iter().zip(&self.layernorms) {
            x = x.clone() + block.forward(norm.forward(x));
        }
        affine(&self.linear_out, x)
    }

    /// Adds what one row costs.
    pub fn cost(&self, cost: &mut Cost) {
        cost.linear(&self.linear_in, 1);
        for (block, norm) in self.blocks.iter().zip(&self.layernorms) {
            cost.layer_norm(norm);
            block.cost([1, 1], cost);
        }
        cost.linear(&self.linear_out, 1);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::backend::Host;
    use crate::params::{HostTensor, counts, host, load_named, settle, tensors};

    /// Numbers that any program can make, of about ±1/2.
    fn formula(count: usize, factor: usize, modulus: usize) -> Vec<f32> {
        (0..count).map(|i| (i * factor % modulus) as f32 / modulus as f32 - 0.5).collect()
    }

    #[test]
    fn the_network_is_pytorchs() {
        let device = Default::default();
        let net = BottleneckConfig { blocks: 2, width: 4, ratio: 2 }.init::<Host>(3, 5, &device);
        let net = settle(net, 1);
        let mut named = tensors(&net);
        for (at, (_, tensor)) in named.iter_mut().enumerate() {
            *tensor = HostTensor {
                values: formula(tensor.values.len(), 7 + 2 * at, 31 + 6 * at),
                shape: tensor.shape.clone(),
            };
        }
        let net = load_named(net, &named, "a network").expect("the same shapes");
        let x = Tensor::from_data(TensorData::new(formula(6, 5, 29), [2, 3]), &device);
        let y = host(net.forward(x));
        assert_eq!(y.len(), GOLDEN.len());
        for (y, expected) in y.iter().zip(GOLDEN) {
            assert!((y - expected).abs() < 2e-6, "{y} for {expected}");
        }
    }

    // PyTorch 2 in f64: the same formulas for parameters by sorted name, linear weights transposed.
    const GOLDEN: [f32; 10] = [
        0.185_308_7,
        0.203_742_6,
        -0.086_823_5,
        -0.068_389_5,
        0.194_060_1,
        0.411_922_7,
        0.277_675_8,
        -0.132_232,
        -0.266_478_9,
        0.309_258_4,
    ];

    #[test]
    fn four_ms_sizes_are_counted() {
        // 768 → 1,024, six blocks of 1,024 → 4,096 → 1,024 with a norm each, 1,024 → 1,024.
        let net = BottleneckConfig::four_m().init::<Host>(768, 1024, &Default::default());
        let block = 2 * 1024 * 4096 + 4096 + 1024;
        let weights = 768 * 1024 + 1024 + 6 * block + 1024 * 1024 + 1024;
        let mut cost = Cost::default();
        net.cost(&mut cost);
        assert_eq!((cost.weights, cost.norms), (weights as u64, 6 * 2 * 1024));
        assert_eq!(cost.parameters(), counts(&net).values().sum::<usize>() as u64);
        assert_eq!(cost.macs(), (768 * 1024 + 6 * 2 * 1024 * 4096 + 1024 * 1024) as u64);
    }

    #[test]
    fn sizes_of_0_are_refused() {
        let good = BottleneckConfig::four_m();
        assert!(good.check().is_ok());
        for bad in [
            BottleneckConfig { blocks: 0, ..good },
            BottleneckConfig { width: 0, ..good },
            BottleneckConfig { ratio: 0, ..good },
        ] {
            assert!(bad.check().expect_err("a size of 0").to_string().contains("is 0"));
        }
    }
}
