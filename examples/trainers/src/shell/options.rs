//! Options that all trainings have.

use core::fmt::Debug;
use std::path::PathBuf;

use clap::Args;

use super::codes::Codes;
use super::settings::Settings;
use crate::backend::Device;
use crate::common::failure::Failure;
use crate::data::Source;

/// Where a run computes and what it writes when.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// Where to compute: cpu, or cuda[:N] in a build with --features cuda.
    #[arg(long, default_value = "cpu")]
    pub device: Device,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 200)]
    pub save_every: u64,
    /// Steps between lines of the log.
    #[arg(long, default_value_t = 10)]
    pub log_every: u64,
    /// Go on from the checkpoint in --out.
    #[arg(long)]
    pub resume: bool,
    /// Where results go [default: out/ and the program's kind of tokenizer].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

impl RunOptions {
    /// # Errors
    /// An interval of 0 steps.
    pub fn check(&self) -> Result<(), Failure> {
        for (name, value) in [("--save-every", self.save_every), ("--log-every", self.log_every)] {
            if value == 0 {
                return Err(Failure::new(format!("{name} must be at least 1")));
            }
        }
        Ok(())
    }

    /// Where results go.
    pub fn directory(&self, kind: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| PathBuf::from("out").join(kind))
    }
}

/// Which samples a run is of.
#[derive(Clone, Debug, Args)]
pub struct DataOptions {
    /// A directory, archive or file of samples [default: scenes that are rendered].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// How many scenes are rendered, where no data is given.
    #[arg(long, default_value_t = 1024)]
    pub scenes: usize,
    /// Share of the samples that is held out for testing.
    #[arg(long, default_value_t = 0.1)]
    pub hold_out: f64,
}

impl DataOptions {
    /// The given data, or scenes that crops of `size` pixels can be cut from.
    pub fn source(&self, size: usize) -> Source {
        match &self.data {
            Some(path) => Source::Path(path.clone()),
            None => Source::Scenes { count: self.scenes, size, seed: 0 },
        }
    }
}

/// Changes of a preset's settings.
#[derive(Clone, Debug, Args)]
pub struct SettingOptions {
    /// Training steps.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Samples a step.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Learning rate after the warm-up.
    #[arg(long)]
    pub lr: Option<f64>,
    /// Steps of warm-up.
    #[arg(long)]
    pub warmup: Option<u64>,
    /// Decoupled weight decay.
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Largest length of all gradients together.
    #[arg(long)]
    pub clip: Option<f64>,
    /// Decay of the weights' moving average, which then is what is evaluated.
    #[arg(long)]
    pub average: Option<f64>,
    /// Compute the networks in bf16.
    #[arg(long)]
    pub amp: bool,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl SettingOptions {
    /// Changes what was asked for.
    pub fn apply(&self, settings: &mut Settings) {
        let optimizer = &mut settings.optimizer;
        optimizer.lr = self.lr.unwrap_or(optimizer.lr);
        optimizer.weight_decay = self.weight_decay.unwrap_or(optimizer.weight_decay);
        optimizer.warmup = self.warmup.unwrap_or(optimizer.warmup);
        optimizer.clip = self.clip.or(optimizer.clip);
        settings.steps = self.steps.unwrap_or(settings.steps);
        settings.batch = self.batch.unwrap_or(settings.batch);
        settings.average = self.average.or(settings.average);
        settings.amp |= self.amp;
        settings.seed = self.seed;
    }
}

/// What is trained on: the preset's kind of samples, or where it leaves them open the kind that is asked for.
///
/// # Errors
/// Another kind than the preset's.
pub fn kind_of<K: Copy + PartialEq + Debug>(preset: Option<K>, asked: Option<K>, default: K) -> Result<K, Failure> {
    match (preset, asked) {
        (Some(kind), Some(asked)) if kind != asked => {
            Err(Failure::new(format!("--modality {asked:?}: this preset is of {kind:?} alone")))
        }
        (Some(kind), _) => Ok(kind),
        (None, asked) => Ok(asked.unwrap_or(default)),
    }
}

/// Changes of a preset's codes.
#[derive(Clone, Debug, Args)]
pub struct CodeOptions {
    /// Number of codes.
    #[arg(long)]
    pub codes: Option<usize>,
    /// Dimensions of a code.
    #[arg(long)]
    pub dim: Option<usize>,
    /// Compare latents and codes after l2 normalization: true or false.
    #[arg(long)]
    pub l2_norm: Option<bool>,
    /// Restart stale codes: true or false.
    #[arg(long)]
    pub restart: Option<bool>,
    /// Share that codes' moving averages keep at each step; a shorter memory finds stale codes sooner.
    #[arg(long)]
    pub decay: Option<f64>,
    /// Gradients by the rotation trick instead of straight through.
    #[arg(long)]
    pub rotation: bool,
    /// Weight of the commitment term, which draws latents to their codes.
    #[arg(long)]
    pub commitment: Option<f64>,
}

impl CodeOptions {
    /// Changes what was asked for.
    pub fn apply(&self, codes: &mut Codes) {
        codes.codes = self.codes.unwrap_or(codes.codes);
        codes.dim = self.dim.unwrap_or(codes.dim);
        codes.normalize = self.l2_norm.unwrap_or(codes.normalize);
        codes.restart = self.restart.unwrap_or(codes.restart);
        codes.decay = self.decay.unwrap_or(codes.decay);
        codes.rotation |= self.rotation;
    }
}
