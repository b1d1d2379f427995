//! Tests of the frozen networks.

use std::fs;
use std::path::PathBuf;

use burn::tensor::{Distribution, FloatDType};
use half::{bf16, f16};
use tempfile::TempDir;

use super::*;
use crate::backend::{Host, HostTrain};
use crate::common::tensors::{Tensor as Stored, write_safetensors};
use crate::params;

#[path = "../../tests/parity/synthetic.rs"]
pub(crate) mod synthetic;

use synthetic::Shapes;

/// Names, shapes and values.
pub(crate) type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Writes a file of synthetic weights, after `change` has had its way with them.
pub(crate) fn file_of(shapes: &Shapes, change: impl FnOnce(&mut Tensors)) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("weights.safetensors");
    let mut tensors: Vec<_> =
        shapes.iter().map(|(name, shape)| (name.clone(), shape.clone(), synthetic::values(name, shape))).collect();
    change(&mut tensors);
    let stored: Vec<_> = tensors.iter().map(|(name, shape, values)| Stored::new(name, shape, values)).collect();
    write_safetensors(&path, &stored, &[]).expect("a file of weights");
    (directory, path)
}

fn images<B: Backend>(batch: usize, size: usize) -> Tensor<B, 4> {
    let values = synthetic::uniform("images", batch * 3 * size * size);
    Tensor::<B, 1>::from_floats(values.as_slice(), &Default::default()).reshape([batch, 3, size, size])
}

fn load(shapes: &Shapes) -> FeatureNet<Host> {
    let (_directory, path) = file_of(shapes, |_| ());
    load_feature_net(&path, &Default::default()).expect("all tensors are there")
}

fn refusal(shapes: &Shapes, change: impl FnOnce(&mut Tensors)) -> String {
    let (_directory, path) = file_of(shapes, change);
    load_feature_net::<Host>(&path, &Default::default()).expect_err("a bad file").to_string()
}

#[test]
fn the_layers_have_their_published_sizes() {
    let sizes = |net: &FeatureNet<Host>, size: usize| -> Vec<usize> {
        let taps = net.taps(images(1, size));
        assert_eq!(taps.iter().map(|tap| tap.dims()[1]).collect::<Vec<_>>(), net.widths());
        taps.iter().map(|tap| tap.dims()[3]).collect()
    };
    // data/README.md, from torch; the others by the networks' papers.
    assert_eq!(sizes(&load(&synthetic::squeezenet(true)), 227), [113, 56, 28, 14, 14, 14, 14]);
    assert_eq!(sizes(&load(&synthetic::alexnet()), 224), [55, 27, 13, 13, 13]);
    assert_eq!(sizes(&load(&synthetic::vgg16()), 32), [32, 16, 8, 4, 2]);
    assert_eq!(sizes(&FeatureNet::random(&Default::default()), 64), [64, 32, 16, 8, 4]);
}

#[test]
fn the_smallest_input_is_just_enough() {
    let nets = [
        load(&synthetic::squeezenet(false)),
        load(&synthetic::vgg16()),
        load(&synthetic::alexnet()),
        FeatureNet::random(&Default::default()),
    ];
    for net in nets {
        let least = net.smallest_input();
        assert_eq!(net.taps(images(1, least)).last().map(|tap| tap.dims()[3]), Some(1), "{}", net.name());
        let perceptual = crate::losses::Perceptual::new(net);
        perceptual.check_size(least, least + 9).expect("enough");
        if least > 1 {
            let failure = perceptual.check_size(least + 9, least - 1).expect_err("too small").to_string();
            assert!(failure.contains(&format!("{least} × {least}")), "{failure}");
        }
    }
}

