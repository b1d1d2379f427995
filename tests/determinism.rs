//! The same bits on every instruction set, number of threads, split of a batch, number of workers,
//! and after a resume.

mod common;

use common::{assert_same_bits, assert_same_bits64, cpus, mat, mat_mut, paint, unit_rows};
use vq_kernels::ops::ema::{self, Activity, Statistics};
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::ops::restart::Rule;
use vq_kernels::ops::{self, Candidate, ROW_BLOCK};
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner, Loss, Quantizer, StateRef};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Isa, Metric, NO_CODE, PackedCodebook, Pool};

#[cfg(not(target_family = "wasm"))]
fn pool(threads: usize) -> impl Pool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// No threads: the same parts one after the other, the last one first.
#[cfg(target_family = "wasm")]
fn pool(threads: usize) -> impl Pool {
    struct Parts(usize);
    // SAFETY: every index once, and all calls have returned.
    unsafe impl Pool for Parts {
        fn threads(&self) -> usize {
            self.0
        }
        fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
            (0..tasks).rev().for_each(task);
        }
    }
    Parts(threads)
}

/// Calls `run` on each instruction set, alone and on pools of 1, 2 and 3 threads; all give what the
/// scalar one gives alone.
fn everywhere(context: &str, run: impl Fn(&Cpu) -> Vec<f32>) {
    let expected = run(&Cpu::with_isa(Isa::SCALAR));
    assert!(expected.iter().any(|x| *x != 0.0), "{context}: nothing is compared");
    let pools = [1, 2, 3].map(pool);
    for cpu in cpus() {
        assert_same_bits(&run(&cpu), &expected, &format!("{context}, {:?}", cpu));
        for pool in &pools {
            let cpu = cpu.with_pool(pool);
            assert_same_bits(&run(&cpu), &expected, &format!("{context}, {:?}", cpu));
        }
    }
}

/// Rows enough for several parts on three threads; extents that are no multiple of any width.
const N: usize = 2 * ROW_BLOCK + 77;
const D: usize = 37;
const K: usize = 333;

fn row_codes(rows: usize, codes: usize) -> Vec<u32> {
    let mut rng = Rng::new(11, 0xC0DE);
    (0..rows).map(|_| if rng.below(9) == 0 { NO_CODE } else { rng.below(codes as u64) as u32 }).collect()
}

fn row_weights(rows: usize) -> Vec<f32> {
    let mut rng = Rng::new(12, 0x3E19);
    (0..rows).map(|_| if rng.below(5) == 0 { 0.0 } else { rng.uniform() as f32 }).collect()
}

#[test]
fn search_gives_the_same_bits_everywhere() {
    let (x, weights) = (paint(300 * D, 1), row_weights(300));
    for metric in [Metric::Cosine, Metric::L2] {
        let book = PackedCodebook::new(mat(&paint(K * D, 2), K, D), metric).unwrap();
        everywhere("search", |cpu| {
            let (mut codes, mut scores) = (vec![0u32; 300], vec![0.0; 300]);
            ops::search(cpu, mat(&x, 300, D), Some(&weights), &book, &mut codes, Some(&mut scores)).unwrap();
            codes.iter().map(|&code| code as f32).chain(scores).collect()
        });
        everywhere("search_top", |cpu| {
            let mut best = vec![Candidate::NONE; 300 * 5];
            ops::search_top(cpu, mat(&x, 300, D), Some(&weights), &book, mat_mut(&mut best, 300, 5)).unwrap();
            best.iter().flat_map(|best| [best.code as f32, best.score]).collect()
        });
    }
}

