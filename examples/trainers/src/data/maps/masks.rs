//! Masks of single things, each in its own box.

use super::stored::{Stored, Values};
use crate::data::resample::{Part, resample};

/// Side of a mask, in pixels: as of 4M's SAM instances.
const SIDE: usize = 64;

/// What is left around a thing on each side, in shares of its extent.
const MARGIN: f64 = 0.1;

/// Smaller things are left out, in pixels: their outline says nothing.
const LEAST: usize = 16;

/// Which thing each pixel belongs to, 0 to none, in raster order.
pub(super) struct Instances {
    pub numbers: Vec<u8>,
    pub width: usize,
}

/// A mask for every thing of at least [`LEAST`] pixels: its box, a margin around it where the picture has one, resized to a square whatever its
/// proportions, the share inside rounded to 0 or 1. All are of the picture's group.
pub(super) fn masks(name: &str, instances: &Instances) -> Vec<Stored> {
    let Instances { numbers, width } = instances;
    let mut extents: [Option<[usize; 4]>; 256] = [None; 256];
    let mut sizes = [0; 256];
    for (at, &number) in numbers.iter().enumerate() {
        let (x, y) = (at % width, at / width);
        let place = usize::from(number);
        let [left, top, right, bottom] = extents[place].unwrap_or([x, y, x, y]);
        extents[place] = Some([left.min(x), top.min(y), right.max(x), bottom.max(y)]);
        sizes[place] += 1;
    }
    let height = numbers.len() / (*width).max(1);
    let mask = |(number, extent): (usize, &Option<[usize; 4]>)| {
        let [left, top, right, bottom] = (*extent).filter(|_| number > 0 && sizes[number] >= LEAST)?;
        let margin = |from: usize, to: usize| ((to + 1 - from) as f64 * MARGIN).ceil() as usize;
        let (beside, above) = (margin(left, right), margin(top, bottom));
        let (left, top) = (left.saturating_sub(beside), top.saturating_sub(above));
        let (right, bottom) = ((right + beside).min(width - 1), (bottom + above).min(height - 1));
        let part = Part { left, top, wide: right + 1 - left, high: bottom + 1 - top };
        let inside: Vec<u8> = numbers.iter().map(|&other| u8::from(usize::from(other) == number)).collect();
        let mut bytes = vec![0; SIDE * SIDE];
        resample(&inside, *width, part, SIDE, |at, [share]: [f32; 1]| bytes[at] = u8::from(share >= 0.5));
        let stored = Stored::new(format!("{name}#{number:03}"), [1, SIDE, SIDE], Values::Bytes(bytes));
        Some(Stored { group: Some(name.to_owned()), ..stored })
    };
    extents.iter().enumerate().filter_map(mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_fill_their_boxes() {
        // A rectangle of 20 by 10 at (5, 8) and a dot too small.
        let width = 40;
        let number = |at: usize| match (at % width, at / width) {
            (5..25, 8..18) => 3,
            (30, 5) => 7,
            _ => 0,
        };
        let masks = masks("a/b", &Instances { numbers: (0..width * 30).map(number).collect(), width });
        assert_eq!(masks.len(), 1);
        assert_eq!((&*masks[0].name, masks[0].group()), ("a/b#003", "a/b"));
        let Values::Bytes(bytes) = &masks[0].values else { panic!("bytes") };
        let inside = bytes.iter().filter(|&&value| value == 1).count() as f64 / bytes.len() as f64;
        // Margins of 2 and 1 make it 20 × 10 of 24 × 12.
        assert!((inside - 200.0 / 288.0).abs() < 0.03, "{inside}");
        assert!((0..SIDE).all(|i| bytes[i] == 0 && bytes[i * SIDE] == 0) && bytes[SIDE * SIDE / 2 + SIDE / 2] == 1);
    }

    #[test]
    fn pictures_without_things_have_no_masks() {
        assert!(masks("a", &Instances { numbers: vec![0; 64], width: 8 }).is_empty());
        assert!(masks("a", &Instances { numbers: Vec::new(), width: 0 }).is_empty());
    }
}
