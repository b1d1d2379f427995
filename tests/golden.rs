//! Every case of `tests/golden/vectors.json`, on every instruction set and in f64.
//!
//! The file is written by `tests/golden/make.py` from PyTorch, numpy and vector-quantize-pytorch; it
//! is never written anew to make a test pass. A case without a check, or a number that its check
//! does not read, is a failure.

mod golden_support;

use core::cell::RefCell;
use std::collections::BTreeSet;

use golden_support::{UNIT, cpus, mat, mat_mut, wide};
use serde_json::Value;
use vq_kernels::ops::ema::{Activity, Statistics, exponent, update_means};
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::ops::{self, Candidate};
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner, Quantizer};
use vq_kernels::{Cpu, Metric, NO_CODE, PackedCodebook};

// The file and what is read of it

/// One case; it remembers which of its numbers were read.
struct Case {
    name: String,
    value: Value,
    read: RefCell<BTreeSet<String>>,
}

fn file() -> Value {
    serde_json::from_str(include_str!("golden/vectors.json")).unwrap()
}

/// Pointers to the tensors and numbers under `value`: descends objects, and lists of objects.
fn leaves(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| leaves(field, &format!("{at}/{name}"), found)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(i, item)| leaves(item, &format!("{at}/{i}"), found));
        }
        _ => assert!(found.insert(at.to_owned())),
    }
}

fn flatten(value: &Value, numbers: &mut Vec<f64>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, numbers)),
        _ => numbers.push(value.as_f64().unwrap()),
    }
}

impl Case {
    /// The numbers at `pointer`, such as `/inputs/x`, row after row.
    fn f64s(&self, pointer: &str) -> Vec<f64> {
        let value = self.value.pointer(pointer).unwrap_or_else(|| panic!("{}: no {pointer}", self.name));
        self.read.borrow_mut().insert(pointer.to_owned());
        let mut numbers = Vec::new();
        flatten(value, &mut numbers);
        assert!(!numbers.is_empty(), "{}: {pointer} is empty", self.name);
        numbers
    }

    fn number(&self, pointer: &str) -> f64 {
        let numbers = self.f64s(pointer);
        assert_eq!(numbers.len(), 1, "{}: {pointer}", self.name);
        numbers[0]
    }

    /// Inputs, which are exact in f32; the parser may be off by an f64's last place.
    fn f32s(&self, pointer: &str) -> Vec<f32> {
        let narrow = |x: f64| {
            let off = (f64::from(x as f32) - x).abs();
            assert!(off <= f64::EPSILON * x.abs(), "{}: {pointer} holds {x}, which is no f32", self.name);
            x as f32
        };
        self.f64s(pointer).into_iter().map(narrow).collect()
    }

    fn codes(&self, pointer: &str) -> Vec<u32> {
        let whole = |x: f64| {
            assert_eq!(f64::from(x as u32), x, "{}: {pointer} is not a code", self.name);
            x as u32
        };
        self.f64s(pointer).into_iter().map(whole).collect()
    }

    /// Columns of the matrix at `pointer`.
    fn cols(&self, pointer: &str) -> usize {
        self.value.pointer(pointer).unwrap()[0].as_array().unwrap().len()
    }
}

// Comparisons

/// f64 against f64: both sides are sums of a few dozen terms in another order, a few 1e-16 each.
fn same64(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-13 * largest, "{what}[{i}]: {got} against {want}");
    }
}

/// f32 against f64: each element within its own bound, given in absolute terms.
fn within(what: &str, got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= bound(i), "{what}[{i}]: {got} against {want}, off by {error:e}, allowed {:e}", bound(i));
    }
}

fn close(what: &str, got: f64, want: f64, relative: f64) {
    assert!((got - want).abs() <= relative * want.abs(), "{what}: {got} against {want}");
}

fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|x| x.abs()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

// The cases

/// One test for each case, and the list of their names.
macro_rules! cases {
    ($($name:ident => $check:expr;)*) => {
        const CHECKED: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            check(stringify!($name), $check);
        })*
    };
}

cases! {
    linear => linear_case;
    normalize => normalize_case;
    nearest => nearest_case;
    vq => |case| vq_case(case, None);
    vq_normalized => vq_normalized_case;
    vq_weighted => |case| vq_case(case, Some(case.f32s("/inputs/weight")));
    rotation_trick => rotation_case;
    ema_euclidean => |case| ema_case(case, false);
    ema_cosine => |case| ema_case(case, true);
    vqp_cosine => |case| vqp_case(case, Metric::Cosine);
    vqp_euclidean => |case| vqp_case(case, Metric::L2);
    projected_codebook => projected_codebook_case;
}

fn check(name: &str, checks: impl Fn(&Case)) {
    let value = file()["cases"].as_array().unwrap().iter().find(|case| case["name"] == name).unwrap().clone();
    let case = Case { name: name.to_owned(), value, read: RefCell::default() };
    checks(&case);
    let mut all = BTreeSet::new();
    for part in ["inputs", "expected"] {
        leaves(&case.value[part], &format!("/{part}"), &mut all);
    }
    assert_eq!(*case.read.borrow(), all, "{name}: read (left) and in the file (right)");
}

#[test]
fn every_case_of_the_file_has_a_check() {
    let file = file();
    let cases = file["cases"].as_array().unwrap();
    let names: Vec<_> = cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
    assert_eq!(names, CHECKED);
}

