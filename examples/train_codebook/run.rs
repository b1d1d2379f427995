//! A single training, from options to results.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::common::Failure;
use crate::common::failure::At;
use crate::common::files::{append_line, create_writable, remove, truncate_log};
use crate::common::processor::Processor;
use crate::common::terminal::{Count, Progress, interrupted, print};
use crate::data::Data;
use crate::options::{Init, Learn, Options};
use crate::report::{Figures, draw};
use crate::trainer::{Plan, Trainer};

/// Side and number of the scenes that are rendered where there is no data.
const SCENE_SIZE: usize = 128;
const SCENES: usize = 512;

/// The files of a run.
struct Files {
    checkpoint: PathBuf,
    log: PathBuf,
    codebook: PathBuf,
}

impl Files {
    fn of(out: &Path) -> Self {
        Self {
            checkpoint: out.join("checkpoint.safetensors"),
            log: out.join("log.jsonl"),
            codebook: out.join("codebook.safetensors"),
        }
    }
}

/// Trains, saves, reports.
pub fn run(options: &Options) -> Result<(), Failure> {
    let started = Instant::now();
    let files = Files::of(&options.out);
    create_writable(&options.out)?;
    let processor = processor(options)?;
    let data = Data::load(options, options.patch, SCENE_SIZE, SCENES, processor.pool())?;
    if options.resume && !files.checkpoint.exists() {
        let place = files.checkpoint.display();
        return Err(Failure::new(format!("there is no checkpoint `{place}` to go on with; leave out --resume")));
    }
    let mut trainer = Trainer::new(plan(options), &data, processor.cpu())?;
    let mut history = Vec::new();
    if options.resume {
        trainer.load(&files.checkpoint, &data)?;
        let step = trainer.quantizer.step();
        let reached = |line: &Value| line["step"].as_u64().is_some_and(|logged| logged <= step);
        truncate_log(&files.log, reached)?;
        history = logged_utilization(&files.log)?;
        eprintln!("resuming at step {step}");
    } else {
        // What an earlier run left must not be taken for this one's.
        for file in [&files.checkpoint, &files.log] {
            remove(file)?;
        }
    }
    train(options, &files, &data, &mut trainer, &mut history)?;
    trainer.export(&files.codebook, &data)?;
    let figures = Figures::of(&trainer, &data)?;
    draw(&options.out, &figures, &data, &history)?;
    let seconds = started.elapsed().as_secs_f64();
    figures.print(&trainer, &data, seconds);
    eprintln!("results       {}", options.out.display());
    if options.json {
        print(&figures.json(&trainer, &data, seconds).to_string())?;
    }
    Ok(())
}

fn train(
    options: &Options,
    files: &Files,
    data: &Data,
    trainer: &mut Trainer,
    history: &mut Vec<(f64, f64)>,
) -> Result<(), Failure> {
    let mut progress = Progress::new("training", options.steps, Count::Items);
    let (first, started) = (trainer.quantizer.step(), Instant::now());
    while trainer.quantizer.step() < options.steps {
        if interrupted() {
            trainer.save(&files.checkpoint, data)?;
            let step = trainer.quantizer.step();
            progress.warn(format!("interrupted; saved at step {step}: run the same command with --resume to go on"));
            return Err(Failure::interrupted());
        }
        let report = trainer.step(data)?;
        let step = trainer.quantizer.step();
        let utilization = trainer.recent_utilization();
        let rows_per_second = (step - first) as f64 * options.batch as f64 / started.elapsed().as_secs_f64();
        progress.tick(
            step,
            format!(
                "commitment {:.5} utilization {:.1} % {rows_per_second:.0} rows/s",
                report.loss.commitment,
                100.0 * utilization
            ),
        );
        if step.is_multiple_of((options.steps / 100).max(1)) || step == options.steps {
            append_line(&files.log, &trainer.log_line(&report))?;
            history.push((step as f64, utilization));
        }
        if step.is_multiple_of(options.save_every) || step == options.steps {
            trainer.save(&files.checkpoint, data)?;
        }
    }
    progress.done();
    Ok(())
}

/// The training that the options describe.
fn plan(options: &Options) -> Plan {
    let published = Plan::published(options.learn, options.single_codes(), options);
    Plan {
        init: options.init.unwrap_or(match options.learn {
            Learn::Projector => Init::Kmeans,
            Learn::Plain | Learn::Gradient | Learn::Ema => Init::Normal,
        }),
        l2: !options.no_l2 && (options.l2 || matches!(options.learn, Learn::Gradient | Learn::Ema)),
        restart: !options.no_restart,
        factorize: published.factorize && !options.no_factorize,
        ..published
    }
}

/// The instruction set and the threads that the options ask for.
pub fn processor(options: &Options) -> Result<Processor, Failure> {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    Processor::new(&options.isa, options.threads.unwrap_or_else(all))
}

/// The utilization that a log holds, step by step.
fn logged_utilization(log: &Path) -> Result<Vec<(f64, f64)>, Failure> {
    if !log.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(log).at("read", log)?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines.filter_map(|line| Some((line["step"].as_f64()?, line["recent_utilization"].as_f64()?))).collect())
}
