//! Pictures to train on and to judge by, and which part of which picture a step sees.
//!
//! Everything random is a pure function of a seed and of a step, an epoch or an index: there is no hidden state, so a run that was killed and
//! resumed sees the same batches, and a crop that an evaluation names is the same crop everywhere.

pub mod annotations;

mod batches;
mod crops;
pub mod maps;
mod permutation;
mod picture;
mod resample;
mod visits;

use core::fmt;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::common::failure::Failure;
use crate::common::images::{held_out, visit_images};
use crate::common::scenes::render;
use crate::common::terminal::{Count, Progress, interrupted};

pub use batches::{Augment, Batches, HostBatch, to_tensor};
pub use crops::{FixedCrops, fixed_crops};
pub use permutation::Permutation;
pub use picture::Picture;
pub use resample::Window;

/// More is taken for a mistyped number: one such picture takes 800 MB.
const LARGEST_SCENE: usize = 1 << 14;

/// Where pictures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Scenes drawn by [`crate::common::scenes`], square.
    ///
    /// They are all drawn when the dataset is opened: one of 96 px takes 1.1 ms and 27 kB, so that 4,096 take 4.5 s of processor time and 113 MB.
    /// To draw them anew for each batch of 16 would take 17 ms, a tenth of a small training step, for ever.
    Scenes {
        /// How many.
        count: usize,
        /// Width and height in pixels. Training crops are cut from this, so half as much again as the crop leaves room to move.
        size: usize,
        /// Other seeds draw other scenes, as long as there are fewer than a million.
        seed: u64,
    },
    /// A directory, with its directories, or an uncompressed tar archive of PNG and JPEG files.
    Path(PathBuf),
}

/// Pictures in memory, 3 bytes a pixel, sorted by name. A clone, a part or a sample shares the pixels.
#[derive(Clone)]
pub struct Dataset {
    name: String,
    pictures: Arc<[Picture]>,
    /// The places of this part's pictures, ascending.
    members: Arc<[usize]>,
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset").field("name", &self.name).field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Dataset {
    /// Loads or draws all pictures.
    ///
    /// Files that cannot be decoded are skipped with a warning (see [`load_images`](crate::common::images::load_images), which also says what becomes of grey, palette,
    /// transparent and 16-bit pictures).
    ///
    /// # Errors
    /// Where nothing readable is found or asked for, the archive is damaged, or Ctrl-C was pressed while drawing.
    pub fn open(source: &Source, progress: bool) -> Result<Self, Failure> {
        match source {
            &Source::Scenes { count, size, seed } => {
                let name = format!("{count} rendered scenes of {size} px, seed {seed}");
                Self::new(name, drawn(count, size, seed, progress, |scene, size| Picture::from(render(scene, size)))?)
            }
            Source::Path(path) => {
                let mut pictures = Vec::new();
                visit_images(path, progress, |image| pictures.push(Picture::from(image)))?;
                Self::new(path.display().to_string(), pictures)
            }
        }
    }

    /// These pictures, under a name for messages and tables.
    ///
    /// # Errors
    /// Where there is none, or one has no pixel.
    pub fn new(name: String, mut pictures: Vec<Picture>) -> Result<Self, Failure> {
        if pictures.is_empty() {
            return Err(Failure::new(format!("`{name}` has no picture: at least 1 is needed")));
        }
        if let Some(empty) = pictures.iter().find(|picture| picture.shortest() == 0) {
            return Err(Failure::new(format!("`{}` of `{name}` has no pixel", empty.name())));
        }
        pictures.sort_by(|left, right| left.name().cmp(right.name()));
        Ok(Self { name, members: (0..pictures.len()).collect(), pictures: pictures.into() })
    }

    /// How many pictures.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none: never.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where the pictures came from and which part of them this is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One picture; counted round, so that every index is one.
    pub fn picture(&self, index: usize) -> &Picture {
        &self.pictures[self.members[index % self.members.len()]]
    }

    /// The group of one picture: the directory part of its name (the class, in a directory of classes), else the name itself.
    pub fn group_of(&self, index: usize) -> &str {
        let name = self.picture(index).name();
        name.rsplit_once('/').map_or(name, |(directory, _)| directory)
    }

    /// All groups and their pictures' indices.
    pub fn groups(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for index in 0..self.len() {
            groups.entry(self.group_of(index)).or_default().push(index);
        }
        groups
    }

