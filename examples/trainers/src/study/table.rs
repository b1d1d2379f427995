//! Tables as text, and where results go.

use std::path::Path;

use serde_json::Value;

use crate::common::failure::{At, Failure};
use crate::common::files::write_atomic;
use crate::common::terminal::print;
use crate::shell::write_json;

/// What stands where there is no figure.
pub const NONE: &str = "-";

/// Rows below their heads in aligned columns, the first one to the left.
pub fn text(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads: Vec<String> = heads.iter().map(|&head| head.to_owned()).collect();
    let lines = || core::iter::once(&heads).chain(rows);
    let width = |column: usize| lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines() {
        let mut out = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            out += &if column == 0 { format!("{cell:width$}") } else { format!("  {cell:>width$}") };
        }
        text += out.trim_end();
        text.push('\n');
    }
    text
}

/// A figure with so many decimals, where there is one.
pub fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.decimals$}"))
}

/// A share in per cent, where there is one.
pub fn percent(share: Option<f64>) -> String {
    figure(share.map(|share| 100.0 * share), 2)
}

/// A whole number with commas: 100,000.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let comma = |(place, digit): (usize, char)| {
        let comma = place > 0 && (digits.len() - place).is_multiple_of(3);
        comma.then_some(',').into_iter().chain(core::iter::once(digit))
    };
    digits.chars().enumerate().flat_map(comma).collect()
}

/// A name as part of a file's: letters, digits, and `_` for all else.
pub fn file_part(name: &str) -> String {
    let parts: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty()).collect();
    parts.join("_").to_lowercase()
}

/// Writes `NAME.json` and `NAME.txt` to `out`, and prints the one that is asked for.
///
/// # Errors
/// Where a file or standard output cannot be written.
pub fn finish(out: &Path, name: &str, text: &str, json: &Value, print_json: bool) -> Result<(), Failure> {
    write_json(&out.join(format!("{name}.json")), json)?;
    let path = out.join(format!("{name}.txt"));
    write_atomic(&path, |file| file.write_all(text.as_bytes()).at("write", &path))?;
    eprintln!("results       {}", out.display());
    match print_json {
        true => print(&json.to_string()),
        false => print(text.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["a", "1.5", "-"]), row(["long ä", "10.25", "7"])];
        assert_eq!(text(&["", "x", "y"], &rows), "            x  y\na         1.5  -\nlong ä  10.25  7\n");
    }

    #[test]
    fn numbers_and_names_are_as_people_write_them() {
        for (number, expected) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (16_384, "16,384"), (1_234_567, "1,234,567")]
        {
            assert_eq!(thousands(number), expected);
        }
        assert_eq!(
            (figure(Some(1.26), 1), figure(None, 1), percent(Some(0.5))),
            ("1.3".into(), "-".into(), "50.00".into())
        );
        assert_eq!(file_part("VQGAN-LC 1,024 (out/a)"), "vqgan_lc_1_024_out_a");
    }
}
