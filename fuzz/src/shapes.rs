//! Every public function with lengths, codes, weights and settings that need not fit: `Ok` or `Err`, never a panic.

use vq_kernels::kmeans::{KMeans, Seeds};
use vq_kernels::ops::ema::{self, Activity, Statistics};
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::ops::restart::{self, Restarted, Rule};
use vq_kernels::ops::{self, Candidate, usage};
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner, Loss, Quantizer, StateMut, StateRef};
use vq_kernels::{Cpu, Error, Line, MatMut, MatRef, NO_CODE, PackedCodebook, Packing};

use crate::Reach;
use crate::input::{Input, SPECIAL};

const OK: usize = 0;
const REFUSED: usize = 1;

/// One small extent most of the time, so that calls often fit but for one argument.
struct Wrong<'a, 'b> {
    input: &'a mut Input<'b>,
    usual: usize,
    reach: &'a Reach,
}

impl Wrong<'_, '_> {
    fn len(&mut self) -> usize {
        match self.input.below(8) {
            0 => self.input.below(7),
            _ => self.usual,
        }
    }

    fn f32s(&mut self, len: usize) -> Vec<f32> {
        self.input.values(len)
    }

    /// A matrix whose extents agree with nothing but its own length.
    fn rows(&mut self) -> (Vec<f32>, usize, usize) {
        let (rows, cols) = (self.len(), self.len());
        (self.f32s(rows * cols), rows, cols)
    }

    fn codes(&mut self) -> Vec<u32> {
        let (len, codes) = (self.len(), self.usual + self.input.once_in(6) as usize);
        (0..len)
            .map(
                |_| if self.input.bits().is_multiple_of(5) { NO_CODE } else { self.input.bits() as u32 % codes as u32 },
            )
            .collect()
    }

    fn weights(&mut self) -> Option<Vec<f32>> {
        let len = self.len();
        match self.input.below(8) {
            0 => Some(self.f32s(len)),
            1 => Some(vec![0.5; len]),
            _ => None,
        }
    }

    fn f64(&mut self) -> f64 {
        let special = f64::from(self.input.pick(&SPECIAL));
        self.input.pick(&[0.99, 0.5, 0.0, special])
    }

    fn done<T>(&self, result: Result<T, Error>) -> Option<T> {
        self.reach.mark(if result.is_ok() { OK } else { REFUSED });
        // Its message is part of what must not panic.
        result.inspect_err(|error| assert!(!error.to_string().is_empty())).ok()
    }

    fn packed(&mut self) -> Option<PackedCodebook<Vec<Line>>> {
        let packing = self.input.pick(&[Packing::Int8, Packing::F32, Packing::Caps]);
        let ((c, k, d), metric) = (self.rows(), self.input.metric());
        let packed = PackedCodebook::with_packing(view(&c, k, d), metric, packing);
        self.done(packed)
    }

    fn statistics(&mut self) -> Option<Statistics<Vec<i64>>> {
        let (weights, sums, dim) = (self.len(), self.len() * self.usual, self.len());
        let exponent = self.input.pick(&[0, 128, i32::MIN, i32::MAX, -150, 3]);
        match self.input.below(3) {
            0 => {
                let mut parts = |n: usize| (0..n).map(|_| self.input.bits() as i64 >> 1).collect::<Vec<_>>();
                let parts = Statistics::from_parts(parts(weights), parts(sums), dim, exponent);
                self.done(parts)
            }
            1 => self.done(Statistics::new_in(vec![1; weights], vec![1; sums], dim, exponent)),
            _ => self.done(Statistics::new(weights, dim, exponent)),
        }
    }

    fn activity(&mut self) -> Activity<Vec<f32>, Vec<f64>> {
        let [a, b, c] = [0; 3].map(|_| self.len());
        let mut activity = Activity::new(a);
        activity.exposure = self.f32s(b);
        activity.last_seen = (0..c).map(|_| f64::from(self.input.uniform())).collect();
        activity.rows_seen = self.f64();
        activity
    }
}

/// A result that need not be anything.
fn ignore<T>(_: Option<T>) {}

fn view<T>(data: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::new(data, rows, cols).expect("a matrix of its own length")
}

fn into<T>(data: &mut [T], rows: usize, cols: usize) -> MatMut<'_, T> {
    MatMut::new(data, rows, cols).expect("a matrix of its own length")
}

