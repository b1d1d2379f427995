//! Axes with ticks at round numbers, linear or logarithmic.

use core::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// A range of values and how they are spread over the axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

/// At most so many ticks, so that their labels never touch.
const TICKS: f64 = 8.0;

impl Axis {
    /// An axis that shows all `values` it can (a logarithmic one none below 0), or the given range; `None` when there is nothing to show.
    pub fn new(values: impl Iterator<Item = f64>, log: bool, range: Option<(f64, f64)>) -> Option<Self> {
        let shown = |value: &f64| value.is_finite() && (!log || *value > 0.0);
        let fold = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let (low, high) = match range {
            Some((low, high)) => Some((low, high)).filter(|(low, high)| shown(low) && shown(high) && low < high)?,
            None => widen(values.filter(shown).fold((f64::INFINITY, f64::NEG_INFINITY), fold), log)?,
        };
        Some(Self { low, high, log })
    }

    /// Whether a value can be drawn.
    pub fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }

    /// The label of a tick.
    pub fn label(value: f64) -> String {
        let size = value.abs();
        let (scaled, unit) = match size {
            _ if size >= 1e9 => (value / 1e9, "G"),
            _ if size >= 1e6 => (value / 1e6, "M"),
            _ if size >= 1e3 => (value / 1e3, "k"),
            _ => (value, ""),
        };
        // Ticks are round, so six digits bring out nothing but rounding errors.
        let rounded = (scaled * 1e6).round() / 1e6;
        if size > 0.0 && size < 1e-4 { format!("{value:.0e}") } else { format!("{rounded}{unit}") }
    }

    /// The labels of all ticks.
    pub fn labels(&self) -> Vec<String> {
        self.ticks().into_iter().map(Self::label).collect()
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log && self.high / self.low >= 10.0 { self.decades() } else { self.rounds() }
    }

    /// Multiples of 1, 2 or 5 times a power of ten.
    fn rounds(&self) -> Vec<f64> {
        let coarse = (self.high - self.low) / TICKS;
        let power = 10_f64.powf(coarse.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|&step| step >= coarse).unwrap_or(coarse);
        let (first, last) = ((self.low / step - 1e-9).ceil(), (self.high / step + 1e-9).floor());
        // Bounded by TICKS + 1 for every finite range.
        (0..=TICKS as u32 + 1).map(|i| first + f64::from(i)).filter(|&i| i <= last).map(|i| i * step).collect()
    }

    /// Powers of ten; with 2 and 5 between them when there are few, and not all of them when there are many.
    fn decades(&self) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let every = ((f64::from(last - first) / TICKS).ceil() as usize).max(1);
        let digits: &[f64] = if self.high / self.low <= 100.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let all =
            (first..=last).step_by(every).flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)));
        all.filter(|&tick| tick >= self.low * (1.0 - 1e-9) && tick <= self.high * (1.0 + 1e-9)).collect()
    }

    fn place(&self, value: f64) -> f64 {
        if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }
}

/// Room around the data, also when all of it is one value.
fn widen((low, high): (f64, f64), log: bool) -> Option<(f64, f64)> {
    if low > high {
        return None;
    }
    Some(if log {
        let by = (high / low).powf(0.04).max(1.05);
        (low / by, high * by)
    } else {
        let by = ((high - low) * 0.04).max(high.abs().max(1e-9) * 0.005);
        // An axis that nearly starts at zero starts there.
        (if low >= 0.0 && low < 0.3 * high { 0.0 } else { low - by }, high + by)
    })
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        // Values beyond a given range run along the edge instead of over the title.
        let place = self.place(*value).clamp(0.0, 1.0);
        (f64::from(from) + place * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Plotters also asks for the points between the ticks, which would be too many lines here.
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        Self::label(*value)
    }
}
