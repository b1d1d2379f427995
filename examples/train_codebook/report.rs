//! What a training came to: figures on held-out rows, pictures, the last line.

use std::path::Path;

use serde_json::{Value, json};
use vq_kernels::ops::usage::Usage;

use crate::common::Failure;
use crate::common::plots::{LineOptions, lines_svg, sheet_png};
use crate::common::terminal::peak_rss_mb;
use crate::data::{Data, Rows};
use crate::trainer::Trainer;

/// Rows per code below which the data, not the method, bounds how many codes can be used.
const FEW_ROWS: f64 = 5.0;

/// The figures of a finished training.
pub struct Figures {
    pub train: Usage,
    pub held_out: Usage,
    pub counts: Vec<u64>,
    pub psnr: f64,
    /// PSNR of predicting the training set's mean row everywhere.
    pub psnr_mean_row: f64,
    /// PSNR of predicting each patch's own mean colour.
    pub psnr_own_mean: Option<f64>,
    pub reconstruction: Vec<f32>,
}

impl Figures {
    pub fn of(trainer: &Trainer, data: &Data) -> Result<Self, Failure> {
        let counts = trainer.usage(&data.train, "usage over the training set")?;
        let held_out = trainer.usage(&data.held_out, "usage over the held-out set")?;
        let mut reconstruction = trainer.reconstructed(&data.held_out, "reconstruction")?;
        if !data.grids.is_empty() {
            // A pixel has its range; what lies beyond is shown, and so judged, at its ends.
            reconstruction.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
        }
        let x = &data.held_out.values;
        let mean_row = mean_row(&data.train);
        let psnr = |error: f64| psnr_db(error / x.len() as f64, data.half_range);
        let own_mean = (!data.grids.is_empty()).then(|| psnr(own_mean_error(&data.held_out)));
        Ok(Self {
            train: Usage::of(&counts),
            held_out: Usage::of(&held_out),
            counts,
            psnr: psnr(x.iter().zip(&reconstruction).map(|(a, b)| squared(*a, *b)).sum()),
            psnr_mean_row: psnr(x.iter().zip(mean_row.iter().cycle()).map(|(a, b)| squared(*a, *b)).sum()),
            psnr_own_mean: own_mean,
            reconstruction,
        })
    }

    /// The last line with `--json`, and the summary's content.
    pub fn json(&self, trainer: &Trainer, data: &Data, seconds: f64) -> Value {
        let config = trainer.quantizer.config();
        json!({
            "codes": config.codes,
            "dim": config.dim,
            "learn": trainer.plan.learn.name(),
            "active": self.train.active,
            "utilization": self.train.utilization(),
            "perplexity": self.train.perplexity,
            "held_out_utilization": self.held_out.utilization(),
            "psnr_db": self.psnr,
            "psnr_mean_patch_db": self.psnr_mean_row,
            "psnr_own_mean_db": self.psnr_own_mean,
            "rows": data.train.len(),
            "rows_per_code": data.train.len() as f64 / config.codes as f64,
            "steps": trainer.quantizer.step(),
            "seconds": seconds,
            "peak_rss_mb": peak_rss_mb(),
        })
    }

    /// For the person at the terminal.
    pub fn print(&self, trainer: &Trainer, data: &Data, seconds: f64) {
        let (train, held_out) = (&self.train, &self.held_out);
        let percent = |usage: &Usage| 100.0 * usage.utilization();
        eprintln!("data          {} ({} rows to train on, {} held out)", data.source, train.rows, held_out.rows);
        eprintln!(
            "utilization   {:.2} % of {} codes used at least once over the training set; {:.2} % over the held-out set",
            percent(train),
            train.codes,
            percent(held_out)
        );
        eprintln!("perplexity    {:.0} (training set), {:.0} (held out)", train.perplexity, held_out.perplexity);
        eprintln!("held-out PSNR {:.2} dB; predicting the mean patch {:.2} dB", self.psnr, self.psnr_mean_row);
        if let Some(own) = self.psnr_own_mean {
            eprintln!("              (each patch's own mean colour, unquantized: {own:.2} dB)");
        }
        let (steps, batch) = (trainer.quantizer.step(), trainer.plan.batch);
        eprintln!("time          {seconds:.1} s for {steps} steps of {batch} rows in this run");
        warn_few_rows(data.train.len(), train.codes);
    }
}

