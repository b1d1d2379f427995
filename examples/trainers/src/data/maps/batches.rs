//! Training batches of maps, and fixed ones to judge by.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use serde::{Deserialize, Serialize};

use super::Maps;
use crate::common::failure::Failure;
use crate::common::random::generator;
use crate::data::Augment;
use crate::data::batches::check_size;
use crate::data::resample::Window;
use crate::data::visits::Visits;

/// Maps of one size in the host's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MapBatch {
    /// `[batch, channels, size, size]`; labels are whole numbers.
    pub values: Vec<f32>,
    /// Which map of the dataset each is a part of.
    pub indices: Vec<usize>,
    /// Values of a position.
    pub channels: usize,
    /// Width and height.
    pub size: usize,
}

impl MapBatch {
    /// How many maps.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// One map `[channels, size, size]`; nothing where there are not as many.
    pub fn map(&self, i: usize) -> &[f32] {
        self.values.chunks_exact((self.channels * self.size * self.size).max(1)).nth(i).unwrap_or_default()
    }

    /// As a tensor `[batch, channels, size, size]`.
    pub fn to_tensor<B: Backend>(&self, device: &B::Device) -> Tensor<B, 4> {
        let shape = [self.len(), self.channels, self.size, self.size];
        Tensor::from_data(TensorData::new(self.values.clone(), shape), device)
    }

    /// As labels `[batch, size, size]`.
    pub fn to_labels(&self) -> Vec<u32> {
        // A cast saturates; labels are whole and small.
        self.values.iter().map(|&value| value as u32).collect()
    }

    /// Cuts a map for each `(index, window)`.
    fn cut(maps: &Maps, size: usize, windows: &[(usize, Window)]) -> Self {
        let channels = maps.modality().channels();
        let each = channels * size * size;
        let mut values = vec![0.0; windows.len() * each];
        windows
            .par_iter()
            .zip(values.par_chunks_exact_mut(each.max(1)))
            .for_each(|(&(index, window), out)| maps.cut(index, window, size, out));
        Self { values, indices: windows.iter().map(|(index, _)| *index).collect(), channels, size }
    }
}

/// Sizes that batches may have: `min`, `min + step` and so on, up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolutions {
    /// The smallest.
    pub min: usize,
    /// The largest.
    pub max: usize,
    /// Between two.
    pub step: usize,
}

impl Resolutions {
    fn count(self) -> usize {
        self.max.saturating_sub(self.min) / self.step.max(1) + 1
    }

    /// The size of a step's batch, by lot: 4M chooses by a hash of the step as well, but one that differs between processes.
    fn at(self, seed: u64, step: u64) -> usize {
        self.min + self.step * generator("resolutions", seed, step, 0).below(self.count())
    }
}

/// The batches of a training: a pure function of the maps, the seed and the step, as those of [`Batches`](crate::data::Batches).
///
/// With one seed and names that agree, batches of two modalities show the same windows of the same scenes, as long as their maps have equal sizes.
#[derive(Clone, Debug)]
pub struct MapBatches {
    maps: Maps,
    sizes: Resolutions,
    augment: Augment,
    visits: Visits,
}

impl MapBatches {
    /// Batches of `batch` windows of `size · size` positions; of vectors and poses the size is 1.
    ///
    /// # Errors
    /// Where a size is 0 or absurd, not 1 for vectors, or the least scale is not above 0 and at most 1.
    pub fn new(maps: &Maps, size: usize, batch: usize, augment: Augment, seed: u64) -> Result<Self, Failure> {
        check(maps, size, batch)?;
        augment.check()?;
        let visits = Visits { items: maps.len(), batch, seed };
        Ok(Self { maps: maps.clone(), sizes: Resolutions { min: size, max: size, step: 1 }, augment, visits })
    }

    /// The same batches, each of one of these sizes.
    ///
    /// # Errors
    /// Where a size is 0 or absurd, the step is 0, or the largest is below the smallest.
    pub fn with_sizes(self, sizes: Resolutions) -> Result<Self, Failure> {
        let Resolutions { min, max, step } = sizes;
        if step == 0 || min > max {
            return Err(Failure::new(format!(
                "sizes from {min} to {max} by steps of {step}: give a range and a step of at least 1"
            )));
        }
        check(&self.maps, min, self.visits.batch)?;
        check(&self.maps, max, self.visits.batch)?;
        Ok(Self { sizes, ..self })
    }

    /// The batch of a step.
    pub fn get(&self, step: u64) -> MapBatch {
        let size = self.sizes.at(self.visits.seed, step);
        let window = |(epoch, index): (u64, usize)| {
            let mut random = generator("training crops", self.visits.seed, epoch, index as u64);
            let [height, width] = self.maps.extent(index);
            (index, Window::random(width, height, self.augment.min_scale, self.augment.flip, &mut random))
        };
        let windows: Vec<(usize, Window)> = self.visits.at(step).into_iter().map(window).collect();
        MapBatch::cut(&self.maps, size, &windows)
    }

    /// Epochs begun and ended before a step: 1.5 where every map was seen once and half of them twice.
    pub fn epochs(&self, step: u64) -> f64 {
        self.visits.epochs(step)
    }

    /// Steps that one epoch takes, the last of them perhaps shared with the next.
    pub fn steps_per_epoch(&self) -> usize {
        self.visits.steps_per_epoch()
    }

    /// Maps in a batch.
    pub fn batch(&self) -> usize {
        self.visits.batch
    }

    /// What the batches are cut from.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }
}

/// The centre crop of every map, by index: always the same ones.
#[derive(Clone, Debug)]
pub struct FixedMaps {
    maps: Maps,
    size: usize,
}

impl FixedMaps {
    /// Crops of `size · size` positions; of vectors and poses the size is 1.
    ///
    /// # Errors
    /// Where the size is 0 or absurd, or not 1 for vectors.
    pub fn new(maps: &Maps, size: usize) -> Result<Self, Failure> {
        check(maps, size, 1)?;
        Ok(Self { maps: maps.clone(), size })
    }

    /// How many crops.
    pub fn len(&self) -> usize {
        self.maps.len()
    }

    /// Whether there is none: never.
    pub fn is_empty(&self) -> bool {
        self.maps.is_empty()
    }

    /// The set in words, for tables: whoever repeats it gets the same crops.
    pub fn name(&self) -> String {
        match self.maps.modality().is_vector() {
            true => self.maps.name().to_owned(),
            false => format!("{}: {} centre crops, {} px", self.maps.name(), self.len(), self.size),
        }
    }

    /// What the crops are cut from.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// The crops `from..from + batch`, as many of them as there are.
    pub fn batch(&self, from: usize, batch: usize) -> MapBatch {
        let range = from.min(self.len())..from.saturating_add(batch).min(self.len());
        let centre = |index: usize| {
            let [height, width] = self.maps.extent(index);
            (index, Window::centre(width, height))
        };
        let windows: Vec<(usize, Window)> = range.into_par_iter().map(centre).collect();
        MapBatch::cut(&self.maps, self.size, &windows)
    }

    /// All crops in order, `batch` at a time (at least 1); the last batch may be smaller.
    pub fn batches(&self, batch: usize) -> impl Iterator<Item = MapBatch> {
        (0..self.len()).step_by(batch.max(1)).map(move |from| self.batch(from, batch.max(1)))
    }
}

fn check(maps: &Maps, size: usize, batch: usize) -> Result<(), Failure> {
    if maps.modality().is_vector() && size != 1 {
        return Err(Failure::new(format!("`{}` has 1x1 positions a map: give the size 1, not {size}", maps.name())));
    }
    check_size(maps.modality().channels(), size, batch)
}
