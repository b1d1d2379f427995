//! All that defines a run.

use serde::{Deserialize, Serialize};

use crate::common::failure::Failure;
use crate::data::Augment;
use crate::nets::Backbone;
use crate::nets::cnn::COLOURS;
use crate::nets::patchgan::PatchConfig;
use crate::nets::stylegan::StyleConfig;
pub use crate::shell::{Codes, Settings, System};

/// Weights of the loss terms; those of 0 are not computed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Mean absolute error of pixels.
    pub l1: f64,
    /// Mean squared error of pixels.
    pub l2: f64,
    /// Logit-Laplace likelihood of pixels (Ramesh et al. 2021, appendix A.3), with its scale fixed at 1.
    pub logit_laplace: f64,
    /// Distance in a frozen network's features.
    pub perceptual: f64,
    /// `mean ‖z − sg(e)‖²`: latents towards codes, on un-normalized latents, which keeps their volume.
    pub commitment: f64,
    /// `mean ‖sg(z) − e‖²`: codes, or their projector, towards latents.
    pub codebook: f64,
    /// Distance between the distributions of latents and of codes: draws latents to codes that none of them has.
    #[serde(default)]
    pub coverage: f64,
}

/// Which network tells images from reconstructions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// PatchGAN (Isola et al. 2017).
    Patch(PatchConfig),
    /// StyleGAN2's (Karras et al. 2020).
    Style(StyleConfig),
}

/// The form of the adversarial loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum GanLoss {
    /// Hinge (Lim and Ye 2017).
    Hinge,
    /// Softplus, the non-saturating loss (Goodfellow et al. 2014).
    Softplus,
}

/// The adversary and when it comes in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adversary {
    /// Its network.
    pub judge: Judge,
    /// Form of the loss.
    pub loss: GanLoss,
    /// First step that has it.
    pub start: u64,
    /// Its weight.
    pub weight: f64,
    /// Whether the weight is also multiplied by the ratio of gradients at the last layer (Esser et al. 2021, eq. 7).
    pub adaptive: bool,
    /// Lazy R1 (Mescheder et al. 2018; Karras et al. 2020): its γ, and every how many steps.
    pub r1: Option<(f64, u64)>,
}

/// All that defines a run, but its data and its frozen networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Encoder and decoder.
    pub backbone: Backbone,
    /// The quantizer.
    pub codes: Codes,
    /// Weights of the loss terms.
    pub losses: Losses,
    /// The adversary, if any.
    pub adversary: Option<Adversary>,
    /// Of encoder, decoder and quantizer; the adversary has an optimizer of its own with the same settings.
    #[serde(flatten)]
    pub settings: Settings,
    /// How training crops vary.
    pub augment: Augment,
}

impl Config {
    /// Tokens of one image.
    pub fn tokens(&self) -> usize {
        self.backbone.grid() * self.backbone.grid()
    }

    /// # Errors
    /// The setting that does not fit, and what would.
    pub fn check(&self) -> Result<(), Failure> {
        self.backbone.check()?;
        self.settings.check()?;
        self.codes.check()?;
        let refuse = |what: String| Err(Failure::new(what));
        if let Backbone::Vit { encoder, decoder } = &self.backbone {
            // The adversary's weight is found at the decoder's last layer, which must be a patch's colours.
            if [encoder.channels, decoder.channels] != [COLOURS; 2] || decoder.out_conv.is_some() {
                return refuse("a VQGAN's transformers have 3 channels and no `out_conv`".into());
            }
        }
        let Losses { l1, l2, logit_laplace, perceptual, commitment, codebook, coverage } = self.losses;
        let weights = [l1, l2, logit_laplace, perceptual, commitment, codebook, coverage];
        if !weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0) {
            return refuse(format!("loss weights must be numbers of at least 0, got {weights:?}"));
        }
        if weights[..4].iter().all(|weight| *weight == 0.0) {
            return refuse(
                "no reconstruction loss: give at least one of --l1, --l2, --logit-laplace, --perceptual a weight"
                    .into(),
            );
        }
        self.augment.check()?;
        if let Some(adversary) = &self.adversary {
            match &adversary.judge {
                Judge::Patch(net) => net.check(self.backbone.image_size())?,
                Judge::Style(net) => net.check()?,
            }
            if !(adversary.weight.is_finite() && adversary.weight >= 0.0) {
                return refuse(format!("--gan {}: expected a weight of at least 0", adversary.weight));
            }
            if let Some((gamma, every)) = adversary.r1
                && !(gamma >= 0.0 && gamma.is_finite() && every > 0)
            {
                return refuse(format!(
                    "R1 of γ {gamma} every {every} steps: expected γ of at least 0, every step or more"
                ));
            }
        }
        Ok(())
    }
}