fn linear_case(case: &Case) {
    let [x, w, b, dy] = ["x", "w", "b", "dy"].map(|name| case.f32s(&format!("/inputs/{name}")));
    let [y, dx, dw, db] = ["y", "dx", "dw", "db"].map(|name| case.f64s(&format!("/expected/{name}")));
    let (inputs, outputs, rows) = (case.cols("/inputs/x"), case.cols("/inputs/dy"), case.rows("/inputs/x"));
    let all = |[x, w, b, dy]: [&[f64]; 4]| {
        let (mut y, mut dx) = (vec![0.0; rows * outputs], vec![0.0; rows * inputs]);
        let (mut dw, mut db) = (vec![0.0; outputs * inputs], vec![0.0; outputs]);
        ops::project::reference(mat(x, inputs), mat(w, inputs), Some(b), &mut y);
        ops::project::reference_backward_input(mat(dy, outputs), mat(w, inputs), &mut dx);
        ops::project::reference_backward_weight(mat(dy, outputs), mat(x, inputs), &mut dw, &mut db);
        [y, dx, dw, db]
    };
    let exact = [&x, &w, &b, &dy].map(|values| wide(values));
    for (got, want) in all(exact.each_ref().map(|v| &v[..])).iter().zip([&y, &dx, &dw, &db]) {
        same64("reference", got, want);
    }
    // A chain of n fused terms is off by at most n roundings of a partial sum, itself at most Σ|term|.
    let [my, mdx, mdw, mdb] = all(exact.map(|v| magnitudes(&v)).each_ref().map(|v| &v[..]));
    for cpu in cpus() {
        let (mut got_y, mut got_dx) = (vec![9.0; y.len()], vec![9.0; dx.len()]);
        let (mut got_dw, mut got_db) = (vec![0.0; dw.len()], vec![0.0; db.len()]);
        ops::project(&cpu, mat(&x, inputs), mat(&w, inputs), Some(&b), mat_mut(&mut got_y, outputs)).unwrap();
        ops::project_backward_input(&cpu, mat(&dy, outputs), mat(&w, inputs), mat_mut(&mut got_dx, inputs)).unwrap();
        let dw_out = mat_mut(&mut got_dw, inputs);
        ops::project_backward_weight(&cpu, mat(&dy, outputs), mat(&x, inputs), dw_out, Some(&mut got_db)).unwrap();
        let narrow = |v: &[f64]| v.iter().map(|&x| x as f32).collect::<Vec<_>>();
        within("y", &got_y, &y, |i| inputs as f64 * UNIT * my[i]);
        within("dx", &got_dx, &dx, |i| outputs as f64 * UNIT * mdx[i]);
        within("dw", &narrow(&got_dw), &dw, |i| rows as f64 * UNIT * mdw[i]);
        within("db", &narrow(&got_db), &db, |i| rows as f64 * UNIT * mdb[i]);
    }
}

impl Case {
    /// Rows of the matrix at `pointer`.
    fn rows(&self, pointer: &str) -> usize {
        self.value.pointer(pointer).unwrap().as_array().unwrap().len()
    }
}

/// Roundings of a unit row of fewer than 32 dimensions, in units: its sum of squares has 1 + 5 (a lane,
/// the tree), of which the root leaves half and adds one; the division adds one more.
const UNIT_ROW: f64 = 5.0;
const NORM: f64 = 4.0;

/// The bound of a gradient through a norm: with `s = Σ|y dy|`, the inner product is off by its own 6
/// roundings and those of y, times y once more; then one fma, the norm and one division.
fn through_norm(dy: &[f64], y: &[f64], norms: &[f64], dim: usize) -> Vec<f64> {
    const BOTH: f64 = 1.0 + NORM + 1.0;
    let of_row = |(row, &norm): (usize, &f64)| {
        let at = row * dim..(row + 1) * dim;
        let s = dot(&magnitudes(&y[at.clone()]), &magnitudes(&dy[at.clone()]));
        let bound = move |i: usize| match norm {
            0.0 => 0.0,
            _ => UNIT * (BOTH * dy[i].abs() + (6.0 + 2.0 * UNIT_ROW + BOTH) * s * y[i].abs()) / norm,
        };
        at.map(bound).collect::<Vec<_>>()
    };
    norms.iter().enumerate().flat_map(of_row).collect()
}

/// Unit rows and norms in f64.
fn unit64(x: &[f64], dim: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut unit, mut norms) = (vec![0.0; x.len()], vec![0.0; x.len() / dim]);
    ops::normalize::reference(x, dim, &mut unit, &mut norms);
    (unit, norms)
}

/// Unit rows and norms on `cpu`.
fn unit32(cpu: &Cpu, x: &[f32], dim: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut unit, mut norms) = (vec![0.0; x.len()], vec![0.0; x.len() / dim]);
    ops::normalize(cpu, mat(x, dim), mat_mut(&mut unit, dim), Some(&mut norms)).unwrap();
    (unit, norms)
}

fn normalize_case(case: &Case) {
    let (x, dy, dim) = (case.f32s("/inputs/x"), case.f32s("/inputs/dy"), case.cols("/inputs/x"));
    let (y, dx) = (case.f64s("/expected/y"), case.f64s("/expected/dx"));
    let (exact_y, norms) = unit64(&wide(&x), dim);
    let mut exact_dx = vec![9.0; x.len()];
    ops::normalize::reference_backward(&exact_y, &norms, &wide(&dy), dim, &mut exact_dx);
    same64("y", &exact_y, &y);
    same64("dx", &exact_dx, &dx);
    let bound = through_norm(&wide(&dy), &exact_y, &norms, dim);
    for cpu in cpus() {
        let (got, got_norms) = unit32(&cpu, &x, dim);
        within("y", &got, &y, |i| UNIT_ROW * UNIT * y[i].abs());
        within("norms", &got_norms, &norms, |i| NORM * UNIT * norms[i]);
        let mut got_dx = vec![9.0; x.len()];
        ops::normalize_backward(&cpu, mat(&got, dim), &got_norms, mat(&dy, dim), mat_mut(&mut got_dx, dim)).unwrap();
        within("dx", &got_dx, &dx, |i| bound[i]);
    }
}

