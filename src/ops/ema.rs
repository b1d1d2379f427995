//! Counting: exact sums of rows per code, and moving averages over steps.
//!
//! [`Statistics`] are integers. A row `x` of weight `w` adds `w·x` to its code's sum, each term rounded
//! once (to even) to a multiple of `2^(E−40)`, and `w` to its code's weight in multiples of 2⁻⁴⁰. `E` is
//! 0 for unit rows, else fixed for the step from the largest magnitude ([`exponent`]). Integer addition
//! has no order: any number of threads, split of the batch or set of workers gives the same bits, and
//! [`Statistics::merge`] is exact. A code takes up to 2²² rows a step.
//!
//! Moving averages, in f64 and rounded once to f32 (van den Oord et al. 2017, appendix A.1):
//! `N ← βN + (1−β)n`, `m ← βm + (1−β)Σx`, code `m/N`, or its direction. What is kept is `N` and the
//! *mean* `m/N`, which decay leaves alone; so only touched codes are written, and an unused one keeps
//! its value instead of drifting to the origin. From `N = 0` the first hit makes the mean its own:
//! the average is corrected for its bias from step one.

use super::normalize::normalized_row;
use super::{check_codes, check_weights, weight};
use crate::NO_CODE;
use crate::cpu::{Cpu, Disjoint};
use crate::error::{Error, Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::simd::{Kernel, Lanes};

/// Fraction bits of a term: unit rows are rounded to multiples of 2⁻⁴⁰.
const FRACTION_BITS: i32 = 40;
/// The integer that stands for a weight of 1.
const ONE: i64 = 1 << FRACTION_BITS;
/// The most weight that a code takes, 2²²: then its sums, below 2⁶² each, cannot overflow.
const FULL: i64 = 1 << (FRACTION_BITS + 22);

/// The smallest `E` with `|x| ≤ 2^E` for every element of the rows that have a code and a weight;
/// −149 where all are zero. Rows with infinities or NaN are left out, as [`Statistics::accumulate`]
/// leaves them out. Workers take the largest of theirs.
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::Value`] for weights outside `0..=1`.
pub fn exponent(x: MatRef, codes: &[u32], weights: Option<&[f32]>) -> Result<i32> {
    const OP: &str = "exponent";
    same(OP, "number of row codes", x.rows(), codes.len())?;
    check_weights(OP, weights, x.rows())?;
    let mut largest = 0.0f32;
    for (row, &code) in codes.iter().enumerate() {
        if code != NO_CODE && weight(weights, row) > 0.0 {
            let row = x.row(row).iter().fold(0.0f32, |m, x| if x.abs() > m || x.is_nan() { x.abs() } else { m });
            if row.is_finite() && row > largest {
                largest = row;
            }
        }
    }
    if largest == 0.0 {
        return Ok(-149);
    }
    // largest = mantissa · 2^exponent with mantissa in [½, 1): ½ itself is the power below.
    let (mantissa, exponent) = libm::frexpf(largest);
    Ok(if mantissa == 0.5 { exponent - 1 } else { exponent })
}

/// Exact weights and sums per code; `S` is the storage: `&mut [i64]`, `Vec<i64>`.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics<S> {
    weights: S,
    sums: S,
    dim: usize,
    exponent: i32,
}

impl<S: AsRef<[i64]> + AsMut<[i64]>> Statistics<S> {
    /// Empty statistics in `weights` `[K]` and `sums` `[K, dim]`, for rows within ±2^`exponent`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths do not fit, [`Error::Empty`] for a `dim` of 0.
    pub fn new_in(mut weights: S, mut sums: S, dim: usize, exponent: i32) -> Result<Self> {
        let codes = weights.as_ref().len();
        if dim == 0 {
            return Err(Error::Empty { op: "statistics", arg: "dim" });
        }
        same("statistics", "length of sums", codes.saturating_mul(dim), sums.as_ref().len())?;
        weights.as_mut().fill(0);
        sums.as_mut().fill(0);
        Ok(Self { weights, sums, dim, exponent: exponent.clamp(-149, 128) })
    }

    /// Statistics that another process sent: its [`as_parts`](Self::as_parts), `dim` and exponent.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths do not fit, [`Error::Empty`] for a `dim` of 0,
    /// [`Error::Value`] for integers that no rows can give.
    pub fn from_parts(weights: S, sums: S, dim: usize, exponent: i32) -> Result<Self> {
        const OP: &str = "statistics";
        let codes = weights.as_ref().len();
        if dim == 0 {
            return Err(Error::Empty { op: OP, arg: "dim" });
        }
        same(OP, "length of sums", codes.saturating_mul(dim), sums.as_ref().len())?;
        if let Some(index) = weights.as_ref().iter().position(|n| !(0..=FULL).contains(n)) {
            return Err(Error::Value { op: OP, arg: "weights", index, expected: "0 to 2^62" });
        }
        // |w·x| ≤ w in units of 2^E, and rounding keeps the order.
        let of_code = |index: usize| weights.as_ref()[index / dim].unsigned_abs();
        let beyond = |(index, sum): (usize, &i64)| sum.unsigned_abs() > of_code(index);
        if let Some(index) = sums.as_ref().iter().enumerate().position(beyond) {
            return Err(Error::Value { op: OP, arg: "sums", index, expected: "magnitudes up to the code's weight" });
        }
        Ok(Self { weights, sums, dim, exponent: exponent.clamp(-149, 128) })
    }

    /// Weights `[K]` in multiples of 2⁻⁴⁰ and sums `[K, dim]` in multiples of `2^(E−40)`: what workers in
    /// other processes add up.
    pub fn as_parts(&self) -> (&[i64], &[i64]) {
        (self.weights.as_ref(), self.sums.as_ref())
    }

    /// Number of codes.
    pub fn codes(&self) -> usize {
        self.weights.as_ref().len()
    }

    /// The codes that were hit, ascending.
    pub fn hits(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(self.weights.as_ref()).filter(|(_, n)| **n > 0).map(|(k, _)| k)
    }

    /// Dimensions of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The `E` of the terms' unit `2^(E−40)`.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// Whether code `k` was hit.
    pub fn is_hit(&self, k: usize) -> bool {
        self.weights.as_ref().get(k).is_some_and(|&n| n > 0)
    }

    /// The weight of the rows that fell to code `k`: their number where there are no weights.
    pub fn weight(&self, k: usize) -> f64 {
        self.weights.as_ref().get(k).map_or(0.0, |&n| n as f64 / ONE as f64)
    }

    /// The weight of all rows.
    pub fn total(&self) -> f64 {
        // Exact: 2²⁴ codes of at most 2⁶² each could overflow i64, so high and low halves are summed apart.
        let halves =
            self.weights.as_ref().iter().fold((0i64, 0i64), |(h, l), &n| (h + (n >> 32), l + (n & 0xFFFF_FFFF)));
        let total = (i128::from(halves.0) << 32) + i128::from(halves.1);
        total as f64 / ONE as f64
    }

    /// `Σ w x_i` of the rows that fell to code `k`, for each dimension.
    pub fn sum(&self, k: usize) -> impl Iterator<Item = f64> {
        let unit = libm::ldexp(1.0, self.exponent - FRACTION_BITS);
        let at = k.saturating_mul(self.dim);
        let sums = self.sums.as_ref().get(at..at.saturating_add(self.dim)).unwrap_or(&[]);
        sums.iter().map(move |&s| s as f64 * unit)
    }

    /// Empties them again, for rows within ±2^`exponent`; only codes that were hit are written.
    pub fn clear(&mut self, exponent: i32) {
        self.exponent = exponent.clamp(-149, 128);
        let sums = self.sums.as_mut().chunks_exact_mut(self.dim);
        for (n, sum) in self.weights.as_mut().iter_mut().zip(sums) {
            if *n != 0 {
                *n = 0;
                sum.fill(0);
            }
        }
    }

    /// Makes room for rows within ±2^`exponent`, a larger one than before: sums as they stand are
    /// rounded once, to even, to the coarser unit. (For the same bits whatever the order, agree on the
    /// exponent first.)
    pub fn coarsen(&mut self, exponent: i32) {
        let exponent = exponent.clamp(self.exponent, 128);
        // i64 to f64 and back would round twice; i128 halves are exact.
        let shift = (exponent - self.exponent).min(100) as u32;
        for sum in self.sums.as_mut().iter_mut().filter(|sum| **sum != 0) {
            let (wide, half) = (i128::from(*sum), (1i128 << shift) >> 1);
            let floor = wide >> shift;
            let rest = wide - (floor << shift);
            *sum = (floor + i128::from(rest > half || (rest == half && half > 0 && floor & 1 == 1))) as i64;
        }
        self.exponent = exponent;
    }

    /// Adds the rows of `x` `[rows, dim]` to their `codes` `[rows]`, and returns how many rows with
    /// a code were left out for an infinity or NaN in them.
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ; [`Error::Value`] for weights outside `0..=1` or an
    /// element beyond ±2^`exponent`; [`Error::CodeOutOfRange`] for a code that does not exist;
    /// [`Error::Overflow`] where a code would take more than 2²² rows; all with nothing added.
    pub fn accumulate(&mut self, cpu: &Cpu, x: MatRef, codes: &[u32], weights: Option<&[f32]>) -> Result<usize> {
        const OP: &str = "accumulate";
        same(OP, "columns of x", self.dim, x.cols())?;
        check_codes(OP, x.rows(), codes, self.codes())?;
        check_weights(OP, weights, x.rows())?;
        if exponent(x, codes, weights)? > self.exponent {
            let limit = libm::ldexp(1.0, self.exponent);
            let counted = |row: usize| {
                codes[row] != NO_CODE && weight(weights, row) > 0.0 && x.row(row).iter().all(|x| x.is_finite())
            };
            let beyond =
                |row: usize| x.row(row).iter().position(|x| f64::from(x.abs()) > limit).map(|i| row * self.dim + i);
            let index = (0..x.rows()).filter(|&row| counted(row)).find_map(beyond).unwrap_or(0);
            return Err(Error::Value { op: OP, arg: "x", index, expected: "magnitudes up to 2^exponent" });
        }
        let (sums, row_weights) = (self.sums.as_mut(), self.weights.as_mut());
        cpu.isa().run(Accumulate { x, codes, weights, totals: row_weights, sums, exponent: self.exponent })
    }

    /// Adds another worker's statistics: exact, whatever the order of workers.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shapes differ, [`Error::Config`] where the exponents do,
    /// [`Error::Overflow`] where a code would take more than 2²² rows; all with nothing added.
    pub fn merge<T: AsRef<[i64]>>(&mut self, other: &Statistics<T>) -> Result<()> {
        const OP: &str = "merge";
        same(OP, "number of codes", self.codes(), other.weights.as_ref().len())?;
        same(OP, "dim", self.dim, other.dim)?;
        if self.exponent != other.exponent {
            return Err(Error::Config {
                field: "exponent",
                expected: "the same exponent in all workers: the largest of theirs",
            });
        }
        let pairs = self.weights.as_ref().iter().zip(other.weights.as_ref());
        if let Some(code) = pairs.into_iter().position(|(&a, &b)| a.saturating_add(b) > FULL) {
            return Err(Error::Overflow { op: OP, code: code as u32 });
        }
        self.weights.as_mut().iter_mut().zip(other.weights.as_ref()).for_each(|(a, b)| *a += b);
        self.sums.as_mut().iter_mut().zip(other.sums.as_ref()).for_each(|(a, b)| *a += b);
        Ok(())
    }
}

#[cfg(feature = "alloc")]
impl Statistics<alloc::vec::Vec<i64>> {
    /// Empty statistics of `codes × dim`, for rows within ±2^`exponent`.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::TooLarge`] as for a codebook of that shape.
    pub fn new(codes: usize, dim: usize, exponent: i32) -> Result<Self> {
        super::search::check_codebook("statistics", codes, dim)?;
        Self::new_in(alloc::vec![0; codes], alloc::vec![0; codes * dim], dim, exponent)
    }
}

