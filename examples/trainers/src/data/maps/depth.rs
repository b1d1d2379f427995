//! Distances: holes are filled, and each map gets a scale of its own.

use std::collections::VecDeque;

use super::stored::Scale;

/// Below this, a map is flat: 4M's constant under the root.
const EPSILON: f64 = 1e-6;

/// Gives every value that is not above 0 the nearest one that is, by steps to the four neighbours; nothing where none is known.
///
/// Of several as near, the one that comes first in raster order of the wave: the same on every machine.
pub(super) fn filled(mut values: Vec<f32>, width: usize) -> Option<Vec<f32>> {
    let mut wave: VecDeque<usize> = (0..values.len()).filter(|&at| values[at] > 0.0).collect();
    if wave.is_empty() {
        return None;
    }
    let mut known: Vec<bool> = values.iter().map(|&value| value > 0.0).collect();
    while let Some(at) = wave.pop_front() {
        let (column, value) = (at % width, values[at]);
        let left = (column > 0).then(|| at - 1);
        let right = (column + 1 < width).then(|| at + 1);
        for next in [at.checked_sub(width), left, right, Some(at + width)].into_iter().flatten() {
            if known.get(next) == Some(&false) {
                (known[next], values[next]) = (true, value);
                wave.push_back(next);
            }
        }
    }
    Some(values)
}

/// `(x − μ) / √(σ² + 10⁻⁶)` with the mean and the variance of all values but the lowest and the highest tenth, as 4M's tokenizers do it.
pub(super) fn standardised(values: &[f32]) -> (Vec<f32>, Scale) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let tenth = sorted.len() / 10;
    let middle = sorted.get(tenth..sorted.len() - tenth).unwrap_or_default();
    let count = middle.len().max(1) as f64;
    let mean = middle.iter().copied().map(f64::from).sum::<f64>() / count;
    let variance = middle.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
    let scale = Scale { mean: mean as f32, deviation: (variance + EPSILON).sqrt() as f32 };
    (values.iter().map(|&value| scale.apply(value)).collect(), scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_take_the_nearest_known_value() {
        let map = vec![
            1.0, 0.0, 0.0, 0.0, //
            0.0, 0.0, 0.0, 5.0, //
            0.0, 0.0, 0.0, 0.0,
        ];
        let filled = filled(map, 4).expect("known values");
        assert_eq!([filled[1], filled[4], filled[5]], [1.0; 3]);
        assert_eq!([filled[3], filled[6], filled[11]], [5.0; 3]);
        // As near to both: the first in raster order.
        assert_eq!((filled[2], filled[8]), (1.0, 1.0));
        assert_eq!(super::filled(vec![0.0; 6], 3), None);
        assert_eq!(super::filled(Vec::new(), 3), None);
    }

    #[test]
    fn scales_leave_out_the_extreme_tenths() {
        // Of 0, 1, …, 9 and of what takes the places of 0 and 9, the middle is 1 to 8.
        let values: Vec<f32> = [-900.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 500.0].to_vec();
        let (standardised, scale) = standardised(&values);
        assert_eq!(scale.mean, 4.5);
        assert!((scale.deviation - 5.25_f32.sqrt()).abs() < 1e-5, "{scale:?}");
        for (value, expected) in standardised.iter().zip(&values) {
            assert!((scale.undo(*value) - expected).abs() < 1e-3);
        }
        let (flat, scale) = super::standardised(&[2.0; 7]);
        assert!(flat.iter().all(|&value| value == 0.0) && (scale.deviation - 1e-3).abs() < 1e-6);
    }
}
