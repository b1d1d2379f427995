//! Two images to be compared, and their signal-to-noise ratio.

use crate::common::failure::Failure;

/// The PSNR of equal images: the mean squared error counts as at least 1e-10, so that averages stay finite.
pub const LARGEST_PSNR: f64 = 100.0;

/// ITU-R BT.601: luma of R, G, B in `0..=1`, from 16 (black) to 235 (white), of 255.
const LUMA: [f64; 3] = [65.481, 128.553, 24.966];
const BLACK: f64 = 16.0;

/// Two images `[3, height, width]` in `-1..=1`; they are compared as they would be shown, mapped to `0..=1` and cut to that range.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    images: [&'a [f32]; 2],
    pub(super) height: usize,
    pub(super) width: usize,
}

impl<'a> Pair<'a> {
    /// An image and its reconstruction; which is which does not matter.
    ///
    /// # Errors
    /// Where a length is not `3 · height · width`, there is no pixel, or a value is not a number.
    pub fn new(image: &'a [f32], other: &'a [f32], height: usize, width: usize) -> Result<Self, Failure> {
        let expected = height.checked_mul(width).and_then(|area| area.checked_mul(3)).filter(|&values| values > 0);
        for values in [image, other] {
            if Some(values.len()) != expected {
                return Err(Failure::new(format!(
                    "two images of 3 x {height} x {width} values (at least one pixel) can be compared, got {} values",
                    values.len()
                )));
            }
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                return Err(Failure::new(format!("value {at} of an image is {}, not a finite number", values[at])));
            }
        }
        Ok(Self { images: [image, other], height, width })
    }

    /// Both images' values of one channel, in `0..=1`.
    pub(super) fn channel(&self, channel: usize) -> [Vec<f64>; 2] {
        let area = self.height * self.width;
        self.images.map(|image| image[channel * area..(channel + 1) * area].iter().map(|&x| unit(x)).collect())
    }

    /// Mean of the squared differences of all values in `0..=1`.
    pub fn mse(&self) -> f64 {
        let [image, other] = self.images;
        let sum: f64 = image.iter().zip(other).map(|(&a, &b)| (unit(a) - unit(b)).powi(2)).sum();
        sum / image.len() as f64
    }

    /// Peak signal-to-noise ratio over R, G and B in dB: `−10 log₁₀ MSE`, at most [`LARGEST_PSNR`].
    pub fn psnr(&self) -> f64 {
        decibel(self.mse())
    }

    /// The same of the luma alone, BT.601 from 16 to 235 as in `pyiqa` (`test_y_channel`, `ycbcr`), which VQGAN-LC reports. Flat differences
    /// weigh `(255 / 219)²` less than in [`Self::psnr`]: grey images are 1.32 dB better.
    pub fn psnr_luma(&self) -> f64 {
        let area = self.height * self.width;
        let luma = |image: &[f32], at: usize| {
            let sum: f64 =
                LUMA.iter().enumerate().map(|(channel, weight)| weight * unit(image[channel * area + at])).sum();
            (BLACK + sum) / 255.0
        };
        let [image, other] = self.images;
        let sum: f64 = (0..area).map(|at| (luma(image, at) - luma(other, at)).powi(2)).sum();
        decibel(sum / area as f64)
    }
}

fn unit(value: f32) -> f64 {
    ((f64::from(value) + 1.0) / 2.0).clamp(0.0, 1.0)
}

fn decibel(mse: f64) -> f64 {
    (-10.0 * mse.log10()).min(LARGEST_PSNR)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two images that any program can make: values of 0 to 255 from integers, mapped to `-1..=1`.
    pub fn formula_images(height: usize, width: usize) -> [Vec<f32>; 2] {
        let at = |i: usize| (i / (height * width), i / width % height, i % width);
        let mapped = |value: usize| (value as f32) / 127.5 - 1.0;
        let base = |i: usize| {
            let (channel, y, x) = at(i);
            (x * 7 + y * 13 + channel * 29 + x * y / 8) % 256
        };
        let noise = |i: usize| {
            let (channel, y, x) = at(i);
            (x * 31 + y * 17 + channel * 5 + x * x * y) % 41
        };
        let values = 0..3 * height * width;
        [
            values.clone().map(|i| mapped(base(i))).collect(),
            values.map(|i| mapped((base(i) * 9 / 10 + noise(i)).min(255))).collect(),
        ]
    }

    #[test]
    fn equal_images_have_the_largest_ratio() {
        let [a, _] = formula_images(5, 4);
        let pair = Pair::new(&a, &a, 5, 4).expect("a pair");
        assert_eq!((pair.mse(), pair.psnr(), pair.psnr_luma()), (0.0, LARGEST_PSNR, LARGEST_PSNR));
    }

    #[test]
    fn a_known_difference_has_a_known_ratio() {
        // 0.2 in -1..=1 is 0.1 in 0..=1: 20 dB, and the luma's range is 219 of 255.
        let (a, b) = ([0.0f32; 12], [0.2f32; 12]);
        let pair = Pair::new(&a, &b, 2, 2).expect("a pair");
        assert!((pair.psnr() - 20.0).abs() < 1e-6);
        assert!((pair.psnr_luma() - 20.0 - 20.0 * (255.0f64 / 219.0).log10()).abs() < 1e-6);
    }

    #[test]
    fn values_beyond_the_range_are_cut() {
        let pair = [[1.0f32; 3], [7.0; 3]];
        assert_eq!(Pair::new(&pair[0], &pair[1], 1, 1).expect("a pair").mse(), 0.0);
    }

    #[test]
    fn figures_are_those_of_an_independent_program() {
        // NumPy on the same formula, `f64`.
        for (height, width, psnr, luma) in GOLDEN {
            let [a, b] = formula_images(height, width);
            let pair = Pair::new(&a, &b, height, width).expect("a pair");
            assert!((pair.psnr() - psnr).abs() < 1e-8, "{height} x {width}: {}", pair.psnr());
            assert!((pair.psnr_luma() - luma).abs() < 1e-8, "{height} x {width}: {}", pair.psnr_luma());
        }
    }

    const GOLDEN: [(usize, usize, f64, f64); 3] = [
        (8, 9, 23.9865636899, 26.5500331482),
        (33, 40, 24.2703832109, 27.2356245848),
        (180, 177, 24.3351031067, 27.2641926658),
    ];

    #[test]
    fn bad_images_are_refused() {
        let good = [0.0f32; 12];
        for (a, b, height, width, says) in [
            (&good[..], &good[..9], 2, 2, "got 9 values"),
            (&good[..], &good[..], 4, 4, "got 12 values"),
            (&[], &[], 0, 3, "at least one pixel"),
            (&good[..], &good[..], usize::MAX, 2, "got 12 values"),
            (&good[..], &[0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2, 2, "value 1"),
        ] {
            let message = Pair::new(a, b, height, width).err().map(|failure| failure.to_string()).unwrap_or_default();
            assert!(message.contains(says), "{message}");
        }
    }
}
