//! What a scene is made of, and how each part looks and lies.

use super::super::random::SplitMix64;
use super::Picture;
use super::colour::{Colour, MOODS, Mood, Place, mix, near, scale};
use super::noise::{octaves, step, value};
use super::shapes::{Shape, wave};
use super::surface::{Class, RISE, Surface, View};

/// What lies on the ground.
#[derive(Clone, Copy)]
enum Ground {
    /// Grass, sand or snow: the finer, the shorter the blades.
    Rough {
        fine: f32,
    },
    Tiles {
        per_side: f32,
    },
    Water,
    Planks,
}

/// All that a picture shows; lengths are in pictures, y downwards.
pub struct Scene {
    /// Where the colours come from, and the words for them.
    pub mood: &'static Mood,
    pub sky: [Colour; 2],
    cloud: Colour,
    hill: Colour,
    soil: [Colour; 2],
    ground: Ground,
    /// The camera, and where the ground ends.
    pub view: View,
    horizon: f32,
    /// How much of the sky is clouded.
    pub cloudy: f32,
    /// Heights of the far and of the near hills.
    relief: [f32; 2],
    light: [f32; 3],
    pub seed: u32,
    /// From the farthest to the nearest.
    pub shapes: Vec<Shape>,
}

impl Scene {
    /// A scene by lot.
    pub fn random(random: &mut SplitMix64) -> Self {
        let mood = &MOODS[random.below(MOODS.len())];
        let indoors = matches!(mood.place, Place::Table | Place::Studio);
        let ground = match (mood.place, random.below(4)) {
            (Place::Sea, _) => Ground::Water,
            (Place::Table, 0..=2) => Ground::Planks,
            (Place::Table | Place::Studio, _) | (Place::Land, 0) => {
                Ground::Tiles { per_side: random.uniform(0.8, 2.0) }
            }
            (Place::Land, _) => Ground::Rough { fine: random.uniform(5.0, 16.0) },
        };
        let horizon = random.uniform(0.3, 0.62);
        let side = if random.below(2) == 0 { 1.0 } else { -1.0 };
        let (x, y, z) = (side * random.uniform(0.35, 0.8), random.uniform(-0.9, -0.5), random.uniform(0.5, 0.8));
        let length = (x * x + y * y + z * z).sqrt();
        let relief = if indoors { [0.0; 2] } else { [random.uniform(0.05, 0.3), random.uniform(-0.05, 0.14)] };
        let mut tone = |hex: u32| near(hex, random);
        let (sky, [cloud, hill], soil) = (mood.sky.map(&mut tone), mood.far.map(&mut tone), mood.ground.map(&mut tone));
        let cloudy = if indoors { 0.0 } else { random.uniform(0.2, 0.8) };
        let mut bases: Vec<f32> = (0..3 + random.below(6)).map(|_| random.uniform(horizon + 0.06, 0.98)).collect();
        bases.sort_by(f32::total_cmp);
        // Near things look larger.
        let shapes = bases.into_iter().map(|base| {
            let radius = random.uniform(0.55, 1.2) * (0.04 + 0.2 * (base - horizon));
            Shape::random(random, mood, base, radius)
        });
        let shapes = shapes.collect();
        let view = View { horizon, eye: if indoors { 0.5 } else { 1.5 } };
        Self {
            mood,
            view,
            sky,
            cloud,
            hill,
            soil,
            ground,
            horizon,
            cloudy,
            relief,
            light: [x / length, y / length, z / length],
            seed: random.next_u64() as u32,
            shapes,
        }
    }

    /// The skylines of the far and the near hills above a column, as y.
    pub fn hills(&self, x: f32) -> [f32; 2] {
        let rise = |layer: u32, scale: f32| octaves(x * scale + 0.5, 0.5, self.seed ^ layer, 5);
        let [far, near] = self.relief;
        [self.horizon - far * rise(17, 3.0), self.horizon - near * rise(31, 4.5)]
    }

    /// What the ground is made of.
    pub fn ground(&self) -> Class {
        match self.ground {
            Ground::Rough { .. } => self.mood.rough,
            Ground::Tiles { .. } => Class::Tiles,
            Ground::Water => Class::Water,
            Ground::Planks => Class::Planks,
        }
    }

    /// Whether there is a wall where the sky is elsewhere.
    pub fn indoors(&self) -> bool {
        self.cloudy == 0.0
    }

    /// How everything but the things looks at a point, and where it lies.
    pub fn background(&self, x: f32, y: f32, pixel: f32, [far, near]: [f32; 2]) -> (Colour, Surface) {
        if y >= self.horizon {
            return (self.soil(x, y), self.view.ground(self.ground(), y));
        }
        let mut surface = if self.indoors() { self.view.wall() } else { self.view.sky() };
        let mut colour = if y < far + pixel { self.sky_at(x, y) } else { self.hill };
        let haze = mix(self.hill, self.sky[1], 0.45);
        for (skyline, tone, fine, start) in [(far, haze, 14.0, 1.3), (near, self.hill, 26.0, 1.0)] {
            let coverage = ((y - skyline) / pixel + 0.5).clamp(0.0, 1.0);
            if coverage > 0.0 && skyline < self.horizon {
                // Woods and rock: rough near the top, misty near the foot.
                let rough = octaves(x * fine, y * fine * 1.6, self.seed ^ 5, 3) - 0.5;
                let foot = step(skyline, self.horizon + 0.02, y);
                colour = mix(colour, mix(scale(tone, 1.0 + 0.9 * rough), self.sky[1], 0.35 * foot), coverage);
                if coverage >= 0.5 {
                    surface = self.view.hill(start, y);
                }
            }
        }
        (colour, surface)
    }

