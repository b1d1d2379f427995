//! Tests of the losses pixel by pixel.

use burn::tensor::TensorData;

use super::*;
use crate::backend::Host;
use crate::features::tests::synthetic::uniform;
use crate::losses::gradients::{check, value, wide};
use crate::params::host;

const SHAPE: [usize; 4] = [2, 3, 4, 5];

fn numbers(name: &str) -> Vec<f64> {
    uniform(name, SHAPE.iter().product()).into_iter().map(f64::from).collect()
}

#[test]
fn distances_are_means() {
    let pair = |a: [f32; 3], b: [f32; 3]| {
        [a, b].map(|values| {
            Tensor::<Host, 4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &Default::default())
        })
    };
    let [a, b] = pair([0.5, -0.25, 1.0], [0.0, 0.25, -1.0]);
    assert_eq!(host(l1(a.clone(), b.clone())), [1.0]);
    assert_eq!(host(l2(a, b)), [1.5]);
}

#[test]
fn gradients_are_those_of_the_differences() {
    let target = || wide(&numbers("target"), SHAPE);
    // Twice as far as images go: the tangent's part is seen too.
    let far: Vec<f64> = numbers("reconstruction").into_iter().map(|value| 2.0 * value).collect();
    check(|x| l1(x, target()), &far, SHAPE, 1e-8);
    check(|x| l2(x, target()), &far, SHAPE, 1e-8);
    check(|x| logit_laplace(x, target()), &far, SHAPE, 1e-8);
    let scale = || wide(&numbers("scale"), SHAPE);
    check(|location| logit_laplace_nll(location, scale(), target()), &far, SHAPE, 1e-8);
    check(|scale| logit_laplace_nll(wide(&far, SHAPE), scale, target()), &numbers("scale"), SHAPE, 1e-8);
}

#[test]
fn logit_laplace_is_a_density() {
    // ∫ exp(−nll) dy over (0, 1), for y = 0.8 (x + 1)/2 + 0.1 and its whole range, is what lies inside [0.1, 0.9].
    let (location, scale): (f64, f64) = (0.4, 0.7);
    let steps = 2_000;
    let nll = |x: f64| {
        let one = |value: f64| wide(&[value], [1, 1, 1, 1]);
        value(logit_laplace_nll(one(location), one(scale.ln()), one(x)))
    };
    let step = 2.0 / f64::from(steps);
    let inside: f64 = (0..steps).map(|at| (-nll(-1.0 + (f64::from(at) + 0.5) * step)).exp() * step * 0.4).sum();
    // The Laplace distribution of logit y: both tails beyond logit 0.9 = ln 9.
    let outside = 0.5 * (-(9_f64.ln() - location) / scale).exp() + 0.5 * (-(9_f64.ln() + location) / scale).exp();
    assert!((inside + outside - 1.0).abs() < 1e-5, "{inside} + {outside}");
}

#[test]
fn logit_laplace_is_least_at_the_target_and_pulls_back_what_is_outside() {
    let target = numbers("target");
    let loss = |values: &[f64]| value(logit_laplace(wide(values, SHAPE), wide(&target, SHAPE)));
    let moved = |by: f64| target.iter().map(|value| value + by).collect::<Vec<_>>();
    assert!(loss(&target) < loss(&moved(0.01)).min(loss(&moved(-0.01))));
    assert!(loss(&moved(40.0)).is_finite() && loss(&moved(40.0)) > loss(&moved(30.0)));
}

#[test]
fn the_image_of_a_location_is_the_target_it_is_least_at() {
    let target = wide(&numbers("target"), SHAPE);
    let image = logit_laplace_image(logit(inside(target.clone())));
    assert!(value((image - target).abs().max()) < 1e-9);
}
