//! Structural similarity, at one scale and at several.

use super::Pair;

/// Wang, Bovik, Sheikh and Simoncelli 2004: a Gaussian window of 11 × 11 pixels with σ = 1.5, K₁ = 0.01, K₂ = 0.03, values in `0..=1`.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

/// Wang, Simoncelli and Bovik 2003: the weights of the scales, from the finest to the coarsest.
const WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// Similarity over several scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MsSsim {
    /// 1 for equal images, at least 0.
    pub value: f64,
    /// How many scales there was room for: 5, as published, from 176 pixels on. Say it wherever it is fewer.
    pub scales: usize,
}

impl Pair<'_> {
    /// SSIM, the mean over windows that lie inside the image and over R, G and B: 1 for equal images, at least −1.
    ///
    /// `(2 μₐμ_b + C₁)(2 σ_ab + C₂) / ((μₐ² + μ_b² + C₁)(σₐ² + σ_b² + C₂))` (2004, equation 13), as in `piq` up to 383 pixels, beyond which
    /// that library halves the image first. Where a side is below 11 pixels the window is as long as the side.
    pub fn ssim(&self) -> f64 {
        (0..3).map(|channel| similarity(&self.planes(channel)).full).sum::<f64>() / 3.0
    }

    /// MS-SSIM: `∏ contrast·structureⱼ^wⱼ`, with the luminance at the coarsest scale (2003, equation 7), per channel, then the mean of the three.
    ///
    /// Between scales 2 × 2 pixels become their mean (an odd line is dropped); a negative factor counts as 0. An image below 176 pixels has no
    /// room for five windows of 11: it gets as many of the finest scales as fit, with their weights scaled to sum 1.
    pub fn ms_ssim(&self) -> MsSsim {
        let room = |scales: &usize| (self.height.min(self.width) >> (scales - 1)) >= WINDOW;
        let scales = (1..=WEIGHTS.len()).rev().find(room).unwrap_or(1);
        let weights = &WEIGHTS[..scales];
        let total: f64 = if scales == WEIGHTS.len() { 1.0 } else { weights.iter().sum() };
        let of_channel = |channel| {
            let mut planes = self.planes(channel);
            let mut product = 1.0;
            for (scale, weight) in weights.iter().enumerate() {
                let found = similarity(&planes);
                let factor = if scale + 1 == scales { found.full } else { found.contrast_structure };
                product *= factor.max(0.0).powf(weight / total);
                planes = planes.map(|plane| plane.halved());
            }
            product
        };
        MsSsim { value: (0..3).map(of_channel).sum::<f64>() / 3.0, scales }
    }

    fn planes(&self, channel: usize) -> [Plane; 2] {
        self.channel(channel).map(|values| Plane { values, height: self.height, width: self.width })
    }
}

/// One channel of an image.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    pub values: Vec<f64>,
    pub height: usize,
    pub width: usize,
}

/// Means over all windows.
pub(super) struct Similarity {
    /// Luminance, contrast and structure.
    pub full: f64,
    /// Without the luminance.
    pub contrast_structure: f64,
}

/// The two factors of SSIM, from local means, variances and the covariance.
pub(super) fn similarity([a, b]: &[Plane; 2]) -> Similarity {
    let product = |left: &Plane, right: &Plane| {
        let values = left.values.iter().zip(&right.values).map(|(x, y)| x * y).collect();
        Plane { values, ..*left }.blurred()
    };
    let (mean_a, mean_b) = (a.blurred(), b.blurred());
    let (square_a, square_b, both) = (product(a, a), product(b, b), product(a, b));
    let (mut full, mut contrast_structure) = (0.0, 0.0);
    for (i, (ma, mb)) in mean_a.iter().zip(&mean_b).enumerate() {
        // Rounding may make a variance of 0 slightly negative.
        let (var_a, var_b) = ((square_a[i] - ma * ma).max(0.0), (square_b[i] - mb * mb).max(0.0));
        let cs = (2.0 * (both[i] - ma * mb) + C2) / (var_a + var_b + C2);
        contrast_structure += cs;
        full += cs * (2.0 * ma * mb + C1) / (ma * ma + mb * mb + C1);
    }
    let windows = mean_a.len() as f64;
    Similarity { full: full / windows, contrast_structure: contrast_structure / windows }
}

impl Plane {
    /// Gaussian means of all windows that lie inside.
    fn blurred(&self) -> Vec<f64> {
        let (down, across) = (gaussian(self.height), gaussian(self.width));
        let mut means = Vec::new();
        let mut column_means = vec![0.0; self.width];
        for top in 0..=self.height - down.len() {
            column_means.fill(0.0);
            let lines = self.values.chunks_exact(self.width).skip(top);
            for (weight, line) in down.iter().zip(lines) {
                column_means.iter_mut().zip(line).for_each(|(sum, value)| *sum += weight * value);
            }
            let window = |values: &[f64]| values.iter().zip(&across).map(|(value, weight)| value * weight).sum::<f64>();
            means.extend(column_means.windows(across.len()).map(window));
        }
        means
    }

