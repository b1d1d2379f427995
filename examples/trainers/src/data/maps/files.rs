//! Maps from files: which pictures of a folder are of a modality, and what their pixels mean.

use std::path::Path;

use image::DynamicImage;

use super::masks::{Instances, masks};
use super::stored::{Stored, Values};
use super::{Modality, Opening, depth, numbers, scenes};
use crate::common::failure::Failure;
use crate::common::folder::any_file;
use crate::common::images::{rgb, visit_images, visit_pictures};
use crate::data::picture::Picture;

/// Endings of a picture's maps, before the dot.
const ENDINGS: [&str; 6] = ["_rgb", "_depth_mm", "_normal", "_sem", "_inst", "_mask"];

/// Largest share of a normal map's pixels whose vectors may be far from length 1: more, and the picture is no normal map.
const LARGEST_ODD_SHARE: f64 = 0.2;

/// The maps of a modality under a path.
pub(super) fn of_path(modality: Modality, path: &Path, opening: &Opening) -> Result<Vec<Stored>, Failure> {
    let progress = opening.progress;
    let mut all = Vec::new();
    match modality {
        Modality::Rgb => visit_images(path, progress, |image| {
            let name = known_as(&image.name);
            all.push(scenes::colours(Picture::from(image), Some(name)));
        })?,
        Modality::Edges => visit_images(path, progress, |image| {
            let name = known_as(&image.name);
            all.push(scenes::edges(&image, Some(name)));
        })?,
        Modality::Normals => {
            let files = Files::new(path, "_normal", &["png", "jpg", "jpeg"])?;
            files.visit(progress, |name, image| normals(name, image).map(|map| all.push(map)))?;
        }
        Modality::Depth => {
            let files = Files::new(path, "_depth_mm", &["png"])?;
            files.visit(progress, |name, image| distances(name, image).map(|map| all.push(map)))?;
        }
        Modality::Segmentation { .. } => {
            let files = Files::new(path, "_sem", &["png"])?;
            files.visit(progress, |name, image| {
                let (bytes, width, height) = grey(image)?;
                all.push(Stored::new(name, [1, height, width], Values::Bytes(bytes)));
                Ok(())
            })?;
        }
        Modality::Mask => {
            let files = Files::new(path, "_inst", &["png"])?;
            files.visit(progress, |name, image| {
                let (numbers, width, _) = grey(image)?;
                all.extend(masks(&name, &Instances { numbers, width }));
                Ok(())
            })?;
        }
        Modality::Vector { dim } => all = numbers::vectors(path, opening.tensor.as_deref(), dim)?,
        Modality::Pose => all = numbers::poses(path, opening.tensor.as_deref())?,
    }
    Ok(all)
}

/// A map's name: its file's, without the extension and the modality's ending.
fn known_as(file: &str) -> String {
    let stem = match file.rsplit_once('.') {
        Some((stem, extension)) if !extension.contains('/') => stem,
        _ => file,
    };
    ENDINGS.iter().find_map(|ending| stem.strip_suffix(ending)).unwrap_or(stem).to_owned()
}

/// The pictures of a folder that are of a modality: those with its ending, or all where none has it.
struct Files<'a> {
    path: &'a Path,
    ending: Option<&'a str>,
    extensions: &'a [&'a str],
}

impl<'a> Files<'a> {
    fn new(path: &'a Path, ending: &'a str, extensions: &'a [&'a str]) -> Result<Self, Failure> {
        let files = Self { path, ending: Some(ending), extensions };
        let named = any_file(path, &|name| files.has(name))?;
        Ok(Self { ending: named.then_some(ending), ..files })
    }

    fn has(&self, name: &Path) -> bool {
        let extension = name.extension().unwrap_or_default();
        let stem = name.file_stem().unwrap_or_default().to_string_lossy();
        self.extensions.iter().any(|known| extension.eq_ignore_ascii_case(known))
            && !stem.starts_with('.')
            && self.ending.is_none_or(|ending| stem.ends_with(ending))
    }

    fn visit(
        &self,
        progress: bool,
        mut visit: impl FnMut(String, DynamicImage) -> Result<(), Wrong>,
    ) -> Result<(), Failure> {
        let looked_for = format!("{}.{} files", self.ending.unwrap_or("*"), self.extensions.join("/."));
        visit_pictures(self.path, progress, &looked_for, &|name| self.has(name), &mut |name, image| {
            let (size, kind) = ([image.width(), image.height()], image.color());
            visit(known_as(&name), image).map_err(|Wrong(expected)| {
                let place = self.path.display();
                let [width, height] = size;
                Failure::new(format!(
                    "`{name}` of `{place}`: expected {expected}, got {width}x{height} pixels of {kind:?}"
                ))
            })
        })
    }
}

/// What a picture should have been.
struct Wrong(&'static str);

/// Pixels, columns and rows of an 8-bit grey picture. Others are refused: labels that were colours or 16 bits would be changed by a conversion.
fn grey(image: DynamicImage) -> Result<(Vec<u8>, usize, usize), Wrong> {
    match image {
        DynamicImage::ImageLuma8(pixels) if pixels.width() > 0 && pixels.height() > 0 => {
            let (width, height) = (pixels.width() as usize, pixels.height() as usize);
            Ok((pixels.into_raw(), width, height))
        }
        _ => Err(Wrong("8-bit grey pixels, each a number")),
    }
}

fn normals(name: String, image: DynamicImage) -> Result<Stored, Wrong> {
    let image = rgb(name, image);
    let (pixels, _) = image.pixels.as_chunks::<3>();
    // As of 8 bits: n = v / 127.5 − 1.
    let vectors: Vec<[f32; 3]> = pixels.iter().map(|pixel| pixel.map(|value| 2.0 * value - 1.0)).collect();
    let odd = |[x, y, z]: &&[f32; 3]| !(0.5..1.5).contains(&(x * x + y * y + z * z).sqrt());
    if vectors.is_empty() || vectors.iter().filter(odd).count() as f64 > LARGEST_ODD_SHARE * vectors.len() as f64 {
        return Err(Wrong("a normal map, whose pixels are v = 127.5 (n + 1) of vectors n of length 1"));
    }
    let mut values: Vec<f32> = (0..3).flat_map(|axis| vectors.iter().map(move |vector| vector[axis])).collect();
    super::stored::normalize(&mut values, vectors.len());
    Ok(Stored::new(image.name, [3, image.height, image.width], Values::Floats(values)))
}

fn distances(name: String, image: DynamicImage) -> Result<Stored, Wrong> {
    let DynamicImage::ImageLuma16(pixels) = image else {
        return Err(Wrong("16-bit grey pixels, each a distance in millimetres"));
    };
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    let metres = pixels.into_raw().into_iter().map(|value| f32::from(value) / 1000.0).collect();
    let filled = depth::filled(metres, width).ok_or(Wrong("at least one known distance, as 0 stands for unknown"))?;
    let (values, scale) = depth::standardised(&filled);
    Ok(Stored { scale: Some(scale), ..Stored::new(name, [1, height, width], Values::Floats(values)) })
}
