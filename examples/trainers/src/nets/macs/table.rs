//! The published configurations' costs, as VQGAN-LC (Zhu et al. 2024) counts them and in full.

use serde::Serialize;

use super::{Cost, area};
use crate::backend::Host;
use crate::common::failure::{Context, Failure};
use crate::nets::Backbone;
use crate::nets::cnn::CnnConfig;
use crate::nets::patchgan::PatchConfig;
use crate::nets::stylegan::StyleConfig;
use crate::nets::unet::UnetConfig;
use crate::nets::vit::VitConfig;

/// A codebook's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Codebook {
    /// Codes.
    pub codes: usize,
    /// Channels of a code.
    pub dim: usize,
    /// Channels of the frozen features that a projector maps to the codes; none for codes that are trained themselves.
    pub source: Option<usize>,
}

impl Codebook {
    /// Comparing every one of an image's tokens with every code.
    pub fn search_macs(&self, tokens: u64) -> u64 {
        tokens * self.codes as u64 * self.dim as u64
    }

    /// Projecting all codes once.
    pub fn projector_macs(&self) -> u64 {
        self.source.map_or(0, |source| self.codes as u64 * source as u64 * self.dim as u64)
    }

    /// A linear layer's weights and biases.
    pub fn projector_weights(&self) -> u64 {
        self.source.map_or(0, |source| (source as u64 + 1) * self.dim as u64)
    }
}

/// One configuration's costs for one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The configuration.
    pub name: String,
    /// Height and width of the image, pixels.
    pub image_size: usize,
    /// Tokens of the image; none for a network alone.
    pub tokens: Option<u64>,
    /// The codes; none for a network alone.
    pub codebook: Option<Codebook>,
    /// Encoder and decoder, or the one network.
    pub network: Cost,
    /// Parameters of the projector.
    pub projector_weights: u64,
    /// Multiply-accumulates of the projector: once for all codes, counted to this one image.
    pub projector_macs: u64,
    /// Multiply-accumulates of the search for the nearest codes.
    pub search_macs: u64,
    /// Parameters as VQGAN-LC's table counts them: without the norms'; for convolutional tokenizers.
    pub published_parameters: Option<u64>,
    /// Multiply-accumulates as there: convolutions and projector, neither search nor attention.
    pub published_macs: Option<u64>,
    /// All parameters; the codes themselves, trained or frozen, are not among them.
    pub parameters: u64,
    /// All multiply-accumulates.
    pub macs: u64,
}

impl Row {
    /// An encoder, a codebook and a decoder.
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn tokenizer(name: &str, backbone: &Backbone, codebook: Codebook) -> Result<Self, Failure> {
        backbone.check().context(|| name.to_owned())?;
        let device = Default::default();
        let mut network = Cost::default();
        let image_size = backbone.image_size();
        let grid = backbone.encoder::<Host>(codebook.dim, &device).cost([image_size; 2], &mut network);
        backbone.decoder::<Host>(codebook.dim, &device).cost(grid, &mut network);
        let tokens = area(grid);
        let (weights, projector, search) =
            (codebook.projector_weights(), codebook.projector_macs(), codebook.search_macs(tokens));
        let convolutional = matches!(backbone, Backbone::Cnn(_));
        Ok(Self {
            name: name.to_owned(),
            image_size,
            tokens: Some(tokens),
            codebook: Some(codebook),
            network,
            projector_weights: weights,
            projector_macs: projector,
            search_macs: search,
            published_parameters: convolutional.then_some(network.weights + weights),
            published_macs: convolutional.then_some(network.conv_macs + projector),
            parameters: network.parameters() + weights,
            macs: network.macs() + projector + search,
        })
    }

    /// A network alone, a discriminator or half of a tokenizer, of one image of this height and width.
    pub fn network(name: &str, image_size: usize, network: Cost) -> Self {
        Self {
            name: name.to_owned(),
            image_size,
            tokens: None,
            codebook: None,
            network,
            projector_weights: 0,
            projector_macs: 0,
            search_macs: 0,
            published_parameters: None,
            published_macs: None,
            parameters: network.parameters(),
            macs: network.macs(),
        }
    }
}

/// The published configurations.
///
/// # Errors
/// None: all sizes fit.
pub fn published() -> Result<Vec<Row>, Failure> {
    let trained = |codes, dim| Codebook { codes, dim, source: None };
    let frozen = Codebook { codes: 100_000, dim: 8, source: Some(768) };
    let vit = |dim, depth, heads| VitConfig::vit_vqgan(dim, depth, heads);
    let large = Backbone::Vit { encoder: vit(512, 8, 8), decoder: vit(1280, 32, 16) };
    let tokenizers = [
        ("VQGAN f16", Backbone::Cnn(CnnConfig::f16()), trained(16_384, 8)),
        ("VQGAN-LC f16", Backbone::Cnn(CnnConfig::f16()), frozen),
        ("VQGAN-LC f8", Backbone::Cnn(CnnConfig::f8()), frozen),
        ("VQGAN-LC f16, 512 px", Backbone::Cnn(CnnConfig::f16_512()), frozen),
        ("4M ViT-B", Backbone::vit(VitConfig::vit_b()), trained(16_384, 32)),
        ("ViT-VQGAN small", Backbone::vit(vit(512, 8, 8)), trained(8192, 32)),
        ("ViT-VQGAN base", Backbone::vit(vit(768, 12, 12)), trained(8192, 32)),
        ("ViT-VQGAN large", large, trained(8192, 32)),
    ];
    let mut rows = Vec::new();
    for (name, backbone, codebook) in &tokenizers {
        rows.push(Row::tokenizer(name, backbone, *codebook)?);
    }
    let device = Default::default();
    for (name, config) in
        [("PatchGAN, 2 layers", PatchConfig::vqgan_lc()), ("PatchGAN, 3 layers", PatchConfig::vqgan())]
    {
        let mut cost = Cost::default();
        config.init::<Host>(&device).cost([256; 2], &mut cost);
        rows.push(Row::network(name, 256, cost));
    }
    let mut cost = Cost::default();
    StyleConfig::new(256).init::<Host>(&device).cost([256; 2], &mut cost);
    rows.push(Row::network("StyleGAN2", 256, cost));
    Ok(rows)
}

