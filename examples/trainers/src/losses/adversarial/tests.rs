//! Tests of the adversarial losses, the adaptive weight and the gradient penalty.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::GradientsParams;
use burn::tensor::activation::{leaky_relu, tanh};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::*;
use crate::backend::{Host, HostTrain};
use crate::features::FeatureNet;
use crate::features::tests::synthetic::uniform;
use crate::losses::gradients::{check, value, wide};
use crate::losses::{Perceptual, reconstruction};
use crate::params::{self, host};

fn numbers(name: &str, count: usize, scale: f64) -> Vec<f64> {
    uniform(name, count).into_iter().map(|value| f64::from(value) * scale).collect()
}

fn noise<B: Backend, const D: usize>(name: &str, shape: [usize; D]) -> Tensor<B, D> {
    let values = uniform(name, shape.iter().product());
    Tensor::<B, 1>::from_floats(values.as_slice(), &Default::default()).reshape(shape)
}

mod losses {
    use super::*;

    fn logits(values: [f64; 2]) -> Tensor<HostTrain, 2> {
        wide(&values, [2, 1])
    }

    #[test]
    fn hinge_has_its_values() {
        assert_eq!(value(hinge_d(logits([2.0, 0.5]), logits([-2.0, 0.0]))), 0.5 * (0.25 + 0.5));
        assert_eq!(value(hinge_g(logits([3.0, -1.0]))), -1.0);
    }

    #[test]
    fn softplus_has_its_values_and_does_not_overflow() {
        let ln2 = 2_f64.ln();
        assert!((value(softplus_d(logits([0.0; 2]), logits([0.0; 2]))) - ln2).abs() < 1e-15);
        assert!((value(softplus_g(logits([0.0; 2]))) - ln2).abs() < 1e-15);
        assert_eq!(value(softplus_g(logits([-1e4; 2]))), 1e4);
        assert_eq!(value(softplus_g(logits([1e4; 2]))), 0.0);
        let single = softplus_g(Tensor::<Host, 2>::from_floats([[-200.0], [200.0]], &Default::default()));
        assert_eq!(host(single), [100.0]);
    }

    #[test]
    fn gradients_are_those_of_the_differences() {
        let shape = [2, 1, 3, 4];
        let (at, other) = (numbers("at", 24, 3.0), numbers("other", 24, 3.0));
        let other = || wide(&other, shape);
        check(|real| hinge_d(real, other()), &at, shape, 1e-8);
        check(|fake| hinge_d(other(), fake), &at, shape, 1e-8);
        check(hinge_g, &at, shape, 1e-8);
        check(|real| softplus_d(real, other()), &at, shape, 1e-8);
        check(|fake| softplus_d(other(), fake), &at, shape, 1e-8);
        check(softplus_g, &at, shape, 1e-8);
    }

    #[test]
    fn a_logit_of_zero_still_has_a_gradient() {
        check(softplus_g, &[0.0; 4], [4, 1], 1e-8);
        check(|fake| softplus_d(wide(&[0.0; 4], [4, 1]), fake), &[0.0; 4], [4, 1], 1e-8);
    }
}

mod split {
    use super::*;

    /// A trunk, a last layer, and a discriminator.
    #[derive(Module, Debug)]
    struct Model<B: Backend> {
        trunk: Conv2d<B>,
        last: Conv2d<B>,
        judge: Conv2d<B>,
    }