#[test]
fn every_float_type_gives_the_same_network() {
    let shapes = synthetic::squeezenet(true);
    let (directory, path) = file_of(&shapes, |_| ());
    let expected = params::tensors(&load_feature_net::<Host>(&path, &Default::default()).expect("f32"));
    let narrow = directory.path().join("narrow.safetensors");
    // The synthetic numbers are exact in f16; in bf16 all but three of their bits are left.
    let halves: Vec<_> = shapes
        .iter()
        .map(|(name, shape)| synthetic::values(name, shape).into_iter().map(f16::from_f32).collect::<Vec<_>>())
        .collect();
    let stored: Vec<_> =
        shapes.iter().zip(&halves).map(|((name, shape), values)| Stored::new(name, shape, values)).collect();
    write_safetensors(&narrow, &stored, &[]).expect("a file");
    assert_eq!(params::tensors(&load_feature_net::<Host>(&narrow, &Default::default()).expect("f16")), expected);

    let halves: Vec<_> = shapes
        .iter()
        .map(|(name, shape)| synthetic::values(name, shape).into_iter().map(bf16::from_f32).collect::<Vec<_>>())
        .collect();
    let stored: Vec<_> =
        shapes.iter().zip(&halves).map(|((name, shape), values)| Stored::new(name, shape, values)).collect();
    write_safetensors(&narrow, &stored, &[]).expect("a file");
    let found = params::tensors(&load_feature_net::<Host>(&narrow, &Default::default()).expect("bf16"));
    for (name, tensor) in &expected {
        for (a, b) in tensor.values.iter().zip(&found[name].values) {
            assert!((a - b).abs() <= a.abs() / 256.0, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn bad_files_are_refused_by_the_tensor() {
    let shapes = synthetic::squeezenet(true);
    let missing = refusal(&shapes, |tensors| tensors.retain(|(name, ..)| name != "fire4/expand3x3.bias"));
    assert!(missing.contains("`fire4/expand3x3.bias` is missing"), "{missing}");
    let misshaped = refusal(&shapes, |tensors| {
        for (name, shape, _) in tensors {
            if name == "fire5/squeeze1x1.weight" {
                *shape = vec![256, 32, 1, 1];
            }
        }
    });
    assert!(misshaped.contains("`fire5/squeeze1x1.weight` has the shape [256, 32, 1, 1], expected [32, 256, 1, 1]"));
    let damaged = refusal(&shapes, |tensors| tensors[0].2[5] = f32::NAN);
    assert!(damaged.contains("`conv1.weight` holds NaN at 5"), "{damaged}");
    let other = refusal(&vec![("encoder.weight".into(), vec![2, 2])], |_| ());
    assert!(other.contains("`encoder.weight`") && other.contains("no known network"), "{other}");
    // VGG19 has other numbers, and SqueezeNet 1.0 another first layer.
    let vgg19: Shapes = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
        .map(|number| (format!("features.{number}.weight"), vec![1]))
        .to_vec();
    assert!(refusal(&vgg19, |_| ()).contains("no known network"));
}

#[test]
fn a_truncated_file_and_whole_numbers_are_refused() {
    let (directory, path) = file_of(&synthetic::squeezenet(true), |_| ());
    let bytes = fs::read(&path).expect("the file");
    fs::write(&path, &bytes[..bytes.len() / 2]).expect("half of it");
    let failure = load_feature_net::<Host>(&path, &Default::default()).expect_err("half a file").to_string();
    assert!(failure.contains("truncated"), "{failure}");
    let whole = directory.path().join("whole.safetensors");
    let ones = vec![1_i64; 64 * 27];
    let stored = ["conv1.weight", "fire2/squeeze1x1.weight"].map(|name| Stored::new(name, &[64, 3, 3, 3], &ones));
    write_safetensors(&whole, &stored, &[]).expect("a file");
    let failure = load_feature_net::<Host>(&whole, &Default::default()).expect_err("whole numbers").to_string();
    assert!(failure.contains("`conv1.weight` holds I64, expected F32, F16 or BF16"), "{failure}");
}

#[test]
fn gradients_reach_the_input_and_not_the_weights() {
    let net = FeatureNet::<HostTrain>::random(&Default::default());
    let input = images::<HostTrain>(2, 32).require_grad();
    let sum = net.taps(input.clone()).into_iter().map(Tensor::sum).reduce(|a, b| a + b).expect("five layers");
    let mut gradients = sum.backward();
    let gradient = params::host(input.grad(&gradients).expect("a gradient at the input"));
    assert!(gradient.iter().filter(|value| value.abs() > 1e-3).count() > gradient.len() / 2);
    assert!(burn::optim::GradientsParams::from_module(&mut gradients, &net).is_empty());
}

#[test]
fn random_features_are_the_same_everywhere_and_orthogonal() {
    let net = FeatureNet::<Host>::random(&Default::default());
    let tensors = params::tensors(&net);
    assert_eq!(tensors, params::tensors(&FeatureNet::<Host>::random(&Default::default())));
    // Another draw would be another distance under the same name.
    for (found, expected) in tensors["Random.convs.0.weight"].values.iter().zip(FIRST_WEIGHTS) {
        assert!((found - expected).abs() < 1e-6, "the weights have changed: rename the network, or restore them");
    }
    for (at, dim) in [(1, 16 * 9), (4, 96 * 9)] {
        let weight = &tensors[&format!("Random.convs.{at}.weight")].values;
        let rows: Vec<&[f32]> = weight.chunks(dim).collect();
        for (i, a) in rows.iter().enumerate() {
            assert!(a.iter().sum::<f32>().abs() < 1e-4);
            for (j, b) in rows.iter().enumerate() {
                let product: f32 = a.iter().zip(*b).map(|(a, b)| a * b).sum();
                assert!((product - if i == j { 2.0 } else { 0.0 }).abs() < 1e-5);
            }
        }
    }
}

/// Of the random features' first layer.
const FIRST_WEIGHTS: [f32; 3] = [0.325_242_4, -0.443_657_4, 0.101_935_5];

#[test]
fn random_features_keep_their_scale() {
    let net = FeatureNet::<Host>::random(&Default::default());
    let noise = Tensor::random([2, 3, 64, 64], Distribution::Uniform(-1.0, 1.0), &Default::default());
    for tap in net.taps(noise) {
        let root_mean_square = params::host(tap.square().mean())[0].sqrt();
        assert!((0.3..3.0).contains(&root_mean_square), "{root_mean_square}");
    }
}

#[test]
fn a_narrow_network_takes_wide_images() {
    let net = params::cast(FeatureNet::<Host>::random(&Default::default()), FloatDType::BF16);
    let (narrow, wide) = (net.taps(images(1, 16)), FeatureNet::<Host>::random(&Default::default()).taps(images(1, 16)));
    for (narrow, wide) in narrow.into_iter().zip(wide) {
        let difference = params::host((narrow.cast(FloatDType::F32) - wide.clone()).square().mean())[0];
        assert!(difference < 0.001 * params::host(wide.square().mean())[0]);
    }
}

mod encoders {
    use super::*;

    #[test]
    fn grids_have_their_sizes() {
        let (_directory, path) = file_of(&synthetic::squeezenet(true), |_| ());
        let squeezenet = load_vision_encoder::<Host>(&path, &Default::default()).expect("all tensors are there");
        let random = VisionEncoder::<Host>::random(&Default::default());
        for (encoder, name, width) in [(squeezenet, "SqueezeNet fire8", 512), (random, "random-features", 336)] {
            assert_eq!((encoder.name().as_str(), encoder.width()), (name, width));
            let size = encoder.input_size();
            let features = encoder.patch_features(images(1, size));
            assert_eq!(features.dims(), [1, width, 14, 14]);
            // Pictures of another size are resized first.
            assert_eq!(encoder.patch_features(images(2, 64)).dims(), [2, width, 14, 14]);
        }
    }

    #[test]
    fn fire8_is_the_sixth_layer_of_the_distance() {
        let net = load(&synthetic::squeezenet(false));
        let taps = net.taps(images(1, 227));
        let FeatureNet::SqueezeNet(net) = net else { panic!("loaded as SqueezeNet") };
        let features = VisionEncoder::SqueezeNet(net).patch_features(images(1, 227));
        assert_eq!(params::host(features), params::host(taps[5].clone()));
    }

    /// The synthetic tower with OpenAI's names, filled with the numbers of Hugging Face's.
    fn renamed() -> (TempDir, PathBuf) {
        let of = |name: &str| {
            let shapes = synthetic::clip(true);
            let (name, shape) = shapes.into_iter().find(|(other, _)| other == name).expect("a tensor of the tower");
            synthetic::values(&name, &shape)
        };
        file_of(&synthetic::clip(false), |tensors| {
            let theirs =
                synthetic::clip(true).into_iter().map(|(name, _)| name).filter(|name| !name.contains("_proj."));
            let theirs: Vec<_> = theirs.collect();
            let mut same = theirs.iter();
            for (name, shape, values) in tensors {
                *values = if let Some((layer, tensor)) = name.split_once(".attn.in_proj_") {
                    let layer = layer.replace("visual.transformer.resblocks", "vision_model.encoder.layers");
                    ["q", "k", "v"].map(|part| of(&format!("{layer}.self_attn.{part}_proj.{tensor}"))).concat()
                } else if name.contains(".attn.out_proj.") {
                    let name = name.replace("visual.transformer.resblocks", "vision_model.encoder.layers");
                    of(&name.replace(".attn.", ".self_attn."))
                } else if name == "visual.proj" {
                    let (rows, columns) = (shape[1], shape[0]);
                    let values = of("visual_projection.weight");
                    (0..rows * columns).map(|at| values[at % rows * columns + at / rows]).collect()
                } else {
                    of(same.next().expect("as many tensors"))
                };
            }
        })
    }

    #[test]
    fn clip_is_the_same_by_either_names() {
        let (_directory, theirs) = file_of(&synthetic::clip(true), |_| ());
        let (_openai_directory, openai) = renamed();
        let [theirs, openai] = [theirs, openai].map(|path| {
            let encoder = load_vision_encoder::<Host>(&path, &Default::default()).expect("a whole tower");
            assert_eq!(encoder.name(), "CLIP ViT of 2 layers of 128, patches of 8 at 24 px");
            assert_eq!((encoder.width(), encoder.input_size()), (48, 24));
            params::host(encoder.patch_features(images(2, 24)))
        });
        assert_eq!(theirs, openai);
    }

    #[test]
    fn a_patch_is_where_its_features_are() {
        let (_directory, path) = file_of(&synthetic::clip(true), |tensors| {
            // Without attention's output, each token sees its own patch alone.
            for (name, _, values) in tensors {
                if name.contains("out_proj") {
                    values.fill(0.0);
                }
            }
        });
        let encoder = load_vision_encoder::<Host>(&path, &Default::default()).expect("a whole tower");
        let image = images::<Host>(1, 24);
        let changed = image.clone().slice_fill([0..1, 0..3, 8..16, 16..24], 0.5);
        let difference = (encoder.patch_features(image) - encoder.patch_features(changed)).abs().sum_dim(1);
        let moved: Vec<bool> = params::host(difference).into_iter().map(|value| value > 0.0).collect();
        assert_eq!(moved, [false, false, false, false, false, true, false, false, false]);
    }

    #[test]
    fn towers_of_other_sizes_are_refused() {
        let refusal = |change: fn(&mut Tensors)| {
            let (_directory, path) = file_of(&synthetic::clip(true), change);
            load_vision_encoder::<Host>(&path, &Default::default()).expect_err("a bad tower").to_string()
        };
        let missing =
            refusal(|tensors| tensors.retain(|(name, ..)| name != "vision_model.encoder.layers.1.mlp.fc2.bias"));
        assert!(missing.contains("`vision_model.encoder.layers.1.mlp.fc2.bias` is missing"), "{missing}");
        let tokens = refusal(|tensors| {
            let tensor =
                tensors.iter_mut().find(|tensor| tensor.0.contains("position")).expect("a tensor of the tower");
            (tensor.1, tensor.2) = (vec![8, 128], vec![0.0; 1024]);
        });
        assert!(tokens.contains("has 8 rows, expected 1 and the patches of a square image"), "{tokens}");
        let heads = refusal(|tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.0.contains("patch")).expect("a tensor of the tower");
            (tensor.1, tensor.2) = (vec![96, 3, 8, 8], vec![0.0; 96 * 192]);
        });
        assert!(heads.contains("has 96 channels, expected a multiple of 64 up to 1024"), "{heads}");
    }

    #[test]
    fn files_of_other_networks_are_refused() {
        let (_directory, path) = file_of(&synthetic::alexnet(), |_| ());
        let failure = load_vision_encoder::<Host>(&path, &Default::default()).expect_err("AlexNet").to_string();
        assert!(failure.contains("no known network"), "{failure}");
    }
}
