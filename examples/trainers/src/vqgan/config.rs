//! All that defines a run.

use serde::{Deserialize, Serialize};
use vq_kernels::ops::restart::Rule;
use vq_kernels::quantizer::{Config as QuantizerConfig, Estimator, Learner};
use vq_kernels::{MAX_CODES, MAX_DIM};

use crate::common::failure::Failure;
use crate::data::Augment;
use crate::nets::Backbone;
use crate::nets::patchgan::PatchConfig;
use crate::nets::stylegan::StyleConfig;
use crate::optim::OptimizerConfig;

/// The four systems, which differ in how codes are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// VQGAN (Esser et al. 2021): full-width codes, learned by gradient.
    Vqgan,
    /// VQGAN-FC (Yu et al. 2022, as VQGAN-LC's paper builds it): factorized codes, learned by gradient.
    Fc,
    /// VQGAN-EMA: factorized codes, learned by moving averages.
    Ema,
    /// VQGAN-LC (Zhu et al. 2024): frozen centres of a pretrained encoder's features, seen through a trained projector.
    Lc,
}

impl System {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vqgan => "VQGAN",
            Self::Fc => "VQGAN-FC",
            Self::Ema => "VQGAN-EMA",
            Self::Lc => "VQGAN-LC",
        }
    }
}

/// The quantizer's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Codes {
    /// How codes are learned.
    pub system: System,
    /// Number of codes.
    pub codes: usize,
    /// Dimensions of a code.
    pub dim: usize,
    /// Dimensions of a frozen centre; 0 without centres.
    pub source_dim: usize,
    /// SHA-256 of the frozen centres; empty without centres.
    pub source_hash: String,
    /// Whether the projector starts such that codes have mean 0 and variance 1 in each dimension, whatever the centres' scale
    /// (as Salimans and Kingma 2016, §3, initialise by data). Published with CLIP's features, which have about that scale, and without.
    pub standardize: bool,
    /// Whether latents and codes are compared after l2 normalization.
    pub normalize: bool,
    /// Whether stale codes are restarted.
    pub restart: bool,
    /// Whether the gradient passes by the rotation trick (Fifty et al. 2024), else straight through.
    pub rotation: bool,
    /// Decay of the moving averages.
    pub decay: f64,
}

impl Codes {
    /// As the kernels' layer takes it; the 1×1 convolutions around it are the networks'.
    pub fn layer(&self, seed: u64) -> QuantizerConfig {
        QuantizerConfig {
            inputs: self.dim,
            dim: self.dim,
            codes: self.codes,
            learner: match self.system {
                System::Vqgan | System::Fc => Learner::Gradient,
                System::Ema => Learner::Ema,
                System::Lc => Learner::Projector { source_dim: self.source_dim },
            },
            factorize: false,
            normalize: self.normalize,
            restart: self.restart.then(|| Rule { seed, ..Rule::default() }),
            estimator: if self.rotation { Estimator::Rotation } else { Estimator::StraightThrough },
            decay: self.decay,
            seed,
            ..QuantizerConfig::default()
        }
    }
}

/// Weights of the loss terms; those of 0 are not computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Of encoder, decoder and quantizer; the adversary has its own with the same settings.
    pub optimizer: OptimizerConfig,
    /// Steps of the whole run.
    pub steps: u64,
    /// Images a step.
    pub batch: usize,
    /// How training crops vary.
    pub augment: Augment,
    /// Decay of the weights' moving average, which then is what is evaluated.
    pub average: Option<f64>,
    /// Whether the networks compute in bf16; weights, losses and the quantizer stay f32.
    pub amp: bool,
    /// Of initial values, data order, crops and restarts.
    pub seed: u64,
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
        self.optimizer.check()?;
        let refuse = |what: String| Err(Failure::new(what));
        if self.batch == 0 {
            return refuse("--batch 0: a step takes at least one image".into());
        }
        if self.steps == 0 {
            return refuse("--steps 0: a training takes at least one step".into());
        }
        for (name, value, most) in [("--codes", self.codes.codes, MAX_CODES), ("--dim", self.codes.dim, MAX_DIM)] {
            if !(1..=most).contains(&value) {
                return refuse(format!("{name} {value}: expected 1 to {most}"));
            }
        }
        let Losses { l1, l2, logit_laplace, perceptual, commitment, codebook } = self.losses;
        let weights = [l1, l2, logit_laplace, perceptual, commitment, codebook];
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
        if let Some(decay) = self.average
            && !(0.0..1.0).contains(&decay)
        {
            return refuse(format!("--average {decay}: expected a decay in 0..1"));
        }
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
