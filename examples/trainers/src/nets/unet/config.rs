//! A UNet's sizes.

use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::Unet;
use crate::common::failure::Failure;

/// Sizes of a UNet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnetConfig {
    /// Channels of the image.
    pub channels: usize,
    /// Channels of the codes that it is conditioned on.
    pub condition: usize,
    /// Height and width of a patch of the image, which becomes one position.
    pub patch: usize,
    /// Channels at the finest resolution.
    pub base: usize,
    /// Channels of each resolution, as multiples of `base`; the size is halved from one to the next.
    pub multipliers: Vec<usize>,
    /// Residual blocks of each resolution on the way down; on the way up there is one more.
    pub res_blocks: usize,
    /// Attention is behind the residual blocks where the patches' map is this many times smaller.
    pub attention: Vec<usize>,
    /// Whether it returns a variance as well: twice the channels.
    pub learned_variance: bool,
}

impl UnetConfig {
    /// 4M's `unet_patched` for images of so many channels and codes of 32.
    pub fn four_m(channels: usize) -> Self {
        Self {
            channels,
            condition: 32,
            patch: 4,
            base: 256,
            multipliers: vec![1, 2, 2, 2],
            res_blocks: 3,
            attention: vec![4, 8],
            learned_variance: false,
        }
    }

    /// Checks all sizes for images of `image_size` pixels a side.
    ///
    /// # Errors
    /// The setting that does not fit, and what would do.
    pub fn check(&self, image_size: usize) -> Result<(), Failure> {
        let sizes = [
            ("channels", self.channels),
            ("condition", self.condition),
            ("patch", self.patch),
            ("base", self.base),
            ("multipliers", self.multipliers.len()),
            ("res_blocks", self.res_blocks),
            ("image_size", image_size),
        ];
        for (name, size) in sizes {
            if size == 0 {
                return Err(Failure::new(format!("UNet: `{name}` is 0 or empty, expected at least 1")));
            }
        }
        if self.multipliers.contains(&0) {
            return Err(Failure::new(format!(
                "UNet: `multipliers` {:?} contain 0, expected at least 1",
                self.multipliers
            )));
        }
        // More is taken for a mistyped number: one such convolution takes 600 MB.
        const MOST: usize = 4096;
        let widest = self.multipliers.iter().map(|multiplier| self.base.saturating_mul(*multiplier)).max();
        let values = self.channels.saturating_mul(self.patch.saturating_mul(self.patch));
        if widest.max(Some(values)).max(Some(self.condition)).is_some_and(|channels| channels > MOST) {
            return Err(Failure::new(format!("UNet: layers of more than {MOST} channels: choose fewer")));
        }
        if self.multipliers.len() > 16 {
            return Err(Failure::new(format!("UNet: {} resolutions, expected at most 16", self.multipliers.len())));
        }
        if !self.base.is_multiple_of(2) {
            return Err(Failure::new(format!(
                "UNet: {} base channels cannot hold sines and cosines of the step: choose a multiple of 2",
                self.base
            )));
        }
        let whole = self.patch << (self.multipliers.len() - 1);
        if !image_size.is_multiple_of(whole) {
            return Err(Failure::new(format!(
                "UNet: images of {image_size} px in patches of {} do not halve {} times: choose a multiple of {whole}, or fewer multipliers",
                self.patch,
                self.multipliers.len() - 1
            )));
        }
        Ok(())
    }

    /// The network; for sizes that [`check`](Self::check) accepts.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Unet<B> {
        Unet::new(self, device)
    }

    /// Channels of the resolution `level`, 0 being the finest.
    pub(super) fn width(&self, level: usize) -> usize {
        self.base * self.multipliers.get(level).copied().unwrap_or(1)
    }

    pub(super) fn attends(&self, level: usize) -> bool {
        self.attention.contains(&(1 << level))
    }

    /// Channels of patches and codes together.
    pub(super) fn inputs(&self) -> usize {
        self.channels * self.patch * self.patch + self.condition
    }

    /// Channels of patches, of the prediction and perhaps of its variance.
    pub(super) fn outputs(&self) -> usize {
        self.channels * self.patch * self.patch * if self.learned_variance { 2 } else { 1 }
    }
}
