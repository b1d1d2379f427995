//! The distance between two sets of feature rows, each taken for a Gaussian.

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::singular::nuclear_norm;
use crate::common::failure::Failure;

/// Two matrices of this width take 1 GB; features are at most a few thousand wide.
const WIDEST: usize = 8192;
/// Rows that are accumulated at once: they stay in the cache while the matrix passes by.
const BLOCK: usize = 64;

/// Mean and covariance of feature rows, gathered batch by batch in `f64`.
///
/// How the rows are cut into batches changes nothing. The distance is named after the features: with those of Inception-v3 (`pool3`, 2048 wide)
/// it is the FID of Heusel et al. 2017; with any others it must not be called so.
#[derive(Clone, Debug)]
pub struct Frechet {
    width: usize,
    rows: u64,
    /// The first row: what is summed is the difference from it, so that a large mean costs no digits.
    shift: Vec<f64>,
    /// Sum of the differences.
    sum: Vec<f64>,
    /// Sum of their outer products; only `column ≥ row` is kept.
    products: Vec<f64>,
}

impl Frechet {
    /// No rows yet, each to have `width` values.
    ///
    /// # Errors
    /// Where `width` is 0 or absurd.
    pub fn new(width: usize) -> Result<Self, Failure> {
        if !(1..=WIDEST).contains(&width) {
            return Err(Failure::new(format!("features must be 1 to {WIDEST} wide, got {width}")));
        }
        Ok(Self { width, rows: 0, shift: Vec::new(), sum: vec![0.0; width], products: vec![0.0; width * width] })
    }

