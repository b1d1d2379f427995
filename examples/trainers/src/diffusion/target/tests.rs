//! Tests of predictions and losses.

use super::*;
use crate::backend::HostTrain;
use crate::diffusion::Schedule;
use crate::features::tests::synthetic::uniform;
use crate::losses::gradients::{check, value, wide};

const SHAPE: [usize; 4] = [4, 3, 4, 4];
const T: [usize; 4] = [0, 1, 500, 998];
const ALL: [Prediction; 3] = [Prediction::Sample, Prediction::Epsilon, Prediction::V];

fn numbers(name: &str) -> Vec<f64> {
    uniform(name, SHAPE.iter().product()).into_iter().map(f64::from).collect()
}

fn tensor(name: &str) -> Tensor<HostTrain, 4> {
    wide(&numbers(name), SHAPE)
}

fn noised(diffusion: &Diffusion, t: [usize; 4]) -> Noised<HostTrain> {
    Noised::new(diffusion, tensor("x0"), tensor("noise"), t.to_vec())
}

fn largest(difference: Tensor<HostTrain, 4>) -> f64 {
    value(difference.abs().max())
}

#[test]
fn a_perfect_prediction_is_the_image_and_the_noise() {
    for zero in [false, true] {
        let diffusion = Diffusion::new(Schedule::Linear, zero);
        let t = [0, 1, 500, 999];
        let n = noised(&diffusion, t);
        for prediction in ALL.into_iter().filter(|prediction| prediction.check(&diffusion).is_ok()) {
            let target = prediction.target(&diffusion, n.x0.clone(), n.noise.clone(), &t);
            let x0 = prediction.x0(&diffusion, target.clone(), n.xt.clone(), &t);
            let epsilon = prediction.epsilon(&diffusion, target, n.xt.clone(), &t);
            assert!(largest(x0 - n.x0.clone()) < 1e-10, "{prediction:?}");
            assert!(largest(epsilon - n.noise.clone()) < 1e-10, "{prediction:?}");
        }
    }
}

#[test]
fn noise_prediction_is_refused_where_the_end_is_noise() {
    let (zero, plain) = (Diffusion::new(Schedule::Linear, true), Diffusion::new(Schedule::Linear, false));
    let refused = Prediction::Epsilon.check(&zero).expect_err("refused").to_string();
    assert!(refused.contains("predict sample or v"), "{refused}");
    assert!(Prediction::Epsilon.check(&plain).is_ok());
    assert!(Prediction::V.check(&zero).is_ok() && Prediction::Sample.check(&zero).is_ok());
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let diffusion = Diffusion::new(Schedule::Linear, true);
    let with = |prediction, weight, epsilon_loss| {
        Objective { prediction, weight, epsilon_loss, ..Objective::sample() }.check(&diffusion)
    };
    assert!(with(Prediction::V, Weight::Snr, false).is_err_and(|e| e.to_string().contains("predict the sample")));
    assert!(with(Prediction::Sample, Weight::None, true).is_err_and(|e| e.to_string().contains("predict v")));
    assert!(
        with(Prediction::Sample, Weight::Truncated, false).is_ok() && with(Prediction::V, Weight::None, true).is_ok()
    );
}

/// The loss of one prediction by what it says of x0, as another prediction.
fn loss(diffusion: &Diffusion, objective: Objective, x0: &Tensor<HostTrain, 4>) -> Vec<f64> {
    let n = noised(diffusion, T);
    // The noise and the v that go with this x0 at x_t.
    let epsilon = Prediction::Sample.epsilon(diffusion, x0.clone(), n.xt.clone(), &T);
    let predicted = objective.prediction.target(diffusion, x0.clone(), epsilon, &T);
    objective.loss(diffusion, predicted, &n).into_data().to_vec().expect("computed in f64")
}

#[test]
fn weights_turn_the_losses_into_each_other() {
    let diffusion = Diffusion::new(Schedule::SquaredCos, false);
    let x0 = tensor("guess");
    let of = |prediction, weight, epsilon_loss| {
        loss(&diffusion, Objective { prediction, weight, epsilon_loss, ..Objective::sample() }, &x0)
    };
    let pairs = [
        (of(Prediction::Sample, Weight::Snr, false), of(Prediction::Epsilon, Weight::None, false)),
        (of(Prediction::Sample, Weight::SnrPlusOne, false), of(Prediction::V, Weight::None, false)),
        (of(Prediction::V, Weight::None, true), of(Prediction::Epsilon, Weight::None, false)),
    ];
    for (one, other) in &pairs {
        for (one, other) in one.iter().zip(other) {
            assert!((one - other).abs() < 1e-8 * other.abs(), "{one} for {other}");
        }
    }
    let plain = of(Prediction::Sample, Weight::None, false);
    let (root, truncated) =
        (of(Prediction::Sample, Weight::SqrtSnr, false), of(Prediction::Sample, Weight::Truncated, false));
    for (i, t) in T.into_iter().enumerate() {
        let snr = diffusion.step(t).snr();
        assert!((root[i] - plain[i] * snr.sqrt()).abs() < 1e-9 * root[i]);
        assert!((truncated[i] - plain[i] * snr.max(1.0)).abs() < 1e-9 * truncated[i]);
    }
}

#[test]
fn forms_are_their_definitions() {
    let d = wide(&[0.5, -0.25, 1.0, -3.0], [1, 4, 1, 1]);
    let of = |form: Form| form.of(d.clone()).into_data().to_vec::<f64>().expect("computed in f64");
    assert_eq!(of(Form::Mse), [0.25, 0.0625, 1.0, 9.0]);
    assert_eq!(of(Form::L1), [0.5, 0.25, 1.0, 3.0]);
    assert_eq!(of(Form::SmoothL1), [0.125, 0.03125, 0.5, 2.5]);
}

#[test]
fn gradients_are_those_of_the_differences() {
    let diffusion = Diffusion::new(Schedule::SquaredCos, false);
    let n = noised(&diffusion, T);
    let far: Vec<f64> = numbers("guess").into_iter().map(|value| 2.0 * value).collect();
    for form in [Form::Mse, Form::L1, Form::SmoothL1] {
        let objectives = [
            Objective { form, weight: Weight::Truncated, ..Objective::sample() },
            Objective { form, prediction: Prediction::V, epsilon_loss: true, ..Objective::sample() },
        ];
        for objective in objectives {
            // Images of the least noise weigh 10⁴ times the others': each by itself.
            for image in 0..4 {
                let one = |predicted| objective.loss(&diffusion, predicted, &n).slice([image..image + 1, 0..1]).sum();
                check(one, &far, SHAPE, 1e-6);
            }
        }
    }
}