#[cfg(feature = "alloc")]
impl Activity<alloc::vec::Vec<f32>, alloc::vec::Vec<f64>> {
    /// `codes` codes, all born now.
    pub fn new(codes: usize) -> Self {
        let averages = alloc::vec![0.0; codes];
        Self { cluster_size: averages.clone(), exposure: averages, last_seen: alloc::vec![0.0; codes], rows_seen: 0.0 }
    }
}

/// `value` rounded to an integer, to even; `|value| < 2⁵¹`.
#[inline(always)]
fn rounded(value: f64) -> i64 {
    // In [2⁵², 2⁵³) the spacing of f64 is 1: the addition rounds, and the low bits are the integer.
    const SHIFT: f64 = 1.5 * (1u64 << 52) as f64;
    (value + SHIFT).to_bits() as i64 - SHIFT.to_bits() as i64
}

/// The textbook loops of [`Statistics::accumulate`]: `weights` `[K]` and `sums` `[K, dim]` in the
/// units of the contract. The kernel differs from it only in the width of its registers.
///
/// # Panics
/// Where the extents differ.
pub fn reference(
    x: MatRef,
    codes: &[u32],
    row_weights: Option<&[f32]>,
    exponent: i32,
    weights: &mut [i64],
    sums: &mut [i64],
) {
    let x_dim = x.cols();
    for (row, &code) in codes.iter().enumerate() {
        let w = f64::from(weight(row_weights, row));
        if code == NO_CODE || w == 0.0 || !x.row(row).iter().all(|x| x.is_finite()) {
            continue;
        }
        weights[code as usize] += libm::rint(w * ONE as f64) as i64;
        for (i, &x) in x.row(row).iter().enumerate() {
            let term = libm::rint(w * f64::from(x) * libm::ldexp(1.0, FRACTION_BITS - exponent));
            sums[code as usize * x_dim + i] += term as i64;
        }
    }
}

