//! From options to results: the loop over the steps, with log, checkpoints and Ctrl-C.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::FloatDType;
use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, Extra, identity};
use super::coder::{Coder, SharedPool};
use super::options::RunOptions;
use super::report::{curves_svg, read_log, utilization_svg, write_json};
use super::state::{Coding, State, TrainBackend};
use super::task::{Loss, Pass, Task};
use crate::common::failure::{Context, Failure};
use crate::common::files::{append_line, create_writable, remove, truncate_log};
use crate::common::terminal::{Count, Progress, interrupted, peak_rss_mb, print};
use crate::optim::Gradients;
use crate::params::{cast, cast_gradients};

/// What to do about a loss that is not finite: a lower rate makes another run.
pub(crate) const CURE: &str = "Start again with a lower --lr and another --out";

/// What is drawn of every task's log.
const CURVES: [&str; 2] = ["losses.svg", "utilization.svg"];

/// The files of a run.
pub struct Files {
    /// The directory of all of them.
    pub out: PathBuf,
    /// All that is needed to go on.
    pub checkpoint: PathBuf,
    /// A line of JSON every few steps.
    pub log: PathBuf,
    /// What came of it.
    pub summary: PathBuf,
}

impl Files {
    /// In the directory `out`.
    pub fn of(out: &Path) -> Self {
        Self {
            out: out.to_owned(),
            checkpoint: out.join("checkpoint.safetensors"),
            log: out.join("log.jsonl"),
            summary: out.join("summary.json"),
        }
    }

    /// The checkpoint that `path` names: the file itself, or that of the run whose directory it is.
    pub fn checkpoint_at(path: &Path) -> PathBuf {
        if path.is_dir() { Self::of(path).checkpoint } else { path.to_owned() }
    }

    /// Makes the directory, and sees that there is a checkpoint where one is to be taken up.
    ///
    /// # Errors
    /// A directory that cannot be written; no checkpoint.
    pub fn prepare(&self, resume: bool) -> Result<(), Failure> {
        create_writable(&self.out)?;
        if resume && !self.checkpoint.exists() {
            let place = self.checkpoint.display();
            return Err(Failure::new(format!("there is no checkpoint `{place}` to go on with; leave out --resume")));
        }
        Ok(())
    }

    /// Cuts the log off behind `step`, and returns what is left of it.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub fn rewind(&self, step: u64) -> Result<Vec<Value>, Failure> {
        truncate_log(&self.log, |line: &Value| line["step"].as_u64().is_some_and(|logged| logged <= step))?;
        eprintln!("resuming at step {step}");
        read_log(&self.log)
    }

    /// Removes what an earlier run left, which must not be taken for this one's.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn clear(&self, results: &[&str]) -> Result<(), Failure> {
        for file in [&self.checkpoint, &self.log, &self.summary] {
            remove(file)?;
        }
        results.iter().try_for_each(|name| remove(&self.out.join(name)))
    }
}

/// What a step is logged and shown as.
pub struct Line {
    /// The log's line, with its `step`.
    pub fields: Map<String, Value>,
    /// Behind the progress bar.
    pub message: String,
}

/// A training under way, whatever it trains.
pub trait Training {
    /// Steps taken, and steps of the whole run.
    fn steps(&self) -> [u64; 2];

    /// Samples a step.
    fn batch(&self) -> usize;

    /// One step.
    ///
    /// # Errors
    /// A loss that is not finite, with its name and step; as the parts.
    fn step(&mut self) -> Result<Line, Failure>;

    /// Writes all that is needed to go on.
    ///
    /// # Errors
    /// Where it cannot be written; what was there before then stays.
    fn save(&self, path: &Path) -> Result<(), Failure>;
}

/// Takes the steps that are left, with log, checkpoints and progress.
///
/// # Errors
/// As the training's; Ctrl-C, after saving.
pub fn train(
    training: &mut impl Training,
    options: &RunOptions,
    files: &Files,
    history: &mut Vec<Value>,
) -> Result<(), Failure> {
    options.check()?;
    let [first, steps] = training.steps();
    let (mut progress, started) = (Progress::new("training", steps, Count::Items), Instant::now());
    while training.steps()[0] < steps {
        if interrupted() {
            training.save(&files.checkpoint)?;
            let [step, _] = training.steps();
            progress.warn(format!("interrupted; saved at step {step}: run the same command with --resume to go on"));
            return Err(Failure::interrupted());
        }
        let Line { fields, message } = training.step()?;
        let [step, _] = training.steps();
        let speed = ((step - first) * training.batch() as u64) as f64 / started.elapsed().as_secs_f64();
        progress.tick(step, format!("{message} {speed:.1} samples/s"));
        if step.is_multiple_of(options.log_every) || step == steps {
            let line = Value::Object(fields);
            append_line(&files.log, &line)?;
            history.push(line);
        }
        if step.is_multiple_of(options.save_every) || step == steps {
            training.save(&files.checkpoint)?;
        }
    }
    progress.done();
    Ok(())
}

