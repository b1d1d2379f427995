//! The ops with their data: each checked once, then called again and again.

use std::path::Path;

use vq_kernels::ops::Search;
use vq_kernels::ops::ema::{self, Activity, Statistics};
use vq_kernels::ops::search::Tally;
use vq_kernels::quantizer::{Config, Initial, Learner, Quantizer};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Isa, MAX_CODES, MAX_DIM, MatMut, MatRef, Metric, NO_CODE, PackedCodebook, Packing, ops};

use crate::common::Failure;
use crate::common::processor::Processor;
use crate::common::tensors::SafetensorsFile;
use crate::limit::{Copies, Limit, has_tiles};
use crate::{Op, Options};

/// Width of the rows that are projected: an encoder's.
pub const INPUTS: usize = 768;
/// Elements in any matrix here: 4 GiB of f32.
const MOST_ELEMENTS: usize = 1 << 30;
/// Multiply-adds in a check against the slow reference: well below a second.
const CHECK_WORK: usize = 1 << 26;
/// Decay of the moving averages.
pub const DECAY: f64 = 0.99;

/// Extents and settings that make sense.
#[derive(Clone, Copy)]
pub struct Size {
    pub rows: usize,
    pub codes: usize,
    pub dim: usize,
    pub metric: Metric,
    pub seed: u64,
}

impl Size {
    /// From the options, with what their types do not say.
    pub fn new(options: &Options) -> Result<Self, Failure> {
        let Options { rows, codes, dim, repeat, .. } = *options;
        let limits = [
            ("--rows", rows, MOST_ELEMENTS),
            ("--codes", codes, MAX_CODES),
            ("--dim", dim, MAX_DIM),
            ("--repeat", repeat, 1 << 20),
        ];
        if let Some((name, got, most)) = limits.into_iter().find(|(_, got, most)| *got == 0 || got > most) {
            return Err(Failure::new(format!("{name} {got}: give a number from 1 to {most}")));
        }
        let width = if matches!(options.op, Op::Project | Op::ProjectInput | Op::ProjectWeight) {
            INPUTS.max(dim)
        } else {
            dim
        };
        for (name, extent, width) in [("--rows", rows, width), ("--codes", codes, dim)] {
            if extent.saturating_mul(width) > MOST_ELEMENTS {
                let most = MOST_ELEMENTS / width;
                return Err(Failure::new(format!("{name} {extent}: with {width} dimensions give at most {most}")));
            }
        }
        let metric = match (options.metric.as_str(), options.op) {
            ("cosine", _) => Metric::Cosine,
            ("l2", Op::Step) => {
                return Err(Failure::new("--metric l2: --op step normalizes, so it compares by cosine"));
            }
            ("l2", _) => Metric::L2,
            (name, _) => return Err(Failure::new(format!("--metric {name}: give cosine or l2"))),
        };
        Ok(Self { rows, codes, dim, metric, seed: options.seed })
    }

    /// Rows that are compared with the reference, which takes `work` multiply-adds for each.
    fn checked_rows(&self, work: usize) -> usize {
        (CHECK_WORK / work).clamp(1, 16).min(self.rows)
    }

    /// A search's FMAs, or products of tiles or dot products of four bytes where it took the coarse pass; but for
    /// tiles, with one more for each score's comparison.
    fn search_limit<'a>(&self, cpu: Cpu<'a>, tally: &Tally) -> Limit<'a> {
        let scores = self.rows as f64 * self.codes as f64;
        match tally.rows() {
            0 => Limit::Fmas { cpu, count: scores * (self.dim + 1) as f64 },
            // Searches of fewer rows take bytes.
            _ if self.rows >= 16 && has_tiles(cpu.isa()) => {
                // Up to 8 dimensions have four slots each.
                let slots = if self.dim <= 8 { 4 * self.dim } else { self.dim };
                Limit::Tiles { cpu, count: scores / 1024.0 * slots.div_ceil(32) as f64 }
            }
            _ => {
                // Without VNNI a dot product is three instructions, and a comparison still one.
                let comparison = if Some(cpu.isa()) == Isa::avx2() { 1.0 / 3.0 } else { 1.0 };
                Limit::Dots { cpu, count: scores * (self.dim.div_ceil(4) as f64 + comparison) }
            }
        }
    }
}

/// An op that is ready to be called.
pub struct Case<'a> {
    /// The least time that a call takes.
    pub limit: Limit<'a>,
    /// Codes in the codebook, 0 where there is none.
    pub codes: usize,
    /// Calls the op.
    pub run: Box<dyn FnMut() -> Result<(), Failure> + 'a>,
}

