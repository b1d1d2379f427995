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

impl Settings {
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
