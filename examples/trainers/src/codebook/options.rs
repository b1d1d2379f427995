//! What the person asks for, and what is told in the end.

use std::path::PathBuf;

use clap::Parser;
use serde_json::json;

use super::build::{Built, Job, build};
use super::groups::Grouping;
use super::sources::Encoder;
use crate::backend::Host;
use crate::common::failure::{Context, Failure};
use crate::common::processor::Processor;
use crate::common::terminal::{interrupted, peak_rss_mb, print};
use crate::data::{Dataset, Source};
use crate::features::{VisionEncoder, load_vision_encoder};
use crate::vqgan::run::SPLIT;

/// Builds the frozen codebook of VQGAN-LC: k-means centres of an encoder's patch features.
///
/// As published: --encoder of CLIP ViT-L/14, --data the ImageNet training set in one folder a class, --group class
/// --pool 4 --crops 1 --codes 100000. A small set has too few vectors for that: leave --pool at 1 and take more --crops,
/// so that there are several vectors for each code.
///
/// Features go to files, and so do finished groups: a killed run goes on with --resume, to the same bytes. Memory holds
/// the centres and 32,768 vectors at most; --group joint needs about 30 bytes for each code and feature besides.
#[derive(Clone, Debug, Parser)]
#[command(name = "build_codebook", version)]
pub struct Options {
    /// A folder or a .tar file of images [default: rendered scenes].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Rendered scenes, where no data is given.
    #[arg(long, default_value_t = 512, conflicts_with = "data")]
    pub scenes: usize,
    /// Leave out this share of the images: those that train_vqgan holds out with the same --hold-out.
    #[arg(long, default_value_t = 0.0)]
    pub held_out: f64,
    /// Weights of a pretrained vision encoder, in safetensors [default: random features, frozen].
    #[arg(long)]
    pub encoder: Option<PathBuf>,
    /// Number of codes, divided over the groups in proportion to their distinct vectors.
    #[arg(long, default_value_t = 100_000)]
    pub codes: usize,
    /// What is clustered apart.
    #[arg(long, value_enum, default_value = "class")]
    pub group: Grouping,
    /// Average squares of this many patches a side into one vector.
    #[arg(long, default_value_t = 1)]
    pub pool: usize,
    /// Views of each image: the largest square in its middle, then random squares of half to all of its shorter side,
    /// some of them mirrored.
    #[arg(long, default_value_t = 2)]
    pub crops: usize,
    /// Most passes of k-means over a group; fewer where no centre moves any more.
    #[arg(long, default_value_t = 10)]
    pub iterations: usize,
    /// Seed of scenes, views and first centres.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads [default: all].
    #[arg(long)]
    pub threads: Option<usize>,
    /// The file to write; unfinished work is in the folder OUT.work.
    #[arg(long, default_value = "out/centres.safetensors")]
    pub out: PathBuf,
    /// Keep the features in this folder, and use those it has: for other --codes, --group and --iterations.
    #[arg(long)]
    pub features: Option<PathBuf>,
    /// Go on with the unfinished work in OUT.work.
    #[arg(long)]
    pub resume: bool,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// Side of the scenes in pixels.
const SCENE_SIZE: usize = 160;

/// The program `build_codebook`.
///
/// # Errors
/// As [`build`], and where data or encoder cannot be read.
pub fn run(options: &Options) -> Result<(), Failure> {
    let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let processor = Processor::new("auto", threads)?;
    // Pictures and the encoder use the process's threads; a pool that is there already stays.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let device = Default::default();
    let net = match &options.encoder {
        Some(path) => load_vision_encoder::<Host>(path, &device)?,
        None => VisionEncoder::random(&device),
    };
    let encoder = Encoder { net, device };
    let pictures = pictures(options)?;
    let built = build(&Job {
        encoder: &encoder,
        pictures: &pictures,
        processor: &processor,
        out: &options.out,
        features: options.features.as_deref(),
        pool: options.pool,
        crops: options.crops,
        codes: options.codes,
        group: options.group,
        iterations: options.iterations,
        seed: options.seed,
        resume: options.resume,
        watch: &|_| if interrupted() { Err(Failure::interrupted()) } else { Ok(()) },
    })?;
    report(options, &built)
}

fn pictures(options: &Options) -> Result<Dataset, Failure> {
    if !(0.0..1.0).contains(&options.held_out) {
        return Err(Failure::new(format!("--held-out {}: give a share from 0 to less than 1", options.held_out)));
    }
    let source = match &options.data {
        Some(path) => Source::Path(path.clone()),
        None => Source::Scenes { count: options.scenes, size: SCENE_SIZE, seed: options.seed },
    };
    let all = Dataset::open(&source, true)?;
    match options.held_out > 0.0 {
        true => all.split(options.held_out, SPLIT).map(|(train, _)| train).context(|| "--held-out".into()),
        false => Ok(all),
    }
}

fn report(options: &Options, built: &Built) -> Result<(), Failure> {
    let (settings, figures) = (&built.about.settings, &built.about.figures);
    let features = &settings.features;
    let per_code = figures.distinct_vectors as f64 / settings.codes as f64;
    eprintln!("encoder       {}, {} features", features.encoder, features.width);
    eprintln!(
        "data          {}: {} vectors, {} of them distinct ({per_code:.1} for each code)",
        features.data, figures.vectors, figures.distinct_vectors
    );
    eprintln!(
        "vectors       mean length {:.4} ({:.4} to {:.4}), variance {:.4}, {:.1} % of the features are 0",
        figures.mean_norm,
        figures.least_norm,
        figures.largest_norm,
        figures.variance,
        100.0 * figures.zeros
    );
    eprintln!(
        "codes         {} of {} groups (--group {}), {} distinct, mean length {:.4}",
        settings.codes,
        figures.groups,
        settings.group.name(),
        figures.distinct_codes,
        figures.mean_code_norm
    );
    eprintln!(
        "error         mean squared distance {:.4} from the group's nearest code, {:.1} % of the variance",
        figures.inertia,
        100.0 * figures.inertia / figures.variance
    );
    if figures.groups_without_codes > 0 {
        let (none, groups) = (figures.groups_without_codes, figures.groups);
        eprintln!("warning: {none} of {groups} groups got no code: --group joint suits so few codes");
    }
    if built.seconds.is_none() {
        eprintln!("it was finished before, of the same settings");
    }
    eprintln!("result        {} (SHA-256 {})", options.out.display(), built.hash);
    match options.json {
        true => print(
            &json!({
                "out": options.out,
                "hash": built.hash,
                "settings": settings,
                "figures": figures,
                "seconds_features": built.seconds.map(|[features, _]| features),
                "seconds_kmeans": built.seconds.map(|[_, kmeans]| kmeans),
                "peak_rss_mb": peak_rss_mb(),
            })
            .to_string(),
        ),
        false => Ok(()),
    }
}