#[test]
fn projections_and_norms_give_the_same_bits_everywhere() {
    const O: usize = 41;
    let (x, weight, bias, dy) = (paint(N * D, 1), paint(O * D, 2), paint(O, 3), paint(N * O, 4));
    everywhere("project", |cpu| {
        let mut y = vec![0.0; N * O];
        ops::project(cpu, mat(&x, N, D), mat(&weight, O, D), Some(&bias), mat_mut(&mut y, N, O)).unwrap();
        y
    });
    everywhere("project_backward_input", |cpu| {
        let mut dx = vec![0.0; N * D];
        ops::project_backward_input(cpu, mat(&dy, N, O), mat(&weight, O, D), mat_mut(&mut dx, N, D)).unwrap();
        dx
    });
    everywhere("project_backward_weight", |cpu| {
        let (mut dw, mut db) = (vec![0.5; O * D], vec![0.5; O]);
        ops::project_backward_weight(cpu, mat(&dy, N, O), mat(&x, N, D), mat_mut(&mut dw, O, D), Some(&mut db))
            .unwrap();
        halves(dw.iter().chain(&db))
    });
    everywhere("normalize", |cpu| {
        let (mut y, mut norms, mut dx) = (vec![0.0; N * D], vec![0.0; N], vec![0.0; N * D]);
        ops::normalize(cpu, mat(&x, N, D), mat_mut(&mut y, N, D), Some(&mut norms)).unwrap();
        let dy = &dy[..N * D];
        ops::normalize_backward(cpu, mat(&y, N, D), &norms, mat(dy, N, D), mat_mut(&mut dx, N, D)).unwrap();
        [y, norms, dx].concat()
    });
}

/// All bits of f64 values, as numbers that f32 holds exactly.
fn halves<'a>(values: impl IntoIterator<Item = &'a f64>) -> Vec<f32> {
    values.into_iter().flat_map(|x| [0, 16, 32, 48].map(|shift| ((x.to_bits() >> shift) & 0xFFFF) as f32)).collect()
}

#[test]
fn losses_give_the_same_bits_everywhere() {
    let (x, q, g) = (paint(N * D, 1), paint(N * D, 2), paint(N * D, 3));
    let (x, q, g) = (mat(&x, N, D), mat(&q, N, D), mat(&g, N, D));
    let (codes, weights) = (row_codes(N, K), row_weights(N));
    everywhere("squared_error", |cpu| {
        let mut total = SquaredError { sum: 0.1, weight: 0.2 };
        loss::squared_error(cpu, x, q, &codes, Some(&weights), &mut total).unwrap();
        halves(&[total.sum, total.weight])
    });
    everywhere("squared_error_backward", |cpu| {
        let mut dx = g.data().to_vec();
        loss::squared_error_backward(cpu, x, q, &codes, Some(&weights), 0.3, mat_mut(&mut dx, N, D)).unwrap();
        dx
    });
    everywhere("straight_through_backward", |cpu| {
        let mut dx = vec![9.0; N * D];
        loss::straight_through_backward(cpu, &codes, g, mat_mut(&mut dx, N, D)).unwrap();
        dx
    });
    everywhere("rotation_backward", |cpu| {
        let mut dx = vec![9.0; N * D];
        loss::rotation_backward(cpu, x, q, &codes, g, mat_mut(&mut dx, N, D)).unwrap();
        dx
    });
}

#[test]
fn statistics_and_means_give_the_same_bits_everywhere() {
    const CODES: usize = 2500;
    let (x, codes, weights, before) = (paint(N * D, 1), row_codes(N, CODES), row_weights(N), paint(CODES * D, 2));
    let sizes: Vec<f32> = paint(CODES, 3).iter().map(|x| x.abs()).collect();
    everywhere("statistics, update_means", |cpu| {
        let mut statistics = Statistics::new(CODES, D, 3).unwrap();
        statistics.accumulate(cpu, mat(&x, N, D), &codes, Some(&weights)).unwrap();
        let (mut mean, mut direction) = (before.clone(), before.clone());
        let (means, directions) = (mat_mut(&mut mean, CODES, D), mat_mut(&mut direction, CODES, D));
        ema::update_means(cpu, 0.9, &statistics, &sizes, means, Some(directions)).unwrap();
        let mut activity = Activity::new_in(sizes.clone(), vec![0.0; CODES], vec![0.0; CODES]).unwrap();
        activity.cluster_size.copy_from_slice(&sizes);
        activity.observe(0.9, &statistics).unwrap();
        let sums: Vec<f64> = (0..CODES).flat_map(|k| statistics.sum(k).collect::<Vec<_>>()).collect();
        [halves(&sums), mean, direction, activity.cluster_size, activity.exposure, halves(&activity.last_seen)].concat()
    });
}

