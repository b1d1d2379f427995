//! Curves over a common axis.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::Axis;
use super::{Canvas, GRID, INK, LABEL, MARGIN, colour, draw_head, save_svg, style, text_width};
use crate::common::failure::Failure;

/// How the axes run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LineOptions {
    /// A logarithmic x axis: points at 0 and below are left out.
    pub log_x: bool,
    /// A logarithmic y axis: points at 0 and below are left out.
    pub log_y: bool,
    /// The ends of the y axis, instead of those of the data: values beyond are drawn at the end.
    pub y_range: Option<(f64, f64)>,
}

const SIZE: (u32, u32) = (760, 460);

/// Few points are marked; many are a curve anyway.
const MOST_MARKS: usize = 24;

/// Draws named curves; points that are not finite are left out. Returns an error when no point is left.
pub fn lines_svg(
    path: &Path,
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[(&str, &[(f64, f64)])],
    options: LineOptions,
) -> Result<(), Failure> {
    let all = || series.iter().flat_map(|(_, points)| points.iter());
    let x_axis = Axis::new(all().map(|point| point.0), options.log_x, None);
    let y_axis = Axis::new(all().map(|point| point.1), options.log_y, options.y_range);
    let (Some(x_axis), Some(y_axis)) = (x_axis, y_axis) else {
        return Err(Failure::new(format!("cannot draw `{}`: no point that the axes can show", path.display())));
    };
    save_svg(path, SIZE, |canvas| {
        let names: Vec<&str> = series.iter().map(|(name, _)| *name).collect();
        let head = draw_head(canvas, title, &names)?;
        draw(canvas.margin(head, MARGIN, MARGIN, 2 * MARGIN), (x_axis, y_axis), (x_label, y_label), series)
            .map_err(|cause| cause.to_string())
    })
}

type Drawing = Result<(), Box<dyn core::error::Error>>;

fn draw(
    area: Canvas<'_>,
    (x_axis, y_axis): (Axis, Axis),
    (x_label, y_label): (&str, &str),
    series: &[(&str, &[(f64, f64)])],
) -> Drawing {
    let widest = y_axis.labels().iter().map(|label| text_width(label, LABEL)).max().unwrap_or(0);
    let (shows_x, shows_y) = (x_axis.clone(), y_axis.clone());
    let mut chart = ChartBuilder::on(&area)
        .x_label_area_size(2 * LABEL + 26)
        .y_label_area_size(widest + LABEL + 26)
        .build_cartesian_2d(x_axis, y_axis)
        .map_err(boxed)?;
    let label = style(LABEL, INK, HPos::Center, VPos::Center);
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .x_desc(x_label)
        .y_desc(y_label)
        .label_style(label.clone())
        .axis_desc_style(label)
        .draw()
        .map_err(boxed)?;
    for (index, (_, points)) in series.iter().enumerate() {
        let shown: Vec<(f64, f64)> =
            points.iter().copied().filter(|&(x, y)| shows_x.shows(x) && shows_y.shows(y)).collect();
        if shown.len() <= MOST_MARKS {
            chart
                .draw_series(shown.iter().map(|&point| Circle::new(point, 3, colour(index).filled())))
                .map_err(boxed)?;
        }
        chart.draw_series(LineSeries::new(shown, colour(index).stroke_width(2))).map_err(boxed)?;
    }
    Ok(())
}

/// Plotters' errors borrow the canvas; their text does not.
fn boxed(cause: impl core::error::Error) -> Box<dyn core::error::Error> {
    cause.to_string().into()
}