    /// Adds rows `[n, width]`.
    ///
    /// # Errors
    /// Where the length is no multiple of the width or a value is not finite, with nothing added.
    pub fn add(&mut self, rows: &[f32]) -> Result<(), Failure> {
        if !rows.len().is_multiple_of(self.width) {
            return Err(Failure::new(format!(
                "feature rows of {} values were expected, got {} values in all",
                self.width,
                rows.len()
            )));
        }
        if let Some(at) = rows.iter().position(|value| !value.is_finite()) {
            return Err(Failure::new(format!(
                "feature {} of row {} is {}",
                at % self.width,
                at / self.width,
                rows[at]
            )));
        }
        if self.shift.is_empty() {
            self.shift = rows.iter().take(self.width).copied().map(f64::from).collect();
        }
        for block in rows.chunks(BLOCK * self.width) {
            let shifted: Vec<f64> =
                block.iter().zip(self.shift.iter().cycle()).map(|(&value, shift)| f64::from(value) - shift).collect();
            for row in shifted.chunks_exact(self.width) {
                self.sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            // Each entry is summed row by row, whatever the number of threads.
            self.products.par_chunks_exact_mut(self.width).enumerate().for_each(|(i, sums)| {
                for row in shifted.chunks_exact(self.width) {
                    let factor = row[i];
                    sums[i..].iter_mut().zip(&row[i..]).for_each(|(sum, value)| *sum += factor * value);
                }
            });
        }
        self.rows += (rows.len() / self.width) as u64;
        Ok(())
    }

    /// How many rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// How many values each has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The mean row `[width]`; zeros without rows.
    pub fn mean(&self) -> Vec<f64> {
        let n = self.rows.max(1) as f64;
        self.sum.iter().enumerate().map(|(i, sum)| self.shift.get(i).unwrap_or(&0.0) + sum / n).collect()
    }

    /// The unbiased covariance `[width, width]` (division by `n − 1`); zeros below 2 rows.
    pub fn covariance(&self) -> Vec<f64> {
        let (n, width) = (self.rows as f64, self.width);
        if self.rows < 2 {
            return vec![0.0; width * width];
        }
        let entry = |at: usize| {
            let (i, j) = (at / width, at % width);
            let product = self.products[i.min(j) * width + i.max(j)];
            (product - self.sum[i] * self.sum[j] / n) / (n - 1.0)
        };
        (0..width * width).into_par_iter().map(entry).collect()
    }

    /// `‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½` (Fréchet 1957; Dowson and Landau 1982, equation 4), the squared distance that FID is.
    ///
    /// With `Σ₁ = A Aᵀ` and `Σ₂ = B Bᵀ` the last trace is the sum of the singular values of `Aᵀ B`: no matrix root is needed, and covariances
    /// of fewer rows than features, whose rank is deficient, are as exact as others. With few rows the distance itself is too large: compare
    /// only figures of equal numbers of rows. At a width of 512 it takes half a second, at 2,048 half a minute.
    ///
    /// # Errors
    /// Where the widths differ or a set has fewer than 2 rows.
    pub fn distance(&self, other: &Self) -> Result<f64, Failure> {
        if self.width != other.width {
            return Err(Failure::new(format!(
                "features of {} and of {} values cannot be compared: take both from one network",
                self.width, other.width
            )));
        }
        if let Some(few) = [self, other].into_iter().find(|set| set.rows < 2) {
            return Err(Failure::new(format!("a covariance takes at least 2 feature rows, got {}", few.rows)));
        }
        let means: f64 = self.mean().iter().zip(other.mean()).map(|(a, b)| (a - b) * (a - b)).sum();
        let covariances = [self.covariance(), other.covariance()];
        let traces: f64 = covariances.iter().map(|matrix| matrix.iter().step_by(self.width + 1).sum::<f64>()).sum();
        let [a, b] = covariances.map(|matrix| factor(&matrix, self.width));
        let shared = nuclear_norm(transposed_product(&a, &b), a.columns, b.columns);
        // Rounding may leave a little less than 0 of equal sets.
        Ok((means + traces - 2.0 * shared).max(0.0))
    }
}

/// A matrix `[rows, columns]`, row-major.
struct Factor {
    values: Vec<f64>,
    columns: usize,
}

/// `A` with `A Aᵀ = matrix` and as many columns as the matrix has rank (Cholesky with the largest pivot; Higham 1990).
fn factor(matrix: &[f64], n: usize) -> Factor {
    let mut values = vec![0.0; n * n];
    let mut left: Vec<f64> = matrix.iter().step_by(n + 1).copied().collect();
    let largest = left.iter().copied().fold(0.0, f64::max);
    let mut columns = 0;
    while columns < n {
        let Some((pivot, &most)) = left.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)) else { break };
        // What remains of the other rows is rounding.
        if most <= largest * n as f64 * f64::EPSILON {
            break;
        }
        let root = most.sqrt();
        let pivot_row = values[pivot * n..pivot * n + columns].to_vec();
        values.par_chunks_exact_mut(n).zip(&mut left).enumerate().for_each(|(i, (row, left))| {
            // Rows that were pivots are complete: their remainder is minus infinity, below.
            if left.is_finite() {
                let known: f64 = row.iter().zip(&pivot_row).map(|(x, y)| x * y).sum();
                row[columns] = if i == pivot { root } else { (matrix[i * n + pivot] - known) / root };
                *left -= row[columns] * row[columns];
            }
        });
        left[pivot] = f64::NEG_INFINITY;
        columns += 1;
    }
    let values = values.chunks_exact(n).flat_map(|row| row.iter().take(columns).copied()).collect();
    Factor { values, columns }
}

