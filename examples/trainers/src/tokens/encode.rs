//! The program `tokenize`.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde_json::json;

use super::about::{About, Sample};
use super::file::{TokenFile, Width};
use super::grids;
use super::open::{Coder, Opened, open};
use crate::backend::Device;
use crate::common::failure::{Context, Failure};
use crate::common::terminal::{Count, Progress, interrupted, print};
use crate::data::Source;
use crate::data::maps::{FixedMaps, Maps, Opening, Scale};
use crate::on_device;
use crate::shell::TrainBackend;
use crate::vqvae::data::FeatureMaps;
use crate::wordpiece::sentences::{BoxForm, boxes_text, metadata_of_picture, metadata_text};
use crate::wordpiece::{Corpus, WordPiece, read, render};

/// Texts between two looks at Ctrl-C.
const TEXTS: usize = 256;

/// What is said of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Say {
    /// Captions, or lines of a text.
    Captions,
    /// Boxes, one sentence a picture.
    Boxes,
    /// Metadata, one sentence a picture.
    Metadata,
}

impl Say {
    fn name(self) -> &'static str {
        match self {
            Self::Captions => "captions",
            Self::Boxes => "boxes",
            Self::Metadata => "metadata",
        }
    }
}

/// Writes the tokens that a trained tokenizer makes of samples.
///
/// The kind of tokenizer is told from its file: a checkpoint of train_vqgan, train_vqvae, train_divae or
/// train_mlp_vqvae, or the tokenizer.json of train_wordpiece. Pictures and maps are cut to the largest square in the middle and resized. The file of tokens has the
/// tensor `tokens` `[samples, tokens of a sample]`; of texts, all tokens one after the other and `offsets`; of distances
/// also `scales` `[samples, 2]`, each map's mean and deviation in metres, which its tokens do not tell.
#[derive(Clone, Debug, Parser)]
#[command(name = "tokenize", version)]
pub struct EncodeOptions {
    /// The tokenizer: its file, or the directory where it was trained.
    #[arg(long, required_unless_present = "dry_run")]
    pub tokenizer: Option<PathBuf>,
    /// What to make tokens of: a directory or .tar of pictures or maps, safetensors of maps or vectors; of text, as in
    /// train_wordpiece [default: rendered scenes].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Rendered scenes, where no data is given.
    #[arg(long, default_value_t = 16, conflicts_with = "data")]
    pub scenes: usize,
    /// The tensor of a safetensors file of vectors or poses [default: the only one that fits].
    #[arg(long)]
    pub tensor: Option<String>,
    /// What is said of pictures, for tokenizers of text.
    #[arg(long, value_enum, default_value = "captions")]
    pub say: Say,
    /// Bits of a token.
    #[arg(long, value_enum, default_value = "u32")]
    pub width: Width,
    /// Samples at a time.
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Seed of scenes and of the order of metadata.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where to compute: cpu, or cuda[:N] in a build with --features cuda.
    #[arg(long, default_value = "cpu")]
    pub device: Device,
    /// The file to write.
    #[arg(long, default_value = "tokens.safetensors")]
    pub out: PathBuf,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Print the grids of the published transformers' tokens, and nothing else; with --preset, of one of them, untrained,
    /// by encoding a grey sample.
    #[arg(long)]
    pub dry_run: bool,
    /// A preset of the trainers, by its name.
    #[arg(long, requires = "dry_run")]
    pub preset: Option<String>,
}

/// The program `tokenize`.
///
/// # Errors
/// A tokenizer or data that cannot be read, or do not go together; a token that does not fit; Ctrl-C.
pub fn run(options: &EncodeOptions) -> Result<(), Failure> {
    on_device!(options.device, run_on, options)
}

fn run_on<B: TrainBackend>(options: &EncodeOptions, device: B::Device) -> Result<(), Failure> {
    let Some(path) = options.tokenizer.as_ref().filter(|_| !options.dry_run) else {
        return grids::print_grids::<B::InnerBackend>(options.preset.as_deref(), options.json, &device);
    };
    if options.batch == 0 {
        return Err(Failure::new("--batch 0: give at least 1"));
    }
    if options.out.is_dir() {
        let out = options.out.display();
        return Err(Failure::new(format!("--out `{out}` is a directory: give the name of a file")));
    }
    let (about, opened) = open::<B::InnerBackend>(path, &device)?;
    // Told now rather than after hours.
    options.width.check(about.codes)?;
    eprintln!("tokenizer     {}, {} codes, {}", about.words(), about.codes, about.sample);
    let file = match &opened {
        Opened::Words(words) => of_texts(options, about, words)?,
        Opened::Samples(coder) => of_samples(options, about, coder.as_ref())?,
    };
    file.save(&options.out, options.width)?;
    report(options, &file)
}

fn of_texts(options: &EncodeOptions, about: About, words: &WordPiece) -> Result<TokenFile, Failure> {
    let corpus = match &options.data {
        Some(path) => read(path)?,
        None => render(options.scenes, options.seed)?,
    };
    let mut file = TokenFile::new(about);
    let texts = sentences(options, &corpus, words)?;
    if texts.is_empty() {
        return Err(Failure::new(format!("`{}` has no {} to say", corpus.name, options.say.name())));
    }
    let mut progress = Progress::new("tokens", texts.len() as u64, Count::Items);
    for (done, (name, text)) in texts.into_iter().enumerate() {
        if done.is_multiple_of(TEXTS) {
            look(&mut progress, done)?;
        }
        file.tokens.extend(words.encode(&text)?);
        file.offsets.push(file.tokens.len() as u64);
        file.names.extend(name);
    }
    progress.done();
    Ok(file)
}

