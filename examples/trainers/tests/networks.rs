//! The networks: their sizes, their published costs, and that all of them can be trained.

#[path = "networks/gradients.rs"]
mod gradients;

use burn::module::{AutodiffModule, Module};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor, TensorData};
use trainers::backend::{Host, HostTrain};
use trainers::common::random::SplitMix64;
use trainers::nets::Backbone;
use trainers::nets::cnn::CnnConfig;
use trainers::nets::macs::table::{Codebook, Row, published};
use trainers::nets::macs::{Cost, Size};
use trainers::nets::patchgan::PatchConfig;
use trainers::nets::stylegan::StyleConfig;
use trainers::nets::vit::{OutConv, VitConfig, patchify, unpatchify};
use trainers::params::{cast, counts, host, settle, tensors};

fn noise<B: Backend>(shape: [usize; 4], seed: u64) -> Tensor<B, 4> {
    let mut random = SplitMix64::new(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.uniform(-1.0, 1.0)).collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn small_cnn() -> CnnConfig {
    CnnConfig {
        channels: 8,
        multipliers: vec![1, 2],
        res_blocks: 1,
        attention_resolutions: vec![8],
        z_channels: 12,
        image_size: 16,
    }
}

fn small_vits() -> [VitConfig; 2] {
    let published = VitConfig::new(16, 4, 16, 2, 2);
    // A head's channels times the heads are not the token's.
    let other = VitConfig { head_dim: 4, image_size: 16, patch: 4, ..VitConfig::vit_vqgan(16, 2, 3) };
    [published, other]
}

fn small_backbones() -> Vec<Backbone> {
    let [one, other] = small_vits();
    vec![Backbone::Cnn(small_cnn()), Backbone::vit(one), Backbone::vit(other)]
}

/// Parameters of a module, running statistics aside.
fn parameters<M: Module<Host>>(module: &M) -> u64 {
    counts(module).iter().filter(|(name, _)| !name.contains("running_")).map(|(_, &count)| count as u64).sum()
}

fn find<'a>(rows: &'a [Row], name: &str) -> &'a Row {
    rows.iter().find(|row| row.name == name).expect("a row of this name")
}

#[test]
fn the_published_costs_come_out_exactly() {
    let rows = published().expect("all sizes fit");
    let small = find(&rows, "VQGAN f16");
    assert_eq!((small.network.weights, small.network.norms), (71_710_091, 42_240));
    assert_eq!(small.published_parameters, Some(71_710_091));
    assert_eq!(small.published_macs, Some(195_086_516_224));
    assert_eq!(small.network.attention_macs, 469_762_048);
    assert_eq!(small.search_macs, 33_554_432);
    assert_eq!(small.macs, 195_086_516_224 + 469_762_048 + 33_554_432);
    let large = find(&rows, "VQGAN-LC f16");
    assert_eq!(large.published_parameters, Some(71_716_243));
    assert_eq!(large.published_macs, Some(195_700_916_224));
    assert_eq!(large.parameters, 71_716_243 + 42_240);
    let fine = find(&rows, "VQGAN-LC f8");
    assert_eq!((fine.network.conv_macs / 10_000_000, fine.tokens), (33_875, Some(1024)));
    assert_eq!(find(&rows, "VQGAN-LC f16, 512 px").tokens, Some(1024));
    assert_eq!(find(&rows, "4M ViT-B").tokens, Some(196));
    assert_eq!(find(&rows, "PatchGAN, 2 layers").parameters, 663_361);
    assert_eq!(find(&rows, "PatchGAN, 3 layers").parameters, 2_765_633);
}

#[test]
fn four_times_the_pixels_are_four_times_the_convolutions() {
    let rows = published().expect("all sizes fit");
    let (one, four) = (find(&rows, "VQGAN-LC f16"), find(&rows, "VQGAN-LC f16, 512 px"));
    assert_eq!(four.network.weights, one.network.weights);
    assert_eq!(four.network.conv_macs, 4 * one.network.conv_macs);
    assert_eq!(four.network.attention_macs, 16 * one.network.attention_macs);
}

