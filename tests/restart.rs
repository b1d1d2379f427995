//! Restart leaves a uniformly used codebook alone, replaces a dead code as soon as it may be judged, and
//! what it puts in place stays there.

mod common;

use common::{mat, mat_mut, unit_rows};
use vq_kernels::ops::ema::{Activity, Statistics};
use vq_kernels::ops::restart::{Restarted, Rule, restart, scratch_len};
use vq_kernels::quantizer::{Config, Initial, Quantizer};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, NO_CODE};

struct Use {
    rows: usize,
    steps: usize,
    why: &'static str,
}

/// K = 20,000 codes; the first judgement of all codes falls within the steps, and at least one more period.
const CODES: usize = 20_000;
const USES: &[Use] = &[
    Use { rows: CODES / 50, steps: 1000, why: "M/K = 0.02: the average spans 2 expected hits only" },
    Use { rows: CODES * 13 / 20, steps: 60, why: "M/K = 0.65: the batch of a 224 px tokenizer at 100,000 codes" },
    Use { rows: CODES * 8, steps: 8, why: "M/K = 8: judged from the first step on" },
];

#[test]
fn uniform_use_restarts_hardly_any_code() {
    let (cpu, dim, rule) = (Cpu::new(), 1, Rule::default());
    for &Use { rows, steps, why } in USES {
        let mut rng = Rng::new(11, rows as u64);
        let x: Vec<f32> = (0..rows).map(|_| rng.normal() * 0.1).collect();
        let mut statistics = Statistics::new(CODES, dim, 0).unwrap();
        let mut activity = Activity::new_in(vec![0.0; CODES], vec![0.0; CODES], vec![0.0; CODES]).unwrap();
        let (mut codebook, mut scratch) = (vec![9.0; CODES], vec![0; scratch_len(rows)]);
        let (mut log, mut most, mut judged) = (vec![Restarted::default(); rows], 0, false);
        for step in 0..steps {
            let codes: Vec<u32> = (0..rows).map(|_| rng.below(CODES as u64) as u32).collect();
            statistics.clear(0);
            statistics.accumulate(&cpu, mat(&x, rows, dim), &codes, None).unwrap();
            activity.observe(0.99, &statistics).unwrap();
            let book = mat_mut(&mut codebook, CODES, dim);
            let x = mat(&x, rows, dim);
            let summary =
                restart(x, &codes, None, &rule, step as u64, &mut activity, book, None, &mut scratch, &mut log);
            most = most.max(summary.unwrap().stale);
            judged |= activity.rows_seen >= rule.patience * CODES as f64;
        }
        let share = most as f64 / CODES as f64;
        println!("{why}: at most {:.3} % of the codes in a step", 100.0 * share);
        assert!(judged, "{why}: never judged");
        assert!(share <= 0.002, "{why}: {share}");
    }
}

#[test]
fn a_dead_code_is_replaced_as_soon_as_it_may_be_judged_and_stays() {
    const K: usize = 64;
    const DIM: usize = 6;
    let cpu = Cpu::new();
    // With 64 rows a step the codes have had 8 expected hits exactly when they are first judged.
    for rows in [7, 40, 64, 600] {
        // All rows and codes lie around +e0; code 20 is planted at −e0, where no row is nearest to it.
        let around = |n: usize, seed: u64| -> Vec<f32> {
            let mut x = unit_rows(n, DIM, seed);
            x.chunks_exact_mut(DIM).for_each(|row| row[0] = row[0].abs() + 0.5);
            x
        };
        let mut codes = around(K, 1);
        codes[20 * DIM..21 * DIM].copy_from_slice(&[-1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let config = Config { inputs: DIM, dim: DIM, codes: K, factorize: false, ..Config::default() };
        let mut quantizer = Quantizer::new(config, Initial::Codes(codes)).unwrap();
        let first_judged = (8 * K).div_ceil(rows);
        for step in 1..=first_judged {
            let x = around(rows, 100 + step as u64);
            quantizer.train_step(&cpu, mat(&x, rows, DIM), None, |_, _| {}).unwrap();
            let restarted = quantizer.last_restarted().iter().any(|restarted| restarted.code == 20);
            assert_eq!(restarted, step == first_judged, "{rows} rows, step {step}");
        }
        let donor = quantizer.codebook().row(20).to_vec();
        assert!(donor[0] > 0.0, "it came from the batch");
        let mut moved_by_hits = false;
        for step in 0..20 {
            let x = around(rows, 900 + step);
            quantizer.train_step(&cpu, mat(&x, rows, DIM), None, |_, _| {}).unwrap();
            assert!(quantizer.last_restarted().iter().all(|restarted| restarted.code != 20), "replaced again");
            moved_by_hits |= quantizer.last_codes().contains(&20);
            // Its own hits may move it; nothing else does, least of all back to where it was.
            let now = quantizer.codebook().row(20);
            assert!(now[0] > 0.0 && (moved_by_hits || now == donor), "{rows} rows, step {step}: {now:?}");
        }
        assert!(moved_by_hits, "{rows} rows: a code in the midst of the data is used");
        assert!(!quantizer.last_codes().contains(&NO_CODE));
    }
}
