//! Networks and losses against PyTorch: golden values that `parity/make.py` computed in float64 from synthetic weights, and,
//! where the real weights lie beside the repository, how their distance behaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::module::avg_pool2d;
use burn::tensor::{Tensor, backend::Backend};
use serde_json::Value;
use tempfile::TempDir;

use trainers::backend::{Host, HostTrain};
use trainers::common::scenes;
use trainers::common::tensors::{Tensor as Stored, write_safetensors};
use trainers::features::load_vision_encoder;
use trainers::losses::Perceptual;
use trainers::losses::adversarial::{hinge_d, hinge_g, r1, softplus_d, softplus_g};
use trainers::nets::patchgan::PatchConfig;
use trainers::nets::stylegan::StyleConfig;
use trainers::nets::unet::{Unet, UnetConfig};
use trainers::params::{self, HostTensor, host};

#[path = "parity/synthetic.rs"]
mod synthetic;

use synthetic::Shapes;

static GOLDEN: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("parity/golden.json")).expect("written by make.py"));

/// How far f32 may be from f64, relative to the largest value.
const TOLERANCE: f64 = 2e-4;

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("numbers").iter().map(number).collect()
}

/// Asserts that numbers are those of the golden list.
fn assert_close(what: &str, found: &[f32], golden: &Value, tolerance: f64) {
    let expected = numbers(golden);
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        let difference = (f64::from(*found) - expected).abs();
        assert!(difference <= tolerance * largest, "{what}: {found}, and {expected} by PyTorch");
    }
}

/// Asserts that a tensor has the length and the sampled values of the golden one.
fn assert_sampled(what: &str, found: &[f32], golden: &Value, tolerance: f64) {
    let expected = number(&golden["norm"]);
    let norm = found.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    // A bias in front of a mean has no gradient but rounding.
    let floor = 1e-6 * (found.len() as f64).sqrt();
    assert!(
        (norm - expected).abs() <= tolerance * expected + floor,
        "{what}: length {norm}, and {expected} by PyTorch"
    );
    let samples = numbers(&golden["samples"]);
    let typical = expected / (found.len() as f64).sqrt();
    for (expected, found) in samples.iter().zip(found.iter().step_by(found.len().div_ceil(samples.len()))) {
        let difference = (f64::from(*found) - expected).abs();
        assert!(difference <= tolerance * (expected.abs() + typical) + floor, "{what}: {found}, and {expected}");
    }
}

fn file_of(shapes: &Shapes) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("weights.safetensors");
    let values: Vec<_> = shapes.iter().map(|(name, shape)| synthetic::values(name, shape)).collect();
    let stored: Vec<_> =
        shapes.iter().zip(&values).map(|((name, shape), values)| Stored::new(name, shape, values)).collect();
    write_safetensors(&path, &stored, &[]).expect("a file of weights");
    (directory, path)
}

fn images<B: Backend>(name: &str, batch: usize, size: usize) -> Tensor<B, 4> {
    let values = synthetic::uniform(name, batch * 3 * size * size);
    Tensor::<B, 1>::from_floats(values.as_slice(), &Default::default()).reshape([batch, 3, size, size])
}

fn perceptual(case: &str, name: &str, shapes: &Shapes, prefix: Option<&str>) {
    let golden = &GOLDEN["perceptual"][case];
    let (_directory, net) = file_of(shapes);
    let linear = prefix.map(|prefix| file_of(&synthetic::linear(prefix)));
    let linear = linear.as_ref().map(|(_, path)| path.as_path());
    let perceptual = Perceptual::<HostTrain>::load(Some(&net), linear, &Default::default()).expect("good files");
    assert_eq!(perceptual.name(), name);
    let size = number(&golden["size"]) as usize;
    let a = images("images.a", 2, size).require_grad();
    let distance = perceptual.distance(a.clone(), images("images.b", 2, size));
    assert_close(case, &host(distance.clone()), &golden["distance"], TOLERANCE);
    let gradient = a.grad(&distance.sum().backward()).expect("a gradient at the images");
    assert_sampled(case, &host(gradient), &golden["gradient"], 0.01);
}

