//! Every backward against central differences in f64.
//!
//! Codes are held fixed and stop-gradients respected: what is differentiated is the surrogate whose
//! gradient the estimator defines. Central differences at a step of 2⁻¹⁷ are good to 1e-10 here, so
//! what is allowed is f32's rounding alone.

mod golden_support;

use golden_support::{UNIT, cpus, mat, mat_mut, wide};
use std::collections::BTreeMap;
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner, Quantizer, StateRef};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, NO_CODE, ops};

/// Relative to the largest element of a gradient. Elements are sums of up to 100 terms and pass up to
/// four ops: around 100 roundings of 2⁻²⁴, some of which cancel. A wrong factor or sign is off by far more.
const TOLERANCE: f64 = 64.0 * UNIT;

fn normals(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed, 0);
    (0..count).map(|_| rng.normal()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The gradient of `f` at `x`.
fn differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1.0 / (1 << 17) as f64;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let above = f(&x);
            x[i] = at - STEP;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

fn same(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(largest > 1e-3, "{what}: a gradient of {largest:e} tests nothing");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= TOLERANCE * largest, "{what}[{i}]: {got} against {want} of at most {largest}");
    }
}

// Ops

#[test]
fn projection_gradients_are_those_of_its_reference() {
    for (rows, inputs, outputs) in [(1, 1, 1), (9, 12, 5), (7, 5, 33), (13, 37, 3)] {
        let (x, w) = (normals(1, rows * inputs), normals(2, outputs * inputs));
        let (b, dy) = (normals(3, outputs), normals(4, rows * outputs));
        let [wx, ww, wb, wdy] = [&x, &w, &b, &dy].map(|v| wide(v));
        let value = |x: &[f64], w: &[f64], b: &[f64]| {
            let mut y = vec![0.0; rows * outputs];
            ops::project::reference(mat(x, inputs), mat(w, inputs), Some(b), &mut y);
            dot(&y, &wdy)
        };
        let want_dx = differences(&wx, |x| value(x, &ww, &wb));
        let want_dw = differences(&ww, |w| value(&wx, w, &wb));
        let want_db = differences(&wb, |b| value(&wx, &ww, b));
        for cpu in cpus() {
            let (mut dx, mut dw, mut db) = (vec![9.0; x.len()], vec![0.0; w.len()], vec![0.0; outputs]);
            ops::project_backward_input(&cpu, mat(&dy, outputs), mat(&w, inputs), mat_mut(&mut dx, inputs)).unwrap();
            let to = mat_mut(&mut dw, inputs);
            ops::project_backward_weight(&cpu, mat(&dy, outputs), mat(&x, inputs), to, Some(&mut db)).unwrap();
            same("dx", &wide(&dx), &want_dx);
            same("dw", &dw, &want_dw);
            same("db", &db, &want_db);
        }
    }
}

#[test]
fn weight_gradients_add_to_what_is_there() {
    let (x, dy) = (normals(1, 12), normals(2, 8));
    for cpu in cpus() {
        let run = |dw: &mut [f64], db: &mut [f64]| {
            ops::project_backward_weight(&cpu, mat(&dy, 2), mat(&x, 3), mat_mut(dw, 3), Some(db)).unwrap();
        };
        let (mut dw, mut db) = ([0.0; 6], [0.0; 2]);
        run(&mut dw, &mut db);
        let once = (dw, db);
        run(&mut dw, &mut db);
        assert_eq!((dw, db), (once.0.map(|x| 2.0 * x), once.1.map(|x| 2.0 * x)));
    }
}

