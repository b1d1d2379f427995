//! The published configurations, and small ones for two cores.
//!
//! Sources: taming-transformers `imagenet_vqgan.yaml`; VQGAN-LC `runTrainVQ.sh` and `models_vq.py`;
//! enhancing-transformers `imagenet_vitvq_*.yaml`; ml-4m `vqvae/rgb/ViTB-ViTB_1k_224`.

use clap::ValueEnum;

use super::config::{Adversary, Codes, Config, GanLoss, Judge, Losses, Settings, System};
use crate::data::Augment;
use crate::nets::Backbone;
use crate::nets::cnn::CnnConfig;
use crate::nets::patchgan::PatchConfig;
use crate::nets::stylegan::StyleConfig;
use crate::nets::vit::VitConfig;
use crate::optim::OptimizerConfig;

/// A configuration by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// 64 px in minutes on two cores.
    Small,
    /// A few steps of a toy, for tests.
    Tiny,
    /// VQGAN on ImageNet, f16: K = 1,024, d = 256.
    TamingF16,
    /// VQGAN-LC on ImageNet, f16 at 256 px: K = 100,000, d = 8.
    LcF16,
    /// VQGAN-LC, f8 at 256 px.
    LcF8,
    /// VQGAN-LC, f16 at 512 px.
    #[value(name = "lc-f16-512")]
    LcF16At512,
    /// ViT-VQGAN small: 512 wide, 8 deep, both ways.
    VitSmall,
    /// ViT-VQGAN base: 768 wide, 12 deep.
    VitBase,
    /// ViT-VQGAN large: encoder 512 × 8, decoder 1280 × 32.
    VitLarge,
    /// 4M's ViT-B VQ-VAE of RGB at 224 px: no adversary.
    #[value(name = "4m-vit-b")]
    FourMVitB,
}

/// Images of ImageNet-1k's training set: what published epochs are counted in.
const IMAGENET: u64 = 1_281_167;

impl Preset {
    /// The configuration, with convolutions or a transformer where the preset leaves the choice (`small`, `tiny`).
    pub fn config(self, system: System, vit: bool) -> Config {
        match self {
            Self::Small => small(system, vit),
            Self::Tiny => tiny(system, vit),
            Self::TamingF16 => taming(),
            Self::LcF16 => lc(system, CnnConfig::f16()),
            Self::LcF8 => lc(system, CnnConfig::f8()),
            Self::LcF16At512 => lc(system, CnnConfig::f16_512()),
            Self::VitSmall => vit_vqgan(VitConfig::vit_vqgan(512, 8, 8), VitConfig::vit_vqgan(512, 8, 8)),
            Self::VitBase => vit_vqgan(VitConfig::vit_vqgan(768, 12, 12), VitConfig::vit_vqgan(768, 12, 12)),
            Self::VitLarge => vit_vqgan(VitConfig::vit_vqgan(512, 8, 8), VitConfig::vit_vqgan(1280, 32, 16)),
            Self::FourMVitB => four_m(),
        }
    }
}

/// The quantizers of VQGAN-LC's comparison; full-width for VQGAN.
fn codes(system: System, codes: usize, full_width: usize) -> Codes {
    Codes {
        system,
        codes,
        dim: if system == System::Vqgan { full_width } else { 8 },
        source_dim: 0,
        source_hash: String::new(),
        standardize: false,
        normalize: false,
        restart: false,
        rotation: false,
        decay: 0.99,
    }
}

/// Weight of the quantizer's terms in VQGAN-LC (`rate_q`), and of its second term.
const RATE_Q: f64 = 0.1;
const SECOND_TERM: f64 = 0.33;

fn lc_losses() -> Losses {
    let pixels = Losses { l1: 1.0, perceptual: 1.0, ..Losses::default() };
    Losses { commitment: RATE_Q, codebook: RATE_Q * SECOND_TERM, ..pixels }
}

fn adam(lr: f64, beta1: f64, beta2: f64, epsilon: f64) -> OptimizerConfig {
    OptimizerConfig { lr, beta1, beta2, epsilon, weight_decay: 0.0, clip: None, warmup: 0, cosine: false }
}

fn lc(system: System, backbone: CnnConfig) -> Config {
    let (batch, epochs) = (256, 100);
    let epoch = IMAGENET / batch;
    Config {
        codes: codes(system, 100_000, backbone.z_channels),
        backbone: Backbone::Cnn(backbone),
        losses: lc_losses(),
        adversary: Some(Adversary {
            judge: Judge::Patch(PatchConfig::vqgan_lc()),
            loss: GanLoss::Hinge,
            start: 50_000,
            weight: 0.1,
            adaptive: true,
            r1: None,
        }),
        settings: Settings {
            optimizer: OptimizerConfig { warmup: 5 * epoch, cosine: true, ..adam(1e-4, 0.5, 0.9, 1e-7) },
            steps: epochs * epoch,
            batch: batch as usize,
            average: None,
            amp: false,
            seed: 0,
        },
        augment: Augment::VQGAN_LC,
    }
}

