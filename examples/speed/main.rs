//! How fast an op is here, and which share of this machine's own limit that is.
//!
//! ```sh
//! cargo run --release --example speed -- --op search --rows 1024 --codes 100000 --dim 32 --isa avx2
//! ```
//!
//! The limit is measured in the same run, before each repeat of the op, as the machine may be busy:
//! the fastest multiply-adds in registers, or the fastest copy of as many bytes.
//!
//! | op | what is timed | limit |
//! |---|---|---|
//! | `search` | `ops::search` | `rows · codes · (dim + 1) / lanes` FMAs; the 1 is the comparison |
//! | `project` | `ops::project` from 768 inputs to dim | `rows · 768 · dim / lanes` FMAs |
//! | `normalize` | `ops::normalize` | rows read and written once |
//! | `ema` | `Statistics::clear` and `accumulate`, `update_means`, `observe` | rows read; a sum of 8-byte integers per element read and written; 16 bytes per code |
//! | `project-input`, `project-weight` | `ops::project_backward_input`, `_weight` | as `project` |
//! | `normalize-backward`, `straight-through`, `rotation`, `loss-backward` | their ops | each matrix of rows read or written once |
//! | `loss`, `gather` | `squared_error`, `ops::gather` | two matrices of rows |
//! | `restart` | a step in which no code is stale | size, exposure and last hit of each code |
//! | `step` | a whole `Quantizer::train_step`: normalized, EMA, restart, no factorization; the head's gradient is 0 | that of the search alone |
//!
//! Of FMAs each thread has the rate that one thread has alone; copies run on all threads. On `scalar`
//! an FMA is one multiplication and one addition in f64, rounded to f32: at least that much is needed
//! where the build target has no FMA.
//!
//! With `--features cuda`, `--device cuda:0` measures the twin on a GPU: replays of a captured graph between events, one
//! line of JSON, with the share of codes that are not the CPU's (`wrong`); `project` is then with `normalize`. The
//! limits stand in `benches/README.md`.

#[path = "../common/mod.rs"]
mod common;

mod backward;
mod cases;
#[cfg(feature = "cuda")]
mod device;
mod limit;

use core::time::Duration;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use cases::{Case, Size};
use common::Failure;
use common::failure::run_main;
use common::processor::Processor;
use common::terminal::print;
use vq_kernels::ops::Search;
use vq_kernels::ops::search::Tally;

/// A sample lasts at least this long: the op is called as often as that takes.
const SAMPLE: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Op {
    Search,
    Project,
    Normalize,
    Ema,
    Step,
    ProjectInput,
    ProjectWeight,
    NormalizeBackward,
    Gather,
    StraightThrough,
    Rotation,
    Loss,
    LossBackward,
    Restart,
}

impl Op {
    /// As `--op` takes it.
    fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }
}

/// How rows and codes are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// The fastest way.
    Auto,
    /// Every score in f32.
    F32,
    /// Integer scores first, or scores in bf16 on AMX.
    Coarse,
    /// Only cells of codes near the row: codes packed for it, of at most 16 dimensions.
    Pruned,
}

