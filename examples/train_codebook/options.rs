//! What the person asks for.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::common::Failure;

/// How the codes are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Learn {
    /// VQGAN: codes of the input's full width by gradient, no l2 norm.
    Plain,
    /// VQGAN-FC: factorized codes by gradient.
    Gradient,
    /// VQGAN-EMA: factorized codes by moving averages.
    Ema,
    /// VQGAN-LC: frozen centres of the input's own patches, through a trained projector.
    Projector,
}

impl Learn {
    pub const ALL: [Self; 4] = [Self::Plain, Self::Gradient, Self::Ema, Self::Projector];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gradient => "gradient",
            Self::Ema => "ema",
            Self::Projector => "projector",
        }
    }
}

/// Where codes start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Init {
    /// Standard normal.
    Normal,
    /// Uniform within ±1/codes, as VQGAN's.
    Uniform,
    /// k-means over the training rows (for `projector`: over the patches themselves).
    Kmeans,
}

/// Trains a codebook with a linear VQ autoencoder; without data, on scenes that it renders itself.
#[derive(Clone, Debug, Parser)]
#[command(name = "train_codebook", version)]
pub struct Options {
    /// A directory or a .tar file of images.
    #[arg(long, conflicts_with = "features")]
    pub images: Option<PathBuf>,
    /// A safetensors file with a tensor `x` [rows, width].
    #[arg(long)]
    pub features: Option<PathBuf>,
    /// Number of codes; with --compare, a list.
    #[arg(long, value_delimiter = ',', default_value = "16384")]
    pub codes: Vec<usize>,
    /// Dimensions of a code.
    #[arg(long, default_value_t = 8)]
    pub dim: usize,
    /// Side of a patch in pixels.
    #[arg(long, default_value_t = 4)]
    pub patch: usize,
    /// How codes are learned.
    #[arg(long, value_enum, default_value = "ema")]
    pub learn: Learn,
    /// Where codes start [default: kmeans for projector, else normal].
    #[arg(long, value_enum)]
    pub init: Option<Init>,
    /// Normalize rows and codes [default: for gradient and ema; plain and projector were published without].
    #[arg(long, overrides_with = "no_l2")]
    pub l2: bool,
    /// Compare rows and codes by distance, without normalizing them.
    #[arg(long, overrides_with = "l2")]
    pub no_l2: bool,
    /// Do not replace stale codes.
    #[arg(long)]
    pub no_restart: bool,
    /// Codes of the input's full width: encoder and decoder do not change it.
    #[arg(long)]
    pub no_factorize: bool,
    /// Training steps.
    #[arg(long, default_value_t = 1500)]
    pub steps: u64,
    /// Rows in a step.
    #[arg(long, default_value_t = 4096)]
    pub batch: usize,
    /// Largest learning rate.
    #[arg(long, default_value_t = 5e-3)]
    pub lr: f64,
    /// Weight of the commitment term beside the mean squared error of the reconstruction
    /// [default: 0.25; for projector 0.1, as VQGAN-LC].
    #[arg(long)]
    pub commitment: Option<f64>,
    /// Passes of Lloyd's iteration after the seeds of --init kmeans.
    #[arg(long, default_value_t = 1)]
    pub kmeans_passes: u64,
    /// Rendered scenes, where no data is given [default: 512].
    #[arg(long)]
    pub scenes: Option<usize>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads [default: all].
    #[arg(long)]
    pub threads: Option<usize>,
    /// Instruction set: auto, scalar, avx2, avx2vnni, avx512, avx512vnni, amx, neon, neoni8mm, neondot, simd128.
    #[arg(long, default_value = "auto")]
    pub isa: String,
    /// Where results go.
    #[arg(long, default_value = "out/codebook")]
    pub out: PathBuf,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 250)]
    pub save_every: u64,
    /// Go on from the checkpoint in --out.
    #[arg(long)]
    pub resume: bool,
    /// Train all learners, and the ablation of the three fixes, side by side.
    #[arg(long)]
    pub compare: bool,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// The most rows that one code's statistics take in a step.
const MOST_ROWS: usize = 1 << 22;

impl Options {
    /// What clap's types do not say.
    pub fn check(&self) -> Result<(), Failure> {
        let refuse = |what: &str| Err(Failure::new(what));
        if self.codes.is_empty() || self.codes.contains(&0) {
            return refuse("--codes must be at least 1");
        }
        if self.codes.len() > 1 && !self.compare {
            return refuse("--codes takes a list only together with --compare");
        }
        let positive = [("--dim", self.dim), ("--patch", self.patch), ("--batch", self.batch)];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return refuse(&format!("{name} must be at least 1"));
        }
        if self.steps == 0 || self.save_every == 0 {
            return refuse("--steps and --save-every must be at least 1");
        }
        if self.batch > MOST_ROWS {
            return refuse(&format!("--batch must be at most {MOST_ROWS}"));
        }
        if self.scenes.is_some_and(|n| n < 2) {
            return refuse("--scenes must be at least 2: one to train on, one held out");
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return refuse("--lr must be a positive number");
        }
        if self.commitment.is_some_and(|weight| !(weight.is_finite() && weight >= 0.0)) {
            return refuse("--commitment must be a number of at least 0");
        }
        if self.resume && self.compare {
            return refuse("--resume goes on with a single run; --compare has none to go on with");
        }
        Ok(())
    }

    /// The number of codes of a single run.
    pub fn single_codes(&self) -> usize {
        self.codes.first().copied().unwrap_or(1)
    }
}