/// Small integers: every score is exact, so everything is compared for equality.
fn nearest_case(case: &Case) {
    let (x, codebook, dim) = (case.f32s("/inputs/x"), case.f32s("/inputs/codes"), case.cols("/inputs/x"));
    let rows = x.len() / dim;
    for metric in [Metric::Cosine, Metric::L2] {
        let of = |name: &str| format!("/expected/{}/{name}", metric.name());
        let (index, top, scores) = (case.codes(&of("index")), case.codes(&of("top4")), case.f32s(&of("top4_score")));
        let first = |row: usize| scores[row * 4];
        let (mut codes, mut best) = (vec![9; rows], vec![9.0; rows]);
        ops::search::reference(mat(&x, dim), mat(&codebook, dim), metric, &mut codes, Some(&mut best));
        assert_eq!(codes, index);
        assert!((0..rows).all(|row| best[row] == first(row)));
        let (mut codes, mut best) = (vec![9; rows], vec![9.0f64; rows]);
        ops::search::reference(mat(&wide(&x), dim), mat(&wide(&codebook), dim), metric, &mut codes, Some(&mut best));
        assert_eq!(codes, index);
        assert!((0..rows).all(|row| best[row] == f64::from(first(row))));

        let packed = PackedCodebook::new(mat(&codebook, dim), metric).unwrap();
        for cpu in cpus() {
            let (mut codes, mut short, mut best) = (vec![9u32; rows], vec![9u16; rows], vec![9.0; rows]);
            ops::search(&cpu, mat(&x, dim), None, &packed, &mut codes, Some(&mut best)).unwrap();
            ops::search(&cpu, mat(&x, dim), None, &packed, &mut short, None).unwrap();
            assert_eq!(codes, index, "{cpu:?}");
            assert!(short.iter().zip(&index).all(|(&k, &want)| u32::from(k) == want), "{cpu:?}");
            assert!((0..rows).all(|row| best[row] == first(row)), "{cpu:?}");
            let mut candidates = vec![Candidate::NONE; rows * 4];
            ops::search_top(&cpu, mat(&x, dim), None, &packed, mat_mut(&mut candidates, 4)).unwrap();
            assert_eq!(candidates.iter().map(|c| c.code).collect::<Vec<_>>(), top, "{cpu:?}");
            assert_eq!(candidates.iter().map(|c| c.score).collect::<Vec<_>>(), scores, "{cpu:?}");
            for m in 1..=4 {
                ops::search_mth(&cpu, mat(&x, dim), None, &packed, m, &mut codes, &mut vec![Candidate::NONE; 2 * m])
                    .unwrap();
                assert!((0..rows).all(|row| codes[row] == top[row * 4 + m - 1]), "{cpu:?}, m = {m}");
            }
        }
    }
}

fn found(cpu: &Cpu, x: &[f32], weights: Option<&[f32]>, codebook: &[f32], dim: usize, metric: Metric) -> Vec<u32> {
    let packed = PackedCodebook::new(mat(codebook, dim), metric).unwrap();
    let mut codes = vec![9; x.len() / dim];
    ops::search(cpu, mat(x, dim), weights, &packed, &mut codes, None).unwrap();
    codes
}

fn found64(x: &[f64], codebook: &[f64], dim: usize, metric: Metric) -> Vec<u32> {
    let mut codes = vec![9; x.len() / dim];
    ops::search::reference(mat(x, dim), mat(codebook, dim), metric, &mut codes, None);
    codes
}

fn gathered(cpu: &Cpu, codes: &[u32], codebook: &[f32], dim: usize) -> Vec<f32> {
    let mut rows = vec![9.0; codes.len() * dim];
    ops::gather(cpu, codes, mat(codebook, dim), mat_mut(&mut rows, dim)).unwrap();
    rows
}

fn gathered64(codes: &[u32], codebook: &[f64], dim: usize) -> Vec<f64> {
    let mut rows = vec![9.0; codes.len() * dim];
    ops::gather::reference(codes, mat(codebook, dim), &mut rows);
    rows
}

/// One row of f64 numbers for each code: the sum of its rows.
fn summed64(rows: &[f64], codes: &[u32], count: usize, dim: usize) -> Vec<f64> {
    let mut sums = vec![0.0; count * dim];
    for (row, &k) in rows.chunks(dim).zip(codes) {
        sums[k as usize * dim..][..dim].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    sums
}

/// The same by the exact statistics, and half a unit of theirs for each row.
fn summed(cpu: &Cpu, rows: &[f32], codes: &[u32], count: usize, dim: usize) -> (Vec<f32>, f64) {
    let largest = exponent(mat(rows, dim), codes, None).unwrap();
    let mut statistics = Statistics::new(count, dim, largest).unwrap();
    assert_eq!(statistics.accumulate(cpu, mat(rows, dim), codes, None).unwrap(), 0);
    let sums = (0..count).flat_map(|k| statistics.sum(k).map(|x| x as f32).collect::<Vec<_>>()).collect();
    (sums, codes.len() as f64 * f64::from(largest - 41).exp2())
}

/// The loss of a case: rows, codes that were found for them, and the head's gradient at the output.
struct Loss<'a> {
    case: &'a Case,
    dim: usize,
    weights: Option<&'a [f32]>,
    /// Of the commitment and of the codebook term.
    factors: [f64; 2],
}

