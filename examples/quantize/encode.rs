//! `encode`: rows from a file, block by block, to codes.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use vq_kernels::ops::usage::{self, Usage};
use vq_kernels::{Cpu, Line, MatMut, MatRef, Metric, NO_CODE, PackedCodebook, ops};

use crate::book::{Affine, Book, Linear, check_output, floats, parse_metric, refuse};
use crate::common::Failure;
use crate::common::processor::Processor;
use crate::common::tensors::{SafetensorsFile, StreamWriter};
use crate::common::terminal::print;
use crate::common::terminal::{Count, Progress, interrupted};

/// The most rows in memory at a time.
const MOST_ROWS: usize = 8192;
/// The least that a thread takes at a time, whatever it costs.
const FEWEST_ROWS: usize = 96;
/// Vector operations in a block for each thread: well below a second, so that Ctrl-C is heard soon.
const BLOCK_WORK: usize = 1 << 28;

/// What `encode` is asked for.
#[derive(Args)]
pub struct Options {
    /// Safetensors file with `codebook` [codes, dim].
    #[arg(long)]
    codebook: PathBuf,
    /// Safetensors file with `x` [rows, width].
    #[arg(long)]
    input: PathBuf,
    /// Where `codes` [rows] go; 4294967295 where a row has none (NaN).
    #[arg(long)]
    output: PathBuf,
    /// How rows and codes are compared: cosine or l2 [default: what the codebook says, else cosine].
    #[arg(long)]
    metric: Option<String>,
    /// Bring rows and codes to unit length first.
    #[arg(long)]
    normalize: bool,
    /// Rows already lie in the codes' space: leave out what the codebook says about scaling, projecting and normalizing.
    #[arg(long)]
    raw: bool,
    /// Instruction set: auto, scalar, avx2, avx2vnni, avx512, avx512vnni, amx, neon, neoni8mm, neondot, simd128.
    #[arg(long, default_value = "auto")]
    isa: String,
    /// Threads [default: all].
    #[arg(long)]
    threads: Option<usize>,
    /// Print the summary to standard output as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Writes the code of each row.
pub fn encode(options: &Options) -> Result<(), Failure> {
    check_output(&options.output, [&options.codebook, &options.input])?;
    let threads = options.threads.or(std::thread::available_parallelism().ok().map(Into::into));
    let processor = Processor::new(&options.isa, threads.unwrap_or(1))?;
    let cpu = processor.cpu();
    let mut book = Book::open(&options.codebook)?;
    let metric = match &options.metric {
        Some(name) => parse_metric(name).ok_or_else(|| Failure::new(format!("--metric {name}: give cosine or l2")))?,
        None => book.metric.unwrap_or(Metric::Cosine),
    };
    let mut input = SafetensorsFile::open(&options.input)?;
    let (rows, width) = floats(&input, "x", ["rows", "width"])?;
    let entrance = Entrance::of(&mut book, options, &input, width)?;
    let metadata = [
        ("format", "vq-kernels codes 1".to_owned()),
        ("codes", book.codes.to_string()),
        ("metric", metric.name().to_owned()),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    // Before the work: a place that cannot be written is found out at once.
    let mut output = StreamWriter::<u32>::create(&options.output, "codes", &[rows], &metadata)?;
    let packed = pack(&cpu, &mut book, options.normalize, metric)?;

    let started = Instant::now();
    let affordable = BLOCK_WORK * cpu.isa().lanes() / (book.codes * book.dim);
    let block = affordable.max(FEWEST_ROWS).saturating_mul(cpu.threads()).min(MOST_ROWS);
    let mut progress = Progress::new("encoding", rows as u64, Count::Items);
    let (mut x, mut z, mut codes, mut counts) = (Vec::new(), Vec::new(), Vec::new(), vec![0; book.codes]);
    for first in (0..rows).step_by(block) {
        if interrupted() {
            return Err(Failure::interrupted());
        }
        let count = block.min(rows - first);
        input.read_rows_f32("x", first, count, &mut x)?;
        entrance.pass(&cpu, count, &mut x, &mut z)?;
        codes.resize(count, NO_CODE);
        ops::search(&cpu, MatRef::new(&x, count, book.dim)?, None, &packed, &mut codes, None)?;
        usage::count(&codes, None, &mut counts)?;
        output.push(&codes)?;
        progress.tick((first + count) as u64, "");
    }
    output.finish()?;
    progress.done();
    let seconds = started.elapsed().as_secs_f64();
    report(options, &cpu, &book, metric, rows, &Usage::of(&counts), seconds)
}

/// What happens to rows before they are compared.
struct Entrance {
    affine: Option<Affine>,
    linear: Option<Linear>,
    normalize: bool,
}

impl Entrance {
    /// What the codebook's file says, for rows of the width that it was learned from; nothing for rows of the codes' own.
    fn of(book: &mut Book, options: &Options, input: &SafetensorsFile, width: usize) -> Result<Self, Failure> {
        let linear = if options.raw { None } else { book.project_in()? };
        let learned = linear.as_ref().map_or(book.dim, |linear| linear.inputs);
        if !options.raw && width == learned {
            let normalize = options.normalize || book.normalize;
            return Ok(Self { affine: Some(book.affine), linear, normalize });
        }
        if width == book.dim {
            return Ok(Self { affine: None, linear: None, normalize: options.normalize });
        }
        let projected = linear.map_or(String::new(), |linear| format!(", and `project_in` takes {}", linear.inputs));
        let why = format!(
            "its rows have {width} dimensions, the codes of `{}` have {}{projected}",
            book.path().display(),
            book.dim
        );
        Err(refuse(input, "x", why))
    }

    /// Brings `rows` rows in `x` to the codes' space; `z` is scratch.
    fn pass(&self, cpu: &Cpu, rows: usize, x: &mut Vec<f32>, z: &mut Vec<f32>) -> Result<(), Failure> {
        if let Some(affine) = self.affine {
            affine.enter(x);
        }
        if let Some(linear) = &self.linear {
            linear.forward(cpu, x, rows, z)?;
            core::mem::swap(x, z);
        }
        if self.normalize {
            normalize(cpu, rows, x, z)?;
        }
        Ok(())
    }
}

/// Brings `rows` rows in `x` to unit length; `z` is scratch.
fn normalize(cpu: &Cpu, rows: usize, x: &mut Vec<f32>, z: &mut Vec<f32>) -> Result<(), Failure> {
    let dim = x.len() / rows;
    z.resize(x.len(), 0.0);
    ops::normalize(cpu, MatRef::new(x, rows, dim)?, MatMut::new(z, rows, dim)?, None)?;
    core::mem::swap(x, z);
    Ok(())
}

/// The codes as search reads them.
fn pack(cpu: &Cpu, book: &mut Book, unit: bool, metric: Metric) -> Result<PackedCodebook<Vec<Line>>, Failure> {
    let mut codes = book.read_codes()?;
    let broken = codes.chunks_exact(book.dim).filter(|code| !code.iter().all(|x| x.is_finite())).count();
    if broken > 0 {
        eprintln!("warning: {broken} codes of `{}` hold NaN or infinities", book.path().display());
    }
    if unit {
        normalize(cpu, book.codes, &mut codes, &mut Vec::new())?;
    }
    Ok(PackedCodebook::new(MatRef::new(&codes, book.codes, book.dim)?, metric)?)
}

fn report(
    options: &Options,
    cpu: &Cpu,
    book: &Book,
    metric: Metric,
    rows: usize,
    usage: &Usage,
    seconds: f64,
) -> Result<(), Failure> {
    let (isa, metric, threads) = (cpu.isa().name(), metric.name(), cpu.threads());
    let without_code = rows as u64 - usage.rows;
    let rows_per_second = rows as f64 / seconds.max(1e-9);
    let (active, perplexity, utilization) = (usage.active, usage.perplexity, usage.utilization());
    if options.json {
        let line = json!({
            "rows": rows, "codes": book.codes, "dim": book.dim, "metric": metric, "isa": isa, "threads": threads,
            "seconds": seconds, "rows_per_second": rows_per_second, "active": active, "utilization": utilization,
            "perplexity": perplexity, "without_code": without_code,
        });
        return print(&line.to_string());
    }
    eprintln!("rows          {rows}, {without_code} without a code");
    eprintln!("codebook      {} codes of {} dimensions, {metric}", book.codes, book.dim);
    eprintln!("used          {active} codes ({:.2} %), perplexity {perplexity:.1}", 100.0 * utilization);
    eprintln!("time          {seconds:.3} s, {rows_per_second:.0} rows/s ({isa}, {threads} threads)");
    Ok(())
}
