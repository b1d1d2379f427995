//! The vision tower of OpenAI's CLIP (Radford et al. 2021): a transformer over patches of an image.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::layers::{Channelwise, FrozenConv};
use super::weights::{Weights, frozen};
use crate::common::Failure;
use crate::nets::transformer::{Activation, Block, BlockConfig, LayerNorm};

/// Channels of an attention head, in all of OpenAI's towers.
const HEAD: usize = 64;

/// Channels of the widest of OpenAI's towers; wider ones of other projects have other heads.
const LARGEST_WIDTH: usize = 1024;

/// Added to the norms' variance.
const EPSILON: f64 = 1e-5;

/// The tower, with quick GELUs, and the projection to the space that images and texts share.
#[derive(Module, Debug)]
pub struct ClipVision<B: Backend> {
    input: Channelwise<B>,
    patches: FrozenConv<B>,
    /// `[1, 1, dim]`
    class: Param<Tensor<B, 3>>,
    /// `[1, 1 + patches, dim]`
    positions: Param<Tensor<B, 3>>,
    norm_before: LayerNorm<B>,
    blocks: Vec<Block<B>>,
    norm_after: LayerNorm<B>,
    /// `[dim, width]`
    projection: Param<Tensor<B, 2>>,
    patch: usize,
    grid: usize,
}

impl<B: Backend> ClipVision<B> {
    /// Whether a file has such a tower.
    pub(super) fn is_in(weights: &Weights) -> bool {
        [Names::Huggingface, Names::Openai].into_iter().any(|names| weights.has(names.class()))
    }

    /// Reads a tower of any of OpenAI's sizes, which is told from the tensors' shapes; names are Hugging Face's
    /// (`vision_model.…`) or OpenAI's (`visual.…`).
    ///
    /// # Errors
    /// Missing, misshaped or non-float tensors, by name, and sizes that are not of OpenAI's towers.
    pub fn load(weights: &mut Weights, device: &B::Device) -> Result<Self, Failure> {
        let names = if weights.has(Names::Openai.class()) { Names::Openai } else { Names::Huggingface };
        let [dim, _, patch, _] = weights.shape(names.patches())?;
        let [tokens, _] = weights.shape(names.positions())?;
        let grid = tokens.saturating_sub(1).isqrt();
        if dim == 0 || !dim.is_multiple_of(HEAD) || dim > LARGEST_WIDTH {
            let why =
                format!("has {dim} channels, expected a multiple of {HEAD} up to {LARGEST_WIDTH}, as OpenAI's towers");
            return Err(weights.refuse(names.patches(), &why));
        }
        if patch == 0 || grid == 0 || grid * grid + 1 != tokens {
            let why = format!("has {tokens} rows, expected 1 and the patches of a square image");
            return Err(weights.refuse(names.positions(), &why));
        }
        let depth = (0..).take_while(|&layer| weights.has(&names.in_layer(layer, names.norm1(), "weight"))).count();
        let blocks = (0..depth).map(|layer| block(weights, names, layer, dim, device)).collect::<Result<_, _>>()?;
        Ok(Self {
            input: Channelwise::clip(device),
            patches: FrozenConv::load_unbiased(weights, names.patches(), [dim, 3, patch, patch], [patch, 0], device)?,
            class: frozen("class", weights.values(names.class(), &[dim])?, [1, 1, dim], device),
            positions: frozen(
                "positions",
                weights.values(names.positions(), &[tokens, dim])?,
                [1, tokens, dim],
                device,
            ),
            norm_before: norm(weights, names.norm_before(), dim, device)?,
            blocks,
            norm_after: norm(weights, names.norm_after(), dim, device)?,
            projection: names.projection(weights, dim, device)?,
            patch,
            grid,
        })
    }

    /// Features `[batch, width, grid, grid]` of images `[batch, 3, input, input]` in [-1, 1]: every patch's token after the
    /// last norm and the projection; the class token is dropped.
    pub(super) fn patch_features(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let (batch, grid) = (images.dims()[0], self.grid);
        let patches = self.patches.forward(self.input.forward(images)).flatten::<3>(2, 3).swap_dims(1, 2);
        let class = self.class.val().repeat_dim(0, batch);
        let x = self.norm_before.forward(Tensor::cat(vec![class, patches], 1) + self.positions.val());
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x)).narrow(1, 1, grid * grid);
        let x = self.norm_after.forward(x).matmul(self.projection.val().unsqueeze());
        x.swap_dims(1, 2).reshape([batch, self.width(), grid, grid])
    }

    /// Channels of a patch's features.
    pub(super) fn width(&self) -> usize {
        self.projection.dims()[1]
    }

    /// Height and width of its images, in pixels.
    pub(super) fn input_size(&self) -> usize {
        self.grid * self.patch
    }

    /// Its published name, or its sizes.
    pub(super) fn name(&self) -> String {
        let (patch, dim, depth) = (self.patch, self.positions.dims()[2], self.blocks.len());
        match (dim, depth, patch, self.input_size()) {
            (768, 12, 16 | 32, 224) => format!("CLIP ViT-B/{patch}"),
            (1024, 24, 14, 224) => format!("CLIP ViT-L/{patch}"),
            (1024, 24, 14, 336) => format!("CLIP ViT-L/{patch}@336px"),
            (.., size) => format!("CLIP ViT of {depth} layers of {dim}, patches of {patch} at {size} px"),
        }
    }
}

/// Whose names a file has.
#[derive(Clone, Copy)]
enum Names {
    Huggingface,
    Openai,
}

