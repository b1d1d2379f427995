//! Boxes around things.

use clap::ValueEnum;

use super::Words;
use crate::common::failure::Failure;
use crate::data::annotations::LabelledBox;
use crate::wordpiece::classes::Classes;
use crate::wordpiece::special::{BINS, KINDS, value};

/// A box, and how sure its finder is.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Where and what.
    pub place: LabelledBox,
    /// From 0 to 1; 1 where a person has drawn it.
    pub score: f64,
}

impl From<LabelledBox> for Detection {
    fn from(place: LabelledBox) -> Self {
        Self { place, score: 1.0 }
    }
}

/// Which box comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// The one whose upper left corner is nearest to the picture's.
    Distance,
    /// The largest.
    Area,
    /// The surest.
    Score,
}

/// Which boxes are said, in which order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxForm {
    /// Less sure ones are left out.
    pub threshold: f64,
    /// Of more, the surest are said.
    pub most: Option<usize>,
    /// In this order; equals stay in the order in which they came.
    pub order: Order,
}

impl Default for BoxForm {
    /// 4M's.
    fn default() -> Self {
        Self { threshold: 0.6, most: None, order: Order::Distance }
    }
}

/// The sentence of these boxes: `v0=… v1=… v2=… v3=… class` for each, empty where there is none.
///
/// A coordinate `x` becomes `round(999 x)`, halves to even, so that it comes back within 0.5 / 999.
///
/// # Errors
/// A coordinate outside 0..=1 or not a number, sides in the wrong order, a score that is not a number, an unknown class.
pub fn boxes_text(boxes: &[Detection], form: &BoxForm, classes: &Classes) -> Result<String, Failure> {
    for Detection { place: LabelledBox { class, x0, y0, x1, y1 }, score } in boxes {
        classes.check(class)?;
        let ordered = |low: f64, high: f64| 0.0 <= low && low <= high && high <= 1.0;
        if !(ordered(*x0, *x1) && ordered(*y0, *y1)) {
            return Err(Failure::new(format!(
                "the box of `{class}` should lie inside 0..1 with x0 <= x1 and y0 <= y1, got {x0}, {y0}, {x1}, {y1}"
            )));
        }
        if score.is_nan() {
            return Err(Failure::new(format!("the score of the box of `{class}` is not a number")));
        }
    }
    let mut kept: Vec<&Detection> = boxes.iter().filter(|found| found.score >= form.threshold).collect();
    let by_score = |left: &&Detection, right: &&Detection| right.score.total_cmp(&left.score);
    if let Some(most) = form.most.filter(|&most| most < kept.len()) {
        kept.sort_by(by_score);
        kept.truncate(most);
    }
    let area = |LabelledBox { x0, y0, x1, y1, .. }: &LabelledBox| (x1 - x0) * (y1 - y0);
    let distance = |LabelledBox { x0, y0, .. }: &LabelledBox| x0 * x0 + y0 * y0;
    match form.order {
        Order::Distance => kept.sort_by(|left, right| distance(&left.place).total_cmp(&distance(&right.place))),
        Order::Area => kept.sort_by(|left, right| area(&right.place).total_cmp(&area(&left.place))),
        Order::Score => kept.sort_by(by_score),
    }
    let bin = |(kind, side): (usize, f64)| value(kind, (side * f64::from(BINS - 1)).round_ties_even() as u32);
    let sentence = kept.into_iter().map(|Detection { place: LabelledBox { class, x0, y0, x1, y1 }, .. }| {
        let sides = [*x0, *y0, *x1, *y1].into_iter().enumerate().map(bin);
        sides.chain([class.clone()]).collect::<Vec<_>>().join(" ")
    });
    Ok(sentence.collect::<Vec<_>>().join(" "))
}

/// The boxes of a sentence, with coordinates `n / 999`.
///
/// # Errors
/// Another form, sides in the wrong order, an unknown class.
pub fn boxes_of(text: &str, classes: &Classes) -> Result<Vec<LabelledBox>, Failure> {
    let mut words = Words::new(text, "boxes");
    let mut boxes = Vec::new();
    while words.peek().is_some() {
        let mut sides = [0.0; KINDS];
        for (kind, side) in sides.iter_mut().enumerate() {
            *side = f64::from(words.value(kind)?) / f64::from(BINS - 1);
        }
        let [x0, y0, x1, y1] = sides;
        if x0 > x1 || y0 > y1 {
            let place = boxes.len();
            return Err(Failure::new(format!("no sentence of boxes: the sides of box {place} are in the wrong order")));
        }
        let mut class: Vec<&str> = Vec::new();
        while words.peek_value().is_none()
            && let Some(word) = words.take()
        {
            class.push(word);
        }
        if class.is_empty() {
            return Err(words.refuse("the name of a class"));
        }
        let class = class.join(" ");
        classes.check(&class)?;
        boxes.push(LabelledBox { class, x0, y0, x1, y1 });
    }
    Ok(boxes)
}
