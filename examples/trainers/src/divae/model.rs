//! Encoder and diffusion decoder.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::config::Config;
use crate::common::failure::Failure;
use crate::nets::as_rows;
use crate::nets::unet::Unet;
use crate::nets::vit::VitEncoder;
use crate::params::settle;

/// Stream of initial values.
const STREAM: u64 = 0xd1;

/// What the optimizer trains; the codes are the quantizer's own.
#[derive(Module, Debug)]
pub struct Divae<B: Backend> {
    /// From samples to latents; where it is frozen, another tokenizer's.
    pub encoder: VitEncoder<B>,
    /// From codes and noise to samples.
    pub decoder: Unet<B>,
    /// The codes of a frozen encoder, `[codes, dim]`.
    pub codebook: Option<Param<Tensor<B, 2>>>,
}

impl<B: Backend> Divae<B> {
    /// With initial values of the configuration's seed; a frozen encoder and its codes come from elsewhere.
    pub fn new(config: &Config, device: &B::Device) -> Self {
        let encoder = VitEncoder::new(&config.encoder, config.codes.dim, device);
        let codebook =
            config.frozen.as_ref().map(|_| Initializer::Zeros.init([config.codes.codes, config.codes.dim], device));
        settle(Self { encoder, decoder: config.decoder.init(device), codebook }, config.settings.seed ^ STREAM)
    }
}

/// Latents of samples as rows `[batch · h · w, dim]`, in raster order, and their grid `[batch, h, w]`; computed in `dtype`.
pub fn rows<B: Backend>(
    encoder: &VitEncoder<B>,
    samples: Tensor<B, 4>,
    dtype: FloatDType,
) -> (Tensor<B, 2>, [usize; 3]) {
    as_rows(encoder.forward(samples.cast(dtype)))
}

/// Refuses samples whose channels or size are not the configuration's: patches would be cut elsewhere.
///
/// # Errors
/// That, with both.
pub fn check_samples<B: Backend>(config: &Config, samples: &Tensor<B, 4>) -> Result<(), Failure> {
    let [_, channels, height, width] = samples.dims();
    let whole = config.decoder.patch << config.decoder.multipliers.len().saturating_sub(1);
    let fits = |side: usize| side > 0 && side.is_multiple_of(whole) && side.is_multiple_of(config.encoder.patch);
    if channels != config.kind.channels() || !fits(height) || !fits(width) {
        return Err(Failure::new(format!(
            "samples of {channels} x {height} x {width}: expected {} channels and sides that are multiples of {whole} and of {}",
            config.kind.channels(),
            config.encoder.patch
        )));
    }
    Ok(())
}
