//! Maps of rendered scenes, and made ones.

use super::edges::{THRESHOLDS, canny};
use super::masks::{Instances, masks};
use super::poses::{made_poses, made_vectors};
use super::stored::{Stored, Values};
use super::{Modality, depth};
use crate::common::failure::Failure;
use crate::common::images::Rgb;
use crate::common::scenes::{Class, SceneMaps, render, render_all};
use crate::data::drawn;
use crate::data::picture::Picture;

/// The maps of a modality of [`Source::Scenes`](crate::data::Source::Scenes), named as the scenes.
pub(super) fn of_scenes(
    modality: Modality,
    count: usize,
    size: usize,
    seed: u64,
    progress: bool,
) -> Result<Vec<Stored>, Failure> {
    let all = |draw: &(dyn Fn(u64, usize) -> Stored + Sync)| drawn(count, size, seed, progress, draw);
    let of_maps = |values: fn(&SceneMaps) -> Stored| all(&|scene, size| values(&render_all(scene, size)));
    match modality {
        Modality::Rgb => all(&|scene, size| colours(Picture::from(render(scene, size)), None)),
        Modality::Edges => all(&|scene, size| edges(&render(scene, size), None)),
        Modality::Normals => of_maps(normals),
        Modality::Depth => of_maps(distances),
        Modality::Segmentation { classes } if classes < Class::ALL.len() => Err(Failure::new(format!(
            "{modality}: rendered scenes have {} classes, give as many or more",
            Class::ALL.len()
        ))),
        Modality::Segmentation { .. } => of_maps(labels),
        Modality::Mask => {
            let parts = drawn(count, size, seed, progress, |scene, size| things(&render_all(scene, size)))?;
            Ok(parts.into_iter().flatten().collect())
        }
        Modality::Vector { dim } => Ok(made_vectors(dim, count, seed)),
        Modality::Pose => Ok(made_poses(count, seed)),
    }
}

/// A picture's colours, under its own or another name.
pub(super) fn colours(picture: Picture, name: Option<String>) -> Stored {
    let (width, height) = (picture.width(), picture.height());
    let (pixels, _) = picture.bytes().as_chunks::<3>();
    let bytes = (0..3).flat_map(|channel| pixels.iter().map(move |pixel| pixel[channel])).collect();
    Stored::new(name.unwrap_or_else(|| picture.name().to_owned()), [3, height, width], Values::Bytes(bytes))
}

/// The edges of a picture's grey values (ITU-R BT.601).
pub(super) fn edges(image: &Rgb, name: Option<String>) -> Stored {
    let (pixels, _) = image.pixels.as_chunks::<3>();
    let grey: Vec<f32> = pixels.iter().map(|[r, g, b]| 255.0 * (0.299 * r + 0.587 * g + 0.114 * b)).collect();
    let found = canny(&grey, image.width, image.height, THRESHOLDS);
    let bytes = found.into_iter().map(|edge| if edge { 255 } else { 0 }).collect();
    Stored::new(name.unwrap_or_else(|| image.name.clone()), [1, image.height, image.width], Values::Bytes(bytes))
}

fn of_scene(maps: &SceneMaps, channels: usize, values: Values) -> Stored {
    Stored::new(maps.rgb.name.clone(), [channels, maps.rgb.height, maps.rgb.width], values)
}

fn normals(maps: &SceneMaps) -> Stored {
    let axis = |axis: usize| maps.surfaces.iter().map(move |surface| surface.normal[axis]);
    of_scene(maps, 3, Values::Floats((0..3).flat_map(axis).collect()))
}

fn distances(maps: &SceneMaps) -> Stored {
    let metres: Vec<f32> = maps.surfaces.iter().map(|surface| surface.depth).collect();
    let (values, scale) = depth::standardised(&metres);
    Stored { scale: Some(scale), ..of_scene(maps, 1, Values::Floats(values)) }
}

fn labels(maps: &SceneMaps) -> Stored {
    of_scene(maps, 1, Values::Bytes(maps.surfaces.iter().map(|surface| surface.class as u8).collect()))
}

fn things(maps: &SceneMaps) -> Vec<Stored> {
    let numbers: Vec<u8> = maps.surfaces.iter().map(|surface| surface.thing).collect();
    masks(&maps.rgb.name, &Instances { numbers, width: maps.rgb.width })
}