#[test]
fn costs_count_the_parameters_that_burn_counts() {
    let device = Default::default();
    let published = [CnnConfig::f16(), CnnConfig::f8()].map(Backbone::Cnn);
    let vits = [VitConfig::vit_b(), VitConfig::vit_vqgan(512, 8, 8)].map(Backbone::vit);
    for backbone in small_backbones().into_iter().chain(published).chain(vits) {
        let (encoder, decoder) = (backbone.encoder::<Host>(8, &device), backbone.decoder::<Host>(8, &device));
        let mut cost = Cost::default();
        let image: Size = [backbone.image_size(); 2];
        let grid = encoder.cost(image, &mut cost);
        assert_eq!(grid, [backbone.grid(); 2], "{backbone:?}");
        assert_eq!(decoder.cost(grid, &mut cost), image, "{backbone:?}");
        assert_eq!(cost.parameters(), parameters(&encoder) + parameters(&decoder), "{backbone:?}");
    }
    let mut cost = Cost::default();
    let patch = PatchConfig { n_layers: 3, channels: 4 }.init::<Host>(&device);
    assert_eq!(patch.cost([64, 64], &mut cost), [6, 6]);
    assert_eq!(cost.parameters(), parameters(&patch));
    let mut cost = Cost::default();
    let style = StyleConfig::new(256).init::<Host>(&device);
    assert_eq!(style.cost([256, 256], &mut cost), [1, 1]);
    assert_eq!(cost.parameters(), parameters(&style));
}

#[test]
fn vit_b_has_the_encoder_of_the_notes() {
    // 90.4 M parameters and 18.4 GMAC at 196 tokens, counted by hand from the recipe.
    let mut cost = Cost::default();
    VitConfig::vit_b().encoder::<Host>(32, &Default::default()).cost([224, 224], &mut cost);
    assert_eq!((cost.parameters() + 50_000) / 100_000, 904);
    assert_eq!((cost.macs() + 50_000_000) / 100_000_000, 184);
}