impl Loss<'_> {
    fn elements(&self, rows: usize) -> f64 {
        self.weights.map_or(rows as f64, |w| wide(w).iter().sum()) * self.dim as f64
    }

    /// `terms` from sums over rows: `z` for commitment, `searched` for the codebook term.
    fn check_terms(&self, relative: f64, [codebook, commit]: [SquaredError; 2], quantized: &[f64], g: &[f64]) {
        let expected = |name: &str| self.case.number(&format!("/expected/{name}"));
        let (codebook, commit, through) = (codebook.mean(self.dim), commit.mean(self.dim), dot(quantized, g));
        close("codebook", codebook, expected("codebook"), relative);
        close("commit", commit, expected("commit"), relative);
        // Where terms cancel, the scale is that of the largest.
        let scale = dot(&magnitudes(quantized), &magnitudes(g));
        let straight = expected("straight_through");
        assert!((through - straight).abs() <= relative * scale, "straight_through: {through} against {straight}");
        let (total, want) = (through + self.factors[0] * commit + self.factors[1] * codebook, expected("total"));
        assert!((total - want).abs() <= relative * (scale + want.abs()), "total: {total} against {want}");
    }

    fn terms64(&self, z: &[f64], searched: &[f64], quantized: &[f64], codes: &[u32], g: &[f64]) {
        let weights = self.weights.map(wide);
        let sum = |x: &[f64]| {
            let mut total = SquaredError::default();
            loss::reference(mat(x, self.dim), mat(quantized, self.dim), codes, weights.as_deref(), &mut total);
            total
        };
        self.check_terms(1e-13, [sum(searched), sum(z)], quantized, g);
    }

    /// In f32, from rows that are off by `units` roundings already.
    fn terms32(&self, cpu: &Cpu, [z, searched, quantized, g]: [&[f32]; 4], codes: &[u32], units: f64) {
        let sum = |x: &[f32]| {
            let mut total = SquaredError::default();
            let (x, quantized) = (mat(x, self.dim), mat(quantized, self.dim));
            loss::squared_error(cpu, x, quantized, codes, self.weights, &mut total).unwrap();
            total
        };
        // The difference twice (it is squared), a lane, the tree, and the chain over rows; all terms positive.
        let relative = UNIT * (2.0 + 1.0 + 5.0 + codes.len() as f64 + units);
        self.check_terms(relative, [sum(searched), sum(z)], &wide(quantized), &wide(g));
    }

    /// Adds `factor / elements · d Σ w|x − q|²` at x to `dx`.
    fn add64(&self, factor: f64, x: &[f64], quantized: &[f64], codes: &[u32], dx: &mut [f64]) {
        let (scale, weights) = (2.0 * factor / self.elements(codes.len()), self.weights.map(wide));
        loss::reference_backward(mat(x, self.dim), mat(quantized, self.dim), codes, weights.as_deref(), scale, dx);
    }

    fn add32(&self, cpu: &Cpu, factor: f64, x: &[f32], quantized: &[f32], codes: &[u32], dx: &mut [f32]) {
        let (scale, dim) = ((2.0 * factor / self.elements(codes.len())) as f32, self.dim);
        let (x, quantized) = (mat(x, dim), mat(quantized, dim));
        loss::squared_error_backward(cpu, x, quantized, codes, self.weights, scale, mat_mut(dx, dim)).unwrap();
    }
}

