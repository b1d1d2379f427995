//! Tests of the losses of labels, masks and features.

use burn::tensor::TensorData;

use super::*;
use crate::backend::HostTrain;
use crate::losses::gradients::{check, value, wide};

const SHAPE: [usize; 4] = [2, 3, 2, 3];
const ONE: [usize; 4] = [2, 1, 3, 3];

/// Numbers that any program can make, from `least` on over `range`.
fn formula(count: usize, factor: usize, modulus: usize, range: f32, least: f32) -> Vec<f64> {
    (0..count).map(|i| f64::from((i * factor % modulus) as f32 / modulus as f32 * range + least)).collect()
}

fn numbers() -> Vec<f64> {
    formula(36, 7, 31, 6.0, -3.0)
}

fn targets() -> Tensor<HostTrain, 4> {
    wide(&formula(36, 11, 37, 2.0, -1.0), SHAPE)
}

fn labels(ignored: bool) -> Tensor<HostTrain, 3, Int> {
    let label = |i: usize| if ignored && i.is_multiple_of(4) { 255 } else { (i * 5 % 3) as i64 };
    Tensor::from_data(TensorData::new((0..12).map(label).collect(), [2, 2, 3]), &Default::default())
}

/// Masks of 0 and 1, `count` of them.
fn masks(count: usize) -> Vec<f64> {
    formula(count, 11, 37, 2.0, -1.0).into_iter().map(|value| f64::from(u8::from(value > 0.0))).collect()
}

fn close(found: Tensor<HostTrain, 1>, expected: f64) {
    let found = value(found);
    assert!((found - expected).abs() < 1e-10, "{found} for {expected}");
}

#[test]
fn values_are_pytorchs() {
    // PyTorch 2 in f64, on the same formulas.
    let logits = || wide(&numbers(), SHAPE);
    close(cross_entropy(logits(), labels(false), None), 1.821_862_843_709);
    close(cross_entropy(logits(), labels(true), Some(255)), 1.714_172_498_543);
    close(smooth_l1(logits(), targets()), 1.091_719_666_760);
    close(cosine(logits(), targets()), 0.865_894_260_404);
    let mask = || wide(&masks(36), SHAPE);
    close(binary_cross_entropy(logits(), mask()), 0.893_843_711_032);
    let first = |map: Tensor<HostTrain, 4>| map.narrow(1, 0, 1);
    close(binary_cross_entropy_4m(first(logits()), first(mask())), 0.675_931_259_132);
}

#[test]
fn gradients_are_those_of_the_differences() {
    let at = numbers();
    check(|x| cross_entropy(x, labels(false), None), &at, SHAPE, 1e-7);
    check(|x| cross_entropy(x, labels(true), Some(255)), &at, SHAPE, 1e-7);
    check(|x| smooth_l1(x, targets()), &at, SHAPE, 1e-7);
    check(|x| cosine(x, targets()), &at, SHAPE, 1e-7);
    let (at, mask) = (&at[..18], masks(18));
    check(|x| binary_cross_entropy(x, wide(&mask, ONE)), at, ONE, 1e-7);
    check(|x| binary_cross_entropy_4m(x, wide(&mask, ONE)), at, ONE, 1e-7);
}

#[test]
fn large_logits_stay_finite() {
    let far: Vec<f64> = numbers().into_iter().map(|value| 1e4 * value).collect();
    let finite = |loss: &dyn Fn(Tensor<HostTrain, 4>) -> Tensor<HostTrain, 1>, values: &[f64], shape| {
        let leaf = wide(values, shape).require_grad();
        let loss = loss(leaf.clone());
        let gradients = loss.backward();
        let gradient = leaf.grad(&gradients).expect("the loss depends on its input").into_data();
        let gradient = gradient.to_vec::<f64>().expect("computed in f64");
        assert!(value(loss).is_finite() && gradient.iter().all(|value| value.is_finite()));
    };
    finite(&|x| cross_entropy(x, labels(true), Some(255)), &far, SHAPE);
    finite(&|x| binary_cross_entropy(x, wide(&masks(18), ONE)), &far[..18], ONE);
    finite(&|x| binary_cross_entropy_4m(x, wide(&masks(18), ONE)), &far[..18], ONE);
    finite(&|x| cosine(x, targets()), &[0.0; 36], SHAPE);
}

#[test]
fn what_is_ignored_has_no_gradient_and_all_ignored_is_zero() {
    let leaf = wide(&numbers(), SHAPE).require_grad();
    let gradients = cross_entropy(leaf.clone(), labels(true), Some(255)).backward();
    let gradient = leaf.grad(&gradients).expect("the loss depends on its input").into_data();
    let gradient = gradient.to_vec::<f64>().expect("computed in f64");
    for (i, value) in gradient.iter().enumerate() {
        let position = i / 18 * 6 + i % 6;
        assert_eq!(*value == 0.0, position.is_multiple_of(4), "{value} at {i}");
    }
    let all = Tensor::full([2, 2, 3], 255, &Default::default());
    close(cross_entropy(wide(&numbers(), SHAPE), all, Some(255)), 0.0);
}

#[test]
fn the_form_of_4m_has_a_floor() {
    let (sure, mask) = (vec![1e3; 18], vec![1.0; 18]);
    close(binary_cross_entropy(wide(&sure, ONE), wide(&mask, ONE)), 0.0);
    close(binary_cross_entropy_4m(wide(&sure, ONE), wide(&mask, ONE)), (1.0 + (-1.0_f64).exp()).ln());
}