    fn model() -> Model<HostTrain> {
        let conv = |channels| {
            Conv2dConfig::new(channels, [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(&Default::default())
        };
        let model = Model { trunk: conv([4, 8]), last: conv([8, 3]), judge: conv([3, 2]) };
        params::settle(model, 5)
    }

    fn head(h: Tensor<HostTrain, 4>, weight: Tensor<HostTrain, 4>, bias: Tensor<HostTrain, 1>) -> Tensor<HostTrain, 4> {
        let options = burn::tensor::ops::ConvOptions::new([1; 2], [1; 2], [1; 2], 1);
        tanh(burn::tensor::module::conv2d(h, weight, Some(bias), options))
    }

    fn bias(conv: &Conv2d<HostTrain>) -> &burn::module::Param<Tensor<HostTrain, 1>> {
        conv.bias.as_ref().expect("made with a bias")
    }

    struct Setting {
        model: Model<HostTrain>,
        perceptual: Perceptual<HostTrain>,
        codes: Tensor<HostTrain, 4>,
        target: Tensor<HostTrain, 4>,
    }

    impl Setting {
        fn new() -> Self {
            Self {
                model: model(),
                perceptual: Perceptual::new(FeatureNet::random(&Default::default())),
                codes: noise("codes", [2, 4, 16, 16]),
                target: noise("target", [2, 3, 16, 16]),
            }
        }

        fn trunk(&self) -> Tensor<HostTrain, 4> {
            leaky_relu(self.model.trunk.forward(self.codes.clone()), 0.2)
        }

        fn nll(&self, images: Tensor<HostTrain, 4>) -> Tensor<HostTrain, 1> {
            reconstruction::l1(images.clone(), self.target.clone())
                + self.perceptual.distance(images, self.target.clone()).mean()
        }

        fn gan(&self, images: Tensor<HostTrain, 4>) -> Tensor<HostTrain, 1> {
            softplus_g(self.model.judge.clone().no_grad().forward(images))
        }

        fn split(&self, weight: Option<GanWeight>) -> (Tensor<HostTrain, 4>, SplitGradients<HostTrain>) {
            let (trunk, last) = (self.trunk(), &self.model.last);
            let gan = weight.map(|weight| GanTerm { loss: |images| self.gan(images), weight });
            let (weight, bias) = (last.weight.val(), bias(last).val());
            (trunk.clone(), split_backward(trunk, weight, bias, head, |images| self.nll(images), gan))
        }

        /// The gradients of one graph of `nll + λ gan + a term of the trunk`.
        fn combined(&self, lambda: f32) -> GradientsParams {
            let trunk = self.trunk();
            let extra = trunk.clone().square().mean();
            let images = head(trunk, self.model.last.weight.val(), bias(&self.model.last).val());
            let loss = self.nll(images.clone()) + self.gan(images).mul_scalar(lambda) + extra;
            GradientsParams::from_grads(loss.backward(), &self.model)
        }
    }

    fn largest_difference<const D: usize>(a: Tensor<Host, D>, b: Tensor<Host, D>) -> f32 {
        assert!(host(b.clone().abs().max())[0] > 1e-3, "nothing to compare");
        host((a - b).abs().max())[0]
    }

    #[test]
    fn the_split_is_the_combined_loss() {
        let setting = Setting::new();
        for weight in [Some(GanWeight::Adaptive(0.8)), Some(GanWeight::Fixed(0.3)), None] {
            let (trunk, found) = setting.split(weight);
            let lambda = found.lambda.as_ref().map_or(0.0, |lambda| host(lambda.clone())[0]);
            let combined = setting.combined(lambda);
            let Model { trunk: first, last, .. } = &setting.model;
            let extra = trunk.clone().square().mean();
            let split = GradientsParams::from_grads((found.surrogate(trunk) + extra).backward(), &setting.model);
            let expected = combined.get::<Host, 4>(last.weight.id).expect("a gradient");
            assert!(largest_difference(found.weight, expected) <= 1e-5);
            let expected = combined.get::<Host, 1>(bias(last).id).expect("a gradient");
            assert!(largest_difference(found.bias, expected) <= 1e-5);
            let [found, expected] =
                [&split, &combined].map(|all| all.get::<Host, 4>(first.weight.id).expect("a gradient"));
            assert!(largest_difference(found, expected) <= 1e-5);
            // The surrogate knows nothing of the last layer: its gradients are the caller's to register.
            assert!(split.get::<Host, 4>(last.weight.id).is_none());
        }
    }

    #[test]
    fn lambda_and_the_losses_are_those_of_separate_graphs() {
        let setting = Setting::new();
        let (_, found) = setting.split(Some(GanWeight::Adaptive(0.8)));
        let last = &setting.model.last;
        let images = || head(setting.trunk(), last.weight.val(), bias(last).val());
        let (nll, gan) = (setting.nll(images()), setting.gan(images()));
        assert_eq!(host(found.nll), host(nll.clone()));
        assert_eq!(found.gan.map(host), Some(host(gan.clone())));
        assert_eq!(host(found.images), host(images()));
        let norm = |loss: Tensor<HostTrain, 1>| {
            let gradients = GradientsParams::from_grads(loss.backward(), &setting.model);
            let gradient = gradients.get::<Host, 4>(last.weight.id).expect("a gradient");
            host(gradient).into_iter().map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
        };
        let expected = 0.8 * norm(nll) / (norm(gan) + 1e-4);
        let lambda = f64::from(host(found.lambda.expect("an adversarial part"))[0]);
        assert!((lambda / expected - 1.0).abs() < 1e-5, "{lambda} and {expected}");
    }

    #[test]
    fn the_weight_is_bounded() {
        let lambda = |nll: f32, gan: f32| {
            let one = |value: f32| Tensor::<Host, 1>::from_floats([value], &Default::default());
            host(adaptive_weight(one(nll), one(gan), 0.1))[0]
        };
        assert!((lambda(3.0, 0.9999) - 0.3).abs() < 1e-6);
        assert_eq!(lambda(5.0, 0.0), 1000.0);
        assert_eq!(lambda(0.0, 5.0), 0.0);
    }

    #[test]
    fn a_loss_that_sees_nothing_of_the_images_has_no_gradient() {
        let setting = Setting::new();
        let (trunk, last) = (setting.trunk(), &setting.model.last);
        let constant = Tensor::<HostTrain, 1>::from_floats([2.0], &Default::default()).require_grad();
        let gan = Some(GanTerm { loss: |_| constant.mul_scalar(1.0), weight: GanWeight::Adaptive(0.5) });
        let found = split_backward(trunk, last.weight.val(), bias(last).val(), head, |images| setting.nll(images), gan);
        let (_, alone) = setting.split(None);
        assert_eq!(host(found.weight), host(alone.weight));
        assert_eq!(found.gan.map(host), Some(vec![2.0]));
    }
}

mod penalty {
    use super::*;

    #[derive(Module, Debug)]
    struct Judge<B: Backend> {
        first: Conv2d<B>,
        second: Conv2d<B>,
        last: Linear<B>,
    }

    impl<B: Backend> Judge<B> {
        fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
            let [batch, ..] = images.dims();
            let x = tanh(self.first.forward(images));
            let x = tanh(self.second.forward(x));
            self.last.forward(x.reshape([batch as i32, -1]))
        }
    }

    impl<B: Backend> Judge<B> {
        /// The derivative of the logits along a direction.
        fn derivative(&self, images: Tensor<B, 4>, direction: Tensor<B, 4>) -> Tensor<B, 2> {
            let [batch, ..] = images.dims();
            let layer = |conv: &Conv2d<B>, x: Tensor<B, 4>, slope: Tensor<B, 4>| {
                let value = tanh(conv.forward(x));
                let slope = Conv2d { bias: None, ..conv.clone() }.forward(slope);
                (value.clone(), slope * value.square().neg().add_scalar(1.0))
            };
            let (x, slope) = layer(&self.first, images, direction);
            let (_, slope) = layer(&self.second, x, slope);
            slope.reshape([batch as i32, -1]).matmul(self.last.weight.val())
        }
    }

    fn judge() -> Judge<HostTrain> {
        let conv = |channels| Conv2dConfig::new(channels, [3, 3]).with_stride([2, 2]).init(&Default::default());
        let last = LinearConfig::new(6 * 3 * 3, 1).init(&Default::default());
        params::settle(Judge { first: conv([3, 4]), second: conv([4, 6]), last }, 3)
    }

    #[test]
    fn of_a_plane_it_is_exact() {
        let plane = params::settle(LinearConfig::new(3 * 4, 1).init::<HostTrain>(&Default::default()), 2);
        let real = noise("real", [3, 3, 2, 2]);
        let forward = |plane: &Linear<HostTrain>, x: Tensor<HostTrain, 4>| plane.forward(x.reshape([3, 12]));
        let derivative = |plane: &Linear<HostTrain>, _: Tensor<HostTrain, 4>, along: Tensor<HostTrain, 4>| {
            along.reshape([3, 12]).matmul(plane.weight.val())
        };
        let penalty = r1(&plane, forward, derivative, real, 10.0, 16);
        let weight = plane.weight.val().inner();
        // D(x) = w · x + b: |g|² = |w|² for each image, and its gradient is 2 w.
        let squared = host(weight.clone().square().sum())[0];
        assert!((host(penalty.value)[0] / (0.5 * 160.0 * squared) - 1.0).abs() < 1e-5);
        let gradient = penalty.gradients.get::<Host, 2>(plane.weight.id).expect("a gradient");
        let difference = host((gradient - weight.clone().mul_scalar(160.0)).abs().max())[0];
        assert!(difference < 1e-3 * 160.0 * host(weight.abs().max())[0], "{difference}");
        let of_bias = plane.bias.as_ref().and_then(|bias| penalty.gradients.get::<Host, 1>(bias.id));
        assert!(of_bias.is_none_or(|gradient| host(gradient)[0].abs() < 1e-2));
    }

    /// The rise of the penalty along its own gradient, relative to the gradient's length: 1 where the gradient is right.
    fn numeric_over_found(
        judge: &Judge<HostTrain>,
        penalty: impl Fn(&Judge<HostTrain>) -> GradientPenalty<HostTrain>,
    ) -> f64 {
        let found = penalty(judge);
        let norm = params::gradient_norm(judge, &found.gradients);
        assert!(norm > 0.01, "nothing to compare");
        let moved = |by: f64| {
            let moved = judge.clone().map(&mut Move { gradients: &found.gradients, by: by / norm });
            value(Tensor::from_inner(penalty(&moved).value))
        };
        (moved(1e-4) - moved(-1e-4)) / 2e-4 / norm
    }

    fn real() -> Tensor<HostTrain, 4> {
        noise::<HostTrain, 4>("real", [4, 3, 15, 15]).cast(FloatDType::F64)
    }

    #[test]
    fn it_is_the_numeric_gradient() {
        let judge = judge().map(&mut Wide);
        let penalty = |judge: &Judge<HostTrain>| r1(judge, Judge::forward, Judge::derivative, real(), 10.0, 16);
        let ratio = numeric_over_found(&judge, penalty);
        assert!((ratio - 1.0).abs() < 1e-6, "{ratio}");
    }

    #[test]
    fn without_any_slope_there_is_nothing() {
        let judge = judge();
        let flat = |judge: &Judge<HostTrain>, x: Tensor<HostTrain, 4>| judge.forward(x.mul_scalar(0.0));
        let flat_too = |judge: &Judge<HostTrain>, x: Tensor<HostTrain, 4>, along: Tensor<HostTrain, 4>| {
            judge.derivative(x, along.mul_scalar(0.0))
        };
        let penalty = r1(&judge, flat, flat_too, noise("real", [2, 3, 15, 15]), 10.0, 16);
        assert_eq!(host(penalty.value), [0.0]);
        assert_eq!(params::gradient_norm(&judge, &penalty.gradients), 0.0);
    }

    /// Makes a module's values f64.
    struct Wide;

    impl burn::module::ModuleMapper<HostTrain> for Wide {
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<Tensor<HostTrain, D>>,
        ) -> burn::module::Param<Tensor<HostTrain, D>> {
            param.map(|value| Tensor::from_inner(value.inner().cast(FloatDType::F64)).require_grad())
        }
    }

    /// Moves a module along its gradients.
    struct Move<'a> {
        gradients: &'a GradientsParams,
        by: f64,
    }

    impl burn::module::ModuleMapper<HostTrain> for Move<'_> {
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<Tensor<HostTrain, D>>,
        ) -> burn::module::Param<Tensor<HostTrain, D>> {
            match self.gradients.get::<Host, D>(param.id) {
                Some(gradient) => {
                    param.map(|value| Tensor::from_inner(value.inner() + gradient.mul_scalar(self.by)).require_grad())
                }
                None => param,
            }
        }
    }
}
