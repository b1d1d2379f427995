//! The samples of a run: which ones a step sees, and fixed ones to judge by.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use super::config::{Config, Modality, Scale};
use super::model::Sample;
use crate::common::failure::Failure;
use crate::data::{Batches, Dataset, FixedCrops, HostBatch, fixed_crops};
use crate::features::VisionEncoder;
use crate::params::host;

/// Seed of evaluation crops: one for all runs, so that their figures compare.
const CROPS: u64 = 0;

/// Training samples whose values the scale of features is taken from.
const SCALE_SAMPLES: usize = 32;

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
pub struct Data<B: Backend> {
    train: Batches,
    fixed: FixedCrops,
    held_out: FixedCrops,
    /// What makes features of images; none where the images are the samples.
    teacher: Option<Teacher<B>>,
    scale: Scale,
}

/// A frozen network whose features are to be told.
pub struct Teacher<B: Backend> {
    /// The network.
    pub net: VisionEncoder<B>,
    /// Where it runs.
    pub device: B::Device,
}

impl<B: Backend> Teacher<B> {
    /// Features of images.
    fn features(&self, images: &HostBatch) -> Samples {
        let features = self.net.patch_features(images.to_tensor(&self.device));
        let [count, channels, size, _] = features.dims();
        Samples { values: Values::Numbers(host(features)), count, channels, size }
    }
}

impl<B: Backend> Data<B> {
    /// Images, or a teacher's features of them; `config` is fitted to what the teacher makes.
    ///
    /// # Errors
    /// Images that cannot be cut to size, features that are all alike or not finite.
    pub fn of_images(
        train: &Dataset,
        held_out: &Dataset,
        teacher: Option<Teacher<B>>,
        config: &mut Config,
    ) -> Result<Self, Failure> {
        let size = teacher.as_ref().map_or(config.size(), |teacher| teacher.net.input_size());
        let settings = &config.settings;
        let fixed = fixed_crops(train, size, usize::MAX >> 1, CROPS)?.augmented(config.augment)?;
        let mut data = Self {
            train: Batches::new(train, size, settings.batch, config.augment, settings.seed)?,
            fixed,
            held_out: fixed_crops(held_out, size, held_out.len(), CROPS)?,
            teacher,
            scale: Scale::ONE,
        };
        if data.teacher.is_some() {
            let samples = data.fixed(0, SCALE_SAMPLES)?;
            config.fit(samples.channels, samples.size)?;
            data.scale = scale(&samples)?;
        }
        config.scale = data.scale;
        Ok(data)
    }

    /// The name of the training part, and of what makes features of it.
    pub fn name(&self) -> String {
        let name = self.train.dataset().name();
        self.teacher.as_ref().map_or(name.to_owned(), |teacher| format!("{} of {name}", teacher.net.name()))
    }

    /// The name of the held-out part.
    pub fn held_out_name(&self) -> String {
        self.held_out.name()
    }

    /// Training samples of an epoch.
    pub fn len(&self) -> usize {
        self.train.dataset().len()
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.train.dataset().is_empty()
    }

    /// Held-out samples.
    pub fn held_out_len(&self) -> usize {
        self.held_out.len()
    }

    /// What a step sees: a function of the seed and the step.
    ///
    /// # Errors
    /// As the parts.
    pub fn batch(&self, step: u64) -> Result<Samples, Failure> {
        self.samples(&self.train.get(step))
    }

    /// The held-out samples `from..from + count`.
    ///
    /// # Errors
    /// As the parts.
    pub fn held_out(&self, from: usize, count: usize) -> Result<Samples, Failure> {
        self.samples(&self.held_out.batch(from, count))
    }

    /// Training samples `from..from + count`, always the same ones: centre crops first, then others.
    ///
    /// # Errors
    /// As the parts.
    pub fn fixed(&self, from: usize, count: usize) -> Result<Samples, Failure> {
        self.samples(&self.fixed.batch(from, count))
    }

    fn samples(&self, images: &HostBatch) -> Result<Samples, Failure> {
        let Some(teacher) = &self.teacher else {
            let values = Values::Numbers(images.images.clone());
            return Ok(Samples { values, count: images.len(), channels: 3, size: images.size });
        };
        let mut samples = teacher.features(images);
        if let Values::Numbers(values) = &mut samples.values {
            values.iter_mut().for_each(|value| *value = self.scale.apply(*value));
        }
        Ok(samples)
    }
}

/// Mean and deviation of all values.
fn scale(samples: &Samples) -> Result<Scale, Failure> {
    let Values::Numbers(values) = &samples.values else { return Ok(Scale::ONE) };
    let n = values.len().max(1) as f64;
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / n;
    let deviation = (values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / n).sqrt();
    if !(deviation > 0.0 && deviation.is_finite()) {
        return Err(Failure::new(format!("features of mean {mean} and deviation {deviation} have nothing to learn")));
    }
    Ok(Scale { mean: mean as f32, deviation: deviation as f32 })
}

impl Config {
    /// Takes over what the data says of the networks' sizes: channels and grid of features, the number of classes.
    ///
    /// # Errors
    /// Where the data is not what the configuration is for.
    pub fn fit(&mut self, channels: usize, size: usize) -> Result<(), Failure> {
        match &mut self.modality {
            Modality::Features => {
                for vit in [&mut self.encoder, &mut self.decoder] {
                    (vit.channels, vit.image_size) = (channels, size);
                }
                Ok(())
            }
            Modality::Labels { classes } => {
                (*classes, self.decoder.channels) = (channels, channels);
                Ok(())
            }
            Modality::Rgb | Modality::Masks => Ok(()),
        }
    }
}