struct Accumulate<'a> {
    x: MatRef<'a>,
    codes: &'a [u32],
    weights: Option<&'a [f32]>,
    totals: &'a mut [i64],
    sums: &'a mut [i64],
    exponent: i32,
}

impl Kernel for Accumulate<'_> {
    type Output = Result<usize>;
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) -> Result<usize> {
        let Self { x, codes, weights, totals, sums, exponent } = self;
        let dim = x.cols();
        // -- weights first: where a code is full, those of the rows before are taken back
        let (mut left_out, mut full) = (0, None);
        for (row, &code) in codes.iter().enumerate() {
            let w = weight(weights, row);
            if code == NO_CODE || w == 0.0 {
                continue;
            }
            if !x.row(row).iter().all(|x| x.is_finite()) {
                left_out += 1;
                continue;
            }
            let total = &mut totals[code as usize];
            if *total > FULL - ONE {
                full = Some((row, code));
                break;
            }
            *total += rounded(f64::from(w) * ONE as f64);
        }
        let counted = |row: usize| {
            let w = weight(weights, row);
            let usable = codes[row] != NO_CODE && w > 0.0 && x.row(row).iter().all(|x| x.is_finite());
            usable.then_some((codes[row] as usize, f64::from(w)))
        };
        if let Some((end, code)) = full {
            for (k, w) in (0..end).filter_map(counted) {
                totals[k] -= rounded(w * ONE as f64);
            }
            return Err(Error::Overflow { op: "accumulate", code });
        }
        // -- sums: w·x is exact in f64, and so is its product with a power of two: one rounding
        let unit = libm::ldexp(1.0, FRACTION_BITS - exponent);
        for row in 0..codes.len() {
            let Some((k, w)) = counted(row) else { continue };
            let scale = w * unit;
            let sum = &mut sums[k * dim..][..dim];
            sum.iter_mut().zip(x.row(row)).for_each(|(sum, &x)| *sum += rounded(f64::from(x) * scale));
        }
        Ok(left_out)
    }
}

