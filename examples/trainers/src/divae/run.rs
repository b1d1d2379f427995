//! A whole training, from options to results.

use std::sync::Arc;

use super::data::Data;
use super::frozen::Frozen;
use super::options::Options;
use super::task::{DivaeTask, KIND};
use crate::common::failure::Failure;
use crate::on_device;
use crate::shell::{Files, TrainBackend, pool, run_task};

/// Trains, saves, evaluates, reports.
///
/// # Errors
/// Options, files and losses that do not allow it, in words; Ctrl-C after saving.
pub fn run(options: &Options) -> Result<(), Failure> {
    on_device!(options.run.device, run_on, options)
}

fn run_on<B: TrainBackend>(options: &Options, device: B::Device) -> Result<(), Failure> {
    options.run.check()?;
    let mut config = options.config()?;
    let effort = options.effort(&config)?;
    if let Some(why) = config.narrow() {
        eprintln!("note          {why}");
    }
    Files::of(&options.run.directory(KIND)).prepare(options.run.resume)?;
    let pool = pool()?;
    let frozen = match &options.encoder {
        Some(path) => {
            let frozen = Frozen::open(path, Some(Arc::clone(&pool)), &device)?;
            frozen.fit(&mut config)?;
            Some(frozen)
        }
        None => None,
    };
    let needed = config.augment.source_size(config.size());
    let data = Data::open(&options.data.source(needed), options.data.hold_out, &config)?;
    let task = DivaeTask::<B>::new(config, data, effort, frozen);
    run_task(&task, &options.run, pool, device)
}
