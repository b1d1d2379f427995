//! 4M's configurations (ml-4m, `cfgs/default/tokenization/vqvae`, `BMLP1024`), and small ones for two cores.

use clap::ValueEnum;

use super::config::{Coding, Config};
use crate::data::maps::{Modality, Scale};
use crate::nets::bottleneck::BottleneckConfig;
use crate::nets::memcodes::MemcodesConfig;
use crate::shell::{Codes, Settings};
use crate::vqvae::config::Reconstruction;

/// A configuration by name. Those of 4M name what they are of, the others leave it to `--modality`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Some minutes on two cores.
    Small,
    /// A few steps of a toy, for tests.
    Tiny,
    /// Global embeddings of DINOv2-B/14: 768 values, 8 heads of 8,192 codes; the published tokenizer has 16.
    #[value(name = "4m-dinov2-global-8k")]
    FourMDinov2,
    /// Global embeddings of ImageBind-H/14: 1,280 values, 8 heads of 8,192 codes; the published tokenizer has 16.
    #[value(name = "4m-imagebind-global-8k")]
    FourMImageBind,
    /// Human poses: 207 values, 8 heads of 1,024 codes.
    #[value(name = "4m-poses-1k")]
    FourMPoses,
}

/// What `small` and `tiny` are trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Embeddings.
    Vectors,
    /// Rotations of a person's joints.
    Poses,
}

/// How latents become tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quantizer {
    /// Each head has codes of its own, seen by attention.
    Memcodes,
    /// All heads share codes that moving averages learn.
    Shared,
}

impl Preset {
    /// What the preset is trained on, where it says so.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::Small | Self::Tiny => None,
            Self::FourMDinov2 | Self::FourMImageBind => Some(Kind::Vectors),
            Self::FourMPoses => Some(Kind::Poses),
        }
    }

    /// The configuration; `kind` and `dim`, the values of a vector, are for the presets that leave them open.
    pub fn config(self, kind: Kind, dim: usize, quantizer: Quantizer, heads: Option<usize>) -> Config {
        let wide = BottleneckConfig::four_m();
        let (config, of_head, codes, standard) = match self {
            Self::FourMDinov2 => (four_m(Modality::Vector { dim: 768 }, wide, 15, 5), 128, 8192, 8),
            Self::FourMImageBind => (four_m(Modality::Vector { dim: 1280 }, wide, 15, 5), 128, 8192, 8),
            Self::FourMPoses => (four_m(Modality::Pose, wide, 15, 1), 128, 1024, 8),
            Self::Small => {
                let net = BottleneckConfig { blocks: 2, width: 256, ratio: 4 };
                match kind {
                    Kind::Poses => (short(four_m(Modality::Pose, net, 1, 0), 1500, 64, 1e-3), 16, 1024, 8),
                    Kind::Vectors => (short(four_m(Modality::Vector { dim }, net, 1, 0), 600, 64, 1e-3), 16, 8192, 16),
                }
            }
            Self::Tiny => {
                let net = BottleneckConfig { blocks: 1, width: 16, ratio: 2 };
                let modality = if kind == Kind::Poses { Modality::Pose } else { Modality::Vector { dim } };
                (short(four_m(modality, net, 1, 0), 8, 8, 1e-3), 4, 16, 4)
            }
        };
        let heads = heads.unwrap_or(standard);
        let coding = match quantizer {
            Quantizer::Memcodes => {
                // 4M's latents have 1,024 values whatever the heads.
                let dim = if self.kind().is_some() { wide.width } else { of_head * heads };
                Coding::Memcodes(MemcodesConfig::new(dim, codes, heads))
            }
            Quantizer::Shared => Coding::Shared { heads, codes: Codes::four_m(codes, of_head.min(32)) },
        };
        Config { coding, ..config }
    }
}

/// What all of 4M's have in common: 512 samples on 8 GPUs.
fn four_m(modality: Modality, net: BottleneckConfig, epochs: u64, warmup: u64) -> Config {
    let loss = match modality {
        Modality::Pose => Reconstruction::SmoothL1,
        _ => Reconstruction::Cosine,
    };
    Config {
        modality,
        net,
        coding: Coding::Memcodes(MemcodesConfig::new(1024, 8192, 8)),
        loss,
        commitment: 1.0,
        scale: Scale::ONE,
        // 1e-4 for 256 samples.
        settings: Settings::four_m(512, 2e-4, epochs, warmup),
    }
}

/// The rate and length of a training of minutes.
fn short(config: Config, steps: u64, batch: usize, lr: f64) -> Config {
    Config { settings: config.settings.clone().short(steps, batch, lr), ..config }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_fits_with_either_quantizer_and_heads() {
        for preset in Preset::value_variants() {
            for kind in Kind::value_variants() {
                for quantizer in Quantizer::value_variants() {
                    for heads in [None, Some(8), Some(16)] {
                        let config = preset.config(*kind, 384, *quantizer, heads);
                        config.check().unwrap_or_else(|cause| panic!("{preset:?}, {kind:?}: {cause}"));
                        assert!(heads.is_none_or(|heads| config.coding.heads() == heads));
                    }
                }
            }
        }
        let poses = Preset::FourMPoses.config(Kind::Poses, 0, Quantizer::Memcodes, None);
        assert_eq!((poses.coding.heads(), poses.coding.codes(), poses.coding.dim()), (8, 1024, 1024));
        assert_eq!((poses.modality.channels(), poses.loss), (207, Reconstruction::SmoothL1));
    }

    #[test]
    fn settings_that_do_not_fit_are_refused() {
        let good = Preset::Small.config(Kind::Vectors, 384, Quantizer::Memcodes, None);
        let refused = |config: Config, why: &str| {
            let message = config.check().expect_err(why).to_string();
            assert!(message.contains(why), "{message}");
        };
        refused(Config { modality: Modality::Depth, ..good.clone() }, "no vectors");
        refused(Config { loss: Reconstruction::Bce, ..good.clone() }, "not for vectors");
        refused(Config { commitment: f64::NAN, ..good.clone() }, "--commitment");
        refused(Config { scale: Scale { mean: 0.0, deviation: 0.0 }, ..good.clone() }, "cannot be scaled");
        refused(
            Config { coding: Coding::Memcodes(MemcodesConfig::new(100, 8, 16)), ..good.clone() },
            "not whole heads",
        );
        // 64 rows of 16 heads of 8,192 codes fit, 2,000 rows do not.
        let mut large = good;
        large.settings.batch = 2000;
        refused(large, "logits");
    }
}
