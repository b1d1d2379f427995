//! A trained DiVAE, as it is used: samples to tokens, and tokens to samples by diffusion.

use std::path::Path;

use burn::tensor::{FloatDType, Tensor};

use super::config::{Config, Variance};
use super::frozen::Frozen;
use super::model::{Divae, check_samples, rows};
use super::task::KIND;
use crate::common::failure::{Context, Failure};
use crate::diffusion::{Diffusion, Sampler, sample};
use crate::nets::as_grid;
use crate::nets::unet::without;
use crate::params::host;
use crate::quantize::{QuantizeBackend, VectorQuantizer};
use crate::shell::{Checkpoint, MODEL, SharedPool, Trained, frozen};

/// A trained DiVAE. Nothing of it changes.
#[derive(Debug, Clone)]
pub struct Tokenizer<B: QuantizeBackend> {
    /// Its settings.
    pub config: Config,
    /// Steps that it was trained for.
    pub step: u64,
    /// Encoder and decoder: the moving averages where there are any.
    pub model: Divae<B>,
    /// Its codes.
    pub quantizer: VectorQuantizer,
    /// The schedule's tables.
    pub diffusion: Diffusion,
    /// Where it runs.
    pub device: B::Device,
}

impl<B: QuantizeBackend> Tokenizer<B> {
    /// Of what the shell keeps, and of a frozen encoder.
    pub(super) fn of(config: Config, trained: Trained<B, Divae<B>>, from: Option<&Frozen<B>>) -> Self {
        let Trained { mut model, quantizer, step, device, .. } = trained;
        let quantizer = match (from, quantizer) {
            (Some(frozen), _) => {
                // The average of what does not change differs from it in last bits.
                model.encoder = frozen.encoder.clone();
                frozen.quantizer.clone()
            }
            (None, Some(quantizer)) => quantizer,
            (None, None) => unreachable!("codes are learned or frozen"),
        };
        Self { diffusion: config.diffusion(), config, step, model, quantizer, device }
    }

    /// The model of a checkpoint file.
    ///
    /// # Errors
    /// A file that is no checkpoint of a DiVAE, or damaged.
    pub fn open(path: &Path, pool: Option<SharedPool>, device: B::Device) -> Result<Self, Failure> {
        let mut file = Checkpoint::of_kind(path, KIND)?;
        let config: Config = file.config()?;
        config.check().context(|| format!("cannot read the settings in `{}`", path.display()))?;
        let (codes, seed) = (&config.codes, config.settings.seed);
        let learned = config.frozen.is_none().then_some((codes, seed));
        let model = Divae::new(&config, &device);
        let mut trained = Trained::open(&mut file, model.clone(), learned, pool.clone(), device)?;
        if config.frozen.is_some() {
            let exact = file.module(MODEL, model)?;
            let codebook = exact.codebook.map(|codebook| host(codebook.val())).unwrap_or_default();
            let refuse = || format!("the codes in `{}`", path.display());
            trained.quantizer = Some(frozen(codes, seed, &codebook, pool).context(refuse)?);
            trained.model.encoder = exact.encoder;
        }
        Ok(Self::of(config, trained, None))
    }

    /// Tokens of samples `[batch, channels, height, width]` in raster order, and their grid `[batch, h, w]`.
    ///
    /// # Errors
    /// Samples of other channels or of sides that do not fit; as [`VectorQuantizer::encode`].
    pub fn encode(&self, samples: Tensor<B, 4>) -> Result<(Vec<u32>, [usize; 3]), Failure> {
        check_samples(&self.config, &samples)?;
        let (rows, grid) = rows(&self.model.encoder, samples, FloatDType::F32);
        Ok((self.quantizer.encode(rows)?, grid))
    }

    /// What the decoder is conditioned on, `[batch, dim, h, w]`.
    ///
    /// # Errors
    /// A code that does not exist.
    pub fn condition(&self, codes: &[u32], grid: [usize; 3]) -> Result<Tensor<B, 4>, Failure> {
        let [batch, height, width] = grid;
        if codes.len() != batch * height * width {
            return Err(Failure::new(format!(
                "{} tokens are not the {batch} x {height} x {width} of these samples",
                codes.len()
            )));
        }
        Ok(as_grid(self.quantizer.decode::<B>(codes, &self.device)?, grid))
    }

    /// How to sample: `steps` of DDIM within the modality's range.
    pub fn sampler(&self, steps: usize, seed: u64) -> Sampler {
        let learned_variance = self.config.variance != Variance::Fixed;
        Sampler { clip: self.config.kind.clip(), learned_variance, ..Sampler::ddim(steps, seed) }
    }

    /// What the decoder makes of tokens, `[batch, channels, height, width]`; the first sample draws the sampler's noise number `first`.
    ///
    /// # Errors
    /// A code that does not exist; settings of the sampler that do not fit; guidance of a decoder that never did without codes.
    pub fn decode(
        &self,
        codes: &[u32],
        grid: [usize; 3],
        sampler: &Sampler,
        first: u64,
    ) -> Result<Tensor<B, 4>, Failure> {
        let [batch, height, width] = grid;
        if sampler.guidance != 1.0 && self.config.drop_codes == 0.0 {
            return Err(Failure::new(
                "guidance asks the decoder what it makes of no codes, which this one never learned: train it with --drop-codes 0.1",
            ));
        }
        let condition = self.condition(codes, grid)?;
        let patch = self.config.encoder.patch;
        let shape = [batch, self.config.kind.channels(), height * patch, width * patch];
        let prediction = self.config.objective.prediction;
        sample(&self.diffusion, prediction, sampler, shape, first, &self.device, |xt, t, unconditional| {
            let condition = without(condition.clone(), &vec![unconditional; batch]);
            Ok(self.model.decoder.forward(xt, t, condition))
        })
    }
}
