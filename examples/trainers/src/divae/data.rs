//! The samples of a run: which ones a step sees, and fixed ones to judge by.

use super::config::Config;
use crate::common::failure::Failure;
use crate::data::Source;
use crate::data::maps::{FixedMaps, MapBatch, MapBatches, Maps, Opening};

/// Seed of the split into a training and a held-out part: one for all runs, so that their figures compare.
const SPLIT: u64 = 0;

/// Where a run's samples come from.
pub struct Data {
    train: MapBatches,
    fixed: FixedMaps,
    held_out: FixedMaps,
}

impl Data {
    /// Opens and splits the samples of a configuration.
    ///
    /// # Errors
    /// Files that cannot be read, or not cut to size.
    pub fn open(source: &Source, hold_out: f64, config: &Config) -> Result<Self, Failure> {
        let (size, settings) = (config.size(), &config.settings);
        let opening = Opening { progress: true, ..Opening::default() };
        let (train, held_out) = Maps::open(config.kind.modality(), source, &opening)?.split(hold_out, SPLIT)?;
        Ok(Self {
            fixed: FixedMaps::new(&train, size)?,
            held_out: FixedMaps::new(&held_out, size)?,
            train: MapBatches::new(&train, size, settings.batch, config.augment, settings.seed)?,
        })
    }

    /// The name of the training part.
    pub fn name(&self) -> &str {
        self.train.maps().name()
    }

    /// Training samples of an epoch.
    pub fn len(&self) -> usize {
        self.train.maps().len()
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.train.maps().is_empty()
    }

    /// What a step sees: a function of the seed and the step.
    pub fn batch(&self, step: u64) -> MapBatch {
        self.train.get(step)
    }

    /// The held-out samples.
    pub fn held_out(&self) -> &FixedMaps {
        &self.held_out
    }

    /// The training samples, always the same crops of them.
    pub fn fixed(&self) -> &FixedMaps {
        &self.fixed
    }
}
