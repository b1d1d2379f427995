//! Maps of every modality: colours, normals, distances, edges, labels, masks, vectors and poses; in register where they are of one scene.
//!
//! A map is known by its picture's name without the modality's ending (`a/7_depth_mm.png` is `a/7`), so that the same seed holds out the same scenes
//! of every modality.

mod batches;
mod depth;
mod edges;
mod files;
mod masks;
mod modality;
mod numbers;
mod pictures;
mod poses;
mod scenes;
mod stored;

use core::fmt;
use std::sync::Arc;

use super::resample::Window;
use super::{Source, by_lot, parts};
use crate::common::failure::Failure;
use crate::common::images::held_out;
use stored::Stored;

pub use batches::{FixedMaps, MapBatch, MapBatches, Resolutions};
pub use edges::canny;
pub use modality::{Mirror, Modality, Resampling};
pub use numbers::vector_width;
pub use pictures::{label_colour, picture_of};
pub use poses::{JOINTS, PARENTS, POSE, rotation_matrix};
pub use stored::{Map, Scale};

/// What opening needs besides the place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Which tensor of a safetensors file is read; without a name, the one that fits.
    pub tensor: Option<String>,
    /// Whether a bar shows the progress.
    pub progress: bool,
}

/// Maps in memory, sorted by name. A clone, a part or a sample shares their values.
#[derive(Clone)]
pub struct Maps {
    modality: Modality,
    name: String,
    stored: Arc<[Stored]>,
    /// The places of this part's maps, ascending.
    members: Arc<[usize]>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { modality, name, .. } = self;
        f.debug_struct("Maps")
            .field("modality", modality)
            .field("name", name)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Maps {
    /// Loads or makes all maps.
    ///
    /// | modality | of scenes | of a path |
    /// |---|---|---|
    /// | RGB, edges | rendered; Canny of their grey values | a folder or tar of pictures |
    /// | normals | of the geometry | `*_normal.*` pictures with `n = v / 127.5 − 1`; without any, all pictures, which must be normal maps |
    /// | depth | of the geometry | `*_depth_mm.png`, or all 16-bit grey PNGs: millimetres, 0 is unknown and takes the nearest known value |
    /// | segmentation | [`Class`](crate::common::scenes::Class) | `*_sem.png`, or all PNGs: 8-bit grey, the labels as they are |
    /// | masks | one of each thing that is seen | `*_inst.png`, or all PNGs: 8-bit grey, the things' numbers, 0 is none |
    /// | vectors | made ones, of few hidden numbers | `.safetensors` of `[n, d]` |
    /// | poses | made ones | `.safetensors` with `rotvec [n, 23, 3]`, or `[n, 207]` rotation matrices |
    ///
    /// Depth is standardised map by map, as by 4M: mean and deviation without the lowest and highest tenth; [`Map::scale`] has them.
    ///
    /// # Errors
    /// Where nothing readable is found or asked for; files of another kind, shape or type, values that are not finite, labels that are too large,
    /// damaged archives: each names the file and says what was expected. Pictures that cannot be decoded are skipped with a warning.
    pub fn open(modality: Modality, source: &Source, opening: &Opening) -> Result<Self, Failure> {
        modality.check()?;
        let (name, stored) = match source {
            &Source::Scenes { count, size, seed } => (
                match modality.is_vector() {
                    true => format!("{count} made maps of {modality}, seed {seed}"),
                    false => format!("{modality} of {count} rendered scenes of {size} px, seed {seed}"),
                },
                scenes::of_scenes(modality, count, size, seed, opening.progress)?,
            ),
            Source::Path(path) => {
                (format!("{modality} of {}", path.display()), files::of_path(modality, path, opening)?)
            }
        };
        Self::of_stored(modality, name, stored)
    }

    /// These maps, under a name for messages and tables.
    ///
    /// # Errors
    /// Where there is none, or one is empty, of another modality's shape, or holds values that are not finite or are no labels.
    pub fn new(modality: Modality, name: String, maps: Vec<Map>) -> Result<Self, Failure> {
        modality.check()?;
        let stored = maps.into_iter().map(|map| Stored::of_map(modality, map)).collect::<Result<_, _>>()?;
        Self::of_stored(modality, name, stored)
    }

    fn of_stored(modality: Modality, name: String, mut stored: Vec<Stored>) -> Result<Self, Failure> {
        if stored.is_empty() {
            return Err(Failure::new(format!("`{name}` has no map: at least 1 is needed")));
        }
        for map in &stored {
            map.check(modality).map_err(|why| Failure::new(format!("`{}` of `{name}`: {why}", map.name)))?;
        }
        stored.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(Self { modality, name, members: (0..stored.len()).collect(), stored: stored.into() })
    }

    /// What the maps are.
    pub fn modality(&self) -> Modality {
        self.modality
    }

    /// How many maps.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none: never.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where the maps came from and which part of them this is.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn at(&self, index: usize) -> &Stored {
        &self.stored[self.members[index % self.members.len()]]
    }

    /// One map, whole; counted round, so that every index is one.
    pub fn map(&self, index: usize) -> Map {
        self.at(index).to_map(self.modality)
    }

    /// Height and width of one map.
    pub fn extent(&self, index: usize) -> [usize; 2] {
        let stored = self.at(index);
        [stored.height, stored.width]
    }

    /// The name of one map.
    pub fn name_of(&self, index: usize) -> &str {
        &self.at(index).name
    }

    /// What one map was standardised by, where it is of distances.
    pub fn scale_of(&self, index: usize) -> Option<Scale> {
        self.at(index).scale
    }

    /// The group of one map, which a split does not divide: the picture of a mask, the clip of a pose; else its own name.
    pub fn group_of(&self, index: usize) -> &str {
        self.at(index).group()
    }

    /// A window of one map at `size · size` into `out` `[channels, size, size]`: see [`Resampling`] and [`Mirror`].
    pub(super) fn cut(&self, index: usize, window: Window, size: usize, out: &mut [f32]) {
        self.at(index).cut(self.modality, window, size, out);
    }

    fn part(&self, name: String, members: Vec<usize>) -> Self {
        Self { modality: self.modality, name, stored: Arc::clone(&self.stored), members: members.into() }
    }

    /// `(training, held out)`: each map's side depends on its group's name and the seed; both have at least one group. Where no two maps are of
    /// one group this is the split of a [`Dataset`](super::Dataset) of the same names.
    ///
    /// # Errors
    /// Where there are fewer than 2 groups, or the share is not within `0..=1`.
    pub fn split(&self, held_out_share: f64, seed: u64) -> Result<(Self, Self), Failure> {
        let groups: Vec<&str> = (0..self.len()).map(|index| self.group_of(index)).collect();
        let (train, held) = parts(&self.members, &held_out(&groups, held_out_share, seed)?);
        let name = |which, count| format!("{}, {which} part ({count} maps, seed {seed})", self.name);
        let (trained, kept) = (train.len(), held.len());
        Ok((self.part(name("training", trained), train), self.part(name("held-out", kept), held)))
    }

    /// `count` maps by lot; with one seed a smaller sample is part of a larger one.
    ///
    /// # Errors
    /// Where `count` is 0 or more than there are.
    pub fn sample(&self, count: usize, seed: u64) -> Result<Self, Failure> {
        let members = by_lot(&self.members, count, seed, &self.name)?;
        Ok(self.part(format!("{}, {count} by lot (seed {seed})", self.name), members))
    }
}

#[cfg(test)]
mod tests;
