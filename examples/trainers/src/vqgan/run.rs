//! A whole training, from options to results.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use serde_json::{Value, json};
use vq_kernels::Pool;

use super::checkpoint::identity;
use super::config::{Config, System};
use super::evaluate::{Evaluation, evaluate};
use super::options::Options;
use super::report;
use super::trainer::{StepReport, TrainBackend, Trainer};
use crate::backend::Host;
use crate::codebook::{self, Encoder, Grouping};
use crate::common::failure::{Context, Failure};
use crate::common::files::{append_line, create_writable, remove, truncate_log};
use crate::common::processor::Processor;
use crate::common::tensors::SafetensorsFile;
use crate::common::terminal::{Count, Progress, interrupted, peak_rss_mb, print};
use crate::data::{Batches, Dataset, Source};
use crate::features::VisionEncoder;
use crate::losses::perceptual::Perceptual;
use crate::on_device;

/// Seed of the split into a training and a held-out part: one for all runs, so that their figures compare.
pub(crate) const SPLIT: u64 = 0;

/// Images that a codebook is built of where none is given.
const CODEBOOK_IMAGES: usize = 256;

/// The files of a run.
struct Files {
    checkpoint: PathBuf,
    log: PathBuf,
    codebook: PathBuf,
}

/// What a run writes, but for a codebook that it may be given.
const RESULTS: [&str; 7] = [
    "checkpoint.safetensors",
    "log.jsonl",
    "summary.json",
    "losses.svg",
    "utilization.svg",
    "counts.svg",
    "reconstruction.png",
];

impl Files {
    fn of(out: &Path) -> Self {
        Self {
            checkpoint: out.join("checkpoint.safetensors"),
            log: out.join("log.jsonl"),
            codebook: out.join("codebook.safetensors"),
        }
    }
}

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
    pub fn open(data: Option<&Path>, scenes: usize, hold_out: f64, config: &Config) -> Result<Self, Failure> {
        let needed = (config.backbone.image_size() as f64 / f64::from(config.augment.min_scale)).ceil() as usize;
        let source = match data {
            Some(path) => Source::Path(path.to_owned()),
            None => Source::Scenes { count: scenes, size: needed, seed: 0 },
        };
        let (train, held_out) = Dataset::open(&source, true)?.shrunk(needed)?.split(hold_out, SPLIT)?;
        Ok(Self { train, held_out })
    }
}

/// Refuses images that are not those of a checkpoint's training, unless others are asked for: its held-out part would be another.
///
/// # Errors
/// Both sets' names.
pub fn check_data(checkpoint: &Path, data: &Data, others: bool) -> Result<(), Failure> {
    let refuse = || format!("cannot read which images `{}` is of", checkpoint.display());
    let file = SafetensorsFile::open(checkpoint)?;
    let run: Value = serde_json::from_str(file.metadata("run").unwrap_or_default()).context(refuse)?;
    let (there, here) = (run["data"].as_str().unwrap_or_default(), data.train.name());
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
    on_device!(options.device, run_on, options)
}