    fn sky_at(&self, x: f32, y: f32) -> Colour {
        let height = y / self.horizon;
        let sky = mix(self.sky[0], self.sky[1], step(0.0, 1.05, height));
        let mottled = scale(sky, 0.985 + 0.03 * value(x * 5.0, y * 5.0, self.seed));
        if self.indoors() {
            // A wall: plaster, and light that falls off from the lamp.
            let distance = if self.light[0] > 0.0 { 1.0 - x } else { x };
            return scale(
                mottled,
                (1.06 - 0.22 * distance) * (0.96 + 0.08 * octaves(x * 22.0, y * 22.0, self.seed, 2)),
            );
        }
        // Clouds get flatter towards the horizon.
        let (u, v) = (x * 2.6, y * (4.0 + 5.0 * height));
        let thick = octaves(u, v, self.seed ^ 9, 5);
        let edge = 0.72 - 0.3 * self.cloudy;
        let cover = step(edge, edge + 0.22, thick);
        // Their lower sides are in their own shade.
        let shade = 1.0 - 0.3 * step(edge + 0.05, edge + 0.4, thick);
        mix(mottled, scale(self.cloud, shade), cover * 0.9)
    }

    fn soil(&self, x: f32, y: f32) -> Colour {
        let below = y - self.horizon;
        // One unit of ground is this small in the picture.
        let near = below + RISE;
        let (u, v) = ((x - 0.5) / near, 0.35 / near);
        // Texture far away is finer than a pixel and fades.
        let clear = step(0.0, 0.3, below);
        let [dark, bright] = self.soil;
        let patches = octaves(u * 0.7, v * 1.5, self.seed ^ 3, 3);
        let colour = match self.ground {
            Ground::Rough { fine } => {
                let blades = octaves(u * fine, v * fine * 0.6, self.seed ^ 4, 3) - 0.5;
                scale(mix(dark, bright, patches * 1.4 - 0.2), 1.0 + blades * (0.25 + 0.65 * clear))
            }
            Ground::Tiles { per_side } => {
                let blur = per_side * 0.006 / (near * near);
                let tiles = wave(u * per_side, blur) * wave(v * per_side * 2.0, blur);
                scale(mix(dark, bright, 0.5 + 0.5 * tiles), 0.9 + 0.2 * patches)
            }
            Ground::Water => {
                let swell = octaves(u * 1.4, v * 9.0, self.seed ^ 6, 4);
                let glint = step(0.62, 0.8, value(u * 5.0, v * 24.0, self.seed ^ 8)) * clear;
                mix(mix(dark, bright, swell * 1.6 - 0.3), self.sky[1], 0.25 * (1.0 - clear) + 0.5 * glint)
            }
            Ground::Planks => {
                let board = (u * 1.6).floor();
                let grain = octaves(u * 26.0, v * 1.5 + board * 7.3, self.seed ^ 7, 3);
                let gap = step(0.47, 0.5, (u * 1.6 - board - 0.5).abs());
                scale(mix(dark, bright, grain * 1.2 - 0.1 + 0.15 * value(board, 0.5, self.seed)), 1.0 - 0.4 * gap)
            }
        };
        // The ground, too, is misty at the horizon.
        mix(scale(colour, 0.9 + 0.14 * clear), self.sky[1], 0.35 * (1.0 - step(0.0, 0.16, below)))
    }

    /// A soft shadow on the ground, away from the light.
    pub fn draw_shadow(&self, shape: &Shape, picture: &mut Picture) {
        let (wide, high) = (shape.foot() * 1.5 + shape.radius * 0.3, shape.radius * 0.42);
        let (x, y) = (shape.x - self.light[0] * shape.radius * 0.9, shape.base - shape.radius * 0.03);
        let top = (y - high).max(self.horizon);
        picture.paint([x - wide, x + wide], [top, y + high], |px, py, spot| {
            let (a, b) = ((px - x) / wide, (py - y) / high);
            spot.colour = scale(spot.colour, 1.0 - 0.6 * (1.0 - step(0.25, 1.0, (a * a + b * b).sqrt())));
        });
    }

    /// The thing number `thing`, from 1 on; the number of pixels inside its outline.
    pub fn draw(&self, shape: &Shape, thing: u8, picture: &mut Picture) -> usize {
        let (reach, pixel) = (shape.reach() + picture.pixel, picture.pixel);
        let foot = self.view.ground_depth(shape.base);
        let mut outlined = 0;
        picture.paint([shape.x - reach, shape.x + reach], [shape.y - reach, shape.y + reach], |x, y, spot| {
            let sample = shape.sample(x, y, pixel, self.light);
            if sample.coverage > 0.0 {
                spot.colour = mix(spot.colour, sample.colour, sample.coverage);
            }
            if sample.coverage >= 0.5 {
                outlined += 1;
                // A radius in the picture is this long at the thing's distance.
                let depth = foot - sample.relief * shape.radius * foot;
                spot.surface = Surface { class: shape.class(), thing, depth, normal: sample.normal };
            }
        });
        outlined
    }
}
