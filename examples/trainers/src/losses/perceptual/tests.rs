//! Tests of the perceptual distances.

use burn::tensor::FloatDType;

use super::*;
use crate::backend::{Host, HostTrain};
use crate::common::scenes;
use crate::features::tests::{Tensors, file_of, synthetic};
use crate::losses::gradients::{check, value, wide};
use crate::params;

/// A scene, from interleaved [0, 1] to planes in [-1, 1].
fn scene(seed: u64, size: usize) -> Tensor<Host, 4> {
    let pixels = scenes::render(seed, size).pixels;
    let image = Tensor::<Host, 1>::from_floats(pixels.as_slice(), &Default::default());
    image.reshape([1, size, size, 3]).permute([0, 3, 1, 2]).mul_scalar(2.0).sub_scalar(1.0)
}

fn noise(name: &str, shape: [usize; 4]) -> Tensor<Host, 4> {
    let values = synthetic::uniform(name, shape.iter().product());
    Tensor::<Host, 1>::from_floats(values.as_slice(), &Default::default()).reshape(shape)
}

fn random() -> Perceptual<Host> {
    Perceptual::new(FeatureNet::random(&Default::default()))
}

#[test]
fn only_the_real_ones_are_called_lpips() {
    let lins = ["vgg", "alex", "squeeze"].map(synthetic::linear).concat();
    let (_lin_directory, lin) = file_of(&lins, |_| ());
    let name = |net: Option<&Path>, lin: Option<&Path>| {
        Perceptual::<Host>::load(net, lin, &Default::default()).expect("good files").name()
    };
    for (shapes, plain, with_linear) in [
        (synthetic::vgg16(), "VGG16 perceptual distance, uniform weights", "LPIPS (VGG16)"),
        (synthetic::alexnet(), "AlexNet perceptual distance, uniform weights", "LPIPS (AlexNet)"),
        (synthetic::squeezenet(false), "SqueezeNet perceptual distance, uniform weights", "LPIPS (SqueezeNet)"),
        (
            synthetic::squeezenet(true),
            "SqueezeNet perceptual distance, uniform weights",
            "SqueezeNet perceptual distance",
        ),
    ] {
        let (_directory, net) = file_of(&shapes, |_| ());
        assert_eq!(name(Some(&net), None), plain);
        assert_eq!(name(Some(&net), Some(&lin)), with_linear);
    }
    assert_eq!(name(None, None), "random-features distance");
    let failure = Perceptual::<Host>::load(None, Some(&lin), &Default::default()).expect_err("no network");
    assert!(failure.to_string().contains("name a network's file too"), "{failure}");
}

#[test]
fn bad_linear_weights_are_refused() {
    let (_directory, net) = file_of(&synthetic::squeezenet(true), |_| ());
    let refusal = |shapes, change: fn(&mut Tensors)| {
        let (_directory, lin) = file_of(&shapes, change);
        Perceptual::<Host>::load(Some(&net), Some(&lin), &Default::default()).expect_err("a bad file").to_string()
    };
    let negative = refusal(synthetic::linear("squeeze"), |tensors| tensors[3].2[7] = -0.1);
    assert!(negative.contains("`squeeze.lin3.weight` has negative values"), "{negative}");
    let other = refusal(synthetic::linear("vgg"), |_| ());
    assert!(other.contains("`squeeze.lin0.weight` is missing"), "{other}");
    let misshaped = refusal(synthetic::linear("squeeze"), |tensors| {
        tensors[6].1 = vec![512];
    });
    assert!(misshaped.contains("`squeeze.lin6.weight` has the shape [512], expected [1, 512, 1, 1]"), "{misshaped}");
}

#[test]
fn linear_weights_have_a_published_name_too() {
    let (_directory, net) = file_of(&synthetic::squeezenet(true), |_| ());
    let (_ours_directory, ours) = file_of(&synthetic::linear("squeeze"), |_| ());
    let (_published_directory, published) = file_of(&synthetic::linear("squeeze"), |tensors| {
        for (name, ..) in tensors {
            *name = name.replace("squeeze.", "").replace(".weight", ".model.1.weight");
        }
    });
    let distance = |lin: &Path| {
        let perceptual = Perceptual::load(Some(&net), Some(lin), &Default::default()).expect("good files");
        params::host(perceptual.distance(noise("a", [1, 3, 32, 32]), noise("b", [1, 3, 32, 32])))
    };
    assert_eq!(distance(&ours), distance(&published));
}

#[test]
fn it_is_zero_at_the_target_and_each_image_has_its_own() {
    let perceptual = random();
    let (a, b) = (noise("a", [3, 3, 24, 40]), noise("b", [3, 3, 24, 40]));
    assert_eq!(params::host(perceptual.distance(a.clone(), a.clone())), [0.0; 3]);
    let together = params::host(perceptual.distance(a.clone(), b.clone()));
    let swapped = params::host(perceptual.distance(b.clone(), a.clone()));
    for image in 0..3 {
        let one = |images: &Tensor<Host, 4>| images.clone().narrow(0, image, 1);
        let alone = params::host(perceptual.distance(one(&a), one(&b)))[0];
        assert!(alone > 0.01 && alone < 2.0);
        assert!((alone - together[image]).abs() < 1e-6 && (alone - swapped[image]).abs() < 1e-6);
    }
}

