//! Encoder, codes and decoder of vectors.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::config::{Coding, Config};
use crate::nets::bottleneck::BottleneckMlp;
use crate::nets::memcodes::Memcodes;
use crate::params::settle;

/// Stream of initial values.
const STREAM: u64 = 0x6D;

/// What the optimizer trains; shared codes are the quantizer's own.
#[derive(Module, Debug)]
pub struct Autoencoder<B: Backend> {
    /// From vectors to as many channels as the networks are wide.
    pub encoder: BottleneckMlp<B>,
    /// To latents of all heads.
    pub quant_proj: Linear<B>,
    /// Codes, where every head has its own.
    pub memcodes: Option<Memcodes<B>>,
    /// From quantized latents.
    pub post_quant_proj: Linear<B>,
    /// To vectors.
    pub decoder: BottleneckMlp<B>,
}

impl<B: Backend> Autoencoder<B> {
    /// With initial values of the configuration's seed.
    pub fn new(config: &Config, device: &B::Device) -> Self {
        let (channels, width, dim) = (config.modality.channels(), config.net.width, config.coding.dim());
        let memcodes = match &config.coding {
            Coding::Memcodes(memcodes) => Some(memcodes.init(device)),
            Coding::Shared { .. } => None,
        };
        let model = Self {
            encoder: config.net.init(channels, width, device),
            quant_proj: LinearConfig::new(width, dim).init(device),
            memcodes,
            post_quant_proj: LinearConfig::new(dim, width).init(device),
            decoder: config.net.init(width, channels, device),
        };
        settle(model, config.settings.seed ^ STREAM)
    }

    /// Latents `[n, dim]` in f32 of vectors `[n, channels]`, computed in `dtype`.
    pub fn latents(&self, vectors: Tensor<B, 2>, dtype: FloatDType) -> Tensor<B, 2> {
        self.quant_proj.forward(self.encoder.forward(vectors.cast(dtype))).cast(FloatDType::F32)
    }

    /// Vectors `[n, channels]` in f32 of quantized latents `[n, dim]`, computed in `dtype`.
    pub fn vectors(&self, latents: Tensor<B, 2>, dtype: FloatDType) -> Tensor<B, 2> {
        self.decoder.forward(self.post_quant_proj.forward(latents.cast(dtype))).cast(FloatDType::F32)
    }
}
