//! A feature network of our own with fixed random weights, for runs without a file of trained ones.
//!
//! Random convolutions keep edges, colours and textures apart without having learnt anything (Saxe et al. 2011; Ulyanov
//! et al. 2018), which is enough to exercise a training, and not LPIPS: reports say "random-features".

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::layers::{Channelwise, FrozenConv};
use crate::common::random::{SplitMix64, hash_name};

/// Its name in reports.
pub(super) const NAME: &str = "random-features";

/// Channels at 1, 1/2, 1/4, 1/8 and 1/16 of the input's size.
pub(super) const WIDTHS: [usize; 5] = [16, 32, 64, 96, 128];

/// Fixed for good: another one would be another distance.
const SEED: u64 = 1;

/// Biases are uniform in ± this: without any, features would not see the brightness of flat areas, as distances
/// compare directions.
const BIAS: f32 = 0.5;

/// Five convolutions 3 × 3 with ReLU, each but the first by steps of 2.
#[derive(Module, Debug)]
pub struct RandomFeatures<B: Backend> {
    input: Channelwise<B>,
    convs: Vec<FrozenConv<B>>,
}

impl<B: Backend> RandomFeatures<B> {
    /// The network: the same one at every call and on every machine.
    pub fn new(device: &B::Device) -> Self {
        let mut channels = 3;
        let mut convs = Vec::with_capacity(WIDTHS.len());
        for (at, width) in WIDTHS.into_iter().enumerate() {
            let name = format!("convs.{at}");
            let mut random = SplitMix64::new(hash_name(&name, SEED));
            // The first layer sees colours themselves; later ones only differences, as all their inputs are positive.
            let weight = orthogonal(width, channels * 9, at > 0, &mut random);
            let bias = (0..width).map(|_| random.uniform(-BIAS, BIAS)).collect();
            let stride = if at == 0 { 1 } else { 2 };
            convs.push(FrozenConv::new(&name, (weight, [width, channels, 3, 3]), bias, [stride, 1], device));
            channels = width;
        }
        Self { input: Channelwise::lpips(device), convs }
    }

    /// All five layers, after ReLU.
    pub(super) fn taps(&self, images: Tensor<B, 4>) -> Vec<Tensor<B, 4>> {
        let mut x = self.input.forward(images);
        let mut taps = Vec::with_capacity(self.convs.len());
        for conv in &self.convs {
            x = conv.relu(x);
            taps.push(x.clone());
        }
        taps
    }
}

/// Normal rows made orthogonal, `dim` at a time, of length √2, which keeps the scale through a ReLU (He et al. 2015).
fn orthogonal(rows: usize, dim: usize, centred: bool, random: &mut SplitMix64) -> Vec<f32> {
    // A centred row has one dimension less to be orthogonal in.
    let block = if centred { dim - 1 } else { dim };
    let mut matrix: Vec<Vec<f64>> = Vec::with_capacity(rows);
    while matrix.len() < rows {
        let mut row: Vec<f64> = (0..dim).map(|_| random.normal()).collect();
        if centred {
            let mean = row.iter().sum::<f64>() / dim as f64;
            row.iter_mut().for_each(|value| *value -= mean);
        }
        for other in &matrix[matrix.len() / block * block..] {
            let along = dot(&row, other);
            row.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
        }
        let length = dot(&row, &row).sqrt();
        // Almost never: a row that the others span is drawn again.
        if length > 1e-6 {
            row.iter_mut().for_each(|value| *value /= length);
            matrix.push(row);
        }
    }
    matrix.into_iter().flatten().map(|value| (value * 2_f64.sqrt()) as f32).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
