//! Each f32 op against its own f64 reference, within a bound that follows from its contract.
//!
//! A bound is derived, never measured: n roundings of 2⁻²⁴ of what was rounded. What was observed is
//! printed (`--nocapture`), and a bound more than 1000 times what is observed fails, so that it
//! cannot rot. Inputs on a grid make every partial sum exact: then a chain must be exact as well.

mod golden_support;

use core::cell::Cell;

use golden_support::{UNIT, cpus, mat, mat_mut, wide};
use vq_kernels::ops::ema::{Activity, Statistics, exponent, update_means};
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Metric, PackedCodebook, ops};

/// How far above the largest observed error a bound may be.
const SLACK: f64 = 1000.0;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Data {
    Normal,
    /// Normal times a lognormal: a few elements outweigh the others.
    Lognormal,
    /// Uniform within 0..1: partial sums grow, nothing cancels.
    Positive,
    /// Multiples of 1/64 up to ±¼: products of two and their sums are exact.
    Grid,
}

impl Data {
    const ALL: [Self; 4] = [Self::Normal, Self::Lognormal, Self::Positive, Self::Grid];

    fn values(self, stream: u64, count: usize) -> Vec<f32> {
        let mut rng = Rng::new(11 + self as u64, stream);
        let value = |rng: &mut Rng| match self {
            Self::Normal => rng.normal(),
            Self::Lognormal => rng.normal() * (2.0 * rng.normal()).exp(),
            Self::Positive => rng.uniform() as f32,
            Self::Grid => (rng.below(33) as f32 - 16.0) / 64.0,
        };
        (0..count).map(|_| value(&mut rng)).collect()
    }
}

/// Observed errors in units of their bounds.
struct Tally {
    data: Data,
    /// Whether grid data have to be exact.
    exact_on_grid: bool,
    largest: f64,
    sum: f64,
    count: usize,
}

impl Tally {
    fn take(&mut self, got: f64, want: f64, bound: f64) {
        let bound = if self.exact_on_grid && self.data == Data::Grid { 0.0 } else { bound };
        let error = (got - want).abs();
        assert!(error <= bound, "{:?}: {got:e} against {want:e}, off by {error:e}, allowed {bound:e}", self.data);
        if bound > 0.0 {
            self.largest = self.largest.max(error / bound);
            self.sum += error / bound;
            self.count += 1;
        }
    }

    fn all(&mut self, got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64) {
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).enumerate().for_each(|(i, (&got, &want))| self.take(f64::from(got), want, bound(i)));
    }
}

/// Roundings of a sum of `terms` products over 32 lanes: a chain in each, and the tree.
fn lanes(terms: usize) -> f64 {
    terms.div_ceil(32) as f64 + 5.0
}

