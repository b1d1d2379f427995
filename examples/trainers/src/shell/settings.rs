//! What every run is told.

use serde::{Deserialize, Serialize};

use crate::common::failure::Failure;
use crate::optim::OptimizerConfig;

/// How long, how fast and from which seed a run learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Of the networks and of the codes that are learned by gradient.
    pub optimizer: OptimizerConfig,
    /// Steps of the whole run.
    pub steps: u64,
    /// Samples a step.
    pub batch: usize,
    /// Decay of the weights' moving average, which then is what is evaluated.
    pub average: Option<f64>,
    /// Whether the networks compute in bf16; weights, losses and the quantizer stay f32.
    pub amp: bool,
    /// Of initial values, data order, crops, noise and restarts.
    pub seed: u64,
}

/// Samples that an epoch of 4M's is counted as: ImageNet-1k's training set. Its own sets are larger, and not public as such.
const EPOCH: u64 = 1_281_167;

impl Settings {
    /// What all of 4M's tokenizers have in common: `batch` samples on all GPUs together, for so many epochs of which the first ones warm up.
    pub fn four_m(batch: u64, lr: f64, epochs: u64, warmup: u64) -> Self {
        let epoch = EPOCH / batch.max(1);
        Self {
            optimizer: OptimizerConfig {
                lr,
                beta1: 0.9,
                beta2: 0.99,
                epsilon: 1e-8,
                weight_decay: 0.05,
                clip: Some(1.0),
                warmup: warmup * epoch,
                cosine: true,
            },
            steps: epochs * epoch,
            batch: batch as usize,
            average: Some(0.99),
            amp: false,
            seed: 0,
        }
    }

    /// The same for a training of minutes.
    #[must_use]
    pub fn short(self, steps: u64, batch: usize, lr: f64) -> Self {
        Self { optimizer: OptimizerConfig { lr, warmup: steps / 20 + 1, ..self.optimizer }, steps, batch, ..self }
    }

    /// # Errors
    /// The setting that does not fit, and what would.
    pub fn check(&self) -> Result<(), Failure> {
        self.optimizer.check()?;
        if self.batch == 0 {
            return Err(Failure::new("--batch 0: a step takes at least one sample"));
        }
        if self.steps == 0 {
            return Err(Failure::new("--steps 0: a training takes at least one step"));
        }
        match self.average {
            Some(decay) if !(0.0..1.0).contains(&decay) => {
                Err(Failure::new(format!("--average {decay}: expected a decay in 0..1")))
            }
            _ => Ok(()),
        }
    }

    /// The learning rate of a step, from 0.
    pub fn lr_at(&self, step: u64) -> f64 {
        self.optimizer.lr_at(step, self.steps)
    }
}
