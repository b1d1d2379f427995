//! All that defines a run.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::common::failure::Failure;
use crate::data::Augment;
use crate::data::maps::Modality;
use crate::diffusion::sampler::Clip;
use crate::diffusion::target::Prediction;
use crate::diffusion::{Diffusion, Objective, Schedule};
use crate::nets::unet::UnetConfig;
use crate::nets::vit::VitConfig;
use crate::shell::{Codes, Settings};

/// What samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Colour images.
    Rgb,
    /// Surface normals.
    Normals,
    /// Distances, standardised.
    Depth,
    /// Canny edges.
    Edges,
}

impl Kind {
    /// As the data knows it.
    pub fn modality(self) -> Modality {
        match self {
            Self::Rgb => Modality::Rgb,
            Self::Normals => Modality::Normals,
            Self::Depth => Modality::Depth,
            Self::Edges => Modality::Edges,
        }
    }

    /// Values of a pixel.
    pub fn channels(self) -> usize {
        self.modality().channels()
    }

    /// What a sampled image is held to: all but distances lie in [-1, 1].
    pub fn clip(self) -> Clip {
        match self {
            Self::Rgb | Self::Normals | Self::Edges => Clip::Unit,
            Self::Depth => Clip::None,
        }
    }
}

/// Whether the decoder learns its variance, and what from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// No: 4M.
    Fixed,
    /// From the variational bound, beside the objective, which the prediction learns from: DiVAE (L_hybrid).
    Hybrid,
    /// From the bound alone, and the prediction too (L_vlb).
    Bound,
}

/// All that defines a run, but its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What samples are.
    pub kind: Kind,
    /// From samples to latents.
    pub encoder: VitConfig,
    /// From codes and noise to samples.
    pub decoder: UnetConfig,
    /// The quantizer.
    pub codes: Codes,
    /// SHA-256 of the tensors of the encoder and the codes, where they are another tokenizer's and frozen.
    pub frozen: Option<String>,
    /// The noise of each step.
    pub schedule: Schedule,
    /// Whether the last step is pure noise.
    pub zero_terminal_snr: bool,
    /// What the decoder predicts, and its loss.
    pub objective: Objective,
    /// Whether it learns its variance.
    pub variance: Variance,
    /// Share of training samples whose codes are dropped, which guidance needs.
    pub drop_codes: f64,
    /// Weight of `mean ‖z − sg(e)‖²`: latents towards codes, on un-normalized latents, which keeps their volume.
    pub commitment: f64,
    /// How training crops vary.
    pub augment: Augment,
    /// How long, how fast, from which seed.
    pub settings: Settings,
}

impl Config {
    /// Height and width of samples.
    pub fn size(&self) -> usize {
        self.encoder.image_size
    }

    /// Tokens of a sample's side.
    pub fn grid(&self) -> usize {
        self.encoder.grid()
    }

    /// Tokens of a sample.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }

    /// The schedule's tables.
    pub fn diffusion(&self) -> Diffusion {
        Diffusion::new(self.schedule, self.zero_terminal_snr)
    }

    /// Why what is predicted cannot pass through the decoder, where that is so: noise has as many values as the image, and
    /// no structure by which fewer would do.
    pub fn narrow(&self) -> Option<String> {
        let (values, base) = (self.kind.channels() * self.decoder.patch.pow(2), self.decoder.base);
        (self.objective.prediction != Prediction::Sample && base < values).then(|| {
            format!("noise of {values} values a patch does not pass through --base {base}: take {values}, or a smaller --patch")
        })
    }

    /// # Errors
    /// The setting that does not fit, and what would.
    pub fn check(&self) -> Result<(), Failure> {
        let refuse = |what: String| Err(Failure::new(what));
        let Self { encoder, decoder, .. } = self;
        encoder.check()?;
        decoder.check(encoder.image_size)?;
        let channels = self.kind.channels();
        if [encoder.channels, decoder.channels] != [channels; 2] {
            return refuse(format!(
                "{} has {channels} channels, not {} and {}",
                self.kind.modality(),
                encoder.channels,
                decoder.channels
            ));
        }
        if decoder.condition != self.codes.dim {
            return refuse(format!(
                "codes of {} dimensions cannot be the condition of a decoder for {}",
                self.codes.dim, decoder.condition
            ));
        }
        if decoder.learned_variance != (self.variance != Variance::Fixed) {
            return refuse("the decoder returns a variance exactly where it is learned: see --variance".into());
        }
        self.objective.check(&self.diffusion())?;
        if !(0.0..1.0).contains(&self.drop_codes) {
            return refuse(format!("--drop-codes {}: expected a share of at least 0 and below 1", self.drop_codes));
        }
        if !(self.commitment.is_finite() && self.commitment >= 0.0) {
            return refuse(format!("--commitment {}: expected a number of at least 0", self.commitment));
        }
        self.codes.check()?;
        self.augment.check()?;
        self.settings.check()
    }
}
