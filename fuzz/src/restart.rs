//! Restart against a model that compares every donor with every earlier one.

use vq_kernels::ops::ema::Activity;
use vq_kernels::ops::restart::{Restarted, Rule, restart as op, scratch_len};
use vq_kernels::rng::Permutation;
use vq_kernels::{NO_CODE, ops::restart::Summary};

use crate::Reach;
use crate::input::{Input, assert_bits, assert_bits64, mat, mat_mut};

const RESTARTED: usize = 0;
const WAITING: usize = 1;

pub fn restart(input: &mut Input, reach: &Reach) {
    let (rows, k, dim) = (input.rows(), input.pick(&[1, 2, 3, 8, 30]), input.pick(&[1, 2, 3, 5, 8]));
    let x = input.matrix(rows, dim);
    let (codes, weights) = (input.codes(rows, k), input.weights(rows));
    let mut book = input.matrix(k, dim);
    if input.once_in(3) && rows > 0 {
        // Codes that are rows: a copy of its own code is no donor.
        book.iter_mut().enumerate().for_each(|(i, c)| *c = x[i % x.len()]);
    }
    let mut mean = input.once_in(2).then(|| input.values(k * dim));
    let rule = Rule {
        share: input.pick(&[1.0 / 32.0, 0.0, 1.0, f64::from(0.3f32) / 5.0, 1e9, f64::INFINITY]),
        patience: input.pick(&[8.0, 1e-9, 1.0, f64::INFINITY]),
        seed: input.bits(),
    };
    let mut activity = Activity::new(k);
    activity.rows_seen = input.pick(&[1e3, 0.0, 16.0, 1e18]);
    for code in 0..k {
        activity.cluster_size[code] = (input.bits() % 4) as f32 * 0.3;
        activity.exposure[code] = (input.bits() % 4) as f32 * 5.0;
        activity.last_seen[code] = activity.rows_seen * [0.0, 0.5, 1.0][(input.bits() % 3) as usize];
    }
    let (step, room) = (input.bits(), input.below(k + 2));
    // -- the model
    let (mut books, mut means, mut activities, mut log) = (book.clone(), mean.clone(), activity.clone(), Vec::new());
    let order = Permutation::new(rule.seed, step, rows as u64);
    let (mut next, mut taken, mut stale): (u64, Vec<usize>, usize) = (0, Vec::new(), 0);
    for code in 0..k {
        let expected_hits = (activity.rows_seen - activity.last_seen[code]) / k as f64;
        let (size, exposure) = (f64::from(activity.cluster_size[code]), f64::from(activity.exposure[code]));
        let use_of = if exposure > 0.0 { size * k as f64 / exposure } else { 0.0 };
        if expected_hits < rule.patience || use_of >= rule.share {
            continue;
        }
        stale += 1;
        while log.len() < room && next < rows as u64 {
            let row = order.permuted(next) as usize;
            next += 1;
            let value = &x[row * dim..][..dim];
            let masked = codes[row] == NO_CODE || weights.as_ref().is_some_and(|w| w[row] == 0.0);
            let copy = !masked && *value == books[codes[row] as usize * dim..][..dim];
            let twice = taken.iter().any(|&row| x[row * dim..][..dim] == *value);
            if masked || copy || twice || !value.iter().all(|x| x.is_finite()) {
                continue;
            }
            taken.push(row);
            books[code * dim..][..dim].copy_from_slice(value);
            if let Some(means) = &mut means {
                means[code * dim..][..dim].copy_from_slice(value);
            }
            (activities.cluster_size[code], activities.exposure[code]) = (0.0, 0.0);
            activities.last_seen[code] = activities.rows_seen;
            log.push((code as u32, row as u32, use_of as f32, expected_hits as f32));
            break;
        }
    }
    // -- the op
    let mut scratch = vec![u32::MAX; scratch_len(rows) + input.below(3)];
    let mut listed = vec![Restarted::default(); room];
    let means_to = mean.as_mut().map(|mean| mat_mut(mean, k, dim));
    let book_to = mat_mut(&mut book, k, dim);
    let x = mat(&x, rows, dim);
    let weights = weights.as_deref();
    let summary = op(x, &codes, weights, &rule, step, &mut activity, book_to, means_to, &mut scratch, &mut listed)
        .expect("valid");
    let Summary { stale: found, restarted, .. } = summary;
    assert_eq!((found, restarted), (stale, log.len()));
    let listed: Vec<_> = listed[..restarted].iter().map(|r| (r.code, r.row, r.relative_use, r.expected_hits)).collect();
    assert_eq!(listed, log);
    assert_bits(&book, &books, &"codebook");
    assert_eq!(mean.is_some(), means.is_some());
    assert_bits(&mean.unwrap_or_default(), &means.unwrap_or_default(), &"mean");
    assert_eq!(activity, activities);
    assert_bits64(&activity.last_seen, &activities.last_seen, &"last seen");
    if restarted > 0 {
        reach.mark(RESTARTED);
    }
    if stale > restarted {
        reach.mark(WAITING);
    }
}
