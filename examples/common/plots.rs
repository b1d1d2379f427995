//! Results as pictures: line and bar charts in SVG, contact sheets in PNG.

mod axis;
mod bars;
mod lines;
mod sheet;

pub use bars::bars_svg;
pub use lines::{LineOptions, lines_svg};
pub use sheet::sheet_png;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

use super::failure::{At, Context, Failure};
use super::files::write_atomic;

/// Okabe and Ito's colours, which colour-blind people can tell apart; without the yellow, too pale on white.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(60, 60, 60),
];

/// Text, and the lines behind the data.
const INK: RGBColor = RGBColor(40, 40, 40);
pub(crate) const GRID: RGBColor = RGBColor(225, 225, 225);

/// Heights in pixels.
const TITLE: i32 = 18;
const LABEL: i32 = 14;
pub(crate) const MARGIN: i32 = 14;

pub(crate) type Canvas<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// The colour of a series; after the last one they come again, darker.
pub(crate) fn colour(series: usize) -> RGBColor {
    let RGBColor(red, green, blue) = COLOURS[series % COLOURS.len()];
    let darker = |channel: u8| channel >> (series / COLOURS.len()).min(7);
    RGBColor(darker(red), darker(green), darker(blue))
}

/// Draws in memory, then writes the file whole or not at all.
pub(crate) fn save_svg(
    path: &Path,
    size: (u32, u32),
    draw: impl FnOnce(&Canvas<'_>) -> Result<(), String>,
) -> Result<(), Failure> {
    let mut svg = String::new();
    let canvas = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let drawn = canvas
        .fill(&WHITE)
        .map_err(|cause| cause.to_string())
        .and_then(|()| draw(&canvas))
        .and_then(|()| canvas.present().map_err(|cause| cause.to_string()));
    drawn.context(|| format!("cannot draw `{}`", path.display()))?;
    drop(canvas);
    write_atomic(path, |file| file.write_all(svg.as_bytes()).at("write", path))
}

/// A text style; plotters' SVG divides the size by 1.24.
fn style(pixels: i32, colour: RGBColor, h: HPos, v: VPos) -> TextStyle<'static> {
    ("sans-serif", f64::from(pixels) * 1.24).into_font().color(&colour).pos(Pos::new(h, v))
}

/// About how wide a text will be: nobody knows which font the reader's program takes, so the estimate is that of a wide one.
fn text_width(text: &str, pixels: i32) -> i32 {
    (text.chars().count() as f64 * f64::from(pixels) * 0.6).ceil() as i32
}

/// Where each legend entry goes, `(x, line)`, in lines no wider than `width`.
fn legend_places(names: &[&str], width: i32) -> Vec<(i32, i32)> {
    let (mut x, mut line) = (0, 0);
    let place = |name: &&str| {
        let entry = SWATCH + text_width(name, LABEL) + 22;
        if x > 0 && x + entry > width {
            (x, line) = (0, line + 1);
        }
        let place = (x, line);
        x += entry;
        place
    };
    names.iter().map(place).collect()
}

/// Space for a legend's coloured mark.
const SWATCH: i32 = 26;

/// Draws the title and, for more than one series, the legend below it; returns the height that they take.
pub(crate) fn draw_head(canvas: &Canvas<'_>, title: &str, names: &[&str]) -> Result<i32, String> {
    let width = canvas.dim_in_pixel().0 as i32;
    let text =
        |text: &str, at, style: TextStyle<'_>| canvas.draw_text(text, &style, at).map_err(|cause| cause.to_string());
    let mut bold = style(TITLE, INK, HPos::Center, VPos::Top);
    bold.font = bold.font.style(FontStyle::Bold);
    text(title, (width / 2, MARGIN), bold)?;
    let top = MARGIN + TITLE + 12;
    if names.len() < 2 {
        return Ok(top);
    }
    let places = legend_places(names, width - 2 * MARGIN);
    let line_height = LABEL + 8;
    for (series, (name, (x, line))) in names.iter().zip(&places).enumerate() {
        let (x, y) = (MARGIN + x, top + line * line_height);
        let mark = Rectangle::new([(x, y + 3), (x + SWATCH - 8, y + LABEL - 2)], colour(series).filled());
        canvas.draw(&mark).map_err(|cause| cause.to_string())?;
        text(name, (x + SWATCH, y), style(LABEL, INK, HPos::Left, VPos::Top))?;
    }
    let lines = places.last().map_or(0, |(_, line)| line + 1);
    Ok(top + lines * line_height + 4)
}

#[cfg(test)]
mod tests;
