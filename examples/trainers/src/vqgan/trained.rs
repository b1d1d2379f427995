//! A trained model, as it is used: images to codes and back.

use std::path::Path;
use std::sync::Arc;

use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use vq_kernels::Pool;
use vq_kernels::quantizer::{Config as QuantizerConfig, Initial, Learner, Quantizer, StateMut};

use super::checkpoint::{AVERAGE, AVERAGE_QUANTIZER, MODEL, QUANTIZER, load_module, open};
use super::config::Config;
use super::model::Autoencoder;
use super::trainer::{TrainBackend, Trainer};
use crate::common::failure::{Context, Failure};
use crate::common::learning;
use crate::quantize::{QuantizeBackend, VectorQuantizer};

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
        let (model, quantizer) = match &self.averaged {
            Some(averaged) => {
                let handle = VectorQuantizer::new(averaged.quantizer.clone());
                let pool = self.pool.clone();
                (averaged.model.clone(), pool.into_iter().fold(handle, VectorQuantizer::with_pool))
            }
            None => (self.model.valid(), self.quantizer.clone()),
        };
        Trained { config: self.config.clone(), step: self.step, model, quantizer, device: self.device.clone() }
    }
}

impl<B: QuantizeBackend> Trained<B> {
    /// The model of a checkpoint file. VQGAN-LC's centres are not needed: the codes are in it.
    ///
    /// # Errors
    /// A file that is no checkpoint, or damaged.
    pub fn open(path: &Path, pool: Option<Arc<dyn Pool + Send + Sync>>, device: B::Device) -> Result<Self, Failure> {
        let mut file = open(path)?;
        let refuse = || format!("cannot read the settings in `{}`", path.display());
        let run: serde_json::Value = serde_json::from_str(file.metadata("run").unwrap_or_default()).context(refuse)?;
        let config: Config = serde_json::from_value(run["config"].clone()).context(refuse)?;
        config.check().context(refuse)?;
        let averaged = file.names().iter().any(|name| name.starts_with(AVERAGE));
        let prefix = if averaged { AVERAGE } else { MODEL };
        let model = load_module(Autoencoder::new(&config, &device), prefix, &mut file)?;
        let prefix = if averaged { AVERAGE_QUANTIZER } else { QUANTIZER };
        let layer = config.codes.layer(config.seed);
        let codebook = file.read::<f32>(&format!("{prefix}codebook"))?;
        let quantizer = frozen(layer, &codebook).context(|| format!("the codes in `{}`", path.display()))?;
        let mut step = [0u64];
        learning::fill(&mut step, &mut file, "step")?;
        let handle = VectorQuantizer::new(quantizer);
        let quantizer = match pool {
            Some(pool) => handle.with_pool(pool),
            None => handle,
        };
        Ok(Self { config, step: step[0], model, quantizer, device })
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

/// A quantizer that only encodes and decodes.
fn frozen(config: QuantizerConfig, codebook: &[f32]) -> Result<Quantizer, Failure> {
    let config = QuantizerConfig { learner: Learner::Frozen, restart: None, ..config };
    let mut quantizer = Quantizer::new(config, Initial::Codes(codebook.to_vec()))?;
    // As they were: normalizing unit rows again may move their last bits.
    quantizer.restore(|name, place| {
        if let ("codebook", StateMut::F32(values)) = (name, place) {
            values.copy_from_slice(codebook);
        }
        Ok::<(), Failure>(())
    })?;
    Ok(quantizer)
}