#[test]
fn a_batch_split_at_row_blocks_gives_the_same_sums() {
    const O: usize = 5;
    let rows = 2 * ROW_BLOCK + 300;
    let (x, q, dy) = (paint(rows * D, 1), paint(rows * D, 2), paint(rows * O, 4));
    let (codes, weights) = (row_codes(rows, K), row_weights(rows));
    let sums = |cpu: &Cpu, cuts: &[usize]| {
        let (mut dw, mut db, mut total, mut first) = (vec![0.0; O * D], vec![0.0; O], SquaredError::default(), 0);
        for &end in cuts {
            let (n, x) = (end - first, &x[first * D..end * D]);
            let (q, dy) = (&q[first * D..end * D], &dy[first * O..end * O]);
            let (x, weights) = (mat(x, n, D), Some(&weights[first..end]));
            ops::project_backward_weight(cpu, mat(dy, n, O), x, mat_mut(&mut dw, O, D), Some(&mut db)).unwrap();
            loss::squared_error(cpu, x, mat(q, n, D), &codes[first..end], weights, &mut total).unwrap();
            first = end;
        }
        [dw, db, vec![total.sum, total.weight]].concat()
    };
    for cpu in cpus() {
        let whole = sums(&cpu, &[rows]);
        let at_blocks: [&[usize]; 3] = [&[ROW_BLOCK, rows], &[2 * ROW_BLOCK, rows], &[ROW_BLOCK, 2 * ROW_BLOCK, rows]];
        for cuts in at_blocks {
            assert_same_bits64(&sums(&cpu, cuts), &whole, &format!("{cuts:?}, {cpu:?}"));
        }
        // Elsewhere the blocks are others: the comparison can tell.
        assert_ne!(sums(&cpu, &[ROW_BLOCK / 2, rows]), whole);
    }
}

// -- the whole quantizer

const INPUTS: usize = 10;
const ROWS: usize = ROW_BLOCK + 77;

/// All learners, with restart where it is allowed, over every switch.
fn configs() -> Vec<Config> {
    let rule = Rule { patience: 1.0, ..Rule::default() };
    let learners = [
        (Learner::Gradient, Some(rule)),
        (Learner::Ema, Some(rule)),
        (Learner::Frozen, None),
        (Learner::Projector { source_dim: 9 }, None),
    ];
    let switches = [
        (true, true, Estimator::StraightThrough),
        (false, true, Estimator::Rotation),
        (true, false, Estimator::Rotation),
        (false, false, Estimator::StraightThrough),
    ];
    let mut configs = Vec::new();
    for (learner, restart) in learners {
        for (factorize, normalize, estimator) in switches {
            let dim = if factorize { 5 } else { INPUTS };
            configs.push(Config {
                inputs: INPUTS,
                dim,
                codes: 70,
                learner,
                restart,
                factorize,
                normalize,
                estimator,
                decay: 0.9,
                ..Config::default()
            });
        }
    }
    configs
}

/// Steps `first .. last` with plain gradient descent; each has a batch of its own.
fn train(quantizer: &mut Quantizer, cpu: &Cpu, first: u64, last: u64) {
    let weights = row_weights(ROWS);
    for step in first..last {
        let x = paint(ROWS * INPUTS, 100 + step);
        quantizer
            .train_step(cpu, mat(&x, ROWS, INPUTS), Some(&weights), |output, gradient| {
                gradient.iter_mut().zip(output.data()).zip(&x).for_each(|((g, y), x)| *g = (y - x) / ROWS as f32);
            })
            .unwrap();
        quantizer
            .apply(cpu, |update| {
                update.values.iter_mut().zip(update.gradient).for_each(|(v, g)| *v -= 0.5 * g);
            })
            .unwrap();
    }
}

