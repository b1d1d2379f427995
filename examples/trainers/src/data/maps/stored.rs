//! One map: as it is handed out, and as it is kept.

use serde::{Deserialize, Serialize};

use super::modality::{Mirror, Modality, Resampling};
use crate::common::failure::Failure;
use crate::data::picture::in_range;
use crate::data::resample::{Part, Window, nearest, resample};

/// The mean and the deviation by which values are standardised: networks see `(x − mean) / deviation`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Subtracted.
    pub mean: f32,
    /// Divided by.
    pub deviation: f32,
}

impl Scale {
    /// That changes nothing.
    pub const ONE: Self = Self { mean: 0.0, deviation: 1.0 };

    /// Of a value as it comes.
    pub fn apply(&self, value: f32) -> f32 {
        (value - self.mean) / self.deviation
    }

    /// Back again.
    pub fn undo(&self, value: f32) -> f32 {
        value * self.deviation + self.mean
    }
}

/// A map, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Its picture's path inside the directory or archive without the modality's ending, or its place in a file of numbers.
    pub name: String,
    /// Values of a position.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[channels, height, width]`; labels are whole numbers.
    pub values: Vec<f32>,
    /// What depth was standardised by.
    pub scale: Option<Scale>,
}

/// A map's values: in 8 bits where nothing is lost.
#[derive(Clone, Debug)]
pub(super) enum Values {
    /// Colours and edges as 0 to 255, labels and masks as they are.
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

/// A map as it is kept.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub name: String,
    /// What a split does not divide, where it is not the map alone.
    pub group: Option<String>,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub values: Values,
    pub scale: Option<Scale>,
}

/// What a byte stands for.
fn of_byte(modality: Modality, value: f32) -> f32 {
    match modality {
        Modality::Rgb | Modality::Edges => in_range(value),
        _ => value,
    }
}

impl Stored {
    /// A map of one position, or of many, that belongs to no group.
    pub fn new(name: String, [channels, height, width]: [usize; 3], values: Values) -> Self {
        Self { name, group: None, channels, height, width, values, scale: None }
    }

    pub fn of_map(modality: Modality, map: Map) -> Result<Self, Failure> {
        let Map { name, channels, height, width, values, scale } = map;
        let values = match modality {
            Modality::Segmentation { .. } | Modality::Mask => {
                let byte =
                    |&value: &f32| (value.fract() == 0.0 && (0.0..256.0).contains(&value)).then_some(value as u8);
                let bytes: Option<Vec<u8>> = values.iter().map(byte).collect();
                Values::Bytes(
                    bytes.ok_or_else(|| Failure::new(format!("`{name}`: labels are whole numbers of 0 to 255")))?,
                )
            }
            _ => Values::Floats(values),
        };
        Ok(Self { name, group: None, channels, height, width, values, scale })
    }

    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.name)
    }

    /// What is wrong, in words that follow the map's name.
    pub fn check(&self, modality: Modality) -> Result<(), String> {
        let Self { channels, height, width, values, .. } = self;
        let expected = modality.channels();
        if *channels != expected || *height == 0 || *width == 0 || (modality.is_vector() && [*height, *width] != [1, 1])
        {
            return Err(format!(
                "{modality} has {expected} channels and at least one position, got {channels}x{height}x{width}"
            ));
        }
        let (found, needed) = match values {
            Values::Bytes(bytes) => (bytes.len(), channels * height * width),
            Values::Floats(floats) => (floats.len(), channels * height * width),
        };
        if found != needed {
            return Err(format!("{channels}x{height}x{width} values were expected, got {found}"));
        }
        match (modality, values) {
            (Modality::Segmentation { classes }, Values::Bytes(bytes)) => {
                let worst = bytes.iter().copied().max().unwrap_or_default();
                if usize::from(worst) >= classes {
                    return Err(format!(
                        "it has the label {worst}, and there are {classes} classes from 0 on: give more classes"
                    ));
                }
            }
            (Modality::Mask, Values::Bytes(bytes)) if bytes.iter().any(|&value| value > 1) => {
                return Err("a mask is 0 and 1".into());
            }
            (_, Values::Floats(floats)) => {
                if let Some(at) = floats.iter().position(|value| !value.is_finite()) {
                    return Err(format!("value {at} is {}: the file is damaged", floats[at]));
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub fn to_map(&self, modality: Modality) -> Map {
        let Self { channels, height, width, scale, .. } = *self;
        let values = match &self.values {
            Values::Bytes(bytes) => bytes.iter().map(|&byte| of_byte(modality, f32::from(byte))).collect(),
            Values::Floats(floats) => floats.clone(),
        };
        Map { name: self.name.clone(), channels, height, width, values, scale }
    }

    /// A window at `size · size` into `out` `[channels, size, size]`. A window beyond the map is moved inside.
    pub fn cut(&self, modality: Modality, window: Window, size: usize, out: &mut [f32]) {
        let window = window.inside(self.width, self.height);
        let (area, flip) = (size * size, window.flip && modality.mirror() != Mirror::Never);
        if window.side == 0 || area == 0 {
            return;
        }
        let part = Part::from(window);
        let place = |at: usize| if flip { at + size - 1 - 2 * (at % size) } else { at };
        let whole = self.width * self.height;
        // Labels, and whatever keeps its size, are taken as they are.
        let exact = window.side == size || modality.resampling() == Resampling::Nearest;
        for (channel, out) in out.chunks_exact_mut(area).enumerate() {
            let plane = channel * whole..(channel + 1) * whole;
            match &self.values {
                Values::Bytes(bytes) => {
                    cut_plane(bytes.get(plane).unwrap_or_default(), self.width, part, size, exact, |at, value| {
                        out[place(at)] = of_byte(modality, value);
                    });
                }
                Values::Floats(floats) => {
                    cut_plane(floats.get(plane).unwrap_or_default(), self.width, part, size, exact, |at, value| {
                        out[place(at)] = value;
                    });
                }
            }
        }
        if flip && modality.mirror() == Mirror::SwapAndNegateFirst {
            out.iter_mut().take(area).for_each(|value| *value = -*value);
        }
        match modality.resampling() {
            Resampling::Directions if !exact => normalize(out, area),
            Resampling::Binary => out.iter_mut().for_each(|value| *value = f32::from(u8::from(*value >= 0.5))),
            Resampling::Directions | Resampling::Linear | Resampling::Nearest => {}
        }
    }
}

fn cut_plane<T: Copy + Into<f32>>(
    plane: &[T],
    width: usize,
    part: Part,
    size: usize,
    exact: bool,
    mut put: impl FnMut(usize, f32),
) {
    if exact {
        nearest(width, part, size, |at, from| put(at, plane[from].into()));
    } else {
        resample(plane, width, part, size, |at, [value]: [f32; 1]| put(at, value));
    }
}

/// Vectors `[3, area]` of length 1; one that has none looks at the viewer.
pub(super) fn normalize(values: &mut [f32], area: usize) {
    let (x, rest) = values.split_at_mut(area.min(values.len()));
    let (y, z) = rest.split_at_mut(area.min(rest.len()));
    for ((x, y), z) in x.iter_mut().zip(y).zip(z) {
        let length = (*x * *x + *y * *y + *z * *z).sqrt();
        if length > 1e-6 {
            [*x, *y, *z] = [*x, *y, *z].map(|value| value / length);
        } else {
            [*x, *y, *z] = [0.0, 0.0, 1.0];
        }
    }
}
