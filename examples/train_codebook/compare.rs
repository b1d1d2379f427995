//! The learners side by side, and the three fixes switched off one by one: tables and pictures like
//! those of the papers.
//!
//! First the four learners as published (no restart, no l2 norm), then with this crate's restart; then
//! the fixes of ViT-VQGAN and 4M (factorized codes, l2-normalized codes, restart) at 8,192 codes on
//! 16 × 16 patches (768 values), searched at 32 and at 8 dimensions.

use std::time::Instant;

use serde_json::{Value, json};
use vq_kernels::Cpu;

use crate::common::Failure;
use crate::common::failure::At;
use crate::common::files::create_writable;
use crate::common::files::write_atomic;
use crate::common::plots::bars_svg;
use crate::common::terminal::{Count, Progress, interrupted, print};
use crate::data::Data;
use crate::options::{Init, Learn, Options};
use crate::report::{Figures, warn_few_rows};
use crate::run::processor;
use crate::trainer::{Plan, Trainer};

const SCENES: usize = 512;
const SCENE_SIZE: usize = 128;
/// The ablation's patches are 16 times as large, so its scenes are larger too.
const ABLATION_SCENE_SIZE: usize = 256;
const ABLATION_PATCH: usize = 16;
const ABLATION_CODES: usize = 8192;
const ABLATION_DIMS: [usize; 2] = [32, 8];

/// One trained row of a table.
#[derive(Clone)]
struct Row {
    label: String,
    /// The group of bars that it stands in; none is all of them.
    group: Option<String>,
    codes: usize,
    dim: usize,
    utilization: f64,
    held_out_utilization: f64,
    perplexity: f64,
    psnr: f64,
    seconds: f64,
}

/// Trains everything, prints and draws the tables.
pub fn compare(options: &Options) -> Result<(), Failure> {
    create_writable(&options.out)?;
    let processor = processor(options)?;
    let (cpu, pool) = (processor.cpu(), processor.pool());
    let mut results = json!({});
    let data = Data::load(options, options.patch, SCENE_SIZE, SCENES, pool)?;
    let mut published: Vec<Row> = Vec::new();
    for (restart, name, title) in [
        (false, "as_published", "Learners as published: no restart, no l2 norm"),
        (true, "with_restart", "The same with this crate's restart (a projector's codes are frozen)"),
    ] {
        let mut rows = Vec::new();
        for &codes in &options.codes {
            warn_few_rows(data.train.len(), codes);
            for learn in Learn::ALL {
                // Frozen codes have no restart: the row is the published one.
                let frozen = |row: &&Row| restart && learn == Learn::Projector && row.label == learn.name();
                if let Some(row) = published.iter().filter(frozen).find(|row| row.codes == codes) {
                    rows.push(row.clone());
                    continue;
                }
                let plan = Plan { restart, ..Plan::published(learn, codes, options) };
                rows.push(trained(plan, learn.name(), Some(format!("{codes} codes")), &data, cpu)?);
            }
        }
        show(options, name, title, &rows)?;
        say_order(&rows, &options.codes);
        results[name] = rows.iter().map(Row::json).collect();
        published = rows;
    }
    drop(data);
    let data = Data::load(options, ABLATION_PATCH, ABLATION_SCENE_SIZE, SCENES, pool)?;
    warn_few_rows(data.train.len(), ABLATION_CODES);
    let rows = ablation(options, &data, cpu)?;
    let title = format!("The three fixes, {ABLATION_CODES} codes, rows of {} values", data.train.dim);
    show(options, "fixes", &title, &rows)?;
    results["fixes"] = rows.iter().map(Row::json).collect();
    let path = options.out.join("compare.json");
    write_atomic(&path, |out| writeln!(out, "{results:#}").at("write", &path))?;
    if options.json {
        print(&results.to_string())?;
    }
    Ok(())
}

/// All three fixes on, each one off, all off. Without factorization there is one width only.
fn ablation(options: &Options, data: &Data, cpu: Cpu) -> Result<Vec<Row>, Failure> {
    // Frozen codes have no restart, and `plain` is what "all off" means.
    let learn = if options.learn == Learn::Ema { Learn::Ema } else { Learn::Gradient };
    let all_on = Plan {
        init: Init::Normal,
        l2: true,
        restart: true,
        factorize: true,
        ..Plan::published(learn, ABLATION_CODES, options)
    };
    let mut rows = Vec::new();
    for dim in ABLATION_DIMS {
        let on = Plan { dim, ..all_on };
        let group = || Some(format!("{dim} dimensions"));
        rows.push(trained(on, "all on", group(), data, cpu)?);
        rows.push(trained(Plan { l2: false, ..on }, "no l2", group(), data, cpu)?);
        rows.push(trained(Plan { restart: false, ..on }, "no restart", group(), data, cpu)?);
    }
    rows.push(trained(Plan { factorize: false, ..all_on }, "no factorization", None, data, cpu)?);
    let off = Plan { init: Init::Uniform, l2: false, restart: false, factorize: false, ..all_on };
    rows.push(trained(off, "all off", None, data, cpu)?);
    Ok(rows)
}

