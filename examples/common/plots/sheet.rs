//! Contact sheets: pictures side by side.

use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use crate::common::failure::{Context, Failure};
use crate::common::files::write_atomic;
use crate::common::images::Rgb;

/// White pixels between two pictures.
const GUTTER: u32 = 2;

/// Writes rows of pictures to one PNG file, on white; shorter rows end earlier.
pub fn sheet_png(path: &Path, rows: &[Vec<&Rgb>]) -> Result<(), Failure> {
    let refuse = || format!("cannot write `{}`", path.display());
    let too_large = || format!("{}: the pictures make no sheet of a possible size", refuse());
    let side = |length: usize| u32::try_from(length).map_err(|_| Failure::new(too_large()));
    let (mut places, mut width, mut top) = (Vec::new(), 0_u32, 0_u32);
    for row in rows {
        let (mut left, mut height) = (0_u32, 0);
        for picture in row {
            places.push((*picture, left, top));
            left = left.saturating_add(side(picture.width)?).saturating_add(GUTTER);
            height = height.max(side(picture.height)?);
        }
        width = width.max(left.saturating_sub(GUTTER));
        top = top.saturating_add(height).saturating_add(GUTTER);
    }
    let height = top.saturating_sub(GUTTER);
    // The encoder refuses more as well, but only after the memory is taken.
    if width == 0 || height == 0 || u64::from(width) * u64::from(height) > 1 << 28 {
        return Err(Failure::new(too_large()));
    }
    let mut sheet = RgbImage::from_pixel(width, height, image::Rgb([255; 3]));
    for (picture, left, top) in places {
        for (line, y) in picture.pixels.chunks_exact(picture.width.max(1) * 3).zip(top..) {
            let (colours, _) = line.as_chunks::<3>();
            for (colour, x) in colours.iter().zip(left..) {
                if let Some(target) = sheet.get_pixel_mut_checked(x, y) {
                    *target = image::Rgb(colour.map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8));
                }
            }
        }
    }
    write_atomic(path, |file| {
        PngEncoder::new(file).write_image(&sheet, width, height, ExtendedColorType::Rgb8).context(refuse)
    })
}
