//! How well vectors of a known spectrum can be told in a number of bits.

use super::frechet::Frechet;
use super::singular::singular_values;
use crate::common::failure::Failure;

/// The variances of vectors along their principal components.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    variances: Vec<f64>,
}

impl Spectrum {
    /// Of the rows that were gathered: the eigenvalues of their covariance, which are its singular values.
    ///
    /// # Errors
    /// Where there are fewer than 2 rows.
    pub fn new(rows: &Frechet) -> Result<Self, Failure> {
        if rows.rows() < 2 {
            return Err(Failure::new(format!("a covariance takes at least 2 vectors, got {}", rows.rows())));
        }
        Ok(Self { variances: singular_values(rows.covariance(), rows.width(), rows.width()) })
    }

    /// The share of the variance that is lost, at best, when each vector is told in `bits` bits: the distortion–rate function of a Gaussian of this
    /// spectrum, by reverse water-filling (Cover and Thomas 2006, theorem 10.3.3): `D = Σ min(θ, σᵢ²)` where `bits = Σ max(0, ½ log₂(σᵢ² / θ))`.
    ///
    /// Among all distributions of one covariance the Gaussian needs the most bits. So vectors of another kind may be told better than this, and no
    /// code of single vectors tells Gaussian ones better.
    pub fn lost(&self, bits: f64) -> f64 {
        let total: f64 = self.variances.iter().sum();
        let largest = self.variances.iter().copied().fold(0.0, f64::max);
        if total <= 0.0 || bits <= 0.0 {
            return if total > 0.0 { 1.0 } else { 0.0 };
        }
        let rate = |level: f64| -> f64 {
            self.variances
                .iter()
                .filter(|&&variance| variance > level)
                .map(|variance| 0.5 * (variance / level).log2())
                .sum()
        };
        // The rate falls with the level: bisection on its logarithm, from where every bit is spent.
        let (mut low, mut high) = ((largest * 1e-30).ln(), largest.ln());
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if rate(middle.exp()) > bits { low = middle } else { high = middle }
        }
        let level = high.exp();
        self.variances.iter().map(|variance| variance.min(level)).sum::<f64>() / total
    }

    /// Mean cosine between vectors of length 1 and what is told of them at that loss: `√(1 − D)`, with `D` the lost share of the whole mean square,
    /// mean included, as the best guess `y` of `x` has `E[x·y] = E[y·y] = 1 − D`. Vectors are taken for equally long, as are their guesses.
    pub fn cosine(&self, mean: &[f64], bits: f64) -> f64 {
        let total: f64 = self.variances.iter().sum();
        let square = total + mean.iter().map(|value| value * value).sum::<f64>();
        if square > 0.0 { (1.0 - self.lost(bits) * total / square).max(0.0).sqrt() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_go_where_the_variance_is() {
        let spectrum = |variances: &[f64]| Spectrum { variances: variances.to_vec() };
        // One value: D = 2^(−2 R).
        for bits in [0.5, 1.0, 3.0] {
            assert!((spectrum(&[4.0]).lost(bits) - 2f64.powf(-2.0 * bits)).abs() < 1e-9, "{bits}");
        }
        // 16 and 1: two bits bring the first down to 1, two more both to 1/4.
        let both = spectrum(&[1.0, 16.0]);
        assert!((both.lost(2.0) - 2.0 / 17.0).abs() < 1e-9 && (both.lost(4.0) - 0.5 / 17.0).abs() < 1e-9);
        assert_eq!((both.lost(0.0), spectrum(&[0.0; 3]).lost(5.0)), (1.0, 0.0));
        // Mean 0: √(1 − D). Where nothing is told, the mean's own share.
        assert!((both.cosine(&[0.0; 2], 2.0) - (15.0_f64 / 17.0).sqrt()).abs() < 1e-9);
        assert!((both.cosine(&[0.0, 17.0_f64.sqrt()], 0.0) - 0.5_f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn the_spectrum_is_that_of_the_rows() {
        let mut rows = Frechet::new(2).expect("a width");
        rows.add(&[3.0, 4.0, -3.0, -4.0, 4.0, -3.0, -4.0, 3.0, 3.0, 4.0, -3.0, -4.0]).expect("rows");
        let mut variances = Spectrum::new(&rows).expect("a spectrum").variances;
        variances.sort_by(f64::total_cmp);
        // Four of six rows along (3, 4), two across, all 5 long; divided by 5, as the covariance is.
        assert!((variances[0] - 10.0).abs() < 1e-9 && (variances[1] - 20.0).abs() < 1e-9, "{variances:?}");
        assert!(Spectrum::new(&Frechet::new(2).expect("a width")).is_err());
    }
}
