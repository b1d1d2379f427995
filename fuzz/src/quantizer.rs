//! Whole training steps: any tier, saved and restored in between, rows that are not finite, workers.

use vq_kernels::ops::restart::Rule;
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner, Quantizer, StateRef};
use vq_kernels::{Cpu, NO_CODE};

use crate::Reach;
use crate::input::{Input, mat, stored};

const GRADIENT: usize = 0;
const EMA: usize = 1;
const PROJECTOR: usize = 2;
const FROZEN: usize = 3;
const RESTORED: usize = 4;
const WORKERS: usize = 5;
const RESTARTED: usize = 6;
const NOT_FINITE: usize = 7;

fn config(input: &mut Input) -> Config {
    let learners = [Learner::Gradient, Learner::Ema, Learner::Projector { source_dim: 1 + input.below(5) }];
    let learner = input.pick(&[learners[0], learners[1], learners[1], learners[2], Learner::Frozen]);
    let (factorize, inputs) = (input.once_in(2), input.pick(&[3, 1, 2, 5, 9, 17]));
    let rule = Rule { share: input.pick(&[0.5, 1.0 / 32.0]), patience: input.pick(&[0.3, 1.0, 8.0]), seed: 3 };
    let learned = matches!(learner, Learner::Gradient | Learner::Ema);
    Config {
        inputs,
        dim: if factorize { input.pick(&[2, 1, 4, 8]) } else { inputs },
        codes: input.pick(&[3, 1, 2, 7, 20, 65]),
        learner,
        factorize,
        normalize: input.once_in(2),
        restart: (learned && !input.once_in(3)).then_some(rule),
        estimator: input.pick(&[Estimator::StraightThrough, Estimator::Rotation]),
        decay: input.pick(&[0.9, 0.0, 0.99]),
        commitment_weight: input.pick(&[0.25, 0.0, 1e3]),
        codebook_weight: input.pick(&[1.0, 0.0, 7.0]),
        seed: input.below(256) as u64,
    }
}

/// All bits of the state: −0 and +0, and NaN of other payloads, count as different here.
pub fn bits(quantizer: &Quantizer) -> Vec<u64> {
    let of = |tensor: &StateRef| match tensor {
        StateRef::F32(values) => values.iter().map(|x| u64::from((x + 0.0).to_bits())).collect(),
        StateRef::F64(values) => values.iter().map(|x| (x + 0.0).to_bits()).collect(),
        StateRef::U64(values) => values.to_vec(),
    };
    quantizer.state().iter().flat_map(|(_, tensor)| -> Vec<u64> { of(tensor) }).collect()
}

fn step(quantizer: &mut Quantizer, cpu: &Cpu, x: &[f32], weights: Option<&[f32]>) -> (usize, usize) {
    let inputs = quantizer.config().inputs;
    let rows = x.len() / inputs;
    let head = |output: vq_kernels::MatRef, gradient: &mut [f32]| {
        // Bounded, as a loss with clipping gives it, so that the parameters stay finite.
        let of = |y: f32, x: f32| if (y - x).is_finite() { (y - x).clamp(-1.0, 1.0) / rows as f32 } else { 0.0 };
        gradient.iter_mut().zip(output.data().iter().zip(x)).for_each(|(g, (y, x))| *g = of(*y, *x));
    };
    let report = quantizer.train_step(cpu, mat(x, rows, inputs), weights, head).expect("the shapes agree");
    assert_eq!(quantizer.last_restarted().len(), report.restart.restarted);
    let coded = quantizer.last_codes().iter().filter(|&&code| code != NO_CODE).count();
    assert!(report.rows == coded && report.active <= coded.min(quantizer.config().codes));
    let descend = |v: &mut f32, g: &f32| *v -= (0.1 * g).clamp(-1.0, 1.0);
    let updated = quantizer.apply(cpu, |update| {
        assert_eq!(update.values.len(), update.gradient.len());
        update.values.iter_mut().zip(update.gradient).for_each(|(v, g)| descend(v, g));
    });
    updated.expect("nothing a caller can cause");
    (report.restart.restarted, report.without_code)
}

