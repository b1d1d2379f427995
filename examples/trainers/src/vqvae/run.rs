//! A whole training, from options to results.

use burn::module::AutodiffModule;

use super::config::Config;
use super::data::{Data, FeatureMaps, Teacher};
use super::options::Options;
use super::presets::Kind;
use super::task::{KIND, VqvaeTask};
use crate::common::failure::Failure;
use crate::common::scenes::Class;
use crate::data::Dataset;
use crate::data::maps::{Maps, Modality, Opening};
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
        Kind::Features => features::<B>(options, &device, &mut config)?,
        Kind::Rgb | Kind::Semseg | Kind::Masks => {
            let modality = match kind {
                Kind::Semseg => Modality::Segmentation { classes: options.classes.unwrap_or(Class::ALL.len()) },
                Kind::Masks => Modality::Mask,
                Kind::Rgb | Kind::Features => Modality::Rgb,
            };
            let needed = config.augment.source_size(config.sizes.map_or(config.size(), |sizes| sizes.max));
            let opening = Opening { progress: true, ..Opening::default() };
            let maps = Maps::open(modality, &options.data.source(needed), &opening)?;
            let (train, held_out) = maps.split(options.data.hold_out, SPLIT)?;
            Data::of_maps(&train, &held_out, &mut config)?
        }
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
    let task = VqvaeTask::<B> {
        config,
        data,
        perceptual,
        tokens_per_code: options.tokens_per_code,
        start: options.start.clone(),
    };
    run_task(&task, &options.run, pool()?, device)
}

/// Maps of a file, or a teacher's features of images.
fn features<B: TrainBackend>(options: &Options, device: &B::Device, config: &mut Config) -> Result<Data, Failure> {
    if let Some(path) =
        options.data.data.as_deref().filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
    {
        let (train, held_out) = FeatureMaps::open(path)?.split(options.data.hold_out, SPLIT)?;
        return Data::of_features(train, held_out, config);
    }
    let teacher = teacher::<B>(options, device)?;
    let size = teacher.net.input_size();
    let needed = config.augment.source_size(size);
    let images = Dataset::open(&options.data.source(size), true)?.shrunk(needed)?;
    let (train, held_out) = images.split(options.data.hold_out, SPLIT)?;
    let held_out = teacher.features(&held_out, 1, config.augment)?;
    Data::of_features(teacher.features(&train, options.views, config.augment)?, held_out, config)
}

/// The network whose features are told.
fn teacher<B: TrainBackend>(options: &Options, device: &B::Device) -> Result<Teacher<B::InnerBackend>, Failure> {
    let net = match &options.teacher {
        Some(path) => load_vision_encoder::<B>(path, device)?,
        None => VisionEncoder::random(device),
    };
    Ok(Teacher { net: net.valid(), device: device.clone() })
}
