//! A trained VQ-VAE of vectors, as it is used: vectors to tokens and back.

use std::path::Path;

use burn::tensor::FloatDType;

use super::config::{Coding, Config};
use super::data::rows;
use super::model::Autoencoder;
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
    model: Autoencoder<B>,
    /// Shared codes; none of memcodes, which are the model's.
    quantizer: Option<VectorQuantizer>,
    device: B::Device,
}

impl<B: QuantizeBackend> Tokenizer<B> {
    /// Of what the shell keeps.
    pub(super) fn of(config: Config, trained: Trained<B, Autoencoder<B>>) -> Self {
        let Trained { model, quantizer, step, device, .. } = trained;
        Self { config, step, model, quantizer, device }
    }

    /// The model of a checkpoint file.
    ///
    /// # Errors
    /// A file that is no checkpoint of a VQ-VAE of vectors, or damaged.
    pub fn open(path: &Path, pool: Option<SharedPool>, device: B::Device) -> Result<Self, Failure> {
        let mut file = Checkpoint::of_kind(path, KIND)?;
        let config: Config = file.config()?;
        config.check().context(|| format!("cannot read the settings in `{}`", path.display()))?;
        let codes = match &config.coding {
            Coding::Shared { codes, .. } => Some((codes, config.settings.seed)),
            Coding::Memcodes(_) => None,
        };
        let trained = Trained::open(&mut file, Autoencoder::new(&config, &device), codes, pool, device)?;
        Ok(Self::of(config, trained))
    }

    /// Tokens of vectors `[n, channels]` as they come from their file: those of a vector's heads in turn, `n · heads`.
    ///
    /// # Errors
    /// Values that are not whole vectors, or not finite.
    pub fn encode(&self, vectors: &[f32]) -> Result<Vec<u32>, Failure> {
        let channels = self.config.modality.channels();
        if !vectors.len().is_multiple_of(channels) {
            return Err(Failure::new(format!("{} values are not whole vectors of {channels}", vectors.len())));
        }
        if let Some(at) = vectors.iter().position(|value| !value.is_finite()) {
            return Err(Failure::new(format!(
                "value {} of vector {} is {}",
                at % channels,
                at / channels,
                vectors[at]
            )));
        }
        if vectors.is_empty() {
            return Ok(Vec::new());
        }
        let latents = self.model.latents(rows(vectors, channels, self.config.scale, &self.device), FloatDType::F32);
        match (&self.quantizer, &self.model.memcodes, &self.config.coding) {
            (Some(quantizer), _, Coding::Shared { heads, codes }) => {
                let [n, _] = latents.dims();
                Ok(quantizer.encode(latents.reshape([n * heads, codes.dim]))?)
            }
            (_, Some(memcodes), _) => memcodes.encode(latents),
            _ => Err(Failure::new("this tokenizer has no codes")),
        }
    }

    /// Vectors `[n, channels]` of tokens, as [`encode`](Self::encode) gives them.
    ///
    /// # Errors
    /// A code that does not exist, or tokens that are not whole vectors.
    pub fn decode(&self, tokens: &[u32]) -> Result<Vec<f32>, Failure> {
        let (heads, dim) = (self.config.coding.heads(), self.config.coding.dim());
        if !tokens.len().is_multiple_of(heads) {
            return Err(Failure::new(format!("{} tokens are not whole vectors of {heads}", tokens.len())));
        }
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let latents = match (&self.quantizer, &self.model.memcodes) {
            (Some(quantizer), _) => quantizer.decode::<B>(tokens, &self.device)?.reshape([tokens.len() / heads, dim]),
            (None, Some(memcodes)) => memcodes.decode(tokens, &self.device)?,
            (None, None) => return Err(Failure::new("this tokenizer has no codes")),
        };
        let vectors = host(self.model.vectors(latents, FloatDType::F32));
        Ok(vectors.into_iter().map(|value| self.config.scale.undo(value)).collect())
    }
}
