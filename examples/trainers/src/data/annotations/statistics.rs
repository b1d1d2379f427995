//! Metadata that is computed from pixels.

use crate::common::images::Rgb;

/// The fields `width`, `height`, `brightness`, `contrast`, `saturation`, `colourfulness` and `entropy` of a picture; only sizes of an empty one.
///
/// Grey is the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B. Colourfulness is σ + 0.3 μ of the opponent colours R − G and (R + G) / 2 − B
/// (Hasler and Süsstrunk 2003, "Measuring colourfulness in natural images", M̂(3)), of values in `0..=1` instead of `0..=255`.
pub fn statistics(image: &Rgb) -> Vec<(String, f64)> {
    let mut fields = vec![("width", image.width as f64), ("height", image.height as f64)];
    let (pixels, _) = image.pixels.as_chunks::<3>();
    if !pixels.is_empty() {
        let pixels = || pixels.iter().map(|pixel| pixel.map(f64::from));
        let grey = |[r, g, b]: [f64; 3]| 0.299 * r + 0.587 * g + 0.114 * b;
        let saturation = |pixel: [f64; 3]| {
            let [low, high] = [pixel.into_iter().fold(1.0, f64::min), pixel.into_iter().fold(0.0, f64::max)];
            if high > 0.0 { (high - low) / high } else { 0.0 }
        };
        let (brightness, contrast) = mean_and_deviation(pixels().map(grey));
        let (red_green, red_green_spread) = mean_and_deviation(pixels().map(|[r, g, _]| r - g));
        let (yellow_blue, yellow_blue_spread) = mean_and_deviation(pixels().map(|[r, g, b]| 0.5 * (r + g) - b));
        let mut histogram = [0_u64; 256];
        for level in pixels().map(|pixel| (grey(pixel) * 255.0).round() as usize) {
            histogram[level.min(255)] += 1;
        }
        let count: u64 = histogram.iter().sum();
        let bits = |&n: &u64| if n > 0 { -(n as f64 / count as f64) * (n as f64 / count as f64).log2() } else { 0.0 };
        fields.extend([
            ("brightness", brightness),
            ("contrast", contrast),
            ("saturation", mean_and_deviation(pixels().map(saturation)).0),
            ("colourfulness", red_green_spread.hypot(yellow_blue_spread) + 0.3 * red_green.hypot(yellow_blue)),
            ("entropy", histogram.iter().map(bits).sum()),
        ]);
    }
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn mean_and_deviation(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    (mean, (values.map(|value| (value - mean) * (value - mean)).sum::<f64>() / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(pixels: &[f32], name: &str) -> f64 {
        let image = Rgb { name: "a".into(), width: pixels.len() / 3, height: 1, pixels: pixels.to_vec() };
        statistics(&image).into_iter().find(|(field, _)| field == name).expect("a field").1
    }

    #[test]
    fn values_are_those_of_the_formulas() {
        let (black, white, red, blue) = ([0.0; 3], [1.0; 3], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]);
        let two = [black, white].concat();
        for (name, expected) in
            [("width", 2.0), ("brightness", 0.5), ("contrast", 0.5), ("saturation", 0.0), ("entropy", 1.0)]
        {
            assert!((field(&two, name) - expected).abs() < 1e-6, "{name}: {}", field(&two, name));
        }
        assert_eq!(field(&two, "colourfulness"), 0.0);
        assert!((field(&[red, white].concat(), "saturation") - 0.5).abs() < 1e-6);
        // R − G: 1 and 0; (R + G) / 2 − B: 0.5 and −1. Means 0.5 and −0.25, deviations 0.5 and 0.75.
        let expected = (0.25_f64 + 0.5625).sqrt() + 0.3 * (0.25_f64 + 0.0625).sqrt();
        let found = field(&[red, blue].concat(), "colourfulness");
        assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
        assert_eq!(statistics(&Rgb { name: "e".into(), width: 0, height: 4, pixels: Vec::new() }).len(), 2);
    }
}
