//! Boxes, metadata, instances, people and palettes as sentences of value tokens, in 4M's forms (`fourm/data/modality_transforms.py`).
//!
//! | what | its sentence |
//! |---|---|
//! | boxes | `v0=<x0> v1=<y0> v2=<x1> v3=<y1> <class>` for each, the nearest to the upper left corner first |
//! | metadata | `v1=<field> v0=<bin>` for each field, in a random order |
//! | instances | `point v0=<y> v1=<x>` for each point of the picture, then `none`, or for each instance that it lies in `polygon v0=<x0> v1=<y0> v2=<x1> v3=<y1>` and the tokens of its mask |
//! | people | `human v0=<x0> v1=<y0> v2=<x1> v3=<y1>` for each, and in a random order `pose` and 8 tokens, `global` and 9 numbers, `camera` and 3, `shape` and 10; `none` without any |
//! | palettes | `v1=<colours>`, then `v0=<red> v0=<green> v0=<blue>` for each |
//!
//! A caption is its own sentence. What cannot be said in a form is refused when it is written, and what is no sentence of
//! the form when it is read.

mod boxes;
mod instances;
mod metadata;
mod palettes;
mod poses;

pub use boxes::{BoxForm, Detection, Order, boxes_of, boxes_text};
pub use instances::{Instance, MOST_MASK_TOKEN, Point, instances_of, instances_text};
pub use metadata::{Bins, FIELDS, Field, field, metadata_of, metadata_of_picture, metadata_text};
pub use palettes::{Colour, MOST_COLOURS, palette_of, palette_text};
pub use poses::{MOST_POSE_TOKEN, POSE_TOKENS, Person, people_of, people_text};

use super::special::parse_value;
use crate::common::failure::Failure;

/// The words of a sentence, taken one after the other.
struct Words<'a> {
    words: Vec<&'a str>,
    next: usize,
    form: &'static str,
}

impl<'a> Words<'a> {
    fn new(text: &'a str, form: &'static str) -> Self {
        Self { words: text.split_ascii_whitespace().collect(), next: 0, form }
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).copied()
    }

    fn take(&mut self) -> Option<&'a str> {
        let word = self.peek()?;
        self.next += 1;
        Some(word)
    }

    /// Takes this word, if it is the next one.
    fn take_if(&mut self, word: &str) -> bool {
        let is = self.peek() == Some(word);
        self.next += usize::from(is);
        is
    }

    /// The next word's kind and value, if it is a value token.
    fn peek_value(&self) -> Option<(usize, u32)> {
        self.peek().and_then(parse_value)
    }

    /// The value of the next token, which must be of this kind.
    fn value(&mut self, kind: usize) -> Result<u32, Failure> {
        match self.peek_value() {
            Some((found, value)) if found == kind => {
                self.next += 1;
                Ok(value)
            }
            _ => Err(self.refuse(&format!("`v{kind}=0` to `v{kind}=999`"))),
        }
    }

    fn refuse(&self, expected: &str) -> Failure {
        let found = match self.peek() {
            Some(word) => format!("`{}`", word.chars().take(40).collect::<String>()),
            None => "the end".into(),
        };
        Failure::new(format!("no sentence of {}: word {} is {found}, expected {expected}", self.form, self.next))
    }
}

/// These things in the order that the seed chooses.
fn shuffled<T: Clone>(things: &[T], seed: u64) -> Vec<T> {
    let order = crate::data::Permutation::new(things.len() as u64, seed);
    (0..things.len() as u64).filter_map(|i| things.get(order.at(i) as usize).cloned()).collect()
}

#[cfg(test)]
mod tests;
