//! A transformer's block (Dosovitskiy et al. 2021, eqs. 2 and 3): norms in front, as in 4M, ViT-VQGAN and CLIP.
//!
//! Field names are timm's (`norm1`, `attn.qkv`, `attn.proj`, `norm2`, `mlp.fc1`, `mlp.fc2`); a linear weight is
//! `[inputs, outputs]`, PyTorch's transposed.

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, activation, module};
use serde::{Deserialize, Serialize};

use super::macs::{Cost, Size, area};
pub use super::norms::LayerNorm;
use super::norms::{softmax, to};

/// What stands between the two layers of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `x · Φ(x)` (Hendrycks and Gimpel 2016).
    Gelu,
    /// `x · sigmoid(1.702 x)`, OpenAI's CLIP's.
    QuickGelu,
    /// The hyperbolic tangent, ViT-VQGAN's.
    Tanh,
}

impl Activation {
    /// Of each value.
    pub fn apply<B: Backend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::Gelu => activation::gelu(x),
            Self::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
            Self::Tanh => x.tanh(),
        }
    }
}

/// Sizes and variants of a block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockConfig {
    /// Channels of a token.
    pub dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// Channels of a head; times `heads` they need not be `dim`.
    pub head_dim: usize,
    /// Hidden channels of the MLP.
    pub mlp_dim: usize,
    /// The MLP's.
    pub activation: Activation,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Added to the norms' variance.
    pub norm_eps: f64,
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    /// In front of the attention.
    pub norm1: LayerNorm<B>,
    /// Between tokens.
    pub attn: SelfAttention<B>,
    /// In front of the MLP.
    pub norm2: LayerNorm<B>,
    /// Within tokens.
    pub mlp: Mlp<B>,
}

impl<B: Backend> Block<B> {
    /// Weights uniform by Xavier, biases zero.
    pub fn new(config: &BlockConfig, device: &B::Device) -> Self {
        Self {
            norm1: LayerNorm::new(config.dim, config.norm_eps, device),
            attn: SelfAttention::new(config, device),
            norm2: LayerNorm::new(config.dim, config.norm_eps, device),
            mlp: Mlp::new(config.dim, config.mlp_dim, config.activation, device),
        }
    }

    /// Tokens `[batch, tokens, dim]` to the same.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = x.clone() + self.attn.forward(self.norm1.forward(x));
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }

    pub(super) fn cost(&self, size: Size, cost: &mut Cost) {
        cost.layer_norm(&self.norm1);
        self.attn.cost(size, cost);
        cost.layer_norm(&self.norm2);
        self.mlp.cost(size, cost);
    }
}

/// `softmax(q kᵀ / √head_dim) v` in several heads (Vaswani et al. 2017, eq. 1).
#[derive(Module, Debug)]
pub struct SelfAttention<B: Backend> {
    /// To queries, keys and values, in this order, each head by head.
    pub qkv: Linear<B>,
    /// From all heads' values.
    pub proj: Linear<B>,
    heads: usize,
    head_dim: usize,
}

impl<B: Backend> SelfAttention<B> {
    fn new(config: &BlockConfig, device: &B::Device) -> Self {
        let BlockConfig { dim, heads, head_dim, .. } = *config;
        let inner = heads * head_dim;
        Self {
            // One layer in place of three, each drawn as if it stood alone.
            qkv: linear([dim, 3 * inner], xavier(dim, inner), config.qkv_bias, device),
            proj: linear([inner, dim], xavier(inner, dim), true, device),
            heads,
            head_dim,
        }
    }

    /// Tokens `[batch, tokens, dim]` to the same.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, tokens, _] = x.dims();
        let (heads, head_dim) = (self.heads, self.head_dim);
        let qkv = affine(&self.qkv, x).reshape([batch, tokens, 3, heads, head_dim]).permute([2, 0, 3, 1, 4]);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.clone().narrow(0, part, 1).reshape([batch, heads, tokens, head_dim]));
        // Scaled before the product, where there are fewer values.
        let scores = (q * (head_dim as f64).sqrt().recip()).matmul(k.swap_dims(2, 3));
        let values = softmax(scores).matmul(v).swap_dims(1, 2).reshape([batch, tokens, heads * head_dim]);
        affine(&self.proj, values)
    }

    fn cost(&self, size: Size, cost: &mut Cost) {
        cost.linear(&self.qkv, area(size));
        cost.attention(size, self.heads * self.head_dim);
        cost.linear(&self.proj, area(size));
    }
}

/// Two linear layers with an activation between them.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// To the hidden channels.
    pub fc1: Linear<B>,
    /// From them.
    pub fc2: Linear<B>,
    #[module(skip)]
    activation: Activation,
}

impl<B: Backend> Mlp<B> {
    /// Weights uniform by Xavier, biases zero.
    pub fn new(dim: usize, hidden: usize, activation: Activation, device: &B::Device) -> Self {
        Self {
            fc1: linear([dim, hidden], xavier(dim, hidden), true, device),
            fc2: linear([hidden, dim], xavier(hidden, dim), true, device),
            activation,
        }
    }

    /// The same with PyTorch's initial values of a linear layer, weights and biases U(±1/√inputs).
    pub(super) fn plain(dim: usize, hidden: usize, activation: Activation, device: &B::Device) -> Self {
        Self {
            fc1: LinearConfig::new(dim, hidden).init(device),
            fc2: LinearConfig::new(hidden, dim).init(device),
            activation,
        }
    }

    /// Tokens `[…, dim]` to the same.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        affine(&self.fc2, self.activation.apply(affine(&self.fc1, x)))
    }

    pub(super) fn cost(&self, size: Size, cost: &mut Cost) {
        cost.linear(&self.fc1, area(size));
        cost.linear(&self.fc2, area(size));
    }
}

