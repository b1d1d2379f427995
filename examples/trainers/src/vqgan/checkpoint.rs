//! A VQGAN's checkpoint: the training's state, and the adversary's.

use std::path::Path;

use super::config::Config;
use super::trainer::{Opponent, TrainBackend, Trainer};
use crate::common::failure::Failure;
use crate::params::tensors;
use crate::shell::{self, Checkpoint, Extra};

/// What kind of tokenizer this is.
pub const KIND: &str = "vqgan";

const DISCRIMINATOR: &str = "discriminator.";
const DISCRIMINATOR_MOMENTS: [&str; 2] = ["discriminator_moments.weights", "discriminator_moments.rest"];

/// Which run a checkpoint belongs to: settings, data, frozen networks.
///
/// # Errors
/// As [`shell::identity`].
pub fn identity(config: &Config, data: &str, perceptual: &str) -> Result<String, Failure> {
    shell::identity(KIND, config, data, perceptual)
}

impl<B: TrainBackend> Trainer<B> {
    /// Writes all that is needed to go on.
    ///
    /// # Errors
    /// Where the file cannot be written; what was under this name before then stays.
    pub fn save(&self, path: &Path, run: &str) -> Result<(), Failure> {
        let mut extra = Extra::default();
        if let Some(Opponent { network, optimizer }) = &self.opponent {
            let named = tensors(network).into_iter();
            extra.tensors = named.map(|(name, tensor)| (format!("{DISCRIMINATOR}{name}"), tensor)).collect();
            extra.bytes = DISCRIMINATOR_MOMENTS.into_iter().zip(optimizer.state()?).collect();
        }
        self.state.save(path, run, extra)
    }

    /// Takes up what [`save`](Self::save) wrote for the same `run`.
    ///
    /// # Errors
    /// A file of another program or run, or damaged; the training is then used up.
    pub fn resume(self, path: &Path, run: &str) -> Result<Self, Failure> {
        let mut file = Checkpoint::of_run(path, run)?;
        let state = self.state.resume(&mut file)?;
        let opponent = match self.opponent {
            Some(opponent) => Some(Opponent {
                network: file.module(DISCRIMINATOR, opponent.network)?,
                optimizer: file.optimizer(DISCRIMINATOR_MOMENTS, &self.config.settings.optimizer, state.device())?,
            }),
            None => None,
        };
        Ok(Self { state, opponent, ..self })
    }
}
