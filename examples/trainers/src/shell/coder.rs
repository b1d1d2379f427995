//! Codes that the kernels learn, with their optimizer.

use std::sync::Arc;

use vq_kernels::Pool;
use vq_kernels::quantizer::{Config as QuantizerConfig, Initial, Learner, Quantizer, StateMut, StateRef};

use super::checkpoint::Checkpoint;
use super::codes::{Codes, System};
use super::settings::Settings;
use crate::common::adam::Adam;
use crate::common::failure::{Context, Failure};
use crate::common::learning;
use crate::common::tensors::Tensor;
use crate::quantize::{Updated, VectorQuantizer};

/// Threads for the quantizer.
pub type SharedPool = Arc<dyn Pool + Send + Sync>;

/// All threads of the machine.
///
/// # Errors
/// Where they cannot be started.
pub fn pool() -> Result<SharedPool, Failure> {
    Ok(Arc::new(rayon::ThreadPoolBuilder::new().build().context(|| "cannot start threads".into())?))
}

/// A quantizer and the optimizer of its own parameters.
pub struct Coder {
    handle: VectorQuantizer,
    adam: Adam,
    pool: Option<SharedPool>,
}

/// Frozen centres are in their own file, which the configuration names by its hash.
fn is_trained(name: &str) -> bool {
    name != "source"
}

impl Coder {
    /// Codes at their start. `centres` are those of VQGAN-LC, `[codes, source_dim]`.
    ///
    /// # Errors
    /// Settings that do not fit.
    pub fn new(
        codes: &Codes,
        settings: &Settings,
        centres: Option<Vec<f32>>,
        pool: Option<SharedPool>,
    ) -> Result<Self, Failure> {
        codes.check()?;
        let initial = match (codes.system, centres) {
            (System::Lc, Some(centres)) => Initial::Codes(centres),
            (System::Lc, None) => return Err(Failure::new("VQGAN-LC takes its centres from a file: give --codebook")),
            (System::Vqgan | System::Fc | System::Ema, _) if codes.normalize => Initial::Normal,
            (System::Vqgan | System::Fc | System::Ema, _) => Initial::Uniform,
        };
        let layer = codes.layer(settings.seed);
        let mut quantizer = Quantizer::new(layer, initial).context(|| "cannot set up the quantizer".into())?;
        if codes.system == System::Lc && codes.standardize && !codes.normalize {
            standardize(&mut quantizer)?;
        }
        let adam = learning::optimizer(&quantizer, settings.optimizer.constants());
        Ok(Self { handle: on(quantizer, pool.as_ref()), adam, pool })
    }

    /// The quantizer, as the networks' passes use it.
    pub fn handle(&self) -> &VectorQuantizer {
        &self.handle
    }

    /// A copy of the quantizer, for its moving average.
    ///
    /// # Errors
    /// What a device tells.
    pub(super) fn copy(&self) -> Result<Quantizer, Failure> {
        Ok(self.handle.read(Clone::clone)?)
    }

    /// Another quantizer on the same threads.
    pub(super) fn sibling(&self, quantizer: &Quantizer) -> VectorQuantizer {
        on(quantizer.clone(), self.pool.as_ref())
    }

    /// After `backward`: statistics, moving averages, restarts, and the optimizer's step.
    pub(super) fn learn(&mut self, lr: f64) -> Result<Updated, Failure> {
        let updated = self.handle.update()?;
        optimize(&self.handle, &mut self.adam, lr)?;
        Ok(updated)
    }

    /// Moves a quantizer's codes and layers towards this one's; centres are frozen, and counters have no average. A code that was
    /// restarted begins anew in its average too: halfway between two places it would be used by nothing.
    pub(super) fn average(&self, averaged: &mut Quantizer, codes: &Codes, decay: f64) -> Result<(), Failure> {
        let restarted = self.handle.last_restarted();
        self.handle.read(|quantizer| {
            let now = quantizer.state();
            averaged.restore(|name, place| {
                let moves =
                    matches!(name, "codebook" | "latent") || name.ends_with(".weight") || name.ends_with(".bias");
                let found = now.iter().find(|(found, _)| *found == name).map(|(_, values)| *values);
                if let (true, StateMut::F32(values), Some(StateRef::F32(now))) = (moves, place, found) {
                    for (average, &now) in values.iter_mut().zip(now) {
                        *average = (decay * f64::from(*average) + (1.0 - decay) * f64::from(now)) as f32;
                    }
                    if codes.normalize && name == "codebook" {
                        // The search by angle asks for unit rows, which a mean of unit rows is not.
                        values.chunks_exact_mut(codes.dim).for_each(to_unit_length);
                    }
                    if matches!(name, "codebook" | "latent") {
                        let width = values.len() / codes.codes;
                        for code in restarted.iter().map(|&code| code as usize) {
                            let row = code * width..(code + 1) * width;
                            values[row.clone()].copy_from_slice(&now[row]);
                        }
                    }
                }
                Ok::<(), Failure>(())
            })
        })?
    }

