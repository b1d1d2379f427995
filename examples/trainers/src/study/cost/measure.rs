//! The clock: a whole training step, and the quantizer's part of it.

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Tensor;
use vq_kernels::Pool;

use super::super::numbers::least;
use crate::common::failure::{Context, Failure};
use crate::common::learning;
use crate::common::random::SplitMix64;
use crate::common::terminal::interrupted;
use crate::data::{Batches, Dataset, Source};
use crate::losses::perceptual::Perceptual;
use crate::shell::optimize;
use crate::vqgan::config::{Config, System};
use crate::vqgan::trainer::{TrainBackend, Trainer};

/// Repeats of the quantizer's part at least: it is short.
const QUANTIZER_REPEATS: usize = 5;

/// What the clock showed, each the least of all repeats, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The whole step: encoder, quantizer, decoder, losses, all gradients, all updates.
    pub step: f64,
    /// The quantizer's forward, backward and update on the same latents.
    pub quantizer: f64,
}

/// Measures a configuration on rendered scenes, with its codes as they start.
///
/// # Errors
/// Settings that do not fit; a loss that is not finite; Ctrl-C.
pub fn measure<B: TrainBackend>(
    config: &Config,
    perceptual: Option<Perceptual<B>>,
    pool: Arc<dyn Pool + Send + Sync>,
    repeats: usize,
    device: &B::Device,
) -> Result<Times, Failure> {
    let centres = (config.codes.system == System::Lc).then(|| centres(config));
    let images: Tensor<B, 4> = images(config, device)?;
    let mut trainer = Trainer::<B>::new(config.clone(), centres, perceptual, Some(pool), device.clone())?;
    let mut steps = Vec::new();
    // One step more warms up, where there are several.
    for i in 0..repeats + usize::from(repeats > 1) {
        let seconds = timed::<B>(device, || trainer.step(images.clone()).map(|_| ()))?;
        if i > 0 || repeats == 1 {
            steps.push(seconds);
        }
    }
    let quantizer = quantizer_times(&trainer, images, repeats.max(QUANTIZER_REPEATS), device)?;
    match (least(&steps), least(&quantizer)) {
        (Some(step), Some(quantizer)) => Ok(Times { step, quantizer }),
        _ => Err(Failure::new("--repeats 0: at least one step must be measured")),
    }
}

/// Forward, backward, statistics and update of the quantizer alone, on the encoder's latents.
fn quantizer_times<B: TrainBackend>(
    trainer: &Trainer<B>,
    images: Tensor<B, 4>,
    repeats: usize,
    device: &B::Device,
) -> Result<Vec<f64>, Failure> {
    let (handle, config) = (trainer.quantizer(), trainer.config());
    let (latents, _) = trainer.trained().rows(images.inner());
    let mut adam = handle.read(|quantizer| learning::optimizer(quantizer, config.settings.optimizer.constants()))?;
    let mut times = Vec::new();
    for i in 0..=repeats {
        let rows = Tensor::<B, 2>::from_inner(latents.clone()).require_grad();
        let seconds = timed::<B>(device, || {
            let quantized = handle.forward(rows.clone())?;
            let loss = quantized.output.sum()
                + quantized.codebook_loss.mul_scalar(config.losses.codebook)
                + quantized.commitment_loss.mul_scalar(config.losses.commitment);
            let _gradients = loss.backward();
            handle.update()?;
            optimize(handle, &mut adam, config.settings.optimizer.lr)
        })?;
        if i > 0 {
            times.push(seconds);
        }
    }
    Ok(times)
}

/// Seconds until the device has done what `work` asked for.
fn timed<B: TrainBackend>(device: &B::Device, work: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    if interrupted() {
        return Err(Failure::interrupted());
    }
    B::sync(device).map_err(|cause| format!("{cause:?}")).context(|| "waiting for the device".into())?;
    let started = Instant::now();
    work()?;
    B::sync(device).map_err(|cause| format!("{cause:?}")).context(|| "waiting for the device".into())?;
    Ok(started.elapsed().as_secs_f64())
}

/// Synthetic centres `[codes, source_dim]`, uniform in ±√3, so of variance 1: how long a step takes does not depend on them.
fn centres(config: &Config) -> Vec<f32> {
    let mut random = SplitMix64::new(config.settings.seed);
    let half = 3.0_f32.sqrt();
    (0..config.codes.codes * config.codes.source_dim).map(|_| random.uniform(-half, half)).collect()
}

/// One batch of rendered scenes.
fn images<B: TrainBackend>(config: &Config, device: &B::Device) -> Result<Tensor<B, 4>, Failure> {
    let size = config.backbone.image_size();
    let scenes =
        Dataset::open(&Source::Scenes { count: config.settings.batch, size, seed: config.settings.seed }, false)?;
    Ok(Batches::new(&scenes, size, config.settings.batch, config.augment, config.settings.seed)?
        .get(0)
        .to_tensor(device))
}
