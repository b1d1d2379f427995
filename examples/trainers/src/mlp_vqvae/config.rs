//! All that defines a run.

use serde::{Deserialize, Serialize};

use crate::common::failure::Failure;
use crate::data::maps::{Modality, Scale};
use crate::nets::bottleneck::BottleneckConfig;
use crate::nets::memcodes::MemcodesConfig;
use crate::shell::{Codes, Settings};
use crate::vqvae::config::Reconstruction;

/// How latents become tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coding {
    /// Each head has codes of its own, learned through the output.
    Memcodes(MemcodesConfig),
    /// All heads share the ordinary quantizer's codes.
    Shared {
        /// Tokens of a vector.
        heads: usize,
        /// The codes; a head's latent has their dimension.
        codes: Codes,
    },
}

impl Coding {
    /// Tokens of a vector.
    pub fn heads(&self) -> usize {
        match self {
            Self::Memcodes(config) => config.heads,
            Self::Shared { heads, .. } => *heads,
        }
    }

    /// Codes that a token is one of.
    pub fn codes(&self) -> usize {
        match self {
            Self::Memcodes(config) => config.codes,
            Self::Shared { codes, .. } => codes.codes,
        }
    }

    /// Codes of all heads.
    pub fn all_codes(&self) -> usize {
        match self {
            Self::Memcodes(config) => config.heads * config.codes,
            Self::Shared { codes, .. } => codes.codes,
        }
    }

    /// Values of a latent, all heads together.
    pub fn dim(&self) -> usize {
        match self {
            Self::Memcodes(config) => config.dim,
            Self::Shared { heads, codes } => heads.saturating_mul(codes.dim),
        }
    }

    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Memcodes(_) => "memcodes",
            Self::Shared { .. } => "one codebook",
        }
    }
}

/// All that defines a run, but its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Vectors or poses.
    pub modality: Modality,
    /// Encoder and decoder: both alike.
    pub net: BottleneckConfig,
    /// The tokens.
    pub coding: Coding,
    /// The loss: smooth L1 of poses, cosine of embeddings.
    pub loss: Reconstruction,
    /// Weight of the commitment term of shared codes; memcodes have none.
    pub commitment: f64,
    /// What values are divided by before, so that the networks see about 1; 4M takes them as they are.
    pub scale: Scale,
    /// How long, how fast, from which seed.
    pub settings: Settings,
}

impl Config {
    /// # Errors
    /// The setting that does not fit, and what would.
    pub fn check(&self) -> Result<(), Failure> {
        self.modality.check()?;
        if !self.modality.is_vector() {
            return Err(Failure::new(format!(
                "{} are no vectors: train_vqvae and train_divae are for maps",
                self.modality
            )));
        }
        self.net.check()?;
        match &self.coding {
            Coding::Memcodes(config) => {
                config.check()?;
                config.check_rows(self.settings.batch)?;
            }
            Coding::Shared { heads: 0, .. } => return Err(Failure::new("--heads 0: a vector takes at least 1 token")),
            Coding::Shared { codes, .. } => codes.check()?,
        }
        if self.loss.distance().is_none() {
            return Err(Failure::new(format!(
                "--loss {:?} is not for vectors: choose l2, l1, smooth-l1 or cosine",
                self.loss
            )));
        }
        if !(self.commitment.is_finite() && self.commitment >= 0.0) {
            return Err(Failure::new(format!("--commitment {}: expected a number of at least 0", self.commitment)));
        }
        let Scale { mean, deviation } = self.scale;
        if !(deviation > 0.0 && deviation.is_finite() && mean.is_finite()) {
            return Err(Failure::new(format!("vectors of mean {mean} and deviation {deviation} cannot be scaled")));
        }
        self.settings.check()
    }
}
