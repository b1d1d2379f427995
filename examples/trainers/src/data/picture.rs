//! A picture in 8 bits, and square windows of it at any size.

use image::RgbImage;
use image::imageops::{FilterType, resize};

use super::resample::{Window, resample};
use crate::common::images::Rgb;
use crate::common::random::SplitMix64;

/// A picture as 8-bit RGB.
#[derive(Clone, PartialEq)]
pub struct Picture {
    name: String,
    pixels: RgbImage,
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
        Window::centre(self.width(), self.height())
    }

    /// A square anywhere inside: [`Window::random`].
    pub fn random_window(&self, min_scale: f32, flip: bool, random: &mut SplitMix64) -> Window {
        Window::random(self.width(), self.height(), min_scale, flip, random)
    }

    /// Its values, row by row, three a pixel.
    pub(super) fn bytes(&self) -> &[u8] {
        self.pixels.as_raw()
    }

    /// The window at `size · size` pixels into `out` `[3, size, size]`: value `p` of 0 to 255 becomes `p / 127.5 − 1`.
    ///
    /// Bilinear where the window grows, averaged where it shrinks ([`resample`]). A window beyond the picture is moved inside.
    pub fn cut(&self, window: Window, size: usize, out: &mut [f32]) {
        let window = window.inside(self.width(), self.height());
        if window.side == 0 {
            return;
        }
        let (red, rest) = out.split_at_mut(size * size);
        let (green, blue) = rest.split_at_mut(size * size);
        resample(self.bytes(), self.width(), window.into(), size, |at, colour: [f32; 3]| {
            let at = if window.flip { at + size - 1 - 2 * (at % size) } else { at };
            [red[at], green[at], blue[at]] = colour.map(in_range);
        });
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

/// From 0 to 255 to −1 to 1.
pub(super) fn in_range(value: f32) -> f32 {
    (value / 127.5 - 1.0).clamp(-1.0, 1.0)
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
