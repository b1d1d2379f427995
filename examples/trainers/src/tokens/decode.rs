//! The program `detokenize`.

use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::json;

use super::about::About;
use super::file::TokenFile;
use super::open::{Coder, Decoding, Opened, open};
use super::output::{Format, Writer, write_texts};
use crate::backend::Device;
use crate::common::failure::Failure;
use crate::common::files::create_writable;
use crate::common::terminal::{Count, Progress, interrupted, print};
use crate::on_device;
use crate::shell::TrainBackend;
use crate::wordpiece::WordPiece;

/// Writes what a trained tokenizer makes of tokens.
///
/// Pictures and maps become PNG files; distances, features, vectors and poses `values.safetensors`; texts `text.txt`, a
/// line each. Distances are in metres, by the scales in the file of tokens. The tokenizer must be the one that made the tokens.
#[derive(Clone, Debug, Parser)]
#[command(name = "detokenize", version)]
pub struct DecodeOptions {
    /// The file of tokens, from tokenize.
    pub tokens: PathBuf,
    /// The tokenizer: its file, or the directory where it was trained.
    #[arg(long)]
    pub tokenizer: PathBuf,
    /// Steps of a diffusion decoder [default: 25].
    #[arg(long)]
    pub steps: Option<usize>,
    /// Guidance of a diffusion decoder; 1 is none [default: 1].
    #[arg(long)]
    pub guidance: Option<f64>,
    /// Seed of a diffusion decoder's noise.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Samples at a time.
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// What to write [default: what suits the samples].
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Where to compute: cpu, or cuda[:N] in a build with --features cuda.
    #[arg(long, default_value = "cpu")]
    pub device: Device,
    /// The directory to write to.
    #[arg(long, default_value = "out/detokenized")]
    pub out: PathBuf,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// The program `detokenize`.
///
/// # Errors
/// Files that cannot be read, tokens of another tokenizer, tokens that do not exist; Ctrl-C.
pub fn run(options: &DecodeOptions) -> Result<(), Failure> {
    on_device!(options.device, run_on, options)
}

fn run_on<B: TrainBackend>(options: &DecodeOptions, device: B::Device) -> Result<(), Failure> {
    if options.batch == 0 {
        return Err(Failure::new("--batch 0: give at least 1"));
    }
    let file = TokenFile::load(&options.tokens)?;
    let (about, opened) = open::<B::InnerBackend>(&options.tokenizer, &device)?;
    check_same(&options.tokens, &file, &about)?;
    // Its own description is what the tokens are held to, not the file's.
    let file = TokenFile { about, ..file };
    file.check_tokens(&options.tokens)?;
    create_writable(&options.out)?;
    let written = match &opened {
        Opened::Words(words) => texts(options, &file, words)?,
        Opened::Samples(coder) => samples(options, &file, coder.as_ref())?,
    };
    eprintln!("samples       {} of {}", file.len(), file.about.sample);
    eprintln!("result        {}", written.display());
    match options.json {
        true => print(&json!({ "out": written, "samples": file.len() }).to_string()),
        false => Ok(()),
    }
}

/// Refuses a tokenizer that did not make the tokens.
fn check_same(path: &Path, file: &TokenFile, about: &About) -> Result<(), Failure> {
    let there = &file.about;
    if there.hash != about.hash {
        return Err(Failure::new(format!(
            "`{}` has tokens of {}, not of {}: give the tokenizer that made them",
            path.display(),
            there.words(),
            about.words()
        )));
    }
    // A file that names the right hash, but was changed: its tokens would be cut wrongly.
    if (there.tokens(), there.grid, &there.sample) != (about.tokens(), about.grid, &about.sample) {
        return Err(Failure::new(format!(
            "`{}` describes {} as a tokenizer of {} in {:?}, which it is not: make the file again",
            path.display(),
            about.words(),
            there.sample,
            there.grid
        )));
    }
    Ok(())
}

fn texts(options: &DecodeOptions, file: &TokenFile, words: &WordPiece) -> Result<PathBuf, Failure> {
    if options.steps.is_some() || options.guidance.is_some() || options.format.is_some() {
        return Err(Failure::new("--steps, --guidance and --format are for pictures and maps, not for text"));
    }
    let mut lines = Vec::with_capacity(file.len());
    let mut progress = Progress::new("text", file.len() as u64, Count::Items);
    for sample in 0..file.len() {
        look(&mut progress, sample)?;
        lines.push(words.decode(file.of(sample..sample + 1))?);
    }
    progress.done();
    write_texts(&options.out, &lines)
}

fn samples(options: &DecodeOptions, file: &TokenFile, coder: &dyn Coder) -> Result<PathBuf, Failure> {
    let how = Decoding { steps: options.steps, guidance: options.guidance, seed: options.seed };
    let metres = !file.scales.is_empty();
    let mut writer = Writer::new(&options.out, &file.about.sample, options.format, &file.names, file.len(), metres)?;
    let each = file.about.sample.values().max(1);
    let mut progress = Progress::new("samples", file.len() as u64, Count::Items);
    for from in (0..file.len()).step_by(options.batch) {
        look(&mut progress, from)?;
        let end = (from + options.batch).min(file.len());
        let mut values = coder.decode(file.of(from..end), end - from, &how, from as u64)?;
        for (sample, scale) in values.chunks_exact_mut(each).zip(file.scales.iter().skip(from)) {
            sample.iter_mut().for_each(|value| *value = scale.undo(*value));
        }
        writer.add(from, &values)?;
    }
    progress.done();
    writer.finish()
}

fn look(progress: &mut Progress, done: usize) -> Result<(), Failure> {
    if interrupted() {
        return Err(Failure::interrupted());
    }
    progress.tick(done as u64, "");
    Ok(())
}
