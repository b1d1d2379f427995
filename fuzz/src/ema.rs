//! Exact statistics and moving averages: every tier, any split, any order of merging, against models in plain loops.

use vq_kernels::ops::ema::{self as op, Activity, Statistics};
use vq_kernels::ops::normalize;
use vq_kernels::{Cpu, Error, Isa, MatRef, NO_CODE};

use crate::Reach;
use crate::input::{Input, assert_bits, assert_bits64, mat, mat_mut};

const MERGED: usize = 0;
const COARSENED: usize = 1;
const MEANS: usize = 2;
const OBSERVED: usize = 3;
const REFUSED: usize = 4;
const FULL: usize = 5;

/// 2²² rows in units of 2⁻⁴⁰.
const MOST: i64 = 1 << 62;

struct Batch<'a> {
    x: MatRef<'a>,
    codes: &'a [u32],
    weights: Option<&'a [f32]>,
    k: usize,
}

pub fn ema(input: &mut Input, reach: &Reach) {
    let (rows, k, dim) = (input.rows(), input.pick(&[1, 2, 3, 7, 16, 33]), input.pick(&[1, 2, 3, 4, 7, 8, 9, 17]));
    let x = input.matrix(rows, dim);
    let (codes, weights) = (input.codes(rows, k), input.weights(rows));
    let batch = Batch { x: mat(&x, rows, dim), codes: &codes, weights: weights.as_deref(), k };
    let needed = op::exponent(batch.x, &codes, batch.weights).expect("the shapes agree");
    assert_eq!(needed, naive_exponent(&batch));
    let exponent = match input.below(6) {
        0 => 0,
        1 => needed - 1,
        _ => needed + input.below(3) as i32,
    };
    // What `new` takes for it.
    let exponent = exponent.clamp(-149, 128);
    let (mut expected, mut sums) = (vec![0i64; k], vec![0i64; k * dim]);
    if needed <= exponent {
        op::reference(batch.x, &codes, batch.weights, exponent, &mut expected, &mut sums);
    }
    let mut whole = Statistics::new(k, dim, exponent).expect("a codebook's shape");
    for cpu in Isa::available().map(Cpu::with_isa) {
        let mut got = Statistics::new(k, dim, exponent).expect("a codebook's shape");
        let done = got.accumulate(&cpu, batch.x, &codes, batch.weights);
        match needed <= exponent {
            true => assert_eq!(done, Ok(left_out(&batch)), "{cpu:?}"),
            false => {
                assert!(matches!(done, Err(Error::Value { arg: "x", .. })), "{cpu:?}: {done:?}");
                reach.mark(REFUSED);
            }
        }
        assert_eq!(got.as_parts(), (&expected[..], &sums[..]), "{cpu:?}");
        if rows > 0 {
            reach.tier(&cpu);
        }
        whole = got;
    }
    let cpu = input.cpu();
    if needed <= exponent {
        merged(input, &batch, &whole, &cpu);
        reach.mark(MERGED);
    }
    let by = input.pick(&[0, 1, 2, 5, 39, 40, 61, 62, 63, 64, 90, 277]);
    coarsened(&whole, by);
    reach.mark(COARSENED);
    averages(input, &whole, reach);
    full(input, &batch, &cpu, reach);
}

fn usable(batch: &Batch, row: usize) -> bool {
    batch.codes[row] != NO_CODE && batch.weights.is_none_or(|w| w[row] > 0.0)
}

fn finite(batch: &Batch, row: usize) -> bool {
    batch.x.row(row).iter().all(|x| x.is_finite())
}

fn left_out(batch: &Batch) -> usize {
    (0..batch.x.rows()).filter(|&row| usable(batch, row) && !finite(batch, row)).count()
}

fn naive_exponent(batch: &Batch) -> i32 {
    let rows = (0..batch.x.rows()).filter(|&row| usable(batch, row) && finite(batch, row));
    let largest = rows.flat_map(|row| batch.x.row(row)).fold(0.0f64, |m, &x| m.max(f64::from(x).abs()));
    (-149..=128).find(|&e| largest <= 2f64.powi(e)).expect("2^128 is above every f32")
}

