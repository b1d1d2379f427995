//! Tests of the bound: against PyTorch in float64, at both ends, and where gradients go.

use super::*;
use crate::backend::{Host, HostTrain};
use crate::diffusion::Schedule;
use crate::diffusion::target::Objective;
use crate::features::tests::synthetic::uniform;
use crate::losses::gradients::wide;
use crate::params::host;

const SHAPE: [usize; 4] = [4, 3, 4, 4];
const OUTPUT: [usize; 4] = [4, 6, 4, 4];
const T: [usize; 4] = [0, 1, 500, 999];

fn numbers(name: &str, shape: [usize; 4], factor: f64) -> Vec<f64> {
    uniform(name, shape.iter().product()).into_iter().map(|value| factor * f64::from(value)).collect()
}

fn noised(diffusion: &Diffusion) -> Noised<HostTrain> {
    let mut x0 = numbers("x0", SHAPE, 1.0);
    // Both outermost levels.
    (x0[0], x0[1]) = (1.0, -1.0);
    Noised::new(diffusion, wide(&x0, SHAPE), wide(&numbers("noise", SHAPE, 2.0), SHAPE), T.to_vec())
}

fn list(x: Tensor<impl Backend, 2>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// Bits of each image; then the gradient of their sum at one place of each image's variance, and of its mean.
type Golden = [[f64; 4]; 3];

#[rustfmt::skip]
const TORCH: [(Prediction, bool, Golden); 3] = [
    (Prediction::Sample, true, [
        [38.98971257610885, 1785.4074965871107, 0.0005068941602085087, 1.6936493845087497e-09],
        [0.0, -1.2613475084882104, -6.5084015704353375e-09, 5.597189464195539e-20],
        [0.0, 27.461973988460702, 3.2598650195382664e-05, 2.6340951803296764e-11],
    ]),
    (Prediction::Epsilon, false, [
        [3.4588151328897614, 0.9513247381938146, 0.013747164182505385, 0.022116448704916816],
        [-0.0006332082175650299, -0.022242134240716305, 3.2236136030317945e-10, -2.901545627029267e-10],
        [0.03464598046829467, 0.05611030108355626, -4.6279365839726035e-05, 0.0009297082861959731],
    ]),
    (Prediction::V, true, [
        [3.4586588990970117, 0.9530251092089794, 0.00043243625782096864, 1.90339394773911e-09],
        [-0.0006287220219692146, -0.022650348367200646, 1.0288485784922753e-09, -1.582260917516219e-19],
        [0.034622680608481636, 0.056611562840003495, 8.740747495314907e-06, 1.6262136911424994e-10],
    ]),
];

#[test]
fn the_bound_and_its_gradients_are_pytorch_s() {
    for (prediction, zero, [bits, of_variance, of_mean]) in TORCH {
        let diffusion = Diffusion::new(Schedule::Linear, zero);
        let n = noised(&diffusion);
        let output = wide(&numbers("output", OUTPUT, 1.0), OUTPUT).require_grad();
        let learned = split(&diffusion, output.clone(), 3, &T).expect("six channels");
        let found = bound(&diffusion, prediction, learned, &n);
        let gradient = output.grad(&found.clone().sum().backward()).expect("a gradient").into_data();
        let gradient = gradient.to_vec::<f64>().expect("computed in f64");
        let at =
            |channel: usize| (0..4).map(|image| gradient[((image * 6 + channel) * 4 + 1) * 4 + 2]).collect::<Vec<_>>();
        for (what, found, expected) in
            [("bits", list(found), bits), ("variance", at(4), of_variance), ("mean", at(1), of_mean)]
        {
            for (found, expected) in found.into_iter().zip(expected) {
                // Divergences near 0 are differences of numbers near 1.
                let off = (found - expected).abs();
                assert!(off <= 1e-7 * expected.abs() + 1e-13, "{prediction:?}, {what}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn the_variance_s_term_does_not_reach_the_mean() {
    for (prediction, zero) in [(Prediction::Sample, true), (Prediction::Epsilon, false), (Prediction::V, true)] {
        let diffusion = Diffusion::new(Schedule::Linear, zero);
        let n = noised(&diffusion);
        let output = wide(&numbers("output", OUTPUT, 1.0), OUTPUT).require_grad();
        let objective = Objective { prediction, ..Objective::sample() };
        let terms = hybrid(&diffusion, &objective, output.clone(), &n).expect("six channels");
        let gradient = output.grad(&terms.bound.sum().backward()).expect("a gradient").into_data();
        let gradient = gradient.to_vec::<f64>().expect("computed in f64");
        let halves = |first: bool| {
            let part = move |chunk: &[f64]| if first { chunk[..48].to_vec() } else { chunk[48..].to_vec() };
            gradient.chunks(96).flat_map(part).collect::<Vec<f64>>()
        };
        assert!(halves(true).iter().all(|&value| value == 0.0), "{prediction:?}");
        assert!(halves(false).iter().any(|&value| value != 0.0), "{prediction:?}");
        // The simple loss is the prediction's alone.
        let output = wide(&numbers("output", OUTPUT, 1.0), OUTPUT).require_grad();
        let terms = hybrid(&diffusion, &objective, output.clone(), &n).expect("six channels");
        let gradient = output.grad(&terms.simple.sum().backward()).expect("a gradient").into_data();
        let gradient = gradient.to_vec::<f64>().expect("computed in f64");
        assert!(gradient.chunks(96).all(|image| image[48..].iter().all(|&value| value == 0.0)), "{prediction:?}");
    }
}

#[test]
fn both_ends_are_finite_in_f32() {
    let schedules =
        [Schedule::Linear, Schedule::SquaredCos, Schedule::ShiftedCosine(0.1), Schedule::ShiftedCosine(10.0)];
    for schedule in schedules {
        for zero in [false, true] {
            let diffusion = Diffusion::new(schedule, zero);
            for prediction in [Prediction::Sample, Prediction::Epsilon, Prediction::V] {
                if prediction.check(&diffusion).is_err() {
                    continue;
                }
                for t in [0, 1, 998, 999] {
                    let tensor =
                        |name, shape, factor| wide(&numbers(name, shape, factor), shape).cast(burn::tensor::DType::F32);
                    let (x0, noise) = (tensor("x0", SHAPE, 1.0), tensor("noise", SHAPE, 4.0));
                    let n = Noised::new(&diffusion, x0, noise, vec![t; 4]);
                    // Variances far outside of their range, too.
                    let output = tensor("output", OUTPUT, 3.0).require_grad();
                    let learned = split(&diffusion, output.clone(), 3, &n.t).expect("six channels");
                    let bits = bound(&diffusion, prediction, learned, &n);
                    let gradient = host(output.grad(&bits.clone().sum().backward()).expect("a gradient"));
                    let finite = host(bits).into_iter().chain(gradient).all(f32::is_finite);
                    assert!(finite, "{schedule} {zero} {prediction:?} at {t}");
                }
            }
        }
    }
}

#[test]
fn the_variance_lies_between_the_two_of_the_process() {
    let diffusion = Diffusion::new(Schedule::SquaredCos, false);
    for (value, of) in [(-1.0, 0.0), (1.0, 1.0), (0.0, 0.5)] {
        let output = Tensor::<Host, 4>::full(OUTPUT, value, &Default::default());
        let logs = host(split(&diffusion, output, 3, &T).expect("six channels").log_variance);
        for (logs, t) in logs.chunks(48).zip(T) {
            let step = diffusion.step(t);
            let expected = of * step.log_beta + (1.0 - of) * step.log_posterior;
            assert!(logs.iter().all(|&log| (f64::from(log) - expected).abs() < 1e-5), "{value} at {t}: {logs:?}");
        }
    }
    let few = Tensor::<Host, 4>::zeros([1, 3, 2, 2], &Default::default());
    let refused = split(&diffusion, few, 3, &[0]).expect_err("three channels").to_string();
    assert!(refused.contains("takes 6 output channels"), "{refused}");
}

#[test]
fn the_likelihoods_of_all_levels_are_one_together() {
    let levels: Vec<f64> = (0..256).map(|level| f64::from(level) / 127.5 - 1.0).collect();
    let shape = [1, 1, 16, 16];
    for (mean, log_variance) in [(0.1, -4.0), (-1.2, -2.0), (0.9, -9.0)] {
        let full = |value| wide(&[value; 256], shape);
        let logs = likelihood(wide(&levels, shape), full(mean), full(log_variance));
        let sum: f64 = logs.into_data().iter::<f64>().map(f64::exp).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum} at {mean}, {log_variance}");
    }
}

#[test]
fn bits_of_a_perfect_mean_are_those_of_its_variance() {
    for zero in [false, true] {
        let diffusion = Diffusion::new(Schedule::Linear, zero);
        let x0 = Tensor::<Host, 4>::from_data(
            TensorData::new(numbers("x0", SHAPE, 1.0), SHAPE),
            (&Default::default(), burn::tensor::DType::F64),
        );
        let with = |share: f64, strata| {
            let perfect =
                |xt: Tensor<Host, 4>, _: &[usize]| Ok(Tensor::cat(vec![x0.clone(), xt.zeros_like() + share], 1));
            bits_per_dim(&diffusion, Prediction::Sample, x0.clone(), strata, 3, perfect).expect("six channels")
        };
        // o = −1 is the posterior's own variance: no divergence.
        assert!(with(-1.0, 50).between.abs() < 1e-9);
        // o = 1 is β: the divergence is that of the variances alone.
        let divergence = |t: usize| {
            let log_ratio = diffusion.step(t).log_posterior - diffusion.step(t).log_beta;
            0.5 * (log_ratio.exp() - 1.0 - log_ratio) / LN_2
        };
        let whole: f64 = (1..1000).map(divergence).sum();
        let bits = with(1.0, 999);
        assert!((bits.between - whole).abs() < 1e-9, "{} for {whole}", bits.between);
        assert_eq!(bits.total, bits.first + bits.between + bits.prior);
        // Fewer strata: about the same.
        assert!((with(1.0, 100).between - whole).abs() < 0.5 * whole);
        let square = numbers("x0", SHAPE, 1.0).iter().map(|x| x * x).sum::<f64>() / 192.0;
        let abar: f64 = diffusion.step(999).abar;
        let prior = 0.5 * (-1.0 + 1.0 - abar - (1.0 - abar).ln() + abar * square) / LN_2;
        assert!((bits.prior - prior).abs() < 1e-12);
        assert!(!zero || bits.prior == 0.0, "pure noise costs nothing");
    }
}