fn abs(values: &[f64]) -> Vec<f64> {
    values.iter().map(|x| x.abs()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn length(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// What `measure` observes over all data and instruction sets: a line of the table for each dimension.
fn observe(op: &str, exact_on_grid: bool, dims: &[usize], measure: impl Fn(&Cpu, usize, Data, &mut Tally)) {
    for &dim in dims {
        let (mut largest, mut sum, mut count) = (0.0f64, 0.0, 0);
        for data in Data::ALL {
            let mut tally = Tally { data, exact_on_grid, largest: 0.0, sum: 0.0, count: 0 };
            cpus().for_each(|cpu| measure(&cpu, dim, data, &mut tally));
            (largest, sum, count) = (largest.max(tally.largest), sum + tally.sum, count + tally.count);
        }
        println!("{op:24} {dim:5}: max {largest:.4}, mean {:.5} of the bound, {count} elements", sum / count as f64);
        assert!(largest * SLACK >= 1.0, "{op}, {dim}: the bound is {:.0} times what is observed", 1.0 / largest);
    }
}

const DIMS: [usize; 6] = [1, 5, 32, 33, 100, 257];

/// A chain of d fmas rounds d partial sums, each at most Σ|term|.
#[test]
fn project_is_within_a_rounding_for_each_input() {
    observe("project", true, &[1, 5, 33, 768], |cpu, inputs, data, tally| {
        let (rows, outputs) = (13, 9);
        let (x, w, b) = (data.values(1, rows * inputs), data.values(2, outputs * inputs), data.values(3, outputs));
        let exact = |x: &[f64], w: &[f64], b: &[f64]| {
            let mut y = vec![0.0; rows * outputs];
            ops::project::reference(mat(x, inputs), mat(w, inputs), Some(b), &mut y);
            y
        };
        let want = exact(&wide(&x), &wide(&w), &wide(&b));
        let sums = exact(&abs(&wide(&x)), &abs(&wide(&w)), &abs(&wide(&b)));
        let mut y = vec![0.0; want.len()];
        ops::project(cpu, mat(&x, inputs), mat(&w, inputs), Some(&b), mat_mut(&mut y, outputs)).unwrap();
        tally.all(&y, &want, |i| (inputs + 1) as f64 * UNIT * sums[i]);
    });
}

#[test]
fn project_backward_input_is_within_a_rounding_for_each_output() {
    observe("project_backward_input", true, &DIMS, |cpu, outputs, data, tally| {
        let (rows, inputs) = (13, 21);
        let (dy, w) = (data.values(1, rows * outputs), data.values(2, outputs * inputs));
        let exact = |dy: &[f64], w: &[f64]| {
            let mut dx = vec![0.0; rows * inputs];
            ops::project::reference_backward_input(mat(dy, outputs), mat(w, inputs), &mut dx);
            dx
        };
        let (want, sums) = (exact(&wide(&dy), &wide(&w)), exact(&abs(&wide(&dy)), &abs(&wide(&w))));
        let mut dx = vec![0.0; want.len()];
        ops::project_backward_input(cpu, mat(&dy, outputs), mat(&w, inputs), mat_mut(&mut dx, inputs)).unwrap();
        tally.all(&dx, &want, |i| (outputs + 1) as f64 * UNIT * sums[i]);
    });
}

/// Chains over the rows of a block; blocks are added in f64.
#[test]
fn project_backward_weight_is_within_a_rounding_for_each_row_of_a_block() {
    // Rows here, not dimensions: one block, and one with a second begun.
    observe("project_backward_weight", true, &[1, 7, 100, 1500], |cpu, rows, data, tally| {
        let (inputs, outputs) = (19, 5);
        let (dy, x) = (data.values(1, rows * outputs), data.values(2, rows * inputs));
        let exact = |dy: &[f64], x: &[f64]| {
            let (mut dw, mut db) = (vec![0.0; outputs * inputs], vec![0.0; outputs]);
            ops::project::reference_backward_weight(mat(dy, outputs), mat(x, inputs), &mut dw, &mut db);
            dw.extend(db);
            dw
        };
        let (want, sums) = (exact(&wide(&dy), &wide(&x)), exact(&abs(&wide(&dy)), &abs(&wide(&x))));
        let (mut dw, mut db) = (vec![0.0; outputs * inputs], vec![0.0; outputs]);
        ops::project_backward_weight(cpu, mat(&dy, outputs), mat(&x, inputs), mat_mut(&mut dw, inputs), Some(&mut db))
            .unwrap();
        dw.extend(db);
        let roundings = (rows.min(ops::ROW_BLOCK) + 1) as f64;
        for (i, (got, want)) in dw.iter().zip(want).enumerate() {
            tally.take(*got, want, roundings * UNIT * sums[i]);
        }
    });
}

/// The root halves the error of the sum of squares and rounds once, the division once more.
#[test]
fn normalize_is_within_a_few_units_of_each_element() {
    observe("normalize", false, &DIMS[1..], |cpu, dim, data, tally| {
        let rows = 17;
        let x: Vec<f32> = data.values(1, rows * dim);
        let (mut want, mut want_norms) = (vec![0.0; x.len()], vec![0.0; rows]);
        ops::normalize::reference(&wide(&x), dim, &mut want, &mut want_norms);
        let (mut y, mut norms) = (vec![0.0; x.len()], vec![0.0; rows]);
        ops::normalize(cpu, mat(&x, dim), mat_mut(&mut y, dim), Some(&mut norms)).unwrap();
        let root = lanes(dim) / 2.0 + 1.0;
        tally.all(&norms, &want_norms, |row| root * UNIT * want_norms[row]);
        tally.all(&y, &want, |i| (root + 1.0) * UNIT * want[i].abs());
    });
}

/// The root of a rounded square is the magnitude again.
#[test]
fn normalize_of_one_dimension_is_exact() {
    for cpu in cpus() {
        let x: Vec<f32> = Data::ALL.iter().flat_map(|data| data.values(1, 1000)).collect();
        let (mut y, mut norms) = (vec![9.0; x.len()], vec![9.0; x.len()]);
        ops::normalize(&cpu, mat(&x, 1), mat_mut(&mut y, 1), Some(&mut norms)).unwrap();
        assert!(x.iter().zip(&norms).all(|(x, norm)| x.abs() == *norm));
        assert!(x.iter().zip(&y).all(|(x, y)| *y == if *x == 0.0 { 0.0 } else { x.signum() }));
    }
}

/// `(dy − (y·dy) y) / ‖x‖`: the inner product's roundings times y, then one fma and one division.
#[test]
fn normalize_backward_is_within_its_inner_product_and_two_roundings() {
    observe("normalize_backward", false, &DIMS[1..], |cpu, dim, data, tally| {
        let rows = 17;
        let (x, dy) = (data.values(1, rows * dim), data.values(2, rows * dim));
        let (mut y, mut norms) = (vec![0.0; x.len()], vec![0.0; rows]);
        ops::normalize(cpu, mat(&x, dim), mat_mut(&mut y, dim), Some(&mut norms)).unwrap();
        let (wide_y, wide_dy, wide_norms) = (wide(&y), wide(&dy), wide(&norms));
        let (mut want, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        ops::normalize::reference_backward(&wide_y, &wide_norms, &wide_dy, dim, &mut want);
        ops::normalize_backward(cpu, mat(&y, dim), &norms, mat(&dy, dim), mat_mut(&mut dx, dim)).unwrap();
        tally.all(&dx, &want, |i| {
            let at = i / dim * dim..(i / dim + 1) * dim;
            let inner = dot(&abs(&wide_y[at.clone()]), &abs(&wide_dy[at]));
            let (y, dy) = (wide_y[i].abs(), wide_dy[i].abs());
            if norms[i / dim] == 0.0 {
                0.0
            } else {
                UNIT * ((lanes(dim) + 2.0) * y * inner + 2.0 * dy) / wide_norms[i / dim]
            }
        });
    });
}

/// The score's chain of d fmas; for l2 it starts at the rounded half norm, itself a chain of d.
#[test]
fn search_scores_are_within_a_rounding_for_each_dimension() {
    observe("search score", true, &DIMS, |cpu, dim, data, tally| {
        let (rows, count) = (13, 130);
        let (x, codebook) = (data.values(1, rows * dim), data.values(2, count * dim));
        for metric in [Metric::Cosine, Metric::L2] {
            let packed = PackedCodebook::new(mat(&codebook, dim), metric).unwrap();
            let (mut codes, mut scores) = (vec![0u32; rows], vec![0.0; rows]);
            ops::search(cpu, mat(&x, dim), None, &packed, &mut codes, Some(&mut scores)).unwrap();
            for row in 0..rows {
                let (x, code) = (&x[row * dim..][..dim], &codebook[codes[row] as usize * dim..][..dim]);
                let want = ops::search::reference_score(&wide(x), &wide(code), metric);
                tally.take(f64::from(scores[row]), want, score_bound(x, code, metric));
            }
        }
    });
}

fn score_bound(x: &[f32], code: &[f32], metric: Metric) -> f64 {
    let (x, code) = (abs(&wide(x)), abs(&wide(code)));
    let half = if metric == Metric::L2 { dot(&code, &code) / 2.0 } else { 0.0 };
    let roundings = (code.len() + 1) as f64;
    UNIT * roundings * (dot(&x, &code) + 2.0 * half)
}

/// Regret: by exact scores, the code that was found falls behind the best by what both scores may be
/// off. Each code has near copies, so that some rows do get another code than the exact one.
#[test]
fn search_regret_is_within_the_roundings_of_two_scores() {
    let others = Cell::new(0);
    observe("search regret", false, &[1, 5, 33, 100], |cpu, dim, data, tally| {
        let (rows, count, copies) = (97, 30, 5);
        let (x, centres) = (data.values(1, rows * dim), data.values(2, count * dim));
        let mut rng = Rng::new(5, dim as u64);
        let near = |k: usize, rng: &mut Rng| -> Vec<f32> {
            let centre = &centres[k % count * dim..][..dim];
            centre.iter().map(|c| c * (1.0 + 3e-7 * rng.normal())).collect()
        };
        let codebook: Vec<f32> = (0..count * copies).flat_map(|k| near(k, &mut rng)).collect();
        for metric in [Metric::Cosine, Metric::L2] {
            let packed = PackedCodebook::new(mat(&codebook, dim), metric).unwrap();
            let (mut codes, mut best) = (vec![0u32; rows], vec![0u32; rows]);
            ops::search(cpu, mat(&x, dim), None, &packed, &mut codes, None).unwrap();
            ops::search::reference(mat(&wide(&x), dim), mat(&wide(&codebook), dim), metric, &mut best, None);
            for row in 0..rows {
                let x = &x[row * dim..][..dim];
                let code = |k: u32| &codebook[k as usize * dim..][..dim];
                let score = |k: u32| ops::search::reference_score(&wide(x), &wide(code(k)), metric);
                let bound = score_bound(x, code(codes[row]), metric) + score_bound(x, code(best[row]), metric);
                assert!(score(codes[row]) <= score(best[row]));
                tally.take(score(codes[row]), score(best[row]), bound);
                others.set(others.get() + usize::from(codes[row] != best[row]));
            }
        }
    });
    assert!(others.get() > 100, "only {} rows with another code than the exact one", others.get());
}

/// Differences are rounded before they are squared; then a lane, the tree, and a chain over the rows of
/// a block. All terms are positive, so the bound is relative.
#[test]
fn squared_error_is_within_a_rounding_for_each_row_of_a_block() {
    observe("squared_error", true, &DIMS, |cpu, dim, data, tally| {
        for rows in [1, 40, 1300] {
            let (x, q) = (data.values(1, rows * dim), data.values(2, rows * dim));
            let (codes, mut rng) = (vec![0; rows], Rng::new(6, 0));
            // Multiples of 1/4 on the grid, so that sums of 1024 rows stay exact.
            let weight = |rng: &mut Rng| match data {
                Data::Grid => rng.below(5) as f32 / 4.0,
                Data::Normal | Data::Lognormal | Data::Positive => rng.uniform() as f32,
            };
            let weights: Vec<f32> = (0..rows).map(|_| weight(&mut rng)).collect();
            let (mut want, mut got) = (SquaredError::default(), SquaredError::default());
            let (wide_x, wide_q, wide_weights) = (wide(&x), wide(&q), wide(&weights));
            loss::reference(mat(&wide_x, dim), mat(&wide_q, dim), &codes, Some(&wide_weights), &mut want);
            loss::squared_error(cpu, mat(&x, dim), mat(&q, dim), &codes, Some(&weights), &mut got).unwrap();
            let block = rows.min(ops::ROW_BLOCK) as f64;
            // 1024 rows of more than 64 dimensions leave the 24 bits of a grid's exact sums.
            if data != Data::Grid || rows * dim <= 64 * 64 {
                tally.take(got.sum, want.sum, UNIT * (2.0 + lanes(dim) + block) * want.sum);
            }
            tally.take(got.weight, want.weight, UNIT * block * want.weight);
        }
    });
}

/// The factor and the difference are rounded, their product is not, the sum is.
#[test]
fn squared_error_backward_is_within_three_roundings() {
    observe("squared_error_backward", false, &DIMS, |cpu, dim, data, tally| {
        let (rows, scale) = (11, 0.3f32);
        let (x, q, start) = (data.values(1, rows * dim), data.values(2, rows * dim), data.values(3, rows * dim));
        let (codes, weights) = (vec![0; rows], (0..rows).map(|row| row as f32 / 10.0).collect::<Vec<_>>());
        let (mut want, wide_weights) = (wide(&start), wide(&weights));
        let (wide_x, wide_q) = (wide(&x), wide(&q));
        loss::reference_backward(
            mat(&wide_x, dim),
            mat(&wide_q, dim),
            &codes,
            Some(&wide_weights),
            f64::from(scale),
            &mut want,
        );
        let mut dx = start.clone();
        let (mx, mq) = (mat(&x, dim), mat(&q, dim));
        loss::squared_error_backward(cpu, mx, mq, &codes, Some(&weights), scale, mat_mut(&mut dx, dim)).unwrap();
        // The product of two roundings is below 2⁻²⁴ of one.
        tally.all(&dx, &want, |i| {
            let product = (want[i] - f64::from(start[i])).abs();
            1.000001 * UNIT * (2.0 * product + want[i].abs() + 2.0 * UNIT * product)
        });
    });
}

/// Five inner products of e roundings each, through the coefficients (in f64, rounded once) to first
/// order; then three terms and two fmas. Data keep 1 + u·v away from 0, by which it divides.
#[test]
fn rotation_backward_is_within_the_roundings_of_its_inner_products() {
    observe("rotation_backward", false, &DIMS, |cpu, dim, data, tally| {
        let rows = 11;
        let (x, off, g) = (data.values(1, rows * dim), data.values(2, rows * dim), data.values(3, rows * dim));
        // A row of zeros (on a grid of few dimensions) is the straight-through case.
        let x: Vec<f32> = x.iter().map(|&x| if x == 0.0 { 0.25 } else { x }).collect();
        let q: Vec<f32> =
            x.iter().zip(&off).map(|(x, off)| 1.25 * x + 0.0625 * off.clamp(-4.0 * x.abs(), 4.0 * x.abs())).collect();
        let codes = vec![0; rows];
        let [wx, wq, wg] = [&x, &q, &g].map(|v| wide(v));
        let (mut want, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        loss::reference_rotation(mat(&wx, dim), mat(&wq, dim), &codes, mat(&wg, dim), &mut want);
        let (mx, mq, mg) = (mat(&x, dim), mat(&q, dim), mat(&g, dim));
        loss::rotation_backward(cpu, mx, mq, &codes, mg, mat_mut(&mut dx, dim)).unwrap();
        tally.all(&dx, &want, |i| {
            let at = i / dim * dim..(i / dim + 1) * dim;
            let (x, q, g) = (&wx[at.clone()], &wq[at.clone()], &wg[at]);
            let (nx, nq, ng) = (length(x), length(q), length(g));
            let (scale, closeness) = (nq / nx, 1.0 + dot(x, q) / (nx * nq));
            let (ug, vg) = (dot(x, g) / nx, dot(q, g) / nq);
            let (a, e) = ((ug + vg) / closeness, lanes(dim) * UNIT);
            // u·g and v·g: e and half of it for the norm. 1 + u·v: e, and half of it for each norm.
            let a_off = (3.0 * e * ng + 2.0 * e * a.abs()) / closeness;
            let of_x = scale * (3.0 * e * ng + a_off + (1.5 * e + UNIT) * (2.0 * vg - a).abs()) * wx[i].abs() / nx;
            let of_q = scale * (a_off + (1.5 * e + UNIT) * a.abs()) * wq[i].abs() / nq;
            let of_g = scale * (e + UNIT) * wg[i].abs();
            let terms = scale * ((2.0 * vg - a).abs() * wx[i].abs() / nx + a.abs() * wq[i].abs() / nq + wg[i].abs());
            1.001 * (of_x + of_q + of_g + 3.0 * UNIT * terms)
        });
    });
}

/// Each row's term is rounded once, by half a unit of 2^(E−40).
#[test]
fn statistics_are_within_half_a_unit_for_each_row() {
    observe("accumulate", false, &[1, 5, 33], |cpu, dim, data, tally| {
        let (rows, count) = (300, 9);
        let (x, mut rng) = (data.values(1, rows * dim), Rng::new(7, 0));
        let codes: Vec<u32> = (0..rows).map(|_| rng.below(count as u64) as u32).collect();
        let weights: Vec<f32> = (0..rows).map(|_| rng.uniform() as f32).collect();
        let largest = exponent(mat(&x, dim), &codes, Some(&weights)).unwrap();
        let mut statistics = Statistics::new(count, dim, largest).unwrap();
        statistics.accumulate(cpu, mat(&x, dim), &codes, Some(&weights)).unwrap();
        for k in 0..count {
            let hits = || (0..rows).filter(|&row| codes[row] as usize == k);
            let n = hits().count() as f64;
            tally.take(
                statistics.weight(k),
                hits().map(|row| f64::from(weights[row])).sum(),
                n * f64::from(-41).exp2(),
            );
            for (i, sum) in statistics.sum(k).enumerate() {
                let want = hits().map(|row| f64::from(weights[row]) * f64::from(x[row * dim + i])).sum();
                // f64's own sum in the test is off by 2⁻¹² of that at most.
                tally.take(sum, want, 1.001 * n * f64::from(largest - 41).exp2());
            }
        }
    });
}

/// In f64, rounded once.
#[test]
fn moving_averages_are_rounded_once() {
    observe("update_means, observe", false, &[1, 5, 33], |cpu, dim, data, tally| {
        let (rows, count, decay) = (300, 9, 0.97);
        let (x, initial, mut rng) = (data.values(1, rows * dim), data.values(2, count * dim), Rng::new(8, 0));
        let codes: Vec<u32> = (0..rows).map(|_| rng.below(count as u64) as u32).collect();
        let mut statistics = Statistics::new(count, dim, exponent(mat(&x, dim), &codes, None).unwrap()).unwrap();
        statistics.accumulate(cpu, mat(&x, dim), &codes, None).unwrap();
        let sizes: Vec<f32> = (0..count).map(|k| k as f32 * 1.7).collect();
        let mut activity = Activity::new_in(vec![0.0f32; count], vec![0.0f32; count], vec![0.0f64; count]).unwrap();
        activity.cluster_size.copy_from_slice(&sizes);
        let mut mean = initial.clone();
        update_means(cpu, decay, &statistics, &sizes, mat_mut(&mut mean, dim), None).unwrap();
        activity.observe(decay, &statistics).unwrap();
        for k in 0..count {
            let (n, old) = (statistics.weight(k), f64::from(sizes[k]));
            let size = decay * old + (1.0 - decay) * n;
            tally.take(f64::from(activity.cluster_size[k]), size, UNIT * size);
            for (i, sum) in statistics.sum(k).enumerate() {
                let before = f64::from(initial[k * dim + i]);
                let want = (decay * old * before + (1.0 - decay) * sum) / size;
                // The second part is f64's, where the two terms cancel.
                let f64s = 1e-15 * (before.abs() + sum.abs() / n);
                tally.take(f64::from(mean[k * dim + i]), want, UNIT * want.abs() + f64s);
            }
        }
    });
}

#[test]
#[cfg_attr(target_family = "wasm", ignore = "there, a panic is the end")]
fn a_bound_that_is_too_loose_is_a_failure() {
    let loose = |bound: f64| {
        let measure = move |_: &Cpu, _: usize, _: Data, tally: &mut Tally| tally.take(1.0, 1.0 + UNIT, bound);
        std::panic::catch_unwind(|| observe("loose", false, &[1], measure)).is_err()
    };
    assert!(!loose(UNIT) && !loose(900.0 * UNIT));
    assert!(loose(1100.0 * UNIT) && loose(0.5 * UNIT));
}
