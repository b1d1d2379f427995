//! The training of a VQ-VAE, as the shell sees it.

use std::path::{Path, PathBuf};

use burn::tensor::{FloatDType, Tensor};
use serde_json::Value;

use super::config::Config;
use super::data::Data;
use super::evaluate::evaluate;
use super::model::{Autoencoder, Sample, loss};
use super::report;
use super::tokenizer::Tokenizer;
use crate::common::failure::{Context, Failure};
use crate::losses::perceptual::Perceptual;
use crate::params::host;
use crate::shell::{Codes, Loss, Pass, Settings, Task, TrainBackend, TrainedOf};

/// What kind of checkpoint a run writes.
pub const KIND: &str = "vqvae";

/// A VQ-VAE to train: its settings, its data, the frozen network of its perceptual distance.
pub struct VqvaeTask<B: TrainBackend> {
    /// The settings.
    pub config: Config,
    /// The samples.
    pub data: Data,
    /// The perceptual distance, where it has a weight.
    pub perceptual: Option<Perceptual<B>>,
    /// Tokens per code over which utilization is counted.
    pub tokens_per_code: usize,
    /// What it starts from, if not from nothing.
    pub start: Option<PathBuf>,
}

impl<B: TrainBackend> Task<B> for VqvaeTask<B> {
    type Model = Autoencoder<B>;
    type Config = Config;

    const KIND: &'static str = KIND;
    const RESULTS: &'static [&'static str] = &["counts.svg", "reconstruction.png"];
    const CURVES: &'static [(&'static str, &'static str)] =
        &[("reconstruction", "reconstruction"), ("perceptual", "perceptual"), ("commitment", "commitment")];

    fn config(&self) -> &Config {
        &self.config
    }

    fn settings(&self) -> &Settings {
        &self.config.settings
    }

    fn codes(&self) -> Option<&Codes> {
        Some(&self.config.codes)
    }

    fn code_count(&self) -> usize {
        self.config.codes.codes
    }

    fn tokens(&self) -> usize {
        self.config.tokens()
    }

    fn inputs(&self) -> [String; 2] {
        let perceptual = self.perceptual.as_ref().map_or("none", Perceptual::name);
        [self.data.name().to_owned(), perceptual.to_owned()]
    }

    fn epoch(&self) -> usize {
        self.data.len()
    }

    fn model(&self, device: &B::Device) -> Result<Autoencoder<B>, Failure> {
        Ok(Autoencoder::new(&self.config, device))
    }

    fn start(&self) -> Option<&Path> {
        self.start.as_deref()
    }

    fn loss(&self, pass: Pass<'_, B, Autoencoder<B>>) -> Result<Loss<B>, Failure> {
        let Some(quantizer) = pass.quantizer else { unreachable!("every VQ-VAE has a quantizer") };
        let sample: Sample<B> = self.data.batch(pass.step).to_sample(pass.device);
        let (rows, grid) = pass.model.rows(sample.clone(), pass.dtype);
        let quantized = quantizer.forward(rows).context(|| "the quantizer".into())?;
        let output = pass.model.samples(quantized.output.clone(), grid);
        let term = loss(self.config.loss, output.clone(), sample.clone());
        let mut terms = vec![("reconstruction", number(&term))];
        let mut total = term + quantized.commitment_loss.clone().mul_scalar(self.config.commitment);
        if let (Some(perceptual), Sample::Values(images)) = (&self.perceptual, sample) {
            let distance = perceptual.distance(output.cast(FloatDType::F32), images).mean();
            terms.push(("perceptual", number(&distance)));
            total = total + distance.mul_scalar(self.config.perceptual);
        }
        Ok(Loss { total, terms, quantized: Some(quantized), hits: Vec::new() })
    }

    fn finish(&self, trained: &TrainedOf<B, Autoencoder<B>>, _history: &[Value], out: &Path) -> Result<Value, Failure> {
        let tokenizer = Tokenizer::of(self.config.clone(), trained.clone());
        let evaluation = evaluate(&tokenizer, &self.data, self.tokens_per_code)?;
        report::draw(out, &tokenizer, &self.data, &evaluation)?;
        report::print_summary(&self.config, &self.data, &evaluation);
        Ok(serde_json::json!({
            "modality": self.config.modality.name(),
            "dim": self.config.codes.dim,
            "grid": self.config.grid(),
            "evaluation": evaluation,
        }))
    }
}

/// The value of a scalar.
fn number<B: TrainBackend>(tensor: &Tensor<B, 1>) -> f64 {
    host(tensor.clone()).first().copied().map_or(f64::NAN, f64::from)
}
