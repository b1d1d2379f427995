//! Feature vectors on disk: extracted shard by shard, read in parts, never all in memory.

use core::ops::Range;
use std::path::PathBuf;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::build::{Stage, Watch};
use super::sources::{Grid, Patches, Pictures};
use super::work::{FeatureSettings, Folder};
use crate::common::failure::Failure;
use crate::common::tensors::{Dtype, SafetensorsFile, Tensor, write_safetensors};
use crate::common::terminal::{Count, Progress};

/// Most views and vectors of a shard: what a killed extraction loses, a minute of a large encoder on few cores.
const SHARD_VIEWS: usize = 32;
const SHARD_VECTORS: usize = 1 << 14;

/// Views encoded at a time.
const BATCH: usize = 16;

/// Vectors read at a time.
pub(super) const PART: usize = 1 << 14;

const NAME: &str = "features.json";
const TENSOR: &str = "features";

/// The vectors of all views, in the order of extraction: picture, view, row, column.
pub(super) struct Features {
    folder: Folder,
    settings: FeatureSettings,
}

/// The settings of an extraction, for which the encoder is asked once: what its grid is.
pub(super) fn settings_of(
    encoder: &dyn Patches,
    pictures: &dyn Pictures,
    pool: usize,
    crops: usize,
    seed: u64,
) -> Result<FeatureSettings, Failure> {
    let input_size = encoder.input_size();
    let grid = encode(encoder, vec![0.0; 3 * input_size * input_size], 1)?;
    let [rows, columns] = [grid.height / pool.max(1), grid.columns / pool.max(1)];
    if pool == 0 || rows == 0 || columns == 0 {
        let (height, columns) = (grid.height, grid.columns);
        return Err(Failure::new(format!(
            "--pool {pool}: {} gives {height}x{columns} patches of a picture; give a number from 1 to {}",
            encoder.name(),
            height.min(columns)
        )));
    }
    if crops == 0 || pictures.count() == 0 {
        return Err(Failure::new("a codebook takes at least 1 picture and --crops 1"));
    }
    Ok(FeatureSettings {
        encoder: encoder.name(),
        encoder_hash: encoder.fingerprint(),
        data: pictures.about(),
        data_hash: pictures.fingerprint(),
        pictures: pictures.count(),
        crops,
        seed,
        input_size,
        pool,
        grid: [rows, columns],
        width: encoder.width(),
    })
}

/// Encodes a batch, and checks that what comes has the shape it should.
fn encode(encoder: &dyn Patches, images: Vec<f32>, batch: usize) -> Result<Grid, Failure> {
    let grid = encoder.features(images, batch)?;
    let (found, expected) = (grid.values.len(), batch * encoder.width() * grid.height * grid.columns);
    match found == expected && found > 0 {
        true => Ok(grid),
        false => Err(Failure::new(format!("{} gave {found} features, expected {expected}", encoder.name()))),
    }
}

impl Features {
    /// Extracts what `folder` does not hold yet. `order` are the pictures in the order of extraction.
    pub fn extract(
        folder: Folder,
        settings: FeatureSettings,
        encoder: &dyn Patches,
        pictures: &dyn Pictures,
        order: &[usize],
        cure: &str,
        watch: &Watch<'_>,
    ) -> Result<Self, Failure> {
        folder.remove_unfinished()?;
        folder.bind(NAME, &settings, cure)?;
        let features = Self { folder, settings };
        let shards = features.shards();
        let missing: Vec<usize> = (0..shards)
            .filter_map(|shard| features.has(shard).map(|has| (!has).then_some(shard)).transpose())
            .collect::<Result<_, _>>()?;
        if missing.is_empty() {
            return Ok(features);
        }
        let mut progress = Progress::new("features", features.views() as u64, Count::Items);
        for shard in missing {
            let views = features.views_of(shard);
            let mut values = Vec::with_capacity(views.len() * features.per_view() * features.width());
            let mut start = views.start;
            // Batches begin anew in every shard, so that a resumed extraction encodes the same batches.
            while start < views.end {
                let batch = start..views.end.min(start + BATCH);
                features.encode(batch.clone(), encoder, pictures, order, &mut values)?;
                progress.tick(batch.end as u64, "");
                start = batch.end;
                watch(Stage::Batch)?;
            }
            let shape = [values.len() / features.width(), features.width()];
            write_safetensors(&features.shard(shard), &[Tensor::new(TENSOR, &shape, &values)], &[])?;
            watch(Stage::Shard(shard))?;
        }
        progress.done();
        Ok(features)
    }

