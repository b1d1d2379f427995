//! What a quantizer is made of, validated once.

use crate::codebook::Metric;
use crate::error::{Error, Result};
use crate::ops::{ema, restart};

/// How codes are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learner {
    /// By the codebook term's gradient: VQGAN (not factorized: full-dimensional codes) and VQGAN-FC.
    Gradient,
    /// By moving averages of the rows that fall to them: VQGAN-EMA.
    Ema,
    /// Frozen centres `[codes, source_dim]` seen through a trained projector: VQGAN-LC (Zhu et al.,
    /// "Scaling the codebook size of VQ-GAN to 100,000 with a utilization rate of 99%", NeurIPS 2024).
    Projector {
        /// Dimensions of a frozen centre.
        source_dim: usize,
    },
    /// Not at all.
    Frozen,
}

/// How the gradient passes the quantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    /// As it is: [`straight_through_backward`](crate::ops::loss::straight_through_backward).
    StraightThrough,
    /// Rotated and scaled: [`rotation_backward`](crate::ops::loss::rotation_backward).
    Rotation,
}

/// A quantizer's settings. The default is a small EMA quantizer with all three fixes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Width of the rows that come in and go out.
    pub inputs: usize,
    /// Dimensions of a code; equal to `inputs` unless `factorize`.
    pub dim: usize,
    /// Number of codes.
    pub codes: usize,
    /// How codes are learned.
    pub learner: Learner,
    /// Whether rows are projected from `inputs` to `dim` and back.
    pub factorize: bool,
    /// Whether rows and codes are normalized: cosine search, else L2.
    pub normalize: bool,
    /// Whether, and when, stale codes are replaced.
    pub restart: Option<restart::Rule>,
    /// How the gradient passes the quantization.
    pub estimator: Estimator,
    /// Decay β of the moving averages (0.99).
    pub decay: f64,
    /// Weight of the commitment term in the gradient at rows (0.25).
    pub commitment_weight: f64,
    /// Weight of the codebook term in the gradient at codes or their projector (1).
    pub codebook_weight: f64,
    /// Seed of the initial weights and codes.
    pub seed: u64,
}

/// The widest row that a quantizer takes.
const MAX_WIDTH: usize = 1 << 20;

impl Default for Config {
    fn default() -> Self {
        Self {
            inputs: 32,
            dim: 8,
            codes: 1024,
            learner: Learner::Ema,
            factorize: true,
            normalize: true,
            restart: Some(restart::Rule::default()),
            estimator: Estimator::StraightThrough,
            decay: 0.99,
            commitment_weight: 0.25,
            codebook_weight: 1.0,
            seed: 0,
        }
    }
}

impl Config {
    /// How rows and codes are compared.
    pub fn metric(&self) -> Metric {
        if self.normalize { Metric::Cosine } else { Metric::L2 }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |field, expected| Err(Error::Config { field, expected });
        if self.inputs == 0 {
            return Err(Error::Empty { op: "quantizer", arg: "inputs" });
        }
        if !self.factorize && self.inputs != self.dim {
            return refuse("dim", "the same as inputs, or factorize on");
        }
        ema::check_decay(self.decay)?;
        let weights_ok = [self.commitment_weight, self.codebook_weight].iter().all(|w| w.is_finite() && *w >= 0.0);
        if !weights_ok {
            return refuse("commitment_weight, codebook_weight", "finite weights of at least 0");
        }
        if let Some(rule) = self.restart {
            rule.check()?;
        }
        let source_dim = match self.learner {
            Learner::Projector { source_dim } => source_dim,
            Learner::Gradient | Learner::Ema | Learner::Frozen => 1,
        };
        for (arg, got) in [("inputs", self.inputs), ("source_dim", source_dim)] {
            if got > MAX_WIDTH {
                return Err(Error::TooLarge { op: "quantizer", arg, max: MAX_WIDTH as u64, got: got as u64 });
            }
        }
        match (self.learner, self.restart) {
            (Learner::Projector { .. } | Learner::Frozen, Some(_)) => {
                refuse("restart", "None: frozen codes cannot be replaced")
            }
            (Learner::Projector { source_dim: 0 }, None) => Err(Error::Empty { op: "quantizer", arg: "source_dim" }),
            _ => Ok(()),
        }
    }
}