#[test]
fn normalization_gradient_is_that_of_its_reference() {
    for (rows, dim) in [(5, 2), (9, 7), (4, 33), (3, 100)] {
        let (x, dy) = (normals(5, rows * dim), normals(6, rows * dim));
        let wdy = wide(&dy);
        let want = differences(&wide(&x), |x| {
            let (mut y, mut norms) = (vec![0.0; x.len()], vec![0.0; rows]);
            ops::normalize::reference(x, dim, &mut y, &mut norms);
            dot(&y, &wdy)
        });
        for cpu in cpus() {
            let (mut y, mut norms, mut dx) = (vec![9.0; x.len()], vec![9.0; rows], vec![9.0; x.len()]);
            ops::normalize(&cpu, mat(&x, dim), mat_mut(&mut y, dim), Some(&mut norms)).unwrap();
            ops::normalize_backward(&cpu, mat(&y, dim), &norms, mat(&dy, dim), mat_mut(&mut dx, dim)).unwrap();
            same("dx", &wide(&dx), &want);
        }
    }
}

/// Codes and weights of 7 rows, among them one without a code and one of weight zero.
const CODES: [u32; 7] = [0, 3, NO_CODE, 2, 2, 1, 0];
const WEIGHTS: [f32; 7] = [1.0, 0.5, 1.0, 0.0, 0.25, 1.0, 0.75];

#[test]
fn squared_error_gradient_is_that_of_its_reference() {
    for dim in [1, 6, 33] {
        for weights in [None, Some(&WEIGHTS)] {
            let (x, q, scale) = (normals(7, 7 * dim), normals(8, 7 * dim), 0.7f32);
            let (wq, wide_weights) = (wide(&q), weights.map(|w| wide(w)));
            let want = differences(&wide(&x), |x| {
                let mut total = SquaredError::default();
                loss::reference(mat(x, dim), mat(&wq, dim), &CODES, wide_weights.as_deref(), &mut total);
                f64::from(scale) / 2.0 * total.sum
            });
            for cpu in cpus() {
                let (mut dx, weights) = (vec![0.5; x.len()], weights.map(|w| &w[..]));
                let (mx, mq) = (mat(&x, dim), mat(&q, dim));
                loss::squared_error_backward(&cpu, mx, mq, &CODES, weights, scale, mat_mut(&mut dx, dim)).unwrap();
                // It adds to what is there.
                same("dx", &dx.iter().map(|&x| f64::from(x) - 0.5).collect::<Vec<_>>(), &want);
            }
        }
    }
}

#[test]
fn straight_through_is_the_identity_on_rows_with_a_code() {
    for dim in [1, 6, 33] {
        let g = normals(9, 7 * dim);
        for cpu in cpus() {
            let mut dx = vec![9.0; g.len()];
            loss::straight_through_backward(&cpu, &CODES, mat(&g, dim), mat_mut(&mut dx, dim)).unwrap();
            for (row, code) in CODES.iter().enumerate() {
                let at = row * dim..(row + 1) * dim;
                match *code {
                    NO_CODE => assert!(dx[at].iter().all(|&x| x == 0.0)),
                    _ => assert_eq!(dx[at.clone()], g[at]),
                }
            }
        }
    }
}

/// `λ R` of a row, as a matrix: the rotation in the plane of x and q that takes x's direction to q's,
/// by its definition `R = 1 − 2 w wᵀ + 2 v uᵀ`.
fn rotation(x: &[f64], q: &[f64]) -> Vec<Vec<f64>> {
    let length = |a: &[f64]| dot(a, a).sqrt();
    let unit = |a: &[f64]| a.iter().map(|x| x / length(a)).collect::<Vec<_>>();
    let (u, v, scale) = (unit(x), unit(q), length(q) / length(x));
    let w = unit(&u.iter().zip(&v).map(|(u, v)| u + v).collect::<Vec<_>>());
    let entry = |i: usize, j: usize| scale * (f64::from(u8::from(i == j)) - 2.0 * w[i] * w[j] + 2.0 * v[i] * u[j]);
    (0..x.len()).map(|i| (0..x.len()).map(|j| entry(i, j)).collect()).collect()
}

fn times(matrix: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| dot(row, x)).collect()
}

