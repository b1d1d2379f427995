//! Windows of pictures and maps, and their values at any size.

use crate::common::random::SplitMix64;

/// A square of a picture, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first column.
    pub left: usize,
    /// The first row.
    pub top: usize,
    /// Columns and rows.
    pub side: usize,
    /// Whether left and right are exchanged.
    pub flip: bool,
}

impl Window {
    /// The largest square in the middle of a picture.
    pub fn centre(width: usize, height: usize) -> Self {
        let side = width.min(height);
        Self { left: (width - side) / 2, top: (height - side) / 2, side, flip: false }
    }

    /// A square anywhere inside, its side between `min_scale` and 1 times the shortest side; mirrored half of the time where `flip` allows.
    pub fn random(width: usize, height: usize, min_scale: f32, flip: bool, random: &mut SplitMix64) -> Self {
        let shortest = width.min(height);
        // The scale is below 1 even where 1 is the least: rounding brings the whole side back.
        let side = (shortest as f32 * random.uniform(min_scale, 1.0)).round() as usize;
        let side = side.clamp(shortest.min(1), shortest);
        let left = random.below(width - side + 1);
        let top = random.below(height - side + 1);
        // Drawn in any case, so that places do not depend on whether flips are allowed.
        let mirrored = random.below(2) == 1;
        Self { left, top, side, flip: flip && mirrored }
    }

    /// Moved and shrunk until it lies inside a picture.
    pub(super) fn inside(self, width: usize, height: usize) -> Self {
        let shortest = width.min(height);
        let side = self.side.clamp(shortest.min(1), shortest);
        Self { left: self.left.min(width - side), top: self.top.min(height - side), side, flip: self.flip }
    }
}

/// A rectangle of a picture: its first column and row, its columns and rows; it lies inside, and has at least one of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub left: usize,
    pub top: usize,
    pub wide: usize,
    pub high: usize,
}

impl From<Window> for Part {
    fn from(window: Window) -> Self {
        Self { left: window.left, top: window.top, wide: window.side, high: window.side }
    }
}

/// Resizes a part of `source`, rows of `width` pixels of `C` values, to `size · size` pixels: `put` gets each pixel's place and values.
///
/// By the triangle filter, which is bilinear interpolation where the part grows and averages over all pixels where it shrinks, like Pillow's
/// `BILINEAR`, but not rounded to whole values.
pub(super) fn resample<T: Copy + Into<f32>, const C: usize>(
    source: &[T],
    width: usize,
    part: Part,
    size: usize,
    mut put: impl FnMut(usize, [f32; C]),
) {
    let (down, across) = (triangle(part.high, size), triangle(part.wide, size));
    let mut line = vec![[0.0f32; C]; part.wide];
    let rows = source.chunks_exact((C * width).max(1));
    for (y, (first, weights)) in down.iter().enumerate() {
        line.as_flattened_mut().fill(0.0);
        for (row, weight) in rows.clone().skip(part.top + first).zip(weights) {
            let row = &row[C * part.left..C * (part.left + part.wide)];
            line.as_flattened_mut().iter_mut().zip(row).for_each(|(sum, &value)| *sum += weight * value.into());
        }
        for (x, (first, weights)) in across.iter().enumerate() {
            let mut pixel = [0.0f32; C];
            for (values, weight) in line[*first..].iter().zip(weights) {
                pixel.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
            }
            put(y * size + x, pixel);
        }
    }
}

/// The same by the nearest value, for labels: `put` gets each pixel's place and its value's.
pub(super) fn nearest(width: usize, part: Part, size: usize, mut put: impl FnMut(usize, usize)) {
    // The middle of pixel i lies at (i + 1/2) · side / size.
    let place = |i: usize, side: usize| (2 * i + 1) * side / (2 * size);
    for y in 0..size {
        for x in 0..size {
            put(y * size + x, (part.top + place(y, part.high)) * width + part.left + place(x, part.wide));
        }
    }
}

/// For each of `size` values the first of `side` that it is made of, and the weights of that and the next ones, which sum to 1.
fn triangle(side: usize, size: usize) -> Vec<(usize, Vec<f32>)> {
    let ratio = side as f64 / size as f64;
    let reach = ratio.max(1.0);
    let taps = |i: usize| {
        let centre = (i as f64 + 0.5) * ratio;
        let weight = |j: usize| 1.0 - (j as f64 + 0.5 - centre).abs() / reach;
        // A cast saturates at 0. The middle of some value is always less than the reach away.
        let near = (centre - reach) as usize..((centre + reach).ceil() as usize).min(side);
        let taps: Vec<(usize, f64)> = near.map(|j| (j, weight(j))).filter(|(_, weight)| *weight > 0.0).collect();
        let total: f64 = taps.iter().map(|(_, weight)| weight).sum();
        let first = taps.first().map_or(0, |(j, _)| *j);
        (first, taps.into_iter().map(|(_, weight)| (weight / total) as f32).collect())
    };
    (0..size).map(taps).collect()
}