fn trained(plan: Plan, label: &str, group: Option<String>, data: &Data, cpu: Cpu) -> Result<Row, Failure> {
    let started = Instant::now();
    let mut trainer = Trainer::new(plan, data, cpu)?;
    let mut progress = Progress::new(&format!("{label}, {} codes", plan.codes), plan.steps, Count::Items);
    while trainer.quantizer.step() < plan.steps {
        if interrupted() {
            return Err(Failure::interrupted());
        }
        let report = trainer.step(data)?;
        let share = 100.0 * trainer.recent_utilization();
        progress.tick(
            trainer.quantizer.step(),
            format!("commitment {:.5} utilization {share:.1} %", report.loss.commitment),
        );
    }
    progress.done();
    let figures = Figures::of(&trainer, data)?;
    Ok(Row {
        label: label.to_owned(),
        group,
        codes: plan.codes,
        dim: trainer.quantizer.config().dim,
        utilization: figures.train.utilization(),
        held_out_utilization: figures.held_out.utilization(),
        perplexity: figures.train.perplexity,
        psnr: figures.psnr,
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "label": self.label, "codes": self.codes, "dim": self.dim, "utilization": self.utilization,
            "held_out_utilization": self.held_out_utilization, "perplexity": self.perplexity,
            "psnr_db": self.psnr, "seconds": self.seconds,
        })
    }

    fn markdown(&self) -> String {
        format!(
            "| {} | {} | {} | {:.2} | {:.2} | {:.0} | {:.2} | {:.0} |",
            self.label,
            self.codes,
            self.dim,
            100.0 * self.utilization,
            100.0 * self.held_out_utilization,
            self.perplexity,
            self.psnr,
            self.seconds
        )
    }
}

/// Prints the table, writes it, and draws utilization and PSNR as bars.
fn show(options: &Options, name: &str, title: &str, rows: &[Row]) -> Result<(), Failure> {
    let head =
        "| | codes | dim | utilization % | held out % | perplexity | PSNR dB | s |\n|---|---|---|---|---|---|---|---|";
    let lines: Vec<String> = rows.iter().map(Row::markdown).collect();
    let table = format!("{title}\n\n{head}\n{}\n", lines.join("\n"));
    eprintln!("\n{table}");
    let path = options.out.join(format!("{name}.md"));
    write_atomic(&path, |out| out.write_all(table.as_bytes()).at("write", &path))?;
    let (mut groups, mut labels) = (Vec::new(), Vec::new());
    for row in rows {
        groups.extend(row.group.clone().filter(|group| !groups.contains(group)));
        if !labels.contains(&row.label) {
            labels.push(row.label.clone());
        }
    }
    for (what, unit, value) in [
        ("utilization", "codes used over the training set, %", (|row| 100.0 * row.utilization) as fn(&Row) -> f64),
        ("psnr", "held-out PSNR, dB", |row| row.psnr),
    ] {
        let of = |label: &String, wanted: &String| {
            let here = |row: &&Row| row.group.as_ref().is_none_or(|group| group == wanted);
            rows.iter().filter(here).find(|row| row.label == *label).map_or(0.0, value)
        };
        let values: Vec<Vec<f64>> =
            labels.iter().map(|label| groups.iter().map(|group| of(label, group)).collect()).collect();
        let series: Vec<(&str, &[f64])> =
            labels.iter().zip(&values).map(|(label, values)| (label.as_str(), values.as_slice())).collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        bars_svg(&options.out.join(format!("{name}_{what}.svg")), title, unit, &groups, &series)?;
    }
    Ok(())
}

/// Says whether the published order of utilization came out.
fn say_order(rows: &[Row], codes: &[usize]) {
    for &codes in codes {
        let shares: Vec<f64> = rows.iter().filter(|row| row.codes == codes).map(|row| row.utilization).collect();
        let ordered = shares.windows(2).all(|pair| pair[0] < pair[1]);
        let verdict = if ordered { "came out" } else { "did not come out" };
        eprintln!("{codes} codes: the published order of utilization, plain < gradient < ema < projector, {verdict}");
    }
    eprintln!();
}