#[test]
fn lpips_with_vgg16() {
    perceptual("vgg", "LPIPS (VGG16)", &synthetic::vgg16(), Some("vgg"));
}

#[test]
fn lpips_with_alexnet() {
    perceptual("alex", "LPIPS (AlexNet)", &synthetic::alexnet(), Some("alex"));
}

#[test]
fn lpips_with_squeezenet() {
    perceptual("squeeze", "LPIPS (SqueezeNet)", &synthetic::squeezenet(false), Some("squeeze"));
}

#[test]
fn squeezenet_of_caffe() {
    let shapes = synthetic::squeezenet(true);
    perceptual("squeeze_caffe", "SqueezeNet perceptual distance", &shapes, Some("squeeze"));
}

#[test]
fn squeezenet_without_linear_weights() {
    let shapes = synthetic::squeezenet(false);
    perceptual("squeeze_uniform", "SqueezeNet perceptual distance, uniform weights", &shapes, None);
}

#[test]
fn clip_with_either_names() {
    for (case, huggingface) in [("huggingface", true), ("openai", false)] {
        let (_directory, path) = file_of(&synthetic::clip(huggingface));
        let encoder = load_vision_encoder::<Host>(&path, &Default::default()).expect("a whole tower");
        let features = encoder.patch_features(images("images.a", 2, 24));
        assert_eq!(features.dims(), [2, 48, 3, 3]);
        assert_sampled(case, &host(features), &GOLDEN["clip"][case], TOLERANCE);
    }
}

/// The same discriminator with synthetic weights.
fn with_weights<M: Module<HostTrain>>(module: M, equalised: bool) -> M {
    let shapes = params::tensors(&module);
    let named = |name: &str| {
        let shape = shapes[name].shape.clone();
        let values = match shape.len() {
            4 if equalised => {
                synthetic::uniform(name, shape.iter().product()).into_iter().map(|value| 2.0 * value).collect()
            }
            _ => synthetic::values(name, &shape),
        };
        Ok(HostTensor { shape, values })
    };
    params::load(module, named).expect("shapes are the module's own")
}

/// Gradients by the parameters' names.
fn by_name<M: Module<HostTrain>>(module: &M, gradients: &GradientsParams) -> BTreeMap<String, Vec<f32>> {
    struct Collect<'a> {
        path: Vec<String>,
        gradients: &'a GradientsParams,
        found: BTreeMap<String, Vec<f32>>,
    }

    impl ModuleVisitor<HostTrain> for Collect<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<HostTrain, D>>) {
            if let Some(gradient) = self.gradients.get::<Host, D>(param.id) {
                self.found.insert(self.path.join("."), host(gradient));
            }
        }
    }

    let mut collect = Collect { path: Vec::new(), gradients, found: BTreeMap::new() };
    module.visit(&mut collect);
    collect.found
}

fn assert_gradients(what: &str, found: &BTreeMap<String, Vec<f32>>, golden: &Value, tolerance: f64) {
    for (name, golden) in golden.as_object().expect("gradients by name") {
        match found.get(name) {
            Some(found) => assert_sampled(&format!("{what}, {name}"), found, golden, tolerance),
            // What a loss does not depend on has no gradient here, and zeros there.
            None => assert_eq!(number(&golden["norm"]), 0.0, "{what}: no gradient of `{name}`"),
        }
    }
}

/// Logits of real and of fake images to a loss.
type LossOfD<const R: usize> = fn(Tensor<HostTrain, R>, Tensor<HostTrain, R>) -> Tensor<HostTrain, 1>;

/// Logits of fake images to a loss.
type LossOfG<const R: usize> = fn(Tensor<HostTrain, R>) -> Tensor<HostTrain, 1>;

