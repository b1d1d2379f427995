//! The codes' part of a configuration.

use serde::{Deserialize, Serialize};
use vq_kernels::ops::restart::Rule;
use vq_kernels::quantizer::{Config as QuantizerConfig, Estimator, Learner};
use vq_kernels::{MAX_CODES, MAX_DIM};

use crate::common::failure::Failure;

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
    /// 4M's: learned by moving averages, compared by angle, restarted where stale.
    pub fn four_m(codes: usize, dim: usize) -> Self {
        Self {
            system: System::Ema,
            codes,
            dim,
            source_dim: 0,
            source_hash: String::new(),
            standardize: false,
            normalize: true,
            restart: true,
            rotation: false,
            decay: 0.99,
        }
    }

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

    /// # Errors
    /// The setting that does not fit, and what would.
    pub fn check(&self) -> Result<(), Failure> {
        for (name, value, most) in [("--codes", self.codes, MAX_CODES), ("--dim", self.dim, MAX_DIM)] {
            if !(1..=most).contains(&value) {
                return Err(Failure::new(format!("{name} {value}: expected 1 to {most}")));
            }
        }
        if !(0.0..1.0).contains(&self.decay) {
            return Err(Failure::new(format!("--decay {}: expected a share of at least 0 and below 1", self.decay)));
        }
        Ok(())
    }
}