#[test]
fn rotation_gradient_is_the_transpose_of_the_map_that_takes_the_row_to_its_code() {
    for dim in [2, 6, 33] {
        let rows = CODES.len();
        // q near x, so that the rotation is one of less than a half turn.
        let (x, off, g) = (normals(10, rows * dim), normals(11, rows * dim), normals(12, rows * dim));
        let q: Vec<f32> = x.iter().zip(&off).map(|(x, off)| 1.5 * x + 0.7 * off).collect();
        let [wx, wq, wg] = [&x, &q, &g].map(|v| wide(v));
        for cpu in cpus() {
            let (mut dx, mut exact) = (vec![9.0; x.len()], vec![9.0; x.len()]);
            let (mx, mq, mg) = (mat(&x, dim), mat(&q, dim), mat(&g, dim));
            loss::rotation_backward(&cpu, mx, mq, &CODES, mg, mat_mut(&mut dx, dim)).unwrap();
            loss::reference_rotation(mat(&wx, dim), mat(&wq, dim), &CODES, mat(&wg, dim), &mut exact);
            for (row, &code) in CODES.iter().enumerate() {
                let at = row * dim..(row + 1) * dim;
                if code == NO_CODE {
                    assert!(dx[at].iter().all(|&x| x == 0.0));
                    continue;
                }
                let (x, q, g) = (&wx[at.clone()], &wq[at.clone()], &wg[at.clone()]);
                let map = rotation(x, q);
                // Forward: x goes to q, and lengths are scaled alike.
                let scale = (dot(q, q) / dot(x, x)).sqrt();
                for (got, want) in times(&map, x).iter().zip(q) {
                    assert!((got - want).abs() < 1e-12 * scale * dot(x, x).sqrt());
                }
                assert!((dot(&times(&map, g), &times(&map, g)) / (scale * scale * dot(g, g)) - 1.0).abs() < 1e-12);
                // Backward: <g, J x'> = <Jᵀ g, x'> for each unit vector and some others.
                let (got, limit) = (wide(&dx[at.clone()]), scale * dot(g, g).sqrt());
                let unit_vectors = (0..dim).map(|i| (0..dim).map(|j| f64::from(u8::from(i == j))).collect());
                for probe in unit_vectors.chain((0..3).map(|seed| wide(&normals(20 + seed, dim)))) {
                    let (want, length) = (dot(g, &times(&map, &probe)), dot(&probe, &probe).sqrt());
                    assert!((dot(&exact[at.clone()], &probe) - want).abs() <= 1e-12 * limit * length);
                    assert!((dot(&got, &probe) - want).abs() <= TOLERANCE * limit * length, "row {row}, dim {dim}");
                }
            }
        }
    }
}

#[test]
fn rotation_without_a_direction_is_straight_through() {
    let g = [0.25f32, -3.0];
    for (x, q, why) in [
        ([0.0f32, 0.0], [1.0f32, 2.0], "no row direction"),
        ([1.0, 2.0], [0.0, 0.0], "no code direction"),
        ([1.0, 2.0], [-2.0, -4.0], "opposite"),
        ([1e20, 1e20], [1.0, 2.0], "the row's length overflows"),
        ([1.0, 2.0], [1e20, 1e20], "the code's length overflows"),
    ] {
        for cpu in cpus() {
            let mut dx = [9.0; 2];
            loss::rotation_backward(&cpu, mat(&x, 2), mat(&q, 2), &[0], mat(&g, 2), mat_mut(&mut dx, 2)).unwrap();
            assert_eq!(dx, g, "{why}");
        }
    }
}

// The whole step

const INPUTS: usize = 7;
const DIM: usize = 5;
const COUNT: usize = 6;
const SOURCE: usize = 4;
const ROWS: usize = 19;

struct Step {
    learner: Learner,
    factorize: bool,
    normalize: bool,
    estimator: Estimator,
    weighted: bool,
    why: &'static str,
}

/// A state by name, in f64: what the surrogate is a function of.
type Tensors = BTreeMap<&'static str, Vec<f64>>;