/// Trains, saves, evaluates, reports: the whole program behind its options.
///
/// # Errors
/// Options, files and losses that do not allow it, in words; Ctrl-C after saving.
pub fn run_task<B: TrainBackend, T: Task<B>>(
    task: &T,
    options: &RunOptions,
    pool: SharedPool,
    device: B::Device,
) -> Result<(), Failure> {
    let started = Instant::now();
    options.check()?;
    task.settings().check()?;
    let files = Files::of(&options.directory(T::KIND));
    files.prepare(options.resume)?;
    let [data, frozen] = task.inputs();
    let run = identity(T::KIND, task.config(), &data, &frozen)?;
    let coding = match task.codes() {
        Some(codes) => {
            Coding::Learned(codes.clone(), Coder::new(codes, task.settings(), None, Some(Arc::clone(&pool)))?)
        }
        None => Coding::Own(task.code_count()),
    };
    let model = task.model(&device)?;
    let mut state = State::new(task.settings().clone(), model, coding, device)?;
    if let (Some(start), false) = (task.start(), options.resume) {
        state = state.start_from(&mut Checkpoint::of_kind(&Files::checkpoint_at(start), T::KIND)?)?;
    }
    let mut history = Vec::new();
    if options.resume {
        let mut file = Checkpoint::of_run(&files.checkpoint, &run)?;
        state = state.resume(&mut file)?;
        task.recall(&mut file)?;
        history = files.rewind(state.steps_taken())?;
    } else {
        files.clear(&[T::RESULTS, &CURVES].concat())?;
        if let Some(mut line) = task.before(&state.trained())? {
            line["step"] = json!(0);
            append_line(&files.log, &line)?;
            history.push(line);
        }
    }
    let mut training = TaskTraining { task, state, run };
    train(&mut training, options, &files, &mut history)?;
    curves_svg(&files.out.join(CURVES[0]), "Loss terms, unweighted", T::CURVES, &history)?;
    utilization_svg(&files.out.join(CURVES[1]), &history)?;
    let mut summary = task.finish(&training.state.trained(), &history, &files.out)?;
    let settings = task.settings();
    let seconds = started.elapsed().as_secs_f64();
    for (name, value) in [
        ("kind", json!(T::KIND)),
        ("data", json!(data)),
        ("frozen", json!(frozen)),
        ("steps", json!(settings.steps)),
        ("batch", json!(settings.batch)),
        ("codes", json!(task.code_count())),
        ("tokens_per_sample", json!(task.tokens())),
        ("seconds", json!(seconds)),
        ("peak_rss_mb", json!(peak_rss_mb())),
    ] {
        summary[name] = value;
    }
    write_json(&files.summary, &summary)?;
    eprintln!("time          {seconds:.0} s for {} steps of {} samples in all", settings.steps, settings.batch);
    eprintln!("results       {}", files.out.display());
    match options.json {
        true => print(&summary.to_string()),
        false => Ok(()),
    }
}

/// A task and its state.
struct TaskTraining<'a, B: TrainBackend, T: Task<B>> {
    task: &'a T,
    state: State<B, T::Model>,
    run: String,
}

impl<B: TrainBackend, T: Task<B>> Training for TaskTraining<'_, B, T> {
    fn steps(&self) -> [u64; 2] {
        [self.state.steps_taken(), self.state.settings().steps]
    }

    fn batch(&self) -> usize {
        self.state.settings().batch
    }

    fn step(&mut self) -> Result<Line, Failure> {
        let (step, lr, amp) = (self.state.steps_taken(), self.state.lr(), self.state.settings().amp);
        let (model, dtype) = match amp {
            true => (cast(self.state.model.clone(), FloatDType::BF16), FloatDType::BF16),
            false => (self.state.model.clone(), FloatDType::F32),
        };
        let (quantizer, device) = (self.state.quantizer(), self.state.device());
        let Loss { total, mut terms, quantized, hits } = self
            .task
            .loss(Pass { step, model: &model, quantizer, dtype, device })
            .context(|| format!("step {}", step + 1))?;
        let gradients = GradientsParams::from_grads(total.backward(), &model);
        let gradients = match amp {
            true => cast_gradients::<B, _>(&self.state.model, gradients),
            false => gradients,
        };
        let gradients = Gradients::of::<B, _>(&self.state.model, gradients);
        terms.push(("gradient_norm", gradients.norm()));
        if let Some(report) = quantized.map(|quantized| quantized.report) {
            terms.extend([("codebook", report.loss.codebook), ("commitment", report.loss.commitment)]);
            terms.push(("mean_norm", report.mean_norm));
            if report.without_code > 0 {
                return Err(not_finite(step + 1, &format!("{} latents are not finite", report.without_code)));
            }
        }
        if let Some((name, value)) = terms.iter().find(|(_, value)| !value.is_finite()) {
            return Err(not_finite(step + 1, &format!("the {} is {value}", name.replace('_', " "))));
        }
        let updated = self.state.learn(gradients, &hits)?;
        let utilization = self.state.recent_utilization(self.task.tokens());
        let mut fields = Map::new();
        fields.insert("step".into(), json!(step + 1));
        fields.extend(terms.iter().map(|&(name, value)| (name.into(), json!(value))));
        for (name, value) in [
            ("active", json!(updated.active)),
            ("restarted", json!(updated.restart.restarted)),
            ("lr", json!(lr)),
            ("recent_utilization", json!(utilization)),
            ("epoch", json!((step + 1) as f64 * self.batch() as f64 / self.task.epoch().max(1) as f64)),
        ] {
            fields.insert(name.into(), value);
        }
        let shown = T::CURVES.iter().filter_map(|(name, field)| Some((name, fields.get(*field)?.as_f64()?)));
        let shown: String = shown.map(|(name, value)| format!("{name} {value:.4} ")).collect();
        Ok(Line { message: format!("{shown}used {:.1} %", 100.0 * utilization), fields })
    }

    fn save(&self, path: &Path) -> Result<(), Failure> {
        self.state.save(path, &self.run, Extra { bytes: self.task.remembered(), ..Extra::default() })
    }
}

/// A step that must not be taken.
fn not_finite(step: u64, what: &str) -> Failure {
    Failure::new(format!("step {step}: {what}; the last checkpoint, if there is one, still stands. {CURE}"))
}
