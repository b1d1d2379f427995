//! Diffusion's UNet over patches, conditioned on codes: 4M's `unet_patched` (Mizrahi et al. 2023), which is the UNet of Dhariwal and Nichol
//! (2021) on an image's patches (Luhman and Luhman 2022).
//!
//! ```text
//! x_t [c, H, W] ─ patches [c·p·p, H/p, W/p] ─┐
//! codes [d, h, w] ─ nearest, to H/p × W/p ───┴─ conv ─ levels down ─ middle ─ levels up ─ conv ─ patches ─ [c, H, W]
//! step t ─ sines and cosines ─ two layers ─────────── added in every residual block
//! ```

mod config;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Tensor, TensorData};

use super::blocks::{Attention, Middle, ResBlock, Style, Upsample, conv, norm, zeros};
use super::macs::{Cost, Size};
use super::norms::{group_norm, to};
use super::vit::{patchify, unpatchify};

pub use config::UnetConfig;

/// Added to a norm's variance.
const EPSILON: f64 = 1e-5;

/// The longest wave of the time's embedding, over 2π.
const LONGEST: f64 = 10_000.0;

/// A residual block, with attention behind it or none.
#[derive(Module, Debug)]
struct Stage<B: Backend> {
    block: ResBlock<B>,
    attn: Option<Attention<B>>,
}

impl<B: Backend> Stage<B> {
    fn new([from, to]: [usize; 2], attends: bool, style: &Style, device: &B::Device) -> Self {
        let attn = attends.then(|| Attention::new(to, style, device));
        Self { block: ResBlock::new(from, to, style, device), attn }
    }

    fn forward(&self, x: Tensor<B, 4>, time: &Tensor<B, 2>) -> Tensor<B, 4> {
        let x = self.block.forward_at(x, Some(time));
        match &self.attn {
            Some(attn) => attn.forward(x),
            None => x,
        }
    }

    fn cost(&self, size: Size, cost: &mut Cost) {
        self.block.cost(size, cost);
        if let Some(attn) = &self.attn {
            attn.cost(size, cost);
        }
    }
}

/// One resolution on the way down; each stage's output, and the halved map, goes over to the way up.
#[derive(Module, Debug)]
struct Down<B: Backend> {
    stages: Vec<Stage<B>>,
    down: Option<Conv2d<B>>,
}

/// One resolution on the way up.
#[derive(Module, Debug)]
struct Up<B: Backend> {
    stages: Vec<Stage<B>>,
    up: Option<Upsample<B>>,
}

/// The network.
#[derive(Module, Debug)]
pub struct Unet<B: Backend> {
    time_in: Linear<B>,
    time_out: Linear<B>,
    conv_in: Conv2d<B>,
    /// The finest resolution first.
    down: Vec<Down<B>>,
    mid: Middle<B>,
    /// The coarsest resolution first.
    up: Vec<Up<B>>,
    norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
    patch: usize,
}

impl<B: Backend> Unet<B> {
    /// Blocks, attentions and the last layer begin as zeros: an untrained network returns zeros.
    fn new(config: &UnetConfig, device: &B::Device) -> Self {
        let time = 4 * config.base;
        let style = Style { epsilon: EPSILON, time: Some(time), zero_last: true };
        let levels = config.multipliers.len();
        let mut width = config.width(0);
        let mut skips = vec![width];
        let mut down = Vec::new();
        for level in 0..levels {
            let to = config.width(level);
            let mut stages = Vec::new();
            for _ in 0..config.res_blocks {
                stages.push(Stage::new([width, to], config.attends(level), &style, device));
                width = to;
                skips.push(width);
            }
            let halves = level + 1 < levels;
            if halves {
                skips.push(width);
            }
            down.push(Down { stages, down: halves.then(|| halving(width, device)) });
        }
        let mid = Middle::new(width, &style, device);
        let mut up = Vec::new();
        for level in (0..levels).rev() {
            let to = config.width(level);
            let mut stages = Vec::new();
            for _ in 0..=config.res_blocks {
                let from = width + skips.pop().unwrap_or_default();
                stages.push(Stage::new([from, to], config.attends(level), &style, device));
                width = to;
            }
            up.push(Up { stages, up: (level > 0).then(|| Upsample::new(width, device)) });
        }
        Self {
            time_in: LinearConfig::new(config.base, time).init(device),
            time_out: LinearConfig::new(time, time).init(device),
            conv_in: conv(config.inputs(), config.width(0), 3, device),
            down,
            mid,
            up,
            norm_out: norm(width, EPSILON, device),
            conv_out: zeros(conv(width, config.outputs(), 3, device)),
            patch: config.patch,
        }
    }