pub fn shapes(input: &mut Input, reach: &Reach) {
    let (usual, cpu) = (1 + input.below(4), input.cpu());
    reach.tier(&cpu);
    let mut wrong = Wrong { input, usual, reach };
    match wrong.input.below(7) {
        0 => views(&mut wrong),
        1 => searches(&mut wrong, &cpu),
        2 => rows(&mut wrong, &cpu),
        3 => losses(&mut wrong, &cpu),
        4 => averages(&mut wrong, &cpu),
        5 => quantizers(&mut wrong, &cpu),
        _ => streams(&mut wrong, &cpu),
    }
}

fn views(wrong: &mut Wrong) {
    let len = wrong.len();
    let mut data = vec![1u16; len];
    let huge = [wrong.len(), 0, 1, usize::MAX, 1 << 63, 1 << 32, usize::MAX / 2];
    let (rows, cols, at) = (wrong.input.pick(&huge), wrong.input.pick(&huge), wrong.input.pick(&huge));
    if let Some(view) = wrong.done(MatRef::new(&data, rows, cols)) {
        assert!(view.row(at).len() == cols || view.row(at).is_empty());
        assert!(view.rows_from(at, rows).rows() <= rows);
    }
    if let Some(mut view) = wrong.done(MatMut::new(&mut data, rows, cols)) {
        assert!(view.row(at).len() == cols || view.reborrow().row(at).is_empty());
        assert_eq!(view.as_ref().data().len(), len);
    }
    let (metric, packing) = (wrong.input.metric(), wrong.input.pick(&[Packing::Int8, Packing::F32, Packing::Caps]));
    let lines = PackedCodebook::lines_len(rows, cols, metric, packing);
    let held = vec![Line([0.0; 16]); lines.min(600)];
    wrong.done(PackedCodebook::from_lines(&held[..], rows, cols, metric, packing));
    let name = wrong.input.pick(&["auto", "scalar", "avx512", "", "neon", "sse9"]);
    wrong.done(vq_kernels::Isa::from_name(name));
    let len = restart::scratch_len(rows);
    assert!(len == usize::MAX || len >= rows);
}

fn searches(wrong: &mut Wrong, cpu: &Cpu) {
    let Some(mut packed) = wrong.packed() else { return };
    let ((x, n, d), weights) = (wrong.rows(), wrong.weights());
    let (x, w) = (view(&x, n, d), weights.as_deref());
    let (mut codes, mut narrow) = (vec![0u32; wrong.len()], vec![0u16; wrong.len()]);
    let mut scores = vec![0.0; wrong.len()];
    wrong.done(ops::search(cpu, x, w, &packed, &mut codes, Some(&mut scores)));
    wrong.done(ops::search(cpu, x, w, &packed, &mut narrow, None));
    let (rows, m, free) = (wrong.len(), wrong.len(), wrong.len());
    let mut best = vec![Candidate::NONE; rows * m];
    wrong.done(ops::search_top(cpu, x, w, &packed, into(&mut best, rows, m)));
    wrong.done(ops::search_mth(cpu, x, w, &packed, m, &mut codes, &mut best[..free.min(rows * m)]));
    let ((c, k, d), changed) = (wrong.rows(), wrong.codes());
    wrong.done(packed.repack_codes(view(&c, k, d), &changed));
    wrong.done(packed.repack(view(&c, k, d)));
    let (metric, packing, len) = (packed.metric(), packed.packing(), packed.lines().len() + wrong.input.below(2));
    wrong.done(PackedCodebook::pack_into(view(&c, k, d), metric, packing, vec![Line([0.0; 16]); len]));
}

fn rows(wrong: &mut Wrong, cpu: &Cpu) {
    let ((a, an, ad), (b, bn, bd), (c, cn, cd)) = (wrong.rows(), wrong.rows(), wrong.rows());
    let (a, b, mut c) = (view(&a, an, ad), view(&b, bn, bd), c);
    let lengths = wrong.len();
    let (mut vector, codes) = (wrong.f32s(lengths), wrong.codes());
    wrong.done(ops::project(cpu, a, b, Some(&vector), into(&mut c, cn, cd)));
    wrong.done(ops::project(cpu, a, b, None, into(&mut c, cn, cd)));
    wrong.done(ops::project_backward_input(cpu, a, b, into(&mut c, cn, cd)));
    let (mut dw, mut db) = (vec![0.0f64; cn * cd], vec![0.0f64; lengths]);
    wrong.done(ops::project_backward_weight(cpu, a, b, into(&mut dw, cn, cd), Some(&mut db)));
    wrong.done(ops::normalize(cpu, a, into(&mut c, cn, cd), Some(&mut vector)));
    wrong.done(ops::normalize_backward(cpu, a, &vector, b, into(&mut c, cn, cd)));
    wrong.done(ops::gather(cpu, &codes, a, into(&mut c, cn, cd)));
    let narrow: Vec<u16> = codes.iter().map(|&code| code as u16).collect();
    wrong.done(ops::gather(cpu, &narrow, a, into(&mut c, cn, cd)));
}

