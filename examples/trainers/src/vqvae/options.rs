//! What the person asks for.

use std::path::PathBuf;

use clap::Parser;

use super::config::{Config, Reconstruction};
use super::presets::{Kind, Preset};
use crate::common::failure::Failure;
use crate::data::maps::Resolutions;
use crate::shell::{CodeOptions, DataOptions, RunOptions, SettingOptions, kind_of};

/// Trains a VQ-VAE of images, classes, features or masks; without data, on scenes that it renders itself.
#[derive(Clone, Debug, Parser)]
#[command(name = "train_vqvae", version)]
pub struct Options {
    /// Settings to start from; the options below change them one by one.
    #[arg(long, value_enum, default_value = "small")]
    pub preset: Preset,
    /// What to train on, where the preset leaves it open (small, tiny) [default: semseg].
    #[arg(long, value_enum)]
    pub modality: Option<Kind>,
    /// The samples: images, label maps for semseg and masks, a .safetensors file of maps for features.
    #[command(flatten)]
    pub data: DataOptions,
    /// Classes of label maps, 0 among them [default: the rendered scenes'; of COCO's categories give 91].
    #[arg(long)]
    pub classes: Option<usize>,
    /// Weights of the network whose features of the images are the samples: SqueezeNet or CLIP's vision tower, safetensors
    /// [default: a network with fixed random weights].
    #[arg(long)]
    pub teacher: Option<PathBuf>,
    /// Crops of each image whose features are made.
    #[arg(long, default_value_t = 4)]
    pub views: usize,
    /// The loss of a reconstruction [default: the preset's].
    #[arg(long, value_enum)]
    pub loss: Option<Reconstruction>,
    /// Weight of the perceptual distance, of colour images.
    #[arg(long)]
    pub perceptual_weight: Option<f64>,
    /// Weights of the perceptual distance's network: SqueezeNet, VGG16 or AlexNet, safetensors [default: a frozen random network].
    #[arg(long)]
    pub perceptual: Option<PathBuf>,
    /// LPIPS's linear weights for that network, safetensors.
    #[arg(long, requires = "perceptual")]
    pub lpips: Option<PathBuf>,
    /// Largest size of training batches: each has one size from the preset's on, by steps of two patches [default: the
    /// preset's size alone].
    #[arg(long)]
    pub largest: Option<usize>,
    /// A checkpoint of the same networks, or the directory where it was trained, to start from, to adapt it to larger images.
    #[arg(long)]
    pub start: Option<PathBuf>,
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
        kind_of(self.preset.kind(), self.modality, Kind::Semseg)
    }

    /// The settings that the options describe, but for what the data says of them.
    ///
    /// # Errors
    /// Options that contradict each other or a preset.
    pub fn config(&self) -> Result<Config, Failure> {
        let kind = self.kind()?;
        if self.teacher.is_some() && kind != Kind::Features {
            return Err(Failure::new("--teacher is for --modality features: the others are read as they are"));
        }
        let mut config = self.preset.config(kind);
        config.loss = self.loss.unwrap_or(config.loss);
        config.perceptual = self.perceptual_weight.unwrap_or(config.perceptual);
        config.commitment = self.code.commitment.unwrap_or(config.commitment);
        let (min, patch) = (config.size(), config.encoder.patch);
        config.sizes = self.largest.map(|max| Resolutions { min, max, step: 2 * patch }).or(config.sizes);
        self.code.apply(&mut config.codes);
        self.settings.apply(&mut config.settings);
        config.check()?;
        Ok(config)
    }
}