/// Parts of the batch with a worker each, merged in some order; and what a process would send.
fn merged(input: &mut Input, batch: &Batch, whole: &Statistics<Vec<i64>>, cpu: &Cpu) {
    let rows = batch.x.rows();
    let (mut workers, mut first) = (Vec::new(), 0);
    while first < rows || workers.is_empty() {
        let count = (1 + input.below(rows.max(1))).min(rows - first);
        let mut worker = Statistics::new(batch.k, whole.dim(), whole.exponent()).expect("a codebook's shape");
        let weights = batch.weights.map(|w| &w[first..first + count]);
        let (x, codes) = (batch.x.rows_from(first, count), &batch.codes[first..first + count]);
        worker.accumulate(cpu, x, codes, weights).expect("the exponent is the whole batch's");
        workers.insert(input.below(workers.len() + 1), worker);
        first += count;
    }
    let mut all = workers.pop().expect("one at least");
    workers.iter().for_each(|worker| all.merge(worker).expect("few rows"));
    assert_eq!(&all, whole);
    let (weights, sums) = all.as_parts();
    let sent = Statistics::from_parts(weights.to_vec(), sums.to_vec(), all.dim(), all.exponent());
    assert_eq!(sent.expect("what rows gave"), all);
    all.clear(3);
    assert!(all.hits().next().is_none() && all.as_parts().1.iter().all(|&sum| sum == 0) && all.exponent() == 3);
}

fn coarsened(whole: &Statistics<Vec<i64>>, by: i32) {
    let mut got = whole.clone();
    got.coarsen(whole.exponent().saturating_add(by));
    let by = got.exponent() - whole.exponent();
    assert!(by >= 0 && got.exponent() <= 128);
    assert_eq!(got.as_parts().0, whole.as_parts().0);
    for (&got, &sum) in got.as_parts().1.iter().zip(whole.as_parts().1) {
        // Sums are below 2⁶³: a larger shift leaves nothing.
        let (sum, unit) = (i128::from(sum), 1i128 << by.min(100));
        let (down, up) = (sum.div_euclid(unit), sum.div_euclid(unit) + 1);
        let (below, above) = (sum - down * unit, up * unit - sum);
        let nearest = if below < above || (below == above && down % 2 == 0) { down } else { up };
        assert_eq!(i128::from(got), nearest, "{sum} / 2^{by}");
    }
}

