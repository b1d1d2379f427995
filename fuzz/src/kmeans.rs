//! Codebook building: any tier and any split of the stream give the same centres.

use std::collections::BTreeSet;

use vq_kernels::kmeans::{KMeans, Seeds};
use vq_kernels::{Cpu, Isa};

use crate::Reach;
use crate::input::{Input, assert_bits, assert_bits64, mat};

const REFILLED: usize = 0;
const MINI_BATCH: usize = 1;
const SEEDS: usize = 2;

pub fn kmeans(input: &mut Input, reach: &Reach) {
    let (rows, k, dim) = (1 + input.rows(), input.pick(&[1, 2, 3, 7, 20]), input.pick(&[1, 2, 3, 8]));
    let metric = input.metric();
    let x = match metric {
        vq_kernels::Metric::Cosine => input.unit_matrix(rows, dim),
        vq_kernels::Metric::L2 => input.matrix(rows, dim),
    };
    let centres: Vec<f32> = (0..k * dim).map(|_| input.uniform()).collect();
    let weights = input.weights(rows);
    let split = input.below(rows + 1);
    // Beyond 2⁸ times the centres, where the stream is cut matters: so it is documented.
    let moderate = x.iter().filter(|x| x.is_finite()).all(|x| x.abs() <= 1.0);
    let mini = input.once_in(3);
    let x = mat(&x, rows, dim);
    let mut first: Option<(Vec<f32>, f64)> = None;
    for (i, isa) in Isa::available().enumerate() {
        let cpu = Cpu::with_isa(isa);
        let mut kmeans = KMeans::new(centres.clone(), k, dim, metric).expect("finite centres");
        let mut inertia = 0.0;
        for _ in 0..2 {
            let cut = if moderate && !mini && i % 2 == 1 { split } else { 0 };
            for (first, count) in [(0, cut), (cut, rows - cut)] {
                let weights = weights.as_ref().map(|w| &w[first..first + count]);
                let part = x.rows_from(first, count);
                match mini {
                    true => kmeans.mini_batch(&cpu, part, weights).expect("the shapes agree"),
                    false => kmeans.accumulate(&cpu, part, weights).expect("the shapes agree"),
                }
            }
            let pass = kmeans.finish_pass(&cpu).expect("nothing a caller can cause");
            assert!(pass.refilled <= pass.empty && pass.empty <= k && pass.rows <= rows as u64);
            if pass.refilled > 0 {
                reach.mark(REFILLED);
            }
            inertia = pass.inertia;
        }
        reach.tier(&cpu);
        if mini {
            reach.mark(MINI_BATCH);
        }
        let centres = kmeans.centres().data().to_vec();
        match &first {
            None => first = Some((centres, inertia)),
            Some((expected, expected_inertia)) => {
                assert_bits(&centres, expected, &cpu);
                assert_bits64(&[inertia], &[*expected_inertia], &cpu);
            }
        }
    }
    seeds(input, x, k, reach);
}

/// Distinct finite rows of the stream, whatever its order and repetitions.
fn seeds(input: &mut Input, x: vq_kernels::MatRef, k: usize, reach: &Reach) {
    let (rows, dim, seed) = (x.rows(), x.cols(), input.bits());
    let [mut whole, mut parts] = [0; 2].map(|_| Seeds::new(k, dim, seed).expect("a codebook's shape"));
    whole.offer(x).expect("the dimensions agree");
    for row in (0..rows).rev().chain(0..rows / 2) {
        parts.offer(x.rows_from(row, 1)).expect("the dimensions agree");
    }
    let bits = |row: usize| x.row(row).iter().map(|x| (x + 0.0).to_bits()).collect::<Vec<_>>();
    let finite = |row: &usize| x.row(*row).iter().all(|x| x.is_finite());
    let distinct: BTreeSet<Vec<u32>> = (0..rows).filter(finite).map(bits).collect();
    assert_eq!((whole.len(), parts.len()), (distinct.len().min(k), distinct.len().min(k)));
    match (whole.finish(), parts.finish()) {
        (Ok(a), Ok(b)) => {
            assert_bits(&a, &b, &"seeds");
            let of = |row: &[f32]| row.iter().map(|x| (x + 0.0).to_bits()).collect::<Vec<_>>();
            let drawn: BTreeSet<Vec<u32>> = a.chunks_exact(dim).map(of).collect();
            assert!(drawn.len() == k && drawn.is_subset(&distinct));
            reach.mark(SEEDS);
        }
        (a, b) => assert!(a.is_err() && b.is_err() && distinct.len() < k),
    }
}
