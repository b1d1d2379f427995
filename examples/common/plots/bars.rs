//! Groups of bars with their values above them.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::Axis;
use super::{Canvas, GRID, INK, LABEL, MARGIN, colour, draw_head, save_svg, style, text_width};
use crate::common::failure::Failure;

/// Pixels: the size of the numbers above the bars, the widest bar where there is room, the least width of the picture, its height, and the
/// space between two groups.
const VALUE: i32 = 12;
const WIDEST_BAR: i32 = 56;
const LEAST_WIDTH: i32 = 520;
const HEIGHT: i32 = 440;
const GAP: i32 = 28;

/// Draws one group of bars for each name in `groups`; a series has one value per group, and a value that is not finite has no bar.
pub fn bars_svg(
    path: &Path,
    title: &str,
    y_label: &str,
    groups: &[&str],
    series: &[(&str, &[f64])],
) -> Result<(), Failure> {
    let refuse = |why: String| Failure::new(format!("cannot draw `{}`: {why}", path.display()));
    if let Some((name, values)) = series.iter().find(|(_, values)| values.len() != groups.len()) {
        return Err(refuse(format!("series `{name}` has {} values for {} groups", values.len(), groups.len())));
    }
    let values = || series.iter().flat_map(|(_, values)| values.iter().copied()).filter(|value| value.is_finite());
    // Bars tell by their length, so they start at zero; and above the highest there is room for its number.
    let ends = values().fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    let room = (ends.1 - ends.0) * 0.08;
    let low = if ends.0 < 0.0 { ends.0 - room } else { 0.0 };
    let axis = values().next().and_then(|_| Axis::new(core::iter::empty(), false, Some((low, ends.1 + room))));
    let axis = axis.ok_or_else(|| refuse("no value other than zero".into()))?;

    let widest = values().map(|value| text_width(&short(value), VALUE)).max().unwrap_or(0);
    let longest = groups.iter().map(|group| text_width(group, LABEL)).max().unwrap_or(0);
    let bar = (widest + 4).max((longest + 8 - GAP) / series.len().max(1) as i32).max(16);
    let left = axis.labels().iter().map(|label| text_width(label, LABEL)).max().unwrap_or(0) + 2 * LABEL + 24;
    let group = bar * series.len() as i32 + GAP;
    let needed = left + MARGIN + group * groups.len() as i32;
    let width = needed.max(LEAST_WIDTH).max(text_width(title, super::TITLE) + 2 * MARGIN);
    save_svg(path, (width as u32, HEIGHT as u32), |canvas| {
        let names: Vec<&str> = series.iter().map(|(name, _)| *name).collect();
        let top = draw_head(canvas, title, &names)?;
        let spread = f64::from(width - left - MARGIN) / groups.len() as f64;
        let bar = bar.max(((spread as i32 - GAP) / series.len() as i32).min(WIDEST_BAR));
        let frame =
            Frame { left, right: width - MARGIN, top: top + 4, bottom: HEIGHT - 2 * MARGIN - LABEL, axis: &axis };
        frame.draw_axis(canvas, y_label)?;
        for (index, name) in groups.iter().enumerate() {
            let middle = left + ((index as f64 + 0.5) * spread) as i32;
            canvas
                .draw_text(name, &style(LABEL, INK, HPos::Center, VPos::Top), (middle, frame.bottom + 8))
                .map_err(text)?;
            let bars =
                series.iter().enumerate().filter_map(|(s, (_, values))| values.get(index).map(|value| (s, *value)));
            for (s, value) in bars.filter(|(_, value)| value.is_finite()) {
                let x = middle + bar * s as i32 - bar * series.len() as i32 / 2;
                frame.draw_bar(canvas, (x, x + bar), value, colour(s))?;
            }
        }
        canvas.draw(&PathElement::new([(left, frame.y(0.0)), (frame.right, frame.y(0.0))], INK)).map_err(text)
    })
}

/// Where the bars are, in pixels.
struct Frame<'a> {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
    axis: &'a Axis,
}

impl Frame<'_> {
    fn y(&self, value: f64) -> i32 {
        self.axis.map(&value, (self.bottom, self.top))
    }

    fn draw_axis(&self, canvas: &Canvas<'_>, label: &str) -> Result<(), String> {
        for tick in self.axis.key_points(plotters::coord::ranged1d::BoldPoints(0)) {
            let y = self.y(tick);
            canvas.draw(&PathElement::new([(self.left, y), (self.right, y)], GRID)).map_err(text)?;
            canvas
                .draw_text(&Axis::label(tick), &style(LABEL, INK, HPos::Right, VPos::Center), (self.left - 8, y))
                .map_err(text)?;
        }
        let upright = style(LABEL, INK, HPos::Center, VPos::Center).transform(FontTransform::Rotate270);
        canvas.draw_text(label, &upright, (MARGIN + LABEL / 2, i32::midpoint(self.top, self.bottom))).map_err(text)
    }

    fn draw_bar(
        &self,
        canvas: &Canvas<'_>,
        (left, right): (i32, i32),
        value: f64,
        fill: RGBColor,
    ) -> Result<(), String> {
        let (end, zero) = (self.y(value), self.y(0.0));
        canvas
            .draw(&Rectangle::new([(left + 1, end.min(zero)), (right - 1, end.max(zero))], fill.filled()))
            .map_err(text)?;
        let (above, anchor) = if value < 0.0 { (end + 4, VPos::Top) } else { (end - 4, VPos::Bottom) };
        canvas
            .draw_text(&short(value), &style(VALUE, INK, HPos::Center, anchor), (i32::midpoint(left, right), above))
            .map_err(text)
    }
}

/// Three digits, as nobody reads more above a bar.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e3 => {
            let last_digit = 10_f64.powf(size.log10().floor() - 2.0);
            Axis::label((value / last_digit).round() * last_digit)
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.1e}"),
    }
}

fn text(cause: impl core::error::Error) -> String {
    cause.to_string()
}
