//! What the person asks for.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::config::{Config, GanLoss, Judge, System};
use super::presets::Preset;
use crate::common::failure::Failure;
use crate::nets::Backbone;
use crate::nets::patchgan::PatchConfig;
use crate::nets::stylegan::StyleConfig;
use crate::shell::{CodeOptions, DataOptions, RunOptions, SettingOptions};

/// Networks of the `small` preset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Net {
    /// Convolutions.
    Cnn,
    /// Transformers.
    Vit,
}

/// The adversary's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Disc {
    /// PatchGAN.
    Patch,
    /// StyleGAN2's, with lazy R1.
    Stylegan,
    /// No adversary.
    None,
}

/// Trains a VQGAN; without data, on scenes that it renders itself.
#[derive(Clone, Debug, Parser)]
#[command(name = "train_vqgan", version)]
pub struct Options {
    /// Settings to start from; the options below change them one by one.
    #[arg(long, value_enum, default_value = "small")]
    pub preset: Preset,
    /// How codes are learned. Presets of one system alone ignore it.
    #[arg(long, value_enum, default_value = "lc")]
    pub model: System,
    /// Networks, where the preset leaves the choice (small, tiny).
    #[arg(long, value_enum, default_value = "cnn")]
    pub backbone: Net,
    /// The images, all of which are held in memory, 3 bytes a pixel.
    #[command(flatten)]
    pub data: DataOptions,
    /// Train on only so many images of the training part, by lot.
    #[arg(long)]
    pub images: Option<usize>,
    /// VQGAN-LC's centres, from build_codebook [default: built from the data with a frozen random encoder].
    #[arg(long)]
    pub codebook: Option<PathBuf>,
    /// Height and width of the images, pixels.
    #[arg(long)]
    pub image_size: Option<usize>,
    /// Channels of the convolutions at full resolution.
    #[arg(long)]
    pub channels: Option<usize>,
    /// Weight of the mean absolute error.
    #[arg(long)]
    pub l1: Option<f64>,
    /// Weight of the mean squared error.
    #[arg(long)]
    pub l2: Option<f64>,
    /// Weight of the logit-Laplace likelihood.
    #[arg(long)]
    pub logit_laplace: Option<f64>,
    /// Weight of the perceptual distance.
    #[arg(long)]
    pub perceptual_weight: Option<f64>,
    /// Weight of the codebook term, which draws codes to their latents.
    #[arg(long)]
    pub codebook_term: Option<f64>,
    /// Weight of the coverage term, which draws latents to codes that are not used.
    #[arg(long)]
    pub coverage: Option<f64>,
    /// Weights of the perceptual distance's network: SqueezeNet, VGG16 or AlexNet, safetensors [default: a frozen random network].
    #[arg(long)]
    pub perceptual: Option<PathBuf>,
    /// LPIPS's linear weights for that network, safetensors.
    #[arg(long, requires = "perceptual")]
    pub lpips: Option<PathBuf>,
    /// The adversary's network [default: the preset's].
    #[arg(long, value_enum)]
    pub disc: Option<Disc>,
    /// Form of the adversarial loss.
    #[arg(long, value_enum)]
    pub gan_loss: Option<GanLoss>,
    /// First step that has the adversarial loss.
    #[arg(long)]
    pub gan_start: Option<u64>,
    /// Weight of the adversarial loss.
    #[arg(long)]
    pub gan: Option<f64>,
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
    /// The settings that the options describe, but for the centres of VQGAN-LC.
    ///
    /// # Errors
    /// Options that contradict each other or a preset.
    pub fn config(&self) -> Result<Config, Failure> {
        self.run.check()?;
        let mut config = self.preset.config(self.model, self.backbone == Net::Vit);
        self.resize(&mut config.backbone);
        let set = |to: &mut f64, value: Option<f64>| *to = value.unwrap_or(*to);
        let losses = &mut config.losses;
        set(&mut losses.l1, self.l1);
        set(&mut losses.l2, self.l2);
        set(&mut losses.logit_laplace, self.logit_laplace);
        set(&mut losses.perceptual, self.perceptual_weight);
        set(&mut losses.commitment, self.code.commitment);
        set(&mut losses.codebook, self.codebook_term);
        set(&mut losses.coverage, self.coverage);
        self.code.apply(&mut config.codes);
        self.settings.apply(&mut config.settings);
        self.change_adversary(&mut config)?;
        Ok(config)
    }

    fn resize(&self, backbone: &mut Backbone) {
        match backbone {
            Backbone::Cnn(cnn) => {
                cnn.image_size = self.image_size.unwrap_or(cnn.image_size);
                cnn.channels = self.channels.unwrap_or(cnn.channels);
            }
            Backbone::Vit { encoder, decoder } => {
                for vit in [encoder, decoder] {
                    vit.image_size = self.image_size.unwrap_or(vit.image_size);
                }
            }
        }
    }

    fn change_adversary(&self, config: &mut Config) -> Result<(), Failure> {
        let image_size = config.backbone.image_size();
        if self.disc == Some(Disc::None) {
            config.adversary = None;
        }
        let Some(adversary) = &mut config.adversary else {
            let asked = matches!(self.disc, Some(Disc::Patch | Disc::Stylegan));
            return match asked || self.gan.is_some() || self.gan_start.is_some() || self.gan_loss.is_some() {
                true => {
                    Err(Failure::new("this preset, or --disc none, has no adversary for the --disc and --gan options"))
                }
                false => Ok(()),
            };
        };
        match (self.disc, &mut adversary.judge) {
            (Some(Disc::Patch), judge @ Judge::Style(_)) => {
                *judge = Judge::Patch(PatchConfig::vqgan_lc());
                adversary.r1 = None;
            }
            (Some(Disc::Stylegan), judge @ Judge::Patch(_)) => {
                let published = StyleConfig::new(image_size);
                // Its 512 channels at 4 to 32 px would be most of a small training's time.
                let max_channels = if image_size < 128 { 64 } else { published.max_channels };
                *judge = Judge::Style(StyleConfig { max_channels, ..published });
                // The published γ of 10 is for pixels in [0, 1]; in [-1, 1] slopes are half as long.
                adversary.r1 = Some((40.0, 16));
            }
            (_, Judge::Style(style)) => style.image_size = image_size,
            _ => {}
        }
        adversary.loss = self.gan_loss.unwrap_or(adversary.loss);
        adversary.start = self.gan_start.unwrap_or(adversary.start);
        adversary.weight = self.gan.unwrap_or(adversary.weight);
        Ok(())
    }
}