fn taming() -> Config {
    let config = lc(System::Vqgan, CnnConfig::f16());
    let batch = 12;
    Config {
        codes: codes(System::Vqgan, 1024, 256),
        // The published code weighs the other term by β than the paper, and keeps it so.
        losses: Losses { commitment: 1.0, codebook: 0.25, ..lc_losses() },
        adversary: Some(Adversary {
            judge: Judge::Patch(PatchConfig::vqgan()),
            loss: GanLoss::Hinge,
            start: 250_001,
            weight: 0.8,
            adaptive: true,
            r1: None,
        }),
        settings: Settings {
            optimizer: adam(4.5e-6 * batch as f64, 0.5, 0.9, 1e-8),
            steps: 500_000,
            batch,
            ..config.settings
        },
        ..config
    }
}

fn vit_vqgan(encoder: VitConfig, decoder: VitConfig) -> Config {
    let config = lc(System::Fc, CnnConfig::f16());
    Config {
        codes: Codes { dim: 32, normalize: true, ..codes(System::Fc, 8192, 32) },
        backbone: Backbone::Vit { encoder, decoder },
        // Published on pixels in [0, 1]: here, in [-1, 1], squares are four times as large and slopes half as long.
        losses: Losses { l2: 0.25, perceptual: 0.1, commitment: 0.25, codebook: 1.0, ..Losses::default() },
        adversary: Some(Adversary {
            judge: Judge::Style(StyleConfig::new(256)),
            loss: GanLoss::Softplus,
            start: 0,
            weight: 0.1,
            adaptive: false,
            r1: Some((40.0, 16)),
        }),
        settings: Settings {
            optimizer: OptimizerConfig { weight_decay: 1e-4, ..adam(1e-4, 0.9, 0.99, 1e-8) },
            steps: 500_000,
            ..config.settings
        },
        ..config
    }
}

fn four_m() -> Config {
    let config = lc(System::Ema, CnnConfig::f16());
    let batch = 512;
    let epoch = IMAGENET / batch;
    Config {
        codes: Codes::four_m(1024, 32),
        backbone: Backbone::vit(VitConfig::vit_b()),
        losses: Losses { l2: 1.0, perceptual: 1.0, commitment: 1.0, ..Losses::default() },
        adversary: None,
        settings: Settings {
            optimizer: OptimizerConfig {
                weight_decay: 0.05,
                clip: Some(1.0),
                warmup: 5 * epoch,
                cosine: true,
                ..adam(1e-4 * batch as f64 / 256.0, 0.9, 0.99, 1e-8)
            },
            steps: 50 * epoch,
            batch: batch as usize,
            average: Some(0.99),
            ..config.settings
        },
        augment: Augment::FOUR_M,
    }
}

fn small(system: System, vit: bool) -> Config {
    let config = lc(system, CnnConfig::f16());
    let backbone = match vit {
        true => Backbone::vit(VitConfig::new(64, 8, 128, 3, 4)),
        false => Backbone::Cnn(CnnConfig {
            channels: 8,
            multipliers: vec![1, 2, 4, 8],
            res_blocks: 1,
            attention_resolutions: vec![8],
            z_channels: 64,
            image_size: 64,
        }),
    };
    Config {
        codes: Codes { standardize: true, ..codes(system, 4096, 64) },
        backbone,
        adversary: Some(Adversary {
            judge: Judge::Patch(PatchConfig { n_layers: 2, channels: 16 }),
            start: 225,
            ..config.adversary.unwrap_or_else(|| unreachable!("VQGAN-LC has an adversary"))
        }),
        settings: Settings {
            optimizer: OptimizerConfig { warmup: 50, cosine: true, ..adam(1e-3, 0.5, 0.9, 1e-7) },
            steps: 300,
            batch: 8,
            ..config.settings
        },
        augment: Augment { min_scale: 0.7, flip: true },
        ..config
    }
}

fn tiny(system: System, vit: bool) -> Config {
    let config = small(system, vit);
    let backbone = match config.backbone {
        Backbone::Cnn(cnn) => Backbone::Cnn(CnnConfig {
            channels: 4,
            multipliers: vec![1, 2, 2],
            attention_resolutions: vec![],
            z_channels: 16,
            image_size: 16,
            ..cnn
        }),
        Backbone::Vit { .. } => Backbone::vit(VitConfig::new(16, 4, 16, 1, 2)),
    };
    Config {
        codes: Codes { standardize: true, ..codes(system, 64, 16) },
        backbone,
        adversary: config.adversary.map(|adversary| Adversary {
            judge: Judge::Patch(PatchConfig { n_layers: 2, channels: 4 }),
            start: 4,
            ..adversary
        }),
        settings: Settings {
            optimizer: OptimizerConfig { warmup: 2, ..config.settings.optimizer },
            steps: 8,
            batch: 4,
            ..config.settings
        },
        ..config
    }
}
