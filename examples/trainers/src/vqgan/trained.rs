//! A trained model, as it is used: images to codes and back.

use std::path::Path;

use burn::tensor::Tensor;

use super::checkpoint::KIND;
use super::config::Config;
use super::model::Autoencoder;
use super::trainer::{TrainBackend, Trainer};
use crate::common::failure::{Context, Failure};
use crate::quantize::{QuantizeBackend, VectorQuantizer};
use crate::shell::{self, Checkpoint, SharedPool};

/// A trained model. Nothing of it changes.
#[derive(Debug, Clone)]
pub struct Trained<B: QuantizeBackend> {
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

impl<B: TrainBackend> Trainer<B> {
    /// The model as it is now: the moving averages where there are any.
    pub fn trained(&self) -> Trained<B::InnerBackend> {
        Trained::of(self.config.clone(), self.state.trained())
    }
}

impl<B: QuantizeBackend> Trained<B> {
    fn of(config: Config, trained: shell::Trained<B, Autoencoder<B>>) -> Self {
        let shell::Trained { model, quantizer, step, device, .. } = trained;
        let Some(quantizer) = quantizer else { unreachable!("every VQGAN has a quantizer") };
        Self { config, step, model, quantizer, device }
    }

    /// The model of a checkpoint file. VQGAN-LC's centres are not needed: the codes are in it.
    ///
    /// # Errors
    /// A file that is no checkpoint of a VQGAN, or damaged.
    pub fn open(path: &Path, pool: Option<SharedPool>, device: B::Device) -> Result<Self, Failure> {
        let mut file = Checkpoint::of_kind(path, KIND)?;
        let config: Config = file.config()?;
        config.check().context(|| format!("cannot read the settings in `{}`", path.display()))?;
        let codes = Some((&config.codes, config.settings.seed));
        let model = Autoencoder::new(&config, &device);
        let trained = shell::Trained::open(&mut file, model, codes, pool, device)?;
        Ok(Self::of(config, trained))
    }

    /// Latents of images as rows `[tokens, dim]`, and their grid `[batch, h, w]`.
    pub fn rows(&self, images: Tensor<B, 4>) -> (Tensor<B, 2>, [usize; 3]) {
        self.model.rows(images)
    }

    /// Codes of images in raster order, and their grid `[batch, h, w]`.
    ///
    /// # Errors
    /// As [`VectorQuantizer::encode`].
    pub fn encode(&self, images: Tensor<B, 4>) -> Result<(Vec<u32>, [usize; 3]), Failure> {
        let (rows, grid) = self.rows(images);
        Ok((self.quantizer.encode(rows)?, grid))
    }

    /// Images of codes, in about [-1, 1].
    ///
    /// # Errors
    /// A code that does not exist.
    pub fn decode(&self, codes: &[u32], grid: [usize; 3]) -> Result<Tensor<B, 4>, Failure> {
        let rows = self.quantizer.decode::<B>(codes, &self.device)?;
        Ok(self.model.images(rows, grid))
    }
}