pub(crate) fn check_decay(decay: f64) -> Result<()> {
    match (0.0..1.0).contains(&decay) {
        true => Ok(()),
        false => Err(Error::Config { field: "decay", expected: "a number from 0 up to but not including 1" }),
    }
}

/// Moves the mean of each hit code towards this step's rows; with `direction`, writes the mean's
/// direction there too (the cosine form). Codes that were not hit are not touched.
///
/// `mean` `[K, dim]` and `direction` `[K, dim]`; `cluster_size` `[K]` is `N` *before* this step
/// ([`Activity::observe`] moves it on). `a = βN`, `b = (1−β)n`, `mean ← (a·mean + (1−β)Σx) / (a + b)`,
/// in f64, rounded once. A mean of zero length leaves the direction as it is.
///
/// # Errors
/// [`Error::Shape`] where the extents differ; [`Error::Config`] for a decay outside `[0, 1)`.
pub fn update_means<S: AsRef<[i64]> + AsMut<[i64]> + Sync>(
    cpu: &Cpu,
    decay: f64,
    statistics: &Statistics<S>,
    cluster_size: &[f32],
    mut mean: MatMut,
    mut direction: Option<MatMut>,
) -> Result<()> {
    const OP: &str = "update_means";
    check_decay(decay)?;
    let (codes, dim) = (statistics.codes(), statistics.dim());
    same(OP, "length of cluster_size", codes, cluster_size.len())?;
    same(OP, "rows of mean", codes, mean.rows())?;
    same(OP, "columns of mean", dim, mean.cols())?;
    if let Some(direction) = &direction {
        same(OP, "rows of direction", codes, direction.rows())?;
        same(OP, "columns of direction", dim, direction.cols())?;
    }
    let mean = Disjoint::new(mean.data());
    let direction = direction.as_mut().map(|direction| Disjoint::new(direction.data()));
    cpu.divide(codes, 1024, &|first, count| {
        for k in (first..first + count).filter(|&k| statistics.is_hit(k)) {
            let (old, new) = (decay * f64::from(cluster_size[k]), (1.0 - decay) * statistics.weight(k));
            // SAFETY: `divide` gives every code to one part.
            let mean = unsafe { mean.range(k * dim, dim) };
            for (mean, sum) in mean.iter_mut().zip(statistics.sum(k)) {
                *mean = ((old * f64::from(*mean) + (1.0 - decay) * sum) / (old + new)) as f32;
            }
            if let Some(direction) = &direction {
                // SAFETY: as above.
                let direction = unsafe { direction.range(k * dim, dim) };
                cpu.isa().run(Direction { mean, direction });
            }
        }
    });
    Ok(())
}