/// U(±√(6 / (inputs + outputs))) (Glorot and Bengio 2010, eq. 16).
pub(super) fn xavier(inputs: usize, outputs: usize) -> Initializer {
    let bound = (6.0 / (inputs + outputs).max(1) as f64).sqrt();
    Initializer::Uniform { min: -bound, max: bound }
}

pub(super) fn linear<B: Backend>(
    [inputs, outputs]: [usize; 2],
    initializer: Initializer,
    bias: bool,
    device: &B::Device,
) -> Linear<B> {
    let weight = LinearConfig::new(inputs, outputs).with_bias(false).with_initializer(initializer).init(device).weight;
    Linear { weight, bias: bias.then(|| Initializer::Zeros.init([outputs], device)) }
}

/// `x · weight + bias` of each token `[…, inputs]`, in the type of `x`.
pub(super) fn affine<B: Backend, const D: usize>(layer: &Linear<B>, x: Tensor<B, D>) -> Tensor<B, D> {
    let (dtype, mut shape) = (x.dtype(), x.dims());
    let weight = to(dtype, layer.weight.val());
    let [inputs, outputs] = weight.dims();
    // As one matrix: with a batch dimension burn makes the weight's gradient once for each image, and then sums.
    let x = x.reshape([shape.iter().product::<usize>() / inputs.max(1), inputs]);
    let bias = layer.bias.as_ref().map(|bias| to(dtype, bias.val()));
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    module::linear(x, weight, bias).reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Host;
    use crate::params::{host, settle, tensors};
    use burn::tensor::TensorData;

    const CONFIG: BlockConfig = BlockConfig {
        dim: 4,
        heads: 2,
        head_dim: 3,
        mlp_dim: 5,
        activation: Activation::Gelu,
        qkv_bias: true,
        norm_eps: 1e-6,
    };

    fn tokens(batch: usize) -> Tensor<Host, 3> {
        let values: Vec<f32> = (0..batch * 20).map(|i| ((i * 7 % 13) as f32 - 6.0) / 5.0).collect();
        Tensor::from_data(TensorData::new(values, [batch, 5, 4]), &Default::default())
    }

    #[test]
    fn attention_is_its_definition() {
        let net = settle(SelfAttention::<Host>::new(&CONFIG, &Default::default()), 1);
        let qkv = host(affine(&net.qkv, tokens(1)));
        // Queries, keys and values of 2 heads of 3: 18 channels of each token.
        let of = |token: usize, part: usize, head: usize, c: usize| qkv[token * 18 + part * 6 + head * 3 + c];
        let mut mixed = vec![0.0; 5 * 6];
        for (i, mixed) in mixed.iter_mut().enumerate() {
            let (query, head, c) = (i / 6, i % 6 / 3, i % 3);
            let score = |key: usize| {
                let dot: f32 = (0..3).map(|c| of(query, 0, head, c) * of(key, 1, head, c)).sum();
                (dot / 3_f32.sqrt()).exp()
            };
            let total: f32 = (0..5).map(score).sum();
            *mixed = (0..5).map(|key| score(key) / total * of(key, 2, head, c)).sum();
        }
        let mixed = Tensor::<Host, 3>::from_data(TensorData::new(mixed, [1, 5, 6]), &Default::default());
        for (y, expected) in host(net.forward(tokens(1))).into_iter().zip(host(affine(&net.proj, mixed))) {
            assert!((y - expected).abs() < 1e-5, "{y} for {expected}");
        }
    }

    #[test]
    fn images_of_a_batch_do_not_meet() {
        let net = settle(Block::<Host>::new(&CONFIG, &Default::default()), 1);
        let both = host(net.forward(tokens(2)));
        let first = host(net.forward(tokens(2).narrow(0, 0, 1)));
        for (y, expected) in both.iter().zip(first) {
            assert!((y - expected).abs() < 1e-6, "{y} for {expected}");
        }
    }

    #[test]
    fn activations_are_the_named_ones() {
        let x = Tensor::<Host, 1>::from_data([-1.0_f32, 0.0, 2.0], &Default::default());
        for (activation, expected) in [
            (Activation::Gelu, [-0.158_655, 0.0, 1.954_5]),
            (Activation::QuickGelu, [-0.154_204, 0.0, 1.935_659]),
            (Activation::Tanh, [-0.761_594, 0.0, 0.964_028]),
        ] {
            for (y, expected) in host(activation.apply(x.clone())).into_iter().zip(expected) {
                assert!((y - expected).abs() < 2e-6, "{activation:?}: {y} for {expected}");
            }
        }
    }

    #[test]
    fn weights_are_drawn_by_xavier_and_biases_are_zero() {
        let config = BlockConfig { dim: 64, head_dim: 32, mlp_dim: 256, ..CONFIG };
        let drawn = tensors(&settle(Block::<Host>::new(&config, &Default::default()), 1));
        for (name, inputs, outputs) in
            [("attn.qkv", 64, 64), ("attn.proj", 64, 64), ("mlp.fc1", 64, 256), ("mlp.fc2", 256, 64)]
        {
            let bound = (6.0 / f64::from(inputs + outputs)).sqrt() as f32;
            let largest = drawn[&format!("{name}.weight")].values.iter().fold(0.0, |most: f32, w| most.max(w.abs()));
            assert!(largest <= bound && largest > 0.99 * bound, "{name}: {largest} of {bound}");
            assert!(drawn[&format!("{name}.bias")].values.iter().all(|&bias| bias == 0.0), "{name}");
        }
    }
}
