//! How well labels, masks, feature maps and vectors are reconstructed.

use crate::common::failure::Failure;

/// More classes than this are taken for mistyped numbers: their table of pairs is not needed, but a counter for each is.
const MOST_CLASSES: usize = 1 << 16;

/// Counts of right and wrong labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelScore {
    /// Of each class: pixels that have it, pixels that were given it, and pixels that have it and were given it.
    counts: Vec<[u64; 3]>,
}

impl LabelScore {
    /// Nothing counted yet of `classes` classes.
    ///
    /// # Errors
    /// Where there is no class, or an absurd number of them.
    pub fn new(classes: usize) -> Result<Self, Failure> {
        if !(1..=MOST_CLASSES).contains(&classes) {
            return Err(Failure::new(format!("labels have 1 to {MOST_CLASSES} classes, got {classes}")));
        }
        Ok(Self { counts: vec![[0; 3]; classes] })
    }

    /// Counts predicted labels beside true ones, but where the true one is `ignore`.
    ///
    /// # Errors
    /// Where the lengths differ or a label is beyond the classes, with nothing counted.
    pub fn add(&mut self, predicted: &[u32], labels: &[u32], ignore: Option<u32>) -> Result<(), Failure> {
        if predicted.len() != labels.len() {
            return Err(Failure::new(format!(
                "{} predicted labels cannot be compared with {} labels",
                predicted.len(),
                labels.len()
            )));
        }
        let classes = self.counts.len();
        let counted = || predicted.iter().zip(labels).filter(|(_, label)| Some(**label) != ignore);
        if let Some(beyond) = counted().flat_map(|(a, b)| [a, b]).find(|label| **label as usize >= classes) {
            return Err(Failure::new(format!("label {beyond} is beyond the {classes} classes")));
        }
        for (&predicted, &label) in counted() {
            self.counts[label as usize][0] += 1;
            self.counts[predicted as usize][1] += 1;
            self.counts[label as usize][2] += u64::from(predicted == label);
        }
        Ok(())
    }

    /// Pixels counted.
    pub fn pixels(&self) -> u64 {
        self.counts.iter().map(|[label, ..]| label).sum()
    }

    /// The share of pixels that are right; none where nothing was counted.
    pub fn accuracy(&self) -> Option<f64> {
        let right: u64 = self.counts.iter().map(|[.., right]| right).sum();
        (self.pixels() > 0).then(|| right as f64 / self.pixels() as f64)
    }

    /// The share of the most frequent label: what one gets by giving it to every pixel. None where nothing was counted.
    pub fn majority(&self) -> Option<f64> {
        let most = self.counts.iter().map(|[label, ..]| *label).max().unwrap_or(0);
        (self.pixels() > 0).then(|| most as f64 / self.pixels() as f64)
    }

    /// Mean intersection over union of the classes that occur or were predicted, each class once (Long et al. 2015, section 5);
    /// none where nothing was counted.
    pub fn mean_iou(&self) -> Option<f64> {
        let ratios = self.counts.iter().filter_map(|&[label, predicted, right]| {
            let union = label + predicted - right;
            (union > 0).then(|| right as f64 / union as f64)
        });
        mean(ratios)
    }
}

/// Intersection over union of two masks, values above `threshold` inside; 1 where both are empty.
///
/// # Errors
/// Where the lengths differ.
pub fn mask_iou(mask: &[f32], other: &[f32], threshold: f32) -> Result<f64, Failure> {
    same_length(mask, other)?;
    let inside = || mask.iter().zip(other).map(|(a, b)| (*a > threshold, *b > threshold));
    let union = inside().filter(|(a, b)| *a || *b).count();
    let both = inside().filter(|(a, b)| *a && *b).count();
    Ok(if union == 0 { 1.0 } else { both as f64 / union as f64 })
}

