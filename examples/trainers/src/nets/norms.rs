//! Normalization layers and softmax, computed in f32 whatever the type of their input.
//!
//! In half precision a sum over a large feature map loses the values it sums; burn's own layers sum in the input's type.

use burn::module::{Module, Param};
use burn::nn::{BatchNorm, GroupNorm, Initializer};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorPrimitive, activation};

/// `(x − mean) / √(variance + ε) · γ + β` over the values of each group of an image (Wu and He 2018, eq. 1).
pub(super) fn group_norm<B: Backend>(norm: &GroupNorm<B>, x: Tensor<B, 4>) -> Tensor<B, 4> {
    let (dtype, [batch, channels, height, width]) = (x.dtype(), x.dims());
    let (groups, each, area) = (norm.num_groups, channels / norm.num_groups, height * width);
    let count = each * area;
    let x = to(DType::F32, x).reshape([batch * groups, count]);
    let centred = x.clone() - spread(sums(x).div_scalar(count as f64), count);
    let variance = sums(centred.clone() * centred.clone()).div_scalar(count as f64);
    let scale = (variance + norm.epsilon).sqrt().recip().reshape([batch, groups, 1]);
    // γ joins the scale of its group, which is small, before either meets the feature map.
    let scale = match &norm.gamma {
        Some(gamma) => scale * to(DType::F32, gamma.val()).reshape([1, groups, each]),
        None => scale.repeat_dim(2, each),
    };
    let y = centred.reshape([batch * channels, area]) * spread(scale.reshape([batch * channels, 1]), area);
    let y = match &norm.beta {
        Some(beta) => {
            let beta = to(DType::F32, beta.val()).reshape([1, channels]).repeat_dim(0, batch);
            y + spread(beta.reshape([batch * channels, 1]), area)
        }
        None => y,
    };
    to(dtype, y.reshape([batch, channels, height, width]))
}

/// The sums `[rows, 1]` of rows `[rows, columns]`, as a product with ones.
///
/// A product runs at the speed of memory in both directions of the pass, on every backend; burn-flex 0.21 broadcasts, which
/// the gradient of a sum does, some ten times slower, one element at a time.
pub(crate) fn sums<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let ones = Tensor::ones([x.dims()[1], 1], (&x.device(), x.dtype()));
    x.matmul(ones)
}

/// A column `[rows, 1]` as `[rows, columns]`, as a product with ones: see [`sums`].
pub(crate) fn spread<B: Backend>(column: Tensor<B, 2>, columns: usize) -> Tensor<B, 2> {
    let ones = Tensor::ones([1, columns], (&column.device(), column.dtype()));
    column.matmul(ones)
}

/// The same over each channel of the batch (Ioffe and Szegedy 2015, algorithm 1): with gradients by the batch's own mean and
/// variance, which move the running ones; without by the running ones.
///
/// As in PyTorch, the running variance is of n − 1; burn's own layer has n.
pub(super) fn batch_norm<B: Backend>(norm: &BatchNorm<B>, x: Tensor<B, 4>) -> Tensor<B, 4> {
    let (dtype, [batch, channels, height, width]) = (x.dtype(), x.dims());
    let count = batch * height * width;
    let x = to(DType::F32, x).reshape([batch, channels, height * width]);
    let row = |values: Tensor<B, 1>| to(DType::F32, values).reshape([1, channels, 1]);
    let (centred, variance) = if B::ad_enabled(&x.device()) {
        let mean = x.clone().mean_dim(2).mean_dim(0);
        let centred = x - mean.clone();
        let variance = centred.clone().square().mean_dim(2).mean_dim(0);
        let unbiased = variance.clone() * (count as f64 / count.saturating_sub(1).max(1) as f64);
        for (running, now) in [(&norm.running_mean, mean), (&norm.running_var, unbiased)] {
            let old = running.value_sync();
            let dtype = old.dtype();
            let moved = row(old) * (1.0 - norm.momentum) + now.detach() * norm.momentum;
            running.update(to(dtype, moved.reshape([channels]).detach()));
        }
        (centred, variance)
    } else {
        (x - row(norm.running_mean.value_sync()), row(norm.running_var.value_sync()))
    };
    let scale = row(norm.gamma.val()) / (variance + norm.epsilon).sqrt();
    to(dtype, (centred * scale + row(norm.beta.val())).reshape([batch, channels, height, width]))
}

/// The same over the last dimension, a token's channels (Ba et al. 2016).
#[derive(Module, Debug)]
pub struct LayerNorm<B: Backend> {
    /// Scale of each channel.
    pub gamma: Param<Tensor<B, 1>>,
    /// Shift of each channel.
    pub beta: Param<Tensor<B, 1>>,
    epsilon: f64,
}

impl<B: Backend> LayerNorm<B> {
    /// Of `dim` channels, with `epsilon` added to the variance.
    pub fn new(dim: usize, epsilon: f64, device: &B::Device) -> Self {
        let (gamma, beta) = (Initializer::Ones.init([dim], device), Initializer::Zeros.init([dim], device));
        Self { gamma, beta, epsilon }
    }