/// Says so where the data bounds the utilization.
pub fn warn_few_rows(rows: usize, codes: usize) {
    let per_code = rows as f64 / codes as f64;
    eprintln!("rows / codes  {per_code:.1}");
    if per_code < FEW_ROWS {
        eprintln!(
            "warning: below {FEW_ROWS} rows per code the data itself bounds the utilization; use more data or fewer codes"
        );
    }
}

/// usage.svg, counts.svg and, for images, reconstruction.png.
pub fn draw(out: &Path, figures: &Figures, data: &Data, history: &[(f64, f64)]) -> Result<(), Failure> {
    let percent: Vec<(f64, f64)> = history.iter().map(|(step, share)| (*step, 100.0 * share)).collect();
    lines_svg(
        &out.join("usage.svg"),
        "Codebook utilization during training",
        "step",
        "codes hit recently, %",
        &[("utilization", &percent)],
        LineOptions { y_range: Some((0.0, 100.0)), ..LineOptions::default() },
    )?;
    let mut sorted = figures.counts.clone();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    // A log scale has no zero: unused codes are shown at a tenth of a hit.
    let line: Vec<(f64, f64)> = thinned(sorted.len()).map(|i| (i as f64 + 1.0, (sorted[i] as f64).max(0.1))).collect();
    lines_svg(
        &out.join("counts.svg"),
        "How often each code is used (training set)",
        "codes, most used first",
        "rows (a code without any is drawn at 0.1)",
        &[("rows per code", &line)],
        LineOptions { log_y: true, ..LineOptions::default() },
    )?;
    const PICTURES: usize = 6;
    let originals = data.pictures(&data.held_out.values, PICTURES)?;
    if originals.is_empty() {
        return Ok(());
    }
    let copies = data.pictures(&figures.reconstruction, PICTURES)?;
    sheet_png(&out.join("reconstruction.png"), &[originals.iter().collect(), copies.iter().collect()])
}

/// At most about 1,000 of `0..n`, the last one included.
fn thinned(n: usize) -> impl Iterator<Item = usize> {
    let step = n.div_ceil(1000).max(1);
    (0..n).step_by(step).chain((n > 1).then_some(n - 1))
}

fn squared(a: f32, b: f32) -> f64 {
    (f64::from(a) - f64::from(b)).powi(2)
}

fn psnr_db(mse: f64, half_range: f64) -> f64 {
    10.0 * ((2.0 * half_range).powi(2) / mse.max(f64::MIN_POSITIVE)).log10()
}

fn mean_row(rows: &Rows) -> Vec<f32> {
    let mut sums = vec![0.0f64; rows.dim];
    for row in rows.values.chunks_exact(rows.dim) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums.iter().map(|sum| (sum / rows.len() as f64) as f32).collect()
}

/// Squared error of each patch's own mean colour: three channels interleave.
fn own_mean_error(rows: &Rows) -> f64 {
    let of = |row: &[f32]| -> f64 {
        (0..3)
            .map(|channel| {
                let values = || row.iter().skip(channel).step_by(3).map(|x| f64::from(*x));
                let n = values().count().max(1) as f64;
                let mean = values().sum::<f64>() / n;
                values().map(|x| (x - mean).powi(2)).sum::<f64>()
            })
            .sum()
    };
    rows.values.chunks_exact(rows.dim).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psnr_of_a_tenth_of_the_range_is_20_db() {
        assert!((psnr_db(0.04, 1.0) - 20.0).abs() < 1e-9);
    }

    #[test]
    fn a_flat_patch_is_its_own_mean() {
        let rows = Rows { values: [0.1, 0.2, 0.3].repeat(4), dim: 12 };
        assert!(own_mean_error(&rows) < 1e-12);
    }
}