fn tensors(quantizer: &Quantizer) -> Tensors {
    let f32s = |(name, values)| match values {
        StateRef::F32(values) => Some((name, wide(values))),
        StateRef::F64(_) | StateRef::U64(_) => None,
    };
    quantizer.state().into_iter().filter_map(f32s).collect()
}

/// What stop-gradients hold fixed.
struct Fixed {
    codes: Vec<u32>,
    weights: Option<Vec<f64>>,
    /// The head's gradient at the output, where it counts.
    g: Vec<f64>,
    /// Searched and quantized rows at the point where the gradient is taken.
    searched: Vec<f64>,
    quantized: Vec<f64>,
}

fn linear(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let inputs = weight.len() / bias.len();
    x.chunks(inputs).flat_map(|x| weight.chunks(inputs).zip(bias).map(move |(w, b)| dot(x, w) + b)).collect()
}

fn units(x: &[f64]) -> Vec<f64> {
    x.chunks(DIM).flat_map(|x| x.iter().map(|v| v / dot(x, x).sqrt())).collect()
}

impl Step {
    fn config(&self) -> Config {
        Config {
            inputs: if self.factorize { INPUTS } else { DIM },
            dim: DIM,
            codes: COUNT,
            learner: self.learner,
            factorize: self.factorize,
            normalize: self.normalize,
            restart: None,
            estimator: self.estimator,
            decay: 0.9,
            // Neither is 1, nor do they cancel.
            commitment_weight: 0.4,
            codebook_weight: 1.7,
            seed: 3,
        }
    }

    /// Un-normalized and searched rows.
    fn rows(&self, x: &[f64], of: &Tensors) -> [Vec<f64>; 2] {
        let z = match self.factorize {
            true => linear(x, &of["project_in.weight"], &of["project_in.bias"]),
            false => x.to_vec(),
        };
        let searched = if self.normalize { units(&z) } else { z.clone() };
        [z, searched]
    }

    fn codes(&self, of: &Tensors) -> Vec<f64> {
        let raw = match (self.learner, self.normalize) {
            (Learner::Projector { .. }, _) => linear(&of["source"], &of["projector.weight"], &of["projector.bias"]),
            (Learner::Gradient, true) => of["latent"].clone(),
            // Moving averages have no gradient, and frozen codes are as search sees them.
            (Learner::Ema | Learner::Frozen, _) | (Learner::Gradient, false) => return of["codebook"].clone(),
        };
        if self.normalize { units(&raw) } else { raw }
    }

    fn gathered(codes: &[u32], codebook: &[f64]) -> Vec<f64> {
        let row = |&k: &u32| match k {
            NO_CODE => vec![0.0; DIM],
            k => codebook[k as usize * DIM..][..DIM].to_vec(),
        };
        codes.iter().flat_map(row).collect()
    }

    /// `<g, output> + β mean w|z − sg(q)|² + γ mean w|sg(searched) − q|²`; the output is that of the
    /// code's row, on which the searched row acts through the estimator's map.
    fn surrogate(&self, x: &[f64], of: &Tensors, fixed: &Fixed) -> f64 {
        let [z, searched] = self.rows(x, of);
        let q = Self::gathered(&fixed.codes, &self.codes(of));
        let mut through = fixed.quantized.clone();
        let (mut commitment, mut codebook, mut weight) = (0.0, 0.0, 0.0);
        for (row, &code) in fixed.codes.iter().enumerate() {
            let at = row * DIM..(row + 1) * DIM;
            let w = fixed.weights.as_ref().map_or(1.0, |w| w[row]);
            if code == NO_CODE {
                continue;
            }
            let fixed_row = &fixed.searched[at.clone()];
            let moved: Vec<f64> = searched[at.clone()].iter().zip(fixed_row).map(|(a, b)| a - b).collect();
            let moved = match self.estimator {
                Estimator::StraightThrough => moved,
                Estimator::Rotation => times(&rotation(fixed_row, &fixed.quantized[at.clone()]), &moved),
            };
            through[at.clone()].iter_mut().zip(moved).for_each(|(q, moved)| *q += moved);
            let square = |a: &[f64], b: &[f64]| {
                a[at.clone()].iter().zip(&b[at.clone()]).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
            };
            commitment += w * square(&z, &fixed.quantized);
            codebook += w * square(&fixed.searched, &q);
            weight += w;
        }
        let output = match self.factorize {
            true => linear(&through, &of["project_out.weight"], &of["project_out.bias"]),
            false => through,
        };
        let config = self.config();
        dot(&output, &fixed.g)
            + (config.commitment_weight * commitment + config.codebook_weight * codebook) / (weight * DIM as f64)
    }