fn losses(wrong: &mut Wrong, cpu: &Cpu) {
    let ((x, n, d), (q, qn, qd), (g, gn, gd)) = (wrong.rows(), wrong.rows(), wrong.rows());
    let (x, q, mut g) = (view(&x, n, d), view(&q, qn, qd), g);
    let (codes, weights, mut total) = (wrong.codes(), wrong.weights(), SquaredError::default());
    wrong.done(loss::squared_error(cpu, x, q, &codes, weights.as_deref(), &mut total));
    let w = weights.as_deref();
    wrong.done(loss::squared_error_backward(cpu, x, q, &codes, w, f32::NAN, into(&mut g, gn, gd)));
    wrong.done(loss::straight_through_backward(cpu, &codes, x, into(&mut g, gn, gd)));
    wrong.done(loss::rotation_backward(cpu, x, q, &codes, q, into(&mut g, gn, gd)));
    let _ = total.mean(wrong.len());
    let (mut counts, mut remap, cols) = (vec![u64::MAX - 1; wrong.len()], wrong.codes(), wrong.len());
    wrong.done(usage::count(&codes, w, &mut counts));
    let _ = usage::Usage::of(&counts).utilization();
    let at_least = wrong.input.below(3) as u64;
    wrong.done(usage::prune(&counts, at_least, &mut remap));
    wrong.done(usage::compact(&mut g, cols, &remap));
    let mut codes = codes;
    wrong.done(usage::renumber(&mut codes, &remap));
}

fn averages(wrong: &mut Wrong, cpu: &Cpu) {
    let ((x, n, d), codes, weights) = (wrong.rows(), wrong.codes(), wrong.weights());
    let (x, w) = (view(&x, n, d), weights.as_deref());
    wrong.done(ema::exponent(x, &codes, w));
    let mut activity = wrong.activity();
    if let Some(mut statistics) = wrong.statistics() {
        wrong.done(statistics.accumulate(cpu, x, &codes, w));
        if let Some(other) = wrong.statistics() {
            wrong.done(statistics.merge(&other));
        }
        let (decay, exponent) = (wrong.f64(), wrong.input.pick(&[0, i32::MIN, i32::MAX, 100]));
        let ((mut mean, k, d), (mut direction, dk, dd)) = (wrong.rows(), wrong.rows());
        let sizes = wrong.len();
        let (sizes, to) = (wrong.f32s(sizes), Some(into(&mut direction, dk, dd)));
        wrong.done(ema::update_means(cpu, decay, &statistics, &sizes, into(&mut mean, k, d), to));
        wrong.done(activity.observe(decay, &statistics));
        statistics.coarsen(exponent);
        let at = wrong.input.pick(&[0, 3, usize::MAX]);
        let _ = (statistics.total(), statistics.weight(at), statistics.is_hit(at), statistics.sum(at).count());
        activity.reset(at);
        let _ = (activity.relative_use(at), activity.expected_hits(at));
        statistics.clear(exponent);
    }
    let ((mut book, k, d), (mut mean, mk, md)) = (wrong.rows(), wrong.rows());
    let rule = Rule { share: wrong.f64(), patience: wrong.f64(), seed: 1 };
    let (mut scratch, mut log) = (vec![7; 2 * wrong.len() + 2], vec![Restarted::default(); wrong.len()]);
    let (book, mean) = (into(&mut book, k, d), Some(into(&mut mean, mk, md)));
    wrong.done(restart::restart(x, &codes, w, &rule, 1, &mut activity, book, mean, &mut scratch, &mut log));
}