fn run_on<B: TrainBackend>(options: &Options, device: B::Device) -> Result<(), Failure> {
    let started = Instant::now();
    let files = Files::of(&options.out);
    let mut config = options.config()?;
    config.check()?;
    create_writable(&options.out)?;
    if options.resume && !files.checkpoint.exists() {
        let place = files.checkpoint.display();
        return Err(Failure::new(format!("there is no checkpoint `{place}` to go on with; leave out --resume")));
    }
    let mut data = Data::open(options.data.as_deref(), options.scenes, options.hold_out, &config)?;
    if let Some(images) = options.images {
        data.train = data.train.sample(images, config.seed)?;
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
    let pool: Arc<dyn Pool + Send + Sync> = Arc::new(pool()?);
    let mut trainer = Trainer::<B>::new(config, centres, perceptual, Some(pool), device)?;
    let mut history = Vec::new();
    if options.resume {
        trainer = trainer.resume(&files.checkpoint, &run)?;
        let step = trainer.steps_taken();
        truncate_log(&files.log, |line: &Value| line["step"].as_u64().is_some_and(|logged| logged <= step))?;
        history = report::read_log(&files.log)?;
        eprintln!("resuming at step {step}");
    } else {
        // What an earlier run left must not be taken for this one's.
        for name in RESULTS {
            remove(&options.out.join(name))?;
        }
    }
    eprintln!("perceptual    {distance}");
    train(options, &files, &data, &run, &mut trainer, &mut history)?;
    let (trained, perceptual) = (trainer.trained(), trainer.perceptual().map(AutodiffModule::valid));
    let evaluation = evaluate(&trained, perceptual.as_ref(), &data, options.tokens_per_code)?;
    report::draw(&options.out, &trained, &data, &history, &evaluation)?;
    let seconds = started.elapsed().as_secs_f64();
    report::print_summary(&trainer, &data, &evaluation, seconds);
    let summary = summary(&trainer, &evaluation, seconds);
    report::write_json(&options.out.join("summary.json"), &summary)?;
    eprintln!("results       {}", options.out.display());
    if options.json {
        print(&summary.to_string())?;
    }
    Ok(())
}

/// All threads of the machine, for the quantizer and for searches.
pub(crate) fn pool() -> Result<rayon::ThreadPool, Failure> {
    rayon::ThreadPoolBuilder::new().build().context(|| "cannot start threads".into())
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
            if !(options.resume && files.codebook.exists()) {
                build_centres(options, &data.train, config, &files.codebook)?;
            }
            files.codebook.clone()
        }
    };
    let centres = codebook::load(&path)?;
    if options.codes.is_some() && centres.codes != config.codes.codes {
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
        pictures: &train.sample(train.len().min(CODEBOOK_IMAGES), config.seed)?,
        processor: &Processor::new("auto", threads)?,
        out,
        features: None,
        pool: 1,
        crops: 1,
        codes: config.codes.codes,
        group: Grouping::Joint,
        iterations: 3,
        seed: config.seed,
        resume: options.resume,
        watch: &|_| if interrupted() { Err(Failure::interrupted()) } else { Ok(()) },
    })?;
    Ok(())
}

fn train<B: TrainBackend>(
    options: &Options,
    files: &Files,
    data: &Data,
    run: &str,
    trainer: &mut Trainer<B>,
    history: &mut Vec<Value>,
) -> Result<(), Failure> {
    let config = trainer.config().clone();
    let batches = Batches::new(&data.train, config.backbone.image_size(), config.batch, config.augment, config.seed)?;
    let mut progress = Progress::new("training", config.steps, Count::Items);
    let (first, started) = (trainer.steps_taken(), Instant::now());
    while trainer.steps_taken() < config.steps {
        if interrupted() {
            trainer.save(&files.checkpoint, run)?;
            let step = trainer.steps_taken();
            progress.warn(format!("interrupted; saved at step {step}: run the same command with --resume to go on"));
            return Err(Failure::interrupted());
        }
        let images: Tensor<B, 4> = batches.get(trainer.steps_taken()).to_tensor(trainer.device());
        let report = trainer.step(images)?;
        let (step, utilization) = (report.step, trainer.recent_utilization());
        let speed = ((step - first) * config.batch as u64) as f64 / started.elapsed().as_secs_f64();
        progress.tick(step, message(&report, utilization, speed));
        if step.is_multiple_of(options.log_every) || step == config.steps {
            let line = log_line(&report, utilization, batches.epochs(step))?;
            append_line(&files.log, &line)?;
            history.push(line);
        }
        if step.is_multiple_of(options.save_every) || step == config.steps {
            trainer.save(&files.checkpoint, run)?;
        }
    }
    progress.done();
    Ok(())
}

/// Behind the progress bar.
fn message(report: &StepReport, utilization: f64, speed: f64) -> String {
    let named = [
        ("L1", report.l1),
        ("L2", report.l2),
        ("perceptual", report.perceptual),
        ("gan", report.gan),
        ("D", report.discriminator),
    ];
    let terms: String = named.iter().filter_map(|(name, value)| value.map(|v| format!("{name} {v:.4} "))).collect();
    format!("{terms}used {:.1} % {speed:.1} images/s", 100.0 * utilization)
}

fn log_line(report: &StepReport, utilization: f64, epoch: f64) -> Result<Value, Failure> {
    let mut line = serde_json::to_value(report).context(|| "cannot write the step down".into())?;
    if let Some(fields) = line.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        fields.insert("recent_utilization".into(), json!(utilization));
        fields.insert("epoch".into(), json!(epoch));
    }
    Ok(line)
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
        "batch": config.batch,
        "tokens_per_image": config.tokens(),
        "centres": config.codes.source_hash,
        "evaluation": evaluation,
        "seconds": seconds,
        "peak_rss_mb": peak_rss_mb(),
    })
}
