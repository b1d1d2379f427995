//! What a point of a picture belongs to, how far away it is and which way it faces.

/// The kinds of what there is to see. The place in [`Class::ALL`] is the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// With its clouds.
    Sky,
    /// Behind a table or a floor.
    Wall,
    /// Near and far ones.
    Hills,
    /// Ground.
    Grass,
    /// Ground.
    Sand,
    /// Ground.
    Snow,
    /// A floor, a table or a pavement.
    Tiles,
    /// The sea.
    Water,
    /// A wooden table.
    Planks,
    /// A thing.
    Ball,
    /// A thing.
    Box,
    /// A thing.
    Pyramid,
}

impl Class {
    /// All classes by label.
    pub const ALL: [Self; 12] = [
        Self::Sky,
        Self::Wall,
        Self::Hills,
        Self::Grass,
        Self::Sand,
        Self::Snow,
        Self::Tiles,
        Self::Water,
        Self::Planks,
        Self::Ball,
        Self::Box,
        Self::Pyramid,
    ];

    /// In a lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sky => "sky",
            Self::Wall => "wall",
            Self::Hills => "hills",
            Self::Grass => "grass",
            Self::Sand => "sand",
            Self::Snow => "snow",
            Self::Tiles => "tiles",
            Self::Water => "water",
            Self::Planks => "planks",
            Self::Ball => "ball",
            Self::Box => "box",
            Self::Pyramid => "pyramid",
        }
    }
}

/// What is seen at a pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surface {
    /// What it belongs to.
    pub class: Class,
    /// Which thing, from 1 on and from the farthest to the nearest; 0 for none.
    pub thing: u8,
    /// The distance along the viewing axis, in metres or about.
    pub depth: f32,
    /// Of length 1: to the right, up, to the viewer.
    pub normal: [f32; 3],
}

/// How far the ground's vanishing line is above its end, in pictures: the ground ends at a distance.
pub const RISE: f32 = 0.06;

/// How far the sky is. A true one would leave the ground no share of the range of distances.
const SKY: f32 = 50.0;

/// A camera that looks level, one picture wide at a distance of 1.
#[derive(Clone, Copy)]
pub struct View {
    /// Where the ground ends, from the top.
    pub horizon: f32,
    /// Its height above the ground, in metres.
    pub eye: f32,
}

impl View {
    /// The distance of the ground that is seen at height `y`: similar triangles of the eye's height and of the point's depression.
    pub fn ground_depth(self, y: f32) -> f32 {
        self.eye / (y - self.horizon + RISE)
    }

    /// Level ground.
    pub fn ground(self, class: Class, y: f32) -> Surface {
        Surface { class, thing: 0, depth: self.ground_depth(y), normal: [0.0, 1.0, 0.0] }
    }

    /// A wall at the end of the ground.
    pub fn wall(self) -> Surface {
        Surface { class: Class::Wall, thing: 0, depth: self.eye / RISE, normal: [0.0, 0.0, 1.0] }
    }

    /// The sky: as if painted on a wall.
    pub fn sky(self) -> Surface {
        Surface { class: Class::Sky, thing: 0, depth: SKY, normal: [0.0, 0.0, 1.0] }
    }

    /// Hills that rise by 45 degrees, from `start` times the distance of the ground's end; seen at height `y` above that end.
    pub fn hill(self, start: f32, y: f32) -> Surface {
        let end = self.eye / RISE;
        // The ray climbs by this much a metre, the slope by 1 from a line that is the eye's height below the eye.
        let climb = self.horizon - RISE - y;
        let depth = (self.eye + start * end) / (1.0 - climb);
        Surface { class: Class::Hills, thing: 0, depth: depth.min(SKY), normal: unit([0.0, 1.0, 1.0]) }
    }
}

/// Of length 1.
pub fn unit([x, y, z]: [f32; 3]) -> [f32; 3] {
    let length = (x * x + y * y + z * z).sqrt();
    [x / length, y / length, z / length]
}
