//! From pictures to a codebook's file, in stages that a killed run goes on from.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use vq_kernels::{MAX_CODES, MAX_DIM};

use super::cluster::{Recipe, cluster};
use super::features::{Features, settings_of};
use super::file::{About, Figures, load, save};
use super::groups::{Group, Grouping, Survey, allot, divide, order, survey, value_of};
use super::sources::{Patches, Pictures};
use super::work::{FeatureSettings, Folder, Settings};
use crate::common::failure::Failure;
use crate::common::processor::Processor;
use crate::common::terminal::{Count, Progress};

/// Where a build is. All but [`Stage::Batch`] are on disk when they are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A part of a shard, or of a pass.
    Batch,
    /// A file of feature vectors.
    Shard(usize),
    /// The look at all vectors.
    Survey,
    /// A pass of k-means over a large group; 0 are its first centres.
    Pass(usize),
    /// The centres of a block of groups.
    Block(usize),
    /// The codebook itself.
    Written,
}

/// Is told every stage; its failure ends the build there, as Ctrl-C does.
pub type Watch<'a> = dyn Fn(Stage) -> Result<(), Failure> + Sync + 'a;

/// What to build, of what and where.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The encoder.
    pub encoder: &'a dyn Patches,
    /// The pictures.
    pub pictures: &'a dyn Pictures,
    /// Where k-means runs.
    pub processor: &'a Processor,
    /// The codebook's file; unfinished work is in a folder next to it, with `.work` behind the name.
    pub out: &'a Path,
    /// A folder to keep the feature vectors in, for other codebooks of the same ones.
    pub features: Option<&'a Path>,
    /// Side of the squares of patches that are averaged.
    pub pool: usize,
    /// Views of each picture.
    pub crops: usize,
    /// Number of codes.
    pub codes: usize,
    /// What is clustered apart.
    pub group: Grouping,
    /// Most passes of k-means.
    pub iterations: usize,
    /// Seed of views and first centres.
    pub seed: u64,
    /// Goes on with unfinished work; else that is removed.
    pub resume: bool,
    /// Is told every stage.
    pub watch: &'a Watch<'a>,
}

/// A finished codebook.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// SHA-256 of the centres.
    pub hash: String,
    /// What they are.
    pub about: About,
    /// Seconds that this run took for the feature vectors and for k-means; `None` where the codebook was there already.
    pub seconds: Option<[f64; 2]>,
}

/// Builds a codebook, or goes on with it.
///
/// # Errors
/// Settings out of range; fewer distinct vectors than codes; unfinished work of other settings; features that are not
/// finite; files that cannot be written, or that are damaged; what `watch` returns.
pub fn build(job: &Job<'_>) -> Result<Built, Failure> {
    let started = Instant::now();
    check(job)?;
    let wanted = settings_of(job.encoder, job.pictures, job.pool, job.crops, job.seed)?;
    if wanted.width > MAX_DIM {
        let name = &wanted.encoder;
        return Err(Failure::new(format!("{name} gives {} features, at most {MAX_DIM} are possible", wanted.width)));
    }
    // Told now rather than after an extraction of hours; how many are distinct shows only then.
    let vectors = (wanted.pictures * wanted.crops * wanted.grid[0] * wanted.grid[1]) as u64;
    if vectors < job.codes as u64 {
        return Err(too_few(vectors, &wanted, job.codes));
    }
    let order = order(job.pictures);
    let groups = divide(job.pictures, &order, job.group);
    let (codes, group, iterations, seed) = (job.codes, job.group, job.iterations, job.seed);
    let settings = Settings { features: wanted, codes, group, iterations, seed };
    let place = work_folder(job.out);
    if !job.resume {
        Folder::remove(&place)?;
    } else if !place.exists()
        && let Some(built) = finished(job.out, &settings)
    {
        return Ok(built);
    }
    let work = Folder::create(&place)?;
    work.remove_unfinished()?;
    work.bind("codebook.json", &settings, "give the same options, or leave out --resume to start again")?;
    let folder = match job.features {
        Some(path) => Folder::create(path)?,
        None => work.clone(),
    };
    let cure = "choose another folder for --features";
    let features =
        Features::extract(folder, settings.features.clone(), job.encoder, job.pictures, &order, cure, job.watch)?;
    let extracted = started.elapsed().as_secs_f64();

    let survey = surveyed(&work, &features, &groups, job.watch)?;
    let distinct = survey.figures.distinct_vectors;
    let shares = allot(job.codes, &survey.distinct).ok_or_else(|| too_few(distinct, &settings.features, job.codes))?;
    let recipe = Recipe { iterations: job.iterations, seed: job.seed };
    let clusters = cluster(&work, &features, &groups, &shares, recipe, job.processor, job.watch)?;

    let width = features.width();
    let rows = || clusters.centres.chunks_exact(width);
    let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let with_codes = groups.iter().zip(&shares).filter(|(_, share)| **share > 0);
    let clustered: usize = with_codes.map(|(group, _)| features.vectors_of(&group.pictures).len()).sum();
    let figures = Figures {
        groups_without_codes: shares.iter().filter(|share| **share == 0).count(),
        inertia: clusters.squared / clustered as f64,
        distinct_codes: rows().map(value_of).collect::<HashSet<_>>().len(),
        mean_code_norm: rows().map(norm).sum::<f64>() / job.codes as f64,
        ..survey.figures
    };
    let about = About { settings, figures };
    let group_codes: Vec<u32> = shares.iter().map(|&share| share as u32).collect();
    let hash = save(job.out, &clusters.centres, &group_codes, &about)?;
    (job.watch)(Stage::Written)?;
    Folder::remove(&place)?;
    let seconds = Some([extracted, started.elapsed().as_secs_f64() - extracted]);
    Ok(Built { hash, about, seconds })
}