/// 4M's tokenizers with a diffusion decoder in two halves: the decoder's costs are those of one of its many steps.
pub fn diffusion() -> Vec<Row> {
    let device = Default::default();
    let vit = VitConfig::vit_b();
    let (size, mut encoder, mut decoder) = ([vit.image_size; 2], Cost::default(), Cost::default());
    let unet = UnetConfig::four_m(vit.channels);
    vit.encoder::<Host>(unet.condition, &device).cost(size, &mut encoder);
    unet.init::<Host>(&device).cost(size, &mut decoder);
    vec![
        Row::network("4M ViT-B, encoder", vit.image_size, encoder),
        Row::network("4M UNet, patches of 4, one step", vit.image_size, decoder),
    ]
}

/// Groups of rows as text in aligned columns.
pub fn text(groups: &[&[Row]]) -> String {
    let heads = [
        "",
        "px",
        "tokens",
        "codes",
        "M, pub.",
        "GMAC, pub.",
        "M",
        "GMAC",
        "conv",
        "linear",
        "attention",
        "filter",
        "search",
        "projector",
    ];
    let mut lines = vec![heads.map(str::to_owned)];
    let breaks: Vec<usize> = groups.iter().map(|rows| rows.len()).collect();
    for row in groups.iter().copied().flatten() {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let giga = |macs: u64| if macs == 0 { "-".into() } else { format!("{:.3}", macs as f64 / 1e9) };
        lines.push([
            row.name.clone(),
            row.image_size.to_string(),
            or_none(row.tokens.map(|tokens| tokens.to_string())),
            or_none(row.codebook.map(|codes| format!("{} x {}", codes.codes, codes.dim))),
            or_none(row.published_parameters.map(|count| format!("{:.2}", count as f64 / 1e6))),
            or_none(row.published_macs.map(cut_off)),
            format!("{:.3}", row.parameters as f64 / 1e6),
            giga(row.macs),
            giga(row.network.conv_macs),
            giga(row.network.linear_macs),
            giga(row.network.attention_macs),
            giga(row.network.filter_macs),
            giga(row.search_macs),
            giga(row.projector_macs),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 14] = core::array::from_fn(width);
    let line = |cells: &[String; 14]| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            text += &if column == 0 { format!("{cell:width$}") } else { format!("  {cell:>width$}") };
        }
        text + "\n"
    };
    let (head, mut rest) = lines.split_at(1);
    let mut text: String = head.iter().map(&line).collect();
    for (place, &count) in breaks.iter().enumerate() {
        let (group, after) = rest.split_at(count);
        if place > 0 {
            text.push('\n');
        }
        text.extend(group.iter().map(&line));
        rest = after;
    }
    text + NOTES
}

const NOTES: &str = "
pub.: as VQGAN-LC's table counts: parameters without the norms' scales and shifts, rounded; multiply-accumulates
      (10^9 of one image) of convolutions and projector alone, cut off.
GMAC: all of one image: convolutions, linear layers, attention's two products, fixed filters, the search of every
      token among all codes, the projection of all codes. Not norms, activations, sums. M: all parameters; no codes.";

/// In 10⁹ with two decimals, the rest cut off: 195.0865 is 195.08.
fn cut_off(macs: u64) -> String {
    let hundredths = macs / 10_000_000;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hundredths_are_cut_off_not_rounded() {
        assert_eq!(cut_off(195_086_516_224), "195.08");
        assert_eq!(cut_off(9_999_999), "0.00");
        assert_eq!(cut_off(1_050_000_000), "1.05");
    }

    #[test]
    fn columns_are_aligned_and_show_the_published_figures() {
        let rows = published().expect("all sizes fit");
        let text = text(&[&rows, &diffusion()]);
        let lines: Vec<&str> = text.lines().take(rows.len() + 1).collect();
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{text}");
        assert!(lines[1].starts_with("VQGAN f16 ") && lines[1].contains(" 71.71  ") && lines[1].contains(" 195.08 "));
        assert!(
            lines[2].starts_with("VQGAN-LC f16 ") && lines[2].contains(" 71.72  ") && lines[2].contains(" 195.70 ")
        );
    }

    #[test]
    fn groups_stand_apart() {
        let text = text(&[&diffusion(), &diffusion()]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[3].is_empty() && lines[6].is_empty() && lines[1..3] == lines[4..6], "{text}");
    }

    #[test]
    fn a_projector_is_counted_once_for_all_codes() {
        let codes = Codebook { codes: 100_000, dim: 8, source: Some(768) };
        assert_eq!((codes.projector_macs(), codes.projector_weights()), (614_400_000, 6152));
        assert_eq!(codes.search_macs(256), 204_800_000);
        let trained = Codebook { source: None, ..codes };
        assert_eq!((trained.projector_macs(), trained.projector_weights()), (0, 0));
    }
}