    /// Tensors that `apply` must show.
    fn learned(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.factorize {
            names.extend(["project_in.weight", "project_in.bias", "project_out.weight", "project_out.bias"]);
        }
        match self.learner {
            Learner::Projector { .. } => names.extend(["projector.weight", "projector.bias"]),
            Learner::Gradient => names.push(if self.normalize { "latent" } else { "codebook" }),
            Learner::Ema | Learner::Frozen => {}
        }
        names
    }

    fn check(&self, cpu: &Cpu) {
        let why = self.why;
        let mut quantizer = Quantizer::new(self.config(), Initial::Normal).unwrap();
        let inputs = quantizer.config().inputs;
        let (x, g) = (normals(30, ROWS * inputs), normals(31, ROWS * inputs));
        let weights: Option<Vec<f32>> =
            self.weighted.then(|| (0..ROWS).map(|row| [1.0, 0.0, 0.5, 0.25, 1.0][row % 5]).collect());
        // A first step and update, so that no parameter is at a special place such as a bias of zero.
        for step in 0..2 {
            let first = normals(40 + step, ROWS * inputs);
            quantizer
                .train_step(cpu, mat(&first, inputs), None, |_, gradient| gradient.copy_from_slice(&first))
                .unwrap();
            quantizer
                .apply(cpu, |update| update.values.iter_mut().zip(update.gradient).for_each(|(v, g)| *v -= 0.05 * g))
                .unwrap();
        }
        let of = tensors(&quantizer);
        let head = |_: vq_kernels::MatRef, gradient: &mut [f32]| gradient.copy_from_slice(&g);
        let report = quantizer.train_step(cpu, mat(&x, inputs), weights.as_deref(), head).unwrap();

        let codes = quantizer.last_codes().to_vec();
        let exact_x = wide(&x);
        let [_, searched] = self.rows(&exact_x, &of);
        let quantized = Self::gathered(&codes, &self.codes(&of));
        // A row without a code is not trained on: the head's gradient there counts for nothing.
        let counts = |i: usize| f64::from(u8::from(codes[i / inputs] != NO_CODE));
        let counted = g.iter().enumerate().map(|(i, &g)| f64::from(g) * counts(i)).collect();
        let fixed = Fixed { codes, weights: weights.as_deref().map(wide), g: counted, searched, quantized };
        assert!(report.active >= 3, "{why}: a code's sum of several rows is part of what is tested");
        assert_eq!(fixed.codes.contains(&NO_CODE), self.weighted, "{why}");

        let want = differences(&exact_x, |x| self.surrogate(x, &of, &fixed));
        same(&format!("{why}: x"), &wide(quantizer.last_input_gradient()), &want);
        let mut got = Tensors::new();
        quantizer
            .apply(cpu, |update| {
                let tensor = got.entry(update.name).or_insert_with(|| vec![0.0; of[update.name].len()]);
                let at = update.offset..update.offset + update.gradient.len();
                assert_eq!(wide(update.values), of[update.name][at.clone()], "{why}: values are those of the step");
                tensor[at].copy_from_slice(&wide(update.gradient));
            })
            .unwrap();
        let mut learned = self.learned();
        learned.sort_unstable();
        assert_eq!(got.keys().copied().collect::<Vec<_>>(), learned, "{why}");
        for (name, got) in got {
            let want = differences(&of[name], |values| {
                let mut of = of.clone();
                of.insert(name, values.to_vec());
                self.surrogate(&exact_x, &of, &fixed)
            });
            same(&format!("{why}: {name}"), &got, &want);
        }
    }
}