/// `update_means` and `observe` against their formulas in plain loops.
fn averages(input: &mut Input, statistics: &Statistics<Vec<i64>>, reach: &Reach) {
    let (k, dim) = (statistics.codes(), statistics.dim());
    let decay = input.pick(&[0.99, 0.0, 0.5, 0.999_999, 1e-300]);
    let sizes: Vec<f32> = match input.below(3) {
        0 => vec![0.0; k],
        _ => input.values(k).iter().map(|x| if x.is_finite() { x.abs() } else { 1.0 }).collect(),
    };
    let (mean, direction) = (input.matrix(k, dim), input.values(k * dim));
    let cosine = input.once_in(2);
    let (mut means, mut directions) = (mean.clone(), direction.clone());
    for code in (0..k).filter(|&code| statistics.as_parts().0[code] > 0) {
        let unit = 2f64.powi(-20) * 2f64.powi(-20);
        let n = statistics.as_parts().0[code] as f64 * unit;
        let (old, new) = (decay * f64::from(sizes[code]), (1.0 - decay) * n);
        let row = &mut means[code * dim..][..dim];
        for (mean, sum) in row.iter_mut().zip(statistics.sum(code)) {
            *mean = ((old * f64::from(*mean) + (1.0 - decay) * sum) / (old + new)) as f32;
        }
        if cosine && row.iter().any(|&x| x != 0.0) {
            normalize::reference(row, dim, &mut directions[code * dim..][..dim], &mut [0.0]);
        }
    }
    for cpu in Isa::available().map(Cpu::with_isa) {
        let (mut got, mut got_directions) = (mean.clone(), direction.clone());
        let to = cosine.then(|| mat_mut(&mut got_directions, k, dim));
        let done = op::update_means(&cpu, decay, statistics, &sizes, mat_mut(&mut got, k, dim), to);
        done.expect("the shapes agree");
        assert_bits(&got, &means, &cpu);
        assert_bits(&got_directions, &directions, &cpu);
    }
    reach.mark(MEANS);
    let mut activity = Activity::new(k);
    (activity.cluster_size, activity.exposure) = (sizes.clone(), sizes.iter().rev().copied().collect());
    let before = activity.clone();
    activity.observe(decay, statistics).expect("the shapes agree");
    let weights: Vec<f64> = (0..k).map(|code| statistics.weight(code)).collect();
    // Rows' weights are multiples of 2⁻⁴⁰ and few: their sum in f64 is exact.
    let total: f64 = weights.iter().sum();
    assert_bits64(&[statistics.total(), activity.rows_seen], &[total, total], &"total");
    let moved = |average: f32, value: f64| {
        let moved = (decay * f64::from(average) + (1.0 - decay) * value) as f32;
        if f64::from(moved) < 2f64.powi(-100) { 0.0 } else { moved }
    };
    for (code, &weight) in weights.iter().enumerate() {
        let expected = [moved(before.cluster_size[code], weight), moved(before.exposure[code], total)];
        assert_bits(&[activity.cluster_size[code], activity.exposure[code]], &expected, &"observe");
        assert_eq!(activity.last_seen[code], if weight > 0.0 { total } else { 0.0 });
    }
    reach.mark(OBSERVED);
}

/// Where a code is nearly full: one row too many refuses the whole call and leaves everything as it was.
fn full(input: &mut Input, batch: &Batch, cpu: &Cpu, reach: &Reach) {
    let room = input.below(4) as i64;
    let weights = vec![MOST - (room << 40); batch.k];
    let sums = weights.iter().flat_map(|&n| vec![n; batch.x.cols()]).collect();
    let mut statistics = Statistics::from_parts(weights, sums, batch.x.cols(), 128).expect("sums up to the weights");
    let before = statistics.clone();
    // A row needs room for a weight of 1, whatever its own is.
    let (mut filled, mut expected) = (before.as_parts().0.to_vec(), true);
    for row in (0..batch.x.rows()).filter(|&row| usable(batch, row) && finite(batch, row)) {
        let (total, weight) = (&mut filled[batch.codes[row] as usize], batch.weights.map_or(1.0, |w| w[row]));
        expected &= *total <= MOST - (1 << 40);
        *total += (f64::from(weight) * 2f64.powi(40)).round_ties_even() as i64;
    }
    let accumulated = statistics.accumulate(cpu, batch.x, batch.codes, batch.weights);
    match accumulated {
        Ok(_) => assert_eq!(statistics.as_parts().0, filled),
        Err(Error::Overflow { .. }) => assert_eq!(statistics, before),
        Err(ref error) => panic!("{error:?}"),
    }
    assert_eq!(accumulated.is_ok(), expected);
    if !expected {
        reach.mark(FULL);
    }
    // Merging fills to the brim, and no further.
    let other =
        Statistics::from_parts(vec![room << 40; batch.k], vec![0; batch.k * batch.x.cols()], batch.x.cols(), 128);
    let (mut brim, other) = (before.clone(), other.expect("sums up to the weights"));
    assert_eq!(brim.merge(&other), Ok(()));
    assert_eq!(brim.as_parts().0, vec![MOST; batch.k]);
    let mut drop = Statistics::new(batch.k, batch.x.cols(), 127).expect("a codebook's shape");
    assert!(matches!(brim.merge(&drop), Err(Error::Config { .. })));
    drop.coarsen(128);
    assert_eq!(brim.merge(&drop), Ok(()));
    if room > 0 {
        assert!(matches!(brim.merge(&other), Err(Error::Overflow { op: "merge", code: 0 })));
    }
}