/// [`normalize`](super::normalize()) of one row, kept as it is where the row has no direction.
struct Direction<'a> {
    mean: &'a [f32],
    direction: &'a mut [f32],
}

impl Kernel for Direction<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        if self.mean.iter().any(|&x| x != 0.0) {
            // SAFETY: V by `run`'s caller.
            unsafe { normalized_row::<V>(self.mean, self.direction) };
        }
    }
}

/// How much each code has been used of late: what restart judges by.
///
/// For each code `N` (`cluster_size`), the moving average of the weight that fell to it; `A`
/// (`exposure`), the same average of *all* rows' weight since the code was born; and `last_seen`, the
/// rows seen when it was last hit or born. `N / A` is the code's share, corrected for the bias of a
/// young average, whatever the batch sizes were; `1 / K` is a fair one.
#[derive(Clone, Debug, PartialEq)]
pub struct Activity<F, D> {
    /// `N` for each code, `[K]` f32.
    pub cluster_size: F,
    /// `A` for each code, `[K]` f32.
    pub exposure: F,
    /// Rows seen (by weight) when the code was last hit or born, `[K]` f64.
    pub last_seen: D,
    /// Rows seen so far, by weight.
    pub rows_seen: f64,
}

impl<F: AsRef<[f32]> + AsMut<[f32]>, D: AsRef<[f64]> + AsMut<[f64]>> Activity<F, D> {
    /// All codes born now, in storage for `K` codes each.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths differ.
    pub fn new_in(cluster_size: F, exposure: F, last_seen: D) -> Result<Self> {
        let mut activity = Self { cluster_size, exposure, last_seen, rows_seen: 0.0 };
        activity.check()?;
        activity.cluster_size.as_mut().fill(0.0);
        activity.exposure.as_mut().fill(0.0);
        activity.last_seen.as_mut().fill(0.0);
        Ok(activity)
    }