fn discriminator<M: Module<HostTrain> + burn::module::AutodiffModule<HostTrain>, const R: usize>(
    case: &str,
    net: &M,
    forward: impl Fn(&M, Tensor<HostTrain, 4>) -> Tensor<HostTrain, R>,
) {
    let golden = &GOLDEN[case];
    let [batch, size] = ["batch", "size"].map(|key| number(&golden[key]) as usize);
    let (real, fake) = (images("images.real", batch, size), images::<HostTrain>("images.fake", batch, size));
    assert_close(case, &host(forward(net, real.clone())), &golden["real"], TOLERANCE);
    assert_close(case, &host(forward(net, fake.clone())), &golden["fake"], TOLERANCE);

    let of_d: [(&str, LossOfD<R>); 2] =
        [("hinge_d", hinge_d::<HostTrain, R>), ("softplus_d", softplus_d::<HostTrain, R>)];
    for (name, loss) in of_d {
        let loss = loss(forward(net, real.clone()), forward(net, fake.clone()));
        assert_close(name, &host(loss.clone()), &Value::from(vec![number(&golden[name]["value"])]), TOLERANCE);
        let gradients = GradientsParams::from_grads(loss.backward(), net);
        assert_gradients(&format!("{case}, {name}"), &by_name(net, &gradients), &golden[name]["gradients"], 0.002);
    }
    let of_g: [(&str, LossOfG<R>); 2] =
        [("hinge_g", hinge_g::<HostTrain, R>), ("softplus_g", softplus_g::<HostTrain, R>)];
    for (name, loss) in of_g {
        let fake = fake.clone().require_grad();
        let loss = loss(forward(&net.clone().no_grad(), fake.clone()));
        assert_close(name, &host(loss.clone()), &Value::from(vec![number(&golden[name]["value"])]), TOLERANCE);
        let gradient = fake.grad(&loss.backward()).expect("a gradient at the images");
        assert_sampled(&format!("{case}, {name}"), &host(gradient), &golden[name]["gradient"], 0.002);
    }
}

fn patch_gan() -> trainers::nets::patchgan::PatchDiscriminator<HostTrain> {
    with_weights(PatchConfig { n_layers: 3, channels: 8 }.init(&Default::default()), false)
}

#[test]
fn patch_discriminator() {
    discriminator("patch_gan", &patch_gan(), |net, images| net.forward(images));
}

fn style_gan() -> trainers::nets::stylegan::StyleDiscriminator<HostTrain> {
    let config = StyleConfig { max_channels: 16, ..StyleConfig::new(16) };
    with_weights(config.init(&Default::default()), true)
}

#[test]
fn style_discriminator() {
    discriminator("style_gan", &style_gan(), |net, images| net.forward(images));
}

/// Asserts that the penalty and its gradients are those of the golden second derivative.
fn penalty<M: Module<HostTrain> + burn::module::AutodiffModule<HostTrain>, const R: usize>(
    case: &str,
    net: &M,
    forward: impl Fn(&M, Tensor<HostTrain, 4>) -> Tensor<HostTrain, R>,
    derivative: impl Fn(&M, Tensor<HostTrain, 4>, Tensor<HostTrain, 4>) -> Tensor<HostTrain, R>,
) {
    let golden = &GOLDEN[case];
    let [batch, size] = ["batch", "size"].map(|key| number(&golden[key]) as usize);
    let penalty = r1(net, forward, derivative, images("images.real", batch, size), 10.0, 16);
    let golden = &golden["r1"];
    assert_close(case, &host(penalty.value), &Value::from(vec![number(&golden["value"])]), 0.002);
    let norm = params::gradient_norm(net, &penalty.gradients);
    assert!((norm / number(&golden["norm"]) - 1.0).abs() < 0.01, "{case}: {norm}, and {} by PyTorch", golden["norm"]);
    assert_gradients(&format!("{case}, r1"), &by_name(net, &penalty.gradients), &golden["gradients"], 0.01);
}

