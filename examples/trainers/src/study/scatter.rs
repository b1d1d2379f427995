//! Points in a plane, in SVG.

use std::path::Path;

use plotters::prelude::*;

use crate::common::failure::Failure;
use crate::common::plots::{Canvas, GRID, MARGIN, colour, draw_head, save_svg};
use crate::data::Permutation;

/// A point of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where.
    pub place: [f32; 2],
    /// Which series' colour it has.
    pub series: usize,
    /// A ring instead of a disc.
    pub hollow: bool,
}

/// Side of the square that the points lie in, pixels.
const SIDE: i32 = 640;

/// Radius of a point, pixels: many are drawn small.
fn radius(points: usize) -> i32 {
    if points > 1500 { 2 } else { 3 }
}

/// Draws points; those that are not finite are left out. Both axes have the same scale and no numbers, as on a map of
/// t-SNE only what is near what has a meaning. Points are drawn in mixed order, so that no series hides another.
///
/// # Errors
/// No point that can be drawn; a file that cannot be written.
pub fn scatter_svg(path: &Path, title: &str, series: &[&str], points: &[Point]) -> Result<(), Failure> {
    let finite = |point: &&Point| point.place.iter().all(|x| x.is_finite());
    let points: Vec<Point> = points.iter().filter(finite).copied().collect();
    let Some(frame) = Frame::around(&points) else {
        return Err(Failure::new(format!("cannot draw `{}`: no point of finite coordinates", path.display())));
    };
    // Room for a legend of so many lines at worst.
    let head = 60 + 24 * series.len() as i32;
    save_svg(path, ((SIDE + 2 * MARGIN) as u32, (SIDE + MARGIN + head) as u32), |canvas| {
        let top = draw_head(canvas, title, series)?;
        draw(canvas, &frame, &points, top + MARGIN / 2)
    })
}

fn draw(canvas: &Canvas<'_>, frame: &Frame, points: &[Point], top: i32) -> Result<(), String> {
    let border = Rectangle::new([(MARGIN, top), (MARGIN + SIDE, top + SIDE)], GRID);
    canvas.draw(&border).map_err(|cause| cause.to_string())?;
    let (order, radius) = (Permutation::new(points.len() as u64, 0), radius(points.len()));
    for i in 0..points.len() as u64 {
        let point = points[order.at(i) as usize];
        let [x, y] = frame.pixel(point.place, radius + 2);
        let style = match point.hollow {
            true => colour(point.series).stroke_width(1),
            false => colour(point.series).filled(),
        };
        canvas.draw(&Circle::new((MARGIN + x, top + y), radius, style)).map_err(|cause| cause.to_string())?;
    }
    Ok(())
}

/// The square around all points.
#[derive(Debug, PartialEq)]
struct Frame {
    middle: [f64; 2],
    width: f64,
}

impl Frame {
    fn around(points: &[Point]) -> Option<Self> {
        points.first()?;
        let ends: [(f64, f64); 2] = core::array::from_fn(|axis| {
            points
                .iter()
                .map(|point| f64::from(point.place[axis]))
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
        });
        let width = ends.iter().map(|(low, high)| high - low).fold(0.0, f64::max);
        Some(Self {
            middle: ends.map(|(low, high)| f64::midpoint(low, high)),
            width: if width > 0.0 { width } else { 1.0 },
        })
    }

    /// Pixels from the left and from the top of the square, at least `rim` from its edges.
    fn pixel(&self, place: [f32; 2], rim: i32) -> [i32; 2] {
        let scale = f64::from(SIDE - 2 * rim) / self.width;
        let along = |axis: usize| (f64::from(place[axis]) - self.middle[axis]) * scale;
        let half = f64::from(SIDE) / 2.0;
        [(half + along(0)).round() as i32, (half - along(1)).round() as i32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(x: f32, y: f32) -> Point {
        Point { place: [x, y], series: 0, hollow: false }
    }

    #[test]
    fn both_axes_have_one_scale() {
        let frame = Frame::around(&[point(-1.0, 0.0), point(3.0, 2.0)]).expect("two points");
        assert_eq!(frame, Frame { middle: [1.0, 1.0], width: 4.0 });
        assert_eq!(frame.pixel([-1.0, 1.0], 0), [0, SIDE / 2]);
        assert_eq!(frame.pixel([3.0, 2.0], 0), [SIDE, SIDE / 4]);
        assert_eq!(Frame::around(&[]), None);
        assert_eq!(Frame::around(&[point(2.0, 2.0)]).map(|frame| frame.width), Some(1.0));
    }

    #[test]
    fn discs_and_rings_are_drawn_and_nothing_else_is_taken() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a.svg");
        let points = [point(0.0, 0.0), Point { series: 1, hollow: true, ..point(1.0, 1.0) }, point(f32::NAN, 0.0)];
        scatter_svg(&path, "title", &["one", "two"], &points).expect("a picture");
        let svg = std::fs::read_to_string(&path).expect("the picture");
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
        assert!(scatter_svg(&path, "title", &["one"], &points[2..]).is_err());
    }
}
