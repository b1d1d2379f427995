//! Things in a scene: their outline, their shading and what they are covered with.

use super::super::random::SplitMix64;
use super::colour::{Colour, Mood, mix, near, scale};
use super::noise::{octaves, step, value};
use super::surface::{Class, unit};

/// How much a box's faces bulge, and where its bevel begins and ends, from its rim inwards.
const BULGE: f32 = 0.22;
const BEVEL: [f32; 2] = [-0.12, -0.02];
/// How far a pyramid's edge stands out of its back.
const RIDGE: f32 = 0.8;

/// The outline of a thing.
#[derive(Clone, Copy)]
enum Outline {
    /// Shaded like a sphere.
    Disc,
    /// Half width over half height, turned by an angle of this cosine and sine.
    Rectangle { aspect: f32, cos: f32, sin: f32 },
    /// Two sides of a pyramid that meet in an edge this far to the right of the middle.
    Triangle { edge: f32 },
}

/// What a thing is covered with, in its own coordinates.
#[derive(Clone, Copy)]
enum Cover {
    Plain,
    Stripes { across: f32, along: f32 },
    Checks { per_side: f32 },
    Marble { fine: f32 },
    Speckles { fine: f32 },
}

/// A thing that stands on the ground; lengths are in pictures.
pub struct Shape {
    outline: Outline,
    cover: Cover,
    colours: [Colour; 2],
    gloss: f32,
    seed: u32,
    /// Its middle.
    pub x: f32,
    /// Its middle, downwards.
    pub y: f32,
    /// Half its height.
    pub radius: f32,
    /// Where it touches the ground.
    pub base: f32,
}

/// What a shape covers of a pixel, and how it looks there.
pub struct Sample {
    /// From 0, nothing, to 1, all of the pixel.
    pub coverage: f32,
    /// With light and shade.
    pub colour: Colour,
    /// How far it stands out towards the viewer from where it touches the ground, in its radii.
    pub relief: f32,
    /// Its direction: to the right, up, to the viewer.
    pub normal: [f32; 3],
}

/// How a shape is described.
#[derive(Clone, Copy, PartialEq)]
pub struct Look {
    /// Its first colour.
    pub colour: Colour,
    /// The other colour of a pattern.
    pub second: Colour,
    /// The pattern, or nothing.
    pub pattern: &'static str,
    /// Whether it gleams.
    pub shiny: bool,
}

impl Shape {
    /// A thing in the colours of a mood, standing at `base`.
    pub fn random(random: &mut SplitMix64, mood: &Mood, base: f32, radius: f32) -> Self {
        let outline = match random.below(5) {
            0 | 1 => Outline::Disc,
            2 | 3 => {
                // The half-angle formulas: a turn without sin and cos, whose last digits differ between systems.
                let t = random.uniform(-0.2, 0.2);
                Outline::Rectangle {
                    aspect: random.uniform(0.45, 1.5),
                    cos: (1.0 - t * t) / (1.0 + t * t),
                    sin: 2.0 * t / (1.0 + t * t),
                }
            }
            _ => Outline::Triangle { edge: random.uniform(-0.35, 0.35) },
        };
        let cover = match random.below(8) {
            0..=2 => Cover::Plain,
            3 => Cover::Stripes { across: random.uniform(1.0, 4.0), along: random.uniform(-3.0, 3.0) },
            4 => Cover::Checks { per_side: random.uniform(1.5, 4.0) },
            5 => Cover::Marble { fine: random.uniform(1.5, 5.0) },
            _ => Cover::Speckles { fine: random.uniform(6.0, 18.0) },
        };
        let first = random.below(mood.accents.len());
        let second = (first + 1 + random.below(mood.accents.len() - 1)) % mood.accents.len();
        let mut accent = |index: usize| near(mood.accents[index], random);
        let colours = [accent(first), accent(second)];
        let seed = random.next_u64() as u32;
        let gloss = random.uniform(0.0, 0.5);
        Self { outline, cover, colours, gloss, seed, x: random.uniform(0.08, 0.92), y: base - radius, radius, base }
    }

    /// What kind of thing it is.
    pub fn class(&self) -> Class {
        match self.outline {
            Outline::Disc => Class::Ball,
            Outline::Rectangle { .. } => Class::Box,
            Outline::Triangle { .. } => Class::Pyramid,
        }
    }

    /// How it is described.
    pub fn look(&self) -> Look {
        let pattern = match self.cover {
            Cover::Plain => "",
            Cover::Stripes { .. } => "striped",
            Cover::Checks { .. } => "checked",
            Cover::Marble { .. } => "marbled",
            Cover::Speckles { .. } => "speckled",
        };
        // Only balls gleam.
        let shiny = matches!(self.outline, Outline::Disc) && self.gloss > 0.3;
        Look { colour: self.colours[0], second: self.colours[1], pattern, shiny }
    }

    /// Half the width of its surroundings, to know which pixels to ask for.
    pub fn reach(&self) -> f32 {
        match self.outline {
            Outline::Disc | Outline::Triangle { .. } => self.radius * 1.05,
            Outline::Rectangle { aspect, .. } => self.radius * (aspect * aspect + 1.0).sqrt() * 1.05,
        }
    }

    /// Half the width where it touches the ground.
    pub fn foot(&self) -> f32 {
        match self.outline {
            Outline::Disc => self.radius * 0.75,
            Outline::Rectangle { aspect, .. } => self.radius * aspect,
            Outline::Triangle { .. } => self.radius,
        }
    }