/// What there is to say, with the pictures' names where it is of pictures.
fn sentences(
    options: &EncodeOptions,
    corpus: &Corpus,
    words: &WordPiece,
) -> Result<Vec<(Option<String>, String)>, Failure> {
    let pictures = corpus.pictures.iter().zip(options.seed..);
    let named = |name: &str, text: Result<String, Failure>| match text {
        Ok(text) => Ok((Some(name.to_owned()), text)),
        Err(why) => Err(Failure::new(format!("`{name}`: {why}"))),
    };
    match options.say {
        Say::Captions if corpus.pictures.is_empty() => {
            Ok(corpus.texts.iter().map(|text| (None, text.clone())).collect())
        }
        Say::Captions => Ok(pictures
            .flat_map(|(picture, _)| picture.captions.iter().map(|text| (Some(picture.name.clone()), text.clone())))
            .collect()),
        Say::Boxes => pictures
            .map(|(picture, _)| {
                let boxes: Vec<_> = picture.boxes.iter().cloned().map(Into::into).collect();
                named(&picture.name, boxes_text(&boxes, &BoxForm::default(), words.classes()))
            })
            .collect(),
        Say::Metadata => pictures
            .map(|(picture, seed)| named(&picture.name, metadata_text(&metadata_of_picture(picture), Some(seed))))
            .collect(),
    }
}

fn of_samples(options: &EncodeOptions, about: About, coder: &dyn Coder) -> Result<TokenFile, Failure> {
    let samples = Samples::open(options, &about.sample)?;
    let (count, values) = (samples.len(), about.sample.values());
    let mut file = TokenFile::new(about);
    let mut progress = Progress::new("tokens", count as u64, Count::Items);
    for from in (0..count).step_by(options.batch) {
        look(&mut progress, from)?;
        let batch = samples.batch(from, options.batch);
        let here = batch.len() / values.max(1);
        file.tokens.extend(coder.encode(batch, here)?);
        file.names.extend((from..from + here).map(|index| samples.name(index)));
        file.scales.extend((from..from + here).filter_map(|index| samples.scale(index)));
    }
    progress.done();
    Ok(file)
}

fn look(progress: &mut Progress, done: usize) -> Result<(), Failure> {
    if interrupted() {
        return Err(Failure::interrupted());
    }
    progress.tick(done as u64, "");
    Ok(())
}

/// What tokens are made of, in the host's memory.
enum Samples {
    Maps(FixedMaps),
    Features(FeatureMaps),
}

impl Samples {
    fn open(options: &EncodeOptions, sample: &Sample) -> Result<Self, Failure> {
        match *sample {
            Sample::Map { modality, size } => {
                let source = match &options.data {
                    Some(path) => Source::Path(path.clone()),
                    None => Source::Scenes { count: options.scenes, size: scene_size(size), seed: options.seed },
                };
                let opening = Opening { tensor: options.tensor.clone(), progress: true };
                Ok(Self::Maps(FixedMaps::new(&Maps::open(modality, &source, &opening)?, size)?))
            }
            Sample::Features { channels, size } => {
                let shape = format!("[n, {channels}, {size}, {size}]");
                let Some(path) = &options.data else {
                    return Err(Failure::new(format!(
                        "features of another network are not rendered: give --data, a .safetensors of {shape}"
                    )));
                };
                let maps = FeatureMaps::open(path)?;
                match (maps.channels, maps.size) == (channels, size) {
                    true => Ok(Self::Features(maps)),
                    false => Err(Failure::new(format!(
                        "`{}` has maps of {}x{}x{}, and the tokenizer is for {shape}",
                        path.display(),
                        maps.channels,
                        maps.size,
                        maps.size
                    ))),
                }
            }
            Sample::Text => Err(Failure::new("text has no samples of one shape")),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Maps(maps) => maps.len(),
            Self::Features(maps) => maps.count(),
        }
    }

    fn name(&self, index: usize) -> String {
        match self {
            Self::Maps(maps) => maps.maps().name_of(index).to_owned(),
            Self::Features(_) => index.to_string(),
        }
    }

    /// Of distances, what they were standardised by: every map of distances has one.
    fn scale(&self, index: usize) -> Option<Scale> {
        match self {
            Self::Maps(maps) => maps.maps().scale_of(index),
            Self::Features(_) => None,
        }
    }

    fn batch(&self, from: usize, count: usize) -> Vec<f32> {
        match self {
            Self::Maps(maps) => maps.batch(from, count).values,
            Self::Features(maps) => {
                (from..from.saturating_add(count).min(maps.count())).flat_map(|at| maps.map(at)).copied().collect()
            }
        }
    }
}

/// Side of a scene for samples of this size: things of a pixel are not seen.
fn scene_size(size: usize) -> usize {
    size.max(64)
}

fn report(options: &EncodeOptions, file: &TokenFile) -> Result<(), Failure> {
    let about = &file.about;
    let distinct = file.tokens.iter().collect::<HashSet<_>>().len();
    let [rows, columns] = about.grid;
    match about.tokens() {
        Some(each) => eprintln!("tokens        {rows}x{columns} = {each} a sample, {} samples", file.len()),
        None => eprintln!("tokens        {} of {} texts", file.tokens.len(), file.len()),
    }
    eprintln!("codes         {distinct} of {} used", about.codes);
    eprintln!("result        {}", options.out.display());
    let about = serde_json::to_value(about).context(|| "cannot describe the tokenizer".into())?;
    match options.json {
        true => print(
            &json!({
                "out": options.out,
                "tokenizer": about,
                "samples": file.len(),
                "tokens": file.tokens.len(),
                "codes_used": distinct,
            })
            .to_string(),
        ),
        false => Ok(()),
    }
}
