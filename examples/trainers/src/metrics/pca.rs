//! What straight lines keep of vectors: the principal components of a training set, judged on held-out vectors.

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::frechet::Frechet;
use crate::common::failure::Failure;
use crate::common::random::SplitMix64;

/// Rounds of the iteration at most, and the share of the variance by which the last one may still gain.
const ROUNDS: usize = 300;
const GAIN: f64 = 1e-9;

/// The mean of a training set and the directions in which it varies most.
///
/// [`cosine`](Self::cosine) on held-out vectors is what a linear autoencoder of `rank` *real numbers* a vector reaches, the one that is best by squared
/// error on the training set (Eckart and Young 1936). It bounds, but for the difference between the two sets and between squared error and cosine,
/// every tokenizer whose decoder is linear in `rank` numbers, however many codes they are cut into. It does not bound tokenizers with deeper networks,
/// and says nothing about bits: real numbers have as many as one likes.
#[derive(Clone, Debug)]
pub struct Pca {
    mean: Vec<f64>,
    /// `[rank, width]`, orthonormal rows.
    directions: Vec<f64>,
    rank: usize,
    kept: f64,
}

impl Pca {
    /// The `rank` first principal components of the rows that were gathered, by orthogonal iteration (Golub and Van Loan 2013, section 8.2.4).
    ///
    /// # Errors
    /// Where the rank is 0 or above the width, or there are fewer than 2 rows.
    pub fn new(rows: &Frechet, rank: usize) -> Result<Self, Failure> {
        let width = rows.width();
        if !(1..=width).contains(&rank) {
            return Err(Failure::new(format!(
                "vectors of {width} values have 1 to {width} principal components, got {rank}"
            )));
        }
        if rows.rows() < 2 {
            return Err(Failure::new(format!("a covariance takes at least 2 vectors, got {}", rows.rows())));
        }
        let covariance = rows.covariance();
        let trace: f64 = covariance.iter().step_by(width + 1).sum();
        let mut random = SplitMix64::new(1);
        let mut directions: Vec<f64> = (0..rank * width).map(|_| f64::from(random.uniform(-1.0, 1.0))).collect();
        orthonormalize(&mut directions, width);
        let mut kept = 0.0;
        for _ in 0..ROUNDS {
            let mut next = vec![0.0; rank * width];
            next.par_chunks_exact_mut(width).zip(directions.par_chunks_exact(width)).for_each(|(next, direction)| {
                for (row, factor) in covariance.chunks_exact(width).zip(direction) {
                    next.iter_mut().zip(row).for_each(|(next, value)| *next += factor * value);
                }
            });
            let before = kept;
            kept = next.iter().zip(&directions).map(|(a, b)| a * b).sum();
            orthonormalize(&mut next, width);
            directions = next;
            if kept - before <= GAIN * trace {
                break;
            }
        }
        Ok(Self { mean: rows.mean(), directions, rank, kept: if trace > 0.0 { kept / trace } else { 1.0 } })
    }

    /// How many components.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The share of the training set's variance that they keep.
    pub fn kept(&self) -> f64 {
        self.kept
    }

    /// A vector's coordinates `[rank]` along the components, from the mean. They span what varies most, in no certain order among themselves where
    /// variances are alike.
    pub fn coordinates(&self, row: &[f32]) -> Vec<f64> {
        let centred: Vec<f64> = row.iter().zip(&self.mean).map(|(&value, mean)| f64::from(value) - mean).collect();
        self.directions.chunks_exact(self.mean.len()).map(|direction| dot(&centred, direction)).collect()
    }

    /// Mean cosine of the angle between vectors, rows `[n, width]`, and what the components keep of them, mean included.
    ///
    /// # Errors
    /// Where there is no row, or the length is no multiple of the width.
    pub fn cosine(&self, rows: &[f32]) -> Result<f64, Failure> {
        let width = self.mean.len();
        if rows.is_empty() || !rows.len().is_multiple_of(width) {
            return Err(Failure::new(format!(
                "vectors of {width} values were expected, got {} values in all",
                rows.len()
            )));
        }
        let cosine = |row: &[f32]| {
            let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
            let centred: Vec<f64> = row.iter().zip(&self.mean).map(|(value, mean)| value - mean).collect();
            let mut kept = self.mean.clone();
            for direction in self.directions.chunks_exact(width) {
                let along = dot(&centred, direction);
                kept.iter_mut().zip(direction).for_each(|(kept, value)| *kept += along * value);
            }
            let length = (dot(&row, &row) * dot(&kept, &kept)).sqrt();
            if length > 0.0 { dot(&row, &kept) / length } else { 0.0 }
        };
        Ok(rows.chunks_exact(width).map(cosine).sum::<f64>() / (rows.len() / width) as f64)
    }
}

