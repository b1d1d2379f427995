//! Trained tokenizers, told by their files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use sha2::{Digest, Sha256};

use super::about::{About, Sample};
use crate::common::failure::{At, Failure};
use crate::data::maps::Modality;
use crate::diffusion::Sampler;
use crate::params::host;
use crate::quantize::QuantizeBackend;
use crate::shell::{Checkpoint, SharedPool, pool};
use crate::wordpiece::WordPiece;
use crate::{divae, mlp_vqvae, vqgan, vqvae};

/// Steps of a diffusion decoder, where none are asked for.
const STEPS: usize = 25;

/// How tokens become samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decoding {
    /// Steps of a diffusion decoder.
    pub steps: Option<usize>,
    /// Its guidance; 1 is none.
    pub guidance: Option<f64>,
    /// Of its noise.
    pub seed: u64,
}

/// A trained tokenizer of samples of one shape.
pub trait Coder {
    /// Tokens of `count` samples `[count, channels, height, width]`, sample by sample in raster order.
    ///
    /// # Errors
    /// Values that are not finite, or are no labels.
    fn encode(&self, values: Vec<f32>, count: usize) -> Result<Vec<u32>, Failure>;

    /// Samples of tokens, the first of them the `first` of all, which decides its noise.
    ///
    /// # Errors
    /// A token that does not exist; a way of decoding that this tokenizer does not have.
    fn decode(&self, tokens: &[u32], count: usize, how: &Decoding, first: u64) -> Result<Vec<f32>, Failure>;
}

/// A tokenizer of either kind.
pub enum Opened {
    /// Of samples of one shape.
    Samples(Box<dyn Coder>),
    /// Of text.
    Words(Box<WordPiece>),
}

/// Opens any trained tokenizer: a checkpoint, a `tokenizer.json`, or a trainer's directory with one of them.
///
/// # Errors
/// A file that is none, or damaged.
pub fn open<B: QuantizeBackend>(path: &Path, device: &B::Device) -> Result<(About, Opened), Failure> {
    let path = &file_of(path);
    let name = path.display().to_string();
    let mut start = [0];
    let is_json = matches!(File::open(path).at("read", path)?.read(&mut start), Ok(1)) && start == *b"{";
    if is_json || path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        let words = WordPiece::load(path)?;
        let (kind, hash, codes) = ("wordpiece".into(), words.hash().to_owned(), words.len());
        let about = About { kind, name, hash, codes, grid: [0; 2], sample: Sample::Text };
        return Ok((about, Opened::Words(Box::new(words))));
    }
    let kind = Checkpoint::open(path)?.kind().to_owned();
    let pool = pool()?;
    let (codes, grid, sample, coder) = match kind.as_str() {
        "vqgan" => vqgan::<B>(path, pool, device.clone())?,
        "vqvae" => vqvae::<B>(path, pool, device.clone())?,
        "divae" => divae::<B>(path, pool, device.clone())?,
        "mlp_vqvae" => mlp_vqvae::<B>(path, pool, device.clone())?,
        other => {
            return Err(Failure::new(format!(
                "`{name}` is a checkpoint of a {other}, which this program does not know: give one of a vqgan, a vqvae, a \
                 divae or an mlp_vqvae, or a tokenizer.json"
            )));
        }
    };
    let about = About { kind, name, hash: hash_of(path)?, codes, grid, sample };
    Ok((about, Opened::Samples(coder)))
}

/// The file itself, or the one that a trainer has left in its directory.
fn file_of(path: &Path) -> PathBuf {
    let known = ["checkpoint.safetensors", "tokenizer.json"].map(|name| path.join(name));
    known.into_iter().find(|file| file.is_file()).unwrap_or_else(|| path.to_owned())
}

/// SHA-256 of a file's bytes.
fn hash_of(path: &Path) -> Result<String, Failure> {
    let mut file = File::open(path).at("read", path)?;
    let (mut hash, mut bytes) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut bytes).at("read", path)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hash.update(bytes.get(..read).unwrap_or_default()),
        }
    }
}

/// Codes, grid, samples and the tokenizer itself.
type Parts = (usize, [usize; 2], Sample, Box<dyn Coder>);

fn vqgan<B: QuantizeBackend>(path: &Path, pool: SharedPool, device: B::Device) -> Result<Parts, Failure> {
    let trained = vqgan::trained::Trained::<B>::open(path, Some(Arc::clone(&pool)), device)?;
    let (size, side) = (trained.config.backbone.image_size(), trained.config.backbone.grid());
    let sample = Sample::Map { modality: Modality::Rgb, size };
    Ok((trained.config.codes.codes, [side; 2], sample, Box::new(Vqgan { trained, size, side })))
}

struct Vqgan<B: QuantizeBackend> {
    trained: vqgan::trained::Trained<B>,
    size: usize,
    side: usize,
}

impl<B: QuantizeBackend> Coder for Vqgan<B> {
    fn encode(&self, values: Vec<f32>, count: usize) -> Result<Vec<u32>, Failure> {
        let images = tensor(values, [count, 3, self.size, self.size], &self.trained.device);
        Ok(self.trained.encode(images)?.0)
    }

    fn decode(&self, tokens: &[u32], count: usize, how: &Decoding, _: u64) -> Result<Vec<f32>, Failure> {
        no_diffusion(how)?;
        Ok(host(self.trained.decode(tokens, [count, self.side, self.side])?.clamp(-1.0, 1.0)))
    }
}

