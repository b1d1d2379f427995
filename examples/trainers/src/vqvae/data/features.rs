//! Maps of another network's features, from a file or made of images.

use std::path::Path;

use burn::tensor::backend::Backend;

use super::{CROPS, Samples, Values};
use crate::common::failure::{Context, Failure};
use crate::common::random::generator;
use crate::common::tensors::SafetensorsFile;
use crate::common::terminal::{Count, Progress, interrupted};
use crate::data::maps::Scale;
use crate::data::{Augment, Dataset, Permutation, fixed_crops};
use crate::features::VisionEncoder;
use crate::params::host;

/// Images that a teacher sees at a time.
const BATCH: usize = 8;

/// Values that are kept in memory at most, 8 GiB: more are taken for a mistake.
const LARGEST: usize = 1 << 31;

/// Maps `[count, channels, size, size]` in the host's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureMaps {
    /// Where they came from.
    pub name: String,
    /// Channels of a map.
    pub channels: usize,
    /// Height and width.
    pub size: usize,
    values: Vec<f32>,
}

/// A frozen network whose features are to be told.
pub struct Teacher<B: Backend> {
    /// The network.
    pub net: VisionEncoder<B>,
    /// Where it runs.
    pub device: B::Device,
}

impl<B: Backend> Teacher<B> {
    /// Features of `views` crops of each picture: the centre, then random ones.
    ///
    /// # Errors
    /// Ctrl-C; no crop; more than fits into memory.
    pub fn features(&self, pictures: &Dataset, views: usize, augment: Augment) -> Result<FeatureMaps, Failure> {
        let count = pictures.len().saturating_mul(views);
        let crops = fixed_crops(pictures, self.net.input_size(), count, CROPS)?.augmented(augment)?;
        let name = format!("{} of {}", self.net.name(), crops.name());
        let mut maps = FeatureMaps { name, channels: self.net.width(), size: 0, values: Vec::new() };
        let mut progress = Progress::new("features", count as u64, Count::Items);
        let mut done = 0;
        for batch in crops.batches(BATCH) {
            if interrupted() {
                return Err(Failure::interrupted());
            }
            let features = self.net.patch_features(batch.to_tensor(&self.device));
            let [_, channels, size, _] = features.dims();
            (maps.channels, maps.size) = (channels, size);
            if (channels * size * size).saturating_mul(count) > LARGEST {
                return Err(Failure::new(format!(
                    "{count} maps of {channels} × {size} × {size} features are more than {LARGEST} values: take fewer --views or images"
                )));
            }
            maps.values.extend(host(features));
            done += batch.len() as u64;
            progress.tick(done, "");
        }
        progress.done();
        Ok(maps)
    }
}