    /// Means of 2 × 2 pixels.
    pub(super) fn halved(&self) -> Self {
        let (height, width) = (self.height / 2, self.width / 2);
        let at = |y: usize, x: usize| self.values[y * self.width + x];
        let mean = |i: usize| {
            let (y, x) = (i / width * 2, i % width * 2);
            (at(y, x) + at(y, x + 1) + at(y + 1, x) + at(y + 1, x + 1)) / 4.0
        };
        Self { values: (0..height * width).map(mean).collect(), height, width }
    }
}

/// The window along one axis of this length; its weights sum to 1.
fn gaussian(length: usize) -> Vec<f64> {
    let size = WINDOW.min(length);
    let middle = (size as f64 - 1.0) / 2.0;
    let weights: Vec<f64> = (0..size).map(|i| (-((i as f64 - middle) / SIGMA).powi(2) / 2.0).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::pair::tests::formula_images;
    use super::*;

    #[test]
    fn equal_images_are_fully_similar_at_every_size() {
        for (height, width, scales) in [(1, 1, 1), (3, 20, 1), (11, 11, 1), (22, 40, 2), (64, 64, 3), (176, 180, 5)] {
            let [a, _] = formula_images(height, width);
            let pair = Pair::new(&a, &a, height, width).expect("a pair");
            let many = pair.ms_ssim();
            assert!((pair.ssim() - 1.0).abs() < 1e-9 && (many.value - 1.0).abs() < 1e-9, "{height} x {width}");
            assert_eq!(many.scales, scales, "{height} x {width}");
        }
    }

    #[test]
    fn figures_are_those_of_an_independent_program() {
        // PyTorch in `f64` on the same formula: full two-dimensional windows by `conv2d`.
        for (height, width, ssim, ms_ssim) in GOLDEN {
            let [a, b] = formula_images(height, width);
            let pair = Pair::new(&a, &b, height, width).expect("a pair");
            assert!((pair.ssim() - ssim).abs() < 1e-9, "{height} x {width}: {}", pair.ssim());
            assert!((pair.ms_ssim().value - ms_ssim).abs() < 1e-9, "{height} x {width}: {:?}", pair.ms_ssim());
        }
    }

    const GOLDEN: [(usize, usize, f64, f64); 4] = [
        (8, 9, 0.8372147023, 0.8372147023),
        (33, 40, 0.9330880901, 0.9802725396797),
        (64, 64, 0.9452907602, 0.9881249909620),
        (180, 177, 0.9677628747, 0.9884512378195),
    ];

    #[test]
    fn an_image_and_its_negative_are_unlike() {
        let [a, _] = formula_images(32, 32);
        let negative: Vec<f32> = a.iter().map(|value| -value).collect();
        let pair = Pair::new(&a, &negative, 32, 32).expect("a pair");
        assert!(pair.ssim() < 0.0, "{}", pair.ssim());
        assert_eq!(pair.ms_ssim().value, 0.0);
    }

    /// The plane with 5 more pixels on each side: the source of a pixel outside, or none for black.
    #[cfg(feature = "metrics")]
    fn bordered(plane: &Plane, source: impl Fn(usize, usize) -> Option<usize>) -> Plane {
        const BORDER: usize = WINDOW / 2;
        let (height, width) = (plane.height + 2 * BORDER, plane.width + 2 * BORDER);
        let at = |i: usize| {
            let (y, x) = (source(i / width, plane.height)?, source(i % width, plane.width)?);
            Some(plane.values[y * plane.width + x])
        };
        Plane { values: (0..height * width).map(|i| at(i).unwrap_or(0.0)).collect(), height, width }
    }

    #[cfg(feature = "metrics")]
    fn mean_over_channels(size: usize, of: impl Fn([Plane; 2]) -> f64) -> f64 {
        let [a, b] = formula_images(size, size);
        let pair = Pair::new(&a, &b, size, size).expect("a pair");
        (0..3).map(|channel| of(pair.planes(channel))).sum::<f64>() / 3.0
    }

    /// SSIM of the two formula images with windows that reach 5 pixels into black.
    #[cfg(feature = "metrics")]
    pub fn with_black_border(size: usize) -> f64 {
        let inside = |i: usize, length: usize| i.checked_sub(5).filter(|&i| i < length);
        mean_over_channels(size, |planes| similarity(&planes.map(|plane| bordered(&plane, inside))).full)
    }

    /// MS-SSIM with windows that reach 5 pixels into the mirrored image, at each scale.
    #[cfg(feature = "metrics")]
    pub fn with_mirrored_border(size: usize) -> f64 {
        let mirrored = |i: usize, length: usize| {
            let i = i.abs_diff(5);
            Some(if i < length { i } else { 2 * (length - 1) - i })
        };
        mean_over_channels(size, |mut planes| {
            let mut product = 1.0;
            for (scale, weight) in WEIGHTS.iter().enumerate() {
                let found = similarity(&[0, 1].map(|i| bordered(&planes[i], mirrored)));
                product *= if scale == 4 { found.full } else { found.contrast_structure }.powf(*weight);
                planes = planes.map(|plane| plane.halved());
            }
            product
        })
    }
}
