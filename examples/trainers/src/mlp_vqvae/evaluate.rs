//! What a trained VQ-VAE of vectors is worth: held-out vectors and their copies, beside what a spectrum allows.

use serde::{Deserialize, Serialize};

use super::data::Data;
use super::task::of_heads;
use super::tokenizer::Tokenizer;
use crate::common::failure::Failure;
use crate::common::terminal::{Count, Progress, interrupted};
use crate::data::maps::{FixedMaps, MapBatch};
use crate::metrics::maps::{MeanPredictor, mean_cosine};
use crate::metrics::{Definition, Frechet, Pca, Spectrum, UsageCounter, UsageReport};
use crate::quantize::QuantizeBackend;

/// Vectors at a time.
const BATCH: usize = 64;

/// What a trained model is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The held-out set.
    pub set: String,
    /// Its vectors.
    pub samples: usize,
    /// The training's loss of vectors and their copies as they come from their file; its mean.
    pub loss: f64,
    /// The loss of the training set's mean.
    pub mean_predictor_loss: f64,
    /// The loss as a share of that.
    pub relative_loss: f64,
    /// Mean cosine of vectors and their copies.
    pub cosine: f64,
    /// Mean cosine of vectors and the training set's mean.
    pub mean_predictor_cosine: f64,
    /// Bits of a vector's tokens.
    pub bits: f64,
    /// What a perfect code of so many bits a vector would reach, were the vectors normal numbers of the training set's covariance: [`Spectrum`].
    pub spectrum_cosine: f64,
    /// What as many principal components of the training set as there are tokens keep, as real numbers.
    pub pca_cosine: f64,
    /// Codes over the training set, after the training; the codes of all heads together.
    pub usage: UsageReport,
    /// Codes over the held-out set.
    pub held_out_usage: UsageReport,
    /// How often each code occurred in `usage`.
    #[serde(skip)]
    pub counts: Vec<u64>,
}

/// Evaluates a model.
///
/// # Errors
/// Ctrl-C; as the parts.
pub fn evaluate<B: QuantizeBackend>(tokenizer: &Tokenizer<B>, data: &Data) -> Result<Evaluation, Failure> {
    let config = &tokenizer.config;
    let (channels, coding) = (config.modality.channels(), &config.coding);
    let Some(distance) = config.loss.distance() else {
        return Err(Failure::new(format!("--loss {:?} is not for vectors", config.loss)));
    };
    let (mut predictor, mut rows) = (MeanPredictor::new(channels), Frechet::new(channels)?);
    let mut usage = UsageCounter::new(Definition::TrainingSet, data.train().name(), coding.all_codes())?;
    each_batch("utilization", data.train(), |batch| {
        rows.add(&batch.values)?;
        usage.add(&of_heads(coding, &tokenizer.encode(&batch.values)?))?;
        batch.values.chunks_exact(channels).try_for_each(|vector| predictor.add(vector))
    })?;
    let mean: Vec<f32> = predictor.means().into_iter().map(|value| value as f32).collect();
    let mut held_out_usage = UsageCounter::new(Definition::HeldOut, data.held_out().name(), coding.all_codes())?;
    let [mut loss, mut mean_loss, mut cosine, mut mean_predictor_cosine] = [0.0; 4];
    let mut all = Vec::new();
    each_batch("held-out vectors", data.held_out(), |batch| {
        let tokens = tokenizer.encode(&batch.values)?;
        held_out_usage.add(&of_heads(coding, &tokens))?;
        let copies = tokenizer.decode(&tokens)?;
        for (vector, copy) in batch.values.chunks_exact(channels).zip(copies.chunks_exact(channels)) {
            loss += distance.of(vector, copy, channels)?;
            mean_loss += predictor.distance(vector, distance)?;
            cosine += mean_cosine(vector, copy, channels)?;
            mean_predictor_cosine += mean_cosine(vector, &mean, channels)?;
        }
        all.extend_from_slice(&batch.values);
        Ok(())
    })?;
    let n = data.held_out().len() as f64;
    let bits = coding.heads() as f64 * (coding.codes() as f64).log2();
    let pca = Pca::new(&rows, coding.heads().min(channels))?;
    Ok(Evaluation {
        set: data.held_out().name(),
        samples: data.held_out().len(),
        loss: loss / n,
        mean_predictor_loss: mean_loss / n,
        relative_loss: loss / mean_loss,
        cosine: cosine / n,
        mean_predictor_cosine: mean_predictor_cosine / n,
        bits,
        spectrum_cosine: Spectrum::new(&rows)?.cosine(&rows.mean(), bits),
        pca_cosine: pca.cosine(&all)?,
        usage: usage.report(),
        held_out_usage: held_out_usage.report(),
        counts: usage.counts().to_vec(),
    })
}

/// Calls `with` for every vector, some at a time, with progress.
fn each_batch(
    what: &str,
    maps: &FixedMaps,
    mut with: impl FnMut(MapBatch) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut progress = Progress::new(what, maps.len() as u64, Count::Items);
    let mut done = 0;
    for batch in maps.batches(BATCH) {
        if interrupted() {
            return Err(Failure::interrupted());
        }
        done += batch.len() as u64;
        with(batch)?;
        progress.tick(done, "");
    }
    progress.done();
    Ok(())
}
