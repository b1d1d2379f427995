//! Fixed crops to evaluate on: always the same ones.

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::batches::{Augment, HostBatch, check_size};
use super::{Dataset, Permutation};
use crate::common::failure::Failure;
use crate::common::random::generator;

/// Square crops of a dataset, a pure function of the dataset, the size, the seed and the crop's number.
///
/// Round 0 is the centre crop of every picture (the largest square in the middle, resized: the usual evaluation), in an order that the seed
/// chooses; later rounds are random crops of the same pictures in the same order, so that a set may be many times larger than the dataset.
#[derive(Clone, Debug)]
pub struct FixedCrops {
    dataset: Dataset,
    image_size: usize,
    count: usize,
    augment: Augment,
    seed: u64,
    order: Permutation,
}

/// The crops `0..count` of `image_size · image_size` pixels. Random ones are at least half of the shortest side wide and never mirrored;
/// [`FixedCrops::augmented`] chooses otherwise.
///
/// # Errors
/// Where the size or the count is 0 or absurd.
pub fn fixed_crops(dataset: &Dataset, image_size: usize, count: usize, seed: u64) -> Result<FixedCrops, Failure> {
    check_size(3, image_size, 1)?;
    if count == 0 {
        return Err(Failure::new("at least 1 crop is needed to evaluate on, got 0"));
    }
    let order = Permutation::new(dataset.len() as u64, generator("crop order", seed, 0, 0).next_u64());
    let augment = Augment { min_scale: 0.5, flip: false };
    Ok(FixedCrops { dataset: dataset.clone(), image_size, count, augment, seed, order })
}

impl FixedCrops {
    /// The same set with other random crops.
    ///
    /// # Errors
    /// Where the least scale is not above 0 and at most 1.
    pub fn augmented(self, augment: Augment) -> Result<Self, Failure> {
        augment.check()?;
        Ok(Self { augment, ..self })
    }

    /// How many crops.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none: never.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Width and height of a crop.
    pub fn image_size(&self) -> usize {
        self.image_size
    }

    /// The set in words, for tables: whoever repeats it gets the same crops.
    pub fn name(&self) -> String {
        let pictures = self.dataset.len();
        let random = match self.count.saturating_sub(pictures) {
            0 => String::new(),
            more => format!(
                " and {more} random crops of {} to 1 of the side{}",
                self.augment.min_scale,
                if self.augment.flip { ", mirrored or not" } else { "" }
            ),
        };
        format!(
            "{}: {} centre crops{random}, {} px, seed {}",
            self.dataset.name(),
            self.count.min(pictures),
            self.image_size,
            self.seed
        )
    }

    /// Which picture of the dataset crop `i` is a part of.
    pub fn picture_of(&self, i: usize) -> usize {
        self.order.at((i % self.dataset.len()) as u64) as usize
    }

    /// Crop `i` as `[3, size, size]` in `-1..=1`.
    pub fn crop(&self, i: usize) -> Vec<f32> {
        let mut out = vec![0.0; 3 * self.image_size * self.image_size];
        self.cut(i, &mut out);
        out
    }

    /// The crops `from..from + batch`, as many of them as there are.
    pub fn batch(&self, from: usize, batch: usize) -> HostBatch {
        let range = from.min(self.count)..from.saturating_add(batch).min(self.count);
        let values = 3 * self.image_size * self.image_size;
        let mut images = vec![0.0; range.len() * values];
        range.clone().into_par_iter().zip(images.par_chunks_exact_mut(values)).for_each(|(i, out)| self.cut(i, out));
        HostBatch { images, size: self.image_size, indices: range.map(|i| self.picture_of(i)).collect() }
    }

    /// All crops in order, `batch` at a time (at least 1); the last batch may be smaller.
    pub fn batches(&self, batch: usize) -> impl Iterator<Item = HostBatch> {
        (0..self.count).step_by(batch.max(1)).map(move |from| self.batch(from, batch.max(1)))
    }

    fn cut(&self, i: usize, out: &mut [f32]) {
        let index = self.picture_of(i);
        let picture = self.dataset.picture(index);
        let window = match i / self.dataset.len() {
            0 => picture.centre(),
            round => {
                let mut random = generator("evaluation crops", self.seed, round as u64, index as u64);
                picture.random_window(self.augment.min_scale, self.augment.flip, &mut random)
            }
        };
        picture.cut(window, self.image_size, out);
    }
}
