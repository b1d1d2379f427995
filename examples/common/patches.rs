//! Pictures as rows of patches, and back. Pixel values `p` in `0..=1` become `2p − 1`.

use super::failure::Failure;
use super::images::Rgb;

const CHANNELS: usize = 3;

/// Where the patches of one picture are among the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// The picture's index in the list it came from.
    pub image: usize,
    /// The row of its patch at the top left.
    pub first_row: usize,
    /// Patches side by side.
    pub width: usize,
    /// Patches on top of each other.
    pub height: usize,
}

/// All patches of a list of pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    /// `rows · dim` values in `-1..=1`.
    pub rows: Vec<f32>,
    /// Values in a row: patch · patch · 3, in the order y, x, channel.
    pub dim: usize,
    /// One entry for each picture that holds a patch.
    pub grid: Vec<Grid>,
}

/// Cuts pictures into square patches that do not overlap, in raster order; what is left at the right and bottom is cropped.
///
/// A picture smaller than a patch is skipped with a warning; it is an error when none is left.
pub fn patch_rows(images: &[Rgb], patch: usize) -> Result<Patches, Failure> {
    let dim = dim_of(patch)?;
    let mut patches = Patches { rows: Vec::new(), dim, grid: Vec::new() };
    for (index, image) in images.iter().enumerate() {
        let (width, height) = (image.width / patch, image.height / patch);
        if width == 0 || height == 0 {
            eprintln!(
                "warning: skipped `{}`: {}x{} pixels hold no patch of {patch}x{patch}",
                image.name, image.width, image.height
            );
            continue;
        }
        patches.grid.push(Grid { image: index, first_row: patches.rows.len() / dim, width, height });
        patches.rows.reserve(width * height * dim);
        for top in (0..height * patch).step_by(patch) {
            for left in (0..width * patch).step_by(patch) {
                for y in top..top + patch {
                    let start = (y * image.width + left) * CHANNELS;
                    let line =
                        image.pixels.get(start..start + patch * CHANNELS).ok_or_else(|| too_few_pixels(image))?;
                    patches.rows.extend(line.iter().map(|pixel| 2.0 * pixel - 1.0));
                }
            }
        }
    }
    if patches.grid.is_empty() {
        return Err(Failure::new(format!(
            "none of {} pictures holds a patch of {patch}x{patch} pixels: choose a smaller patch",
            images.len()
        )));
    }
    Ok(patches)
}

/// The picture that `width · height` patches in raster order make, clamped to `0..=1`; the inverse of [`patch_rows`] but for the crop.
pub fn unpatch(rows: &[f32], width: usize, height: usize, patch: usize) -> Result<Rgb, Failure> {
    let dim = dim_of(patch)?;
    let expected = width.checked_mul(height).and_then(|patches| patches.checked_mul(dim));
    if expected != Some(rows.len()) || rows.is_empty() {
        return Err(Failure::new(format!(
            "{width}x{height} patches of {dim} values were expected, got {} values",
            rows.len()
        )));
    }
    let line = patch * CHANNELS;
    let mut pixels = Vec::with_capacity(rows.len());
    for band in rows.chunks_exact(width * dim) {
        for y in 0..patch {
            for tile in band.chunks_exact(dim) {
                pixels.extend(tile.iter().skip(y * line).take(line).map(|value| ((value + 1.0) / 2.0).clamp(0.0, 1.0)));
            }
        }
    }
    Ok(Rgb { name: String::new(), width: width * patch, height: height * patch, pixels })
}

fn dim_of(patch: usize) -> Result<usize, Failure> {
    let dim = patch.checked_mul(patch).and_then(|area| area.checked_mul(CHANNELS)).filter(|&dim| dim > 0);
    dim.ok_or_else(|| Failure::new(format!("the patch size must be a small positive number, got {patch}")))
}

fn too_few_pixels(image: &Rgb) -> Failure {
    Failure::new(format!(
        "`{}`: {}x{} pixels were expected, got {} values",
        image.name,
        image.width,
        image.height,
        image.pixels.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value differs, and all are exact in the mapped range.
    fn image(name: &str, width: usize, height: usize) -> Rgb {
        let pixels = (0..width * height * CHANNELS).map(|i| i as f32 / 1024.0).collect();
        Rgb { name: name.into(), width, height, pixels }
    }

    #[test]
    fn a_row_runs_over_y_x_and_channel() {
        let patches = patch_rows(&[image("a", 4, 2)], 2).expect("two patches");
        let expected = |pixels: [usize; 4]| {
            pixels
                .into_iter()
                .flat_map(|p| (0..3).map(move |c| 2.0 * ((p * 3 + c) as f32 / 1024.0) - 1.0))
                .collect::<Vec<_>>()
        };
        assert_eq!(patches.rows, [expected([0, 1, 4, 5]), expected([2, 3, 6, 7])].concat());
        assert_eq!((patches.dim, &*patches.grid), (12, &[Grid { image: 0, first_row: 0, width: 2, height: 1 }][..]));
    }

    #[test]
    fn unpatching_gives_the_cropped_picture_back() {
        let images = [image("small", 2, 9), image("a", 7, 4), image("b", 3, 6)];
        for (patch, sizes) in
            [(1, vec![(2, 9), (7, 4), (3, 6)]), (3, vec![(6, 3), (3, 6)]), (2, vec![(2, 8), (6, 4), (2, 6)])]
        {
            let patches = patch_rows(&images, patch).expect("patches");
            assert_eq!(patches.grid.len(), sizes.len());
            for (grid, size) in patches.grid.iter().zip(sizes) {
                let rows = &patches.rows[grid.first_row * patches.dim..][..grid.width * grid.height * patches.dim];
                let back = unpatch(rows, grid.width, grid.height, patch).expect("a picture");
                assert_eq!((back.width, back.height), size);
                let original = &images[grid.image];
                for (y, line) in back.pixels.chunks(back.width * 3).enumerate() {
                    assert_eq!(line, &original.pixels[y * original.width * 3..][..line.len()]);
                }
            }
        }
    }

    #[test]
    fn pictures_that_hold_no_patch_are_an_error_when_nothing_else_is_left() {
        let images = [image("a", 3, 9)];
        assert!(patch_rows(&images, 4).is_err());
        assert!(patch_rows(&images, 0).is_err());
        assert!(patch_rows(&images, usize::MAX).is_err());
        assert!(patch_rows(&[], 1).is_err());
        assert!(unpatch(&[0.0; 12], 2, 1, 2).is_err());
        assert!(unpatch(&[], 0, 1, 2).is_err());
    }

    #[test]
    fn values_beyond_the_range_are_clamped() {
        let back = unpatch(&[-3.0, 0.0, 3.0], 1, 1, 1).expect("one pixel");
        assert_eq!(back.pixels, [0.0, 0.5, 1.0]);
    }
}
