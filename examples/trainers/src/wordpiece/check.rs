//! Whether what goes in comes out: texts, boxes, metadata.

use serde::Serialize;

use super::sentences::{BoxForm, Detection, boxes_of, boxes_text, metadata_of, metadata_of_picture, metadata_text};
use super::special::{BINS, KINDS, value};
use super::tokenizer::WordPiece;
use crate::common::failure::{Context, Failure};
use crate::common::terminal::{Count, Progress, interrupted};
use crate::data::annotations::Annotated;

/// How often Ctrl-C is looked at.
const OFTEN: usize = 256;

/// Texts to tokens and back.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TextReport {
    /// Texts.
    pub texts: usize,
    /// Their words; punctuation marks count.
    pub words: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Tokens that are `[UNK]`.
    pub unknown: usize,
    /// Texts with such a token.
    pub texts_with_unknown: usize,
    /// Texts that did not come back as their normalized form, character by character.
    pub differing: usize,
    /// The first of those.
    pub first_differing: Option<String>,
}

/// Encodes and decodes texts, with progress.
///
/// # Errors
/// Ctrl-C; as [`WordPiece::encode`].
pub fn texts(vocabulary: &WordPiece, texts: &[String], what: &str) -> Result<TextReport, Failure> {
    let mut report = TextReport { texts: texts.len(), ..TextReport::default() };
    let mut progress = Progress::new(what, texts.len() as u64, Count::Items);
    for (done, text) in texts.iter().enumerate() {
        look(&mut progress, done)?;
        let (ids, normalized) = (vocabulary.encode(text)?, vocabulary.normalized(text)?);
        let unknown = ids.iter().filter(|&&id| id == vocabulary.unknown()).count();
        report.words += normalized.split(' ').filter(|word| !word.is_empty()).count();
        report.tokens += ids.len();
        report.unknown += unknown;
        report.texts_with_unknown += usize::from(unknown > 0);
        if vocabulary.decode(&ids)? != normalized {
            report.differing += 1;
            report.first_differing.get_or_insert_with(|| text.clone());
        }
    }
    progress.done();
    Ok(report)
}

/// Sentences of value tokens to tokens and back.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SentenceReport {
    /// Pictures that there is something to say of.
    pub pictures: usize,
    /// Boxes, or fields.
    pub things: usize,
    /// Tokens.
    pub tokens: usize,
    /// Sentences whose tokens, decoded, read, written and encoded again, were not the same tokens.
    pub differing: usize,
    /// The largest distance of a coordinate, or of a share of a field's bin, from what it was; held to 0.5 / 999 for
    /// coordinates.
    pub worst: f64,
}

/// Boxes of pictures to tokens and back.
///
/// # Errors
/// A picture's box that cannot be said; Ctrl-C.
pub fn boxes(vocabulary: &WordPiece, pictures: &[Annotated]) -> Result<SentenceReport, Failure> {
    // In the order of the sentence, so that what comes back stands opposite.
    let form = BoxForm::default();
    let classes = vocabulary.classes();
    let mut report = SentenceReport::default();
    let mut progress = Progress::new("boxes", pictures.len() as u64, Count::Items);
    for (done, picture) in pictures.iter().enumerate().filter(|(_, picture)| !picture.boxes.is_empty()) {
        look(&mut progress, done)?;
        let of = || format!("`{}`", picture.name);
        let mut there: Vec<Detection> = picture.boxes.iter().cloned().map(Detection::from).collect();
        there.sort_by(|left, right| corner(left).total_cmp(&corner(right)));
        let sentence = boxes_text(&there, &form, classes).context(of)?;
        let ids = vocabulary.encode(&sentence)?;
        let back = boxes_of(&vocabulary.decode(&ids)?, classes).context(of)?;
        // Rounded corners may lie in another order: what is written again keeps the order that came back.
        let form = BoxForm { order: super::sentences::Order::Score, ..form };
        let again: Vec<Detection> = back.iter().cloned().map(Detection::from).collect();
        report.differing += usize::from(vocabulary.encode(&boxes_text(&again, &form, classes)?)? != ids);
        report.differing += usize::from(back.len() != there.len());
        for (was, is) in there.iter().zip(&back) {
            let was = &was.place;
            let sides = [(was.x0, is.x0), (was.y0, is.y0), (was.x1, is.x1), (was.y1, is.y1)];
            report.worst = sides.iter().map(|(was, is)| (was - is).abs()).fold(report.worst, f64::max);
            report.differing += usize::from(was.class != is.class);
        }
        report.pictures += 1;
        report.things += back.len();
        report.tokens += ids.len();
    }
    progress.done();
    Ok(report)
}

fn corner(Detection { place, .. }: &Detection) -> f64 {
    place.x0 * place.x0 + place.y0 * place.y0
}

/// Metadata of pictures to tokens and back, in the order that the seed and the picture's number choose.
///
/// # Errors
/// A value that cannot be said; Ctrl-C.
pub fn metadata(vocabulary: &WordPiece, pictures: &[Annotated], seed: u64) -> Result<SentenceReport, Failure> {
    let mut report = SentenceReport::default();
    let mut progress = Progress::new("metadata", pictures.len() as u64, Count::Items);
    for (done, picture) in pictures.iter().enumerate() {
        look(&mut progress, done)?;
        let values = metadata_of_picture(picture);
        if values.is_empty() {
            continue;
        }
        let of = || format!("`{}`", picture.name);
        let sentence = metadata_text(&values, Some(seed.wrapping_add(done as u64))).context(of)?;
        let ids = vocabulary.encode(&sentence)?;
        let back = metadata_of(&vocabulary.decode(&ids)?).context(of)?;
        report.differing += usize::from(vocabulary.encode(&metadata_text(&back, None)?)? != ids);
        report.differing += usize::from(back.len() != values.len());
        report.pictures += 1;
        report.things += back.len();
        report.tokens += ids.len();
    }
    progress.done();
    Ok(report)
}

/// How many of the 4,000 value tokens are one token, which comes back as itself, alone and among others.
///
/// # Errors
/// As [`WordPiece::encode`].
pub fn atomic_values(vocabulary: &WordPiece) -> Result<usize, Failure> {
    let mut atomic = 0;
    for text in (0..KINDS).flat_map(|kind| (0..BINS).map(move |n| value(kind, n))) {
        let alone = vocabulary.encode(&text)?;
        let among = vocabulary.encode(&format!("v0=1 {text} dog"))?;
        let same = vocabulary.decode(&alone)? == text;
        atomic += usize::from(alone.len() == 1 && same && among.get(1) == alone.first());
    }
    Ok(atomic)
}

fn look(progress: &mut Progress, done: usize) -> Result<(), Failure> {
    if done.is_multiple_of(OFTEN) {
        if interrupted() {
            return Err(Failure::interrupted());
        }
        progress.tick(done as u64, "");
    }
    Ok(())
}