    /// One of each for every code.
    pub(crate) fn check(&self) -> Result<()> {
        let codes = self.cluster_size.as_ref().len();
        same("activity", "length of exposure", codes, self.exposure.as_ref().len())?;
        same("activity", "length of last_seen", codes, self.last_seen.as_ref().len())
    }

    /// Moves all averages on by one step: `N ← βN + (1−β)n`, `A ← βA + (1−β)M`, in f64, rounded to
    /// f32; below 2⁻¹⁰⁰ they become 0.
    ///
    /// # Errors
    /// [`Error::Shape`] where the number of codes differs; [`Error::Config`] for a decay outside `[0, 1)`.
    pub fn observe<S: AsRef<[i64]> + AsMut<[i64]>>(&mut self, decay: f64, statistics: &Statistics<S>) -> Result<()> {
        check_decay(decay)?;
        self.check()?;
        let (sizes, exposures) = (self.cluster_size.as_mut(), self.exposure.as_mut());
        same("observe", "number of codes", sizes.len(), statistics.codes())?;
        let total = statistics.total();
        self.rows_seen += total;
        let moved = |average: f32, value: f64| {
            const SMALLEST: f32 = f32::MIN_POSITIVE * (1 << 26) as f32;
            let moved = (decay * f64::from(average) + (1.0 - decay) * value) as f32;
            if moved < SMALLEST { 0.0 } else { moved }
        };
        exposures.iter_mut().for_each(|exposure| *exposure = moved(*exposure, total));
        let codes = sizes.iter_mut().zip(self.last_seen.as_mut()).zip(statistics.weights.as_ref());
        for ((size, last_seen), &n) in codes {
            *size = moved(*size, n as f64 / ONE as f64);
            if n > 0 {
                *last_seen = self.rows_seen;
            }
        }
        Ok(())
    }

    /// Code `k` is born now: its averages start anew.
    pub fn reset(&mut self, k: usize) {
        for average in [self.cluster_size.as_mut(), self.exposure.as_mut()] {
            average.get_mut(k).into_iter().for_each(|average| *average = 0.0);
        }
        self.last_seen.as_mut().get_mut(k).into_iter().for_each(|seen| *seen = self.rows_seen);
    }

    /// Code `k`'s share of the rows in units of a fair share (1 is average use); 0 before any step.
    pub fn relative_use(&self, k: usize) -> f64 {
        let (sizes, exposures) = (self.cluster_size.as_ref(), self.exposure.as_ref());
        match (sizes.get(k), exposures.get(k)) {
            (Some(&size), Some(&exposure)) if exposure > 0.0 => {
                f64::from(size) * sizes.len() as f64 / f64::from(exposure)
            }
            _ => 0.0,
        }
    }

    /// Hits that code `k` would have had since it was last hit or born, were all codes used alike.
    pub fn expected_hits(&self, k: usize) -> f64 {
        let last_seen = self.last_seen.as_ref();
        last_seen.get(k).map_or(0.0, |seen| (self.rows_seen - seen) / last_seen.len() as f64)
    }
}