/// All bits of the state.
fn bits(quantizer: &Quantizer) -> Vec<u64> {
    let of = |tensor: &StateRef<'_>| match tensor {
        StateRef::F32(values) => values.iter().map(|x| u64::from(common::canonical(*x))).collect(),
        StateRef::F64(values) => values.iter().map(|x| common::canonical64(*x)).collect(),
        StateRef::U64(values) => values.to_vec(),
    };
    quantizer.state().iter().flat_map(|(_, tensor)| -> Vec<u64> { of(tensor) }).collect()
}

#[test]
fn training_gives_the_same_bits_everywhere() {
    let pools = [1, 2, 3].map(pool);
    for config in configs() {
        let trained = |cpu: &Cpu| {
            let mut quantizer = Quantizer::new(config, Initial::Normal).unwrap();
            train(&mut quantizer, cpu, 0, 5);
            bits(&quantizer)
        };
        let expected = trained(&Cpu::with_isa(Isa::SCALAR));
        let start = bits(&Quantizer::new(config, Initial::Normal).unwrap());
        assert_ne!(expected, start);
        for cpu in cpus() {
            assert!(trained(&cpu) == expected, "{cpu:?}, {config:?}");
            for pool in &pools {
                let cpu = cpu.with_pool(pool);
                assert!(trained(&cpu) == expected, "{cpu:?}, {config:?}");
            }
        }
    }
}

#[test]
fn a_resumed_training_goes_on_with_the_same_bits() {
    let cpu = Cpu::new();
    let mut restarted = 0;
    for config in configs() {
        let mut straight = Quantizer::new(config, Initial::Normal).unwrap();
        train(&mut straight, &cpu, 0, 3);
        // Into another quantizer: with other weights and codes, and in the middle of its own training.
        let mut resumed = Quantizer::new(Config { seed: 5, ..config }, Initial::Uniform).unwrap();
        train(&mut resumed, &cpu, 0, 2);
        resumed.restore_from(&straight.state()).unwrap();
        assert!(bits(&resumed) == bits(&straight), "{config:?}");
        for step in 3..6 {
            train(&mut straight, &cpu, step, step + 1);
            train(&mut resumed, &cpu, step, step + 1);
            assert!(bits(&resumed) == bits(&straight), "step {step}, {config:?}");
            assert_eq!(resumed.last_codes(), straight.last_codes());
            restarted += straight.last_restarted().len();
        }
    }
    assert!(restarted > 0, "restart is part of what is resumed");
}

/// A framework's way, `forward` now and `backward` later, is the callback's way; and gradients are linear in
/// what arrives: a loss of twice the size, or one that leaves a term out.
#[test]
fn the_halves_of_a_step_are_the_step() {
    let (cpu, x) = (Cpu::new(), unit_rows(ROWS, INPUTS, 7));
    let gradient: Vec<f32> = unit_rows(ROWS, INPUTS, 8);
    for (learner, factorize) in [(Learner::Gradient, true), (Learner::Projector { source_dim: 24 }, false)] {
        let dim = if factorize { 4 } else { INPUTS };
        let config = Config { inputs: INPUTS, dim, codes: 100, learner, factorize, restart: None, ..Config::default() };
        let terms = Loss { codebook: config.codebook_weight, commitment: config.commitment_weight };
        let new = || Quantizer::new(config, Initial::Normal).unwrap();
        let all_gradients = |quantizer: &mut Quantizer| {
            quantizer.collect_statistics(&cpu, 0).unwrap();
            quantizer.update(&cpu).unwrap();
            let mut found = quantizer.last_input_gradient().to_vec();
            quantizer.gradients(|_, _, gradient| found.extend_from_slice(gradient));
            found
        };
        let (mut whole, mut halves, mut doubled) = (new(), new(), new());
        let rows = || mat(&x, ROWS, INPUTS);
        let report = whole.forward_backward(&cpu, rows(), None, |_, g| g.copy_from_slice(&gradient));
        assert_eq!(halves.forward(&cpu, rows(), None), report);
        assert_eq!(halves.last_output().len(), ROWS * INPUTS);
        // The second call of `backward` replaces the first.
        let none = Loss::default();
        halves.backward(&cpu, mat(&x, ROWS, INPUTS), &vec![1.0; x.len()], none).unwrap();
        halves.backward(&cpu, mat(&x, ROWS, INPUTS), &gradient, terms).unwrap();
        doubled.forward(&cpu, mat(&x, ROWS, INPUTS), None).unwrap();
        let (twice, terms) = (gradient.iter().map(|g| 2.0 * g).collect::<Vec<_>>(), terms);
        let terms = Loss { codebook: 2.0 * terms.codebook, commitment: 2.0 * terms.commitment };
        doubled.backward(&cpu, mat(&x, ROWS, INPUTS), &twice, terms).unwrap();
        let expected = all_gradients(&mut whole);
        assert!(expected.iter().any(|g| *g != 0.0));
        assert!(expected == all_gradients(&mut halves), "{learner:?}");
        assert!(expected.iter().map(|g| 2.0 * g).eq(all_gradients(&mut doubled)), "{learner:?}");
    }
}

