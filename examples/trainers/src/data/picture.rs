//! A picture in 8 bits, and square windows of it at any size.

use image::RgbImage;
use image::imageops::{FilterType, resize};

use crate::common::images::Rgb;
use crate::common::random::SplitMix64;

/// A picture as 8-bit RGB.
#[derive(Clone, PartialEq)]
pub struct Picture {
    name: String,
    pixels: RgbImage,
}

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

impl From<Rgb> for Picture {
    /// Values are rounded to the nearest of 256; a picture whose values do not fit its size becomes an empty one.
    fn from(image: Rgb) -> Self {
        let bytes = image.pixels.iter().map(|value| (value * 255.0).round() as u8).collect();
        let size = u32::try_from(image.width).ok().zip(u32::try_from(image.height).ok());
        let pixels = size.and_then(|(width, height)| RgbImage::from_raw(width, height, bytes));
        Self { name: image.name, pixels: pixels.unwrap_or_default() }
    }
}

impl Picture {
    /// Its path inside the directory or archive, with `/` between the parts.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.pixels.width() as usize
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.pixels.height() as usize
    }

    /// The smaller of the two.
    pub fn shortest(&self) -> usize {
        self.width().min(self.height())
    }

    /// The largest square in the middle.
    pub fn centre(&self) -> Window {
        let side = self.shortest();
        Window { left: (self.width() - side) / 2, top: (self.height() - side) / 2, side, flip: false }
    }

    /// A square anywhere inside, its side between `min_scale` and 1 times the shortest side; mirrored half of the time where `flip` allows.
    pub fn random_window(&self, min_scale: f32, flip: bool, random: &mut SplitMix64) -> Window {
        let shortest = self.shortest();
        // The scale is below 1 even where 1 is the least: rounding brings the whole side back.
        let side = (shortest as f32 * random.uniform(min_scale, 1.0)).round() as usize;
        let side = side.clamp(shortest.min(1), shortest);
        let left = random.below(self.width() - side + 1);
        let top = random.below(self.height() - side + 1);
        // Drawn in any case, so that places do not depend on whether flips are allowed.
        let mirrored = random.below(2) == 1;
        Window { left, top, side, flip: flip && mirrored }
    }

    /// The window at `size · size` pixels into `out` `[3, size, size]`: value `p` of 0 to 255 becomes `p / 127.5 − 1`.
    ///
    /// Resized by the triangle filter, which is bilinear interpolation where the window grows and averages over all pixels where it shrinks, like
    /// Pillow's `BILINEAR`, but not rounded to whole values. A window beyond the picture is moved inside.
    pub fn cut(&self, window: Window, size: usize, out: &mut [f32]) {
        let side = window.side.clamp(self.shortest().min(1), self.shortest());
        if side == 0 {
            return;
        }
        let (left, top) = (window.left.min(self.width() - side), window.top.min(self.height() - side));
        let (red, rest) = out.split_at_mut(size * size);
        let (green, blue) = rest.split_at_mut(size * size);
        let taps = triangle(side, size);
        let mut line = vec![[0.0f32; 3]; side];
        let rows = self.pixels.as_raw().chunks_exact(3 * self.width());
        for (y, (first, weights)) in taps.iter().enumerate() {
            line.as_flattened_mut().fill(0.0);
            for (row, weight) in rows.clone().skip(top + first).zip(weights) {
                let row = &row[3 * left..3 * (left + side)];
                line.as_flattened_mut().iter_mut().zip(row).for_each(|(sum, &value)| *sum += weight * f32::from(value));
            }
            for (x, (first, weights)) in taps.iter().enumerate() {
                let mut colour = [0.0f32; 3];
                for (pixel, weight) in line[*first..].iter().zip(weights) {
                    colour.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += weight * value);
                }
                let at = y * size + if window.flip { size - 1 - x } else { x };
                [red[at], green[at], blue[at]] = colour.map(|value| (value / 127.5 - 1.0).clamp(-1.0, 1.0));
            }
        }
    }

    /// The picture with its shortest side at most `shortest`, its proportions kept.
    pub(super) fn shrunk(&self, shortest: usize) -> Self {
        let scale = shortest as f64 / self.shortest().max(1) as f64;
        if scale >= 1.0 {
            return self.clone();
        }
        let scaled = |side: usize| ((side as f64 * scale).round() as u32).max(1);
        let pixels = resize(&self.pixels, scaled(self.width()), scaled(self.height()), FilterType::Triangle);
        Self { name: self.name.clone(), pixels }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resizing_is_that_of_the_image_crate_but_for_its_rounding() {
        let mut random = SplitMix64::new(8);
        let pixels: Vec<f32> = (0..3 * 23 * 19).map(|_| random.uniform(0.0, 1.0)).collect();
        let picture = Picture::from(Rgb { name: "noise".into(), width: 23, height: 19, pixels });
        for (side, size) in [(19, 5), (19, 8), (7, 16), (12, 12), (1, 4), (18, 1), (3, 2)] {
            let window = Window { left: 4, top: 19 - side, side, flip: false };
            let mut found = vec![0.0; 3 * size * size];
            picture.cut(window, size, &mut found);
            let (left, top, side, size) = (4, window.top as u32, side as u32, size as u32);
            let part = image::imageops::crop_imm(&picture.pixels, left, top, side, side).to_image();
            let expected = resize(&part, size, size, FilterType::Triangle);
            for (i, value) in found.iter().enumerate() {
                let (channel, at) = (i / (size * size) as usize, (i as u32) % (size * size));
                let expected = f32::from(expected.get_pixel(at % size, at / size)[channel]);
                // Half a step for its rounding.
                assert!(((value + 1.0) * 127.5 - expected).abs() < 0.51, "{side} to {size}, {i}: {value}, {expected}");
            }
        }
    }

    #[test]
    fn windows_beyond_the_picture_are_moved_inside() {
        let picture =
            Picture::from(Rgb { name: "p".into(), width: 2, height: 1, pixels: vec![0.0, 0.0, 0.0, 1.0, 1.0, 1.0] });
        let mut out = [0.0; 3];
        picture.cut(Window { left: 9, top: 9, side: 9, flip: false }, 1, &mut out);
        assert_eq!(out, [1.0; 3]);
        Picture::from(Rgb { name: "e".into(), width: 0, height: 0, pixels: Vec::new() }).cut(
            picture.centre(),
            1,
            &mut out,
        );
        assert_eq!(out, [1.0; 3]);
    }
}