pub fn quantizer(input: &mut Input, reach: &Reach) {
    let config = config(input);
    reach.mark(match config.learner {
        Learner::Gradient => GRADIENT,
        Learner::Ema => EMA,
        Learner::Projector { .. } => PROJECTOR,
        Learner::Frozen => FROZEN,
    });
    let initial = if input.once_in(4) { Initial::Uniform } else { Initial::Normal };
    let new = || Quantizer::new(config, initial.clone()).expect("a valid configuration");
    // One goes straight on; one changes tiers and is restored now and then; one sees masks for what is not finite.
    let (mut straight, mut resumed, mut masked) = (new(), new(), new());
    let cpu = input.cpu();
    for _ in 0..1 + input.below(5) {
        let rows = input.pick(&[4, 1, 2, 7, 13, 0, 20]);
        let mut x: Vec<f32> = (0..rows * config.inputs).map(|_| input.uniform()).collect();
        if input.once_in(3) {
            x = input.matrix(rows, config.inputs);
        }
        let weights = input.weights(rows);
        let other = input.cpu();
        if input.once_in(3) {
            let (state, from) = (bits(&resumed), resumed);
            let seed = config.seed + 1;
            resumed = Quantizer::new(Config { seed, ..config }, Initial::Uniform).expect("a valid configuration");
            resumed.restore_from(&from.state()).expect("a state of the same configuration");
            assert_eq!(bits(&resumed), state);
            reach.mark(RESTORED);
        }
        let (restarted, without) = step(&mut straight, &cpu, &x, weights.as_deref());
        step(&mut resumed, &other, &x, weights.as_deref());
        assert!(bits(&straight) == bits(&resumed), "{config:?} on {cpu:?} and {other:?}");
        assert_eq!(straight.last_codes(), resumed.last_codes());
        // Rows without a code leave no trace, whatever is in them.
        let mut mask = weights.unwrap_or_else(|| vec![1.0; rows]);
        for (row, code) in straight.last_codes().iter().enumerate().filter(|_| rows > 0) {
            if *code == NO_CODE {
                mask[row] = 0.0;
                x[row * config.inputs..][..config.inputs].fill(0.5);
            }
        }
        step(&mut masked, &cpu, &x, Some(&mask));
        assert!(bits(&straight) == bits(&masked), "{config:?} with {without} rows without a code");
        if rows > 0 {
            reach.tier(&cpu);
            reach.tier(&other);
        }
        if restarted > 0 {
            reach.mark(RESTARTED);
        }
        if without > 0 {
            reach.mark(NOT_FINITE);
        }
    }
    encoded(input, &straight);
    workers(input, &config, &cpu, reach);
}

/// Encoding in halves and wholes, and decoding, agree with the training's own pass.
fn encoded(input: &mut Input, quantizer: &Quantizer) {
    let (rows, inputs) = (1 + input.below(9), quantizer.config().inputs);
    let x = input.matrix(rows, inputs);
    let (x, offset, wide) = stored::<half::bf16>(input, &x);
    let (mut from_half, mut from_f32, other) = (vec![7; rows], vec![9; rows], input.cpu());
    let x = mat(&x[offset..], rows, inputs);
    quantizer.encode(&input.cpu(), x, None, &mut from_half).expect("the shapes agree");
    quantizer.encode(&other, mat(&wide, rows, inputs), None, &mut from_f32).expect("the shapes agree");
    assert_eq!(from_half, from_f32);
    assert!(from_f32.iter().all(|&code| code == NO_CODE || (code as usize) < quantizer.config().codes));
    let mut decoded = vec![[7.0; 2]; rows * inputs].concat();
    let (a, b) = decoded.split_at_mut(rows * inputs);
    quantizer.decode(&input.cpu(), &from_f32, crate::input::mat_mut(a, rows, inputs)).expect("codes that exist");
    quantizer.decode(&other, &from_f32, crate::input::mat_mut(b, rows, inputs)).expect("codes that exist");
    crate::input::assert_bits(a, b, &other);
}

/// Two workers with shared donors are one, where no layer learns from a worker's own mean.
fn workers(input: &mut Input, config: &Config, cpu: &Cpu, reach: &Reach) {
    if config.factorize || !matches!(config.learner, Learner::Ema | Learner::Gradient) {
        return;
    }
    let new = || Quantizer::new(*config, Initial::Normal).expect("a valid configuration");
    let (mut one, mut a, mut b) = (new(), new(), new());
    for _ in 0..1 + input.below(3) {
        let (rows, inputs) = (2 + input.below(9), config.inputs);
        let x = input.matrix(rows, inputs);
        let weights = input.weights(rows);
        let cut = input.below(rows + 1);
        let exponents =
            [(0, rows, &mut one), (0, cut, &mut a), (cut, rows - cut, &mut b)].map(|(first, count, worker)| {
                let x = mat(&x, rows, inputs).rows_from(first, count);
                let weights = weights.as_ref().map(|w| &w[first..first + count]);
                worker.forward_backward(cpu, x, weights, |_, _| {}).expect("the shapes agree");
                worker.exponent().expect("after forward")
            });
        assert_eq!(exponents[0], exponents[1].max(exponents[2]));
        for worker in [&mut one, &mut a, &mut b] {
            worker.collect_statistics(cpu, exponents[0]).expect("the largest exponent");
        }
        let [from_a, from_b] = [&mut a, &mut b].map(|worker| worker.statistics_mut().clone());
        a.statistics_mut().merge(&from_b).expect("few rows");
        b.statistics_mut().merge(&from_a).expect("few rows");
        assert!(a.statistics_mut() == one.statistics_mut() && b.statistics_mut() == one.statistics_mut());
        let (donors, codes) = (one.last_searched().to_vec(), one.last_codes().to_vec());
        let donors = mat(&donors, rows, config.dim);
        for worker in [&mut one, &mut a, &mut b] {
            worker.update_with(cpu, donors, &codes, weights.as_deref()).expect("donors that fit");
            let descend = |v: &mut f32, g: &f32| *v -= (0.1 * g).clamp(-1.0, 1.0);
            let updated = worker.apply(cpu, |update| {
                update.values.iter_mut().zip(update.gradient).for_each(|(v, g)| descend(v, g));
            });
            updated.expect("nothing a caller can cause");
        }
        assert!(bits(&a) == bits(&one) && bits(&b) == bits(&one), "{config:?}, cut at {cut} of {rows}");
    }
    reach.mark(WORKERS);
}