    /// The prediction at x_t, `[batch, channels, H, W]`, of images that are at the steps `t`, one for each, with the condition `codes`
    /// `[batch, d, h, w]`: `[batch, channels or twice as many, H, W]`, in the type of x_t.
    pub fn forward(&self, xt: Tensor<B, 4>, t: &[usize], codes: Tensor<B, 4>) -> Tensor<B, 4> {
        let (given, inner) = (xt.dtype(), self.conv_in.weight.val().dtype());
        let x = patchify(to(inner, xt), self.patch);
        let [batch, _, height, width] = x.dims();
        let nearest = InterpolateOptions::new(InterpolateMode::Nearest);
        let codes = interpolate(to(inner, codes), [height, width], nearest);
        let time = self.time(t, batch);
        let mut x = self.conv_in.forward(Tensor::cat(vec![x, codes], 1));
        let mut skips = vec![x.clone()];
        for level in &self.down {
            for stage in &level.stages {
                x = stage.forward(x, &time);
                skips.push(x.clone());
            }
            if let Some(down) = &level.down {
                x = down.forward(x);
                skips.push(x.clone());
            }
        }
        x = self.mid.forward_at(x, Some(&time));
        for level in &self.up {
            for stage in &level.stages {
                x = match skips.pop() {
                    Some(skip) => Tensor::cat(vec![x, skip], 1),
                    None => x,
                };
                x = stage.forward(x, &time);
            }
            if let Some(up) = &level.up {
                x = up.forward(x);
            }
        }
        let x = self.conv_out.forward(silu(group_norm(&self.norm_out, x)));
        to(given, unpatchify(x, self.patch))
    }

    /// The time's embedding behind the activation that every block has in front of its own layer: `[batch, 4·base]`.
    fn time(&self, t: &[usize], batch: usize) -> Tensor<B, 2> {
        let weight = self.time_in.weight.val();
        let [base, _] = weight.dims();
        let mut values: Vec<f32> = t.iter().flat_map(|&t| embedding(t, base)).collect();
        // A step that was left out is step 0: never, as every caller has one for each image.
        values.resize(batch * base, 0.0);
        let x = Tensor::<B, 2>::from_data(TensorData::new(values, [batch, base]), (&weight.device(), DType::F32));
        silu(self.time_out.forward(silu(self.time_in.forward(to(weight.dtype(), x)))))
    }

    /// Adds what one image of `size` costs, and returns its size.
    pub fn cost(&self, size: Size, cost: &mut Cost) -> Size {
        cost.linear(&self.time_in, 1);
        cost.linear(&self.time_out, 1);
        let mut size = cost.conv(&self.conv_in, size.map(|side| side / self.patch.max(1)));
        for level in &self.down {
            level.stages.iter().for_each(|stage| stage.cost(size, cost));
            if let Some(down) = &level.down {
                size = cost.conv(down, size);
            }
        }
        self.mid.cost(size, cost);
        for level in &self.up {
            level.stages.iter().for_each(|stage| stage.cost(size, cost));
            if let Some(up) = &level.up {
                size = up.cost(size, cost);
            }
        }
        cost.group_norm(&self.norm_out);
        cost.conv(&self.conv_out, size).map(|side| side * self.patch)
    }
}

/// Half the size by a 3×3 convolution of stride 2 with zeros on all sides.
fn halving<B: Backend>(channels: usize, device: &B::Device) -> Conv2d<B> {
    let config = Conv2dConfig::new([channels, channels], [3, 3]).with_stride([2, 2]);
    config.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
}

/// Cosines, then sines, of a step in `base / 2` frequencies from 1 to almost 1/10,000 (Vaswani et al. 2017, section 3.5, in ADM's order).
fn embedding(t: usize, base: usize) -> impl Iterator<Item = f32> {
    let half = (base / 2).max(1);
    let angle = move |i: usize| t as f64 * LONGEST.powf(-((i % half) as f64) / half as f64);
    (0..2 * half).map(move |i| if i < half { angle(i).cos() } else { angle(i).sin() } as f32).take(base)
}

/// Codes whose images' places are true in `drop` become zeros: what the network learns to do without (Ho and Salimans 2022, algorithm 1).
pub fn without<B: Backend>(codes: Tensor<B, 4>, drop: &[bool]) -> Tensor<B, 4> {
    if !drop.contains(&true) {
        return codes;
    }
    let keep: Vec<f32> = drop.iter().map(|&drop| if drop { 0.0 } else { 1.0 }).collect();
    let keep = super::constant(keep, [drop.len(), 1, 1, 1], &codes);
    codes * keep
}

#[cfg(test)]
mod tests;
