//! What a person looks at: a sheet of held-out samples over their reconstructions, how often codes are used, a summary.

use std::path::Path;

use super::config::{Config, Modality};
use super::data::{Data, Values};
use super::evaluate::Evaluation;
use super::tokenizer::{Tokenizer, classes, probabilities};
use crate::common::failure::Failure;
use crate::common::images::Rgb;
use crate::common::plots::sheet_png;
use crate::data::maps::label_colour;
use crate::metrics::{Frechet, Pca};
use crate::params::host;
use crate::quantize::QuantizeBackend;
use crate::shell::{counts_svg, enlarged, pictures};

/// Samples of a sheet.
const SHEET: usize = 10;

/// Pixels of a sheet's picture, at least: smaller ones are enlarged in whole squares.
const SIDE: usize = 112;

/// counts.svg, reconstruction.png.
///
/// # Errors
/// Where a file cannot be written.
pub fn draw<B: QuantizeBackend>(
    out: &Path,
    tokenizer: &Tokenizer<B>,
    data: &Data,
    evaluation: &Evaluation,
) -> Result<(), Failure> {
    counts_svg(&out.join("counts.svg"), "training set", &evaluation.counts)?;
    let samples = data.held_out(0, SHEET.min(data.held_out_len()));
    let (tokens, grid) = tokenizer.encode(samples.to_sample(&tokenizer.device))?;
    let output = tokenizer.decode(&tokens, grid)?;
    let size = samples.size;
    let rows = match (&samples.values, tokenizer.config.modality) {
        (Values::Classes(labels), _) => [labels, &classes(output)].map(|labels| label_pictures(labels, size)),
        (Values::Numbers(masks), Modality::Masks) => {
            [grey_pictures(masks, size), grey_pictures(&probabilities(output), size)]
        }
        (Values::Numbers(values), Modality::Rgb) => [pictures(values, size), pictures(&host(output), size)],
        (Values::Numbers(values), Modality::Features | Modality::Labels { .. }) => {
            let components = Components::of(values, samples.channels, size)?;
            [components.pictures(values), components.pictures(&host(output))]
        }
    };
    let [originals, copies] =
        rows.map(|row| row.into_iter().map(|picture| enlarged(&picture, SIDE)).collect::<Vec<_>>());
    sheet_png(&out.join("reconstruction.png"), &[originals.iter().collect(), copies.iter().collect()])
}

/// Maps of classes `[n, size, size]`, each class in a colour of its own.
pub fn label_pictures(labels: &[u32], size: usize) -> Vec<Rgb> {
    labels
        .chunks_exact((size * size).max(1))
        .map(|map| picture(size, map.iter().flat_map(|&label| label_colour(label))))
        .collect()
}

/// Masks `[n, size, size]` in `0..=1`, in grey.
pub fn grey_pictures(masks: &[f32], size: usize) -> Vec<Rgb> {
    let grey = |mask: &[f32]| picture(size, mask.iter().flat_map(|&value| [value; 3]));
    masks.chunks_exact((size * size).max(1)).map(grey).collect()
}

fn picture(size: usize, pixels: impl Iterator<Item = f32>) -> Rgb {
    Rgb { name: String::new(), width: size, height: size, pixels: pixels.map(|value| value.clamp(0.0, 1.0)).collect() }
}

/// The three directions in which a set's features vary most, shown as red, green and blue.
struct Components {
    pca: Pca,
    channels: usize,
    size: usize,
    /// Least and greatest coordinate of the set along each.
    range: [[f64; 2]; 3],
}

impl Components {
    /// Of maps `[n, channels, size, size]`.
    fn of(maps: &[f32], channels: usize, size: usize) -> Result<Self, Failure> {
        let mut rows = Frechet::new(channels)?;
        rows.add(&positions(maps, channels, size))?;
        let pca = Pca::new(&rows, 3.min(channels))?;
        let mut range = [[f64::INFINITY, f64::NEG_INFINITY]; 3];
        for row in positions(maps, channels, size).chunks_exact(channels) {
            for ([low, high], at) in range.iter_mut().zip(pca.coordinates(row)) {
                (*low, *high) = (low.min(at), high.max(at));
            }
        }
        Ok(Self { pca, channels, size, range })
    }

    fn pictures(&self, maps: &[f32]) -> Vec<Rgb> {
        let rows = positions(maps, self.channels, self.size);
        let colour = |row: &[f32]| -> [f32; 3] {
            let coordinates = self.pca.coordinates(row);
            core::array::from_fn(|c| {
                let [low, high] = self.range[c];
                let at = coordinates.get(c).copied().unwrap_or(low);
                ((at - low) / (high - low).max(f64::MIN_POSITIVE)) as f32
            })
        };
        let positions = self.size * self.size;
        rows.chunks_exact(positions * self.channels)
            .map(|map| picture(self.size, map.chunks_exact(self.channels).flat_map(colour)))
            .collect()
    }
}

/// Maps `[n, channels, size, size]` as rows `[n · size², channels]`.
fn positions(maps: &[f32], channels: usize, size: usize) -> Vec<f32> {
    let area = size * size;
    let row = |map: usize, position: usize| (0..channels).map(move |c| maps[(map * channels + c) * area + position]);
    (0..maps.len() / (channels * area).max(1)).flat_map(|map| (0..area).flat_map(move |at| row(map, at))).collect()
}

/// For the person at the terminal.
pub fn print_summary(config: &Config, data: &Data, evaluation: &Evaluation) {
    let Evaluation { set, samples, loss, labels, masks, numbers, usage, held_out_usage, .. } = evaluation;
    let (grid, codes) = (config.grid(), &config.codes);
    eprintln!(
        "tokens        {grid} × {grid}, {} codes of {} dimensions, of {}",
        codes.codes,
        codes.dim,
        config.modality.name()
    );
    eprintln!("data          {} ({} samples)", data.name(), data.len());
    eprintln!("held out      {set}: {samples} samples, loss {loss:.4}");
    if let Some(labels) = labels {
        eprintln!(
            "              {:.2} % of pixels right (the most frequent class: {:.2} %), mean IoU {:.3}",
            100.0 * labels.accuracy,
            100.0 * labels.majority,
            labels.mean_iou
        );
    }
    if let Some(masks) = masks {
        eprintln!("              IoU {:.3} (of the whole square: {:.3})", masks.iou, masks.iou_of_all);
    }
    if let Some(numbers) = numbers {
        eprintln!(
            "              {:.1} % of the mean predictor's loss of {:.4}; cosine {:.3}",
            100.0 * numbers.relative_loss,
            numbers.mean_predictor_loss,
            numbers.cosine
        );
        if let Some(psnr) = numbers.psnr_db {
            eprintln!("              PSNR {psnr:.2} dB");
        }
    }
    eprintln!(
        "utilization   {:.2} % over {} tokens of the training set, perplexity {:.0}; {:.2} % over {} held-out tokens",
        100.0 * usage.utilization,
        usage.tokens,
        usage.perplexity,
        100.0 * held_out_usage.utilization,
        held_out_usage.tokens
    );
}
