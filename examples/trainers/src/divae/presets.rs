//! 4M's configurations (ml-4m, `cfgs/default/tokenization/divae`), and small ones for two cores.

use clap::ValueEnum;

use super::config::{Config, Kind, Variance};
use crate::data::Augment;
use crate::diffusion::Schedule;
use crate::diffusion::target::{Form, Objective, Prediction, Weight};
use crate::nets::unet::UnetConfig;
use crate::nets::vit::VitConfig;
use crate::optim::OptimizerConfig;
use crate::shell::{Codes, Settings};

/// A configuration by name. Those of 4M name the modality themselves, the others leave it to `--modality`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Some minutes on two cores.
    Small,
    /// A few steps of a toy, for tests.
    Tiny,
    /// RGB, `rgb/ViTB-UNetP4_16k_224_predx0`.
    #[value(name = "4m-rgb-16k")]
    FourMRgb,
    /// Surface normals, `normal/ViTB-UNetP4_8k_224_predx0`.
    #[value(name = "4m-normal-8k")]
    FourMNormals,
    /// Depth, `depth/ViTB-UNetP4_8k_224_predx0`.
    #[value(name = "4m-depth-8k")]
    FourMDepth,
    /// Canny edges, `canny_edge/ViTB-UNetP4_8k_224_predx0`.
    #[value(name = "4m-canny-edge-8k")]
    FourMEdges,
    /// RGB, of a frozen encoder (`--encoder`, train_vqvae's 4m-rgb-1k), v prediction, a shifted cosine: `rgb/ViTB-UViTB_1k_224_predv_frozenenc`,
    /// with the patched UNet in place of the UViT.
    #[value(name = "4m-rgb-1k-predv-frozen-unet")]
    FourMRgbFrozen,
    /// RGB with the noise and a variance predicted, L_hybrid and a cosine: the losses of the DiVAE paper, in 4M's sizes.
    #[value(name = "divae-rgb-16k-hybrid")]
    DivaeRgb,
}

/// Samples that an epoch is counted as: ImageNet-1k's training set. 4M's own sets are larger, and not public as such.
const EPOCH: u64 = 1_281_167;

/// Samples of a step in 4M: 64 on each of 8 GPUs.
const BATCH: u64 = 512;

impl Preset {
    /// What the preset is trained on, where it says so.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::Small | Self::Tiny => None,
            Self::FourMRgb | Self::FourMRgbFrozen | Self::DivaeRgb => Some(Kind::Rgb),
            Self::FourMNormals => Some(Kind::Normals),
            Self::FourMDepth => Some(Kind::Depth),
            Self::FourMEdges => Some(Kind::Edges),
        }
    }

    /// Whether it is of a frozen encoder.
    pub fn is_frozen(self) -> bool {
        self == Self::FourMRgbFrozen
    }

    /// The configuration; `kind` is for the presets that leave it open.
    pub fn config(self, kind: Kind) -> Config {
        match self {
            Self::Small => small(kind),
            Self::Tiny => tiny(kind),
            Self::FourMRgb => four_m(Kind::Rgb, 16_384, 1e-4, 50),
            Self::FourMNormals => four_m(Kind::Normals, 8192, 1e-4, 20),
            Self::FourMDepth => four_m(Kind::Depth, 8192, 1e-4, 20),
            Self::FourMEdges => four_m(Kind::Edges, 8192, 5e-5, 50),
            Self::FourMRgbFrozen => {
                let config = four_m(Kind::Rgb, 1024, 1e-4, 50);
                Config {
                    schedule: Schedule::ShiftedCosine(0.5),
                    objective: Objective { prediction: Prediction::V, ..Objective::sample() },
                    ..config
                }
            }
            Self::DivaeRgb => {
                let config = four_m(Kind::Rgb, 16_384, 1e-4, 50);
                Config {
                    decoder: UnetConfig { learned_variance: true, ..config.decoder },
                    schedule: Schedule::SquaredCos,
                    zero_terminal_snr: false,
                    objective: Objective { prediction: Prediction::Epsilon, ..Objective::sample() },
                    variance: Variance::Hybrid,
                    ..config
                }
            }
        }
    }
}

/// What all of 4M's have in common; `rate` is that of 256 samples a step.
fn four_m(kind: Kind, k: usize, rate: f64, epochs: u64) -> Config {
    let form = match kind {
        Kind::Rgb | Kind::Normals => Form::Mse,
        Kind::Depth | Kind::Edges => Form::SmoothL1,
    };
    let epoch = EPOCH / BATCH;
    Config {
        kind,
        encoder: VitConfig::vit_b().with_channels(kind.channels()),
        decoder: UnetConfig::four_m(kind.channels()),
        codes: Codes::four_m(k, 32),
        frozen: None,
        schedule: Schedule::Linear,
        zero_terminal_snr: true,
        objective: Objective { form, weight: Weight::None, ..Objective::sample() },
        variance: Variance::Fixed,
        drop_codes: 0.0,
        commitment: 1.0,
        augment: Augment::FOUR_M,
        settings: Settings {
            optimizer: OptimizerConfig {
                lr: rate * BATCH as f64 / 256.0,
                beta1: 0.9,
                beta2: 0.99,
                epsilon: 1e-8,
                weight_decay: 0.05,
                clip: Some(1.0),
                warmup: 5 * epoch,
                cosine: true,
            },
            steps: epochs * epoch,
            batch: BATCH as usize,
            average: Some(0.9999),
            amp: true,
            seed: 0,
        },
    }
}

/// The rate and length of a training of minutes.
fn short(config: Config, steps: u64, batch: usize, lr: f64) -> Config {
    let optimizer = OptimizerConfig { lr, warmup: steps / 20 + 1, ..config.settings.optimizer };
    // An average over a fiftieth of the run.
    let average = Some(1.0 - (50.0 / steps as f64).min(0.5));
    Config { settings: Settings { optimizer, steps, batch, average, amp: false, ..config.settings }, ..config }
}

/// Codes of a short training: 4M's memory of 100 steps keeps a code that was left behind from being stale for 345.
fn quick(codes: usize, dim: usize) -> Codes {
    Codes { decay: 0.9, ..Codes::four_m(codes, dim) }
}

fn small(kind: Kind) -> Config {
    let config = four_m(kind, 512, 1e-4, 1);
    let decoder = UnetConfig { base: 32, res_blocks: 1, ..config.decoder };
    let encoder = VitConfig::new(32, 4, 96, 2, 4).with_channels(kind.channels());
    let codes = quick(config.codes.codes, config.codes.dim);
    short(Config { encoder, decoder, codes, drop_codes: 0.1, ..config }, 1000, 16, 2e-3)
}

fn tiny(kind: Kind) -> Config {
    let config = small(kind);
    let decoder = UnetConfig {
        condition: 8,
        base: 8,
        multipliers: vec![1, 2],
        res_blocks: 1,
        attention: vec![2],
        ..config.decoder
    };
    let encoder = VitConfig::new(16, 4, 16, 1, 2).with_channels(kind.channels());
    short(Config { encoder, decoder, codes: quick(32, 8), ..config }, 8, 4, 1e-3)
}
