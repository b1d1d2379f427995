//! A few statistics.

use serde::Serialize;

/// A quantile of ascending values, interpolated between neighbours (R's type 7); `None` of no value.
pub fn quantile(ascending: &[f64], q: f64) -> Option<f64> {
    let last = ascending.len().checked_sub(1)?;
    let place = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (ascending[place.floor() as usize], ascending[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// The share of values of at most `limit`; `None` of no value.
pub fn share_within(values: &[f64], limit: f64) -> Option<f64> {
    let within = values.iter().filter(|&&value| value <= limit).count();
    (!values.is_empty()).then(|| within as f64 / values.len() as f64)
}

/// The smallest value; `None` of no value.
pub fn least(values: &[f64]) -> Option<f64> {
    values.iter().copied().min_by(f64::total_cmp)
}

/// A mean and how far values lie around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the sample (n − 1); `None` of one value.
    pub deviation: Option<f64>,
    /// Smallest.
    pub least: f64,
    /// Largest.
    pub largest: f64,
}

impl Spread {
    /// Of some values; `None` of no value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let (least, largest) = (least(values)?, values.iter().copied().max_by(f64::total_cmp)?);
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Some(Self { mean, deviation, least, largest })
    }

    /// `mean ± deviation` with so many decimals.
    pub fn text(&self, decimals: usize) -> String {
        match self.deviation {
            Some(deviation) => format!("{:.decimals$} ± {deviation:.decimals$}", self.mean),
            None => format!("{:.decimals$}", self.mean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [1.0, 2.0, 4.0, 8.0];
        for (q, expected) in [(0.0, 1.0), (1.0, 8.0), (0.5, 3.0), (0.25, 1.75), (2.0, 8.0)] {
            assert_eq!(quantile(&values, q), Some(expected), "{q}");
        }
        assert_eq!((quantile(&[5.0], 0.3), quantile(&[], 0.3)), (Some(5.0), None));
    }

    #[test]
    fn shares_include_the_limit() {
        let values = [3.0, 1.0, 2.0, f64::INFINITY];
        assert_eq!([1.0, 2.0, 9.0].map(|limit| share_within(&values, limit)), [Some(0.25), Some(0.5), Some(0.75)]);
        assert_eq!(share_within(&[], 1.0), None);
    }

    #[test]
    fn a_spread_is_that_of_a_sample() {
        let spread = Spread::of(&[1.0, 3.0, 2.0]).expect("values");
        assert_eq!(spread, Spread { mean: 2.0, deviation: Some(1.0), least: 1.0, largest: 3.0 });
        assert_eq!(spread.text(1), "2.0 ± 1.0");
        assert_eq!(Spread::of(&[4.0]).map(|spread| spread.text(2)), Some("4.00".into()));
        assert_eq!(Spread::of(&[]), None);
    }
}
