//! 4M's configurations (ml-4m, `cfgs/default/tokenization/vqvae`), and small ones for two cores.

use clap::ValueEnum;

use super::config::{Config, Modality, Reconstruction};
use crate::data::Augment;
use crate::data::maps::{Resolutions, Scale};
use crate::nets::vit::{OutConv, VitConfig};
use crate::shell::{Codes, Settings};

/// A configuration by name. Those of 4M name the modality themselves, the others leave it to `--modality`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Some minutes on two cores.
    Small,
    /// A few steps of a toy, for tests.
    Tiny,
    /// RGB, `ViTB-ViTB_1k_224`: the encoder of a frozen-encoder diffusion decoder.
    #[value(name = "4m-rgb-1k")]
    FourMRgb,
    /// Segmentation, `semseg_coco/ViTB-ViTB_4k_224`: 134 classes.
    #[value(name = "4m-semseg-coco-4k")]
    FourMSemseg,
    /// The RGB tokenizer (give it by `--start`) adapted to images of 224 to 448 px.
    #[value(name = "4m-rgb-1k-448")]
    FourMRgb448,
    /// The segmentation tokenizer (give it by `--start`) adapted to maps of 224 to 448 px.
    #[value(name = "4m-semseg-coco-4k-448")]
    FourMSemseg448,
    /// Feature maps of CLIP-B/16: 512 channels, 14 × 14.
    #[value(name = "4m-clip-b16-8k")]
    FourMClip,
    /// Feature maps of DINOv2-B/14: 768 channels, 16 × 16.
    #[value(name = "4m-dinov2-b14-8k")]
    FourMDinov2,
    /// Feature maps of ImageBind-H/14: 1,280 channels, 16 × 16.
    #[value(name = "4m-imagebind-h14-8k")]
    FourMImageBind,
    /// Masks of one thing, `sam_instance/ViTB-ViTB_1k_224_64`: 64 × 64, 16 tokens of 1,024 dimensions.
    #[value(name = "4m-sam-instance-1k")]
    FourMMasks,
}

/// What `small` and `tiny` are trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Colour images.
    Rgb,
    /// Maps of classes.
    Semseg,
    /// Maps of another network's features.
    Features,
    /// Masks of single things.
    Masks,
}

/// Channels of a class's vector in 4M.
const CLASS_CHANNELS: usize = 64;

/// Classes of COCO's panoptic labels, none among them.
const COCO_CLASSES: usize = 134;

impl Preset {
    /// What the preset is trained on, where it says so.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::Small | Self::Tiny => None,
            Self::FourMRgb | Self::FourMRgb448 => Some(Kind::Rgb),
            Self::FourMSemseg | Self::FourMSemseg448 => Some(Kind::Semseg),
            Self::FourMClip | Self::FourMDinov2 | Self::FourMImageBind => Some(Kind::Features),
            Self::FourMMasks => Some(Kind::Masks),
        }
    }

    /// The configuration; `kind` is for the presets that leave it open. Classes and feature maps of other sizes come with the data:
    /// [`Config::fit`].
    pub fn config(self, kind: Kind) -> Config {
        let vit_b = VitConfig::vit_b();
        match self {
            Self::Small => small(kind),
            Self::Tiny => tiny(kind),
            Self::FourMRgb => Config { perceptual: 1.0, ..four_m(Modality::Rgb, vit_b.clone(), vit_b, 1024, 512, 50) },
            Self::FourMSemseg => {
                let (encoder, decoder) =
                    (vit_b.clone().with_channels(CLASS_CHANNELS), vit_b.with_channels(COCO_CLASSES));
                let labels = Modality::Labels { classes: COCO_CLASSES };
                Config { loss: Reconstruction::CrossEntropy, ..four_m(labels, encoder, decoder, 4096, 640, 20) }
            }
            Self::FourMRgb448 => adapted(Self::FourMRgb.config(kind), 128),
            Self::FourMSemseg448 => adapted(Self::FourMSemseg.config(kind), 80),
            Self::FourMClip => four_m_features(512, 14, 1024),
            Self::FourMDinov2 => four_m_features(768, 16, 512),
            Self::FourMImageBind => four_m_features(1280, 16, 1024),
            Self::FourMMasks => {
                let encoder = VitConfig { image_size: 64, ..vit_b }.with_channels(1);
                let decoder = VitConfig { out_conv: Some(OutConv::four_m(1)), ..encoder.clone() };
                let mut config = four_m(Modality::Masks, encoder, decoder, 1024, 3072, 24);
                config.codes.dim = 1024;
                config.settings.average = None;
                Config { loss: Reconstruction::Bce, ..config }
            }
        }
    }
}