    /// How it looks at a point, in a picture whose pixels have this side; `light` points to the sun.
    pub fn sample(&self, x: f32, y: f32, pixel: f32, light: [f32; 3]) -> Sample {
        // Own coordinates: −1..=1 from one side to the other.
        let (a, b) = ((x - self.x) / self.radius, (y - self.y) / self.radius);
        let blur = pixel / self.radius;
        let inside = |distance: f32| (0.5 - distance / blur).clamp(0.0, 1.0);
        match self.outline {
            Outline::Disc => {
                let squared = a * a + b * b;
                let coverage = inside(squared.sqrt() - 1.0);
                let z = (1.0 - squared).max(0.0).sqrt();
                let lit = (a * light[0] + b * light[1] + z * light[2]).max(0.0);
                // The mirror direction of the eye, which looks along z.
                let shine = (2.0 * z * lit - light[2]).max(0.0);
                let (shine2, bulge) = (shine * shine, 1.0 / (0.45 + 0.55 * z));
                let gleam = self.gloss * shine2 * shine2 * shine2 * shine2;
                let colour = scale(self.cover(a * bulge, b * bulge, blur * bulge), 0.34 + 0.78 * lit);
                Sample { coverage, colour: mix(colour, [1.0; 3], gleam), relief: z, normal: unit([a, -b, z]) }
            }
            Outline::Rectangle { aspect, cos, sin } => {
                let (u, v) = (a * cos + b * sin, b * cos - a * sin);
                let (over_u, over_v) = (u.abs() - aspect, v.abs() - 1.0);
                let rim = over_u.max(over_v);
                // A bevel: the sides that face the light are bright, the others dark.
                let facing = if over_u > over_v { u.signum() * light[0] } else { v.signum() * light[1] };
                let slope = step(BEVEL[0], BEVEL[1], rim);
                let bevel = slope * facing * 0.45;
                let shade = 0.82 + BULGE * (light[0] * u + light[1] * v) + bevel;
                // As it is shaded: a face that bulges a little and whose rim falls off, ever steeper, to 45 degrees.
                let (side_u, side_v) =
                    if over_u > over_v { (u.signum() * slope, 0.0) } else { (0.0, v.signum() * slope) };
                let (lean_u, lean_v) = (BULGE * u + side_u, BULGE * v + side_v);
                let width = BEVEL[1] - BEVEL[0];
                let t = ((rim - BEVEL[0]) / width).clamp(0.0, 1.0);
                let fall = width * t * t * t * (1.0 - 0.5 * t) + (rim - BEVEL[1]).max(0.0);
                Sample {
                    coverage: inside(rim),
                    colour: scale(self.cover(u, v, blur), shade.max(0.1)),
                    relief: -0.5 * BULGE * (u * u + v * v) - fall,
                    normal: unit([lean_u * cos - lean_v * sin, -(lean_u * sin + lean_v * cos), 1.0]),
                }
            }
            Outline::Triangle { edge } => {
                // Half as wide at height b as it is deep below the tip, and 0.894 = 2 / √5 makes a distance of the difference.
                let half = (b + 1.0) * 0.5;
                let rim = ((a.abs() - half) * 0.894).max(b - 1.0);
                let side = ((a - edge * half) / blur + 0.5).clamp(0.0, 1.0);
                let shade = if light[0] > 0.0 { 0.62 + 0.46 * side } else { 1.08 - 0.46 * side };
                // How far from the outline, and how wide the side is at half width 1; negative on the left.
                let (far, lean) = if a > edge * half { (half - a, 1.0 - edge) } else { (half + a, -(1.0 + edge)) };
                let steep = RIDGE / lean;
                Sample {
                    coverage: inside(rim),
                    colour: scale(self.cover(a, b, blur), shade * (1.03 - 0.12 * b)),
                    relief: far * steep.abs() - RIDGE,
                    normal: unit([steep, 0.5 * steep.abs(), 1.0]),
                }
            }
        }
    }

    /// The cover's colour; `blur` is the side of a pixel, and patterns finer than that fade to their mean.
    fn cover(&self, u: f32, v: f32, blur: f32) -> Colour {
        let [first, second] = self.colours;
        match self.cover {
            Cover::Plain => scale(first, 0.97 + 0.06 * value(u * 9.0, v * 9.0, self.seed)),
            Cover::Stripes { across, along } => {
                mix(first, second, 0.5 + 0.5 * wave(u * across + v * along, (across + along.abs()) * blur))
            }
            Cover::Checks { per_side } => mix(
                first,
                second,
                0.5 + 0.5 * wave(u * per_side, per_side * blur) * wave(v * per_side, per_side * blur),
            ),
            Cover::Marble { fine } => {
                let bend = octaves(u * fine * 0.5, v * fine * 0.5, self.seed, 3);
                mix(first, second, octaves(u * fine + 4.0 * bend, v * fine, self.seed ^ 1, 4) * 1.5 - 0.25)
            }
            Cover::Speckles { fine } => mix(
                first,
                second,
                0.7 * step(0.56, 0.7, value(u * fine, v * fine, self.seed))
                    + 0.15 * value(u * fine * 3.0, v * fine * 3.0, self.seed ^ 2),
            ),
        }
    }
}

/// A square wave of period 1 between −1 and 1, whose edges are as wide as `blur`.
pub fn wave(x: f32, blur: f32) -> f32 {
    let triangle = (x - x.floor() - 0.5).abs() * 4.0 - 1.0;
    (triangle / (4.0 * blur).max(1e-6)).clamp(-1.0, 1.0) * (1.5 - 2.0 * blur).clamp(0.0, 1.0)
}
