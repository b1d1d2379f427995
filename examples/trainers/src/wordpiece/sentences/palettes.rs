//! The few colours that a picture is made of.

use super::Words;
use crate::common::failure::Failure;
use crate::wordpiece::special::value;

/// Colours of a palette at most: 4M draws 1 to 7 of them.
pub const MOST_COLOURS: usize = 7;

/// Red, green and blue, 0 to 255.
pub type Colour = [u8; 3];

/// The sentence of a palette: `v1=<colours>` and for each `v0=<red> v0=<green> v0=<blue>`.
///
/// # Errors
/// No colour, or more than [`MOST_COLOURS`].
pub fn palette_text(colours: &[Colour]) -> Result<String, Failure> {
    if !(1..=MOST_COLOURS).contains(&colours.len()) {
        return Err(Failure::new(format!("a palette has 1 to {MOST_COLOURS} colours, got {}", colours.len())));
    }
    let parts = colours.iter().flatten().map(|&part| value(0, u32::from(part)));
    Ok(core::iter::once(value(1, colours.len() as u32)).chain(parts).collect::<Vec<_>>().join(" "))
}

/// The palette of a sentence.
///
/// # Errors
/// Another form, another number of colours than it says, or a part above 255.
pub fn palette_of(text: &str) -> Result<Vec<Colour>, Failure> {
    let mut words = Words::new(text, "a palette");
    let count = words.value(1)? as usize;
    if !(1..=MOST_COLOURS).contains(&count) {
        return Err(Failure::new(format!("no sentence of a palette: {count} colours, expected 1 to {MOST_COLOURS}")));
    }
    let mut colours = Vec::with_capacity(count);
    for _ in 0..count {
        let mut colour = Colour::default();
        for part in &mut colour {
            let Some((0, Ok(found))) = words.peek_value().map(|(kind, found)| (kind, u8::try_from(found))) else {
                return Err(words.refuse("`v0=0` to `v0=255`"));
            };
            *part = found;
            words.take();
        }
        colours.push(colour);
    }
    match words.peek() {
        None => Ok(colours),
        Some(_) => Err(words.refuse("the end")),
    }
}
