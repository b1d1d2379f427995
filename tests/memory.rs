//! What is allocated: nothing by the ops, and less than 200 MB by a training step at full size.

mod common;

use common::{mat, mat_mut, paint};
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::alloc::System;
use std::sync::Mutex;
use vq_kernels::ops::ema::{self, Activity, Statistics};
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::ops::restart::{self, Restarted, Rule};
use vq_kernels::ops::{self, Candidate, usage};
use vq_kernels::quantizer::{Config, Initial, Learner, Quantizer};
use vq_kernels::{Cpu, Line, Metric, PackedCodebook, Packing};

/// The system's allocator, with its books kept.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's claims.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's claims.
        unsafe { System.dealloc(pointer, layout) }
    }
    // `realloc` stays the default, alloc + copy + dealloc: both blocks count while they live.
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are the process's: one measurement at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One step of `learner` at full size; returns the peak of live bytes in the whole process.
fn peak_of_a_step(learner: Learner) -> usize {
    const ROWS: usize = 65_536;
    const DIM: usize = 32;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let cpu = Cpu::new();
    let cpu = cpu.with_pool(&pool);
    PEAK.store(LIVE.load(Relaxed), Relaxed);
    let config = Config {
        inputs: DIM,
        dim: DIM,
        codes: 100_000,
        learner,
        factorize: false,
        restart: Some(Rule::default()),
        ..Config::default()
    };
    let mut quantizer = Quantizer::new(config, Initial::Normal).unwrap();
    let x = paint(ROWS * DIM, 1);
    let report = quantizer
        .train_step(&cpu, mat(&x, ROWS, DIM), None, |output, gradient| {
            gradient.iter_mut().zip(output.data()).zip(&x).for_each(|((g, y), x)| *g = y - x);
        })
        .unwrap();
    assert_eq!(report.rows, ROWS);
    quantizer
        .apply(&cpu, |update| {
            update.values.iter_mut().zip(update.gradient).for_each(|(v, g)| *v -= 0.1 * g);
        })
        .unwrap();
    PEAK.load(Relaxed)
}

#[test]
fn a_step_of_65536_rows_against_100000_codes_takes_less_than_200_mb() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if cfg!(debug_assertions) {
        println!("skipped: 2·10¹¹ multiplications take minutes without optimization; run with --release");
        return;
    }
    for learner in [Learner::Ema, Learner::Gradient] {
        let peak = peak_of_a_step(learner);
        println!("{learner:?}: {:.1} MB at the peak, rows, codebook and all", peak as f64 / 1e6);
        // The rows, their gradient, the codebook and its packed form alone are 42 MB: the counter counts.
        assert!((42_000_000..200_000_000).contains(&peak), "{learner:?}: {peak} bytes");
    }
}

