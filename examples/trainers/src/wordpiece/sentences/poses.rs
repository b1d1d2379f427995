//! People: where they are, how they stand, what they look like, and from where they are seen.

use super::{Words, shuffled};
use crate::common::failure::Failure;
use crate::common::random::hash_name;
use crate::wordpiece::special::{BINS, KINDS, value};

/// Pose tokens below are of kind `v0`, the others of kind `v1`.
const SPLIT: u32 = 512;

/// The greatest pose token that the form can say.
pub const MOST_POSE_TOKEN: u32 = SPLIT + BINS - 1;

/// Tokens of a body's pose: 4M's tokenizer has 8 heads.
pub const POSE_TOKENS: usize = 8;

/// Numbers that are said in bins between two bounds.
struct Numbers {
    word: &'static str,
    min: f64,
    max: f64,
}

/// The rotation of the whole body, as a matrix.
const GLOBAL: Numbers = Numbers { word: "global", min: -1.0, max: 1.0 };
/// SMPL's first components of shape.
const SHAPE: Numbers = Numbers { word: "shape", min: -3.0, max: 3.0 };
/// A weak-perspective camera: scale and two shifts.
const CAMERA: Numbers = Numbers { word: "camera", min: -1.0, max: 19.0 };

impl Numbers {
    /// Bins to one.
    fn scale(&self) -> f64 {
        f64::from(BINS - 1) / (self.max - self.min)
    }

    fn say(&self, numbers: &[f64]) -> Result<Vec<String>, Failure> {
        let bin = |&number: &f64| match number.is_nan() {
            true => Err(Failure::new(format!("a number of `{}` is NaN", self.word))),
            false => {
                let bin = number.clamp(self.min, self.max) * self.scale() - self.min * self.scale();
                Ok(value(0, bin.round_ties_even() as u32))
            }
        };
        core::iter::once(Ok(self.word.to_owned())).chain(numbers.iter().map(bin)).collect()
    }

    fn read<const N: usize>(&self, words: &mut Words<'_>) -> Result<[f64; N], Failure> {
        let mut numbers = [0.0; N];
        for number in &mut numbers {
            *number = self.min + f64::from(words.value(0)?) / self.scale();
        }
        Ok(numbers)
    }
}

/// A person.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// Left, upper, right and lower side, in shares of the picture.
    pub bounds: [f64; KINDS],
    /// The rotation of the whole body: a matrix, row by row.
    pub global: [f64; 9],
    /// The tokens of the joints' rotations.
    pub pose: [u32; POSE_TOKENS],
    /// The body's shape, said within ±3.
    pub shape: [f64; 10],
    /// The camera, said within −1 and 19.
    pub camera: [f64; 3],
}

/// The sentence of these people: `human v0=<x0> v1=<y0> v2=<x1> v3=<y1>` and then `pose`, `global`, `camera` and `shape` with their values, in the
/// order that the seed chooses for each, or in this one; `none` where there is nobody. Numbers beyond their bounds are said as the bounds.
///
/// # Errors
/// A side outside 0..=1 or in the wrong order, a number that is NaN, a pose's token above [`MOST_POSE_TOKEN`].
pub fn people_text(people: &[Person], seed: Option<u64>) -> Result<String, Failure> {
    if people.is_empty() {
        return Ok("none".into());
    }
    let mut words: Vec<String> = Vec::new();
    for (place, Person { bounds, global, pose, shape, camera }) in people.iter().enumerate() {
        let [x0, y0, x1, y1] = *bounds;
        let ordered = |low: f64, high: f64| 0.0 <= low && low <= high && high <= 1.0;
        if !(ordered(x0, x1) && ordered(y0, y1)) {
            return Err(Failure::new(format!(
                "the box of person {place} should lie inside 0..1 with x0 <= x1 and y0 <= y1, got {x0}, {y0}, {x1}, {y1}"
            )));
        }
        words.push("human".into());
        let side = |(kind, &side): (usize, &f64)| value(kind, (side * f64::from(BINS - 1)).round_ties_even() as u32);
        words.extend(bounds.iter().enumerate().map(side));
        let token = |&token: &u32| match token {
            0..SPLIT => Ok(value(0, token)),
            SPLIT..=MOST_POSE_TOKEN => Ok(value(1, token - SPLIT)),
            _ => Err(Failure::new(format!(
                "a pose's token is {token}: at most {MOST_POSE_TOKEN} can be said; train the poses with fewer codes"
            ))),
        };
        let pose: Vec<String> =
            core::iter::once(Ok("pose".to_owned())).chain(pose.iter().map(token)).collect::<Result<_, _>>()?;
        let parts = [pose, GLOBAL.say(global)?, CAMERA.say(camera)?, SHAPE.say(shape)?];
        let mixed = |seed: u64| shuffled(&parts, hash_name("people", seed.wrapping_add(place as u64)));
        words.extend(seed.map_or_else(|| parts.to_vec(), mixed).into_iter().flatten());
    }
    Ok(words.join(" "))
}