#[test]
fn r1_of_the_style_discriminator() {
    penalty("style_gan", &style_gan(), |net, x| net.forward(x), |net, x, along| net.derivative(x, along));
}

#[test]
fn r1_of_the_patch_discriminator() {
    penalty("patch_gan", &patch_gan(), |net, x| net.forward(x), |net, x, along| net.derivative(x, along));
}

#[test]
fn unet_of_patches() {
    let golden = &GOLDEN["unet"];
    let config = UnetConfig {
        condition: 5,
        patch: 2,
        base: 16,
        multipliers: vec![1, 2],
        res_blocks: 2,
        attention: vec![2],
        learned_variance: true,
        ..UnetConfig::four_m(3)
    };
    config.check(16).expect("sizes that fit");
    let net = with_weights::<Unet<HostTrain>>(config.init(&Default::default()), false);
    assert_eq!(params::counts(&net).values().sum::<usize>(), number(&golden["parameters"]) as usize);
    let xt = images::<HostTrain>("images.xt", 2, 16).require_grad();
    let codes = synthetic::uniform("codes", 2 * 5 * 16);
    let codes = Tensor::<HostTrain, 1>::from_floats(codes.as_slice(), &Default::default());
    let codes = codes.reshape([2, 5, 4, 4]).require_grad();
    let output = net.forward(xt.clone(), &[3, 977], codes.clone());
    assert_eq!(output.dims(), [2, 6, 16, 16]);
    assert_sampled("unet", &host(output.clone()), &golden["output"], TOLERANCE);
    let gradients = output.square().mean().backward();
    let [at_xt, at_codes] = [&xt, &codes].map(|leaf| host(leaf.grad(&gradients).expect("a gradient")));
    assert_sampled("unet, x_t", &at_xt, &golden["at"]["xt"], 0.002);
    assert_sampled("unet, codes", &at_codes, &golden["at"]["codes"], 0.002);
    let gradients = by_name(&net, &GradientsParams::from_grads(gradients, &net));
    assert_gradients("unet", &gradients, &golden["gradients"], 0.002);
}

/// A scene in planes, from [0, 1] to [-1, 1].
fn scene(seed: u64, size: usize) -> Tensor<Host, 4> {
    let pixels = scenes::render(seed, size).pixels;
    let image = Tensor::<Host, 1>::from_floats(pixels.as_slice(), &Default::default());
    image.reshape([1, size, size, 3]).permute([0, 3, 1, 2]).mul_scalar(2.0).sub_scalar(1.0)
}

#[test]
fn the_real_distance_grows_with_blur_and_noise() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let [net, linear] = ["squeezenet1_1_f16.safetensors", "lpips_lin_v0.1.safetensors"].map(|name| data.join(name));
    if !net.exists() || !linear.exists() {
        println!("skipped: `{}` has no weights of SqueezeNet and LPIPS", data.display());
        return;
    }
    for linear in [Some(linear.as_path()), None] {
        let perceptual = Perceptual::<Host>::load(Some(&net), linear, &Default::default()).expect("the real weights");
        for seed in [1, 2, 3] {
            let image = scene(seed, 96);
            let distance = |other: Tensor<Host, 4>| host(perceptual.distance(other, image.clone()))[0];
            let blurred = |passes: usize| {
                (0..passes).fold(image.clone(), |x, _| avg_pool2d(x, [3; 2], [1; 2], [1; 2], false, false))
            };
            let speckle = images("speckle", 1, 96);
            let speckled = |by: f64| image.clone() + speckle.clone().mul_scalar(by);
            for distances in [
                [0, 1, 3, 9].map(|passes| distance(blurred(passes))),
                [0.0, 0.05, 0.2, 0.8].map(|by| distance(speckled(by))),
            ] {
                println!("{}: {distances:?}", perceptual.name());
                assert!(distances[0] == 0.0 && distances.is_sorted_by(|a, b| a < b), "{distances:?}");
            }
        }
    }
}