/// The nearest code of unit rows; with all codes `changing` before each search, packed again and prepared.
pub fn search<'a>(
    cpu: Cpu<'a>,
    tally: &Tally,
    size: Size,
    changing: bool,
    data: Option<&Path>,
) -> Result<Case<'a>, Failure> {
    let Size { rows, codes, dim, metric, seed } = size;
    let (x, codebook) = match data {
        Some(path) => (read(path, "x", rows, dim)?, read(path, "codebook", codes, dim)?),
        None => (unit_rows(&cpu, seed, 0, rows, dim)?, unit_rows(&cpu, seed, 1, codes, dim)?),
    };
    let packing = match cpu.search() {
        Search::Pruned => Packing::Caps,
        Search::Auto => Packing::suited(codes, dim, metric),
        Search::F32 if changing => Packing::F32,
        _ => Packing::detect(),
    };
    let mut packed = PackedCodebook::with_packing(MatRef::new(&codebook, codes, dim)?, metric, packing)?;
    let mut found = zeros(rows)?;
    packed.prepare(&cpu, MatRef::new(&x, rows, dim)?)?;
    ops::search(&cpu, MatRef::new(&x, rows, dim)?, None, &packed, &mut found, None)?;
    let checked = size.checked_rows(codes * dim);
    let mut expected = zeros(checked)?;
    let (first, all) = (MatRef::new(&x[..checked * dim], checked, dim)?, MatRef::new(&codebook, codes, dim)?);
    ops::search::reference(first, all, metric, &mut expected, None);
    verify(found[..checked] == expected, "search does not find the reference's codes")?;
    verify(!found.contains(&NO_CODE), "search leaves rows without a code")?;
    // Every other search has codes that have moved a little, as in training.
    let mut moved = normal(seed, 4, codes, dim)?;
    moved.iter_mut().zip(&codebook).for_each(|(m, c)| *m = c + 0.01 * *m);
    let mut other = zeros(codes * dim)?;
    ops::normalize(&cpu, MatRef::new(&moved, codes, dim)?, MatMut::new(&mut other, codes, dim)?, None)?;
    let mut books = [codebook, other];
    let run = move || {
        let x = MatRef::new(&x, rows, dim)?;
        if changing {
            books.swap(0, 1);
            packed.repack(MatRef::new(&books[0], codes, dim)?)?;
        }
        packed.prepare(&cpu, x)?;
        Ok(ops::search(&cpu, x, None, &packed, &mut found, None)?)
    };
    Ok(Case { limit: size.search_limit(cpu, tally), codes, run: Box::new(run) })
}

/// The first rows of a tensor, repeated where it has fewer.
fn read(path: &Path, name: &str, rows: usize, dim: usize) -> Result<Vec<f32>, Failure> {
    let all: Vec<f32> = SafetensorsFile::open(path)?.read(name)?;
    let whole = !all.is_empty() && all.len().is_multiple_of(dim);
    verify(whole, "--data: the tensor is not of --dim columns")?;
    Ok(all.into_iter().cycle().take(rows * dim).collect())
}

/// Rows of an encoder's width into the codes' space.
pub fn project<'a>(cpu: Cpu<'a>, size: Size) -> Result<Case<'a>, Failure> {
    let Size { rows, dim, seed, .. } = size;
    let x = unit_rows(&cpu, seed, 0, rows, INPUTS)?;
    let weight = unit_rows(&cpu, seed, 1, dim, INPUTS)?;
    let (bias, mut y) = (vec![0.5; dim], zeros(rows * dim)?);
    let checked = size.checked_rows(INPUTS * dim);
    let mut expected = zeros(checked * dim)?;
    let layer = MatRef::new(&weight, dim, INPUTS)?;
    ops::project(&cpu, MatRef::new(&x, rows, INPUTS)?, layer, Some(&bias), MatMut::new(&mut y, rows, dim)?)?;
    let first = MatRef::new(&x[..checked * INPUTS], checked, INPUTS)?;
    ops::project::reference(first, layer, Some(&bias), &mut expected);
    verify(y[..checked * dim] == expected, "project does not give the reference's rows")?;
    let run = move || {
        let (weight, y) = (MatRef::new(&weight, dim, INPUTS)?, MatMut::new(&mut y, rows, dim)?);
        Ok(ops::project(&cpu, MatRef::new(&x, rows, INPUTS)?, weight, Some(&bias), y)?)
    };
    let count = rows as f64 * INPUTS as f64 * dim as f64;
    Ok(Case { limit: Limit::Fmas { cpu, count }, codes: 0, run: Box::new(run) })
}

/// Rows to unit length.
pub fn normalize(processor: &Processor, size: Size) -> Result<Case<'_>, Failure> {
    let (cpu, Size { rows, dim, seed, .. }) = (processor.cpu(), size);
    let x = normal(seed, 0, rows, dim)?;
    let mut y = zeros(rows * dim)?;
    ops::normalize(&cpu, MatRef::new(&x, rows, dim)?, MatMut::new(&mut y, rows, dim)?, None)?;
    let checked = size.checked_rows(dim);
    let (mut expected, mut norms) = (zeros(checked * dim)?, zeros(checked)?);
    ops::normalize::reference(&x[..checked * dim], dim, &mut expected, &mut norms);
    verify(y[..checked * dim] == expected, "normalize does not give the reference's rows")?;
    let run = move || Ok(ops::normalize(&cpu, MatRef::new(&x, rows, dim)?, MatMut::new(&mut y, rows, dim)?, None)?);
    let limit = Limit::Copies(Copies::of_bytes(processor.pool(), 2 * rows * dim * size_of::<f32>()));
    Ok(Case { limit, codes: 0, run: Box::new(run) })
}

