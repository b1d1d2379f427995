//! Pictures in: a directory or a tar archive of PNG and JPEG files becomes RGB values in `0..=1`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufReader, Cursor, ErrorKind, Read};
use std::path::Path;

use image::{DynamicImage, ImageReader, Limits};

use super::failure::{At, Failure};
use super::random::hash_name;
use super::terminal::{Count, Progress};

/// Larger files and wider or higher pictures are taken for damaged: a few bytes of header must not claim all memory.
const LARGEST_FILE: u64 = 256 << 20;
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
    let about = fs::metadata(path).at("read", path)?;
    let mut loader = Loader { visit: &mut visit, read: 0, broken: 0, progress: Progress::hidden() };
    if about.is_dir() {
        let files = picture_files(path)?;
        if progress {
            loader.progress = Progress::new("images", files.len() as u64, Count::Items);
        }
        for (done, name) in files.into_iter().enumerate() {
            let file = path.join(&name);
            let bytes = File::open(&file).and_then(read_bounded);
            loader.add(slashed(&name), bytes);
            loader.progress.tick(done as u64 + 1, "");
        }
    } else {
        if progress {
            loader.progress = Progress::new("images", about.len(), Count::Bytes);
        }
        load_tar(path, &mut loader)?;
    }
    loader.finish(path)
}

/// What the loading of a directory and of an archive have in common.
struct Loader<'a> {
    visit: &'a mut dyn FnMut(Rgb),
    read: usize,
    broken: usize,
    progress: Progress,
}

impl Loader<'_> {
    fn add(&mut self, name: String, bytes: std::io::Result<Vec<u8>>) {
        let decoded = bytes.map_err(image::ImageError::IoError).and_then(|bytes| decode(&bytes));
        match decoded {
            Ok(image) => {
                self.read += 1;
                (self.visit)(rgb(name, image));
            }
            Err(cause) => {
                self.broken += 1;
                self.progress.warn(format_args!("skipped `{name}`: {cause}"));
            }
        }
    }

    fn finish(self, path: &Path) -> Result<(), Failure> {
        let (read, broken) = (self.read, self.broken);
        if broken > 0 {
            self.progress.warn(format_args!("skipped {broken} of {} pictures in `{}`", read + broken, path.display()));
        }
        self.progress.done();
        if read == 0 {
            let place = path.display();
            return Err(Failure::new(format!(
                "`{place}` has no readable picture: looked for .png, .jpg and .jpeg files, also in its directories"
            )));
        }
        Ok(())
    }
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

fn slashed(name: &Path) -> String {
    name.iter().map(OsStr::to_string_lossy).collect::<Vec<_>>().join("/")
}

/// Paths relative to `root`. Linked directories are not entered, so that a link to a parent cannot loop.
fn picture_files(root: &Path) -> Result<Vec<std::path::PathBuf>, Failure> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).at("read", &directory)? {
            let entry = entry.at("read", &directory)?;
            let path = entry.path();
            if entry.file_type().at("read", &path)?.is_dir() {
                directories.push(path);
            } else if is_picture(&path) && path.is_file() {
                files.extend(path.strip_prefix(root).ok().map(Path::to_owned));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn load_tar(path: &Path, loader: &mut Loader<'_>) -> Result<(), Failure> {
    let mut archive = tar::Archive::new(BufReader::new(File::open(path).at("read", path)?));
    for entry in archive.entries().map_err(|cause| not_a_tar(path, &cause))? {
        let entry = entry.map_err(|cause| not_a_tar(path, &cause))?;
        let end = entry.raw_file_position().saturating_add(entry.size());
        let name = entry.path().map_err(|cause| not_a_tar(path, &cause))?.into_owned();
        if entry.header().entry_type().is_file() && is_picture(&name) {
            let size = entry.size();
            let bytes = read_bounded(entry);
            // The archive reader takes a missing end for an early end of the entry.
            if bytes.as_ref().is_ok_and(|bytes| (bytes.len() as u64) < size) {
                return Err(Failure::new(format!(
                    "`{}` is truncated inside `{}`: make or fetch it again",
                    path.display(),
                    name.display()
                )));
            }
            loader.add(slashed(&name), bytes);
            loader.progress.tick(end, "");
        }
    }
    Ok(())
}

/// What the archive reader objects to: the disk's own troubles keep their cause; its other messages quote the file's bytes, which are no text.
fn not_a_tar(path: &Path, cause: &std::io::Error) -> Failure {
    match cause.kind() {
        ErrorKind::Other | ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => {
            let refused = path.display();
            Failure::new(format!(
                "`{refused}` is neither a directory nor a whole, uncompressed tar archive: unpack it, or make or fetch it again"
            ))
        }
        _ => Failure::io("read", path, cause),
    }
}

fn read_bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(std::io::Error::other(format!("larger than {} MiB", LARGEST_FILE >> 20)));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> image::ImageResult<DynamicImage> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LARGEST_SIDE);
    limits.max_image_height = Some(LARGEST_SIDE);
    reader.limits(limits);
    reader.decode()
}

fn rgb(name: String, image: DynamicImage) -> Rgb {
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
    let count = images.len();
    if count < 2 {
        return Err(Failure::new(format!("holding out a part takes at least 2 pictures, got {count}")));
    }
    if !(0.0..=1.0).contains(&share) {
        return Err(Failure::new(format!("the share to hold out must be between 0 and 1, got {share}")));
    }
    let held = ((count as f64 * share).round() as usize).clamp(1, count - 1);
    let mut order: Vec<(u64, usize)> =
        images.iter().enumerate().map(|(index, image)| (hash_name(&image.name, seed), index)).collect();
    order.sort_unstable();
    let chosen: std::collections::HashSet<usize> = order.into_iter().take(held).map(|(_, index)| index).collect();
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (index, image) in images.into_iter().enumerate() {
        if chosen.contains(&index) { held_out.push(image) } else { train.push(image) }
    }
    Ok((train, held_out))
}

#[cfg(test)]
mod tests;
