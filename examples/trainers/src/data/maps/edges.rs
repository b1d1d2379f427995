//! Edges after Canny 1986, "A computational approach to edge detection".

/// Thresholds of strong and weak edges, of 4M and of OpenCV's examples, for |∂x| + |∂y| of Sobel's derivatives of grey values of 0 to 255.
pub(super) const THRESHOLDS: [f32; 2] = [100.0, 200.0];

/// tan 22.5°: between two directions that a gradient is rounded to.
const TAN: f32 = 0.414_213_57;

/// Whether each pixel of `grey` `[height, width]`, values of 0 to 255, is on an edge.
///
/// Blurred by the binomial filter of five (Gaussian of σ = 1), differentiated by Sobel's filter; a pixel is kept whose |∂x| + |∂y| is above `low`
/// and a maximum along the gradient, and which is above `high` or hangs together, over any of eight neighbours, with one that is. Values repeat
/// beyond the border. OpenCV's `Canny` is the same from the derivatives on; it does not blur.
pub fn canny(grey: &[f32], width: usize, height: usize, [low, high]: [f32; 2]) -> Vec<bool> {
    if width == 0 || height == 0 || grey.len() != width * height {
        return vec![false; grey.len()];
    }
    let image = Grid { width, height };
    let smooth = image.filter(&image.filter(grey, X, BINOMIAL), Y, BINOMIAL);
    let gx = image.filter(&image.filter(&smooth, X, SLOPE), Y, MEAN);
    let gy = image.filter(&image.filter(&smooth, Y, SLOPE), X, MEAN);
    let strength: Vec<f32> = gx.iter().zip(&gy).map(|(x, y)| x.abs() + y.abs()).collect();
    let maximal = |at: usize| {
        let (x, y) = (gx[at], gy[at]);
        let (dx, dy) = if y.abs() <= TAN * x.abs() {
            (1, 0)
        } else if x.abs() <= TAN * y.abs() {
            (0, 1)
        } else {
            (1, if (x < 0.0) == (y < 0.0) { 1 } else { -1 })
        };
        // One side strictly, so that of two equal neighbours one remains.
        strength[at] > image.at(&strength, at, -dx, -dy) && strength[at] >= image.at(&strength, at, dx, dy)
    };
    let candidates: Vec<bool> = (0..grey.len()).map(|at| strength[at] > low && maximal(at)).collect();
    let mut edges = vec![false; grey.len()];
    let mut open: Vec<usize> = (0..grey.len()).filter(|&at| candidates[at] && strength[at] > high).collect();
    open.iter().for_each(|&at| edges[at] = true);
    while let Some(at) = open.pop() {
        for (dx, dy) in [(-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)] {
            let next = image.place(at, dx, dy);
            if candidates[next] && !edges[next] {
                edges[next] = true;
                open.push(next);
            }
        }
    }
    edges
}

/// Five taps: the blur, and the two of Sobel's filter.
const BINOMIAL: [f32; 5] = [0.0625, 0.25, 0.375, 0.25, 0.0625];
const SLOPE: [f32; 5] = [0.0, -1.0, 0.0, 1.0, 0.0];
const MEAN: [f32; 5] = [0.0, 1.0, 2.0, 1.0, 0.0];

/// The step from pixel to pixel along an axis.
const X: [isize; 2] = [1, 0];
const Y: [isize; 2] = [0, 1];

struct Grid {
    width: usize,
    height: usize,
}

impl Grid {
    /// The pixel so many columns and rows further, or the last one before the border.
    fn place(&self, at: usize, dx: isize, dy: isize) -> usize {
        let column = (at % self.width).saturating_add_signed(dx).min(self.width - 1);
        let row = (at / self.width).saturating_add_signed(dy).min(self.height - 1);
        row * self.width + column
    }

    fn at(&self, values: &[f32], at: usize, dx: isize, dy: isize) -> f32 {
        values[self.place(at, dx, dy)]
    }

    /// Five taps along one axis.
    fn filter(&self, values: &[f32], [x, y]: [isize; 2], taps: [f32; 5]) -> Vec<f32> {
        let pixel = |at: usize| -> f32 {
            (-2..).zip(taps).map(|(i, tap): (isize, f32)| tap * self.at(values, at, i * x, i * y)).sum()
        };
        (0..values.len()).map(pixel).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| value(x, y)).collect()
    }

    fn edges(width: usize, height: usize, value: impl Fn(usize, usize) -> f32) -> Vec<bool> {
        canny(&picture(width, height, value), width, height, THRESHOLDS)
    }

    #[test]
    fn a_step_is_one_line() {
        for transposed in [false, true] {
            let found = edges(16, 16, |x, y| if (if transposed { y } else { x }) < 7 { 20.0 } else { 200.0 });
            let on = |a: usize, b: usize| found[if transposed { a * 16 + b } else { b * 16 + a }];
            for b in 0..16 {
                let line: Vec<usize> = (0..16).filter(|&a| on(a, b)).collect();
                assert!(line == [6] || line == [7], "{line:?}");
            }
        }
    }

    #[test]
    fn slanted_lines_are_thin_and_whole() {
        let found = edges(32, 32, |x, y| if x + y < 30 { 20.0 } else { 200.0 });
        let rows: Vec<usize> = found.chunks(32).map(|row| row.iter().filter(|&&edge| edge).count()).collect();
        assert!(rows[2..28].iter().all(|&count| (1..=2).contains(&count)), "{rows:?}");
    }

    #[test]
    fn weak_edges_stay_where_they_continue_strong_ones() {
        // A step that fades from 120 to 26 downwards, whose gradient is 2.5 times the step: 4 by Sobel, of which the blur leaves 5/8.
        let fading = |x: usize, y: usize| if x < 8 { 100.0 } else { 220.0 - 1.5 * y as f32 };
        let found = edges(16, 64, fading);
        let count = |range: core::ops::Range<usize>| range.filter(|&y| (0..16).any(|x| found[y * 16 + x])).count();
        assert_eq!(count(0..50), 50);
        // Alone, the lower part is too weak; and a faint step is no edge at all.
        let below = edges(16, 20, |x, _| if x < 8 { 100.0 } else { 160.0 });
        assert!(below.iter().all(|&edge| !edge), "a step of 60 is weak");
        assert!(edges(16, 16, |x, _| if x < 8 { 100.0 } else { 105.0 }).iter().all(|&edge| !edge));
        assert!(edges(9, 9, |_, _| 128.0).iter().all(|&edge| !edge));
    }

    #[test]
    fn strange_sizes_have_no_edges() {
        assert_eq!(canny(&[], 0, 3, THRESHOLDS), Vec::<bool>::new());
        assert_eq!(canny(&[255.0], 1, 1, THRESHOLDS), [false]);
        assert_eq!(canny(&[1.0, 2.0], 3, 1, THRESHOLDS), [false; 2]);
    }
}