#[test]
fn the_whole_steps_gradients_are_those_of_its_surrogate() {
    use Estimator::{Rotation, StraightThrough};
    use Learner::{Ema, Frozen, Gradient};
    let lc = Learner::Projector { source_dim: SOURCE };
    let step = |learner, factorize, normalize, estimator, weighted, why| Step {
        learner,
        factorize,
        normalize,
        estimator,
        weighted,
        why,
    };
    let steps = [
        step(Gradient, false, false, StraightThrough, false, "VQGAN"),
        step(Gradient, false, true, StraightThrough, false, "normalized codes, not factorized"),
        step(Gradient, true, false, StraightThrough, false, "factorized codes"),
        step(Gradient, true, true, StraightThrough, false, "VQGAN-FC"),
        step(Ema, true, true, StraightThrough, false, "moving averages get no gradient"),
        step(Ema, false, false, StraightThrough, false, "VQGAN-EMA"),
        step(Frozen, true, true, StraightThrough, false, "frozen codes get no gradient"),
        step(Frozen, false, false, Rotation, false, "frozen codes, rotation"),
        step(lc, false, false, StraightThrough, false, "VQGAN-LC"),
        step(lc, false, true, StraightThrough, false, "projector through the norm"),
        step(lc, true, true, StraightThrough, false, "projector, factorized and normalized"),
        step(lc, true, false, Rotation, true, "projector, rotation, weights"),
        step(Gradient, false, false, StraightThrough, true, "weights, rows as they are"),
        step(Gradient, true, true, StraightThrough, true, "weights, all fixes"),
        step(lc, false, true, StraightThrough, true, "weights, projector through the norm"),
        step(Gradient, false, false, Rotation, false, "rotation"),
        step(Gradient, true, true, Rotation, false, "rotation of unit rows, factorized"),
        step(Ema, false, true, Rotation, true, "rotation of unit rows, weights"),
    ];
    for cpu in cpus() {
        steps.iter().for_each(|step| step.check(&cpu));
    }
}

#[test]
fn a_row_that_is_not_finite_counts_as_one_of_weight_zero() {
    let cpu = Cpu::new();
    for (normalize, estimator) in
        [(false, Estimator::StraightThrough), (true, Estimator::StraightThrough), (true, Estimator::Rotation)]
    {
        for learner in [Learner::Gradient, Learner::Projector { source_dim: SOURCE }] {
            let why = "";
            let config = Step { learner, factorize: true, normalize, estimator, weighted: true, why }.config();
            let (good, g) = (normals(50, ROWS * INPUTS), normals(51, ROWS * INPUTS));
            let gradients = |x: &[f32], weight: f32| {
                let mut weights = [1.0; ROWS];
                weights[4] = weight;
                let mut quantizer = Quantizer::new(config, Initial::Normal).unwrap();
                let head = |_: vq_kernels::MatRef, gradient: &mut [f32]| gradient.copy_from_slice(&g);
                quantizer.train_step(&cpu, mat(x, INPUTS), Some(&weights), head).unwrap();
                let mut all = vec![("x", 0, quantizer.last_input_gradient().to_vec())];
                quantizer.apply(&cpu, |u| all.push((u.name, u.offset, u.gradient.to_vec()))).unwrap();
                assert!(all.iter().all(|(_, _, gradient)| gradient.iter().all(|g| g.is_finite())));
                all
            };
            let want = gradients(&good, 0.0);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for weight in [0.0, 1.0] {
                    let mut x = good.clone();
                    x[4 * INPUTS + 2] = bad;
                    assert_eq!(gradients(&x, weight), want, "{bad} of weight {weight}, {config:?}");
                }
            }
        }
    }
}