/// `aᵀ b`, `[a.columns, b.columns]`.
fn transposed_product(a: &Factor, b: &Factor) -> Vec<f64> {
    let mut product = vec![0.0; a.columns * b.columns];
    if !product.is_empty() {
        product.par_chunks_exact_mut(b.columns).enumerate().for_each(|(i, sums)| {
            for (left, right) in a.values.chunks_exact(a.columns).zip(b.values.chunks_exact(b.columns)) {
                sums.iter_mut().zip(right).for_each(|(sum, value)| *sum += left[i] * value);
            }
        });
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::random::SplitMix64;

    fn of(rows: &[f32], width: usize) -> Frechet {
        let mut set = Frechet::new(width).expect("a width");
        set.add(rows).expect("rows");
        set
    }

    fn uniform(count: usize, seed: u64) -> Vec<f32> {
        let mut random = SplitMix64::new(seed);
        (0..count).map(|_| random.uniform(-1.0, 1.0)).collect()
    }

    fn distance(a: &Frechet, b: &Frechet) -> f64 {
        let (there, back) = (a.distance(b).expect("a distance"), b.distance(a).expect("a distance"));
        assert!((there - back).abs() <= 1e-9 * (1.0 + there), "{there} there, {back} back");
        there
    }

    #[test]
    fn equal_sets_are_at_distance_zero_even_with_few_rows() {
        for (rows, width) in [(100, 5), (3, 20), (2, 7), (40, 1)] {
            let set = of(&uniform(rows * width, 4), width);
            assert!(distance(&set, &set) < 1e-12 * width as f64, "{rows} rows of {width}: {}", distance(&set, &set));
        }
    }

    #[test]
    fn a_shift_alone_is_the_squared_length_of_the_shift() {
        let rows = uniform(200 * 3, 1);
        let shifted: Vec<f32> = rows.iter().zip([1.0f32, 2.0, -2.0].iter().cycle()).map(|(x, d)| x + d).collect();
        assert!((distance(&of(&rows, 3), &of(&shifted, 3)) - 9.0).abs() < 1e-5);
    }

    #[test]
    fn diagonal_covariances_differ_by_their_deviations() {
        // Rows ±s on one axis each, m axes: the variance of axis i is 2 sᵢ² / (2 m − 1).
        let crosses = |scales: &[f32]| -> Vec<f32> {
            let axis = |i: usize| (0..scales.len()).map(move |j| if i == j { scales[i] } else { 0.0 });
            (0..scales.len()).flat_map(|i| axis(i).chain(axis(i).map(|x| -x))).collect()
        };
        let (a, b) = ([1.0f32, 2.0, 0.0, 4.0], [3.0f32, 2.0, 1.0, 0.5]);
        let expected: f64 = a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2) * 2.0 / 7.0).sum();
        assert!((distance(&of(&crosses(&a), 4), &of(&crosses(&b), 4)) - expected).abs() < 1e-10);
    }

    #[test]
    fn figures_are_those_of_an_independent_program() {
        // NumPy in `f64`, by the singular values of the product of the centred rows; values of 0 to 1 from integers.
        for (rows, width, expected) in GOLDEN {
            let value = |i: usize, step: usize| ((i * step + i * i % 71) % 97) as f32 / 96.0;
            let a: Vec<f32> = (0..rows * width).map(|i| value(i, 37)).collect();
            let b: Vec<f32> = (0..rows * width).map(|i| value(i, 53) * value(i, 53)).collect();
            let found = distance(&of(&a, width), &of(&b, width));
            assert!((found - expected).abs() < 1e-10 * expected, "{rows} rows of {width}: {found}");
        }
    }

    const GOLDEN: [(usize, usize, f64); 3] =
        [(50, 6, 0.239704304758), (5, 12, 1.833731070408), (12, 12, 1.284868326268)];

    #[test]
    fn batches_do_not_matter_and_a_large_mean_costs_no_digits() {
        let rows = uniform(150 * 4, 7);
        let whole = of(&rows, 4);
        let mut parts = Frechet::new(4).expect("a width");
        for part in [&rows[..4], &rows[4..4], &rows[4..400], &rows[400..]] {
            parts.add(part).expect("rows");
        }
        assert_eq!((parts.rows(), parts.mean(), parts.covariance()), (150, whole.mean(), whole.covariance()));
        let far: Vec<f32> = rows.iter().map(|x| (x * 64.0).round() / 64.0 + 8192.0).collect();
        let near: Vec<f32> = rows.iter().map(|x| (x * 64.0).round() / 64.0).collect();
        let difference = of(&far, 4)
            .covariance()
            .iter()
            .zip(of(&near, 4).covariance())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(difference < 1e-12, "{difference}");
    }

    #[test]
    fn bad_rows_are_refused() {
        assert!(Frechet::new(0).is_err() && Frechet::new(usize::MAX).is_err());
        let mut set = Frechet::new(3).expect("a width");
        assert!(set.add(&[0.0; 4]).is_err() && set.add(&[0.0, f32::INFINITY, 0.0]).is_err());
        assert_eq!(set.rows(), 0);
        set.add(&[1.0; 3]).expect("a row");
        let says = |result: Result<f64, Failure>| result.err().map(|failure| failure.to_string()).unwrap_or_default();
        assert!(says(set.distance(&set)).contains("at least 2 feature rows, got 1"));
        assert!(says(set.distance(&of(&[0.0; 8], 4))).contains("3 and of 4"));
    }
}
