//! What is said about pictures in words and numbers: captions, boxes and metadata.

mod fields;
mod load;
mod statistics;

use crate::common::failure::Failure;

pub use fields::{FIELDS, Field};
pub use load::{captions_tsv, from_coco, from_scenes};
pub use statistics::statistics;

/// A thing in a picture: its class, and the smallest upright box around what is seen of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledBox {
    /// In lower-case words.
    pub class: String,
    /// The left side, in `0..=1` of the picture's width.
    pub x0: f64,
    /// The upper side, in `0..=1` of the picture's height.
    pub y0: f64,
    /// The right side, at least `x0`.
    pub x1: f64,
    /// The lower side, at least `y0`.
    pub y1: f64,
}

/// A picture's captions, boxes and metadata, without its pixels.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Annotated {
    /// The picture's path inside its directory or archive, or its number.
    pub name: String,
    /// Sentences about the picture; none where nobody wrote any.
    pub captions: Vec<String>,
    /// The things in it, in no certain order.
    pub boxes: Vec<LabelledBox>,
    /// Values by the names of [`FIELDS`], each at most once; which fields there are depends on the source.
    pub metadata: Vec<(String, f64)>,
}

impl Annotated {
    /// The value of a field, where it is known.
    pub fn field(&self, name: &str) -> Option<f64> {
        self.metadata.iter().find(|(field, _)| field == name).map(|&(_, value)| value)
    }

    /// Refuses boxes that lie outside the picture or have no width or height, values that are not finite, and unknown fields.
    ///
    /// # Errors
    /// Names the picture and what is wrong.
    pub fn check(&self) -> Result<(), Failure> {
        let refuse = |why: String| Err(Failure::new(format!("`{}`: {why}", self.name)));
        for LabelledBox { class, x0, y0, x1, y1 } in &self.boxes {
            let ordered = |low: f64, high: f64| 0.0 <= low && low < high && high <= 1.0;
            if !(ordered(*x0, *x1) && ordered(*y0, *y1)) {
                return refuse(format!(
                    "the box of `{class}` should lie inside 0..1 with x0 < x1 and y0 < y1, got {x0}, {y0}, {x1}, {y1}"
                ));
            }
        }
        for (name, value) in &self.metadata {
            if !FIELDS.iter().any(|field| field.name == name) {
                return refuse(format!("metadata has no field `{name}`"));
            }
            if !value.is_finite() {
                return refuse(format!("the field `{name}` should be a finite number, got {value}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