/// Sums per code and moving averages, as a training step needs them.
pub fn ema(processor: &Processor, size: Size) -> Result<Case<'_>, Failure> {
    let (cpu, Size { rows, codes, dim, seed, .. }) = (processor.cpu(), size);
    let x = unit_rows(&cpu, seed, 0, rows, dim)?;
    let mut mean = unit_rows(&cpu, seed, 1, codes, dim)?;
    let mut direction = mean.clone();
    let mut rng = Rng::new(seed, 2);
    let row_codes: Vec<u32> = (0..rows).map(|_| rng.below(codes as u64) as u32).collect();
    // Unit rows: the exponent is 0.
    let mut statistics = Statistics::new(codes, dim, 0)?;
    let mut activity = Activity::new_in(vec![0.0; codes], vec![0.0; codes], vec![0.0; codes])?;
    statistics.accumulate(&cpu, MatRef::new(&x, rows, dim)?, &row_codes, None)?;
    verify(statistics.total() == rows as f64, "the statistics do not count every row")?;
    let sums: f64 = (0..codes).flat_map(|k| statistics.sum(k)).sum();
    let expected: f64 = x.iter().map(|&x| f64::from(x)).sum();
    verify((sums - expected).abs() <= 1e-9 * x.len() as f64, "the statistics do not sum up the rows")?;
    let run = move || {
        statistics.clear(0);
        statistics.accumulate(&cpu, MatRef::new(&x, rows, dim)?, &row_codes, None)?;
        let (mean, direction) = (MatMut::new(&mut mean, codes, dim)?, MatMut::new(&mut direction, codes, dim)?);
        ema::update_means(&cpu, DECAY, &statistics, &activity.cluster_size, mean, Some(direction))?;
        Ok(activity.observe(DECAY, &statistics)?)
    };
    // For each code: its weight read, its cluster size read and written.
    let sweep = codes * (size_of::<i64>() + 2 * size_of::<f32>());
    let bytes = rows * dim * (size_of::<f32>() + 2 * size_of::<i64>()) + sweep;
    let limit = Limit::Copies(Copies::of_bytes(processor.pool(), bytes));
    Ok(Case { limit, codes, run: Box::new(run) })
}

/// A whole training step; it learns from the same rows again and again.
pub fn step<'a>(cpu: Cpu<'a>, tally: &Tally, size: Size) -> Result<Case<'a>, Failure> {
    let Size { rows, codes, dim, seed, .. } = size;
    let x = unit_rows(&cpu, seed, 0, rows, dim)?;
    let initial = Initial::Codes(unit_rows(&cpu, seed, 1, codes, dim)?);
    let config = Config { inputs: dim, dim, codes, learner: Learner::Ema, factorize: false, seed, ..Config::default() };
    verify(config.normalize && config.restart.is_some(), "the default is not what this op describes")?;
    let mut quantizer = Quantizer::new(config, initial)?;
    let mut run = move || {
        let report = quantizer.train_step(&cpu, MatRef::new(&x, rows, dim)?, None, |_, gradient| gradient.fill(0.0))?;
        verify(report.rows == rows && report.active > 0, "the step leaves rows without a code")?;
        verify(report.loss.commitment.is_finite(), "the step's loss is not finite")
    };
    run()?;
    Ok(Case { limit: size.search_limit(cpu, tally), codes, run: Box::new(run) })
}

pub fn verify(fact: bool, otherwise: &str) -> Result<(), Failure> {
    if fact { Ok(()) } else { Err(Failure::new(format!("{otherwise}: nothing was measured"))) }
}

/// Standard normal numbers, of which no row is a row of zeros.
pub fn normal(seed: u64, stream: u64, rows: usize, cols: usize) -> Result<Vec<f32>, Failure> {
    let mut values = zeros(rows * cols)?;
    let mut rng = Rng::new(seed, stream);
    values.iter_mut().for_each(|value| *value = rng.normal());
    Ok(values)
}

/// Rows of unit length, in random directions.
pub fn unit_rows(cpu: &Cpu, seed: u64, stream: u64, rows: usize, cols: usize) -> Result<Vec<f32>, Failure> {
    let x = normal(seed, stream, rows, cols)?;
    let mut unit = zeros(rows * cols)?;
    ops::normalize(cpu, MatRef::new(&x, rows, cols)?, MatMut::new(&mut unit, rows, cols)?, None)?;
    Ok(unit)
}

pub fn zeros<T: Default + Clone>(count: usize) -> Result<Vec<T>, Failure> {
    let mut values = Vec::new();
    if values.try_reserve_exact(count).is_err() {
        return Err(Failure::new(format!("{count} numbers do not fit in memory; give fewer rows or codes")));
    }
    values.resize(count, T::default());
    Ok(values)
}
