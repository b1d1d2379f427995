//! Charts hold what they were given, and refuse what they cannot show.

use std::fs;

use super::axis::Axis;
use super::*;
use crate::common::images::Rgb;

#[test]
fn ticks_are_round_and_few() {
    for (values, log, expected) in [
        ([0.0, 1.0], false, "0 0.2 0.4 0.6 0.8 1"),
        ([0.0, 97_000.0], false, "0 20k 40k 60k 80k 100k"),
        ([5.0, 5.0], false, "4.98 4.99 5 5.01 5.02"),
        ([1.0, 1e5], true, "1 10 100 1k 10k 100k"),
        ([3.0, 80.0], true, "5 10 20 50"),
        ([1e-6, 1e-3], true, "1e-6 1e-5 0.0001 0.001"),
    ] {
        let axis = Axis::new(values.into_iter(), log, None).expect("an axis");
        assert_eq!(axis.labels().join(" "), expected, "{values:?}");
    }
    for (values, log) in [([f64::NAN, f64::INFINITY], false), ([0.0, -1.0], true)] {
        assert_eq!(Axis::new(values.into_iter(), log, None), None);
    }
}

#[test]
fn legends_wrap_before_the_edge() {
    let places = legend_places(&["one", "a longer name", "three"], 240);
    assert_eq!(places.iter().map(|place| place.1).collect::<Vec<_>>(), [0, 0, 1]);
}

#[test]
fn charts_are_written_whole_or_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("chart.svg");
    assert!(lines_svg(&path, "t", "x", "y", &[("s", &[(f64::NAN, 1.0)])], LineOptions::default()).is_err());
    assert!(lines_svg(&path, "t", "x", "y", &[], LineOptions::default()).is_err());
    assert!(bars_svg(&path, "t", "y", &["a", "b"], &[("s", &[1.0])]).is_err());
    assert!(bars_svg(&path, "t", "y", &[], &[]).is_err());
    assert!(!path.exists());
    lines_svg(
        &path,
        "loss < 1 & more",
        "x",
        "y",
        &[("s", &[(1.0, 1.0), (2.0, f64::NAN), (3.0, 0.5)])],
        LineOptions::default(),
    )
    .expect("a chart");
    let svg = fs::read_to_string(&path).expect("the chart");
    assert!(svg.contains("loss &lt; 1 &amp; more") && svg.trim_end().ends_with("</svg>"));
    bars_svg(&path, "t", "y", &["a", "b"], &[("s", &[1.0, -2.0]), ("u", &[f64::NAN, 0.0])]).expect("a chart");
}

#[test]
fn sheets_keep_pixels_and_white_gutters() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("sheet.png");
    let picture = Rgb { name: String::new(), width: 2, height: 1, pixels: vec![0.0; 6] };
    sheet_png(&path, &[vec![&picture, &picture], vec![&picture]]).expect("a sheet");
    let sheet = image::open(&path).expect("a PNG").into_rgb8();
    assert_eq!(sheet.dimensions(), (6, 4));
    for (x, y, value) in [(0, 0, 0), (2, 0, 255), (4, 0, 0), (0, 1, 255), (1, 3, 0), (4, 3, 255)] {
        assert_eq!(sheet.get_pixel(x, y).0, [value; 3], "{x}, {y}");
    }
    assert!(sheet_png(&path, &[]).is_err());
}
