//! Transformers as encoder and decoder: those of 4M (Mizrahi et al. 2023) and of ViT-VQGAN (Yu et al. 2022).

use burn::module::Module;
use burn::nn::Initializer;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::backend::Backend;
use burn::tensor::module::{conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Tensor, TensorData};

use super::blocks::conv;
use super::convnext::ConvNextBlock;
use super::macs::{Cost, Size};
use super::norms::to;
use super::transformer::{Activation, Block, BlockConfig, LayerNorm, Mlp, xavier};

mod config;

pub use config::{OutConv, VitConfig};

/// Positions, blocks, and what follows them.
#[derive(Module, Debug)]
struct Trunk<B: Backend> {
    /// `[1, dim, grid, grid]`, not trained.
    positions: Tensor<B, 4>,
    blocks: Vec<Block<B>>,
    norm: Option<LayerNorm<B>>,
    norm_mlp: Option<LayerNorm<B>>,
    post_mlp: Option<Mlp<B>>,
}

impl<B: Backend> Trunk<B> {
    fn new(config: &VitConfig, device: &B::Device) -> Self {
        let hidden = config.dim * config.mlp_ratio;
        let block = BlockConfig {
            dim: config.dim,
            heads: config.heads,
            head_dim: config.head_dim,
            mlp_dim: hidden,
            activation: config.activation,
            qkv_bias: config.qkv_bias,
            norm_eps: config.norm_eps,
        };
        let norm = || LayerNorm::new(config.dim, config.norm_eps, device);
        Self {
            positions: Tensor::from_data(positions(config.dim, config.grid()), (device, DType::F32)),
            blocks: (0..config.depth).map(|_| Block::new(&block, device)).collect(),
            norm: config.final_norm.then(norm),
            norm_mlp: config.post_mlp.then(norm),
            post_mlp: config.post_mlp.then(|| Mlp::new(config.dim, hidden, Activation::Tanh, device)),
        }
    }

    /// `[batch, dim, h, w]` to the same. Grids of another size get the table resized, as in 4M.
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let (dtype, [batch, dim, height, width]) = (x.dtype(), x.dims());
        let [_, _, rows, columns] = self.positions.dims();
        let positions = if [rows, columns] == [height, width] {
            self.positions.clone()
        } else {
            let options = InterpolateOptions::new(InterpolateMode::Bicubic).with_align_corners(false);
            interpolate(self.positions.clone(), [height, width], options)
        };
        let x = x + to(dtype, positions);
        let mut x = x.reshape([batch, dim, height * width]).swap_dims(1, 2);
        for block in &self.blocks {
            x = block.forward(x);
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(x);
        }
        if let (Some(norm), Some(mlp)) = (&self.norm_mlp, &self.post_mlp) {
            // In f32, as in 4M: here the codes are decided.
            let wide = to(DType::F32, x);
            x = to(dtype, wide.clone() + mlp.forward(norm.forward(wide)));
        }
        x.swap_dims(1, 2).reshape([batch, dim, height, width])
    }

    fn cost(&self, size: Size, cost: &mut Cost) {
        for block in &self.blocks {
            block.cost(size, cost);
        }
        for norm in self.norm.iter().chain(&self.norm_mlp) {
            cost.layer_norm(norm);
        }
        if let Some(mlp) = &self.post_mlp {
            mlp.cost(size, cost);
        }
    }
}

/// Sines and cosines of a token's row, then of its column, in `dim / 4` frequencies each from 1 to almost 1/10,000 (Chen et al. 2021,
/// MoCo v3): `[1, dim, grid, grid]`.
fn positions(dim: usize, grid: usize) -> TensorData {
    let frequencies = dim / 4;
    let mut values = vec![0.0; dim * grid * grid];
    for (channel, plane) in values.chunks_exact_mut((grid * grid).max(1)).enumerate() {
        let (part, index) = (channel / frequencies.max(1), channel % frequencies.max(1));
        let omega = 10_000_f64.powf(-(index as f64) / frequencies.max(1) as f64);
        for (token, value) in plane.iter_mut().enumerate() {
            let position = if part < 2 { token / grid } else { token % grid };
            let angle = position as f64 * omega;
            *value = if part.is_multiple_of(2) { angle.sin() } else { angle.cos() } as f32;
        }
    }
    TensorData::new(values, [1, dim, grid, grid])
}

/// The encoder, with the 1×1 convolution to the codes' width.
#[derive(Module, Debug)]
pub struct VitEncoder<B: Backend> {
    proj: Conv2d<B>,
    trunk: Trunk<B>,
    quant_proj: Conv2d<B>,
}

impl<B: Backend> VitEncoder<B> {
    /// From images of the configuration's channels to `dim` channels.
    pub fn new(config: &VitConfig, dim: usize, device: &B::Device) -> Self {
        let patch = [config.patch, config.patch];
        // Drawn as the linear layer over a patch's values that it is.
        let initializer = xavier(config.channels * config.patch * config.patch, config.dim);
        let proj = Conv2dConfig::new([config.channels, config.dim], patch);
        let proj = proj.with_stride(patch).with_initializer(initializer);
        Self {
            proj: with_zero_bias(proj.init(device), config.dim, device),
            trunk: Trunk::new(config, device),
            quant_proj: conv(config.dim, dim, 1, device),
        }
    }