    /// `(training, held out)`: each picture's side depends on its name and the seed, as in [`held_out`]; both have at least one.
    ///
    /// # Errors
    /// Where there are fewer than 2 pictures, or the share is not within `0..=1`.
    pub fn split(&self, held_out_share: f64, seed: u64) -> Result<(Self, Self), Failure> {
        let names: Vec<&str> = self.members.iter().map(|&place| self.pictures[place].name()).collect();
        let (train, held_out) = parts(&self.members, &held_out(&names, held_out_share, seed)?);
        let part = |members: Vec<usize>, which: &str| Self {
            name: format!("{}, {which} part ({} pictures, seed {seed})", self.name, members.len()),
            pictures: Arc::clone(&self.pictures),
            members: members.into(),
        };
        Ok((part(train, "training"), part(held_out, "held-out")))
    }

    /// `count` pictures by lot; with one seed a smaller sample is part of a larger one.
    ///
    /// # Errors
    /// Where `count` is 0 or more than there are.
    pub fn sample(&self, count: usize, seed: u64) -> Result<Self, Failure> {
        let members = by_lot(&self.members, count, seed, &self.name)?;
        Ok(Self {
            name: format!("{}, {count} by lot (seed {seed})", self.name),
            pictures: Arc::clone(&self.pictures),
            members: members.into(),
        })
    }

    /// The same pictures with no shortest side above `shortest` pixels: large photographs take much memory, and cutting a small crop out of
    /// one reads all of it each time. Crops of `size` from `min_scale` on lose nothing at `size / min_scale`.
    ///
    /// # Errors
    /// Where `shortest` is 0.
    pub fn shrunk(&self, shortest: usize) -> Result<Self, Failure> {
        if shortest == 0 {
            return Err(Failure::new("pictures cannot be shrunk to 0 pixels: give at least 1"));
        }
        if self.members.iter().all(|&place| self.pictures[place].shortest() <= shortest) {
            return Ok(self.clone());
        }
        let places: Vec<usize> = self.members.to_vec();
        let pictures: Vec<Picture> =
            places.into_par_iter().map(|place| self.pictures[place].shrunk(shortest)).collect();
        Ok(Self {
            name: format!("{}, shortest side at most {shortest} px", self.name),
            members: (0..pictures.len()).collect(),
            pictures: pictures.into(),
        })
    }
}

/// `(those on the training side, those held out)`.
fn parts(members: &[usize], held: &[bool]) -> (Vec<usize>, Vec<usize>) {
    let side = |wanted: bool| {
        let of_side = members.iter().zip(held).filter(move |&(_, &side)| side == wanted);
        of_side.map(|(&member, _)| member).collect()
    };
    (side(false), side(true))
}

/// `count` of these by lot, ascending; with one seed a smaller sample is part of a larger one.
fn by_lot(members: &[usize], count: usize, seed: u64, name: &str) -> Result<Vec<usize>, Failure> {
    let all = members.len();
    if !(1..=all).contains(&count) {
        return Err(Failure::new(format!("a sample of 1 to {all} can be taken of `{name}`, not of {count}")));
    }
    let lots = Permutation::new(all as u64, seed);
    let mut sample: Vec<usize> = (0..count as u64).map(|i| members[lots.at(i) as usize]).collect();
    sample.sort_unstable();
    Ok(sample)
}

/// Something of each of `count` scenes of [`Source::Scenes`], drawn on all threads, a few at a time so that Ctrl-C is heard.
fn drawn<T: Send>(
    count: usize,
    size: usize,
    seed: u64,
    progress: bool,
    draw: impl Fn(u64, usize) -> T + Sync,
) -> Result<Vec<T>, Failure> {
    const CHUNK: usize = 64;
    if !(1..=LARGEST_SCENE).contains(&size) {
        return Err(Failure::new(format!("scenes of {size} px: give a size from 1 to {LARGEST_SCENE}")));
    }
    let mut bar = if progress { Progress::new("scenes", count as u64, Count::Items) } else { Progress::hidden() };
    let mut scenes = Vec::new();
    while scenes.len() < count {
        if interrupted() {
            return Err(Failure::interrupted());
        }
        let chunk = scenes.len()..(scenes.len() + CHUNK).min(count);
        let scene = |i: usize| draw(seed.wrapping_mul(1_000_003).wrapping_add(i as u64), size);
        scenes.extend(chunk.into_par_iter().map(scene).collect::<Vec<_>>());
        bar.tick(scenes.len() as u64, "");
    }
    bar.done();
    Ok(scenes)
}

#[cfg(test)]
mod tests;
