//! Rows to train on and rows held out: patches of images or scenes, or features from a file.

use crate::common::Failure;
use crate::common::images::{Rgb, hold_out, load_images};
use crate::common::patches::{Grid, patch_rows, unpatch};
use crate::common::random::hash_name;
use crate::common::scenes::render;
use crate::common::tensors::SafetensorsFile;
use crate::common::terminal::{Count, Progress, interrupted};
use crate::options::Options;
use rayon::ThreadPool;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// Share of the images (or rows) that is held out.
const HELD_OUT: f64 = 1.0 / 16.0;

/// Rows of equal width.
pub struct Rows {
    pub values: Vec<f32>,
    pub dim: usize,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.values.len() / self.dim.max(1)
    }
}

/// What is trained on and judged by.
pub struct Data {
    /// For messages: which images, scenes or features.
    pub source: String,
    pub train: Rows,
    pub held_out: Rows,
    /// The held-out images as `held_out`'s rows hold them; none for features.
    pub grids: Vec<Grid>,
    pub patch: usize,
    /// Half the range of a value: the peak of PSNR is twice that.
    pub half_range: f64,
    /// What was taken from every feature before it was divided by `scale`; 0 and 1 for images.
    pub mean: f64,
    pub scale: f64,
}

impl Data {
    /// As the options say; `size` is the side of a rendered scene.
    pub fn load(
        options: &Options,
        patch: usize,
        size: usize,
        scenes: usize,
        pool: Option<&ThreadPool>,
    ) -> Result<Self, Failure> {
        match (&options.images, &options.features) {
            (Some(path), _) => {
                let images = load_images(path, true)?;
                Self::of_images(format!("{} images of {}", images.len(), path.display()), images, patch, options.seed)
            }
            (None, Some(path)) => Self::of_features(path, options.seed),
            (None, None) => {
                let scenes = options.scenes.unwrap_or(scenes);
                let images = rendered(scenes, size, options.seed, pool)?;
                Self::of_images(format!("{scenes} rendered scenes of {size} px"), images, patch, options.seed)
            }
        }
    }

    fn of_images(source: String, images: Vec<Rgb>, patch: usize, seed: u64) -> Result<Self, Failure> {
        let (train, held_out) = hold_out(images, HELD_OUT, seed)?;
        let train = patch_rows(&train, patch)?;
        let held_out = patch_rows(&held_out, patch)?;
        Ok(Self {
            source,
            train: Rows { values: train.rows, dim: train.dim },
            held_out: Rows { values: held_out.rows, dim: held_out.dim },
            grids: held_out.grid,
            patch,
            half_range: 1.0,
            mean: 0.0,
            scale: 1.0,
        })
    }

    /// Features, brought to mean 0 and deviation 1 as a whole; every row's place is a hash of its number.
    fn of_features(path: &std::path::Path, seed: u64) -> Result<Self, Failure> {
        let mut file = SafetensorsFile::open(path)?;
        let (rows, dim) = match file.info("x") {
            Some((_, shape)) if shape.len() == 2 && shape[0] >= 2 && shape[1] >= 1 => (shape[0], shape[1]),
            Some((_, shape)) => {
                return Err(Failure::new(format!(
                    "`x` in `{}` has shape {shape:?}; it must be [rows, width] with at least 2 rows",
                    path.display()
                )));
            }
            None => {
                return Err(Failure::new(format!(
                    "`{}` has no tensor `x`; it has: {}",
                    path.display(),
                    file.names().join(", ")
                )));
            }
        };
        let mut all = Vec::new();
        file.read_rows_f32("x", 0, rows, &mut all)?;
        if let Some(at) = all.iter().position(|x| !x.is_finite()) {
            return Err(Failure::new(format!("row {} of `x` in `{}` is not finite", at / dim, path.display())));
        }
        let n = all.len() as f64;
        let mean = all.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = all.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        let scale = if variance > 0.0 { variance.sqrt() } else { 1.0 };
        all.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) / scale) as f32);
        let (low, high) = all.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        let every = (1.0 / HELD_OUT) as u64;
        let is_held_out = |row: usize| hash_name(&row.to_string(), seed).is_multiple_of(every);
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (row, values) in all.chunks_exact(dim).enumerate() {
            // The first two rows go one to each part, so that neither is empty.
            let held = if row < 2 { row == 1 } else { is_held_out(row) };
            if held { held_out.extend_from_slice(values) } else { train.extend_from_slice(values) }
        }
        Ok(Self {
            source: format!("{rows} rows of {}", path.display()),
            train: Rows { values: train, dim },
            held_out: Rows { values: held_out, dim },
            grids: Vec::new(),
            patch: 0,
            half_range: f64::from(high - low).max(f64::MIN_POSITIVE) / 2.0,
            mean,
            scale,
        })
    }

    /// The held-out images that `values` (like `held_out`'s) hold, at most `count` of one size.
    pub fn pictures(&self, values: &[f32], count: usize) -> Result<Vec<Rgb>, Failure> {
        let Some(first) = self.grids.first() else { return Ok(Vec::new()) };
        let alike = self.grids.iter().filter(|grid| (grid.width, grid.height) == (first.width, first.height));
        let dim = self.held_out.dim;
        let of = |grid: &Grid| {
            let rows = &values[grid.first_row * dim..(grid.first_row + grid.width * grid.height) * dim];
            unpatch(rows, grid.width, grid.height, self.patch)
        };
        alike.take(count).map(of).collect()
    }
}

/// Scenes rendered on all threads; their seeds follow from the program's.
fn rendered(scenes: usize, size: usize, seed: u64, pool: Option<&ThreadPool>) -> Result<Vec<Rgb>, Failure> {
    const CHUNK: usize = 32;
    let mut progress = Progress::new("rendering", scenes as u64, Count::Items);
    let mut images = Vec::with_capacity(scenes);
    while images.len() < scenes {
        if interrupted() {
            return Err(Failure::interrupted());
        }
        let first = images.len();
        let scene = |i| render(seed.wrapping_mul(1_000_003).wrapping_add(i as u64), size);
        let chunk = first..(first + CHUNK).min(scenes);
        match pool {
            Some(pool) => images.extend(pool.install(|| chunk.into_par_iter().map(scene).collect::<Vec<_>>())),
            None => images.extend(chunk.map(scene)),
        }
        progress.tick(images.len() as u64, "scenes");
    }
    progress.done();
    Ok(images)
}
