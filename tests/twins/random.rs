//! Cases by lot: shapes, values and settings that nobody thought of. A few here; for as long as `VQ_KERNELS_SECONDS` says
//! where a device runs them.

use core::time::Duration;
use std::time::Instant;

use vq_kernels::cuda::quantizer::DeviceQuantizer;
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner, Quantizer};
use vq_kernels::rng::Rng;
use vq_kernels::{MAX_DIM, Metric};

use crate::common::paint;
use crate::support::Gpu;
use crate::vm::MmaError;

/// Cases on the virtual machine.
const FEW: u64 = 6;

#[test]
fn shapes() {
    let seconds = std::env::var("VQ_KERNELS_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let (start, device) = (Instant::now(), std::env::var_os("VQ_KERNELS_DEVICE").is_some());
    let mut case = 0;
    let more = |case: u64| match seconds {
        Some(seconds) => start.elapsed() < Duration::from_secs(seconds),
        None => case < FEW,
    };
    while more(case) {
        // On failure the seed is in the message: a case is a function of it.
        one(case, device && seconds.is_some());
        case += 1;
    }
    println!("{case} random cases in {:.0?}", start.elapsed());
}

/// A search and two training steps, CPU against device. Large ones want a device.
fn one(seed: u64, large: bool) {
    let mut rng = Rng::new(seed, 0x7A);
    // Each power of two is as likely as another.
    let mut extent = |most: f64| (rng.uniform() * most.log2()).exp2() as usize;
    let (rows, codes) = if large { (extent(40_000.0), extent(60_000.0)) } else { (extent(300.0), extent(500.0)) };
    let dim = extent(if large { 600.0 } else { 80.0 }).min(MAX_DIM);
    let processors = extent(200.0) as u32;
    let gpu = Gpu::new(MmaError::Worst { seed }, processors);
    let metric = if rng.below(2) == 0 { Metric::Cosine } else { Metric::L2 };
    let context = format!("seed {seed}: {rows} x {codes} x {dim}, {metric:?}, {processors} processors");
    let spread = [1.0, 1e-6, 1e6][rng.below(3) as usize];
    let scaled = |len: usize, seed: u64| -> Vec<f32> { paint(len, seed).into_iter().map(|x| spread * x).collect() };
    let (values, mut x) = (scaled(codes * dim, rng.next_u64()), scaled(rows * dim, rng.next_u64()));
    // Rows that are codes, near codes, and not finite.
    for (row, x) in x.chunks_exact_mut(dim).enumerate() {
        match (row + seed as usize) % 7 {
            0 => x.copy_from_slice(&values[row % codes * dim..][..dim]),
            1 => x.iter_mut().zip(&values[row % codes * dim..]).for_each(|(x, e)| *x = e * (1.0 + 1e-6)),
            2 if row % 5 == 0 => x[row % dim] = [f32::NAN, f32::INFINITY, 0.0][row % 3],
            _ => {}
        }
    }
    crate::search::every_way(&gpu, (&x, &values), codes, dim, metric, &context);
    let config = Config {
        inputs: dim,
        dim: if rng.below(2) == 0 { dim } else { 1 + rng.below(dim as u64) as usize },
        codes,
        factorize: rng.below(2) == 0,
        normalize: rng.below(2) == 0,
        learner: [Learner::Ema, Learner::Gradient, Learner::Frozen][rng.below(3) as usize],
        estimator: if rng.below(2) == 0 { Estimator::StraightThrough } else { Estimator::Rotation },
        seed,
        ..Config::default()
    };
    let config = Config { dim: if config.factorize { config.dim } else { dim }, ..config };
    // Settings that the CPU refuses, the device does too.
    match DeviceQuantizer::memory_len(&gpu, &config, rows) {
        Ok(_) => drop(crate::quantizer::twins(config, rows.clamp(24, if large { 4096 } else { 64 }), 2)),
        Err(error) => assert!(Quantizer::new(config, Initial::Normal).is_err(), "{context}: {error}"),
    }
}