#[test]
fn ops_allocate_nothing() {
    const N: usize = 1500;
    const K: usize = 700;
    const D: usize = 20;
    const W: usize = 50;
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let cpu = Cpu::new();
    let (data, codebook, weight, wide) = (paint(N * D, 1), paint(K * D, 2), paint(W * D, 3), paint(N * W, 4));
    let halves: Vec<half::f16> = data.iter().map(|&x| half::f16::from_f32(x)).collect();
    let (x, book_rows, weight, wide) = (mat(&data, N, D), mat(&codebook, K, D), mat(&weight, W, D), mat(&wide, N, W));
    let mut lines = vec![Line([0.0; 16]); PackedCodebook::lines_len(K, D, Metric::L2, Packing::Int8)];
    let (mut codes, mut scores, mut norms) = (vec![0u32; N], vec![0.0; N], vec![0.0; N]);
    let (mut best, mut y, mut dx, mut out) =
        (vec![Candidate::NONE; N * 3], vec![0.0; N * D], vec![0.0; N * D], vec![0.0; N * W]);
    let (mut dw, mut db, mut counts, mut remap) = (vec![0.0; W * D], vec![0.0; W], vec![0; K], vec![0; K]);
    let (mut totals, mut sums) = (vec![0; K], vec![0; K * D]);
    let (mut mean, mut direction, mut donors) = (codebook.clone(), codebook.clone(), codebook.clone());
    let (mut sizes, mut exposure, mut last_seen) = (vec![0.0f32; K], vec![0.0f32; K], vec![0.0f64; K]);
    let (mut scratch, mut log) = (vec![0; restart::scratch_len(N)], vec![Restarted::default(); K]);
    let weights = vec![0.5; N];
    let w = Some(&weights[..]);
    let mut total = SquaredError::default();

    let allocations = |what: &str, task: &mut dyn FnMut()| {
        // Threads of the test harness may allocate: the least of three calls is the op's own.
        let counted = |task: &mut dyn FnMut()| {
            let before = CALLS.load(Relaxed);
            task();
            CALLS.load(Relaxed) - before
        };
        let least = (0..3).map(|_| counted(task)).min();
        assert_eq!(least, Some(0), "{what} allocates");
    };
    // The counter can count.
    assert!(
        std::panic::catch_unwind(|| allocations("a vector", &mut || drop(core::hint::black_box(vec![0u8; 9]))))
            .is_err()
    );

    allocations("pack_into", &mut || {
        assert!(PackedCodebook::pack_into(book_rows, Metric::L2, Packing::Int8, &mut lines[..]).is_ok())
    });
    let book = PackedCodebook::from_lines(&lines[..], K, D, Metric::L2, Packing::Int8).unwrap();
    allocations("search", &mut || ops::search(&cpu, x, w, &book, &mut codes, Some(&mut scores)).unwrap());
    let half_rows = mat(&halves, N, D);
    allocations("search in f16", &mut || ops::search(&cpu, half_rows, w, &book, &mut codes, None).unwrap());
    allocations("search_top", &mut || ops::search_top(&cpu, x, w, &book, mat_mut(&mut best, N, 3)).unwrap());
    allocations("search_mth", &mut || ops::search_mth(&cpu, x, w, &book, 2, &mut codes, &mut best).unwrap());
    allocations("gather", &mut || ops::gather(&cpu, &codes, book_rows, mat_mut(&mut y, N, D)).unwrap());
    allocations("normalize", &mut || ops::normalize(&cpu, x, mat_mut(&mut y, N, D), Some(&mut norms)).unwrap());
    let unit = mat(&y, N, D);
    allocations("normalize_backward", &mut || {
        ops::normalize_backward(&cpu, unit, &norms, x, mat_mut(&mut dx, N, D)).unwrap()
    });
    allocations("project", &mut || ops::project(&cpu, x, weight, None, mat_mut(&mut out, N, W)).unwrap());
    allocations("project_backward_input", &mut || {
        ops::project_backward_input(&cpu, wide, weight, mat_mut(&mut dx, N, D)).unwrap()
    });
    allocations("project_backward_weight", &mut || {
        ops::project_backward_weight(&cpu, wide, x, mat_mut(&mut dw, W, D), Some(&mut db)).unwrap();
    });
    allocations("squared_error", &mut || loss::squared_error(&cpu, x, unit, &codes, w, &mut total).unwrap());
    allocations("squared_error_backward", &mut || {
        loss::squared_error_backward(&cpu, x, unit, &codes, w, 1.0, mat_mut(&mut dx, N, D)).unwrap();
    });
    allocations("straight_through_backward", &mut || {
        loss::straight_through_backward(&cpu, &codes, x, mat_mut(&mut dx, N, D)).unwrap();
    });
    allocations("rotation_backward", &mut || {
        loss::rotation_backward(&cpu, x, unit, &codes, x, mat_mut(&mut dx, N, D)).unwrap()
    });
    allocations("exponent", &mut || assert!(ema::exponent(x, &codes, w).unwrap() < 4));
    let mut statistics = Statistics::new_in(&mut totals[..], &mut sums[..], D, 4).unwrap();
    allocations("accumulate", &mut || assert_eq!(statistics.accumulate(&cpu, x, &codes, w), Ok(0)));
    let mut activity = Activity::new_in(&mut sizes[..], &mut exposure[..], &mut last_seen[..]).unwrap();
    allocations("update_means", &mut || {
        let (means, directions) = (mat_mut(&mut mean, K, D), mat_mut(&mut direction, K, D));
        ema::update_means(&cpu, 0.9, &statistics, activity.cluster_size, means, Some(directions)).unwrap();
    });
    allocations("observe", &mut || activity.observe(0.9, &statistics).unwrap());
    allocations("restart", &mut || {
        // Every code has been unhit for long, every time.
        activity.rows_seen += 1e9;
        let (rule, view) = (Rule { share: f64::INFINITY, patience: 1.0, seed: 1 }, mat_mut(&mut donors, K, D));
        let summary = restart::restart(x, &codes, w, &rule, 1, &mut activity, view, None, &mut scratch, &mut log);
        assert_eq!(summary.unwrap().stale, K);
    });
    allocations("count, prune, compact, renumber", &mut || {
        usage::count(&codes, w, &mut counts).unwrap();
        usage::prune(&counts, 0, &mut remap).unwrap();
        usage::compact(&mut mean, D, &remap).unwrap();
        usage::renumber(&mut codes, &remap).unwrap();
    });
}
