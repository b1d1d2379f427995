//! The training of a VQ-VAE of vectors, as the shell sees it.

use std::path::Path;

use burn::tensor::Tensor;
use serde_json::{Value, json};

use super::config::{Coding, Config};
use super::data::{Data, rows};
use super::evaluate::evaluate;
use super::model::Autoencoder;
use super::report;
use super::tokenizer::Tokenizer;
use crate::common::failure::{Context, Failure};
use crate::nets::memcodes::Noise;
use crate::params::host;
use crate::shell::{Codes, Loss, Pass, Settings, Task, TrainBackend, TrainedOf};
use crate::vqvae::model::{Sample, loss};

/// What kind of checkpoint a run writes.
pub const KIND: &str = "mlp_vqvae";

/// A VQ-VAE to train: its settings and its data.
pub struct MlpVqvaeTask {
    /// The settings.
    pub config: Config,
    /// The vectors.
    pub data: Data,
}

impl<B: TrainBackend> Task<B> for MlpVqvaeTask {
    type Model = Autoencoder<B>;
    type Config = Config;

    const KIND: &'static str = KIND;
    const RESULTS: &'static [&'static str] = &["counts.svg", "reconstruction.png"];
    const CURVES: &'static [(&'static str, &'static str)] =
        &[("reconstruction", "reconstruction"), ("commitment", "commitment")];

    fn config(&self) -> &Config {
        &self.config
    }

    fn settings(&self) -> &Settings {
        &self.config.settings
    }

    fn codes(&self) -> Option<&Codes> {
        match &self.config.coding {
            Coding::Shared { codes, .. } => Some(codes),
            Coding::Memcodes(_) => None,
        }
    }

    fn code_count(&self) -> usize {
        self.config.coding.all_codes()
    }

    fn tokens(&self) -> usize {
        self.config.coding.heads()
    }

    fn inputs(&self) -> [String; 2] {
        [self.data.name().to_owned(), "none".into()]
    }

    fn epoch(&self) -> usize {
        self.data.train().len()
    }

    fn model(&self, device: &B::Device) -> Result<Autoencoder<B>, Failure> {
        Ok(Autoencoder::new(&self.config, device))
    }

    fn loss(&self, pass: Pass<'_, B, Autoencoder<B>>) -> Result<Loss<B>, Failure> {
        let Config { modality, coding, scale, settings, .. } = &self.config;
        let vectors: Tensor<B, 2> = rows(&self.data.batch(pass.step).values, modality.channels(), *scale, pass.device);
        let latents = pass.model.latents(vectors.clone(), pass.dtype);
        let [n, dim] = latents.dims();
        let (output, quantized, hits) = match (pass.quantizer, &pass.model.memcodes) {
            (Some(quantizer), _) => {
                let heads = latents.reshape([n * coding.heads(), dim / coding.heads().max(1)]);
                let quantized = quantizer.forward(heads).context(|| "the quantizer".into())?;
                (quantized.output.clone().reshape([n, dim]), Some(quantized), Vec::new())
            }
            (None, Some(memcodes)) => {
                let found = memcodes.forward(latents, Noise { seed: settings.seed, step: pass.step })?;
                (found.output, None, of_heads(coding, &found.codes))
            }
            (None, None) => return Err(Failure::new("this training has no codes")),
        };
        let output = pass.model.vectors(output, pass.dtype);
        let as_maps = |rows: Tensor<B, 2>| -> Tensor<B, 4> { rows.unsqueeze_dims(&[2, 3]) };
        let term = loss(self.config.loss, as_maps(output), Sample::Values(as_maps(vectors)));
        let value = host(term.clone()).first().copied().map_or(f64::NAN, f64::from);
        let total = match &quantized {
            Some(quantized) => term + quantized.commitment_loss.clone().mul_scalar(self.config.commitment),
            None => term,
        };
        Ok(Loss { total, terms: vec![("reconstruction", value)], quantized, hits })
    }

    fn finish(&self, trained: &TrainedOf<B, Autoencoder<B>>, _history: &[Value], out: &Path) -> Result<Value, Failure> {
        let tokenizer = Tokenizer::of(self.config.clone(), trained.clone());
        let evaluation = evaluate(&tokenizer, &self.data)?;
        report::draw(out, &tokenizer, &self.data, &evaluation)?;
        report::print_summary(&self.config, &self.data, &evaluation);
        let coding = &self.config.coding;
        Ok(json!({
            "modality": self.config.modality.to_string(),
            "quantizer": coding.name(),
            "heads": coding.heads(),
            "codes_of_a_head": coding.codes(),
            "dim": coding.dim(),
            "evaluation": evaluation,
        }))
    }
}

/// Numbers of codes among those of all heads, of tokens of whole vectors: a head's codes are its own, or everyone's.
pub(super) fn of_heads(coding: &Coding, tokens: &[u32]) -> Vec<u32> {
    match coding {
        Coding::Shared { .. } => tokens.to_vec(),
        Coding::Memcodes(config) => {
            // Checked with the configuration: a step's logits, and so all codes, are far below 2³².
            let first = |at: usize| (at % config.heads.max(1) * config.codes) as u32;
            tokens.iter().enumerate().map(|(at, token)| first(at) + token).collect()
        }
    }
}