impl FeatureMaps {
    /// The only tensor `[n, channels, size, size]` of a safetensors file, f32, f16 or bf16.
    ///
    /// # Errors
    /// A file without such a tensor or with several of them, maps that are not square, values that are not finite.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let mut file = SafetensorsFile::open(path)?;
        let maps: Vec<(String, Vec<usize>)> = file
            .names()
            .into_iter()
            .filter_map(|name| file.info(&name).map(|(_, shape)| (name, shape)))
            .filter(|(_, shape)| shape.len() == 4)
            .collect();
        let refuse = |what: String| Failure::new(format!("`{}`: {what}", path.display()));
        let [(tensor, shape)] = maps.as_slice() else {
            return Err(refuse(format!(
                "expected one tensor [n, channels, size, size], got {} of 4 dimensions",
                maps.len()
            )));
        };
        let [count, channels, height, width] = shape[..] else { unreachable!("of 4 dimensions") };
        if count == 0 || channels == 0 || height == 0 || height != width {
            return Err(refuse(format!(
                "`{tensor}` is {shape:?}, expected [n, channels, size, size] of at least 1 each"
            )));
        }
        if shape.iter().try_fold(1_usize, |all, &side| all.checked_mul(side)).is_none_or(|all| all > LARGEST) {
            return Err(refuse(format!("`{tensor}` has more than {LARGEST} values")));
        }
        let mut values = Vec::new();
        file.read_rows_f32(tensor, 0, count, &mut values).context(|| format!("`{tensor}`"))?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(refuse(format!("value {at} of `{tensor}` is {}, not a finite number", values[at])));
        }
        Ok(Self { name: format!("{}: {count} maps", path.display()), channels, size: height, values })
    }

    /// How many maps.
    pub fn count(&self) -> usize {
        self.values.len() / (self.channels * self.size * self.size).max(1)
    }

    /// One map `[channels, size, size]`; nothing where there are not as many.
    pub fn map(&self, at: usize) -> &[f32] {
        self.values.chunks_exact((self.channels * self.size * self.size).max(1)).nth(at).unwrap_or_default()
    }

    /// `(training, held out)`, by lot.
    ///
    /// # Errors
    /// Where there are fewer than 2 maps, or the share leaves one side without any.
    pub fn split(&self, held_out: f64, seed: u64) -> Result<(Self, Self), Failure> {
        let (count, each) = (self.count(), self.channels * self.size * self.size);
        let out = (count as f64 * held_out).round() as usize;
        if !(1..count).contains(&out) {
            return Err(Failure::new(format!(
                "--hold-out {held_out} of {count} maps leaves none to train on or to judge by"
            )));
        }
        let lots = Permutation::new(count as u64, seed);
        let mut places: Vec<usize> = (0..count as u64).map(|i| lots.at(i) as usize).collect();
        places[..out].sort_unstable();
        places[out..].sort_unstable();
        let part = |places: &[usize], which: &str| Self {
            name: format!("{}, {which} part ({} maps, seed {seed})", self.name, places.len()),
            values: places.iter().flat_map(|&at| &self.values[at * each..(at + 1) * each]).copied().collect(),
            ..*self
        };
        Ok((part(&places[out..], "training"), part(&places[..out], "held-out")))
    }

    /// Mean and deviation of all values.
    ///
    /// # Errors
    /// Where all are alike or one is not finite.
    pub fn scale(&self) -> Result<Scale, Failure> {
        let n = self.values.len().max(1) as f64;
        let mean = self.values.iter().copied().map(f64::from).sum::<f64>() / n;
        let variance = self.values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / n;
        match variance > 0.0 && variance.is_finite() {
            true => Ok(Scale { mean: mean as f32, deviation: variance.sqrt() as f32 }),
            false => {
                Err(Failure::new(format!("features of mean {mean} and variance {variance} have nothing to learn")))
            }
        }
    }

    /// Which maps a step sees, and whether mirrored: each epoch in an order of its own.
    pub(super) fn visits(&self, step: u64, batch: usize, flip: bool, seed: u64) -> Vec<(usize, bool)> {
        let count = self.count().max(1) as u128;
        let visit = |number: u128| {
            let (epoch, rank) = ((number / count) as u64, (number % count) as u64);
            let order = generator("map order", seed, epoch, 0).next_u64();
            let index = Permutation::new(count as u64, order).at(rank) as usize;
            (index, flip && generator("map flips", seed, epoch, index as u64).below(2) == 1)
        };
        let first = u128::from(step) * batch as u128;
        (first..first + batch as u128).map(visit).collect()
    }

    /// These maps, counted round, each mirrored or not.
    pub(super) fn samples(&self, places: impl IntoIterator<Item = (usize, bool)>) -> Samples {
        let (channels, size, all) = (self.channels, self.size, self.count().max(1));
        let each = channels * size * size;
        let (mut values, mut count) = (Vec::new(), 0);
        for (at, mirrored) in places {
            let at = at % all;
            let from = values.len();
            values.extend_from_slice(&self.values[at * each..(at + 1) * each]);
            if mirrored {
                values[from..].chunks_exact_mut(size.max(1)).for_each(<[f32]>::reverse);
            }
            count += 1;
        }
        Samples { values: Values::Numbers(values), count, channels, size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::tensors::{Tensor, write_safetensors};

    fn maps(count: usize) -> FeatureMaps {
        let values = (0..count * 2 * 9).map(|i| i as f32).collect();
        FeatureMaps { name: "maps".into(), channels: 2, size: 3, values }
    }

    #[test]
    fn every_epoch_sees_each_map_once_and_a_step_is_its_own_function() {
        let maps = maps(7);
        let seen = |step| maps.visits(step, 4, true, 3);
        assert_eq!(seen(5), seen(5));
        let mut epoch: Vec<usize> = (0..7).flat_map(seen).take(7).map(|(at, _)| at).collect();
        epoch.sort_unstable();
        assert_eq!(epoch, [0, 1, 2, 3, 4, 5, 6]);
        let mirrored = (0..20).flat_map(seen).filter(|(_, mirrored)| *mirrored).count();
        assert!((20..60).contains(&mirrored), "{mirrored} of 80");
        assert!(maps.visits(0, 40, false, 3).iter().all(|(_, mirrored)| !mirrored));
    }

    #[test]
    fn mirrored_maps_are_mirrored_row_by_row() {
        let maps = maps(2);
        let Values::Numbers(values) = maps.samples([(1, true), (2, false)]).values else { panic!("numbers") };
        assert_eq!(values[..6], [20.0, 19.0, 18.0, 23.0, 22.0, 21.0]);
        assert_eq!(values[18..21], [0.0, 1.0, 2.0]);
    }

    #[test]
    fn files_are_read_split_and_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("maps.safetensors");
        let values: Vec<f32> = (0..5 * 18).map(|i| i as f32).collect();
        let write = |shape: &[usize], values: &[f32]| {
            let tensors = [Tensor::new("maps", shape, values), Tensor::new("names", &[1], &[1.0f32])];
            write_safetensors(&path, &tensors, &[]).expect("written");
        };
        write(&[5, 2, 3, 3], &values);
        let read = FeatureMaps::open(&path).expect("maps");
        assert_eq!((read.count(), read.channels, read.size, &read.values), (5, 2, 3, &values));
        let (train, held_out) = read.split(0.4, 0).expect("5 maps");
        assert_eq!((train.count(), held_out.count()), (3, 2));
        let mut all: Vec<f32> = train.values.iter().chain(&held_out.values).copied().collect();
        all.sort_unstable_by(f32::total_cmp);
        assert_eq!(all, values);
        assert!(read.split(0.0, 0).is_err() && read.split(1.0, 0).is_err());
        let scale = read.scale().expect("values that differ");
        assert!((scale.mean - 44.5).abs() < 1e-4 && (scale.undo(scale.apply(7.0)) - 7.0).abs() < 1e-4);
        for (shape, values, says) in [
            (&[5, 2, 9][..], values.clone(), "expected one tensor"),
            (&[5, 2, 9, 1], values.clone(), "expected [n, channels, size, size]"),
            (&[1, 1, 1, 1], vec![f32::NAN], "not a finite number"),
        ] {
            write(shape, &values);
            let message = FeatureMaps::open(&path).expect_err("refused").to_string();
            assert!(message.contains(says), "{message}");
        }
        let alike = FeatureMaps { values: vec![1.0; 18], ..maps(1) };
        assert!(alike.scale().is_err());
    }
}