    /// Latents `[batch, dim, h, w]` of images `[batch, channels, height, width]`, of numbers of about 1.
    pub fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        self.quant_proj.forward(self.trunk.forward(self.proj.forward(images)))
    }

    /// Adds what one image of `size` costs, and returns the size of its latents.
    pub fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        let size = cost.conv(&self.proj, size);
        self.trunk.cost(size, cost);
        cost.conv(&self.quant_proj, size)
    }
}

/// The decoder, with the 1×1 convolution from the codes' width.
#[derive(Module, Debug)]
pub struct VitDecoder<B: Backend> {
    post_quant_proj: Conv2d<B>,
    trunk: Trunk<B>,
    out_proj: Conv2d<B>,
    /// Behind the patches, and the way from their channels to the output's.
    out_conv: Vec<ConvNextBlock<B>>,
    out_conv_proj: Option<Conv2d<B>>,
    patch: usize,
}

impl<B: Backend> VitDecoder<B> {
    /// From `dim` channels to images of the configuration's channels.
    pub fn new(config: &VitConfig, dim: usize, device: &B::Device) -> Self {
        let OutConv { blocks, width } = config.out_conv.unwrap_or(OutConv { blocks: 0, width: config.channels });
        let values = width * config.patch * config.patch;
        let out = Conv2dConfig::new([config.dim, values], [1, 1]).with_initializer(xavier(config.dim, values));
        Self {
            post_quant_proj: conv(dim, config.dim, 1, device),
            trunk: Trunk::new(config, device),
            out_proj: with_zero_bias(out.init(device), values, device),
            out_conv: (0..blocks).map(|_| ConvNextBlock::new(width, device)).collect(),
            out_conv_proj: (width != config.channels).then(|| conv(width, config.channels, 1, device)),
            patch: config.patch,
        }
    }

    /// All but the last layer: latents `[batch, dim, h, w]` to tokens `[batch, channels, h, w]`.
    pub fn trunk(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        self.trunk.forward(self.post_quant_proj.forward(latents))
    }

    /// The last layer, linear over each token, as a 1×1 convolution to a patch's values. [`OutConv`], if any, is behind it.
    pub fn last_layer(&self) -> &Conv2d<B> {
        &self.out_proj
    }

    /// Images from the trunk's output, by other values for the last layer's.
    pub fn head(&self, trunk: Tensor<B, 4>, weight: Tensor<B, 4>, bias: Tensor<B, 1>) -> Tensor<B, 4> {
        let patches = conv2d(trunk, weight, Some(bias), ConvOptions::new([1, 1], [0, 0], [1, 1], 1));
        let images = self.out_conv.iter().fold(unpatchify(patches, self.patch), |x, block| block.forward(x));
        match &self.out_conv_proj {
            Some(conv) => conv.forward(images),
            None => images,
        }
    }

    /// Adds what one image costs whose latents are of `size`, and returns the image's size.
    pub fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        let size = cost.conv(&self.post_quant_proj, size);
        self.trunk.cost(size, cost);
        let size = cost.conv(&self.out_proj, size).map(|tokens| tokens * self.patch);
        for block in &self.out_conv {
            block.cost(size, cost);
        }
        if let Some(conv) = &self.out_conv_proj {
            cost.conv(conv, size);
        }
        size
    }
}

fn with_zero_bias<B: Backend>(conv: Conv2d<B>, outputs: usize, device: &B::Device) -> Conv2d<B> {
    Conv2d { bias: Some(Initializer::Zeros.init([outputs], device)), ..conv }
}

/// Patches side by side: `[batch, c·p·p, h, w]` to `[batch, c, h·p, w·p]`; a patch's values are colour by colour, row by row.
pub fn unpatchify<B: Backend>(patches: Tensor<B, 4>, patch: usize) -> Tensor<B, 4> {
    let [batch, values, height, width] = patches.dims();
    let channels = values / (patch * patch).max(1);
    let x = patches.reshape([batch, channels, patch, patch, height, width]).permute([0, 1, 4, 2, 5, 3]);
    x.reshape([batch, channels, height * patch, width * patch])
}

/// The way back: `[batch, c, h·p, w·p]` to `[batch, c·p·p, h, w]`.
pub fn patchify<B: Backend>(images: Tensor<B, 4>, patch: usize) -> Tensor<B, 4> {
    let [batch, channels, height, width] = images.dims();
    let (rows, columns) = (height / patch.max(1), width / patch.max(1));
    let x = images.reshape([batch, channels, rows, patch, columns, patch]).permute([0, 1, 3, 5, 2, 4]);
    x.reshape([batch, channels * patch * patch, rows, columns])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_sines_and_cosines_of_rows_then_columns() {
        let (dim, grid) = (8, 3);
        let table = positions(dim, grid);
        assert_eq!(table.shape.to_vec(), [1, dim, grid, grid]);
        let table = table.into_vec::<f32>().expect("f32");
        let at = |channel: usize, row: usize, column: usize| table[(channel * grid + row) * grid + column];
        // Frequencies 1 and 10,000^(-1/2) = 0.01.
        for (row, column) in [(0, 0), (1, 2), (2, 1)] {
            let (r, c) = (row as f32, column as f32);
            let expected = [r.sin(), (0.01 * r).sin(), r.cos(), (0.01 * r).cos()];
            let expected = [expected, [c.sin(), (0.01 * c).sin(), c.cos(), (0.01 * c).cos()]].concat();
            for (channel, expected) in expected.into_iter().enumerate() {
                assert!((at(channel, row, column) - expected).abs() < 1e-6, "channel {channel}");
            }
        }
    }
}