/// What all of 4M's have in common: `batch` samples on 8 GPUs, the rate in proportion.
fn four_m(modality: Modality, encoder: VitConfig, decoder: VitConfig, k: usize, batch: u64, epochs: u64) -> Config {
    Config {
        modality,
        encoder,
        decoder,
        codes: Codes::four_m(k, 32),
        loss: Reconstruction::L2,
        perceptual: 0.0,
        commitment: 1.0,
        augment: Augment::FOUR_M,
        sizes: None,
        scale: Scale::ONE,
        // 1e-4 for 256 samples, rounded once.
        settings: Settings::four_m(batch, batch as f64 / 2_560_000.0, epochs, 5),
    }
}

/// One epoch at half the rate, on images of up to twice the size.
fn adapted(config: Config, batch: u64) -> Config {
    let mut settings = Settings::four_m(batch, batch as f64 / 5_120_000.0, 1, 0);
    settings.optimizer.warmup = 5000;
    Config { sizes: Some(Resolutions { min: 224, max: 448, step: 32 }), settings, ..config }
}

fn four_m_features(channels: usize, grid: usize, batch: u64) -> Config {
    let map = VitConfig { image_size: grid, patch: 1, channels, ..VitConfig::vit_b() };
    Config {
        loss: Reconstruction::SmoothL1,
        augment: Augment { min_scale: 0.2, flip: true },
        ..four_m(Modality::Features, map.clone(), map, 8192, batch, 20)
    }
}

/// The rate and length of a training of minutes.
fn short(config: Config, steps: u64, batch: usize, lr: f64) -> Config {
    // A moving average of 0.99 would still hold a share of the first weights.
    let settings = Settings { average: None, ..config.settings.short(steps, batch, lr) };
    Config { settings, ..config }
}

fn small(kind: Kind) -> Config {
    let vit = |size, patch| VitConfig::new(size, patch, 128, 3, 4);
    match kind {
        Kind::Rgb => short(four_m(Modality::Rgb, vit(64, 8), vit(64, 8), 1024, 512, 1), 500, 16, 1e-3),
        Kind::Semseg => {
            let config = Preset::FourMSemseg.config(kind);
            let (encoder, decoder) = (vit(64, 8).with_channels(16), vit(64, 8).with_channels(COCO_CLASSES));
            short(Config { encoder, decoder, codes: Codes::four_m(1024, 32), ..config }, 600, 16, 1e-3)
        }
        Kind::Features => {
            let map = VitConfig::feature_map(512, 14, 128, 2, 4);
            let (encoder, decoder, codes) = (map.clone(), map, Codes::four_m(2048, 32));
            let augment = Augment { min_scale: 0.5, flip: true };
            // With 4M's weight of 1 a short training draws all latents to few codes, before the decoder has learnt them.
            let config = Config { encoder, decoder, codes, augment, commitment: 0.05, ..four_m_features(512, 14, 8) };
            short(config, 400, 4, 2e-3)
        }
        Kind::Masks => {
            // Without 4M's two blocks behind the decoder, which over one channel do nothing: see `OutConv`.
            let (net, config) = (vit(64, 16).with_channels(1), Preset::FourMMasks.config(kind));
            let (encoder, decoder, codes) = (net.clone(), net, Codes::four_m(1024, 128));
            short(Config { encoder, decoder, codes, ..config }, 1000, 32, 1e-3)
        }
    }
}

fn tiny(kind: Kind) -> Config {
    let config = small(kind);
    let shrunk = |vit: VitConfig| VitConfig {
        image_size: if vit.patch == 1 { 4 } else { 16 },
        patch: if vit.patch == 1 { 1 } else { 4 },
        out_conv: (vit.channels == 1).then_some(OutConv { blocks: 1, width: 2 }),
        ..VitConfig::new(16, 4, 16, 1, 2).with_channels(vit.channels.min(16))
    };
    let modality = match config.modality {
        Modality::Labels { .. } => Modality::Labels { classes: 16 },
        other => other,
    };
    let (encoder, decoder) = (shrunk(config.encoder.clone()), shrunk(config.decoder.clone()));
    short(Config { modality, encoder, decoder, codes: Codes::four_m(32, 8), ..config }, 8, 4, 1e-3)
}
