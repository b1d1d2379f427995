//! What there is to learn from: lines of text files.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::common::failure::{At, Failure};
use crate::common::random::hash_name;
use crate::common::terminal::{Count, Progress, interrupted};
use crate::data::annotations::Annotated;

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

impl Corpus {
    /// `(training, held out)` sentences: a sentence's side depends on itself and the seed.
    pub fn split(&self, share: f64, seed: u64) -> (Vec<String>, Vec<String>) {
        // A share of all numbers; the product saturates at both ends.
        let limit = (share * u64::MAX as f64) as u64;
        self.texts.iter().cloned().partition(|text| hash_name(text, seed) >= limit)
    }
}

/// Reads the sentences of a text file, one in each line that is not blank; in a `.tsv` file what is behind the line's
/// first tab.
///
/// # Errors
/// A file that cannot be read, is no UTF-8 text, has a line of more than 1 MiB, a line of a `.tsv` file without a tab, or
/// no sentence at all; Ctrl-C.
pub fn read(path: &Path) -> Result<Corpus, Failure> {
    let file = File::open(path).at("read", path)?;
    let about = file.metadata().at("read", path)?;
    let place = path.display();
    if about.is_dir() {
        return Err(Failure::new(format!("`{place}` is a directory: give a text file with a sentence in each line")));
    }
    let tabbed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv"));
    let mut progress = Progress::new("text", about.len(), Count::Bytes);
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
        let text = text.trim_end_matches(['\n', '\r']);
        let text = match (tabbed, text.split_once('\t')) {
            (true, Some((_, text))) => text,
            (true, None) if !text.trim().is_empty() => {
                return refuse("it has no tab: expected a name, a tab and a sentence");
            }
            _ => text,
        };
        if !text.trim().is_empty() {
            texts.push(text.to_owned());
        }
        if number % LINES == 0 {
            if interrupted() {
                return Err(Failure::interrupted());
            }
            progress.tick(bytes, "");
        }
    }
    progress.done();
    if texts.is_empty() {
        return Err(Failure::new(format!("`{place}` has no sentence: give a text file with a sentence in each line")));
    }
    Ok(Corpus { name: place.to_string(), texts, pictures: Vec::new() })
}
