//! The vectors of a run: which ones a step sees, and fixed ones to judge by.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use super::config::Config;
use crate::common::failure::Failure;
use crate::data::Augment;
use crate::data::maps::{FixedMaps, MapBatch, MapBatches, Maps, Modality, Scale};

/// Training vectors whose values the scale is taken from.
const SCALE_SAMPLES: usize = 1024;

/// Where a run's vectors come from.
#[derive(Clone, Debug)]
pub struct Data {
    batches: MapBatches,
    train: FixedMaps,
    held_out: FixedMaps,
}

impl Data {
    /// Of both sides of a split; `config` takes over the scale.
    ///
    /// # Errors
    /// Vectors of another kind than the configuration's, or that are all 0.
    pub fn new(train: &Maps, held_out: &Maps, config: &mut Config) -> Result<Self, Failure> {
        for maps in [train, held_out] {
            if maps.modality() != config.modality {
                let (found, expected) = (maps.modality(), config.modality);
                return Err(Failure::new(format!("`{}` is of {found}, expected {expected}", maps.name())));
            }
        }
        let whole = Augment { min_scale: 1.0, flip: false };
        let data = Self {
            batches: MapBatches::new(train, 1, config.settings.batch, whole, config.settings.seed)?,
            train: FixedMaps::new(train, 1)?,
            held_out: FixedMaps::new(held_out, 1)?,
        };
        // Rotation matrices are of about 1 as they are; embeddings of length 1 are of 1 / √d.
        if matches!(config.modality, Modality::Vector { .. }) {
            let values = data.train.batch(0, SCALE_SAMPLES).values;
            let square = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / values.len().max(1) as f64;
            if square <= 0.0 {
                return Err(Failure::new(format!("`{}`: the vectors are all 0", train.name())));
            }
            config.scale = Scale { mean: 0.0, deviation: square.sqrt() as f32 };
        }
        Ok(data)
    }

    /// The name of the training part.
    pub fn name(&self) -> &str {
        self.batches.maps().name()
    }

    /// What a step sees: a function of the seed and the step.
    pub fn batch(&self, step: u64) -> MapBatch {
        self.batches.get(step)
    }

    /// Every training vector, by index.
    pub fn train(&self) -> &FixedMaps {
        &self.train
    }

    /// Every held-out vector, by index.
    pub fn held_out(&self) -> &FixedMaps {
        &self.held_out
    }
}

/// Vectors `[n, channels]` on a device, scaled.
pub fn rows<B: Backend>(values: &[f32], channels: usize, scale: Scale, device: &B::Device) -> Tensor<B, 2> {
    let values: Vec<f32> = values.iter().map(|&value| scale.apply(value)).collect();
    let shape = [values.len() / channels.max(1), channels];
    Tensor::from_data(TensorData::new(values, shape), device)
}
