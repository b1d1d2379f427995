//! Grids of the published transformers' tokens.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use crate::common::failure::{Context, Failure};
use crate::common::terminal::print;
use crate::nets::Backbone;
use crate::nets::vit::VitConfig;
use crate::shell::System;
use crate::{divae, vqgan, vqvae};

/// The grid of a preset's tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grid {
    /// The program that trains it.
    pub program: &'static str,
    /// Its name there.
    pub preset: String,
    /// What it encodes.
    #[serde(skip)]
    pub encoder: VitConfig,
    /// Dimensions of a code.
    #[serde(skip)]
    pub dim: usize,
    /// Height and width of a sample, and its channels.
    pub image_size: usize,
    /// Height and width of a patch.
    pub patch: usize,
    /// Rows and columns of tokens, as configured.
    pub grid: [usize; 2],
    /// How many there are.
    pub tokens: usize,
    /// Codes.
    pub codes: usize,
}

impl Grid {
    fn new(program: &'static str, preset: &impl ValueEnum, encoder: VitConfig, codes: [usize; 2]) -> Self {
        let [codes, dim] = codes;
        let preset = preset.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let (image_size, patch, side) = (encoder.image_size, encoder.patch, encoder.grid());
        Self { program, preset, encoder, dim, image_size, patch, grid: [side; 2], tokens: side * side, codes }
    }
}

/// All presets that encode with a transformer.
pub fn grids() -> Vec<Grid> {
    let vqgans = vqgan::presets::Preset::value_variants().iter().filter_map(|preset| {
        let config = preset.config(System::Lc, true);
        match config.backbone {
            Backbone::Vit { encoder, .. } => {
                Some(Grid::new("train_vqgan", preset, encoder, [config.codes.codes, config.codes.dim]))
            }
            Backbone::Cnn(_) => None,
        }
    });
    let vqvaes = vqvae::presets::Preset::value_variants().iter().map(|preset| {
        let config = preset.config(preset.kind().unwrap_or(vqvae::presets::Kind::Rgb));
        Grid::new("train_vqvae", preset, config.encoder, [config.codes.codes, config.codes.dim])
    });
    let divaes = divae::presets::Preset::value_variants().iter().map(|preset| {
        let config = preset.config(preset.kind().unwrap_or(divae::config::Kind::Rgb));
        Grid::new("train_divae", preset, config.encoder, [config.codes.codes, config.codes.dim])
    });
    vqgans.chain(vqvaes).chain(divaes).collect()
}

/// Rows and columns of the latents that an untrained encoder makes of a grey sample.
pub fn measured<B: Backend>(grid: &Grid, device: &B::Device) -> [usize; 2] {
    let VitConfig { image_size, channels, .. } = grid.encoder;
    let sample = Tensor::<B, 4>::zeros([1, channels, image_size, image_size], device);
    let [_, _, rows, columns] = grid.encoder.encoder::<B>(grid.dim, device).forward(sample).dims();
    [rows, columns]
}

/// Prints the grids of all presets, or of one by encoding.
pub(super) fn print_grids<B: Backend>(preset: Option<&str>, as_json: bool, device: &B::Device) -> Result<(), Failure> {
    let all = grids();
    let Some(name) = preset else {
        return match as_json {
            true => print(&serde_json::to_string(&all).context(|| "cannot write JSON".into())?),
            false => print(&all.iter().map(line).collect::<Vec<_>>().join("\n")),
        };
    };
    let found: Vec<&Grid> = all.iter().filter(|grid| grid.preset == name).collect();
    if found.is_empty() {
        let mut known: Vec<&str> = all.iter().map(|grid| grid.preset.as_str()).collect();
        known.dedup();
        return Err(Failure::new(format!("--preset {name}: known are {}", known.join(", "))));
    }
    for grid in found {
        let [rows, columns] = measured::<B>(grid, device);
        if [rows, columns] != grid.grid {
            return Err(Failure::new(format!(
                "{name} gives {rows}x{columns} tokens, but is configured for {:?}",
                grid.grid
            )));
        }
        let value =
            json!({ "program": grid.program, "preset": name, "grid": [rows, columns], "tokens": rows * columns });
        print(&if as_json { value.to_string() } else { line(grid) })?;
    }
    Ok(())
}

fn line(grid: &Grid) -> String {
    let Grid { program, preset, image_size, patch, grid: [rows, columns], tokens, codes, .. } = grid;
    format!(
        "{program:<12} {preset:<27} {image_size:>4} px, patch {patch:>2}: {rows:>2}x{columns:<2} = {tokens:>4} tokens of {codes} codes"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Host;

    /// 4M's table: 14 × 14 of patch 16 at 224 px, 16 × 16 of patch 14 and of DINOv2's and ImageBind's maps, 4 × 4 of masks.
    #[test]
    fn published_grids_are_the_published_ones() {
        let of = |preset: &str| grids().into_iter().find(|grid| grid.preset == preset).expect(preset);
        for (preset, expected) in [
            ("4m-vit-b", 14),
            ("4m-rgb-1k", 14),
            ("4m-rgb-16k", 14),
            ("4m-depth-8k", 14),
            ("4m-normal-8k", 14),
            ("4m-canny-edge-8k", 14),
            ("4m-semseg-coco-4k", 14),
            ("4m-clip-b16-8k", 14),
            ("4m-dinov2-b14-8k", 16),
            ("4m-imagebind-h14-8k", 16),
            ("4m-sam-instance-1k", 4),
            ("vit-base", 32),
        ] {
            assert_eq!(of(preset).grid, [expected; 2], "{preset}");
        }
        for grid in grids().into_iter().filter(|grid| grid.image_size == 224 && grid.patch == 16) {
            assert_eq!((grid.grid, grid.tokens), ([14, 14], 196), "{}", grid.preset);
        }
        let patch_14 = VitConfig { patch: 14, ..VitConfig::vit_b() };
        assert_eq!((patch_14.image_size, patch_14.grid()), (224, 16));
    }

    /// The networks themselves, narrow and shallow, at the published sizes.
    #[test]
    fn encoders_make_the_grids_that_are_configured() {
        for grid in grids().into_iter().filter(|grid| grid.image_size <= 224) {
            let (dim, channels) = (16, grid.encoder.channels.min(8));
            let encoder =
                VitConfig { dim, depth: 1, heads: 2, head_dim: 8, mlp_ratio: 1, channels, ..grid.encoder.clone() };
            assert_eq!(measured::<Host>(&Grid { encoder, ..grid.clone() }, &Default::default()), grid.grid, "{grid:?}");
        }
        let encoder = VitConfig { patch: 14, image_size: 224, ..VitConfig::new(224, 14, 16, 1, 2) };
        let one = grids().into_iter().next().expect("a preset");
        assert_eq!(measured::<Host>(&Grid { encoder, ..one }, &Default::default()), [16, 16]);
    }
}
