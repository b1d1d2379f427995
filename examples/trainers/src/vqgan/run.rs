//! A whole training, from options to results.

use std::path::Path;
use std::time::Instant;

use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use serde_json::{Map, Value, json};

use super::checkpoint::{KIND, identity};
use super::config::{Config, System};
use super::evaluate::{Evaluation, evaluate};
use super::options::Options;
use super::report;
use super::trainer::{StepReport, TrainBackend, Trainer};
use crate::backend::Host;
use crate::codebook::{self, Encoder, Grouping};
use crate::common::failure::{Context, Failure};
use crate::common::processor::Processor;
use crate::common::terminal::{interrupted, peak_rss_mb, print};
use crate::data::{Batches, Dataset};
use crate::features::VisionEncoder;
use crate::losses::perceptual::Perceptual;
use crate::on_device;
use crate::shell::{Checkpoint, DataOptions, Files, Line, Training, pool, train, write_json};

/// Seed of the split into a training and a held-out part: one for all runs, so that their figures compare.
pub(crate) const SPLIT: u64 = 0;

/// Images that a codebook is built of where none is given.
const CODEBOOK_IMAGES: usize = 256;

/// What a run writes besides checkpoint, log and summary, but for a codebook that it may be given.
const RESULTS: [&str; 4] = ["losses.svg", "utilization.svg", "counts.svg", "reconstruction.png"];

/// The codebook that a run builds where none is given.
const CODEBOOK: &str = "codebook.safetensors";

/// The pictures of a run: one part to train on, one held out.
pub struct Data {
    /// To train on.
    pub train: Dataset,
    /// To judge by.
    pub held_out: Dataset,
}

impl Data {
    /// Loads or renders pictures, no larger than the training's crops need, and splits them. All are kept in memory, 3 bytes a pixel.
    ///
    /// # Errors
    /// Where there are none, or too few to split.
    pub fn open(options: &DataOptions, config: &Config) -> Result<Self, Failure> {
        let needed = config.augment.source_size(config.backbone.image_size());
        let (train, held_out) =
            Dataset::open(&options.source(needed), true)?.shrunk(needed)?.split(options.hold_out, SPLIT)?;
        Ok(Self { train, held_out })
    }
}

/// Refuses images that are not those of a checkpoint's training, unless others are asked for: its held-out part would be another.
///
/// # Errors
/// Both sets' names.
pub fn check_data(checkpoint: &Path, data: &Data, others: bool) -> Result<(), Failure> {
    let file = Checkpoint::open(checkpoint)?;
    let (there, here) = (file.data(), data.train.name());
    if others || is_part_of(there, here) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "`{}` was trained on other images; give the --data, --scenes and --hold-out of its training, or \
         --other-data\n  there: {there}\n  here:  {here}",
        checkpoint.display()
    )))
}

/// Whether a training set's name is `whole`'s, or that of a sample of it (`train_vqgan --images`).
pub(crate) fn is_part_of(part: &str, whole: &str) -> bool {
    match part.strip_prefix(whole) {
        Some(rest) => rest.is_empty() || (rest.starts_with(", ") && rest.contains(" by lot ")),
        None => false,
    }
}

/// Trains, saves, evaluates, reports.
///
/// # Errors
/// Options, files and losses that do not allow it, in words; Ctrl-C after saving.
pub fn run(options: &Options) -> Result<(), Failure> {
    on_device!(options.run.device, run_on, options)
}

fn run_on<B: TrainBackend>(options: &Options, device: B::Device) -> Result<(), Failure> {
    let started = Instant::now();
    let files = Files::of(&options.run.directory(KIND));
    let mut config = options.config()?;
    config.check()?;
    files.prepare(options.run.resume)?;
    let mut data = Data::open(&options.data, &config)?;
    if let Some(images) = options.images {
        data.train = data.train.sample(images, config.settings.seed)?;
    }
    let perceptual = match config.losses.perceptual > 0.0 {
        true => Some(Perceptual::load(options.perceptual.as_deref(), options.lpips.as_deref(), &device)?),
        false => None,
    };
    let distance = perceptual.as_ref().map_or("none", Perceptual::name);
    if let Some(perceptual) = &perceptual {
        let size = config.backbone.image_size();
        perceptual.check_size(size, size)?;
    }
    // Last of all that may be refused: it writes a codebook where none is given.
    let centres = centres(options, &files, &data, &mut config)?;
    let run = identity(&config, data.train.name(), distance)?;
    let mut trainer = Trainer::<B>::new(config, centres, perceptual, Some(pool()?), device)?;
    let mut history = Vec::new();
    if options.run.resume {
        trainer = trainer.resume(&files.checkpoint, &run)?;
        history = files.rewind(trainer.steps_taken())?;
    } else {
        files.clear(&RESULTS)?;
    }
    eprintln!("perceptual    {distance}");
    let config = trainer.config();
    let (size, batch, seed) = (config.backbone.image_size(), config.settings.batch, config.settings.seed);
    let batches = Batches::new(&data.train, size, batch, config.augment, seed)?;
    let mut training = VqganTraining { trainer, batches, run };
    train(&mut training, &options.run, &files, &mut history)?;
    let trainer = training.trainer;
    let (trained, perceptual) = (trainer.trained(), trainer.perceptual().map(AutodiffModule::valid));
    let evaluation = evaluate(&trained, perceptual.as_ref(), &data, options.tokens_per_code)?;
    report::draw(&files.out, &trained, &data, &history, &evaluation)?;
    let seconds = started.elapsed().as_secs_f64();
    report::print_summary(&trainer, &data, &evaluation, seconds);
    let summary = summary(&trainer, &evaluation, seconds);
    write_json(&files.summary, &summary)?;
    eprintln!("results       {}", files.out.display());
    if options.run.json {
        print(&summary.to_string())?;
    }
    Ok(())
}