fn quantizers(wrong: &mut Wrong, cpu: &Cpu) {
    let source_dim = wrong.len();
    let rule = Rule { share: wrong.f64(), patience: wrong.f64(), seed: 1 };
    let learners = [Learner::Ema, Learner::Gradient, Learner::Projector { source_dim }, Learner::Frozen];
    let config = Config {
        inputs: wrong.len(),
        dim: wrong.len(),
        codes: wrong.len(),
        learner: wrong.input.pick(&learners),
        factorize: wrong.input.once_in(2),
        normalize: wrong.input.once_in(2),
        restart: wrong.input.once_in(3).then_some(rule),
        estimator: wrong.input.pick(&[Estimator::Rotation, Estimator::StraightThrough]),
        decay: wrong.f64(),
        commitment_weight: wrong.f64(),
        codebook_weight: wrong.f64(),
        seed: 3,
    };
    let given = wrong.len() * wrong.len();
    let given = wrong.f32s(given);
    let initial = wrong.input.pick(&[0, 1, 2, 2]);
    let initial = [Initial::Normal, Initial::Uniform, Initial::Codes(given)][initial.min(2)].clone();
    let Some(mut quantizer) = wrong.done(Quantizer::new(config, initial)) else { return };
    // Calls in any order, with anything.
    for _ in 0..wrong.input.below(9) {
        let ((x, n, d), weights, codes) = (wrong.rows(), wrong.weights(), wrong.codes());
        let (x, w, outputs) = (view(&x, n, d), weights.as_deref(), wrong.len() * wrong.usual);
        let terms = Loss { codebook: wrong.f64(), commitment: wrong.f64() };
        let (mut found, exponent) = (vec![0; wrong.len()], wrong.input.pick(&[0, i32::MIN, i32::MAX]));
        match wrong.input.below(11) {
            0 => ignore(wrong.done(quantizer.train_step(cpu, x, w, |_, g| g.fill(f32::MAX)))),
            1 => ignore(wrong.done(quantizer.forward(cpu, x, w))),
            2 => ignore(wrong.done(quantizer.backward(cpu, x, &vec![f32::NAN; outputs], terms))),
            3 => ignore(wrong.done(quantizer.collect_statistics(cpu, exponent))),
            4 => ignore(wrong.done(quantizer.update(cpu))),
            5 => ignore(wrong.done(quantizer.update_with(cpu, x, &codes, w))),
            6 => ignore(wrong.done(quantizer.apply(cpu, |update| update.values.copy_from_slice(update.gradient)))),
            7 => ignore(wrong.done(quantizer.encode(cpu, x, w, &mut found))),
            8 => {
                let mut out = vec![0.0; n * d];
                ignore(wrong.done(quantizer.decode(cpu, &codes, into(&mut out, n, d))));
            }
            9 => ignore(wrong.done(quantizer.exponent())),
            _ => {
                // A state of other lengths and values; a quantizer that refused one must not be used.
                let other = wrong.f32s(outputs);
                let state = [("codebook", StateRef::F32(&other)), ("step", StateRef::U64(&[u64::MAX]))];
                let partly = quantizer.restore(|name, place| match (name, place) {
                    ("codebook", StateMut::F32(to)) if to.len() == other.len() => {
                        to.copy_from_slice(&other);
                        Ok(())
                    }
                    ("step", StateMut::U64(to)) => {
                        to[0] = u64::MAX;
                        Ok::<(), Error>(())
                    }
                    _ => Ok(()),
                });
                let refused = wrong.done(partly).is_none() | wrong.done(quantizer.restore_from(&state)).is_none();
                if refused {
                    return;
                }
            }
        }
        quantizer.gradients(|_, _, gradient| assert!(!gradient.is_empty()));
        let _ = (quantizer.last_output(), quantizer.last_input_gradient(), quantizer.last_searched());
        if let Some(other) = wrong.statistics() {
            wrong.done(quantizer.statistics_mut().merge(&other));
        }
    }
}

fn streams(wrong: &mut Wrong, cpu: &Cpu) {
    let (k, d, metric) = (wrong.len(), wrong.len(), wrong.input.metric());
    let centres = wrong.len() * wrong.len();
    let centres = wrong.f32s(centres);
    if let Some(mut kmeans) = wrong.done(KMeans::new(centres, k, d, metric)) {
        for _ in 0..wrong.input.below(5) {
            let ((x, n, d), weights) = (wrong.rows(), wrong.weights());
            let (x, w) = (view(&x, n, d), weights.as_deref());
            let _ = match wrong.input.below(3) {
                0 => wrong.done(kmeans.accumulate(cpu, x, w)).is_some(),
                1 => wrong.done(kmeans.mini_batch(cpu, x, w)).is_some(),
                _ => wrong.done(kmeans.finish_pass(cpu)).is_some(),
            };
        }
    }
    if let Some(mut seeds) = wrong.done(Seeds::new(k, d, 1)) {
        let (x, n, d) = wrong.rows();
        wrong.done(seeds.offer(view(&x, n, d)));
        wrong.done(seeds.finish());
    }
}
