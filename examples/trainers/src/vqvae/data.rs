//! The samples of a run: which ones a step sees, and fixed ones to judge by.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use super::config::{Config, Modality};
use super::model::Sample;
use crate::common::failure::Failure;
use crate::data::maps::{self, FixedMaps, MapBatch, MapBatches, Maps, Scale};

mod features;

pub use features::{FeatureMaps, Teacher};

/// Seed of evaluation crops: one for all runs, so that their figures compare.
const CROPS: u64 = 0;

/// Samples that an evaluation sees at a time.
pub const BATCH: usize = 16;

/// Samples in the host's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// Their values.
    pub values: Values,
    /// How many.
    pub count: usize,
    /// Channels of a sample; 1 of classes.
    pub channels: usize,
    /// Height and width.
    pub size: usize,
}

/// What samples are made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Images, features or masks `[count, channels, size, size]`.
    Numbers(Vec<f32>),
    /// Classes `[count, size, size]`.
    Classes(Vec<u32>),
}

impl Samples {
    /// On a device.
    pub fn to_sample<B: Backend>(&self, device: &B::Device) -> Sample<B> {
        let Self { count, channels, size, .. } = *self;
        match &self.values {
            Values::Numbers(values) => {
                let data = TensorData::new(values.clone(), [count, channels, size, size]);
                Sample::Values(Tensor::from_data(data, device))
            }
            Values::Classes(labels) => {
                let labels: Vec<i64> = labels.iter().copied().map(i64::from).collect();
                Sample::Labels(Tensor::from_data(TensorData::new(labels, [count, size, size]), device))
            }
        }
    }
}

/// Where a run's samples come from.
pub struct Data {
    source: Source,
    scale: Scale,
}

enum Source {
    /// Crops of images, labels or masks.
    Maps { train: MapBatches, fixed: MapBatches, held_out: FixedMaps },
    /// Whole maps of features.
    Features { train: FeatureMaps, held_out: FeatureMaps, batch: usize, flip: bool, seed: u64 },
}

impl Data {
    /// Images, labels or masks, cut at random in training; `config` is fitted to the number of classes.
    ///
    /// # Errors
    /// Maps that cannot be cut to size, or not those that the configuration is for.
    pub fn of_maps(train: &Maps, held_out: &Maps, config: &mut Config) -> Result<Self, Failure> {
        if let maps::Modality::Segmentation { classes } = train.modality() {
            config.fit(classes, config.size());
        }
        let (size, settings) = (config.size(), &config.settings);
        let batches = MapBatches::new(train, size, settings.batch, config.augment, settings.seed)?;
        let source = Source::Maps {
            train: match config.sizes {
                Some(sizes) => batches.with_sizes(sizes)?,
                None => batches,
            },
            fixed: MapBatches::new(train, size, BATCH, config.augment, CROPS)?,
            held_out: FixedMaps::new(held_out, size)?,
        };
        Ok(Self { source, scale: Scale::ONE })
    }

    /// Maps of features; `config` is fitted to their channels, grid and scale.
    ///
    /// # Errors
    /// Features that are all alike or not finite.
    pub fn of_features(train: FeatureMaps, held_out: FeatureMaps, config: &mut Config) -> Result<Self, Failure> {
        let scale = train.scale()?;
        config.fit(train.channels, train.size);
        config.scale = scale;
        let (batch, flip, seed) = (config.settings.batch, config.augment.flip, config.settings.seed);
        Ok(Self { source: Source::Features { train, held_out, batch, flip, seed }, scale })
    }

    /// The name of the training part.
    pub fn name(&self) -> &str {
        match &self.source {
            Source::Maps { train, .. } => train.maps().name(),
            Source::Features { train, .. } => &train.name,
        }
    }

    /// The name of the held-out part.
    pub fn held_out_name(&self) -> String {
        match &self.source {
            Source::Maps { held_out, .. } => held_out.name(),
            Source::Features { held_out, .. } => held_out.name.clone(),
        }
    }

    /// Training samples of an epoch.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Maps { train, .. } => train.maps().len(),
            Source::Features { train, .. } => train.count(),
        }
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Held-out samples.
    pub fn held_out_len(&self) -> usize {
        match &self.source {
            Source::Maps { held_out, .. } => held_out.len(),
            Source::Features { held_out, .. } => held_out.count(),
        }
    }

    /// What a step sees: a function of the seed and the step.
    pub fn batch(&self, step: u64) -> Samples {
        match &self.source {
            Source::Maps { train, .. } => samples(train.maps(), train.get(step)),
            Source::Features { train, batch, flip, seed, .. } => {
                self.scaled(train.samples(train.visits(step, *batch, *flip, *seed)))
            }
        }
    }

    /// The held-out samples `from..from + count`: whole, or cut from the middle.
    pub fn held_out(&self, from: usize, count: usize) -> Samples {
        match &self.source {
            Source::Maps { held_out, .. } => samples(held_out.maps(), held_out.batch(from, count)),
            Source::Features { held_out, .. } => {
                self.scaled(held_out.samples((from..from + count).map(|at| (at, false))))
            }
        }
    }

    /// [`BATCH`] training samples by the batch's number, the same ones whatever the run's seed and batch.
    pub fn fixed(&self, number: usize) -> Samples {
        match &self.source {
            Source::Maps { fixed, .. } => samples(fixed.maps(), fixed.get(number as u64)),
            Source::Features { train, .. } => {
                self.scaled(train.samples((number * BATCH..(number + 1) * BATCH).map(|at| (at, false))))
            }
        }
    }

    fn scaled(&self, mut samples: Samples) -> Samples {
        if let Values::Numbers(values) = &mut samples.values {
            values.iter_mut().for_each(|value| *value = self.scale.apply(*value));
        }
        samples
    }
}

fn samples(maps: &Maps, batch: MapBatch) -> Samples {
    let (count, channels, size) = (batch.len(), batch.channels, batch.size);
    let values = match maps.modality().is_labels() {
        true => Values::Classes(batch.to_labels()),
        false => Values::Numbers(batch.values),
    };
    Samples { values, count, channels, size }
}

impl Config {
    /// Takes over what the data says of the networks' sizes: channels and grid of features, the number of classes.
    fn fit(&mut self, channels: usize, size: usize) {
        match &mut self.modality {
            Modality::Features => {
                for vit in [&mut self.encoder, &mut self.decoder] {
                    (vit.channels, vit.image_size) = (channels, size);
                }
            }
            Modality::Labels { classes } => (*classes, self.decoder.channels) = (channels, channels),
            Modality::Rgb | Modality::Masks => {}
        }
    }
}
