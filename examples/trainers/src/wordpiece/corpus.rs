//! What there is to learn from: text files, tables of captions, annotated pictures, rendered scenes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::common::failure::{At, Failure};
use crate::common::random::hash_name;
use crate::common::terminal::{Count, Progress, interrupted};
use crate::data::annotations::{Annotated, captions_tsv, from_coco, from_scenes};

/// A longer line is taken for a mistake: another kind of file.
const LONGEST_LINE: u64 = 1 << 20;

/// How many lines are read between two looks at Ctrl-C.
const LINES: usize = 1 << 14;

/// Captions, and pictures of which there is more to say.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// Where it came from.
    pub name: String,
    /// Sentences.
    pub texts: Vec<String>,
    /// Boxes and metadata.
    pub pictures: Vec<Annotated>,
}

/// Side of a scene in pixels: things of less than a pixel are not seen.
const SCENE_SIZE: usize = 64;

impl Corpus {
    fn of(name: String, pictures: Vec<Annotated>) -> Self {
        let texts = pictures.iter().flat_map(|picture| picture.captions.iter().cloned()).collect();
        Self { name, texts, pictures }
    }

    /// Both.
    pub fn and(mut self, other: Self) -> Self {
        self.name = if self.name.is_empty() { other.name } else { format!("{}, {}", self.name, other.name) };
        self.texts.extend(other.texts);
        self.pictures.extend(other.pictures);
        self
    }

    /// The classes of all boxes, sorted.
    pub fn classes(&self) -> BTreeSet<String> {
        self.pictures.iter().flat_map(|picture| picture.boxes.iter().map(|labelled| labelled.class.clone())).collect()
    }

    /// `(training, held out)` sentences: a sentence's side depends on itself and the seed.
    pub fn split(&self, share: f64, seed: u64) -> (Vec<String>, Vec<String>) {
        // A share of all numbers; the product saturates at both ends.
        let limit = (share * u64::MAX as f64) as u64;
        self.texts.iter().cloned().partition(|text| hash_name(text, seed) >= limit)
    }
}

/// Reads what `path` has to say: a directory or `.tar` archive with an `annotations.json` ([`from_coco`]), a `.tsv` table of
/// captions ([`captions_tsv`]), or any other file as text, with a sentence in each line that is not blank.
///
/// # Errors
/// As those two; a text file that cannot be read, is not UTF-8, has a line of more than 1 MiB or no sentence; Ctrl-C.
pub fn read(path: &Path) -> Result<Corpus, Failure> {
    let is = |extension: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension));
    let name = path.display().to_string();
    match () {
        () if path.is_dir() || is("tar") => Ok(Corpus::of(name, from_coco(path)?)),
        () if is("tsv") => Ok(Corpus::of(name, captions_tsv(path)?)),
        () => Ok(Corpus { name, texts: lines(path)?, pictures: Vec::new() }),
    }
}

/// What rendered scenes of these numbers have to say.
///
/// # Errors
/// As [`from_scenes`].
pub fn render(count: usize, seed: u64) -> Result<Corpus, Failure> {
    let name = format!("{count} rendered scenes of {SCENE_SIZE} px, seed {seed}");
    Ok(Corpus::of(name, from_scenes(count, SCENE_SIZE, seed)?))
}

fn lines(path: &Path) -> Result<Vec<String>, Failure> {
    let file = File::open(path).at("read", path)?;
    let place = path.display();
    let mut progress = Progress::new("text", file.metadata().at("read", path)?.len(), Count::Bytes);
    let (mut texts, mut line, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut file = BufReader::new(file);
    for number in 1_usize.. {
        let refuse = |why: &str| Err(Failure::new(format!("`{place}`, line {number}: {why}")));
        line.clear();
        let read = file.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line).at("read", path)? as u64;
        if read == 0 {
            break;
        }
        if read > LONGEST_LINE {
            return refuse("it is longer than 1 MiB: give a text file with a sentence in each line");
        }
        bytes += read;
        let Ok(text) = core::str::from_utf8(&line) else {
            return refuse("it is not UTF-8: convert the file, as with `iconv -t UTF-8`");
        };
        if !text.trim().is_empty() {
            texts.push(text.trim_end_matches(['\n', '\r']).to_owned());
        }
        if number.is_multiple_of(LINES) {
            if interrupted() {
                return Err(Failure::interrupted());
            }
            progress.tick(bytes, "");
        }
    }
    progress.done();
    match texts.is_empty() {
        true => Err(Failure::new(format!("`{place}` has no sentence: give a text file with a sentence in each line"))),
        false => Ok(texts),
    }
}
