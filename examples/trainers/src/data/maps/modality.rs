//! Kinds of maps, and what may be done with their values.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::poses::POSE;
use crate::common::failure::Failure;

/// The largest number of labels, as they are stored in 8 bits.
const LARGEST_CLASSES: usize = 256;

/// What the values of a map mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Modality {
    /// Colours in `-1..=1`.
    Rgb,
    /// Directions of surfaces, of length 1: to the right, up, to the viewer.
    Normals,
    /// Distances, standardised map by map.
    Depth,
    /// Canny edges: 1 on an edge, −1 elsewhere, between them where a map was resized.
    Edges,
    /// Labels `0..classes` as whole numbers.
    Segmentation {
        /// How many there are.
        classes: usize,
    },
    /// One thing in its own box, 64 × 64: 1 inside, 0 outside.
    Mask,
    /// One vector, of 1 × 1 positions.
    Vector {
        /// Its values.
        dim: usize,
    },
    /// A person's pose, of 1 × 1 positions: 23 rotation matrices, 207 values.
    Pose,
}

/// How values become more or fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resampling {
    /// By means, weighted by nearness.
    Linear,
    /// By means, and vectors of length 1 again.
    Directions,
    /// By means, rounded to 0 or 1.
    Binary,
    /// By taking the nearest: for labels, with which one cannot reckon.
    Nearest,
}

/// What becomes of a map in a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// Left and right are exchanged.
    Swap,
    /// The same, and the first channel changes its sign.
    SwapAndNegateFirst,
    /// It has no mirror image that is known: it is never mirrored.
    Never,
}

impl Modality {
    /// Values of a position.
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb | Self::Normals => 3,
            Self::Depth | Self::Edges | Self::Segmentation { .. } | Self::Mask => 1,
            Self::Vector { dim } => dim,
            Self::Pose => POSE,
        }
    }

    /// How maps are resized.
    pub fn resampling(self) -> Resampling {
        match self {
            Self::Normals => Resampling::Directions,
            Self::Segmentation { .. } => Resampling::Nearest,
            Self::Mask => Resampling::Binary,
            Self::Rgb | Self::Depth | Self::Edges | Self::Vector { .. } | Self::Pose => Resampling::Linear,
        }
    }

    /// How maps are mirrored.
    pub fn mirror(self) -> Mirror {
        match self {
            Self::Normals => Mirror::SwapAndNegateFirst,
            Self::Vector { .. } | Self::Pose => Mirror::Never,
            Self::Rgb | Self::Depth | Self::Edges | Self::Segmentation { .. } | Self::Mask => Mirror::Swap,
        }
    }

    /// Whether values are labels.
    pub fn is_labels(self) -> bool {
        matches!(self, Self::Segmentation { .. })
    }

    /// Whether a map is a single position.
    pub fn is_vector(self) -> bool {
        matches!(self, Self::Vector { .. } | Self::Pose)
    }

    /// Refuses sizes that are none.
    ///
    /// # Errors
    /// Where there are no channels or values, fewer than 2 classes or more than 8 bits hold.
    pub fn check(self) -> Result<(), Failure> {
        match self {
            Self::Segmentation { classes } if !(2..=LARGEST_CLASSES).contains(&classes) => {
                Err(Failure::new(format!("{self}: give 2 to {LARGEST_CLASSES} classes")))
            }
            _ if self.channels() == 0 => Err(Failure::new(format!("{self}: give at least 1"))),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rgb => f.write_str("rgb"),
            Self::Normals => f.write_str("normals"),
            Self::Depth => f.write_str("depth"),
            Self::Edges => f.write_str("edges"),
            Self::Segmentation { classes } => write!(f, "segmentation:{classes}"),
            Self::Mask => f.write_str("mask"),
            Self::Vector { dim } => write!(f, "vector:{dim}"),
            Self::Pose => f.write_str("pose"),
        }
    }
}

impl FromStr for Modality {
    type Err = Failure;

    /// As [`Display`](fmt::Display) writes it.
    fn from_str(text: &str) -> Result<Self, Failure> {
        let number = |text: &str| text.parse::<usize>().ok();
        let modality = match text.split_once(':') {
            None => match text {
                "rgb" => Some(Self::Rgb),
                "normals" => Some(Self::Normals),
                "depth" => Some(Self::Depth),
                "edges" => Some(Self::Edges),
                "mask" => Some(Self::Mask),
                "pose" => Some(Self::Pose),
                _ => None,
            },
            Some(("segmentation", classes)) => number(classes).map(|classes| Self::Segmentation { classes }),
            Some(("vector", dim)) => number(dim).map(|dim| Self::Vector { dim }),
            Some(_) => None,
        };
        let modality = modality.ok_or_else(|| {
            Failure::new(format!(
                "`{text}` is no modality: expected rgb, normals, depth, edges, segmentation:CLASSES, mask, vector:VALUES or pose"
            ))
        })?;
        modality.check()?;
        Ok(modality)
    }
}