fn check(job: &Job<'_>) -> Result<(), Failure> {
    if !(1..=MAX_CODES).contains(&job.codes) {
        return Err(Failure::new(format!("--codes {}: give a number from 1 to {MAX_CODES}", job.codes)));
    }
    if job.iterations == 0 {
        return Err(Failure::new("--iterations must be at least 1"));
    }
    if job.out.is_dir() || job.out.file_name().is_none() {
        return Err(Failure::new(format!("--out `{}` is a folder: give the name of a file", job.out.display())));
    }
    Ok(())
}

fn too_few(vectors: u64, settings: &FeatureSettings, codes: usize) -> Failure {
    let FeatureSettings { pictures, crops, pool, grid: [rows, columns], .. } = settings;
    let finer = if *pool > 1 { format!(", for a --pool below {pool}") } else { String::new() };
    Failure::new(format!(
        "there are {vectors} distinct vectors for {codes} codes ({pictures} pictures × {crops} views × {rows}x{columns} vectors): \
         ask for fewer --codes, for more --crops than {crops}{finer}, or give more pictures"
    ))
}

/// `<out>.work`.
fn work_folder(out: &Path) -> PathBuf {
    let mut name: OsString = out.as_os_str().to_owned();
    name.push(".work");
    name.into()
}

/// The codebook of a run that was finished, if it is the one that is wanted.
fn finished(out: &Path, settings: &Settings) -> Option<Built> {
    let centres = out.exists().then(|| load(out).ok()).flatten()?;
    let about = centres.about.filter(|about| about.settings == *settings)?;
    Some(Built { hash: centres.hash, about, seconds: None })
}

fn surveyed(work: &Folder, features: &Features, groups: &[Group], watch: &Watch<'_>) -> Result<Survey, Failure> {
    if let Some(survey) = work.read::<Survey>("survey.json")? {
        return Ok(survey);
    }
    let all = groups.last().map_or(0, |group| features.vectors_of(&group.pictures).end);
    let mut progress = Progress::new("distinct vectors", all as u64, Count::Items);
    let survey = survey(features, groups, |vectors| {
        progress.tick(vectors, "");
        watch(Stage::Batch)
    })?;
    progress.done();
    work.write("survey.json", &survey)?;
    watch(Stage::Survey)?;
    // As a resumed run will see it: the text of a number may be read as its neighbour.
    Ok(work.read("survey.json")?.unwrap_or(survey))
}