impl Names {
    fn of(self, huggingface: &'static str, openai: &'static str) -> &'static str {
        match self {
            Self::Huggingface => huggingface,
            Self::Openai => openai,
        }
    }

    fn patches(self) -> &'static str {
        self.of("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight")
    }

    fn class(self) -> &'static str {
        self.of("vision_model.embeddings.class_embedding", "visual.class_embedding")
    }

    fn positions(self) -> &'static str {
        self.of("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding")
    }

    fn norm_before(self) -> &'static str {
        self.of("vision_model.pre_layrnorm", "visual.ln_pre")
    }

    fn norm_after(self) -> &'static str {
        self.of("vision_model.post_layernorm", "visual.ln_post")
    }

    fn norm1(self) -> &'static str {
        self.of("layer_norm1.", "ln_1.")
    }

    fn norm2(self) -> &'static str {
        self.of("layer_norm2.", "ln_2.")
    }

    fn in_layer(self, layer: usize, part: &str, tensor: &str) -> String {
        format!("{}{layer}.{part}{tensor}", self.of("vision_model.encoder.layers.", "visual.transformer.resblocks."))
    }

    /// The projection `[dim, width]`: Hugging Face has a linear layer's weight, OpenAI the matrix.
    fn projection<B: Backend>(
        self,
        weights: &mut Weights,
        dim: usize,
        device: &B::Device,
    ) -> Result<Param<Tensor<B, 2>>, Failure> {
        match self {
            Self::Huggingface => {
                let [width, _] = weights.shape("visual_projection.weight")?;
                Ok(linear_weight(weights, &["visual_projection.weight".into()], [dim, width], device)?)
            }
            Self::Openai => {
                let [_, width] = weights.shape("visual.proj")?;
                weights.param("visual.proj", [dim, width], device)
            }
        }
    }

    /// Where the queries', keys' and values' layers are: three tensors or one.
    fn qkv(self, layer: usize, tensor: &str) -> Vec<String> {
        match self {
            Self::Huggingface => {
                ["q", "k", "v"].map(|part| self.in_layer(layer, &format!("self_attn.{part}_proj."), tensor)).to_vec()
            }
            Self::Openai => vec![self.in_layer(layer, "attn.in_proj_", tensor)],
        }
    }
}

/// One block of the transformer.
fn block<B: Backend>(
    weights: &mut Weights,
    names: Names,
    layer: usize,
    dim: usize,
    device: &B::Device,
) -> Result<Block<B>, Failure> {
    let [hidden, _] = weights.shape(&names.in_layer(layer, names.of("mlp.fc1.", "mlp.c_fc."), "weight"))?;
    let config = BlockConfig {
        dim,
        heads: dim / HEAD,
        head_dim: HEAD,
        mlp_dim: hidden,
        activation: Activation::QuickGelu,
        qkv_bias: true,
        norm_eps: EPSILON,
    };
    let mut block = Block::new(&config, device);
    let mut linear = |names: [Vec<String>; 2], shape| linear(weights, names, shape, device);
    let one = |part: &str| ["weight", "bias"].map(|tensor| vec![names.in_layer(layer, part, tensor)]);
    block.attn.qkv = linear(["weight", "bias"].map(|tensor| names.qkv(layer, tensor)), [dim, 3 * dim])?;
    block.attn.proj = linear(one(names.of("self_attn.out_proj.", "attn.out_proj.")), [dim, dim])?;
    block.mlp.fc1 = linear(one(names.of("mlp.fc1.", "mlp.c_fc.")), [dim, hidden])?;
    block.mlp.fc2 = linear(one(names.of("mlp.fc2.", "mlp.c_proj.")), [hidden, dim])?;
    block.norm1 = norm(weights, names.in_layer(layer, names.norm1(), "").trim_end_matches('.'), dim, device)?;
    block.norm2 = norm(weights, names.in_layer(layer, names.norm2(), "").trim_end_matches('.'), dim, device)?;
    Ok(block)
}

fn norm<B: Backend>(
    weights: &mut Weights,
    name: &str,
    dim: usize,
    device: &B::Device,
) -> Result<LayerNorm<B>, Failure> {
    let mut norm = LayerNorm::new(dim, EPSILON, device);
    norm.gamma = weights.param(&format!("{name}.weight"), [dim], device)?;
    norm.beta = weights.param(&format!("{name}.bias"), [dim], device)?;
    Ok(norm)
}

/// A linear layer from the tensors of `names`, weights and biases, whose outputs are joined.
fn linear<B: Backend>(
    weights: &mut Weights,
    [weight, bias]: [Vec<String>; 2],
    [inputs, outputs]: [usize; 2],
    device: &B::Device,
) -> Result<Linear<B>, Failure> {
    let each = outputs / bias.len();
    let mut values = Vec::with_capacity(outputs);
    for name in &bias {
        values.extend(weights.values(name, &[each])?);
    }
    let bias = Some(frozen(&bias.concat(), values, [outputs], device));
    Ok(Linear { weight: linear_weight(weights, &weight, [inputs, outputs], device)?, bias })
}

/// PyTorch's weights `[outputs, inputs]`, joined and transposed to `[inputs, outputs]`.
fn linear_weight<B: Backend>(
    weights: &mut Weights,
    names: &[String],
    [inputs, outputs]: [usize; 2],
    device: &B::Device,
) -> Result<Param<Tensor<B, 2>>, Failure> {
    let each = outputs / names.len();
    let mut values = Vec::with_capacity(outputs * inputs);
    for name in names {
        values.extend(weights.values(name, &[each, inputs])?);
    }
    let stored: Param<Tensor<B, 2>> = frozen(&names.concat(), values, [outputs, inputs], device);
    Ok(stored.map(Tensor::transpose))
}