/// Mean cosine of the angle between the channels of each position of two maps `[channels, positions]`; a vector is a map of one position.
/// Between zeros and anything it is 0.
///
/// # Errors
/// Where the lengths differ or are no multiple of `channels`.
pub fn mean_cosine(map: &[f32], other: &[f32], channels: usize) -> Result<f64, Failure> {
    same_length(map, other)?;
    if channels == 0 || map.is_empty() || !map.len().is_multiple_of(channels) {
        return Err(Failure::new(format!("a map of {} values is not one of {channels} channels", map.len())));
    }
    let positions = map.len() / channels;
    let sum = |a: &[f32], b: &[f32], position: usize| -> f64 {
        let values = |of: &[f32], c: usize| f64::from(of[c * positions + position]);
        (0..channels).map(|c| values(a, c) * values(b, c)).sum()
    };
    let cosine = |position| {
        let length = (sum(map, map, position) * sum(other, other, position)).sqrt();
        if length > 0.0 { sum(map, other, position) / length } else { 0.0 }
    };
    Ok((0..positions).map(cosine).sum::<f64>() / positions as f64)
}

/// The losses that a mean can be measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// [`smooth_l1`](crate::losses::maps::smooth_l1).
    SmoothL1,
    /// Mean squared difference.
    L2,
    /// Mean absolute difference.
    L1,
    /// `1 −` [`mean_cosine`].
    Cosine,
}

impl Distance {
    /// Of two maps `[channels, positions]`.
    ///
    /// # Errors
    /// As [`mean_cosine`].
    pub fn of(self, map: &[f32], other: &[f32], channels: usize) -> Result<f64, Failure> {
        let each: fn(f64) -> f64 = match self {
            Self::Cosine => return Ok(1.0 - mean_cosine(map, other, channels)?),
            Self::SmoothL1 => |d| if d.abs() < 1.0 { d * d / 2.0 } else { d.abs() - 0.5 },
            Self::L2 => |d| d * d,
            Self::L1 => f64::abs,
        };
        same_length(map, other)?;
        let sum: f64 = map.iter().zip(other).map(|(&a, &b)| each(f64::from(a) - f64::from(b))).sum();
        Ok(sum / map.len().max(1) as f64)
    }
}

/// The mean of each channel over a training set, all positions alike: the best guess that sees nothing of a map.
///
/// A reconstruction's loss divided by this guess's says how much of what varies was kept: 1 is nothing, 0 everything. (The mean is the best
/// constant by squared difference alone; by the others the median or the mean direction may be a little better.)
#[derive(Clone, Debug, PartialEq)]
pub struct MeanPredictor {
    sums: Vec<f64>,
    positions: u64,
}

impl MeanPredictor {
    /// Nothing seen yet of maps of `channels` channels.
    pub fn new(channels: usize) -> Self {
        Self { sums: vec![0.0; channels], positions: 0 }
    }

    /// Takes in a map `[channels, positions]`.
    ///
    /// # Errors
    /// Where the length is no multiple of the channels or a value is not finite.
    pub fn add(&mut self, map: &[f32]) -> Result<(), Failure> {
        let positions = self.positions_of(map)?;
        if let Some(at) = map.iter().position(|value| !value.is_finite()) {
            return Err(Failure::new(format!("value {at} of a map is {}, not a finite number", map[at])));
        }
        for (sum, channel) in self.sums.iter_mut().zip(map.chunks_exact(positions.max(1))) {
            *sum += channel.iter().copied().map(f64::from).sum::<f64>();
        }
        self.positions += positions as u64;
        Ok(())
    }

    /// The means `[channels]`; zeros where nothing was seen.
    pub fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| sum / self.positions.max(1) as f64).collect()
    }

    /// The distance of a map `[channels, positions]` to the means at every position.
    ///
    /// # Errors
    /// Where the length is no multiple of the channels.
    pub fn distance(&self, map: &[f32], by: Distance) -> Result<f64, Failure> {
        let positions = self.positions_of(map)?;
        let guess: Vec<f32> =
            self.means().into_iter().flat_map(|mean| core::iter::repeat_n(mean as f32, positions)).collect();
        by.of(map, &guess, self.sums.len())
    }

    fn positions_of(&self, map: &[f32]) -> Result<usize, Failure> {
        let channels = self.sums.len();
        if channels == 0 || map.is_empty() || !map.len().is_multiple_of(channels) {
            return Err(Failure::new(format!("a map of {} values is not one of {channels} channels", map.len())));
        }
        Ok(map.len() / channels)
    }
}

