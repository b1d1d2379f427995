//! What the reviews of VQGAN-LC asked: how much codes matter, which codes are used, what they cost, what data brings.
//!
//! | program | question |
//! |---|---|
//! | [`mth_nearest`] | how much worse are reconstructions where each code is replaced by its M-th nearest? |
//! | [`coverage`] | how many codes are used, and do the used ones cover the latents? |
//! | [`tsne`] | where do used and unused codes lie? |
//! | [`cost`] | what do 100,000 codes cost against 16,384? |
//! | [`data_scaling`] | what do twice as many training images bring? |

use clap::{Parser, Subcommand};

use crate::common::failure::Failure;

// What all of them share: trainings to look at, codes and latents, figures, tables, pictures.
pub mod codes;
pub mod numbers;
pub mod runs;
pub mod scatter;
pub mod table;

pub mod coverage;
pub mod mth_nearest;

pub mod embed;
pub mod tsne;

pub mod cost;
pub mod data_scaling;

/// Experiments with finished trainings of train_vqgan, and with their costs and data.
#[derive(Clone, Debug, Parser)]
#[command(name = "study", version)]
pub struct StudyOptions {
    /// Which.
    #[command(subcommand)]
    pub study: Study,
}

/// The experiments.
#[derive(Clone, Debug, Subcommand)]
pub enum Study {
    /// Replaces the codes of held-out images by their M-th nearest, and measures the reconstructions.
    MthNearest(mth_nearest::MthOptions),
    /// Counts used codes, and how far latents and unused codes are from them.
    Coverage(coverage::CoverageOptions),
    /// Draws used and unused codes in the plane, for each training and for all in one map.
    Tsne(tsne::TsneOptions),
    /// Measures the quantizer's share of a training step, and what more codes add.
    Cost(cost::CostOptions),
    /// Trains on n and on 2n images with several seeds, and compares held-out figures.
    DataScaling(data_scaling::ScalingOptions),
}

/// The program `study`.
///
/// # Errors
/// As the experiments; Ctrl-C.
pub fn run(options: &StudyOptions) -> Result<(), Failure> {
    match &options.study {
        Study::MthNearest(options) => mth_nearest::run(options),
        Study::Coverage(options) => coverage::run(options),
        Study::Tsne(options) => tsne::run(options),
        Study::Cost(options) => cost::run(options),
        Study::DataScaling(options) => data_scaling::run(options),
    }
}
