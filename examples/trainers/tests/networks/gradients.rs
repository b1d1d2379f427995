//! That gradients reach every parameter, and are right.

use burn::module::{AutodiffModule, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use trainers::backend::HostTrain;
use trainers::nets::patchgan::PatchConfig;
use trainers::nets::stylegan::StyleConfig;
use trainers::params::{counts, host, settle};

use crate::{noise, small_backbones};

/// Collects the names of parameters whose gradient is missing, not finite, or all zeros.
struct Untrained<'a, B: AutodiffBackend> {
    gradients: &'a B::Gradients,
    path: Vec<String>,
    names: Vec<String>,
    seen: usize,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Untrained<'_, B> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if !param.is_require_grad() {
            return;
        }
        self.seen += 1;
        let gradient = param.val().grad(self.gradients).map(host);
        let moves = |values: Vec<f32>| values.iter().all(|g| g.is_finite()) && values.iter().any(|&g| g != 0.0);
        if !gradient.is_some_and(moves) {
            self.names.push(self.path.join("."));
        }
    }
}

fn untrained<M: AutodiffModule<HostTrain>>(
    module: &M,
    gradients: &<HostTrain as AutodiffBackend>::Gradients,
) -> (Vec<String>, usize) {
    let mut visitor = Untrained { gradients, path: Vec::new(), names: Vec::new(), seen: 0 };
    module.visit(&mut visitor);
    (visitor.names, visitor.seen)
}

#[test]
fn gradients_reach_every_parameter() {
    let device = Default::default();
    for backbone in small_backbones() {
        let encoder = settle(backbone.encoder::<HostTrain>(5, &device), 1);
        let decoder = settle(backbone.decoder::<HostTrain>(5, &device), 2);
        let images = noise::<HostTrain>([2, 3, 16, 16], 3);
        let gradients = (decoder.forward(encoder.forward(images.clone())) - images).square().mean().backward();
        for ((names, seen), expected) in [
            (untrained(&encoder, &gradients), counts(&encoder).len()),
            (untrained(&decoder, &gradients), counts(&decoder).len()),
        ] {
            assert_eq!(seen, expected, "{backbone:?}");
            // A key's bias adds the same to all scores of a query, so softmax takes its gradient away, but for rounding.
            let names: Vec<_> = names.iter().filter(|name| !name.ends_with("k.bias")).collect();
            assert!(names.is_empty(), "{backbone:?}: {names:?}");
        }
    }
    let images = noise::<HostTrain>([4, 3, 16, 16], 3);
    let patch = settle(PatchConfig { n_layers: 2, channels: 4 }.init::<HostTrain>(&device), 4);
    let (names, seen) = untrained(&patch, &patch.forward(images.clone()).square().mean().backward());
    assert_eq!((names, seen), (Vec::new(), 4 + 2 + 2 * 2), "weights, biases, norms");
    let style = StyleConfig { image_size: 16, channel_multiplier: 1, max_channels: 6 };
    let style = settle(style.init::<HostTrain>(&device), 5);
    let (names, seen) = untrained(&style, &style.forward(images).square().mean().backward());
    assert_eq!((names, seen), (Vec::new(), counts(&style).len()));
}

/// Compares the derivative along a direction in the input with the difference quotient.
fn check_derivative(what: &str, shape: [usize; 4], loss: impl Fn(Tensor<HostTrain, 4>) -> Tensor<HostTrain, 1>) {
    let at = noise::<HostTrain>(shape, 21);
    let leaf = at.clone().require_grad();
    let gradients = loss(leaf.clone()).backward();
    // Along the gradient itself: the steepest way, where rounding matters least.
    let along = Tensor::from_inner(leaf.grad(&gradients).expect("the input has a gradient"));
    let length = f64::from(host(along.clone().square().sum())[0]).sqrt();
    let step = 3e-3 / length;
    let value = |step: f64| f64::from(host(loss(at.clone() + along.clone() * step))[0]);
    let quotient = (value(step) - value(-step)) / (2.0 * step);
    let derivative = length * length;
    assert!((quotient / derivative - 1.0).abs() < 0.02, "{what}: {derivative} by backward, {quotient} by differences");
}

#[test]
fn gradients_are_those_of_difference_quotients() {
    let device = Default::default();
    for backbone in small_backbones() {
        let encoder = settle(backbone.encoder::<HostTrain>(5, &device), 1);
        let target = noise::<HostTrain>([2, 5, backbone.grid(), backbone.grid()], 9);
        check_derivative("encoder", [2, 3, 16, 16], |x| (encoder.forward(x) * target.clone()).sum());
        let decoder = settle(backbone.decoder::<HostTrain>(5, &device), 2);
        let target = noise::<HostTrain>([2, 3, 16, 16], 10);
        let shape = [2, 5, backbone.grid(), backbone.grid()];
        check_derivative("decoder", shape, |z| (decoder.forward(z) * target.clone()).sum());
    }
    let patch = settle(PatchConfig { n_layers: 2, channels: 4 }.init::<HostTrain>(&device), 4);
    check_derivative("patch discriminator", [2, 3, 16, 16], |x| patch.forward(x).square().mean());
    let style = StyleConfig { image_size: 16, channel_multiplier: 1, max_channels: 6 };
    let style = settle(style.init::<HostTrain>(&device), 5);
    check_derivative("StyleGAN discriminator", [8, 3, 16, 16], |x| style.forward(x).square().mean());
}
