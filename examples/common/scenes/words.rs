//! A scene in a sentence.

use super::super::random::SplitMix64;
use super::colour::{Colour, Place, mix};
use super::maps::SceneBox;
use super::scene::Scene;
use super::shapes::Shape;
use super::surface::Class;

/// Colours by name, as 0xRRGGBB.
const COLOURS: [(&str, u32); 14] = [
    ("red", 0xC0402F),
    ("orange", 0xE08048),
    ("yellow", 0xE8BC45),
    ("green", 0x4F7F45),
    ("teal", 0x3C8080),
    ("blue", 0x2F5C90),
    ("light blue", 0x8FB0D0),
    ("purple", 0x7A4A70),
    ("pink", 0xDC8AA8),
    ("brown", 0x7A4E32),
    ("black", 0x262A34),
    ("grey", 0x8A8E8E),
    ("white", 0xEFEAE0),
    ("beige", 0xD6C09A),
];

const NUMBERS: [&str; 8] = ["no", "one", "two", "three", "four", "five", "six", "seven"];

/// The nearest name.
fn colour_name(colour: Colour) -> &'static str {
    let distance = |hex: u32| -> f32 {
        let gap = |(shift, value): (u32, f32)| value - ((hex >> shift) & 0xFF) as f32 / 255.0;
        [16, 8, 0].into_iter().zip(colour).map(gap).map(|gap| gap * gap).sum()
    };
    let nearest = COLOURS.iter().min_by(|(_, a), (_, b)| distance(*a).total_cmp(&distance(*b)));
    nearest.map_or("", |(name, _)| name)
}

/// Adjectives of a thing; `detail` from 0 to 2 says how many.
fn adjectives(shape: &Shape, detail: usize) -> String {
    let look = shape.look();
    let (first, second) = (colour_name(look.colour), colour_name(look.second));
    let colours = if look.pattern.is_empty() || first == second || detail < 2 {
        first.to_owned()
    } else {
        format!("{first} and {second}")
    };
    match (detail, look.pattern) {
        (0, _) => colours,
        (_, "") if look.shiny => format!("shiny {colours}"),
        (_, "") => colours,
        (_, pattern) => format!("{colours} {pattern}"),
    }
}

fn with_article(words: &str) -> String {
    let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {words}")
}

fn counted(count: usize, adjectives: &str, class: Class) -> String {
    let ending = if class == Class::Box { "es" } else { "s" };
    match (count, NUMBERS.get(count)) {
        (1, _) => with_article(&format!("{adjectives} {}", class.name())),
        (_, Some(number)) => format!("{number} {adjectives} {}{ending}", class.name()),
        (_, None) => format!("many {adjectives} {}{ending}", class.name()),
    }
}

/// The things that are seen, from the nearest to the farthest, equal ones together; at most so many kinds.
fn things(scene: &Scene, boxes: &[SceneBox], detail: usize, most: usize) -> String {
    let mut kinds: Vec<(usize, String, Class)> = Vec::new();
    for seen in boxes.iter().rev() {
        let Some(shape) = scene.shapes.get(usize::from(seen.thing).wrapping_sub(1)) else { continue };
        let words = adjectives(shape, detail);
        match kinds.iter_mut().find(|(_, known, class)| *known == words && *class == seen.class) {
            Some((count, ..)) => *count += 1,
            None => kinds.push((1, words, seen.class)),
        }
    }
    let mut names: Vec<String> = kinds.iter().map(|(count, words, class)| counted(*count, words, *class)).collect();
    if names.len() > most {
        names.truncate(most);
        names.push("other things".into());
    }
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "nothing".into(),
    }
}

fn ground(scene: &Scene) -> &'static str {
    match (scene.ground(), scene.mood.place) {
        (Class::Tiles, Place::Table) => "a tiled table",
        (Class::Tiles, Place::Studio) => "a tiled floor",
        (Class::Tiles, _) => "paved ground",
        (Class::Planks, _) => "a wooden table",
        (Class::Water, _) => "the water",
        (other, _) => other.name(),
    }
}

fn behind(scene: &Scene, random: &mut SplitMix64) -> String {
    let hills = random.below(3) == 0;
    if scene.indoors() {
        let wall = colour_name(mix(scene.sky[0], scene.sky[1], 0.5));
        return format!("in front of {}", with_article(&format!("{wall} wall")));
    }
    let sky = scene.mood.sky_words;
    let sky = match scene.cloudy {
        cloudy if cloudy > 0.55 => with_article(&format!("cloudy {sky}")),
        cloudy if cloudy < 0.35 => with_article(&format!("clear {sky}")),
        _ => with_article(sky),
    };
    if hills { format!("before hills under {sky}") } else { format!("under {sky}") }
}

/// What the scene shows, in one of several forms that its seed chooses.
pub fn caption(scene: &Scene, boxes: &[SceneBox]) -> String {
    let mut random = SplitMix64::new(u64::from(scene.seed));
    let (form, detail, most) = (random.below(4), random.below(3), 2 + random.below(4));
    let (things, ground, behind) = (things(scene, boxes, detail, most), ground(scene), behind(scene, &mut random));
    let (stand, are) = if boxes.len() < 2 { ("stands", "is") } else { ("stand", "are") };
    match form {
        0 => format!("{things} on {ground} {behind}"),
        1 => format!("{things} {stand} on {ground} {behind}"),
        2 => format!("on {ground} {behind} there {are} {things}"),
        _ => format!("{behind} {things} {stand} on {ground}"),
    }
}
