//! Colours, and moods: sets of colours that go together.

use super::super::random::SplitMix64;
use super::surface::Class;

/// Red, green and blue in `0..=1`, as stored in a picture.
pub type Colour = [f32; 3];

/// `a` for `t = 0`, `b` for `t = 1`.
pub fn mix(a: Colour, b: Colour, t: f32) -> Colour {
    [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t]
}

/// Brighter or darker by a factor.
pub fn scale(a: Colour, by: f32) -> Colour {
    a.map(|channel| channel * by)
}

/// A colour close to one given as 0xRRGGBB.
pub fn near(hex: u32, random: &mut SplitMix64) -> Colour {
    let brighter = random.uniform(0.9, 1.1);
    [16, 8, 0].map(|shift| (((hex >> shift) & 0xFF) as f32 / 255.0 * brighter * random.uniform(0.94, 1.06)).min(1.0))
}

/// What surrounds the things in a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Grass, sand or tiles under the sky.
    Land,
    /// Water under the sky.
    Sea,
    /// A table, mostly of wood, in front of a wall.
    Table,
    /// A tiled floor in front of a wall.
    Studio,
}

/// Place and time of day.
pub struct Mood {
    /// What there is besides colours.
    pub place: Place,
    /// The sky above, and at the horizon.
    pub sky: [u32; 2],
    /// Clouds, and the far hills.
    pub far: [u32; 2],
    /// Two tones of the ground.
    pub ground: [u32; 2],
    /// Things on the ground.
    pub accents: [u32; 6],
    /// The ground where it is neither tiled nor water nor wood.
    pub rough: Class,
    /// The sky in words; not asked for indoors.
    pub sky_words: &'static str,
}

/// What scenes choose from.
pub static MOODS: [Mood; 8] = [
    // A summer day on a meadow.
    Mood {
        place: Place::Land,
        sky: [0x3F7FC4, 0xC3DFF0],
        far: [0xFFFFFF, 0x5E7F78],
        ground: [0x5F8A3A, 0x9DB45A],
        accents: [0xC8452F, 0xE8B23A, 0xF1ECE0, 0x2F5C8A, 0x7A4A2E, 0xD97FA0],
        rough: Class::Grass,
        sky_words: "blue sky",
    },
    // The sun goes down over sand.
    Mood {
        place: Place::Land,
        sky: [0x46437A, 0xF4A868],
        far: [0xF7C7A0, 0x7A4B5E],
        ground: [0xA9714B, 0xD9A66F],
        accents: [0x7E2E3A, 0xF2D7A0, 0x2E4A5C, 0xC96B3C, 0x4F6B4A, 0xE9E1D2],
        rough: Class::Sand,
        sky_words: "evening sky",
    },
    // Rain is coming.
    Mood {
        place: Place::Land,
        sky: [0x74838F, 0xC9D0D2],
        far: [0xE3E7E8, 0x566670],
        ground: [0x5C6650, 0x8C8F74],
        accents: [0x8A3B32, 0xC7A34D, 0x39566B, 0xB9BDB5, 0x6B5440, 0x4D7A70],
        rough: Class::Grass,
        sky_words: "grey sky",
    },
    // A clear night.
    Mood {
        place: Place::Land,
        sky: [0x0E1733, 0x43507E],
        far: [0x5D6A96, 0x1B2444],
        ground: [0x1F2C44, 0x3D4C5F],
        accents: [0xE0C268, 0x8C4A6A, 0x4F8FA8, 0xB7BFD6, 0x6A4A3A, 0x3C6E5A],
        rough: Class::Grass,
        sky_words: "night sky",
    },
    // The sea at noon.
    Mood {
        place: Place::Sea,
        sky: [0x2F86C9, 0xD7EEF6],
        far: [0xFFFFFF, 0x6E93A8],
        ground: [0x1D6A8A, 0x5FB0BB],
        accents: [0xE24B37, 0xF5F1E6, 0xF0B93C, 0x224A6E, 0xE98B5A, 0x3C8C6E],
        rough: Class::Sand,
        sky_words: "bright sky",
    },
    // A table in front of a wall.
    Mood {
        place: Place::Table,
        sky: [0xB7A58E, 0xD8C9B1],
        far: [0xE9DDC8, 0x9C866C],
        ground: [0x7A4E2D, 0xA8743F],
        accents: [0xB23A2E, 0xE5B845, 0x6D8A3C, 0x2F4858, 0xE8DFD0, 0x8C5A7A],
        rough: Class::Tiles,
        sky_words: "",
    },
    // Snow in the morning.
    Mood {
        place: Place::Land,
        sky: [0x8FB3DA, 0xF6DDD6],
        far: [0xFFF3EC, 0x8093B2],
        ground: [0xC7D5E6, 0xF2F5FA],
        accents: [0xB5423C, 0x2F5140, 0xE0A845, 0x3F5F8F, 0x7C5A45, 0xD9D2C8],
        rough: Class::Snow,
        sky_words: "morning sky",
    },
    // A studio with a blue-green wall.
    Mood {
        place: Place::Studio,
        sky: [0x2E6468, 0x6FA79F],
        far: [0x9CC7BD, 0x2A4F58],
        ground: [0xD9C3A5, 0xB99870],
        accents: [0xE07A4F, 0xF3E2C0, 0x7A3B4E, 0x20404A, 0xE9B85C, 0xA9C7B5],
        rough: Class::Tiles,
        sky_words: "",
    },
];
