//! Gradients against finite differences, in f64.

use burn::tensor::{DType, Tensor, TensorData};

use crate::backend::HostTrain;

/// Half the distance of the two points of a difference.
const STEP: f64 = 1e-5;

/// How many of a tensor's values are moved.
const SAMPLES: usize = 40;

/// A tensor in f64.
pub(crate) fn wide<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<HostTrain, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&Default::default(), DType::F64))
}

/// The value of a scalar in f64.
pub(crate) fn value(scalar: Tensor<HostTrain, 1>) -> f64 {
    scalar.into_data().to_vec::<f64>().expect("computed in f64")[0]
}

/// Asserts that `loss`, computed in f64, has the gradient that its differences show, to `tolerance` of the largest.
pub(crate) fn check<const D: usize>(
    loss: impl Fn(Tensor<HostTrain, D>) -> Tensor<HostTrain, 1>,
    at: &[f64],
    shape: [usize; D],
    tolerance: f64,
) {
    let leaf = wide(at, shape).require_grad();
    let gradients = loss(leaf.clone()).backward();
    let gradient = leaf.grad(&gradients).expect("the loss depends on its input").into_data();
    let gradient = gradient.to_vec::<f64>().expect("computed in f64");
    let largest = gradient.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    assert!(largest > 0.0, "the gradient is zero everywhere");
    for index in (0..at.len()).step_by(at.len().div_ceil(SAMPLES)) {
        let moved = |step: f64| {
            let mut values = at.to_vec();
            values[index] += step;
            value(loss(wide(&values, shape)))
        };
        let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        assert!(
            (difference - gradient[index]).abs() <= tolerance * largest,
            "at {index}: the gradient is {}, the difference {difference}",
            gradient[index]
        );
    }
}
