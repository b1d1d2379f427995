//! Where patch features come from: pictures, views of them, and an encoder.

use burn::tensor::backend::Backend;
use sha2::{Digest, Sha256};

use super::file::hex;
use crate::common::failure::Failure;
use crate::common::random::{SplitMix64, hash_name};
use crate::data::{Dataset, to_tensor};
use crate::features::VisionEncoder;
use crate::params::{host, tensors};

/// Features of a batch's patches.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// `[batch, width, height, columns]`, row-major.
    pub values: Vec<f32>,
    /// Rows of patches.
    pub height: usize,
    /// Columns of patches.
    pub columns: usize,
}

/// A frozen encoder.
pub trait Patches {
    /// What it is called.
    fn name(&self) -> String;
    /// Tells its weights from any others.
    fn fingerprint(&self) -> String;
    /// Features of a patch.
    fn width(&self) -> usize;
    /// Side of the pictures that it takes, in pixels.
    fn input_size(&self) -> usize;
    /// Patch features of `batch` pictures, `[batch, 3, input_size, input_size]` in `-1..=1`.
    ///
    /// # Errors
    /// What the encoder's own machinery reports.
    fn features(&self, images: Vec<f32>, batch: usize) -> Result<Grid, Failure>;
}

/// Pictures to be encoded.
pub trait Pictures: Sync {
    /// What they are called.
    fn about(&self) -> String;
    /// Tells them, and their order, from any others.
    fn fingerprint(&self) -> String;
    /// How many there are.
    fn count(&self) -> usize;
    /// A picture's path, with `/` between the parts.
    fn name(&self, picture: usize) -> &str;
    /// The picture's class: its folder, or the picture itself where it is in none.
    fn group(&self, picture: usize) -> &str;
    /// A square view, `[3, size, size]` in `-1..=1`: view 0 is the largest in the middle, others are drawn from the seed.
    fn view(&self, picture: usize, view: usize, size: usize, seed: u64) -> Vec<f32>;
}

/// The least side of a random view, as a part of the picture's shorter side.
pub(super) const LEAST_SCALE: f32 = 0.5;

/// Side of the thumbnails that pictures are known by.
const THUMBNAIL: usize = 32;

impl Pictures for Dataset {
    fn about(&self) -> String {
        Self::name(self).to_owned()
    }

    /// Of names, sizes and thumbnails.
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut thumbnail = vec![0.0; 3 * THUMBNAIL * THUMBNAIL];
        for picture in (0..self.len()).map(|index| self.picture(index)) {
            hash.update(picture.name().as_bytes());
            hash.update(
                [picture.width(), picture.height()].map(|side| side as u64).map(u64::to_le_bytes).as_flattened(),
            );
            picture.cut(picture.centre(), THUMBNAIL, &mut thumbnail);
            hash.update(bytemuck::cast_slice(&thumbnail));
        }
        hex(hash)
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn name(&self, picture: usize) -> &str {
        self.picture(picture).name()
    }

    fn group(&self, picture: usize) -> &str {
        self.group_of(picture)
    }

    fn view(&self, picture: usize, view: usize, size: usize, seed: u64) -> Vec<f32> {
        let picture = self.picture(picture);
        let window = match view {
            0 => picture.centre(),
            _ => {
                let key = hash_name(picture.name(), seed.wrapping_add(view as u64));
                picture.random_window(LEAST_SCALE, true, &mut SplitMix64::new(key))
            }
        };
        let mut pixels = vec![0.0; 3 * size * size];
        picture.cut(window, size, &mut pixels);
        pixels
    }
}

/// An encoder, and where it runs.
pub struct Encoder<B: Backend> {
    /// The encoder.
    pub net: VisionEncoder<B>,
    /// Its device.
    pub device: B::Device,
}

impl<B: Backend> Patches for Encoder<B> {
    fn name(&self) -> String {
        self.net.name()
    }

    /// Of all its tensors.
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (name, tensor) in tensors(&self.net) {
            hash.update(format!("{name} {:?}", tensor.shape).as_bytes());
            tensor.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
        }
        hex(hash)
    }

    fn width(&self) -> usize {
        self.net.width()
    }

    fn input_size(&self) -> usize {
        self.net.input_size()
    }

    fn features(&self, images: Vec<f32>, batch: usize) -> Result<Grid, Failure> {
        let features = self.net.patch_features(to_tensor(&images, batch, self.input_size(), &self.device));
        let [_, _, height, columns] = features.dims();
        Ok(Grid { values: host(features), height, columns })
    }
}