/// The people of a sentence, in its order, with their numbers as the bins' places.
///
/// # Errors
/// Another form, a part that is missing or comes twice, or sides in the wrong order.
pub fn people_of(text: &str) -> Result<Vec<Person>, Failure> {
    let mut words = Words::new(text, "people");
    let mut people = Vec::new();
    if words.take_if("none") {
        return match words.peek() {
            None => Ok(people),
            Some(_) => Err(words.refuse("the end")),
        };
    }
    while words.peek().is_some() {
        people.push(person(&mut words)?);
    }
    match people.is_empty() {
        true => Err(words.refuse("`human` or `none`")),
        false => Ok(people),
    }
}

fn person(words: &mut Words<'_>) -> Result<Person, Failure> {
    if !words.take_if("human") {
        return Err(words.refuse("`human`"));
    }
    let mut bounds = [0.0; KINDS];
    for (kind, side) in bounds.iter_mut().enumerate() {
        *side = f64::from(words.value(kind)?) / f64::from(BINS - 1);
    }
    let [x0, y0, x1, y1] = bounds;
    if x0 > x1 || y0 > y1 {
        return Err(Failure::new(format!("no sentence of people: sides in the wrong order: {bounds:?}")));
    }
    let (mut pose, mut global, mut camera, mut shape) = (None, None, None, None);
    for _ in 0..4 {
        if pose.is_none() && words.take_if("pose") {
            pose = Some(tokens(words)?);
        } else if global.is_none() && words.take_if(GLOBAL.word) {
            global = Some(GLOBAL.read(words)?);
        } else if camera.is_none() && words.take_if(CAMERA.word) {
            camera = Some(CAMERA.read(words)?);
        } else if shape.is_none() && words.take_if(SHAPE.word) {
            shape = Some(SHAPE.read(words)?);
        } else {
            return Err(
                words.refuse("one of `pose`, `global`, `camera` and `shape` that this person does not have yet")
            );
        }
    }
    match (global, pose, shape, camera) {
        (Some(global), Some(pose), Some(shape), Some(camera)) => Ok(Person { bounds, global, pose, shape, camera }),
        // Four parts, each once, are all four.
        _ => Err(words.refuse("`pose`, `global`, `camera` and `shape`")),
    }
}

fn tokens(words: &mut Words<'_>) -> Result<[u32; POSE_TOKENS], Failure> {
    let mut tokens = [0; POSE_TOKENS];
    for token in &mut tokens {
        *token = match words.peek_value() {
            Some((0, found @ 0..SPLIT)) => found,
            Some((1, found)) => SPLIT + found,
            _ => return Err(words.refuse("a pose's token, `v0=0` to `v0=511` or `v1=0` to `v1=999`")),
        };
        words.take();
    }
    Ok(tokens)
}
