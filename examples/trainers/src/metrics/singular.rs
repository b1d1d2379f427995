//! A matrix's singular values, and their sum.

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

/// The nuclear norm of `matrix` `[rows, columns]`, row-major: the sum of its [`singular_values`].
pub fn nuclear_norm(matrix: Vec<f64>, rows: usize, columns: usize) -> f64 {
    singular_values(matrix, rows, columns).iter().sum()
}

/// The singular values of `matrix` `[rows, columns]`, row-major, in no certain order: Householder reflections on both sides leave two diagonals
/// (Golub and Kahan 1965), whose singular values bisection finds; each is exact to rounding of the largest.
pub fn singular_values(mut matrix: Vec<f64>, rows: usize, columns: usize) -> Vec<f64> {
    if rows < columns {
        let at = |i: usize| matrix[i % rows * columns + i / rows];
        matrix = (0..rows * columns).map(at).collect();
        return singular_values(matrix, columns, rows);
    }
    if columns == 0 {
        return Vec::new();
    }
    let band = bidiagonal(&mut matrix, rows, columns);
    // The largest singular value is at most the largest sum of two neighbours.
    let bound = 2.0 * band.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    (0..columns).into_par_iter().map(|index| bisect(&band, index, bound)).collect()
}

/// Diagonal and superdiagonal in turn, `2 · columns − 1` values, of `rows ≥ columns`.
fn bidiagonal(matrix: &mut [f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut band = Vec::with_capacity(2 * columns - 1);
    for k in 0..columns {
        let below: Vec<f64> = (k..rows).map(|row| matrix[row * columns + k]).collect();
        let reflection = Reflection::of(below);
        band.push(reflection.length);
        let mut sums = vec![0.0; columns - k];
        for (row, factor) in matrix[k * columns..].chunks_exact(columns).zip(&reflection.normal) {
            sums.iter_mut().zip(&row[k..]).for_each(|(sum, value)| *sum += factor * value);
        }
        matrix[k * columns..].par_chunks_exact_mut(columns).zip(&reflection.normal).for_each(|(row, factor)| {
            let factor = reflection.scale * factor;
            row[k..].iter_mut().zip(&sums).for_each(|(value, sum)| *value -= factor * sum);
        });
        if k + 1 == columns {
            break;
        }
        let beside = matrix[k * columns + k + 1..(k + 1) * columns].to_vec();
        let reflection = Reflection::of(beside);
        band.push(reflection.length);
        matrix[(k + 1) * columns..].par_chunks_exact_mut(columns).for_each(|row| {
            let row = &mut row[k + 1..];
            let sum: f64 = row.iter().zip(&reflection.normal).map(|(value, factor)| value * factor).sum();
            let sum = sum * reflection.scale;
            row.iter_mut().zip(&reflection.normal).for_each(|(value, factor)| *value -= sum * factor);
        });
    }
    band
}

/// The reflection `x − scale · normal · (normalᵀ x)` that leaves only a vector's first value, of this length or its negative.
struct Reflection {
    normal: Vec<f64>,
    scale: f64,
    length: f64,
}

impl Reflection {
    fn of(mut vector: Vec<f64>) -> Self {
        let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        if let Some(first) = vector.first_mut() {
            // Away from the first value, so that nothing cancels.
            *first += length.copysign(*first);
        }
        let square: f64 = vector.iter().map(|value| value * value).sum();
        Self { normal: vector, scale: if square > 0.0 { 2.0 / square } else { 0.0 }, length }
    }
}

/// The `index`-th smallest singular value. The symmetric tridiagonal matrix with diagonal 0 and `band` beside it has the singular values and
/// their negatives as eigenvalues (Golub and Kahan 1965).
fn bisect(band: &[f64], index: usize, bound: f64) -> f64 {
    let (mut low, mut high) = (0.0, bound);
    // Each step gains one binary digit.
    for _ in 0..f64::MANTISSA_DIGITS + 2 {
        let middle = (low + high) / 2.0;
        if singular_values_below(band, middle) > index { high = middle } else { low = middle }
    }
    (low + high) / 2.0
}

/// Sylvester's law of inertia: negative pivots are eigenvalues below `x`. Half of all are the negatives, below any `x > 0`.
fn singular_values_below(band: &[f64], x: f64) -> usize {
    let (mut pivot, mut negative) = (-x, 1);
    for off in band {
        pivot = -x - off * off / pivot;
        if pivot == 0.0 {
            pivot = -f64::MIN_POSITIVE;
        }
        negative += usize::from(pivot < 0.0);
    }
    negative - band.len().div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::random::SplitMix64;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-13 * (1.0 + expected), "{found}, expected {expected}");
    }

    #[test]
    fn norms_that_are_known() {
        close(nuclear_norm(Vec::new(), 0, 5), 0.0);
        close(nuclear_norm(vec![0.0; 6], 2, 3), 0.0);
        close(nuclear_norm(vec![-3.0], 1, 1), 3.0);
        close(nuclear_norm(vec![3.0, 4.0], 1, 2), 5.0);
        close(nuclear_norm(vec![1.0, 0.0, 0.0, 0.0, -7.0, 0.0, 0.0, 0.0, 1e-9], 3, 3), 8.0 + 1e-9);
        // σ₁σ₂ = |det| = 2 and σ₁² + σ₂² = 30, so (σ₁ + σ₂)² = 34.
        close(nuclear_norm(vec![1.0, 2.0, 3.0, 4.0], 2, 2), 34.0f64.sqrt());
    }

    #[test]
    fn a_product_with_reflections_keeps_its_norm() {
        let mut random = SplitMix64::new(2);
        for (rows, columns) in [(9, 6), (6, 9), (30, 30)] {
            let mut vector = |n: usize| Reflection::of((0..n).map(|_| f64::from(random.uniform(-1.0, 1.0))).collect());
            let (left, right) = (vector(rows), vector(columns));
            let apply = |by: &Reflection, i: usize, j: usize| {
                f64::from(u8::from(i == j)) - by.scale * by.normal[i] * by.normal[j]
            };
            // Singular values 1, 1/2, 1/4, …, after the first few as good as zero.
            let rank = rows.min(columns);
            let entry = |i: usize, j: usize| -> f64 {
                (0..rank).map(|k| apply(&left, i, k) * 0.5f64.powi(k as i32) * apply(&right, k, j)).sum()
            };
            let matrix = (0..rows * columns).map(|at| entry(at / columns, at % columns)).collect();
            close(nuclear_norm(matrix, rows, columns), 2.0 - 0.5f64.powi(rank as i32 - 1));
        }
    }
}
