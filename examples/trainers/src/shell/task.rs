//! One kind of tokenizer, as the shell trains it.

use std::path::Path;

use burn::module::AutodiffModule;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{FloatDType, Tensor};
use serde::Serialize;
use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::codes::Codes;
use super::settings::Settings;
use super::state::{TrainBackend, Trained};
use crate::common::failure::Failure;
use crate::quantize::{Quantized, VectorQuantizer};

/// One kind of tokenizer: its networks, its data, its loss, and how it is judged.
pub trait Task<B: TrainBackend> {
    /// The networks, which the shell's optimizer trains.
    type Model: AutodiffModule<B>;

    /// All that defines a run, but its data and its frozen networks; written into checkpoints.
    type Config: Serialize;

    /// What kind of tokenizer it is, in checkpoints.
    const KIND: &'static str;

    /// What a run writes besides what the shell writes: stale ones are removed at a run's start.
    const RESULTS: &'static [&'static str];

    /// Curves to draw: what each is called, and its field in the log.
    const CURVES: &'static [(&'static str, &'static str)];

    /// The run's definition.
    fn config(&self) -> &Self::Config;

    /// How long, how fast, from which seed.
    fn settings(&self) -> &Settings;

    /// The codes, where the networks have none of their own.
    fn codes(&self) -> Option<&Codes>;

    /// Codes in all.
    fn code_count(&self) -> usize;

    /// Tokens of one sample.
    fn tokens(&self) -> usize;

    /// Names of the data and of frozen networks, which a run goes on with alone.
    fn inputs(&self) -> [String; 2];

    /// Samples that an epoch has.
    fn epoch(&self) -> usize;

    /// The networks with their initial values, which are a function of the seed ([`settle`](crate::params::settle)).
    ///
    /// # Errors
    /// A file of weights that does not fit.
    fn model(&self, device: &B::Device) -> Result<Self::Model, Failure>;

    /// A checkpoint of the same kind whose networks and codes the training starts from, its optimizer not: 4M adapts so to larger images.
    fn start(&self) -> Option<&Path> {
        None
    }

    /// The loss of a step. Data, noise and all that is random are a function of the seed and the step, and of what is
    /// [remembered](Self::remembered).
    ///
    /// # Errors
    /// As the parts.
    fn loss(&self, pass: Pass<'_, B, Self::Model>) -> Result<Loss<B>, Failure>;

    /// What it learned from earlier losses, by its name in checkpoints: most tasks nothing.
    fn remembered(&self) -> Vec<(&'static str, Vec<u8>)> {
        Vec::new()
    }

    /// Takes up what was [remembered](Self::remembered).
    ///
    /// # Errors
    /// What is missing in the file, or damaged.
    fn recall(&self, _file: &mut Checkpoint) -> Result<(), Failure> {
        Ok(())
    }

    /// What is noted before the first step, as line 0 of the log: losses to compare with later.
    ///
    /// # Errors
    /// As the parts.
    fn before(&self, _start: &TrainedOf<B, Self::Model>) -> Result<Option<Value>, Failure> {
        Ok(None)
    }

    /// Evaluates, draws, and returns the summary. `history` are the lines of the log; `out` is the run's directory.
    ///
    /// # Errors
    /// Ctrl-C; where a file cannot be written; as the parts.
    fn finish(&self, trained: &TrainedOf<B, Self::Model>, history: &[Value], out: &Path) -> Result<Value, Failure>;
}

/// What evaluation sees of a training: the moving averages where there are any.
pub type TrainedOf<B, M> = Trained<<B as AutodiffBackend>::InnerBackend, <M as AutodiffModule<B>>::InnerModule>;

/// A training pass.
pub struct Pass<'a, B: TrainBackend, M> {
    /// The step, from 0.
    pub step: u64,
    /// The networks, in [`dtype`](Self::dtype).
    pub model: &'a M,
    /// The codes, where the networks have none of their own.
    pub quantizer: Option<&'a VectorQuantizer>,
    /// What the networks compute in: their inputs are to be cast to it, and losses taken in f32.
    pub dtype: FloatDType,
    /// Where it runs.
    pub device: &'a B::Device,
}

/// What a pass found.
pub struct Loss<B: TrainBackend> {
    /// The weighted sum, in f32.
    pub total: Tensor<B, 1>,
    /// Its terms, unweighted, by the name of their field in the log.
    pub terms: Vec<(&'static str, f64)>,
    /// What the quantizer returned, where there is one; its two terms are part of the total, if they have a weight.
    pub quantized: Option<Quantized<B>>,
    /// The codes that were hit, where the networks have codes of their own.
    pub hits: Vec<u32>,
}
