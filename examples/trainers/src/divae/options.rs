//! What the person asks for.

use std::path::PathBuf;

use clap::Parser;

use super::config::{Config, Kind, Variance};
use super::evaluate::Effort;
use super::presets::Preset;
use crate::common::failure::Failure;
use crate::diffusion::Schedule;
use crate::diffusion::target::{Form, Prediction, Weight};
use crate::shell::{CodeOptions, DataOptions, RunOptions, SettingOptions, kind_of};

/// Trains a tokenizer of images, normals, depth or edges with a diffusion decoder; without data, on scenes that it renders itself.
#[derive(Clone, Debug, Parser)]
#[command(name = "train_divae", version)]
pub struct Options {
    /// Settings to start from; the options below change them one by one.
    #[arg(long, value_enum, default_value = "small")]
    pub preset: Preset,
    /// What to train on, where the preset leaves it open (small, tiny) [default: rgb].
    #[arg(long, value_enum)]
    pub modality: Option<Kind>,
    /// The samples.
    #[command(flatten)]
    pub data: DataOptions,
    /// A checkpoint of train_vqvae or train_divae, or the directory of such a run, whose encoder and codes are taken and stay as they are.
    #[arg(long)]
    pub encoder: Option<PathBuf>,
    /// The noise of each step: linear, squaredcos_cap_v2, or shifted_cosine: and a factor, which below 1 is less noise.
    #[arg(long)]
    pub schedule: Option<Schedule>,
    /// Whether the last step is pure noise: true or false; a shifted cosine stays as it is.
    #[arg(long)]
    pub zero_terminal_snr: Option<bool>,
    /// What the decoder predicts.
    #[arg(long, value_enum)]
    pub prediction: Option<Prediction>,
    /// How a difference becomes a loss.
    #[arg(long, value_enum)]
    pub loss: Option<Form>,
    /// What a loss is multiplied by, by the step's signal-to-noise ratio.
    #[arg(long, value_enum)]
    pub weight: Option<Weight>,
    /// Turn a predicted v into noise, and compare the noise.
    #[arg(long)]
    pub epsilon_loss: bool,
    /// Whether the decoder learns its variance, and what from.
    #[arg(long, value_enum)]
    pub variance: Option<Variance>,
    /// Share of training samples whose codes are dropped, which guidance needs.
    #[arg(long)]
    pub drop_codes: Option<f64>,
    /// Pixels of a side of the decoder's patches.
    #[arg(long)]
    pub patch: Option<usize>,
    /// Channels of the decoder at its finest resolution.
    #[arg(long)]
    pub base: Option<usize>,
    /// Steps of DDIM in the evaluation.
    #[arg(long, default_value_t = 25)]
    pub sampling_steps: usize,
    /// Scale of the guidance in the evaluation; 1 is none.
    #[arg(long, default_value_t = 1.0)]
    pub guidance: f64,
    /// Held-out samples that are drawn again in the evaluation, at most.
    #[arg(long, default_value_t = 64)]
    pub samples: usize,
    /// Tokens per code over which utilization is counted after the training.
    #[arg(long, default_value_t = 10)]
    pub tokens_per_code: usize,
    /// Changes of the preset's codes.
    #[command(flatten)]
    pub code: CodeOptions,
    /// Changes of the preset's settings.
    #[command(flatten)]
    pub settings: SettingOptions,
    /// Where it computes, and what it writes when.
    #[command(flatten)]
    pub run: RunOptions,
}

impl Options {
    /// What is trained on.
    ///
    /// # Errors
    /// A `--modality` that is not the preset's.
    pub fn kind(&self) -> Result<Kind, Failure> {
        kind_of(self.preset.kind(), self.modality, Kind::Rgb)
    }

    /// The settings that the options describe, but for what a frozen encoder says of them.
    ///
    /// # Errors
    /// Options that contradict each other or a preset.
    pub fn config(&self) -> Result<Config, Failure> {
        if self.preset.is_frozen() && self.encoder.is_none() {
            return Err(Failure::new(
                "this preset is of a frozen encoder: give --encoder and a checkpoint of train_vqvae --preset 4m-rgb-1k",
            ));
        }
        let code = &self.code;
        if self.encoder.is_some() && (code.codes.is_some() || code.dim.is_some() || code.l2_norm.is_some()) {
            return Err(Failure::new("--encoder brings its codes along: leave out --codes, --dim and --l2-norm"));
        }
        let mut config = self.preset.config(self.kind()?);
        let objective = &mut config.objective;
        objective.prediction = self.prediction.unwrap_or(objective.prediction);
        objective.form = self.loss.unwrap_or(objective.form);
        objective.weight = self.weight.unwrap_or(objective.weight);
        objective.epsilon_loss |= self.epsilon_loss;
        config.schedule = self.schedule.unwrap_or(config.schedule);
        config.zero_terminal_snr = self.zero_terminal_snr.unwrap_or(config.zero_terminal_snr);
        config.variance = self.variance.unwrap_or(config.variance);
        config.decoder.learned_variance = config.variance != Variance::Fixed;
        config.decoder.patch = self.patch.unwrap_or(config.decoder.patch);
        config.decoder.base = self.base.unwrap_or(config.decoder.base);
        config.drop_codes = self.drop_codes.unwrap_or(config.drop_codes);
        config.commitment = self.code.commitment.unwrap_or(config.commitment);
        code.apply(&mut config.codes);
        config.decoder.condition = config.codes.dim;
        self.settings.apply(&mut config.settings);
        config.check()?;
        Ok(config)
    }

    /// How much is evaluated.
    ///
    /// # Errors
    /// Counts of 0, guidance that the training does not allow.
    pub fn effort(&self, config: &Config) -> Result<Effort, Failure> {
        if self.samples == 0 {
            return Err(Failure::new("--samples 0: at least 1 is drawn in the evaluation"));
        }
        config.diffusion().trailing(self.sampling_steps)?;
        if !self.guidance.is_finite() || (self.guidance != 1.0 && config.drop_codes == 0.0) {
            return Err(Failure::new(format!(
                "--guidance {}: give 1, or a number and --drop-codes 0.1, without which the decoder never learns to do without codes",
                self.guidance
            )));
        }
        Ok(Effort {
            samples: self.samples,
            steps: self.sampling_steps,
            guidance: self.guidance,
            tokens_per_code: self.tokens_per_code,
        })
    }
}
