//! Pictures without files: landscapes and still lifes drawn from a seed, with smooth parts and with texture; and all that is known about them.
//!
//! Only `+ − × ÷`, `sqrt` and `floor` of f32 are used, which IEEE 754 fixes, so that a seed means the same picture everywhere.

mod colour;
mod maps;
mod noise;
mod scene;
mod shapes;
mod surface;
mod words;

use super::images::Rgb;
use super::random::SplitMix64;
use colour::Colour;
use scene::Scene;

pub use maps::{SceneBox, SceneMaps};
pub use surface::{Class, Surface};

/// Draws the scene of `seed`, `size` pixels wide and high.
pub fn render(seed: u64, size: usize) -> Rgb {
    let scene = Scene::random(&mut SplitMix64::new(seed));
    let (picture, _) = Picture::draw(&scene, size);
    rgb(seed, &picture)
}

/// Draws the scene of `seed` as [`render`] does, and keeps what each pixel shows and how far away it is.
pub fn render_all(seed: u64, size: usize) -> SceneMaps {
    let scene = Scene::random(&mut SplitMix64::new(seed));
    let (picture, outlined) = Picture::draw(&scene, size);
    let surfaces = picture.spots.iter().map(|spot| spot.surface).collect();
    SceneMaps::new(&scene, rgb(seed, &picture), surfaces, &outlined)
}

fn rgb(seed: u64, picture: &Picture) -> Rgb {
    let pixels = picture.spots.iter().flat_map(|spot| spot.colour).map(|channel| channel.clamp(0.0, 1.0)).collect();
    Rgb { name: format!("scene-{seed}"), width: picture.size, height: picture.size, pixels }
}

/// What there is at a pixel.
#[derive(Clone, Copy)]
struct Spot {
    colour: Colour,
    /// Of what covers at least half of the pixel.
    surface: Surface,
}

/// Pixels in raster order.
struct Picture {
    size: usize,
    pixel: f32,
    spots: Vec<Spot>,
}

impl Picture {
    /// The one way through a scene's geometry, for colours and for everything else; with it the number of pixels inside each thing's outline.
    fn draw(scene: &Scene, size: usize) -> (Self, Vec<usize>) {
        let pixel = 1.0 / size as f32;
        let mut picture = Self { size, pixel, spots: Vec::with_capacity(size * size) };
        let hills: Vec<[f32; 2]> = (0..size).map(|column| scene.hills((column as f32 + 0.5) * pixel)).collect();
        for row in 0..size {
            let y = (row as f32 + 0.5) * pixel;
            for (column, hills) in hills.iter().enumerate() {
                let (colour, surface) = scene.background((column as f32 + 0.5) * pixel, y, pixel, *hills);
                picture.spots.push(Spot { colour, surface });
            }
        }
        let things = scene.shapes.iter().zip(1..).map(|(shape, thing)| {
            scene.draw_shadow(shape, &mut picture);
            scene.draw(shape, thing, &mut picture)
        });
        let outlined = things.collect();
        (picture, outlined)
    }

    /// Changes the pixels of a rectangle; `paint` gets each one's middle.
    fn paint(&mut self, left_right: [f32; 2], top_bottom: [f32; 2], mut paint: impl FnMut(f32, f32, &mut Spot)) {
        // A cast saturates, so that what lies outside the picture is cut off.
        let range = |[from, to]: [f32; 2]| {
            ((from / self.pixel).floor() as usize).min(self.size)
                ..((to / self.pixel) as usize).saturating_add(1).min(self.size)
        };
        let (columns, rows, pixel) = (range(left_right), range(top_bottom), self.pixel);
        let lines = self.spots.chunks_exact_mut(self.size.max(1)).enumerate();
        for (row, line) in lines.skip(rows.start).take(rows.len()) {
            for (column, spot) in line.iter_mut().enumerate().skip(columns.start).take(columns.len()) {
                paint((column as f32 + 0.5) * pixel, (row as f32 + 0.5) * pixel, spot);
            }
        }
    }
}

#[cfg(test)]
mod tests;