    /// The same shape, and the same type.
    pub fn forward<const D: usize>(&self, x: Tensor<B, D>) -> Tensor<B, D> {
        let dtype = x.dtype();
        let [gamma, beta] = [&self.gamma, &self.beta].map(|row| to(DType::F32, row.val()).into_primitive().tensor());
        let y = B::layer_norm(to(DType::F32, x).into_primitive().tensor(), gamma, Some(beta), self.epsilon);
        to(dtype, Tensor::from_primitive(TensorPrimitive::Float(y)))
    }
}

/// Softmax over the last dimension.
pub(super) fn softmax<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    let dtype = x.dtype();
    to(dtype, activation::softmax(to(DType::F32, x), D - 1))
}

/// The same values in another float type; nothing is done where it is theirs already.
pub(crate) fn to<B: Backend, const D: usize>(dtype: DType, x: Tensor<B, D>) -> Tensor<B, D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Host, HostTrain};
    use crate::params::{host, settle};
    use burn::nn::{BatchNormConfig, GroupNormConfig};
    use burn::tensor::TensorData;

    const SHAPE: [usize; 4] = [2, 4, 2, 3];

    fn input<B: Backend>() -> (Vec<f32>, Tensor<B, 4>) {
        let values: Vec<f32> = (0..48).map(|i| ((i * 37 % 48) as f32).sqrt() + 5.0).collect();
        (values.clone(), Tensor::from_data(TensorData::new(values, SHAPE), &Default::default()))
    }

    /// The values at `same` positions, normalized by their mean and variance.
    fn normalized(values: &[f32], at: usize, epsilon: f64, same: impl Fn(usize) -> bool) -> f32 {
        let of = |i: usize| f64::from(values[i]);
        let group: Vec<usize> = (0..values.len()).filter(|&i| same(i)).collect();
        let count = group.len() as f64;
        let mean = group.iter().map(|&i| of(i)).sum::<f64>() / count;
        let variance = group.iter().map(|&i| (of(i) - mean).powi(2)).sum::<f64>() / count;
        ((of(at) - mean) / (variance + epsilon).sqrt()) as f32
    }

    #[test]
    fn group_norm_is_its_definition() {
        let device = Default::default();
        let mut norm = GroupNormConfig::new(2, 4).with_epsilon(0.5).init::<Host>(&device);
        let (gamma, beta) = ([2.0_f32, 1.0, -1.0, 0.5], [0.0_f32, 1.0, 2.0, 3.0]);
        norm.gamma = Some(Param::from_data(gamma, &device));
        norm.beta = Some(Param::from_data(beta, &device));
        let (values, x) = input::<Host>();
        for (i, y) in host(group_norm(&norm, x)).into_iter().enumerate() {
            let channel = i / 6 % 4;
            let expected = gamma[channel] * normalized(&values, i, 0.5, |j| j / 12 == i / 12) + beta[channel];
            assert!((y - expected).abs() < 1e-5, "{y} for {expected}");
        }
    }

    #[test]
    fn batch_norm_is_its_definition_and_its_running_variance_pytorchs() {
        let norm = settle(BatchNormConfig::new(4).init::<HostTrain>(&Default::default()), 1);
        let (values, x) = input::<HostTrain>();
        for (i, y) in host(batch_norm(&norm, x)).into_iter().enumerate() {
            let expected = normalized(&values, i, 1e-5, |j| j / 6 % 4 == i / 6 % 4);
            assert!((y - expected).abs() < 1e-5, "{y} for {expected}");
        }
        let of = |channel: usize| (0..48).filter(move |i| i / 6 % 4 == channel).map(|i| f64::from(values[i]));
        let (means, variances) = (host(norm.running_mean.value_sync()), host(norm.running_var.value_sync()));
        for channel in 0..4 {
            let mean = of(channel).sum::<f64>() / 12.0;
            let variance = of(channel).map(|v| (v - mean).powi(2)).sum::<f64>() / 11.0;
            assert!((f64::from(means[channel]) - 0.1 * mean).abs() < 1e-6);
            assert!((f64::from(variances[channel]) - (0.9 + 0.1 * variance)).abs() < 1e-6);
        }
    }

    #[test]
    fn layer_norm_is_its_definition() {
        let norm = LayerNorm::<Host>::new(3, 0.25, &Default::default());
        let (values, x) = input::<Host>();
        for (i, y) in host(norm.forward(x)).into_iter().enumerate() {
            let expected = normalized(&values, i, 0.25, |j| j / 3 == i / 3);
            assert!((y - expected).abs() < 1e-5, "{y} for {expected}");
        }
    }

    #[test]
    fn half_precision_keeps_the_mean_of_many() {
        // 4096 values near 100: in f16 their sum is infinite.
        let device = Default::default();
        let values: Vec<f32> = (0..4096).map(|i| if i % 2 == 0 { 99.0 } else { 101.0 }).collect();
        let x = Tensor::<Host, 4>::from_data(TensorData::new(values, [1, 1, 64, 64]), (&device, DType::F16));
        let y = group_norm(&GroupNormConfig::new(1, 1).init(&device), x);
        assert_eq!(y.dtype(), DType::F16);
        for (i, y) in host(y).into_iter().enumerate() {
            assert!((y - if i % 2 == 0 { -1.0 } else { 1.0 }).abs() < 2e-3, "{y} at {i}");
        }
    }
}