/// Encoder and decoder of 4M's other modalities, with the token's grid at 224 px: toys of the same shapes.
fn other_modalities() -> [(&'static str, VitConfig, VitConfig, usize); 6] {
    let toy = |size, patch| VitConfig { image_size: size, patch, ..VitConfig::new(size, patch, 16, 1, 2) };
    let map = |channels, grid| VitConfig::feature_map(channels, grid, 16, 1, 2);
    let mask = |out_conv| VitConfig { out_conv, ..toy(64, 16).with_channels(1) };
    [
        ("CLIP-B/16", map(512, 14), map(512, 14), 14),
        ("DINOv2-B/14", map(768, 16), map(768, 16), 16),
        ("ImageBind-H/14", map(1280, 16), map(1280, 16), 16),
        ("segmentation", toy(224, 16).with_channels(64), toy(224, 16).with_channels(134), 14),
        ("masks", mask(None), mask(Some(OutConv::four_m(1))), 4),
        ("masks, wider", mask(None), mask(Some(OutConv { blocks: 2, width: 8 })), 4),
    ]
}

#[test]
fn maps_of_any_channels_become_tokens_and_maps_again() {
    let device = Default::default();
    for (name, encoder, decoder, grid) in other_modalities() {
        encoder.check().and(decoder.check()).expect("sizes that fit");
        let (size, inputs, outputs) = (encoder.image_size, encoder.channels, decoder.channels);
        let (from, to) = (encoder.encoder::<Host>(5, &device), decoder.decoder::<Host>(5, &device));
        let mut cost = Cost::default();
        assert_eq!(from.cost([size; 2], &mut cost), [grid; 2], "{name}");
        assert_eq!(to.cost([grid; 2], &mut cost), [size; 2], "{name}");
        assert_eq!(cost.parameters(), parameters(&from) + parameters(&to), "{name}");
        let latents = settle(from, 1).forward(noise([1, inputs, size, size], 3));
        assert_eq!(latents.dims(), [1, 5, grid, grid], "{name}");
        let maps = settle(to, 2).forward(latents);
        assert_eq!(maps.dims(), [1, outputs, size, size], "{name}");
        assert!(host(maps).iter().all(|value| value.is_finite()), "{name}");
    }
}

#[test]
fn the_other_encoders_of_4m_have_the_parameters_that_their_layers_have() {
    let count = |config: VitConfig| parameters(&config.encoder::<Host>(32, &Default::default()));
    let colours = count(VitConfig::vit_b());
    // Only the first layer differs: channels · patch² values to 768 channels.
    let first = |values: u64| values * 768;
    let map =
        |channels, grid| count(VitConfig { patch: 1, image_size: grid, ..VitConfig::vit_b() }.with_channels(channels));
    assert_eq!(map(512, 14), colours - first(3 * 256) + first(512));
    assert_eq!(map(1280, 16), colours - first(3 * 256) + first(1280));
    assert_eq!(count(VitConfig::vit_b().with_channels(64)), colours - first(3 * 256) + first(64 * 256));
}

#[test]
fn configurations_from_before_there_were_channels_are_of_colours() {
    let config = VitConfig::vit_b();
    let mut written = serde_json::to_value(&config).expect("plain data");
    let fields = written.as_object_mut().expect("fields");
    assert!(fields.remove("channels").is_some() && fields.remove("out_conv").is_some());
    assert_eq!(serde_json::from_value::<VitConfig>(written).expect("an old configuration"), config);
    assert_eq!((config.channels, config.out_conv), (3, None));
}

#[test]
fn images_become_tokens_and_images_again() {
    let device = Default::default();
    for backbone in small_backbones() {
        backbone.check().expect("sizes that fit");
        let encoder = settle(backbone.encoder::<Host>(5, &device), 1);
        let decoder = settle(backbone.decoder::<Host>(5, &device), 2);
        let latents = encoder.forward(noise([2, 3, 16, 16], 3));
        assert_eq!(latents.dims(), [2, 5, backbone.grid(), backbone.grid()], "{backbone:?}");
        let images = decoder.forward(latents);
        assert_eq!(images.dims(), [2, 3, 16, 16], "{backbone:?}");
        assert!(host(images).iter().all(|value| value.is_finite()), "{backbone:?}");
    }
}

#[test]
fn images_of_another_size_and_shape_go_through() {
    let device = Default::default();
    for backbone in small_backbones() {
        let factor = backbone.downsampling();
        let latents = settle(backbone.encoder::<Host>(5, &device), 1).forward(noise([1, 3, 24, 32], 3));
        assert_eq!(latents.dims(), [1, 5, 24 / factor, 32 / factor], "{backbone:?}");
        let images = settle(backbone.decoder::<Host>(5, &device), 2).forward(latents);
        assert_eq!(images.dims(), [1, 3, 24, 32], "{backbone:?}");
    }
}

#[test]
fn patches_of_16_make_14_by_14_tokens_of_224_pixels() {
    let config = VitConfig::new(224, 16, 8, 1, 2);
    let encoder = settle(config.encoder::<Host>(4, &Default::default()), 1);
    assert_eq!(encoder.forward(noise([1, 3, 224, 224], 2)).dims(), [1, 4, 14, 14]);
}

#[test]
fn the_head_of_the_trunk_is_the_decoder() {
    let device = Default::default();
    for backbone in small_backbones() {
        let decoder = settle(backbone.decoder::<Host>(5, &device), 2);
        let latents = noise([2, 5, backbone.grid(), backbone.grid()], 3);
        let last = decoder.last_layer();
        let (weight, bias) = (last.weight.val(), last.bias.as_ref().expect("a bias").val());
        let whole = host(decoder.forward(latents.clone()));
        let trunk = decoder.trunk(latents);
        assert_eq!(host(decoder.head(trunk.clone(), weight.clone(), bias.clone())), whole, "{backbone:?}");
        let other = host(decoder.head(trunk, weight * 2.0, bias));
        assert_ne!(other, whole, "{backbone:?}: the head has the values it is given");
    }
}

#[test]
fn patches_and_back_are_the_same_bits() {
    for (patch, [height, width]) in [(4, [56, 56]), (16, [224, 224]), (2, [6, 10]), (1, [3, 5])] {
        let images = noise::<Host>([2, 3, height, width], 7);
        let patches = patchify(images.clone(), patch);
        assert_eq!(patches.dims(), [2, 3 * patch * patch, height / patch, width / patch]);
        assert_eq!(host(unpatchify(patches, patch)), host(images));
    }
    // 4M's order: the patch at (row 1, column 0) of 4 px in 224 px, colour 2, pixel (3, 1) of the patch.
    let images = noise::<Host>([1, 3, 224, 224], 8);
    let patches = patchify(images.clone(), 4);
    assert_eq!(patches.dims(), [1, 48, 56, 56]);
    let (images, patches) = (host(images), host(patches));
    assert_eq!(patches[((2 * 4 + 3) * 4 + 1) * 56 * 56 + 56], images[(2 * 224 + 4 + 3) * 224 + 1]);
}

#[test]
fn a_seed_is_a_network() {
    let device = Default::default();
    for backbone in small_backbones() {
        let image = |seed| {
            let latents = settle(backbone.encoder::<Host>(5, &device), seed).forward(noise([1, 3, 16, 16], 3));
            host(settle(backbone.decoder::<Host>(5, &device), seed).forward(latents))
        };
        assert_eq!(image(1), image(1), "{backbone:?}");
        assert_ne!(image(1), image(2), "{backbone:?}");
    }
    let style = |seed| {
        let config = StyleConfig { image_size: 8, channel_multiplier: 1, max_channels: 4 };
        host(settle(config.init::<Host>(&device), seed).forward(noise([2, 3, 8, 8], 3)))
    };
    assert_eq!(style(1), style(1));
    assert_ne!(style(1), style(2));
}

#[test]
fn a_patch_discriminator_learns_its_statistics_and_keeps_them_for_evaluation() {
    let device = Default::default();
    let net = settle(PatchConfig { n_layers: 2, channels: 4 }.init::<HostTrain>(&device), 4);
    let images = noise::<HostTrain>([4, 3, 16, 16], 3);
    let before = tensors(&net.valid());
    assert!(before["norms.0.running_mean"].values.iter().all(|&mean| mean == 0.0));
    // The first variance, 1, fades to 0.9^200: far below those of the small features of an untrained network.
    for _ in 0..200 {
        net.forward(images.clone() * 0.5 + 0.3);
    }
    let after = tensors(&net.valid());
    assert!(after["norms.0.running_mean"].values.iter().all(|&mean| mean != 0.0));
    assert_eq!(before["convs.0.weight"], after["convs.0.weight"]);
    // After so many equal batches the running statistics are this batch's: both modes agree.
    let trained = host(net.forward(images.clone() * 0.5 + 0.3));
    let evaluated = host(net.valid().forward(images.inner() * 0.5 + 0.3));
    let off = trained.iter().zip(&evaluated).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = trained.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
    assert!(off < 0.05 * largest, "{off} of {largest}");
}

#[test]
fn discriminators_stay_finite_on_flat_and_extreme_images() {
    let device = Default::default();
    let patch = settle(PatchConfig { n_layers: 3, channels: 4 }.init::<HostTrain>(&device), 4);
    let style = StyleConfig { image_size: 32, channel_multiplier: 1, max_channels: 4 };
    let style = settle(style.init::<HostTrain>(&device), 5);
    for (batch, value) in [(1, 0.0), (3, 1.0), (4, -1.0), (6, 1e4)] {
        let images = Tensor::full([batch, 3, 32, 32], value, &device);
        let logits = patch.forward(images.clone());
        assert_eq!(logits.dims(), [batch, 1, 2, 2]);
        assert!(host(logits).iter().all(|logit| logit.is_finite()), "{batch} images of {value}");
        let leaf = images.require_grad();
        let logits = style.forward(leaf.clone());
        assert_eq!(logits.dims(), [batch, 1]);
        let gradients = logits.clone().sum().backward();
        let gradient = host(leaf.grad(&gradients).expect("the input has a gradient"));
        assert!(host(logits).iter().chain(&gradient).all(|v| v.is_finite()), "{batch} images of {value}");
    }
}

#[test]
fn half_precision_gives_about_the_same_images() {
    let device = Default::default();
    for backbone in small_backbones() {
        let encoder = settle(backbone.encoder::<Host>(5, &device), 1);
        let decoder = settle(backbone.decoder::<Host>(5, &device), 2);
        let images = noise::<Host>([1, 3, 16, 16], 3);
        let exact = host(decoder.forward(encoder.forward(images.clone())));
        let (encoder, decoder) = (cast(encoder, FloatDType::F16), cast(decoder, FloatDType::F16));
        let half = host(decoder.forward(encoder.forward(images.cast(FloatDType::F16))));
        let off = exact.iter().zip(&half).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let largest = exact.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
        assert!(off > 0.0 && off < 0.02 * largest, "{backbone:?}: {off} of {largest}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let message = |backbone: Backbone| backbone.check().expect_err("does not fit").to_string();
    assert!(
        message(Backbone::Cnn(CnnConfig { image_size: 18, multipliers: vec![1, 1, 1], ..small_cnn() })).contains("4")
    );
    assert!(message(Backbone::Cnn(CnnConfig { multipliers: vec![], ..small_cnn() })).contains("`multipliers`"));
    assert!(message(Backbone::Cnn(CnnConfig { multipliers: vec![1, 0], ..small_cnn() })).contains("[1, 0]"));
    assert!(message(Backbone::Cnn(CnnConfig { channels: 0, ..small_cnn() })).contains("`channels`"));
    let [vit, other] = small_vits();
    assert!(message(Backbone::vit(VitConfig { image_size: 18, ..vit.clone() })).contains("multiple of 4"));
    assert!(message(Backbone::vit(VitConfig { dim: 18, ..vit.clone() })).contains("multiple of 4"));
    assert!(message(Backbone::vit(VitConfig { heads: 0, ..vit.clone() })).contains("`heads`"));
    assert!(message(Backbone::vit(VitConfig { channels: 0, ..vit.clone() })).contains("`channels`"));
    let no_width = Some(OutConv { blocks: 2, width: 0 });
    assert!(message(Backbone::vit(VitConfig { out_conv: no_width, ..vit.clone() })).contains("`out_conv.width`"));
    assert!(message(Backbone::vit(VitConfig { norm_eps: f64::NAN, ..vit.clone() })).contains("NaN"));
    let unequal = Backbone::Vit { encoder: vit, decoder: VitConfig { patch: 8, ..other } };
    assert!(message(unequal).contains("make them equal"));
    let refused = Row::tokenizer(
        "mine",
        &Backbone::vit(VitConfig::new(15, 4, 8, 1, 1)),
        Codebook { codes: 2, dim: 2, source: None },
    );
    assert!(refused.expect_err("does not fit").to_string().starts_with("mine: ViT: images of 15 px"));
    assert!(PatchConfig::vqgan().check(32).is_ok());
    assert!(PatchConfig::vqgan().check(16).expect_err("too small").to_string().contains("16 px"));
    assert!(PatchConfig { n_layers: 0, channels: 4 }.check(64).is_err());
    for image_size in [0, 4, 48, 1 << 20] {
        assert!(StyleConfig::new(image_size).check().expect_err("does not fit").to_string().contains("power of two"));
    }
    assert!(StyleConfig { max_channels: 0, ..StyleConfig::new(64) }.check().is_err());
}

#[test]
fn configurations_survive_json() {
    for backbone in small_backbones() {
        let text = serde_json::to_string(&backbone).expect("plain data");
        assert_eq!(serde_json::from_str::<Backbone>(&text).expect("as written"), backbone);
    }
}