/// Gram and Schmidt, twice, so that rounding leaves no slant; a row that the others span becomes zeros.
fn orthonormalize(rows: &mut [f64], width: usize) {
    for at in 0..rows.len() / width {
        let (before, rest) = rows.split_at_mut(at * width);
        let row = &mut rest[..width];
        let length = dot(row, row).sqrt();
        for _ in 0..2 {
            for other in before.chunks_exact(width) {
                let along = dot(row, other);
                row.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
            }
        }
        let left = dot(row, row).sqrt();
        let scale = if left > length * 1e-12 { left.recip() } else { 0.0 };
        row.iter_mut().for_each(|value| *value *= scale);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows whose variances along known directions are 9, 4, 1 and ¼ by turns, around a mean.
    fn rows(n: usize) -> Vec<f32> {
        let directions = [[0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, -0.5], [0.5, 0.5, -0.5, -0.5], [0.5, -0.5, -0.5, 0.5]];
        let deviations = [3.0, 2.0, 1.0, 0.5];
        // Signs of ±1, each direction's uncorrelated with the others'.
        let sign = |row: usize, k: usize| if row >> k & 1 == 0 { 1.0 } else { -1.0 };
        (0..n * 4)
            .map(|at| {
                let (row, c) = (at / 4, at % 4);
                let sum: f64 = (0..4).map(|k| sign(row, k) * deviations[k] * directions[k][c]).sum();
                (sum + [1.0, 0.0, 0.0, -2.0][c]) as f32
            })
            .collect()
    }

    fn gathered(rows: &[f32]) -> Frechet {
        let mut gathered = Frechet::new(4).expect("a width");
        gathered.add(rows).expect("rows");
        gathered
    }

    #[test]
    fn components_keep_the_largest_variances() {
        let rows = rows(160);
        let gathered = gathered(&rows);
        for (rank, kept) in [(1, 9.0), (2, 13.0), (3, 14.0), (4, 14.25)] {
            let pca = Pca::new(&gathered, rank).expect("a rank");
            assert_eq!(pca.rank(), rank);
            assert!((pca.kept() - kept / 14.25).abs() < 1e-7, "{rank}: {}", pca.kept());
        }
        // All components are all of the vector.
        assert!((Pca::new(&gathered, 4).expect("a rank").cosine(&rows).expect("rows") - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_cosine_is_that_of_the_projection() {
        let rows = rows(160);
        let pca = Pca::new(&gathered(&rows), 2).expect("a rank");
        let expected: f64 = rows
            .chunks_exact(4)
            .map(|row| {
                let x: Vec<f64> = row.iter().copied().map(f64::from).collect();
                let mean = [1.0, 0.0, 0.0, -2.0];
                let centred: Vec<f64> = x.iter().zip(mean).map(|(x, m)| x - m).collect();
                let a = dot(&centred, &[0.5; 4]);
                let b = dot(&centred, &[0.5, -0.5, 0.5, -0.5]);
                let y: Vec<f64> = (0..4).map(|c| mean[c] + 0.5 * a + if c % 2 == 0 { 0.5 } else { -0.5 } * b).collect();
                dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt()
            })
            .sum::<f64>()
            / 160.0;
        let found = pca.cosine(&rows).expect("rows");
        assert!((found - expected).abs() < 1e-4 && expected < 0.99, "{found} for {expected}");
    }

    #[test]
    fn vectors_on_a_line_need_one_component() {
        let line: Vec<f32> = (0..10).flat_map(|i| [i as f32, 2.0 * i as f32, 0.0, 1.0]).collect();
        let pca = Pca::new(&gathered(&line), 3).expect("a rank");
        assert!((pca.kept() - 1.0).abs() < 1e-9 && (pca.cosine(&line).expect("rows") - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let rows = rows(16);
        let gathered = gathered(&rows);
        assert!(Pca::new(&gathered, 0).is_err() && Pca::new(&gathered, 5).is_err());
        assert!(Pca::new(&Frechet::new(4).expect("a width"), 1).is_err());
        let pca = Pca::new(&gathered, 1).expect("a rank");
        assert!(pca.cosine(&[]).is_err() && pca.cosine(&rows[..3]).is_err());
    }
}
