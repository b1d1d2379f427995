//! What the person asks for, and what is told in the end.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use serde_json::{Value, json};

use super::check;
use super::classes::Classes;
use super::corpus::{Corpus, read, render};
use super::special::{BINS, KINDS, SENTINELS};
use super::tokenizer::WordPiece;
use super::train::{Recipe, train};
use crate::common::failure::Failure;
use crate::common::files::create_writable;
use crate::common::terminal::{interrupted, peak_rss_mb, print};
use crate::shell::write_json;

/// More sentinels than any sequence has tokens.
const MOST_SENTINELS: usize = 100_000;

/// Trains the vocabulary of captions, boxes, metadata and instances: WordPiece, as 4M's.
///
/// The defaults are 4M's: 30,000 tokens, of which the first are [PAD], [UNK], [SOS], [EOS], 200 sentinels, the 4,000
/// values v0=0 to v3=999, and COCO's 80 classes. Afterwards every text is encoded and decoded, and so are the pictures'
/// boxes and metadata, and what does not come back is counted.
#[derive(Clone, Debug, Parser)]
#[command(name = "train_wordpiece", version)]
pub struct Options {
    /// A text file with a sentence in each line, a .tsv with a picture's name, a tab and a caption, or a directory or .tar
    /// archive with an annotations.json of captions and boxes; may be given several times [default: rendered scenes].
    #[arg(long)]
    pub data: Vec<PathBuf>,
    /// Rendered scenes, where no data is given.
    #[arg(long, default_value_t = 512, conflicts_with = "data")]
    pub scenes: usize,
    /// Tokens in all.
    #[arg(long, default_value_t = 30_000)]
    pub vocabulary: usize,
    /// Join no pair of pieces that occurs less often.
    #[arg(long, default_value_t = 0)]
    pub min_frequency: u64,
    /// Tokens [S_0], [S_1], … for masked spans.
    #[arg(long, default_value_t = SENTINELS)]
    pub sentinels: usize,
    /// Names with a token each: coco, none, or a text file with a name in each line. Other classes of the data's boxes
    /// follow, unless it is none.
    #[arg(long, default_value = "coco")]
    pub classes: String,
    /// Keep capital letters, and accents with them.
    #[arg(long)]
    pub no_lowercase: bool,
    /// Share of the texts that is not trained on, only encoded and decoded.
    #[arg(long, default_value_t = 0.1)]
    pub hold_out: f64,
    /// Seed of what is held out and of the order of metadata.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where tokenizer.json and summary.json go.
    #[arg(long, default_value = "out/wordpiece")]
    pub out: PathBuf,
    /// Print the summary as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn check(&self) -> Result<(), Failure> {
        let (sentinels, share) = (self.sentinels, self.hold_out);
        if sentinels > MOST_SENTINELS {
            return Err(Failure::new(format!("--sentinels {sentinels}: give at most {MOST_SENTINELS}")));
        }
        match (0.0..1.0).contains(&share) {
            true => Ok(()),
            false => Err(Failure::new(format!("--hold-out {share}: give a share from 0 to less than 1"))),
        }
    }

    fn recipe(&self, corpus: &Corpus) -> Result<Recipe, Failure> {
        let named = Classes::open(&self.classes)?;
        Ok(Recipe {
            vocabulary: self.vocabulary,
            min_frequency: self.min_frequency,
            sentinels: self.sentinels,
            classes: if self.has_classes() { named.and(corpus.classes())? } else { named },
            lowercase: !self.no_lowercase,
        })
    }

    fn has_classes(&self) -> bool {
        self.classes != "none"
    }

    fn corpus(&self) -> Result<Corpus, Failure> {
        match self.data.is_empty() {
            true => render(self.scenes, self.seed),
            false => self.data.iter().try_fold(Corpus::default(), |all, path| Ok(all.and(read(path)?))),
        }
    }
}

/// The program `train_wordpiece`.
///
/// # Errors
/// As reading, [`train`] and writing; Ctrl-C.
pub fn run(options: &Options) -> Result<(), Failure> {
    options.check()?;
    create_writable(&options.out)?;
    let corpus = options.corpus()?;
    let recipe = options.recipe(&corpus)?;
    let (training, held_out) = corpus.split(options.hold_out, options.seed);
    eprintln!("training      {} texts of {}", training.len(), corpus.name);
    let started = Instant::now();
    let vocabulary = train(&recipe, &training)?;
    let seconds = started.elapsed().as_secs_f64();
    if interrupted() {
        return Err(Failure::interrupted());
    }
    vocabulary.save(&options.out.join("tokenizer.json"))?;
    let summary = summary(options, &recipe, &corpus, [&training, &held_out], &vocabulary, seconds)?;
    write_json(&options.out.join("summary.json"), &summary)?;
    tell(&options.out, &summary);
    match options.json {
        true => print(&summary.to_string()),
        false => Ok(()),
    }
}

fn summary(
    options: &Options,
    recipe: &Recipe,
    corpus: &Corpus,
    [training, held_out]: [&[String]; 2],
    vocabulary: &WordPiece,
    seconds: f64,
) -> Result<Value, Failure> {
    let training = check::texts(vocabulary, training, "training texts")?;
    let held_out = check::texts(vocabulary, held_out, "held-out texts")?;
    let atomic = check::atomic_values(vocabulary)?;
    let of_boxes = if options.has_classes() { corpus.pictures.as_slice() } else { &[] };
    let boxes = check::boxes(vocabulary, of_boxes)?;
    let metadata = check::metadata(vocabulary, &corpus.pictures, options.seed)?;
    Ok(json!({
        "data": corpus.name,
        "vocabulary": vocabulary.len(),
        "asked_for": recipe.vocabulary,
        "classes": recipe.classes.names().len(),
        "sentinels": recipe.sentinels,
        "lowercase": recipe.lowercase,
        "strip_accents": recipe.lowercase,
        "hash": vocabulary.hash(),
        "value_tokens": KINDS * BINS as usize,
        "atomic_value_tokens": atomic,
        "training_texts": training,
        "held_out_texts": held_out,
        "boxes": boxes,
        "metadata": metadata,
        "seconds_training": seconds,
        "peak_rss_mb": peak_rss_mb(),
    }))
}

fn tell(out: &Path, summary: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    eprintln!(
        "vocabulary    {} tokens of {} asked for, in {:.1} s; {} of {} values are one token",
        summary["vocabulary"],
        summary["asked_for"],
        number(&summary["seconds_training"]),
        summary["atomic_value_tokens"],
        summary["value_tokens"]
    );
    for (label, key) in [("training     ", "training_texts"), ("held out     ", "held_out_texts")] {
        let report = &summary[key];
        if number(&report["texts"]) == 0.0 {
            continue;
        }
        eprintln!(
            "{label} {} texts, {:.3} tokens a word, {} [UNK], {} do not come back",
            report["texts"],
            number(&report["tokens"]) / number(&report["words"]),
            report["unknown"],
            report["differing"]
        );
    }
    for (label, key) in [("boxes        ", "boxes"), ("metadata     ", "metadata")] {
        let report = &summary[key];
        if number(&report["pictures"]) > 0.0 {
            eprintln!(
                "{label} {} of {} pictures, {} tokens, {} do not come back",
                report["things"], report["pictures"], report["tokens"], report["differing"]
            );
        }
    }
    eprintln!("result        {}", out.join("tokenizer.json").display());
}
