//! A whole training, from options to results.

use std::path::Path;

use super::data::Data;
use super::options::Options;
use super::presets::Kind;
use super::task::{KIND, MlpVqvaeTask};
use crate::common::failure::Failure;
use crate::data::maps::{Maps, Opening, vector_width};
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
    let path = options.data.data.as_deref();
    let mut config = options.config(width(options, path)?)?;
    Files::of(&options.run.directory(KIND)).prepare(options.run.resume)?;
    let opening = Opening { tensor: options.tensor.clone(), progress: true };
    let maps = Maps::open(config.modality, &options.data.source(1), &opening)?;
    let (train, held_out) = maps.split(options.data.hold_out, SPLIT)?;
    let data = Data::new(&train, &held_out, &mut config)?;
    config.check()?;
    run_task::<B, _>(&MlpVqvaeTask { config, data }, &options.run, pool()?, device)
}

/// The values of a vector of the file, where it is of embeddings and nobody said how many they have.
fn width(options: &Options, path: Option<&Path>) -> Result<Option<usize>, Failure> {
    match path {
        Some(path) if options.kind()? == Kind::Vectors && options.values.is_none() => {
            vector_width(path, options.tensor.as_deref()).map(Some)
        }
        _ => Ok(None),
    }
}
