//! Numbers about a picture.

use super::{Words, shuffled};
use crate::common::failure::Failure;
use crate::data::annotations::{self, Annotated};
use crate::wordpiece::special::{BINS, value};

/// How a field's values are told apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bins {
    /// In steps of so much, from 0 on; at most 1,000 of them.
    Steps(u32),
    /// Whole numbers as they are, from 0 to 999.
    Whole,
    /// The number of these bounds that are not above the value.
    Bounds(&'static [f64]),
    /// `int((v - min) / (max - min) * (bins - 1))`, of values held within the bounds.
    Range {
        /// The least value.
        min: f64,
        /// The greatest; it has the last bin for itself.
        max: f64,
        /// How many bins.
        bins: u32,
    },
}

impl Bins {
    /// How many there are.
    pub fn count(self) -> u32 {
        match self {
            Self::Steps(_) | Self::Whole => BINS,
            Self::Bounds(bounds) => bounds.len() as u32 + 1,
            Self::Range { bins, .. } => bins,
        }
    }

    /// The bin of a value that is not NaN.
    pub fn bin(self, value: f64) -> u32 {
        // A cast saturates at 0, and cuts towards 0.
        match self {
            Self::Steps(step) => (value / f64::from(step)).floor().min(f64::from(BINS - 1)) as u32,
            Self::Whole => value.min(f64::from(BINS - 1)) as u32,
            Self::Bounds(bounds) => bounds.iter().take_while(|&&bound| value >= bound).count() as u32,
            Self::Range { min, max, bins } => {
                ((value.clamp(min, max) - min) / (max - min) * f64::from(bins - 1)) as u32
            }
        }
    }

    /// A value from the middle of a bin, or from the only side that it has; its bin is the same.
    pub fn middle(self, bin: u32) -> f64 {
        let bin = bin.min(self.count() - 1);
        match self {
            Self::Steps(step) => (f64::from(bin) + 0.5) * f64::from(step),
            Self::Whole => f64::from(bin),
            Self::Bounds(bounds) => {
                let bound = |place: usize| bounds.get(place).copied();
                let below = (bin as usize).checked_sub(1).and_then(bound);
                match (below, bound(bin as usize)) {
                    (Some(below), Some(above)) => f64::midpoint(below, above),
                    (None, Some(above)) => above - 0.5,
                    (Some(below), None) => below + 0.5,
                    (None, None) => 0.0,
                }
            }
            Self::Range { min, max, bins } => {
                (min + (f64::from(bin) + 0.5) / f64::from(bins - 1) * (max - min)).min(max)
            }
        }
    }
}

/// A field. Its place in [`FIELDS`] is its number in sentences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// 4M's name.
    pub name: &'static str,
    /// How its values are told apart.
    pub bins: Bins,
}

const fn whole(name: &'static str) -> Field {
    Field { name, bins: Bins::Whole }
}

const fn range(name: &'static str, max: f64) -> Field {
    Field { name, bins: Bins::Range { min: 0.0, max, bins: 50 } }
}

/// 4M's fields.
pub const FIELDS: [Field; 21] = [
    Field { name: "original_width", bins: Bins::Steps(32) },
    Field { name: "original_height", bins: Bins::Steps(32) },
    whole("caption_n_chars"),
    whole("caption_n_words"),
    whole("caption_n_sentences"),
    whole("n_humans"),
    whole("n_sam_instances"),
    whole("n_coco_instances"),
    whole("coco_instance_diversity"),
    range("colorfulness", 150.0),
    range("brightness", 255.0),
    range("contrast", 127.0),
    range("saturation", 255.0),
    range("entropy", 10.0),
    range("walkability", 1.0),
    range("objectness", 1.0),
    whole("semantic_diversity"),
    range("geometric_complexity", 0.75),
    range("occlusion_score", 0.25),
    Field { name: "watermark_score", bins: Bins::Bounds(&[0.5]) },
    Field { name: "aesthetic_score", bins: Bins::Bounds(&[4.5, 5.5]) },
];

/// The number of the field of a name.
pub fn field(name: &str) -> Option<usize> {
    FIELDS.iter().position(|field| field.name == name)
}

/// Fields and values, in 4M's units, of what is known of a picture; what 4M has no field for is left out.
pub fn metadata_of_picture(picture: &Annotated) -> Vec<(usize, f64)> {
    let known = annotations::FIELDS.iter().filter_map(|ours| {
        let ((theirs, factor), value) = (ours.published?, picture.field(ours.name)?);
        Some((field(theirs)?, value * factor))
    });
    known.collect()
}

/// The sentence of fields and their values: `v1=<field> v0=<bin>` for each, in the order that the seed chooses, or as
/// they are given.
///
/// # Errors
/// A field that does not exist or comes twice, a value that is not a number.
pub fn metadata_text(values: &[(usize, f64)], seed: Option<u64>) -> Result<String, Failure> {
    let mut seen = [false; FIELDS.len()];
    let mut pairs = Vec::with_capacity(values.len());
    for &(number, amount) in values {
        let (Some(field), Some(seen)) = (FIELDS.get(number), seen.get_mut(number)) else {
            let most = FIELDS.len() - 1;
            return Err(Failure::new(format!("metadata has no field {number}: give 0 to {most}")));
        };
        if amount.is_nan() {
            return Err(Failure::new(format!("the field `{}` should be a number, got NaN", field.name)));
        }
        if core::mem::replace(seen, true) {
            return Err(Failure::new(format!("the field `{}` comes twice", field.name)));
        }
        pairs.push(format!("{} {}", value(1, number as u32), value(0, field.bins.bin(amount))));
    }
    Ok(seed.map_or_else(|| pairs.clone(), |seed| shuffled(&pairs, seed)).join(" "))
}

/// Fields and values of a sentence, in its order; a value is the [middle](Bins::middle) of its bin.
///
/// # Errors
/// Another form, a field that does not exist or comes twice, a bin that the field does not have.
pub fn metadata_of(text: &str) -> Result<Vec<(usize, f64)>, Failure> {
    let mut words = Words::new(text, "metadata");
    let mut values: Vec<(usize, f64)> = Vec::new();
    while words.peek().is_some() {
        let number = words.value(1)? as usize;
        let bin = words.value(0)?;
        let refuse = |why: String| Err(Failure::new(format!("no sentence of metadata: {why}")));
        let Some(Field { name, bins }) = FIELDS.get(number) else {
            return refuse(format!("there is no field {number}, only 0 to {}", FIELDS.len() - 1));
        };
        if bin >= bins.count() {
            return refuse(format!("the field `{name}` has {} bins, got {bin}", bins.count()));
        }
        if values.iter().any(|&(known, _)| known == number) {
            return refuse(format!("the field `{name}` comes twice"));
        }
        values.push((number, bins.middle(bin)));
    }
    Ok(values)
}
