//! Pictures in: a directory or a tar archive of PNG and JPEG files becomes RGB values in `0..=1`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageReader, Limits};

use super::failure::Failure;
use super::folder::visit_files;
use super::random::hash_name;
use super::terminal::Progress;

/// Wider or higher pictures are taken for damaged: a few bytes of header must not claim all memory.
const LARGEST_SIDE: u32 = 1 << 15;

/// Files next to a picture whose pixels are labels, distances or directions.
///
/// Masks (`_mask.png`) are told apart by their type as well, as photos of a ski mask are stored as JPEG.
const LABEL_MAPS: [&str; 4] = ["_sem", "_inst", "_depth_mm", "_normal"];

/// A picture in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Rgb {
    /// Its path inside the directory or archive, with `/` between the parts.
    pub name: String,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height · width · 3` values in `0..=1`: row, column, channel.
    pub pixels: Vec<f32>,
}

/// Loads all pictures under a directory or in an uncompressed `.tar` file, sorted by name.
///
/// Grey, palette and 16-bit pictures become RGB, and a transparent one is seen on black. A picture that cannot be decoded is skipped with a
/// warning; other files and label maps (`*_sem.png`, `*_inst`, `*_depth_mm`, `*_normal`, `*_mask.png`) are skipped silently.
pub fn load_images(path: &Path, progress: bool) -> Result<Vec<Rgb>, Failure> {
    let mut images = Vec::new();
    visit_images(path, progress, |image| images.push(image))?;
    // Archives list their files in any order; a run must not depend on it.
    images.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(images)
}

/// Hands over the pictures of [`load_images`] one by one, in no certain order: for those who keep less of them than 12 bytes a pixel.
pub fn visit_images(path: &Path, progress: bool, mut visit: impl FnMut(Rgb)) -> Result<(), Failure> {
    let looked_for = ".png, .jpg and .jpeg files";
    visit_pictures(path, progress, looked_for, &is_picture, &mut |name, image| {
        visit(rgb(name, image));
        Ok(())
    })
}

/// Hands over the pictures whose names `keep` chooses, as they are stored; `looked_for` describes them for messages.
///
/// A picture that cannot be decoded is skipped with a warning; it is an error when none is left. What `visit` refuses ends the visit.
pub fn visit_pictures(
    path: &Path,
    progress: bool,
    looked_for: &str,
    keep: &dyn Fn(&Path) -> bool,
    visit: &mut dyn FnMut(String, DynamicImage) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut read, mut broken) = (0, 0);
    visit_files(path, progress.then_some("images"), keep, &mut |name, bytes, bar| {
        match bytes.map_err(image::ImageError::IoError).and_then(|bytes| decode(&bytes)) {
            Ok(image) => {
                read += 1;
                visit(name, image)?;
            }
            Err(cause) => {
                broken += 1;
                bar.warn(format_args!("skipped `{name}`: {cause}"));
            }
        }
        Ok(())
    })?;
    let place = path.display();
    if broken > 0 {
        Progress::hidden().warn(format_args!("skipped {broken} of {} pictures in `{place}`", read + broken));
    }
    if read == 0 {
        return Err(Failure::new(format!(
            "`{place}` has no readable picture: looked for {looked_for}, also in its directories"
        )));
    }
    Ok(())
}

/// Whether a name is that of a picture to learn from.
fn is_picture(name: &Path) -> bool {
    let extension = name.extension().unwrap_or_default();
    let stem = name.file_stem().unwrap_or_default().to_string_lossy();
    let is = |known: &str| extension.eq_ignore_ascii_case(known);
    let label_map = LABEL_MAPS.iter().any(|map| stem.ends_with(map));
    let mask = is("png") && stem.ends_with("_mask");
    (is("png") || is("jpg") || is("jpeg")) && !stem.starts_with('.') && !label_map && !mask
}

fn decode(bytes: &[u8]) -> image::ImageResult<DynamicImage> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LARGEST_SIDE);
    limits.max_image_height = Some(LARGEST_SIDE);
    reader.limits(limits);
    reader.decode()
}

/// As RGB in `0..=1`.
pub fn rgb(name: String, image: DynamicImage) -> Rgb {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels = if image.color().has_alpha() {
        let rgba = image.into_rgba32f().into_raw();
        let (rgba, _) = rgba.as_chunks::<4>();
        rgba.iter().flat_map(|&[r, g, b, alpha]| [r * alpha, g * alpha, b * alpha]).collect()
    } else {
        image.into_rgb32f().into_raw()
    };
    Rgb { name, width, height, pixels }
}

/// Splits off `share` of the pictures for testing, at least one and never all: `(train, held_out)`.
///
/// Which ones depends on the names and the seed alone, so that another order or another run holds out the same.
pub fn hold_out(images: Vec<Rgb>, share: f64, seed: u64) -> Result<(Vec<Rgb>, Vec<Rgb>), Failure> {
    let sides = held_out(&images.iter().map(|image| &*image.name).collect::<Vec<_>>(), share, seed)?;
    let (mut train, mut held) = (Vec::new(), Vec::new());
    for (image, side) in images.into_iter().zip(sides) {
        if side { held.push(image) } else { train.push(image) }
    }
    Ok((train, held))
}

/// For each item, known by its group's name, whether it is held out: all of a group or none of it.
///
/// Groups are taken by the hash of name and seed until `share` of the items is reached, at least one group and never all.
pub fn held_out(groups: &[&str], share: f64, seed: u64) -> Result<Vec<bool>, Failure> {
    let count = groups.len();
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for group in groups {
        *sizes.entry(group).or_default() += 1;
    }
    if sizes.len() < 2 {
        let why = if count > 1 { format!(", all of one group, `{}`", groups[0]) } else { String::new() };
        return Err(Failure::new(format!("holding out a part takes at least 2 pictures, got {count}{why}")));
    }
    if !(0.0..=1.0).contains(&share) {
        return Err(Failure::new(format!("the share to hold out must be between 0 and 1, got {share}")));
    }
    let wanted = ((count as f64 * share).round() as usize).clamp(1, count - 1);
    let mut order: Vec<(u64, &str)> = sizes.keys().map(|&group| (hash_name(group, seed), group)).collect();
    order.sort_unstable();
    // The last one stays, whatever the share.
    order.pop();
    let mut held = 0;
    let chosen: BTreeSet<&str> = order
        .into_iter()
        .map(|(_, group)| group)
        .take_while(|&group| {
            let more = held < wanted;
            held += sizes.get(group).copied().unwrap_or_default();
            more
        })
        .collect();
    Ok(groups.iter().map(|group| chosen.contains(group)).collect())
}

#[cfg(test)]
mod tests;