/// A step of a quantizer that is not factorized, whose head leaves `g`: the gradient at the input, and
/// those that `apply` shows, by name, each as a whole tensor.
struct Step {
    codes: Vec<u32>,
    dx: Vec<f32>,
    gradients: Vec<(&'static str, Vec<f32>)>,
    report: vq_kernels::quantizer::Report,
}

impl Step {
    fn of(quantizer: &mut Quantizer, cpu: &Cpu, z: &[f32], weights: Option<&[f32]>, g: &[f32]) -> Self {
        let dim = quantizer.config().dim;
        let report =
            quantizer.train_step(cpu, mat(z, dim), weights, |_, gradient| gradient.copy_from_slice(g)).unwrap();
        let (codes, dx) = (quantizer.last_codes().to_vec(), quantizer.last_input_gradient().to_vec());
        let mut gradients: Vec<(&'static str, Vec<f32>)> = Vec::new();
        quantizer
            .apply(cpu, |update| {
                if gradients.last().is_none_or(|(name, _)| *name != update.name) {
                    gradients.push((update.name, Vec::new()));
                }
                let tensor = &mut gradients.last_mut().unwrap().1;
                // Codes that were not hit have none: zeros.
                tensor.resize(update.offset, 0.0);
                tensor.extend_from_slice(update.gradient);
            })
            .unwrap();
        Self { codes, dx, gradients, report }
    }

    fn gradient(&self, name: &str, len: usize) -> Vec<f32> {
        let (_, tensor) = self.gradients.iter().find(|(found, _)| *found == name).unwrap();
        let mut tensor = tensor.clone();
        tensor.resize(len, 0.0);
        tensor
    }
}

fn settings(case: &Case, learner: Learner, normalize: bool, factors: [f64; 2]) -> Config {
    let dim = case.cols("/inputs/z");
    let codes = case.rows(if matches!(learner, Learner::Projector { .. }) { "/inputs/c" } else { "/inputs/codes" });
    let (estimator, [commitment, codebook]) = (Estimator::StraightThrough, factors);
    Config {
        inputs: dim,
        dim,
        codes,
        learner,
        factorize: false,
        normalize,
        restart: None,
        estimator,
        commitment_weight: commitment,
        codebook_weight: codebook,
        ..Config::default()
    }
}

/// `vq` and, with weights, `vq_weighted`.
fn vq_case(case: &Case, weights: Option<Vec<f32>>) {
    let [z, codebook, g] = ["z", "codes", "g"].map(|name| case.f32s(&format!("/inputs/{name}")));
    let [quantized, dz, dcodes] = ["quantized", "dz", "dcodes"].map(|name| case.f64s(&format!("/expected/{name}")));
    let (index, beta, dim) = (case.codes("/expected/index"), case.number("/inputs/beta"), case.cols("/inputs/z"));
    let weights = weights.as_deref();
    let loss = Loss { case, dim, weights, factors: [beta, 1.0] };
    let count = codebook.len() / dim;

    let exact = [&z, &codebook, &g].map(|values| wide(values));
    assert_eq!(found64(&exact[0], &exact[1], dim, Metric::L2), index);
    let exact_q = gathered64(&index, &exact[1], dim);
    assert_eq!(exact_q, quantized);
    loss.terms64(&exact[0], &exact[0], &exact_q, &index, &exact[2]);
    let mut exact_dz = exact[2].clone();
    loss.add64(beta, &exact[0], &exact_q, &index, &mut exact_dz);
    same64("dz", &exact_dz, &dz);
    let mut exact_dq = vec![0.0; z.len()];
    loss.add64(-1.0, &exact[0], &exact_q, &index, &mut exact_dq);
    same64("dcodes", &summed64(&exact_dq, &index, count, dim), &dcodes);

    // The factor, its product with the weight, the difference, the fma: all of them on one element.
    let dz_bound = |i: usize| UNIT * (4.0 * (dz[i] - exact[2][i]).abs() + dz[i].abs());
    let magnitude = summed64(&magnitudes(&exact_dq), &index, count, dim);
    for cpu in cpus() {
        assert_eq!(found(&cpu, &z, None, &codebook, dim, Metric::L2), index);
        let q = gathered(&cpu, &index, &codebook, dim);
        assert_eq!(wide(&q), quantized);
        loss.terms32(&cpu, [&z, &z, &q, &g], &index, 0.0);
        let mut got = vec![9.0; z.len()];
        loss::straight_through_backward(&cpu, &index, mat(&g, dim), mat_mut(&mut got, dim)).unwrap();
        loss.add32(&cpu, beta, &z, &q, &index, &mut got);
        within("dz", &got, &dz, dz_bound);
        let mut dq = vec![0.0; z.len()];
        loss.add32(&cpu, -1.0, &z, &q, &index, &mut dq);
        // As above for each row, then exact sums, and the test's own rounding.
        let (got, half_units) = summed(&cpu, &dq, &index, count, dim);
        within("dcodes", &got, &dcodes, |i| UNIT * 5.0 * magnitude[i] + half_units);

        // The whole layer. Its search leaves rows of weight zero out: they have no code, and no gradient,
        // where the loss of the file passes the head's gradient on unweighted.
        let searched = |row: usize| weights.is_none_or(|w| w[row] > 0.0);
        let config = settings(case, Learner::Gradient, false, [beta, 1.0]);
        let mut quantizer = Quantizer::new(config, Initial::Codes(codebook.clone())).unwrap();
        let step = Step::of(&mut quantizer, &cpu, &z, weights, &g);
        for (row, &want) in index.iter().enumerate() {
            assert_eq!(step.codes[row], if searched(row) { want } else { NO_CODE });
        }
        let mut want_dz = dz.clone();
        for row in (0..index.len()).filter(|&row| !searched(row)) {
            let at = row * dim..(row + 1) * dim;
            assert_eq!(want_dz[at.clone()], exact[2][at.clone()], "straight-through only");
            want_dz[at].fill(0.0);
        }
        within("layer's dz", &step.dx, &want_dz, |i| if want_dz[i] == 0.0 { 0.0 } else { dz_bound(i) });
        assert_eq!(step.gradients.len(), 1);
        // f64 from exact sums, rounded once; the sums' own half units are below 2^-37 each here.
        let hits = index.len() as f64;
        let got = step.gradient("codebook", codebook.len());
        within("layer's dcodes", &got, &dcodes, |i| UNIT * dcodes[i].abs() + hits * f64::from(-37).exp2());
        let relative = UNIT * (8.0 + hits);
        close("layer's codebook term", step.report.loss.codebook, case.number("/expected/codebook"), relative);
        close("layer's commitment", step.report.loss.commitment, case.number("/expected/commit"), relative);
    }
}

fn vq_normalized_case(case: &Case) {
    let [z, latent, g] = ["z", "codes", "g"].map(|name| case.f32s(&format!("/inputs/{name}")));
    let [quantized, dz, dcodes] = ["quantized", "dz", "dcodes"].map(|name| case.f64s(&format!("/expected/{name}")));
    let (index, beta, dim) = (case.codes("/expected/index"), case.number("/inputs/beta"), case.cols("/inputs/z"));
    let loss = Loss { case, dim, weights: None, factors: [beta, 1.0] };
    let count = latent.len() / dim;

    let exact = [&z, &latent, &g].map(|values| wide(values));
    let ((unit, norms), (codebook, code_norms)) = (unit64(&exact[0], dim), unit64(&exact[1], dim));
    assert_eq!(found64(&unit, &codebook, dim, Metric::Cosine), index);
    let exact_q = gathered64(&index, &codebook, dim);
    same64("quantized", &exact_q, &quantized);
    loss.terms64(&exact[0], &unit, &exact_q, &index, &exact[2]);
    let mut exact_dz = vec![9.0; z.len()];
    ops::normalize::reference_backward(&unit, &norms, &exact[2], dim, &mut exact_dz);
    let through = exact_dz.clone();
    loss.add64(beta, &exact[0], &exact_q, &index, &mut exact_dz);
    same64("dz", &exact_dz, &dz);
    let mut exact_dq = vec![0.0; z.len()];
    loss.add64(-1.0, &unit, &exact_q, &index, &mut exact_dq);
    let exact_de = summed64(&exact_dq, &index, count, dim);
    let mut exact_dlatent = vec![9.0; latent.len()];
    ops::normalize::reference_backward(&codebook, &code_norms, &exact_de, dim, &mut exact_dlatent);
    same64("dcodes", &exact_dlatent, &dcodes);

    // Through the norm; then the commitment's factor, difference and fma, from codes off by 5 roundings.
    let normed = through_norm(&exact[2], &unit, &norms, dim);
    let scale = 2.0 * beta / loss.elements(index.len());
    let dz_bound = |i: usize| {
        normed[i] + UNIT * (3.0 * (dz[i] - through[i]).abs() + dz[i].abs() + UNIT_ROW * scale * exact_q[i].abs())
    };
    // Differences of unit rows, each off by 5 roundings, through the norm. Sums over a code's rows.
    let scale = 2.0 / loss.elements(index.len());
    let sides = |i: usize| scale * UNIT * UNIT_ROW * (unit[i].abs() + exact_q[i].abs());
    let rows: Vec<f64> = (0..z.len()).map(|i| sides(i) + 4.0 * UNIT * exact_dq[i].abs()).collect();
    let off = summed64(&rows, &index, count, dim);
    let normed = through_norm(&exact_de, &codebook, &code_norms, dim);
    let dcodes_bound = |i: usize| {
        // An error at the unit code passes the norm as a gradient does: |o_i| + |e_i| Σ|e o|, over the norm.
        let at = i / dim * dim..(i / dim + 1) * dim;
        let spread = dot(&magnitudes(&codebook[at.clone()]), &off[at]);
        normed[i] + (off[i] + codebook[i].abs() * spread) / code_norms[i / dim] + f64::from(-38).exp2()
    };
    for cpu in cpus() {
        let ((unit, norms), (codebook, code_norms)) = (unit32(&cpu, &z, dim), unit32(&cpu, &latent, dim));
        assert_eq!(found(&cpu, &unit, None, &codebook, dim, Metric::Cosine), index);
        let q = gathered(&cpu, &index, &codebook, dim);
        within("quantized", &q, &quantized, |i| UNIT_ROW * UNIT * quantized[i].abs());
        // The codebook term's differences are of unit rows off by 5 roundings each: as much as
        // Σ|t|(|z|+|e|) / Σt² times that, which is below 2·5 / rms(t), and rms(t) is above 1/8 of a unit row.
        loss.terms32(&cpu, [&z, &unit, &q, &g], &index, 2.0 * 2.0 * UNIT_ROW * 8.0);
        let mut got = vec![9.0; z.len()];
        let (mut dunit, mut dq) = (vec![9.0; z.len()], vec![0.0; z.len()]);
        loss::straight_through_backward(&cpu, &index, mat(&g, dim), mat_mut(&mut dunit, dim)).unwrap();
        ops::normalize_backward(&cpu, mat(&unit, dim), &norms, mat(&dunit, dim), mat_mut(&mut got, dim)).unwrap();
        loss.add32(&cpu, beta, &z, &q, &index, &mut got);
        within("dz", &got, &dz, dz_bound);
        loss.add32(&cpu, -1.0, &unit, &q, &index, &mut dq);
        let (de, _) = summed(&cpu, &dq, &index, count, dim);
        let mut got = vec![9.0; latent.len()];
        ops::normalize_backward(&cpu, mat(&codebook, dim), &code_norms, mat(&de, dim), mat_mut(&mut got, dim)).unwrap();
        within("dcodes", &got, &dcodes, dcodes_bound);

        let config = settings(case, Learner::Gradient, true, [beta, 1.0]);
        let mut quantizer = Quantizer::new(config, Initial::Codes(latent.clone())).unwrap();
        let step = Step::of(&mut quantizer, &cpu, &z, None, &g);
        assert_eq!(step.codes, index);
        within("layer's dz", &step.dx, &dz, dz_bound);
        assert_eq!(step.gradients.len(), 1);
        within("layer's dcodes", &step.gradient("latent", latent.len()), &dcodes, dcodes_bound);
    }
}

fn rotation_case(case: &Case) {
    let [x, q, g] = ["x", "q", "g"].map(|name| case.f32s(&format!("/inputs/{name}")));
    let (y, dx, dim) = (case.f64s("/expected/y"), case.f64s("/expected/dx"), case.cols("/inputs/x"));
    let codes = vec![0; x.len() / dim];
    // The value that goes forward is the code itself.
    same64("y", &wide(&q), &y);
    let (wx, wq, wg) = (wide(&x), wide(&q), wide(&g));
    let mut exact = vec![9.0; x.len()];
    loss::reference_rotation(mat(&wx, dim), mat(&wq, dim), &codes, mat(&wg, dim), &mut exact);
    same64("dx", &exact, &dx);
    // Inner products of 6 roundings each enter λ, u·g, v·g and 1 + u·v, which is above ½ in this case and
    // divides twice at most: 6·(1 + 2 + 2·2·2) relative to λ|g| for each of the three terms of a unit
    // vector at most; their own fmas vanish beside that.
    let scale = |row: usize| {
        let at = row * dim..(row + 1) * dim;
        let norm = |v: &[f64]| dot(&v[at.clone()], &v[at.clone()]).sqrt();
        norm(&wq) / norm(&wx) * norm(&wg)
    };
    for cpu in cpus() {
        let mut got = vec![9.0; x.len()];
        loss::rotation_backward(&cpu, mat(&x, dim), mat(&q, dim), &codes, mat(&g, dim), mat_mut(&mut got, dim))
            .unwrap();
        within("dx", &got, &dx, |i| 66.0 * UNIT * scale(i / dim));
    }
}

fn ema_case(case: &Case, cosine: bool) {
    let (initial, x) = (case.f32s("/inputs/codes"), case.f32s("/inputs/x"));
    let (index, decay, dim) = (case.codes("/inputs/index"), case.number("/inputs/decay"), case.cols("/inputs/codes"));
    let (count, steps) = (initial.len() / dim, case.rows("/expected/steps"));
    let rows = index.len() / steps;
    for cpu in cpus() {
        let (mut mean, mut direction) = (initial.clone(), initial.clone());
        let mut activity = Activity::new_in(vec![0.0f32; count], vec![0.0f32; count], vec![0.0f64; count]).unwrap();
        for step in 0..steps {
            let of = |name: &str| case.f64s(&format!("/expected/steps/{step}/{name}"));
            let (n, corrected, m, codes) = (of("n"), of("n_corrected"), of("m"), of("codes"));
            let (x, index) = (&x[step * rows * dim..][..rows * dim], &index[step * rows..][..rows]);
            let largest = if cosine { 0 } else { exponent(mat(x, dim), index, None).unwrap() };
            let mut statistics = Statistics::new(count, dim, largest).unwrap();
            assert_eq!(statistics.accumulate(&cpu, mat(x, dim), index, None).unwrap(), 0);
            let to = cosine.then(|| mat_mut(&mut direction, dim));
            update_means(&cpu, decay, &statistics, &activity.cluster_size, mat_mut(&mut mean, dim), to).unwrap();
            activity.observe(decay, &statistics).unwrap();

            // Each step rounds the mean and N to f32 once.
            let units = UNIT * (step + 1) as f64;
            within("n", &activity.cluster_size, &n, |k| units * n[k]);
            for (k, &want) in corrected.iter().enumerate() {
                // N / A is what a bias correction of N divides out, in units of a fair share.
                let got = activity.relative_use(k) * rows as f64 / count as f64;
                assert!((got - want).abs() <= 2.0 * units * want, "n_corrected[{k}]: {got} against {want}");
            }
            // A missed code's N is 0, or its mean the older one. N·mean, of N and old N off by a rounding a step;
            // rows' terms of a mean may cancel, so the scale is that of the largest element.
            let sums: Vec<f32> = (0..mean.len()).map(|i| activity.cluster_size[i / dim] * mean[i]).collect();
            let largest = x.iter().fold(1.0f64, |m, x| m.max(f64::from(x.abs())));
            within("m", &sums, &m, |i| (3.0 * units + UNIT) * n[i / dim] * largest);
            let hit = |i: usize| n[i / dim] > 0.0;
            // A code that was never hit keeps its bits, up to the parser's last place.
            let parsed = |i: usize| f64::EPSILON * codes[i].abs();
            match cosine {
                false => within("codes", &mean, &codes, |i| if hit(i) { 2.0 * units * largest } else { parsed(i) }),
                // A direction is off by 5 roundings, and by those of its mean, over its length.
                true => within("codes", &direction, &codes, |i| {
                    let at = i / dim * dim..(i / dim + 1) * dim;
                    let length = dot(&m[at.clone()], &m[at]).sqrt() / n[i / dim];
                    if hit(i) { UNIT_ROW * UNIT + 2.0 * units / length } else { parsed(i) }
                }),
            }
        }
    }
}

/// The peer's layer as a whole, which ran in its own f32: so twice the bounds of one side.
fn vqp_case(case: &Case, metric: Metric) {
    let [x, codebook, g] = ["x", "codes", "g"].map(|name| case.f32s(&format!("/inputs/{name}")));
    let (quantized, train_dx) = (wide(&case.f32s("/expected/quantized")), case.f64s("/expected/train_dx"));
    let (index, train_loss) = (case.codes("/expected/index"), case.number("/expected/train_loss"));
    let (dim, rows) = (case.cols("/inputs/x"), index.len());
    let (wx, wg) = (wide(&x), wide(&g));
    let (unit, norms) = unit64(&wx, dim);
    let seen = if metric == Metric::Cosine { &unit } else { &wx };
    assert_eq!(found64(seen, &wide(&codebook), dim, metric), index);
    assert_eq!(gathered64(&index, &wide(&codebook), dim), quantized);
    let scale = 2.0 / (rows * dim) as f64;
    // The gradient at the rows that were compared, and the bound of its f32 form.
    let mut dseen = wg.clone();
    loss::reference_backward(mat(seen, dim), mat(&quantized, dim), &index, None, scale, &mut dseen);
    let seen_off = |i: usize| UNIT * (4.0 * (dseen[i] - wg[i]).abs() + dseen[i].abs());
    let normed = through_norm(&dseen, &unit, &norms, dim);
    let bound: Vec<f64> = match metric {
        Metric::L2 => (0..x.len()).map(|i| 2.0 * seen_off(i)).collect(),
        Metric::Cosine => (0..x.len())
            .map(|i| {
                let at = i / dim * dim..(i / dim + 1) * dim;
                let off = |i: usize| seen_off(i) + UNIT_ROW * UNIT * scale * unit[i].abs();
                let spread: f64 = at.map(|j| unit[j].abs() * off(j)).sum();
                2.0 * (normed[i] + (off(i) + unit[i].abs() * spread) / norms[i / dim])
            })
            .collect(),
    };
    for cpu in cpus() {
        let (unit, norms) = unit32(&cpu, &x, dim);
        let seen = if metric == Metric::Cosine { &unit } else { &x };
        assert_eq!(found(&cpu, seen, None, &codebook, dim, metric), index);
        let q = gathered(&cpu, &index, &codebook, dim);
        assert_eq!(wide(&q), quantized);
        let mut total = SquaredError::default();
        loss::squared_error(&cpu, mat(seen, dim), mat(&q, dim), &index, None, &mut total).unwrap();
        // As in `vq_normalized`, on both sides.
        let units = 8.0 + rows as f64 + if metric == Metric::Cosine { 2.0 * UNIT_ROW * 8.0 } else { 0.0 };
        close("train_loss", total.mean(dim), train_loss, 2.0 * units * UNIT);
        let mut dseen = g.clone();
        loss::squared_error_backward(
            &cpu,
            mat(seen, dim),
            mat(&q, dim),
            &index,
            None,
            scale as f32,
            mat_mut(&mut dseen, dim),
        )
        .unwrap();
        let mut got = vec![9.0; x.len()];
        match metric {
            Metric::L2 => got = dseen,
            Metric::Cosine => {
                ops::normalize_backward(&cpu, mat(&unit, dim), &norms, mat(&dseen, dim), mat_mut(&mut got, dim))
                    .unwrap();
            }
        }
        within("train_dx", &got, &train_dx, |i| bound[i]);
    }
}

fn projected_codebook_case(case: &Case) {
    let [c, p, b, z, g] = ["c", "p", "b", "z", "g"].map(|name| case.f32s(&format!("/inputs/{name}")));
    let [e, quantized, dp] = ["e", "quantized", "dp"].map(|name| case.f64s(&format!("/expected/{name}")));
    let [db, dz, de] = ["db", "dz", "de"].map(|name| case.f64s(&format!("/expected/{name}")));
    let (index, gamma) = (case.codes("/expected/index"), case.number("/inputs/gamma"));
    let (dim, width) = (case.cols("/inputs/z"), case.cols("/inputs/c"));
    let count = c.len() / width;
    let loss = Loss { case, dim, weights: None, factors: [1.0, gamma] };

    let exact = [&c, &p, &b, &z, &g].map(|values| wide(values));
    let project = |[c, p, b]: [&[f64]; 3]| {
        let mut e = vec![9.0; count * dim];
        ops::project::reference(mat(c, width), mat(p, width), Some(b), &mut e);
        e
    };
    let exact_e = project([&exact[0], &exact[1], &exact[2]]);
    same64("e", &exact_e, &e);
    assert_eq!(found64(&exact[3], &exact_e, dim, Metric::L2), index);
    let exact_q = gathered64(&index, &exact_e, dim);
    same64("quantized", &exact_q, &quantized);
    loss.terms64(&exact[3], &exact[3], &exact_q, &index, &exact[4]);
    let mut exact_dz = exact[4].clone();
    loss.add64(1.0, &exact[3], &exact_q, &index, &mut exact_dz);
    same64("dz", &exact_dz, &dz);
    let mut exact_dq = vec![0.0; z.len()];
    loss.add64(-gamma, &exact[3], &exact_q, &index, &mut exact_dq);
    let exact_de = summed64(&exact_dq, &index, count, dim);
    same64("de", &exact_de, &de);
    let (mut exact_dp, mut exact_db) = (vec![0.0; p.len()], vec![0.0; b.len()]);
    ops::project::reference_backward_weight(mat(&exact_de, dim), mat(&exact[0], width), &mut exact_dp, &mut exact_db);
    same64("dp", &exact_dp, &dp);
    same64("db", &exact_db, &db);

    // A code is a chain of `width` fmas. Differences inherit that absolutely; then as in `vq`.
    let [mc, mp, mb] = [0, 1, 2].map(|i| magnitudes(&exact[i]));
    let off: Vec<f64> = project([&mc, &mp, &mb]).iter().map(|m| UNIT * width as f64 * m).collect();
    let qoff = gathered64(&index, &off, dim);
    let scale = 2.0 / loss.elements(index.len());
    let dz_bound = |i: usize| UNIT * (4.0 * (dz[i] - exact[4][i]).abs() + dz[i].abs()) + scale * qoff[i];
    let rows: Vec<f64> = (0..z.len()).map(|i| gamma * scale * qoff[i] + 5.0 * UNIT * exact_dq[i].abs()).collect();
    // Half a unit of the exact sums of rows below 4, for each row of the batch.
    let half_units = index.len() as f64 * f64::from(2 - 41).exp2();
    let de_off: Vec<f64> = summed64(&rows, &index, count, dim).iter().map(|off| off + half_units).collect();
    // The sum over codes of an error at de, and of a chain of `count` terms.
    let (mut dp_off, mut db_off) = (vec![0.0; p.len()], vec![0.0; b.len()]);
    let chain = |i: usize| de_off[i] + UNIT * count as f64 * de[i].abs();
    let spread: Vec<f64> = (0..de.len()).map(chain).collect();
    ops::project::reference_backward_weight(mat(&spread, dim), mat(&mc, width), &mut dp_off, &mut db_off);
    for cpu in cpus() {
        let mut codebook = vec![9.0; e.len()];
        ops::project(&cpu, mat(&c, width), mat(&p, width), Some(&b), mat_mut(&mut codebook, dim)).unwrap();
        within("e", &codebook, &e, |i| off[i]);
        assert_eq!(found(&cpu, &z, None, &codebook, dim, Metric::L2), index);
        let q = gathered(&cpu, &index, &codebook, dim);
        within("quantized", &q, &quantized, |i| qoff[i]);
        // Codes' own error, relative to the differences as in `vq_normalized`.
        let units = 2.0 * qoff.iter().sum::<f64>() / dot(&differences(&exact[3], &exact_q), &vec![1.0; z.len()]) / UNIT;
        loss.terms32(&cpu, [&z, &z, &q, &g], &index, units);
        let mut got = vec![9.0; z.len()];
        loss::straight_through_backward(&cpu, &index, mat(&g, dim), mat_mut(&mut got, dim)).unwrap();
        loss.add32(&cpu, 1.0, &z, &q, &index, &mut got);
        within("dz", &got, &dz, dz_bound);
        let mut dq = vec![0.0; z.len()];
        loss.add32(&cpu, -gamma, &z, &q, &index, &mut dq);
        let (got_de, _) = summed(&cpu, &dq, &index, count, dim);
        within("de", &got_de, &de, |i| de_off[i]);
        let (mut got_dp, mut got_db) = (vec![0.0; p.len()], vec![0.0; b.len()]);
        let to = mat_mut(&mut got_dp, width);
        ops::project_backward_weight(&cpu, mat(&got_de, dim), mat(&c, width), to, Some(&mut got_db)).unwrap();
        let narrow = |v: &[f64]| v.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let rounded = |i: usize, off: &[f64], want: &[f64]| off[i] + UNIT * want[i].abs();
        within("dp", &narrow(&got_dp), &dp, |i| rounded(i, &dp_off, &dp));
        within("db", &narrow(&got_db), &db, |i| rounded(i, &db_off, &db));

        // The layer's projector starts at random: a first step whose optimizer sets it.
        let config = settings(case, Learner::Projector { source_dim: width }, false, [1.0, gamma]);
        let mut quantizer = Quantizer::new(config, Initial::Codes(c.clone())).unwrap();
        quantizer.train_step(&cpu, mat(&z, dim), None, |_, _| ()).unwrap();
        quantizer
            .apply(&cpu, |update| match update.name {
                "projector.weight" => update.values.copy_from_slice(&p),
                "projector.bias" => update.values.copy_from_slice(&b),
                name => panic!("nothing but the projector is learned, and {name} is not it"),
            })
            .unwrap();
        assert_eq!(quantizer.codebook().data(), codebook);
        let step = Step::of(&mut quantizer, &cpu, &z, None, &g);
        assert_eq!(step.codes, index);
        within("layer's dz", &step.dx, &dz, dz_bound);
        assert_eq!(step.gradients.len(), 2);
        within("layer's dp", &step.gradient("projector.weight", p.len()), &dp, |i| rounded(i, &dp_off, &dp));
        within("layer's db", &step.gradient("projector.bias", b.len()), &db, |i| rounded(i, &db_off, &db));
        let relative = UNIT * (8.0 + index.len() as f64 + units);
        close("layer's codebook term", step.report.loss.codebook, case.number("/expected/codebook"), relative);
        close("layer's commitment", step.report.loss.commitment, case.number("/expected/commit"), relative);
    }
}

fn differences(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).collect()
}

#[test]
fn leaves_are_all_tensors_and_numbers() {
    let mut found = BTreeSet::new();
    leaves(&serde_json::json!({"a": {"b": [[1, 2]], "c": 3}, "steps": [{"n": [1]}, {"n": [2]}]}), "", &mut found);
    let want = ["/a/b", "/a/c", "/steps/0/n", "/steps/1/n"];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), want);
}