fn vqvae<B: QuantizeBackend>(path: &Path, pool: SharedPool, device: B::Device) -> Result<Parts, Failure> {
    use vqvae::config::Modality as Kind;
    let tokenizer = vqvae::tokenizer::Tokenizer::<B>::open(path, Some(pool), device)?;
    let config = &tokenizer.config;
    let (size, side) = (config.size(), config.grid());
    let sample = match config.modality {
        Kind::Rgb => Sample::Map { modality: Modality::Rgb, size },
        Kind::Labels { classes } => Sample::Map { modality: Modality::Segmentation { classes }, size },
        Kind::Masks => Sample::Map { modality: Modality::Mask, size },
        Kind::Features => Sample::Features { channels: config.encoder.channels, size },
    };
    let shape = sample.shape();
    Ok((config.codes.codes, [side; 2], sample, Box::new(Vqvae { tokenizer, shape, side })))
}

struct Vqvae<B: QuantizeBackend> {
    tokenizer: vqvae::tokenizer::Tokenizer<B>,
    shape: [usize; 3],
    side: usize,
}

impl<B: QuantizeBackend> Coder for Vqvae<B> {
    fn encode(&self, values: Vec<f32>, count: usize) -> Result<Vec<u32>, Failure> {
        use vqvae::config::Modality as Kind;
        use vqvae::data::{Samples, Values};
        let config = &self.tokenizer.config;
        let [channels, _, size] = self.shape;
        let values = match config.modality {
            Kind::Labels { .. } => Values::Classes(values.into_iter().map(|label| label as u32).collect()),
            Kind::Features => Values::Numbers(values.into_iter().map(|value| config.scale.apply(value)).collect()),
            Kind::Rgb | Kind::Masks => Values::Numbers(values),
        };
        let samples = Samples { values, count, channels, size };
        Ok(self.tokenizer.encode(samples.to_sample(&self.tokenizer.device))?.0)
    }

    fn decode(&self, tokens: &[u32], count: usize, how: &Decoding, _: u64) -> Result<Vec<f32>, Failure> {
        use vqvae::config::Modality as Kind;
        use vqvae::tokenizer::{classes, probabilities};
        no_diffusion(how)?;
        let config = &self.tokenizer.config;
        let made = self.tokenizer.decode(tokens, [count, self.side, self.side])?;
        Ok(match config.modality {
            Kind::Labels { .. } => classes(made).into_iter().map(|label| label as f32).collect(),
            Kind::Masks => probabilities(made).into_iter().map(|inside| f32::from(u8::from(inside > 0.5))).collect(),
            Kind::Features => host(made).into_iter().map(|value| config.scale.undo(value)).collect(),
            Kind::Rgb => host(made.clamp(-1.0, 1.0)),
        })
    }
}

fn divae<B: QuantizeBackend>(path: &Path, pool: SharedPool, device: B::Device) -> Result<Parts, Failure> {
    let tokenizer = divae::tokenizer::Tokenizer::<B>::open(path, Some(pool), device)?;
    let config = &tokenizer.config;
    let (size, side) = (config.size(), config.grid());
    let sample = Sample::Map { modality: config.kind.modality(), size };
    let shape = sample.shape();
    Ok((config.codes.codes, [side; 2], sample, Box::new(DiVae { tokenizer, shape, side })))
}

struct DiVae<B: QuantizeBackend> {
    tokenizer: divae::tokenizer::Tokenizer<B>,
    shape: [usize; 3],
    side: usize,
}

impl<B: QuantizeBackend> Coder for DiVae<B> {
    fn encode(&self, values: Vec<f32>, count: usize) -> Result<Vec<u32>, Failure> {
        let [channels, height, width] = self.shape;
        let samples = tensor(values, [count, channels, height, width], &self.tokenizer.device);
        Ok(self.tokenizer.encode(samples)?.0)
    }

    fn decode(&self, tokens: &[u32], count: usize, how: &Decoding, first: u64) -> Result<Vec<f32>, Failure> {
        let plain = self.tokenizer.sampler(how.steps.unwrap_or(STEPS), how.seed);
        let sampler = Sampler { guidance: how.guidance.unwrap_or(plain.guidance), ..plain };
        Ok(host(self.tokenizer.decode(tokens, [count, self.side, self.side], &sampler, first)?))
    }
}

/// A token of a head each; where heads have codes of their own, a token is one of its head's.
fn mlp_vqvae<B: QuantizeBackend>(path: &Path, pool: SharedPool, device: B::Device) -> Result<Parts, Failure> {
    let tokenizer = mlp_vqvae::tokenizer::Tokenizer::<B>::open(path, Some(pool), device)?;
    let coding = &tokenizer.config.coding;
    let sample = Sample::Map { modality: tokenizer.config.modality, size: 1 };
    Ok((coding.codes(), [1, coding.heads()], sample, Box::new(MlpVqvae { tokenizer })))
}

struct MlpVqvae<B: QuantizeBackend> {
    tokenizer: mlp_vqvae::tokenizer::Tokenizer<B>,
}

impl<B: QuantizeBackend> Coder for MlpVqvae<B> {
    fn encode(&self, values: Vec<f32>, _: usize) -> Result<Vec<u32>, Failure> {
        self.tokenizer.encode(&values)
    }

    fn decode(&self, tokens: &[u32], _: usize, how: &Decoding, _: u64) -> Result<Vec<f32>, Failure> {
        no_diffusion(how)?;
        self.tokenizer.decode(tokens)
    }
}

fn tensor<B: QuantizeBackend>(values: Vec<f32>, shape: [usize; 4], device: &B::Device) -> Tensor<B, 4> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn no_diffusion(how: &Decoding) -> Result<(), Failure> {
    match (how.steps, how.guidance) {
        (None, None) => Ok(()),
        _ => {
            Err(Failure::new("--steps and --guidance are for a diffusion decoder, which this tokenizer does not have"))
        }
    }
}
