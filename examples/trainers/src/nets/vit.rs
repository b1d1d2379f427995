//! Transformers as encoder and decoder: those of 4M (Mizrahi et al. 2023) and of ViT-VQGAN (Yu et al. 2022).

use burn::module::Module;
use burn::nn::Initializer;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::backend::Backend;
use burn::tensor::module::{conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::blocks::conv;
use super::cnn::COLOURS;
use super::macs::{Cost, Size};
use super::norms::to;
use super::transformer::{Activation, Block, BlockConfig, LayerNorm, Mlp, xavier};
use super::{Decoder, Encoder};
use crate::common::failure::Failure;

/// Sizes and variants of a transformer over an image's patches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Height and width of the images, pixels.
    pub image_size: usize,
    /// Height and width of a patch, which becomes a token.
    pub patch: usize,
    /// Channels of a token.
    pub dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Channels of a head; times `heads` they need not be `dim`.
    pub head_dim: usize,
    /// Hidden channels of the MLPs, as a multiple of `dim`.
    pub mlp_ratio: usize,
    /// The blocks' activation.
    pub activation: Activation,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Added to the norms' variance.
    pub norm_eps: f64,
    /// Whether a norm follows the blocks.
    pub final_norm: bool,
    /// Whether `x + mlp(norm(x))` with tanh follows the blocks.
    pub post_mlp: bool,
}

impl VitConfig {
    /// 4M's kind of transformer, of any size: bias, GELU, no norm at the end but an MLP with tanh.
    pub fn new(image_size: usize, patch: usize, dim: usize, depth: usize, heads: usize) -> Self {
        Self {
            image_size,
            patch,
            dim,
            depth,
            heads,
            head_dim: dim / heads.max(1),
            mlp_ratio: 4,
            activation: Activation::Gelu,
            qkv_bias: true,
            norm_eps: 1e-6,
            final_norm: false,
            post_mlp: true,
        }
    }

    /// 4M's ViT-B of patches of 16: 224 px to 14 × 14 tokens.
    pub fn vit_b() -> Self {
        Self::new(224, 16, 768, 12, 12)
    }

    /// ViT-VQGAN's kind, as in enhancing-transformers: heads of 64, no bias, tanh, a norm at the end, patches of 8 of 256 px.
    ///
    /// There the way back to pixels has one bias for each colour, here one for each value of a patch; and of a token's
    /// channels the first half tells the row, there the column.
    pub fn vit_vqgan(dim: usize, depth: usize, heads: usize) -> Self {
        Self {
            head_dim: 64,
            activation: Activation::Tanh,
            qkv_bias: false,
            norm_eps: 1e-5,
            final_norm: true,
            post_mlp: false,
            ..Self::new(256, 8, dim, depth, heads)
        }
    }

    /// Checks that images of `image_size` are whole patches and that the channels can tell rows from columns.
    ///
    /// # Errors
    /// The setting that does not fit, and what would do.
    pub fn check(&self) -> Result<(), Failure> {
        let Self { image_size, patch, dim, heads, head_dim, .. } = *self;
        let sizes = [
            ("image_size", image_size),
            ("patch", patch),
            ("dim", dim),
            ("depth", self.depth),
            ("heads", heads),
            ("head_dim", head_dim),
            ("mlp_ratio", self.mlp_ratio),
        ];
        for (name, size) in sizes {
            if size == 0 {
                return Err(Failure::new(format!("ViT: `{name}` is 0, expected at least 1")));
            }
        }
        if !image_size.is_multiple_of(patch) {
            return Err(Failure::new(format!(
                "ViT: images of {image_size} px are not whole patches of {patch} px: choose a multiple of {patch}"
            )));
        }
        if !dim.is_multiple_of(4) {
            return Err(Failure::new(format!(
                "ViT: {dim} channels cannot hold sines and cosines of rows and of columns: choose a multiple of 4"
            )));
        }
        if self.norm_eps.is_nan() || self.norm_eps <= 0.0 {
            return Err(Failure::new(format!("ViT: `norm_eps` is {}, expected a positive number", self.norm_eps)));
        }
        Ok(())
    }

    /// Pixels of an image's side to one token.
    pub fn downsampling(&self) -> usize {
        self.patch
    }

    /// From images to latents of `dim` channels, one for each token.
    pub fn encoder<B: Backend>(&self, dim: usize, device: &B::Device) -> Encoder<B> {
        Encoder::Vit(VitEncoder::new(self, dim, device))
    }

    /// From latents of `dim` channels to images.
    pub fn decoder<B: Backend>(&self, dim: usize, device: &B::Device) -> Decoder<B> {
        Decoder::Vit(VitDecoder::new(self, dim, device))
    }

    fn grid(&self) -> usize {
        self.image_size / self.patch.max(1)
    }
}

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
    /// From images to `dim` channels.
    pub fn new(config: &VitConfig, dim: usize, device: &B::Device) -> Self {
        let patch = [config.patch, config.patch];
        // Drawn as the linear layer over a patch's values that it is.
        let initializer = xavier(COLOURS * config.patch * config.patch, config.dim);
        let proj = Conv2dConfig::new([COLOURS, config.dim], patch).with_stride(patch).with_initializer(initializer);
        Self {
            proj: with_zero_bias(proj.init(device), config.dim, device),
            trunk: Trunk::new(config, device),
            quant_proj: conv(config.dim, dim, 1, device),
        }
    }

    /// Latents `[batch, dim, h, w]` of images `[batch, 3, height, width]` in [-1, 1].
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
    patch: usize,
}

impl<B: Backend> VitDecoder<B> {
    /// From `dim` channels to images.
    pub fn new(config: &VitConfig, dim: usize, device: &B::Device) -> Self {
        let values = COLOURS * config.patch * config.patch;
        let out = Conv2dConfig::new([config.dim, values], [1, 1]).with_initializer(xavier(config.dim, values));
        Self {
            post_quant_proj: conv(dim, config.dim, 1, device),
            trunk: Trunk::new(config, device),
            out_proj: with_zero_bias(out.init(device), values, device),
            patch: config.patch,
        }
    }

    /// All but the last layer: latents `[batch, dim, h, w]` to tokens `[batch, channels, h, w]`.
    pub fn trunk(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        self.trunk.forward(self.post_quant_proj.forward(latents))
    }

    /// The last layer, linear over each token, as a 1×1 convolution to a patch's values.
    pub fn last_layer(&self) -> &Conv2d<B> {
        &self.out_proj
    }

    /// Images from the trunk's output, by other values for the last layer's.
    pub fn head(&self, trunk: Tensor<B, 4>, weight: Tensor<B, 4>, bias: Tensor<B, 1>) -> Tensor<B, 4> {
        unpatchify(conv2d(trunk, weight, Some(bias), ConvOptions::new([1, 1], [0, 0], [1, 1], 1)), self.patch)
    }

    /// Adds what one image costs whose latents are of `size`, and returns the image's size.
    pub fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        let size = cost.conv(&self.post_quant_proj, size);
        self.trunk.cost(size, cost);
        cost.conv(&self.out_proj, size).map(|tokens| tokens * self.patch)
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