/// The mean of what there is; none of nothing.
pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

fn same_length(a: &[f32], b: &[f32]) -> Result<(), Failure> {
    match a.len() == b.len() {
        true => Ok(()),
        false => Err(Failure::new(format!("maps of {} and of {} values cannot be compared", a.len(), b.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_counted_by_class() {
        let mut score = LabelScore::new(4).expect("classes");
        assert_eq!((score.accuracy(), score.mean_iou(), score.majority()), (None, None, None));
        // Class 0: 1 of 3 in the union; class 1: 2 of 4; class 2: 0 of 1, predicted only; class 3 does not occur.
        score.add(&[0, 1, 1, 1, 0, 2, 2], &[0, 0, 1, 1, 1, 1, 9], Some(9)).expect("labels");
        assert_eq!(score.pixels(), 6);
        assert_eq!((score.accuracy(), score.majority()), (Some(0.5), Some(4.0 / 6.0)));
        let iou = score.mean_iou().expect("classes that occur");
        assert!((iou - (1.0 / 3.0 + 2.0 / 5.0 + 0.0) / 3.0).abs() < 1e-12, "{iou}");
        let before = score.clone();
        assert!(score.add(&[0], &[4], None).expect_err("no class 4").to_string().contains("label 4"));
        assert!(score.add(&[0, 1], &[0], None).is_err());
        assert_eq!(score, before);
        assert!(LabelScore::new(0).is_err());
    }

    #[test]
    fn masks_overlap() {
        assert_eq!(mask_iou(&[1.0, 1.0, 0.0, 0.0], &[1.0, 0.0, 1.0, 0.0], 0.5).expect("masks"), 1.0 / 3.0);
        assert_eq!(mask_iou(&[0.0; 3], &[0.0; 3], 0.5).expect("masks"), 1.0);
        assert_eq!(mask_iou(&[0.0; 3], &[1.0; 3], 0.5).expect("masks"), 0.0);
        assert!(mask_iou(&[0.0; 3], &[0.0; 2], 0.5).is_err());
    }

    #[test]
    fn cosines_are_of_positions() {
        // Positions (1, 0), (0, 2), (0, 0) against (3, 0), (5, 0), (1, 1).
        let cosine = mean_cosine(&[1.0, 0.0, 0.0, 0.0, 2.0, 0.0], &[3.0, 5.0, 1.0, 0.0, 0.0, 1.0], 2).expect("maps");
        assert!((cosine - 1.0 / 3.0).abs() < 1e-12);
        assert!(mean_cosine(&[1.0; 5], &[1.0; 5], 2).is_err());
    }

    #[test]
    fn the_mean_predictor_has_the_loss_of_what_varies() {
        let mut predictor = MeanPredictor::new(2);
        predictor.add(&[1.0, 3.0, 10.0, 10.0]).expect("a map");
        predictor.add(&[2.0, 2.0, 10.0, 10.0]).expect("a map");
        assert_eq!(predictor.means(), [2.0, 10.0]);
        let map = [1.0, 5.0, 10.0, 10.0];
        // Differences 1, 3, 0, 0.
        for (by, expected) in [
            (Distance::L1, 1.0),
            (Distance::L2, 2.5),
            (Distance::SmoothL1, (0.5 + 2.5) / 4.0),
            (Distance::Cosine, 1.0 - mean_cosine(&map, &[2.0, 2.0, 10.0, 10.0], 2).expect("maps")),
        ] {
            assert!((predictor.distance(&map, by).expect("a map") - expected).abs() < 1e-12, "{by:?}");
        }
        assert!(predictor.add(&[1.0, f32::NAN]).is_err() && predictor.add(&[1.0; 3]).is_err());
        assert!(predictor.distance(&[], Distance::L1).is_err());
    }
}
