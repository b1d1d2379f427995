//! All that is known about a scene, in register.

use super::super::images::Rgb;
use super::scene::Scene;
use super::surface::{Class, Surface};
use super::words::caption;

/// A thing's class and the smallest upright box around its visible pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SceneBox {
    /// Its number in [`Surface::thing`].
    pub thing: u8,
    /// What it is.
    pub class: Class,
    /// Left, top, right and bottom, in shares of the picture.
    pub corners: [f64; 4],
}

/// A scene in all modalities.
#[derive(Clone, Debug, PartialEq)]
pub struct SceneMaps {
    /// As [`render`](super::render) draws it.
    pub rgb: Rgb,
    /// What each pixel shows, in raster order.
    pub surfaces: Vec<Surface>,
    /// Around every thing that is seen, from the farthest to the nearest.
    pub boxes: Vec<SceneBox>,
    /// The scene in a sentence of lower-case words.
    pub caption: String,
    /// Where the ground begins, from the top, in shares of the picture.
    pub horizon: f64,
    /// The share of the picture that things cover.
    pub covered: f64,
    /// The share of the things' outlines that other things hide; what lies outside the picture does not count.
    pub hidden: f64,
}

impl SceneMaps {
    /// `outlined`: the pixels inside each thing's outline, seen or not.
    pub(super) fn new(scene: &Scene, rgb: Rgb, surfaces: Vec<Surface>, outlined: &[usize]) -> Self {
        let size = rgb.width;
        let mut extents: Vec<Option<[usize; 4]>> = vec![None; scene.shapes.len()];
        let mut seen = 0;
        for (at, surface) in surfaces.iter().enumerate() {
            let (x, y) = (at % size, at / size);
            if let Some(extent) = usize::from(surface.thing).checked_sub(1).and_then(|thing| extents.get_mut(thing)) {
                seen += 1;
                let [left, top, right, bottom] = extent.unwrap_or([x, y, x, y]);
                *extent = Some([left.min(x), top.min(y), right.max(x), bottom.max(y)]);
            }
        }
        let boxes: Vec<SceneBox> = (1..)
            .zip(&scene.shapes)
            .zip(&extents)
            .filter_map(|((thing, shape), extent)| {
                let [left, top, right, bottom] = (*extent)?;
                let corners = [left, top, right + 1, bottom + 1].map(|side| side as f64 / size as f64);
                Some(SceneBox { thing, class: shape.class(), corners })
            })
            .collect();
        let outlined: usize = outlined.iter().sum();
        let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        Self {
            caption: caption(scene, &boxes),
            horizon: f64::from(scene.view.horizon),
            covered: share(seen, surfaces.len()),
            hidden: share(outlined - seen, outlined),
            rgb,
            surfaces,
            boxes,
        }
    }
}