/// How fast an op is here, and which share of this machine's own limit that is.
#[derive(Parser)]
#[command(name = "speed", version)]
struct Options {
    /// What is measured.
    #[arg(long, value_enum, default_value = "search")]
    op: Op,
    /// Rows in a call.
    #[arg(long, default_value_t = 1024)]
    rows: usize,
    /// Codes in the codebook; reported as 0 for ops that have none.
    #[arg(long, default_value_t = 100_000)]
    codes: usize,
    /// Dimensions of a code.
    #[arg(long, default_value_t = 32)]
    dim: usize,
    /// Instruction set: auto, scalar, avx2, avx2vnni, avx512, avx512vnni, amx, neon, neoni8mm, neondot, simd128.
    #[arg(long, default_value = "auto")]
    isa: String,
    /// How rows and codes are searched; the codes are the same.
    #[arg(long, value_enum, default_value = "auto")]
    search: Way,
    /// The codebook changes before every search: packing it again, and preparing it, are timed as well.
    #[arg(long)]
    changing: bool,
    /// A safetensors file with unit rows `x` and `codebook` instead of random ones: for --op search.
    #[arg(long)]
    data: Option<std::path::PathBuf>,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// How rows and codes are compared: cosine or l2.
    #[arg(long, default_value = "cosine")]
    metric: String,
    /// Samples, of which the median and the fastest are reported.
    #[arg(long, default_value_t = 7)]
    repeat: usize,
    /// Seed of the rows and codes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to run: cpu, or cuda:N (built with `--features cuda`).
    #[arg(long, default_value = "cpu")]
    device: String,
    /// With `--op ema` on a device: all rows fall to two codes, in turn.
    #[arg(long)]
    collapsed: bool,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    run_main(|| {
        let size = Size::new(&options)?;
        if options.device != "cpu" {
            return on_device(&options, size);
        }
        let processor = Processor::new(&options.isa, options.threads)?;
        let tally = Tally::default();
        let way = Search::from(options.search);
        let cpu = processor.cpu().with_search(way).with_tally(&tally);
        let mut case = match options.op {
            Op::Search => cases::search(cpu, &tally, size, options.changing, options.data.as_deref())?,
            Op::Project => cases::project(cpu, size)?,
            Op::Normalize => cases::normalize(&processor, size)?,
            Op::Ema => cases::ema(&processor, size)?,
            Op::Step => cases::step(cpu, &tally, size)?,
            op => backward::case(op, &processor, size)?,
        };
        let measured = measure(&mut case, options.repeat)?;
        let name = options.op.name();
        let per_row = 1e6 * measured.median / options.rows as f64;
        let share = measured.limit / measured.median;
        if options.json {
            let line: Value = json!({
                "op": name, "isa": cpu.isa().name(), "threads": cpu.threads(),
                "rows": options.rows, "codes": case.codes, "dim": options.dim,
                "median_s": measured.median, "min_s": measured.min, "us_per_row": per_row,
                "limit_s": measured.limit, "share_of_limit": share,
                "search": way_taken(options.op, way, &tally), "groups_per_row": groups_per_row(&tally),
                "rows_in_f32": share_in_f32(&tally),
            });
            return print(&line.to_string());
        }
        print(&format!(
            "{name} {} x{}: {} rows, {} codes, dim {}: median {:.4} ms, min {:.4} ms, {per_row:.3} µs/row; limit {:.4} ms, {:.1} % of it reached",
            cpu.isa().name(),
            cpu.threads(),
            options.rows,
            case.codes,
            options.dim,
            1e3 * measured.median,
            1e3 * measured.min,
            1e3 * measured.limit,
            100.0 * share,
        ))
    })
}

impl From<Way> for Search {
    fn from(way: Way) -> Self {
        match way {
            Way::Auto => Self::Auto,
            Way::F32 => Self::F32,
            Way::Coarse => Self::Coarse,
            Way::Pruned => Self::Pruned,
        }
    }
}

/// Measures on the device that `--device` names.
fn on_device(options: &Options, size: Size) -> Result<(), Failure> {
    let ordinal = options.device.strip_prefix("cuda:").and_then(|number| number.parse::<usize>().ok());
    let Some(ordinal) = ordinal else {
        return Err(Failure::new(format!("--device {}: give cpu, or cuda:0 for the first GPU", options.device)));
    };
    #[cfg(feature = "cuda")]
    return print(&device::measure(options, size, ordinal, options.search.into())?.to_string());
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (size, ordinal);
        Err(Failure::new("--device cuda: this was built without it; add --features cuda"))
    }
}

/// What searches took, of the ways that `--search` names; none where the op does not search.
fn way_taken(op: Op, way: Search, tally: &Tally) -> Option<&'static str> {
    let pruned = way == Search::Pruned || tally.visited_codes() > 0;
    let coarse = if pruned { "pruned" } else { "coarse" };
    matches!(op, Op::Search | Op::Step).then_some(if tally.rows() > 0 { coarse } else { "f32" })
}

/// Share of the rows for which the coarse pass excluded too little, so that all codes were scored in f32.
fn share_in_f32(tally: &Tally) -> Option<f64> {
    (tally.rows() > 0).then(|| tally.exact_rows() as f64 / tally.rows() as f64)
}

/// Groups of 64 codes that a row's coarse pass left to be scored in f32; none without that pass.
fn groups_per_row(tally: &Tally) -> Option<f64> {
    let groups = tally.rescored_codes() as f64 / 64.0;
    (tally.rows() > 0).then(|| groups / tally.rows() as f64)
}

/// Seconds for one call.
struct Measured {
    median: f64,
    min: f64,
    limit: f64,
}

/// Measures limit and op in turn, so that both see the same machine.
fn measure(case: &mut Case, repeat: usize) -> Result<Measured, Failure> {
    let once = time(case, 1)?;
    let calls = (SAMPLE.as_secs_f64() / once.max(1e-9)).ceil().clamp(1.0, 1e6) as u32;
    let (mut samples, mut limit) = (Vec::with_capacity(repeat), f64::INFINITY);
    for _ in 0..repeat {
        limit = limit.min(case.limit.seconds());
        samples.push(time(case, calls)?);
    }
    samples.sort_by(f64::total_cmp);
    let median = f64::midpoint(samples[(repeat - 1) / 2], samples[repeat / 2]);
    Ok(Measured { median, min: samples[0], limit })
}

fn time(case: &mut Case, calls: u32) -> Result<f64, Failure> {
    let started = Instant::now();
    for _ in 0..calls {
        (case.run)()?;
    }
    Ok(started.elapsed().as_secs_f64() / f64::from(calls))
}
