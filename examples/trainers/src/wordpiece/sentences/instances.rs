//! Instances at points of a picture: SAM's, with tokens for their masks.

use super::{Words, shuffled};
use crate::common::failure::Failure;
use crate::common::random::hash_name;
use crate::wordpiece::special::{BINS, KINDS, value};

/// Mask tokens below are of kind `v0`, the others of kind `v1`.
const SPLIT: u32 = 512;

/// The greatest mask token that the form can say.
pub const MOST_MASK_TOKEN: u32 = SPLIT + BINS - 1;

/// An instance: its box in whole pixels, and its mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Left, upper, right and lower side.
    pub bounds: [u32; KINDS],
    /// The mask's tokens; 16 of 4M's tokenizer.
    pub mask: Vec<u32>,
}

/// A point, and the instances that it lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Column.
    pub x: u32,
    /// Row.
    pub y: u32,
    /// None, one, or several.
    pub instances: Vec<Instance>,
}

/// The sentence of these points. With a seed both the points and the instances of each are in a random order.
///
/// # Errors
/// A coordinate above 999, sides in the wrong order, a mask token above [`MOST_MASK_TOKEN`].
pub fn instances_text(points: &[Point], seed: Option<u64>) -> Result<String, Failure> {
    let mixed = |name: &str, seed: u64| hash_name(name, seed);
    let points = seed.map_or_else(|| points.to_vec(), |seed| shuffled(points, mixed("points", seed)));
    let mut words: Vec<String> = Vec::new();
    for (place, Point { x, y, instances }) in points.into_iter().enumerate() {
        words.push("point".into());
        words.extend([coordinate(0, y)?, coordinate(1, x)?]);
        if instances.is_empty() {
            words.push("none".into());
        }
        let order = |seed: u64| shuffled(&instances, mixed("instances", seed.wrapping_add(place as u64)));
        for Instance { bounds, mask } in seed.map_or_else(|| instances.clone(), order) {
            let [x0, y0, x1, y1] = bounds;
            if x0 > x1 || y0 > y1 {
                return Err(Failure::new(format!("the sides of an instance are in the wrong order: {bounds:?}")));
            }
            words.push("polygon".into());
            for (kind, side) in bounds.into_iter().enumerate() {
                words.push(coordinate(kind, side)?);
            }
            for token in mask {
                words.push(match token {
                    0..SPLIT => value(0, token),
                    SPLIT..=MOST_MASK_TOKEN => value(1, token - SPLIT),
                    _ => {
                        let most = MOST_MASK_TOKEN;
                        return Err(Failure::new(format!(
                            "a mask's token is {token}: at most {most} can be said; train the masks with fewer codes"
                        )));
                    }
                });
            }
        }
    }
    Ok(words.join(" "))
}

fn coordinate(kind: usize, pixel: u32) -> Result<String, Failure> {
    match pixel {
        0..BINS => Ok(value(kind, pixel)),
        _ => Err(Failure::new(format!("a coordinate is {pixel} px: at most {} can be said", BINS - 1))),
    }
}

/// The points of a sentence, in its order.
///
/// # Errors
/// Another form, or sides in the wrong order.
pub fn instances_of(text: &str) -> Result<Vec<Point>, Failure> {
    let mut words = Words::new(text, "instances");
    let mut points = Vec::new();
    while words.peek().is_some() {
        if !words.take_if("point") {
            return Err(words.refuse("`point`"));
        }
        let (y, x) = (words.value(0)?, words.value(1)?);
        let mut instances = Vec::new();
        if !words.take_if("none") {
            while words.take_if("polygon") {
                instances.push(instance(&mut words)?);
            }
            if instances.is_empty() {
                return Err(words.refuse("`none` or `polygon`"));
            }
        }
        points.push(Point { x, y, instances });
    }
    Ok(points)
}

fn instance(words: &mut Words<'_>) -> Result<Instance, Failure> {
    let mut bounds = [0; KINDS];
    for (kind, side) in bounds.iter_mut().enumerate() {
        *side = words.value(kind)?;
    }
    let [x0, y0, x1, y1] = bounds;
    if x0 > x1 || y0 > y1 {
        return Err(Failure::new(format!("no sentence of instances: sides in the wrong order: {bounds:?}")));
    }
    let mut mask = Vec::new();
    while let Some((kind, token)) = words.peek_value() {
        match (kind, token) {
            (0, 0..SPLIT) => mask.push(token),
            (1, _) => mask.push(SPLIT + token),
            _ => return Err(words.refuse("a mask's token, `v0=0` to `v0=511` or `v1=0` to `v1=999`")),
        }
        words.take();
    }
    Ok(Instance { bounds, mask })
}