/// VQGAN-LC's centres, from the file or built now; the configuration takes note of them.
fn centres(options: &Options, files: &Files, data: &Data, config: &mut Config) -> Result<Option<Vec<f32>>, Failure> {
    if config.codes.system != System::Lc {
        return match &options.codebook {
            Some(_) => Err(Failure::new("--codebook is for --model lc: the other models learn their codes")),
            None => Ok(None),
        };
    }
    let path = match &options.codebook {
        Some(path) => path.clone(),
        None => {
            let path = files.out.join(CODEBOOK);
            if !(options.run.resume && path.exists()) {
                build_centres(options, &data.train, config, &path)?;
            }
            path
        }
    };
    let centres = codebook::load(&path)?;
    if options.code.codes.is_some() && centres.codes != config.codes.codes {
        return Err(Failure::new(format!(
            "`{}` has {} centres, and --codes asks for {}: leave out --codes, or build another codebook",
            path.display(),
            centres.codes,
            config.codes.codes
        )));
    }
    config.codes.codes = centres.codes;
    config.codes.source_dim = centres.dim;
    config.codes.source_hash = centres.hash;
    Ok(Some(centres.values))
}

/// Centres of the frozen random encoder's features of a part of the training images.
fn build_centres(options: &Options, train: &Dataset, config: &Config, out: &Path) -> Result<(), Failure> {
    eprintln!(
        "no --codebook: building one of a frozen random encoder's features; build_codebook takes a pretrained one"
    );
    let device = Default::default();
    let encoder = Encoder { net: VisionEncoder::<Host>::random(&device), device };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    codebook::build(&codebook::Job {
        encoder: &encoder,
        pictures: &train.sample(train.len().min(CODEBOOK_IMAGES), config.settings.seed)?,
        processor: &Processor::new("auto", threads)?,
        out,
        features: None,
        pool: 1,
        crops: 1,
        codes: config.codes.codes,
        group: Grouping::Joint,
        iterations: 3,
        seed: config.settings.seed,
        resume: options.run.resume,
        watch: &|_| if interrupted() { Err(Failure::interrupted()) } else { Ok(()) },
    })?;
    Ok(())
}

/// A VQGAN's training and its data.
struct VqganTraining<B: TrainBackend> {
    trainer: Trainer<B>,
    batches: Batches,
    run: String,
}

impl<B: TrainBackend> Training for VqganTraining<B> {
    fn steps(&self) -> [u64; 2] {
        [self.trainer.steps_taken(), self.trainer.config().settings.steps]
    }

    fn batch(&self) -> usize {
        self.trainer.config().settings.batch
    }

    fn step(&mut self) -> Result<Line, Failure> {
        let images: Tensor<B, 4> = self.batches.get(self.trainer.steps_taken()).to_tensor(self.trainer.device());
        let report = self.trainer.step(images)?;
        let utilization = self.trainer.recent_utilization();
        let fields = log_line(&report, utilization, self.batches.epochs(report.step))?;
        Ok(Line { fields, message: message(&report, utilization) })
    }

    fn save(&self, path: &Path) -> Result<(), Failure> {
        self.trainer.save(path, &self.run)
    }
}

/// Behind the progress bar.
fn message(report: &StepReport, utilization: f64) -> String {
    let named = [
        ("L1", report.l1),
        ("L2", report.l2),
        ("perceptual", report.perceptual),
        ("gan", report.gan),
        ("D", report.discriminator),
    ];
    let terms: String = named.iter().filter_map(|(name, value)| value.map(|v| format!("{name} {v:.4} "))).collect();
    format!("{terms}used {:.1} %", 100.0 * utilization)
}

fn log_line(report: &StepReport, utilization: f64, epoch: f64) -> Result<Map<String, Value>, Failure> {
    let line = serde_json::to_value(report).context(|| "cannot write the step down".into())?;
    let Value::Object(mut fields) = line else { unreachable!("a report has fields") };
    fields.retain(|_, value| !value.is_null());
    fields.insert("recent_utilization".into(), json!(utilization));
    fields.insert("epoch".into(), json!(epoch));
    Ok(fields)
}

/// The last line with `--json`, and the summary's content.
fn summary<B: TrainBackend>(trainer: &Trainer<B>, evaluation: &Evaluation, seconds: f64) -> Value {
    let config = trainer.config();
    json!({
        "model": config.codes.system.name(),
        "codes": config.codes.codes,
        "dim": config.codes.dim,
        "l2_norm": config.codes.normalize,
        "restart": config.codes.restart,
        "steps": trainer.steps_taken(),
        "batch": config.settings.batch,
        "tokens_per_image": config.tokens(),
        "centres": config.codes.source_hash,
        "evaluation": evaluation,
        "seconds": seconds,
        "peak_rss_mb": peak_rss_mb(),
    })
}