#[test]
fn two_workers_are_one() {
    let (cpu, x) = (Cpu::new(), unit_rows(ROWS, INPUTS, 7));
    let half = ROWS / 2;
    let config =
        Config { inputs: INPUTS, dim: INPUTS, codes: 400, factorize: false, restart: None, ..Config::default() };
    let new = || Quantizer::new(config, Initial::Normal).unwrap();
    let (mut one, mut a, mut b) = (new(), new(), new());
    for _ in 0..3 {
        one.forward_backward(&cpu, mat(&x, ROWS, INPUTS), None, |_, _| {}).unwrap();
        a.forward_backward(&cpu, mat(&x[..half * INPUTS], half, INPUTS), None, |_, _| {}).unwrap();
        b.forward_backward(&cpu, mat(&x[half * INPUTS..], ROWS - half, INPUTS), None, |_, _| {}).unwrap();
        for worker in [&mut one, &mut a, &mut b] {
            worker.collect_statistics(&cpu, 0).unwrap();
        }
        let (from_a, from_b) = (a.statistics_mut().clone(), b.statistics_mut().clone());
        a.statistics_mut().merge(&from_b).unwrap();
        b.statistics_mut().merge(&from_a).unwrap();
        assert!(a.statistics_mut() == one.statistics_mut() && b.statistics_mut() == one.statistics_mut());
        for worker in [&mut one, &mut a, &mut b] {
            worker.update(&cpu).unwrap();
        }
        assert!(bits(&a) == bits(&one) && bits(&b) == bits(&one));
    }
}

/// Without normalization each worker's exponent is that of its own rows: they agree on the largest.
#[test]
fn two_workers_with_rows_of_other_magnitudes_can_merge() {
    let (cpu, config) = (
        Cpu::new(),
        Config { inputs: 1, dim: 1, codes: 2, factorize: false, normalize: false, restart: None, ..Config::default() },
    );
    let new = || Quantizer::new(config, Initial::Codes(vec![1.0, 5.0])).unwrap();
    let (mut a, mut b) = (new(), new());
    a.forward_backward(&cpu, mat(&[0.9], 1, 1), None, |_, _| {}).unwrap();
    b.forward_backward(&cpu, mat(&[4.5], 1, 1), None, |_, _| {}).unwrap();
    let exponent = a.exponent().unwrap().max(b.exponent().unwrap());
    assert!(a.collect_statistics(&cpu, exponent) == Ok(1) && b.collect_statistics(&cpu, exponent) == Ok(1));
    let from_b = b.statistics_mut().clone();
    assert_eq!(a.statistics_mut().merge(&from_b), Ok(()));
    let mut one = new();
    one.forward_backward(&cpu, mat(&[0.9, 4.5], 2, 1), None, |_, _| {}).unwrap();
    one.collect_statistics(&cpu, one.exponent().unwrap()).unwrap();
    assert_eq!(a.statistics_mut(), one.statistics_mut());
    // As between processes: the integers alone.
    let (weights, sums) = one.statistics_mut().as_parts();
    let sent = Statistics::from_parts(weights.to_vec(), sums.to_vec(), 1, exponent).unwrap();
    assert_eq!(&sent, one.statistics_mut());
    assert!(Statistics::from_parts(vec![1i64], vec![2i64], 1, 0).is_err(), "a sum beyond its weight");
}