    /// Takes up what [`tensors`](Self::tensors) wrote of the quantizer `from` and of the optimizer.
    pub(super) fn restore(&mut self, prefix: &str, file: &mut Checkpoint) -> Result<(), Failure> {
        self.take_over(prefix, file)?;
        learning::restore_adam(prefix, &mut self.adam, file.file())
    }

    /// Takes up the codes of another training, with their statistics.
    pub(super) fn take_over(&mut self, prefix: &str, file: &mut Checkpoint) -> Result<(), Failure> {
        self.handle.with(|quantizer| restore(prefix, quantizer, file))?
    }

    /// The optimizer's moments.
    pub(super) fn moments(&self, prefix: &str) -> Vec<Tensor<'_>> {
        learning::adam_tensors(prefix, &self.adam)
    }
}

/// After an update, the optimizer's part of a step, wherever the quantizer is: as [`learning::apply`].
pub(crate) fn optimize(handle: &VectorQuantizer, adam: &mut Adam, lr: f64) -> Result<(), Failure> {
    learning::forget(adam, handle.last_restarted());
    Ok(handle.apply(|update| adam.update(update, lr))?)
}

/// A quantizer's tensors, but for frozen centres.
pub(super) fn tensors<'a>(prefix: &str, quantizer: &'a Quantizer) -> Vec<Tensor<'a>> {
    learning::quantizer_tensors(prefix, quantizer, is_trained)
}

/// Takes up what [`tensors`] wrote.
pub(super) fn restore(prefix: &str, quantizer: &mut Quantizer, file: &mut Checkpoint) -> Result<(), Failure> {
    learning::restore_quantizer(prefix, quantizer, file.file(), is_trained)
}

/// A quantizer that only encodes and decodes.
pub(crate) fn frozen(
    codes: &Codes,
    seed: u64,
    codebook: &[f32],
    pool: Option<SharedPool>,
) -> Result<VectorQuantizer, Failure> {
    let config = QuantizerConfig { learner: Learner::Frozen, restart: None, ..codes.layer(seed) };
    let mut quantizer = Quantizer::new(config, Initial::Codes(codebook.to_vec()))?;
    // As they were: normalizing unit rows again may move their last bits.
    quantizer.restore(|name, place| {
        if let ("codebook", StateMut::F32(values)) = (name, place) {
            values.copy_from_slice(codebook);
        }
        Ok::<(), Failure>(())
    })?;
    Ok(on(quantizer, pool.as_ref()))
}

fn on(quantizer: Quantizer, pool: Option<&SharedPool>) -> VectorQuantizer {
    let handle = VectorQuantizer::new(quantizer);
    match pool {
        Some(pool) => handle.with_pool(Arc::clone(pool)),
        None => handle,
    }
}

/// Scales and shifts a projector's outputs so that the projected codes have mean 0 and variance 1 in each dimension.
fn standardize(quantizer: &mut Quantizer) -> Result<(), Failure> {
    let Some(projector) = quantizer.projector().cloned() else { return Ok(()) };
    let (dim, width, codebook) = (quantizer.config().dim, projector.inputs(), quantizer.codebook().data().to_vec());
    let n = (codebook.len() / dim) as f64;
    // Of each dimension, what is subtracted and what then divides.
    let moments: Vec<(f64, f64)> = (0..dim)
        .map(|j| {
            let values = || codebook.iter().skip(j).step_by(dim).map(|&x| f64::from(x));
            let mean = values().sum::<f64>() / n;
            let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            (mean, if variance > 0.0 { variance.sqrt() } else { 1.0 })
        })
        .collect();
    let moved = |x: f32, j: usize| ((f64::from(x) - moments[j].0) / moments[j].1) as f32;
    quantizer.restore(|name, place| {
        let StateMut::F32(values) = place else { return Ok::<(), Failure>(()) };
        match name {
            "projector.weight" => {
                values.iter_mut().enumerate().for_each(|(i, w)| *w = (f64::from(*w) / moments[i / width].1) as f32);
            }
            "projector.bias" => values.iter_mut().enumerate().for_each(|(j, b)| *b = moved(*b, j)),
            "codebook" => values.iter_mut().enumerate().for_each(|(i, e)| *e = moved(*e, i % dim)),
            _ => {}
        }
        Ok(())
    })
}

fn to_unit_length(row: &mut [f32]) {
    let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