#[test]
fn random_features_see_blur_noise_and_brightness() {
    let perceptual = random();
    let blurred = |image: &Tensor<Host, 4>, passes: usize| {
        (0..passes).fold(image.clone(), |image, _| {
            burn::tensor::module::avg_pool2d(image, [3; 2], [1; 2], [1; 2], false, false)
        })
    };
    for seed in [1, 2, 3] {
        let image = scene(seed, 64);
        let distance = |other: Tensor<Host, 4>| params::host(perceptual.distance(other, image.clone()))[0];
        let grows = |distances: [f32; 4]| assert!(distances.is_sorted_by(|a, b| a < b), "{distances:?}");
        grows([0, 1, 3, 9].map(|passes| distance(blurred(&image, passes))));
        let speckle = noise("noise", [1, 3, 64, 64]);
        grows([0.0, 0.05, 0.2, 0.8].map(|by| distance(image.clone() + speckle.clone().mul_scalar(by))));
        grows([0.0, 0.1, 0.2, 0.4].map(|by| distance(image.clone().sub_scalar(by))));
    }
}

#[test]
fn the_gradient_is_that_of_the_differences() {
    let shape = [1, 3, 26, 26];
    let count = shape.iter().product();
    let [images, target] =
        ["a", "b"].map(|name| synthetic::uniform(name, count).into_iter().map(f64::from).collect::<Vec<_>>());
    let (_directory, net) = file_of(&synthetic::squeezenet(true), |_| ());
    let (_lin_directory, lin) = file_of(&synthetic::linear("squeeze"), |_| ());
    for (net, lin) in [(None, None), (Some(net.as_path()), Some(lin.as_path()))] {
        let perceptual = Perceptual::<HostTrain>::load(net, lin, &Default::default()).expect("good files");
        let perceptual = params::cast(perceptual, FloatDType::F64);
        check(|images| perceptual.distance(images, wide(&target, shape)).sum(), &images, shape, 1e-4);
    }
}

#[test]
fn nothing_flows_to_the_target_or_the_weights() {
    let perceptual = Perceptual::<HostTrain>::new(FeatureNet::random(&Default::default()));
    let leaf = |name| Tensor::from_inner(noise(name, [1, 3, 16, 16])).require_grad();
    let (images, target): (Tensor<HostTrain, 4>, Tensor<HostTrain, 4>) = (leaf("a"), leaf("b"));
    let mut gradients = perceptual.distance(images.clone(), target.clone()).sum().backward();
    assert!(images.grad(&gradients).is_some());
    assert!(target.grad(&gradients).is_none());
    assert!(burn::optim::GradientsParams::from_module(&mut gradients, &perceptual).is_empty());
}

#[test]
fn where_no_feature_fires_there_is_no_gradient_and_no_nan() {
    let (_directory, net) = file_of(&synthetic::squeezenet(false), |tensors| {
        for (name, _, values) in tensors {
            if name.ends_with("bias") {
                values.fill(-1e6);
            }
        }
    });
    let perceptual = Perceptual::<HostTrain>::load(Some(&net), None, &Default::default()).expect("good files");
    let images = Tensor::from_inner(noise("a", [1, 3, 32, 32])).require_grad();
    let distance = perceptual.distance(images.clone(), Tensor::from_inner(noise("b", [1, 3, 32, 32]))).sum();
    let gradients = distance.backward();
    let gradient = images.grad(&gradients).expect("a gradient");
    assert!(params::host(gradient).iter().all(|&value| value == 0.0));
    assert_eq!(params::host(distance), [0.0]);
}

#[test]
fn a_narrow_network_keeps_most_of_the_distance() {
    let narrow = params::cast(random(), FloatDType::BF16);
    let distance = |perceptual: &Perceptual<Host>| {
        params::host(perceptual.distance(noise("a", [1, 3, 32, 32]), noise("b", [1, 3, 32, 32])))[0]
    };
    let (narrow, full) = (distance(&narrow), distance(&random()));
    assert!((narrow / full - 1.0).abs() < 0.02, "{narrow} and {full}");
}

#[test]
fn computed_in_f64_the_value_is_the_same() {
    let shape = [1, 3, 16, 16];
    let numbers = |name| params::host(noise(name, shape)).into_iter().map(f64::from).collect::<Vec<_>>();
    let perceptual = Perceptual::<HostTrain>::new(FeatureNet::random(&Default::default()));
    let perceptual = params::cast(perceptual, FloatDType::F64);
    let exact = value(perceptual.distance(wide(&numbers("a"), shape), wide(&numbers("b"), shape)));
    let found = f64::from(params::host(random().distance(noise("a", shape), noise("b", shape)))[0]);
    assert!((exact / found - 1.0).abs() < 1e-5, "{exact} and {found}");
}
