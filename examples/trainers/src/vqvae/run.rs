//! A whole training, from options to results.

use burn::module::AutodiffModule;

use super::data::{Data, Teacher};
use super::options::Options;
use super::presets::Kind;
use super::task::{KIND, VqvaeTask};
use crate::common::failure::Failure;
use crate::data::{Dataset, Source};
use crate::features::{VisionEncoder, load_vision_encoder};
use crate::losses::perceptual::Perceptual;
use crate::on_device;
use crate::shell::{Files, TrainBackend, pool, run_task};

/// Seed of the split into a training and a held-out part: one for all runs, so that their figures compare.
const SPLIT: u64 = 0;

/// Trains, saves, evaluates, reports.
///
/// # Errors
/// Options, files and losses that do not allow it, in words; Ctrl-C after saving.
pub fn run(options: &Options) -> Result<(), Failure> {
    on_device!(options.run.device, run_on, options)
}

fn run_on<B: TrainBackend>(options: &Options, device: B::Device) -> Result<(), Failure> {
    options.run.check()?;
    let (kind, mut config) = (options.kind()?, options.config()?);
    Files::of(&options.run.directory(KIND)).prepare(options.run.resume)?;
    let data = match kind {
        Kind::Rgb | Kind::Features => {
            let teacher = match kind {
                Kind::Features => Some(teacher::<B>(options, &device)?),
                Kind::Rgb | Kind::Semseg | Kind::Masks => None,
            };
            let size = teacher.as_ref().map_or(config.size(), |teacher| teacher.net.input_size());
            let needed = (size as f64 / f64::from(config.augment.min_scale)).ceil() as usize;
            let source = match &options.data {
                Some(path) => Source::Path(path.clone()),
                None => Source::Scenes { count: options.scenes, size: needed.min(2 * size), seed: 0 },
            };
            let (train, held_out) = Dataset::open(&source, true)?.shrunk(needed)?.split(options.hold_out, SPLIT)?;
            Data::of_images(&train, &held_out, teacher, &mut config)?
        }
        Kind::Semseg | Kind::Masks => return Err(Failure::new("not yet")),
    };
    config.check()?;
    let perceptual = match config.perceptual > 0.0 {
        true => {
            let perceptual = Perceptual::load(options.perceptual.as_deref(), options.lpips.as_deref(), &device)?;
            perceptual.check_size(config.size(), config.size())?;
            Some(perceptual)
        }
        false => None,
    };
    let task = VqvaeTask::<B> { config, data, perceptual, tokens_per_code: options.tokens_per_code };
    run_task(&task, &options.run, pool()?, device)
}

/// The network whose features are told.
fn teacher<B: TrainBackend>(options: &Options, device: &B::Device) -> Result<Teacher<B::InnerBackend>, Failure> {
    let net = match &options.teacher {
        Some(path) => load_vision_encoder::<B>(path, device)?,
        None => VisionEncoder::random(device),
    };
    Ok(Teacher { net: net.valid(), device: device.clone() })
}
