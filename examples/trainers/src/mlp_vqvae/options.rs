//! What the person asks for.

use clap::Parser;

use super::config::{Coding, Config};
use super::presets::{Kind, Preset, Quantizer};
use crate::common::failure::Failure;
use crate::shell::{CodeOptions, DataOptions, RunOptions, SettingOptions, kind_of};
use crate::vqvae::config::Reconstruction;

/// Values of made embeddings, where no data says how many there are.
const MADE_VALUES: usize = 64;

/// Trains a VQ-VAE of vectors: embeddings or poses; without data, on made ones.
#[derive(Clone, Debug, Parser)]
#[command(name = "train_mlp_vqvae", version)]
pub struct Options {
    /// Settings to start from; the options below change them one by one.
    #[arg(long, value_enum, default_value = "small")]
    pub preset: Preset,
    /// What to train on, where the preset leaves it open (small, tiny) [default: poses].
    #[arg(long, value_enum)]
    pub modality: Option<Kind>,
    /// Where the samples are: a .safetensors file of vectors [n, d], or of poses: `rotvec` [n, 23, 3] or rotation matrices [n, 207].
    #[command(flatten)]
    pub data: DataOptions,
    /// The name of the tensor of the samples, where the file has several that fit.
    #[arg(long)]
    pub tensor: Option<String>,
    /// Values of an embedding, for made ones and where a file has several kinds [default: 64, or the file's].
    #[arg(long)]
    pub values: Option<usize>,
    /// How latents become tokens.
    #[arg(long, value_enum, default_value = "memcodes")]
    pub quantizer: Quantizer,
    /// Tokens of a vector [default: the preset's].
    #[arg(long)]
    pub heads: Option<usize>,
    /// The loss of a reconstruction [default: the preset's].
    #[arg(long, value_enum)]
    pub loss: Option<Reconstruction>,
    /// Changes of the preset's codes. `--dim` are the dimensions of a head's code.
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
        kind_of(self.preset.kind(), self.modality, Kind::Poses)
    }

    /// The settings that the options describe, but for the scale; `values` are an embedding's, where a file says so.
    ///
    /// # Errors
    /// Options that contradict each other or a preset.
    pub fn config(&self, values: Option<usize>) -> Result<Config, Failure> {
        let values = self.values.or(values).unwrap_or(MADE_VALUES);
        let mut config = self.preset.config(self.kind()?, values, self.quantizer, self.heads);
        config.loss = self.loss.unwrap_or(config.loss);
        config.commitment = self.code.commitment.unwrap_or(config.commitment);
        match &mut config.coding {
            Coding::Shared { codes, .. } => self.code.apply(codes),
            Coding::Memcodes(memcodes) => {
                let code = &self.code;
                if code.l2_norm.is_some() || code.restart.is_some() || code.decay.is_some() || code.rotation {
                    return Err(Failure::new(
                        "--l2-norm, --restart, --decay and --rotation are for --quantizer shared",
                    ));
                }
                memcodes.codes = self.code.codes.unwrap_or(memcodes.codes);
                let of_head = self.code.dim.unwrap_or(memcodes.dim / memcodes.heads.max(1));
                memcodes.dim = of_head.saturating_mul(memcodes.heads);
            }
        }
        self.settings.apply(&mut config.settings);
        config.check()?;
        Ok(config)
    }
}
