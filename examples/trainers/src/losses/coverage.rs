//! How far latents are from being spread as the codes are: a term that asks for the use of every code.
//!
//! Frozen codes, as VQGAN-LC's, cannot be moved to the latents where they are stale; latents can be moved to the codes. The
//! commitment term does that for codes that are used already. This one compares the two distributions.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use vq_kernels::rng::Rng;

use crate::params::host;

/// Directions of a step. They differ from step to step, so that few are enough.
const DIRECTIONS: usize = 64;

/// The squared sliced Wasserstein distance between `rows` `[n, d]` and as many of the `codes` `[k, d]`, drawn uniformly:
///
/// `mean over directions θ and ranks i of (⟨θ, x⟩₍ᵢ₎ − ⟨θ, e⟩₍ᵢ₎)²`,
///
/// with unit directions drawn uniformly, and both sides sorted (Rabin et al., "Wasserstein barycenter and its application
/// to texture mixing", 2011; Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015). It is a mean
/// square per dimension, as the commitment term is. `[1]`; its gradient passes to the rows alone. No rows or no codes: 0.
///
/// With `unit` both are compared by angle: rows are brought to unit length first, and codes have it.
pub fn sliced_wasserstein<B: Backend>(rows: Tensor<B, 2>, codes: &[f32], unit: bool, rng: &mut Rng) -> Tensor<B, 1> {
    let ([n, dim], device, dtype) = (rows.dims(), rows.device(), rows.dtype());
    if n == 0 || dim == 0 || codes.len() < dim {
        return Tensor::zeros([1], (&device, dtype));
    }
    let rows = match unit {
        true => rows.clone() / rows.square().sum_dim(1).add_scalar(f64::from(f32::MIN_POSITIVE)).sqrt(),
        false => rows,
    };
    let directions = directions(dim, rng);
    let drawn: Vec<&[f32]> = (0..n).map(|_| code(codes, dim, rng)).collect();
    let by_column = TensorData::new(directions.concat(), [DIRECTIONS, dim]);
    let along = rows.matmul(Tensor::<B, 2>::from_data(by_column, (&device, dtype)).transpose());

    // Each row's place among the rows is where its target stands among the codes.
    let values = host(along.clone());
    let mut targets = vec![0.0; values.len()];
    for (at, direction) in directions.iter().enumerate() {
        let mut order: Vec<usize> = (0..n).map(|row| row * DIRECTIONS + at).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        let mut sorted: Vec<f32> = drawn.iter().map(|code| dot(direction, code)).collect();
        sorted.sort_by(f32::total_cmp);
        order.into_iter().zip(sorted).for_each(|(place, target)| targets[place] = target);
    }
    let targets = Tensor::from_data(TensorData::new(targets, [n, DIRECTIONS]), (&device, dtype));
    (along - targets).square().mean()
}

/// Unit vectors, uniform on the sphere.
fn directions(dim: usize, rng: &mut Rng) -> Vec<Vec<f32>> {
    let mut direction = || {
        let drawn: Vec<f32> = (0..dim).map(|_| rng.normal()).collect();
        let length = dot(&drawn, &drawn).sqrt().max(f32::MIN_POSITIVE);
        drawn.into_iter().map(|x| x / length).collect()
    };
    (0..DIRECTIONS).map(|_| direction()).collect()
}

/// One of the codes, by lot.
fn code<'a>(codes: &'a [f32], dim: usize, rng: &mut Rng) -> &'a [f32] {
    let at = rng.below((codes.len() / dim) as u64) as usize * dim;
    &codes[at..at + dim]
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests;
