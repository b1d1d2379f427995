//! A trained VQ-VAE, as it is used: samples to tokens and back.

use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::config::{Config, Modality};
use super::model::{Autoencoder, Sample};
use super::task::KIND;
use crate::common::failure::{Context, Failure};
use crate::params::host;
use crate::quantize::{QuantizeBackend, VectorQuantizer};
use crate::shell::{Checkpoint, SharedPool, Trained};

/// A trained VQ-VAE. Nothing of it changes.
#[derive(Debug, Clone)]
pub struct Tokenizer<B: QuantizeBackend> {
    /// Its settings.
    pub config: Config,
    /// Steps that it was trained for.
    pub step: u64,
    /// Encoder and decoder: the moving averages where there are any.
    pub model: Autoencoder<B>,
    /// Its codes.
    pub quantizer: VectorQuantizer,
    /// Where it runs.
    pub device: B::Device,
}

impl<B: QuantizeBackend> Tokenizer<B> {
    /// Of what the shell keeps.
    pub(super) fn of(config: Config, trained: Trained<B, Autoencoder<B>>) -> Self {
        let Trained { model, quantizer, step, device, .. } = trained;
        let Some(quantizer) = quantizer else { unreachable!("every VQ-VAE has a quantizer") };
        Self { config, step, model, quantizer, device }
    }

    /// The model of a checkpoint file.
    ///
    /// # Errors
    /// A file that is no checkpoint of a VQ-VAE, or damaged.
    pub fn open(path: &Path, pool: Option<SharedPool>, device: B::Device) -> Result<Self, Failure> {
        let mut file = Checkpoint::of_kind(path, KIND)?;
        let config: Config = file.config()?;
        config.check().context(|| format!("cannot read the settings in `{}`", path.display()))?;
        let codes = Some((&config.codes, config.settings.seed));
        let trained = Trained::open(&mut file, Autoencoder::new(&config, &device), codes, pool, device)?;
        Ok(Self::of(config, trained))
    }

    /// Tokens of samples in raster order, and their grid `[batch, h, w]`. Features are to be scaled by [`Scale::apply`](crate::data::maps::Scale::apply)
    /// before.
    ///
    /// # Errors
    /// As [`VectorQuantizer::encode`].
    pub fn encode(&self, sample: Sample<B>) -> Result<(Vec<u32>, [usize; 3]), Failure> {
        let (rows, grid) = self.model.rows(sample, FloatDType::F32);
        Ok((self.quantizer.encode(rows)?, grid))
    }

    /// What the decoder makes of tokens, `[batch, channels, height, width]`: images and features as they were encoded, logits of classes and masks.
    ///
    /// # Errors
    /// A code that does not exist.
    pub fn decode(&self, codes: &[u32], grid: [usize; 3]) -> Result<Tensor<B, 4>, Failure> {
        let rows = self.quantizer.decode::<B>(codes, &self.device)?;
        Ok(self.model.samples(rows, grid))
    }

    /// Whether the decoder's output are logits.
    pub fn has_logits(&self) -> bool {
        matches!(self.config.modality, Modality::Labels { .. } | Modality::Masks)
    }
}

/// The most likely class of each pixel, of logits `[batch, classes, height, width]`.
pub fn classes<B: Backend>(logits: Tensor<B, 4>) -> Vec<u32> {
    let labels = logits.argmax(1).into_data().convert::<u32>();
    labels.into_vec().unwrap_or_else(|_| unreachable!("converted to u32 just above"))
}

/// The probability that each pixel is inside, of logits `[batch, 1, height, width]`.
pub fn probabilities<B: Backend>(logits: Tensor<B, 4>) -> Vec<f32> {
    host(burn::tensor::activation::sigmoid(logits))
}