    /// Appends the vectors of some views.
    fn encode(
        &self,
        views: Range<usize>,
        encoder: &dyn Patches,
        pictures: &dyn Pictures,
        order: &[usize],
        values: &mut Vec<f32>,
    ) -> Result<(), Failure> {
        let FeatureSettings { crops, seed, input_size, .. } = self.settings;
        let batch = views.len();
        let view = |view: usize| pictures.view(order[view / crops], view % crops, input_size, seed);
        let images: Vec<Vec<f32>> = views.clone().into_par_iter().map(view).collect();
        let grid = encode(encoder, images.concat(), batch)?;
        let first = values.len();
        for picture in grid.values.chunks_exact(grid.values.len() / batch) {
            average(picture, self.width(), [grid.height, grid.columns], self.settings.pool, values);
        }
        if values.len() - first != batch * self.per_view() * self.width() {
            let Grid { height, columns, .. } = grid;
            let why = format!("gave {height}x{columns} patches, and another number before");
            return Err(Failure::new(format!("{} {why}", self.settings.encoder)));
        }
        match values[first..].iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => {
                let view = views.start + at / (self.per_view() * self.width());
                let name = pictures.name(order[view / crops]);
                Err(Failure::new(format!(
                    "{} gives a feature of `{name}` that is {}: its weights are damaged, or of another network",
                    self.settings.encoder,
                    values[first + at]
                )))
            }
        }
    }

    /// Features of a vector.
    pub fn width(&self) -> usize {
        self.settings.width
    }

    /// The positions of vectors of some pictures, given in the order of extraction.
    pub fn vectors_of(&self, pictures: &Range<usize>) -> Range<usize> {
        let each = self.settings.crops * self.per_view();
        pictures.start * each..pictures.end * each
    }

    fn per_view(&self) -> usize {
        self.settings.grid.iter().product()
    }

    fn views(&self) -> usize {
        self.settings.pictures * self.settings.crops
    }

    fn views_per_shard(&self) -> usize {
        (SHARD_VECTORS / self.per_view()).clamp(1, SHARD_VIEWS)
    }

    fn shards(&self) -> usize {
        self.views().div_ceil(self.views_per_shard())
    }

    fn views_of(&self, shard: usize) -> Range<usize> {
        let each = self.views_per_shard();
        shard * each..self.views().min((shard + 1) * each)
    }

    fn shard(&self, shard: usize) -> PathBuf {
        self.folder.file(&format!("features-{:06}-of-{:06}.safetensors", shard + 1, self.shards()))
    }

    /// Whether a shard is there; it must be sound then.
    fn has(&self, shard: usize) -> Result<bool, Failure> {
        let path = self.shard(shard);
        if !path.exists() {
            return Ok(false);
        }
        let expected = (Dtype::F32, vec![self.views_of(shard).len() * self.per_view(), self.width()]);
        match SafetensorsFile::open(&path)?.info(TENSOR) {
            Some(found) if found == expected => Ok(true),
            found => Err(Failure::new(format!(
                "`{}` should hold {expected:?} and holds {found:?}; remove it and start again with --resume",
                path.display()
            ))),
        }
    }

    /// Calls `visit` with the vectors in a range of positions, a part of at most [`PART`] at a time.
    pub fn each(
        &self,
        vectors: Range<usize>,
        visit: &mut dyn FnMut(&[f32]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let per_shard = self.views_per_shard() * self.per_view();
        let (mut start, mut rows, mut open) = (vectors.start, Vec::new(), None);
        while start < vectors.end {
            let shard = start / per_shard;
            let end = vectors.end.min((shard + 1) * per_shard).min(start + PART);
            let mut file = match open.take() {
                Some((last, file)) if last == shard => file,
                _ => SafetensorsFile::open(&self.shard(shard))?,
            };
            file.read_rows_f32(TENSOR, start - shard * per_shard, end - start, &mut rows)?;
            visit(&rows)?;
            open = Some((shard, file));
            start = end;
        }
        Ok(())
    }
}

/// Appends the means of squares of `pool`² patches, as rows of `width`; `picture` is `[width, height, columns]`.
///
/// Patches at the right and bottom that fill no square are left out, as by PyTorch's `AvgPool2d`.
fn average(picture: &[f32], width: usize, [height, columns]: [usize; 2], pool: usize, rows: &mut Vec<f32>) {
    let patches = (pool * pool) as f32;
    for top in (0..height / pool).map(|row| row * pool) {
        for left in (0..columns / pool).map(|column| column * pool) {
            rows.extend((0..width).map(|channel| {
                let square = (top..top + pool)
                    .flat_map(|y| &picture[(channel * height + y) * columns + left..][..pool])
                    .sum::<f32>();
                // A ReLU may leave −0, and equal vectors should have equal bits.
                square / patches + 0.0
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_averaged_and_the_rest_left_out() {
        // Two channels of 3×5: value = 100·channel + 10·y + x.
        let picture: Vec<f32> =
            (0..2).flat_map(|c| (0..3).flat_map(move |y| (0..5).map(move |x| (100 * c + 10 * y + x) as f32))).collect();
        let mut rows = Vec::new();
        average(&picture, 2, [3, 5], 2, &mut rows);
        assert_eq!(rows, [5.5, 105.5, 7.5, 107.5]);
        rows.clear();
        average(&picture, 2, [3, 5], 1, &mut rows);
        assert_eq!(rows.len(), 2 * 15);
        assert_eq!(rows[2 * 7..2 * 8], [12.0, 112.0], "raster order, one row for each patch");
        rows.clear();
        average(&[-0.0], 1, [1, 1], 1, &mut rows);
        assert!(rows[0].is_sign_positive());
    }
}
