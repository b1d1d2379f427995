//! Facts that hold for every input: each property draws shapes and seeds, and shrinks them.

mod common;

use common::{assert_same_bits, canonical, grid, mat, mat_mut, paint, unit_rows};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use vq_kernels::kmeans::{KMeans, Seeds};
use vq_kernels::ops::ema::{self, Activity, Statistics};
use vq_kernels::ops::loss::{SquaredError, squared_error};
use vq_kernels::ops::restart::{self, Restarted, Rule};
use vq_kernels::ops::search::reference_score;
use vq_kernels::ops::{Candidate, Search, gather, normalize, project, search, search_mth, search_top, usage};
use vq_kernels::rng::{Permutation, Rng};
use vq_kernels::{Cpu, Element, Line, Metric, NO_CODE, PackedCodebook, Packing};

/// Cases per property: the whole file takes a few seconds in release.
const CASES: u32 = 192;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x0005_EED0_F7E5),
        ..ProptestConfig::default()
    }
}

fn metrics() -> impl Strategy<Value = Metric> {
    prop_oneof![Just(Metric::Cosine), Just(Metric::L2)]
}

/// Numbers of codes around panel and group edges: the lanes and the tails of the kernels.
fn codes_count() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..70, 120usize..140, 250usize..270, 500usize..530]
}

fn pack(codebook: &[f32], dim: usize, metric: Metric) -> PackedCodebook<Vec<Line>> {
    PackedCodebook::new(mat(codebook, codebook.len() / dim, dim), metric).unwrap()
}

/// Codes and scores of all rows.
fn found<E: Element>(
    x: &[E],
    dim: usize,
    weights: Option<&[f32]>,
    book: &PackedCodebook<Vec<Line>>,
) -> (Vec<u32>, Vec<f32>) {
    let rows = x.len() / dim;
    let (mut codes, mut scores) = (vec![7; rows], vec![7.0; rows]);
    search(&Cpu::new(), mat(x, rows, dim), weights, book, &mut codes, Some(&mut scores)).unwrap();
    (codes, scores)
}

fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let permutation = Permutation::new(seed, 1, n as u64);
    (0..n as u64).map(|i| permutation.permuted(i) as usize).collect()
}

/// Rows of `x` in another order.
fn rows_in<T: Copy>(x: &[T], dim: usize, order: &[usize]) -> Vec<T> {
    order.iter().flat_map(|&i| x[i * dim..(i + 1) * dim].iter().copied()).collect()
}

/// Codes for rows, about one in eight of them without.
fn row_codes(rows: usize, codes: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed, 0xC0DE);
    (0..rows).map(|_| if rng.below(8) == 0 { NO_CODE } else { rng.below(codes as u64) as u32 }).collect()
}

/// Weights, about a third of them zero and a third one.
fn row_weights(rows: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 0x3E19);
    (0..rows).map(|_| [0.0, 1.0, rng.uniform() as f32][rng.below(3) as usize]).collect()
}

/// All scores of a row in the order of the contract: by score, then lowest code.
fn ranked(x: &[f32], codebook: &[f32], dim: usize, metric: Metric) -> Vec<(f32, u32)> {
    let scores = codebook.chunks_exact(dim).map(|code| reference_score(x, code, metric));
    let mut ranked: Vec<(f32, u32)> = scores.zip(0..).filter(|(s, _)| !s.is_nan()).collect();
    // −0 and +0 are one score.
    ranked.sort_by(|a, b| (b.0 + 0.0).total_cmp(&(a.0 + 0.0)).then(a.1.cmp(&b.1)));
    ranked
}

fn accumulated(
    x: &[f32],
    dim: usize,
    k: usize,
    codes: &[u32],
    weights: Option<&[f32]>,
    exponent: i32,
) -> Statistics<Vec<i64>> {
    let mut statistics = Statistics::new(k, dim, exponent).unwrap();
    statistics.accumulate(&Cpu::new(), mat(x, codes.len(), dim), codes, weights).unwrap();
    statistics
}

// -- search and gather

proptest! {
    #![proptest_config(config())]

    #[test]
    fn permuted_codes_give_permuted_answers(
        metric in metrics(), k in codes_count(), dim in 1usize..20, rows in 1usize..20, seed: u64,
    ) {
        let (x, codebook) = (paint(rows * dim, seed), paint(k * dim, seed ^ 1));
        let order = shuffled(k, seed);
        let (codes, scores) = found(&x, dim, None, &pack(&codebook, dim, metric));
        let permuted = pack(&rows_in(&codebook, dim, &order), dim, metric);
        let (codes_of_permuted, scores_of_permuted) = found(&x, dim, None, &permuted);
        for row in 0..rows {
            prop_assert_eq!(canonical(scores[row]), canonical(scores_of_permuted[row]));
            let ranked = ranked(&x[row * dim..][..dim], &codebook, dim, metric);
            if ranked.len() < 2 || ranked[0].0 > ranked[1].0 {
                prop_assert_eq!(order[codes_of_permuted[row] as usize], codes[row] as usize);
            }
        }
    }

    #[test]
    fn the_lowest_of_equal_codes_wins(
        metric in metrics(), k in codes_count(), dim in 1usize..6, rows in 1usize..30, seed: u64,
    ) {
        // A few levels in few dimensions: most rows have several best codes.
        let (x, codebook) = (grid(rows * dim, seed, 2), grid(k * dim, seed ^ 1, 2));
        let (codes, scores) = found(&x, dim, None, &pack(&codebook, dim, metric));
        for row in 0..rows {
            let best = ranked(&x[row * dim..][..dim], &codebook, dim, metric)[0];
            prop_assert_eq!((codes[row], canonical(scores[row])), (best.1, canonical(best.0)));
        }
    }

    #[test]
    fn a_code_finds_itself_under_l2(k in codes_count(), dim in 1usize..10, seed: u64) {
        // On a grid all scores are exact, so that only an equal code can be as near.
        let codebook = grid(k * dim, seed, 4);
        let (codes, scores) = found(&codebook, dim, None, &pack(&codebook, dim, Metric::L2));
        for (row, (&code, score)) in codes.iter().zip(scores).enumerate() {
            let own = &codebook[row * dim..][..dim];
            let first = codebook.chunks_exact(dim).position(|code| code == own).unwrap();
            prop_assert_eq!(code as usize, first);
            // x·x − ½ x·x, so the squared distance ‖x‖² − 2s is zero.
            prop_assert_eq!(2.0 * score, own.iter().map(|x| x * x).sum::<f32>());
        }
    }

    #[test]
    fn a_unit_code_finds_itself_under_cosine(k in codes_count(), dim in 3usize..40, seed: u64) {
        let codebook = unit_rows(k, dim, seed);
        let book = pack(&codebook, dim, Metric::Cosine);
        let (codes, _) = found(&codebook, dim, None, &book);
        for (row, &code) in codes.iter().enumerate() {
            let (own, other) = (&codebook[row * dim..][..dim], &codebook[code as usize * dim..][..dim]);
            // Another may win only if it is the same direction up to rounding.
            let apart: f32 = own.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum();
            prop_assert!(code as usize == row || apart < 1e-6, "row {} found {}, {} apart", row, code, apart);
        }
    }

    #[test]
    fn quantizing_twice_is_quantizing_once(k in codes_count(), dim in 2usize..8, rows in 1usize..40, seed: u64) {
        let (x, mut codebook) = (paint(rows * dim, seed), grid(k * dim, seed ^ 1, 64));
        // Distinct codes: the first coordinate is the code's own.
        codebook.iter_mut().step_by(dim).zip(0..).for_each(|(c, k)| *c = k as f32 / 64.0);
        let book = pack(&codebook, dim, Metric::L2);
        let (codes, _) = found(&x, dim, None, &book);
        let mut quantized = vec![9.0; rows * dim];
        gather(&Cpu::new(), &codes, mat(&codebook, k, dim), mat_mut(&mut quantized, rows, dim)).unwrap();
        let (again, _) = found(&quantized, dim, None, &book);
        prop_assert_eq!(codes, again);
    }

    #[test]
    fn the_best_m_are_the_first_m_of_all_scores_sorted(
        metric in metrics(), k in codes_count(), dim in 1usize..8, rows in 1usize..12, m in 1usize..40, ties: bool, seed: u64,
    ) {
        let (x, codebook) = match ties {
            true => (grid(rows * dim, seed, 2), grid(k * dim, seed ^ 1, 2)),
            false => (paint(rows * dim, seed), paint(k * dim, seed ^ 1)),
        };
        let (cpu, book) = (Cpu::new(), pack(&codebook, dim, metric));
        let mut best = vec![Candidate { score: 1.0, code: 0 }; rows * m];
        search_top(&cpu, mat(&x, rows, dim), None, &book, mat_mut(&mut best, rows, m)).unwrap();
        let (codes, scores) = found(&x, dim, None, &book);
        for (row, best) in best.chunks_exact(m).enumerate() {
            prop_assert_eq!((best[0].code, canonical(best[0].score)), (codes[row], canonical(scores[row])));
            let expected = ranked(&x[row * dim..][..dim], &codebook, dim, metric);
            for (i, candidate) in best.iter().enumerate() {
                match expected.get(i) {
                    Some(&(score, code)) => prop_assert_eq!((candidate.code, canonical(candidate.score)), (code, canonical(score))),
                    None => prop_assert!(candidate.code == NO_CODE && candidate.score.is_nan()),
                }
            }
        }
        // The m-th, whatever the scratch holds.
        for scratch in [m, 3 * m + 1, rows * m] {
            let (mut mth, mut scratch) = (vec![7; rows], vec![Candidate::NONE; scratch.max(m)]);
            search_mth(&cpu, mat(&x, rows, dim), None, &book, m, &mut mth, &mut scratch).unwrap();
            prop_assert!(mth.iter().zip(best.chunks_exact(m)).all(|(&code, best)| code == best[m - 1].code));
        }
    }

    #[test]
    fn a_batch_split_anywhere_gives_the_same_codes(
        metric in metrics(), k in codes_count(), dim in 1usize..20, rows in 1usize..220, at in 0usize..220, seed: u64,
    ) {
        let (x, codebook) = (paint(rows * dim, seed), paint(k * dim, seed ^ 1));
        let (book, at) = (pack(&codebook, dim, metric), at.min(rows));
        let (codes, scores) = found(&x, dim, None, &book);
        let (first, second) = x.split_at(at * dim);
        let (a, b) = (found(first, dim, None, &book), found(second, dim, None, &book));
        prop_assert_eq!(codes, [a.0, b.0].concat());
        assert_same_bits(&[a.1, b.1].concat(), &scores, "scores");
    }

    #[test]
    fn rows_of_weight_zero_get_no_code_and_disturb_none(
        metric in metrics(), k in codes_count(), dim in 1usize..20, rows in 1usize..220, seed: u64,
    ) {
        let (mut x, codebook, weights) = (paint(rows * dim, seed), paint(k * dim, seed ^ 1), row_weights(rows, seed));
        let book = pack(&codebook, dim, metric);
        let (unmasked, scores) = found(&x, dim, None, &book);
        for (row, _) in weights.iter().enumerate().filter(|(_, w)| **w == 0.0) {
            x[row * dim] = f32::NAN;
        }
        let (codes, masked_scores) = found(&x, dim, Some(&weights), &book);
        for row in 0..rows {
            if weights[row] == 0.0 {
                prop_assert!(codes[row] == NO_CODE && masked_scores[row].is_nan());
            } else {
                prop_assert_eq!((codes[row], canonical(masked_scores[row])), (unmasked[row], canonical(scores[row])));
            }
        }
    }

    #[test]
    fn half_rows_are_the_same_rows_widened(
        metric in metrics(), k in codes_count(), dim in 1usize..200, rows in 1usize..60, seed: u64,
    ) {
        let (x, codebook) = (paint(rows * dim, seed), paint(k * dim, seed ^ 1));
        let book = pack(&codebook, dim, metric);
        let f16: Vec<half::f16> = x.iter().map(|&x| half::f16::from_f32(x)).collect();
        let bf16: Vec<half::bf16> = x.iter().map(|&x| half::bf16::from_f32(x)).collect();
        let wide: Vec<f32> = f16.iter().map(|x| x.to_f32()).collect();
        let (codes, scores) = found(&f16, dim, None, &book);
        let expected = found(&wide, dim, None, &book);
        prop_assert_eq!(codes, expected.0);
        assert_same_bits(&scores, &expected.1, "f16");
        let wide: Vec<f32> = bf16.iter().map(|x| x.to_f32()).collect();
        let (codes, scores) = found(&bf16, dim, None, &book);
        let expected = found(&wide, dim, None, &book);
        prop_assert_eq!(codes, expected.0);
        assert_same_bits(&scores, &expected.1, "bf16");
    }

    #[test]
    fn u16_codes_are_the_u32_codes(metric in metrics(), k in codes_count(), dim in 1usize..9, rows in 1usize..60, seed: u64) {
        let (mut x, codebook) = (paint(rows * dim, seed), paint(k * dim, seed ^ 1));
        x[0] = f32::NAN;
        let book = pack(&codebook, dim, metric);
        let (wide, _) = found(&x, dim, None, &book);
        let mut narrow = vec![3u16; rows];
        search(&Cpu::new(), mat(&x, rows, dim), None, &book, &mut narrow, None).unwrap();
        prop_assert_eq!((narrow[0], wide[0]), (u16::MAX, NO_CODE));
        prop_assert!(narrow.iter().zip(&wide).skip(1).all(|(&n, &w)| u32::from(n) == w));
        let (mut of_narrow, mut of_wide) = (vec![9.0; rows * dim], vec![9.0; rows * dim]);
        gather(&Cpu::new(), &narrow, mat(&codebook, k, dim), mat_mut(&mut of_narrow, rows, dim)).unwrap();
        gather(&Cpu::new(), &wide, mat(&codebook, k, dim), mat_mut(&mut of_wide, rows, dim)).unwrap();
        assert_same_bits(&of_narrow, &of_wide, "gathered");
    }

    #[test]
    fn repacking_the_changed_codes_is_packing_anew(metric in metrics(), k in codes_count(), dim in 1usize..9, changes in 0usize..12, seed: u64) {
        let mut codebook = paint(k * dim, seed);
        let pack = |codebook: &[f32], packing| PackedCodebook::with_packing(mat(codebook, k, dim), metric, packing).unwrap();
        let (mut book, mut coarse) = (pack(&codebook, Packing::F32), pack(&codebook, Packing::Int8));
        let mut rng = Rng::new(seed, 9);
        let changed: Vec<u32> = (0..changes).map(|_| rng.below(k as u64) as u32).collect();
        for &code in &changed {
            codebook[code as usize * dim..][..dim].copy_from_slice(&paint(dim, rng.next_u64()));
        }
        book.repack_codes(mat(&codebook, k, dim), &changed).unwrap();
        let floats = |book: &PackedCodebook<Vec<Line>>| book.lines().iter().flat_map(|line| line.0).collect::<Vec<_>>();
        let anew = pack(&codebook, Packing::F32);
        assert_same_bits(&floats(&book), &floats(&anew), "lines");
        // The 8-bit copy keeps its scales; what is found with it is the same.
        coarse.repack_codes(mat(&codebook, k, dim), &changed).unwrap();
        let (x, cpu) = (paint(5 * dim, !seed), Cpu::new().with_search(Search::Coarse));
        let (mut by_copy, mut by_f32) = ([0u32; 5], [0u32; 5]);
        search(&cpu, mat(&x, 5, dim), None, &coarse, &mut by_copy, None).unwrap();
        search(&cpu, mat(&x, 5, dim), None, &anew, &mut by_f32, None).unwrap();
        prop_assert_eq!(by_copy, by_f32);
    }
}

// -- statistics and moving averages

proptest! {
    #![proptest_config(config())]

    #[test]
    fn weights_of_the_statistics_sum_to_the_rows_with_a_code(k in 1usize..40, dim in 1usize..8, rows in 0usize..300, seed: u64) {
        let (x, codes) = (paint(rows * dim, seed), row_codes(rows, k, seed));
        let statistics = accumulated(&x, dim, k, &codes, None, 3);
        let coded = codes.iter().filter(|&&code| code != NO_CODE).count();
        prop_assert_eq!(statistics.total(), coded as f64);
        for code in 0..k {
            let rows = codes.iter().filter(|&&c| c as usize == code).count();
            prop_assert_eq!((statistics.weight(code), statistics.is_hit(code)), (rows as f64, rows > 0));
        }
    }

    #[test]
    fn statistics_do_not_depend_on_order_split_or_workers(
        k in 1usize..20, dim in 1usize..8, rows in 1usize..300, at in 0usize..300, weighted: bool, seed: u64,
    ) {
        let (x, codes, weights) = (paint(rows * dim, seed), row_codes(rows, k, seed), row_weights(rows, seed));
        let (at, order) = (at.min(rows), shuffled(rows, seed));
        let exponent = ema::exponent(mat(&x, rows, dim), &codes, weighted.then_some(&weights[..])).unwrap();
        let whole = accumulated(&x, dim, k, &codes, weighted.then_some(&weights[..]), exponent);
        // In another order.
        let (codes_shuffled, weights_shuffled) = (rows_in(&codes, 1, &order), rows_in(&weights, 1, &order));
        let shuffled = accumulated(&rows_in(&x, dim, &order), dim, k, &codes_shuffled, weighted.then_some(&weights_shuffled[..]), exponent);
        prop_assert_eq!(&shuffled, &whole);
        // In two parts, and by two workers.
        let part = |range: core::ops::Range<usize>, into: &mut Statistics<Vec<i64>>| {
            let x = mat(&x[range.start * dim..range.end * dim], range.len(), dim);
            into.accumulate(&Cpu::new(), x, &codes[range.clone()], weighted.then_some(&weights[range])).unwrap();
        };
        let empty = || Statistics::new(k, dim, exponent).unwrap();
        let (mut split, mut first, mut second) = (empty(), empty(), empty());
        part(0..at, &mut split);
        part(at..rows, &mut split);
        prop_assert_eq!(&split, &whole);
        part(0..at, &mut first);
        part(at..rows, &mut second);
        second.merge(&first).unwrap();
        prop_assert_eq!(&second, &whole);
        // And the sums are the sums.
        for code in 0..k {
            for (i, sum) in whole.sum(code).enumerate() {
                let of_code = (0..rows).filter(|&row| codes[row] as usize == code);
                let exact: f64 = of_code.map(|row| f64::from(if weighted { weights[row] } else { 1.0 }) * f64::from(x[row * dim + i])).sum();
                prop_assert!((sum - exact).abs() <= rows as f64 * two_to(exponent - 40), "{} {}", sum, exact);
            }
        }
    }

    #[test]
    fn a_code_that_is_not_hit_keeps_its_bits(k in 2usize..40, dim in 1usize..8, rows in 0usize..30, decay in 0.0..0.999, seed: u64) {
        let (x, codes) = (paint(rows * dim, seed), row_codes(rows, k / 2, seed));
        let statistics = accumulated(&x, dim, k, &codes, None, 3);
        let (before, sizes) = (paint(k * dim, seed ^ 1), vec![0.5; k]);
        let (mut mean, mut direction) = (before.clone(), before.clone());
        let (means, directions) = (mat_mut(&mut mean, k, dim), mat_mut(&mut direction, k, dim));
        ema::update_means(&Cpu::new(), decay, &statistics, &sizes, means, Some(directions)).unwrap();
        for code in 0..k {
            let at = code * dim..(code + 1) * dim;
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let kept = bits(&mean[at.clone()]) == bits(&before[at.clone()]) && bits(&direction[at.clone()]) == bits(&before[at]);
            prop_assert_eq!(kept, !statistics.is_hit(code));
        }
    }

    #[test]
    fn the_first_hit_makes_the_mean_that_of_the_cluster(k in 1usize..20, dim in 2usize..8, rows in 1usize..60, decay in 0.0..0.999, seed: u64) {
        let (x, codes) = (paint(rows * dim, seed), row_codes(rows, k, seed));
        let statistics = accumulated(&x, dim, k, &codes, None, 3);
        let (mut mean, mut direction, sizes) = (paint(k * dim, seed ^ 1), vec![0.0; k * dim], vec![0.0; k]);
        let (means, directions) = (mat_mut(&mut mean, k, dim), mat_mut(&mut direction, k, dim));
        ema::update_means(&Cpu::new(), decay, &statistics, &sizes, means, Some(directions)).unwrap();
        for code in (0..k).filter(|&code| statistics.is_hit(code)) {
            let rows: Vec<usize> = (0..rows).filter(|&row| codes[row] as usize == code).collect();
            for i in 0..dim {
                let exact = rows.iter().map(|&row| f64::from(x[row * dim + i])).sum::<f64>() / rows.len() as f64;
                let got = f64::from(mean[code * dim + i]);
                // The terms' unit, and one rounding to f32.
                prop_assert!((got - exact).abs() <= two_to(-37) + exact.abs() * two_to(-24) * 1.001, "{} {}", got, exact);
            }
            let (mut unit, row) = (vec![0.0; dim], &mean[code * dim..][..dim]);
            normalize(&Cpu::new(), mat(row, 1, dim), mat_mut(&mut unit, 1, dim), None).unwrap();
            assert_same_bits(&direction[code * dim..][..dim], &unit, "direction");
        }
    }

    #[test]
    fn averages_move_by_the_decay(decay in 0.0..0.999, size in 0.0f32..100.0, old in -4.0f32..4.0, n in 1usize..9, seed: u64) {
        let x = paint(n, seed);
        let statistics = accumulated(&x, 1, 1, &vec![0; n], None, 3);
        let mut activity = Activity::new_in(vec![0.0f32], vec![0.0f32], vec![0.0f64]).unwrap();
        (activity.cluster_size[0], activity.exposure[0]) = (size, 2.0 * size);
        let mut mean = [old];
        ema::update_means(&Cpu::new(), decay, &statistics, &activity.cluster_size, mat_mut(&mut mean, 1, 1), None).unwrap();
        activity.observe(decay, &statistics).unwrap();
        let sum: f64 = x.iter().map(|&x| f64::from(x)).sum();
        // As in the paper: N, m = N · mean, and their ratio.
        let total = decay * f64::from(size) + (1.0 - decay) * n as f64;
        let moved = (decay * f64::from(size) * f64::from(old) + (1.0 - decay) * sum) / total;
        prop_assert!((f64::from(mean[0]) - moved).abs() <= 1e-6 * (1.0 + moved.abs()), "{} {}", mean[0], moved);
        prop_assert!((f64::from(activity.cluster_size[0]) - total).abs() <= 1e-6 * total);
        let exposure = decay * 2.0 * f64::from(size) + (1.0 - decay) * n as f64;
        prop_assert!((f64::from(activity.exposure[0]) - exposure).abs() <= 1e-6 * exposure);
        prop_assert_eq!((activity.rows_seen, activity.last_seen[0]), (n as f64, n as f64));
    }
}

/// 2 to a small integer power, exactly.
fn two_to(power: i32) -> f64 {
    2f64.powi(power)
}

// -- usage, restart

proptest! {
    #![proptest_config(config())]

    #[test]
    fn usage_counts_sum_to_the_counted_rows(k in 1usize..40, rows in 0usize..300, at in 0usize..300, seed: u64) {
        let (codes, weights, at) = (row_codes(rows, k, seed), row_weights(rows, seed), at.min(rows));
        let mut counts = vec![0; k];
        usage::count(&codes[..at], Some(&weights[..at]), &mut counts).unwrap();
        usage::count(&codes[at..], Some(&weights[at..]), &mut counts).unwrap();
        let counted = codes.iter().zip(&weights).filter(|(code, w)| **code != NO_CODE && **w > 0.0).count();
        let report = usage::Usage::of(&counts);
        prop_assert_eq!((report.rows, report.codes), (counted as u64, k));
        prop_assert_eq!(report.active, counts.iter().filter(|&&n| n > 0).count());
        let most = report.active as f64 * (1.0 + 1e-12);
        prop_assert!(report.perplexity <= most && (counted == 0 || report.perplexity >= 1.0 - 1e-12));
    }

    #[test]
    fn renumbered_codes_of_the_compacted_codebook_are_the_same_rows(
        k in 1usize..60, dim in 1usize..6, rows in 1usize..100, at_least in 0u64..5, seed: u64,
    ) {
        let (codebook, codes) = (paint(k * dim, seed), row_codes(rows, k, seed));
        let (mut counts, mut remap) = (vec![0; k], vec![5; k]);
        usage::count(&codes, None, &mut counts).unwrap();
        let kept = usage::prune(&counts, at_least, &mut remap).unwrap();
        prop_assert_eq!(kept, counts.iter().filter(|&&n| n >= at_least).count());
        let (mut compacted, mut renumbered) = (codebook.clone(), codes.clone());
        usage::compact(&mut compacted, dim, &remap).unwrap();
        usage::renumber(&mut renumbered, &remap).unwrap();
        let cpu = Cpu::new();
        let (mut old, mut new) = (vec![9.0; rows * dim], vec![9.0; rows * dim]);
        gather(&cpu, &codes, mat(&codebook, k, dim), mat_mut(&mut old, rows, dim)).unwrap();
        gather(&cpu, &renumbered, mat(&compacted[..kept * dim], kept, dim), mat_mut(&mut new, rows, dim)).unwrap();
        for row in 0..rows {
            let dropped = codes[row] == NO_CODE || counts[codes[row] as usize] < at_least;
            prop_assert_eq!(renumbered[row] == NO_CODE, dropped);
            let expected = if dropped { vec![0.0; dim] } else { old[row * dim..][..dim].to_vec() };
            prop_assert_eq!(&new[row * dim..][..dim], &expected[..]);
        }
    }

    #[test]
    fn restart_touches_exactly_the_codes_that_it_lists(
        k in 2usize..40, dim in 1usize..4, rows in 0usize..80, room in 0usize..40, weighted: bool, means: bool, seed: u64,
    ) {
        let mut rng = Rng::new(seed, 77);
        // Few levels: many rows are equal. Some are not finite, masked or without a code.
        let mut x = grid(rows * dim, seed, 3);
        for row in 0..rows {
            match rng.below(10) {
                0 => x[row * dim] = f32::NAN,
                1 => x[row * dim] = f32::INFINITY,
                _ => {}
            }
        }
        let (codes, weights) = (row_codes(rows, k, seed), row_weights(rows, seed));
        let weights = weighted.then_some(&weights[..]);
        let before = grid(k * dim, seed ^ 1, 3);
        let (mut codebook, mut mean) = (before.clone(), vec![55.0; k * dim]);
        let mut activity = Activity::new_in(vec![0.0f32; k], vec![1.0f32; k], vec![0.0f64; k]).unwrap();
        activity.rows_seen = 20.0 * k as f64;
        for code in 0..k {
            activity.exposure[code] = 1.0;
            // Unused, used, or young.
            match rng.below(3) {
                0 => {}
                1 => activity.cluster_size[code] = 1.0 / k as f32,
                _ => activity.last_seen[code] = activity.rows_seen,
            }
        }
        let old = activity.clone();
        let rule = Rule { seed, ..Rule::default() };
        let stale = |code: usize| old.expected_hits(code) >= rule.patience && old.relative_use(code) < rule.share;
        let mut scratch = vec![9; restart::scratch_len(rows)];
        let mut log = vec![Restarted::default(); room];
        let (book_view, mean_view) = (mat_mut(&mut codebook, k, dim), mat_mut(&mut mean, k, dim));
        let summary = restart::restart(
            mat(&x, rows, dim), &codes, weights, &rule, 5, &mut activity,
            book_view, means.then_some(mean_view), &mut scratch, &mut log,
        ).unwrap();
        prop_assert_eq!(summary.stale, (0..k).filter(|&code| stale(code)).count());
        let log = &log[..summary.restarted];
        // Every usable distinct value is used as long as there are codes and room for it.
        let usable = |row: usize| {
            let row_x = &x[row * dim..][..dim];
            codes[row] != NO_CODE && weights.is_none_or(|w| w[row] > 0.0) && row_x.iter().all(|x| x.is_finite())
                && row_x != &before[codes[row] as usize * dim..][..dim]
        };
        let mut values: Vec<Vec<u32>> = (0..rows).filter(|&row| usable(row)).map(|row| x[row * dim..][..dim].iter().map(|&x| canonical(x)).collect()).collect();
        values.sort();
        values.dedup();
        // A stale code may be replaced before a row of it is looked at, which is then compared with the
        // new code: the exact number is known where no row has a stale code.
        let full = summary.stale.min(room);
        let no_hit_code_is_stale = codes.iter().all(|&code| code == NO_CODE || !stale(code as usize));
        if no_hit_code_is_stale {
            prop_assert_eq!(summary.restarted, full.min(values.len()));
        }
        prop_assert!(summary.restarted <= full);
        prop_assert!(log.windows(2).all(|pair| pair[0].code < pair[1].code), "in ascending order");
        let mut donors: Vec<Vec<u32>> = Vec::new();
        for entry in log {
            let (code, row) = (entry.code as usize, entry.row as usize);
            let donor = &x[row * dim..][..dim];
            prop_assert!(stale(code));
            prop_assert!(codes[row] != NO_CODE && weights.is_none_or(|w| w[row] > 0.0));
            prop_assert!(donor.iter().all(|x| x.is_finite()));
            let value: Vec<u32> = donor.iter().map(|&x| canonical(x)).collect();
            prop_assert!(!donors.contains(&value), "a value twice");
            donors.push(value);
            prop_assert_eq!(&codebook[code * dim..][..dim], donor);
            prop_assert_eq!((entry.relative_use, entry.expected_hits), (old.relative_use(code) as f32, old.expected_hits(code) as f32));
            prop_assert_eq!((activity.cluster_size[code], activity.exposure[code], activity.last_seen[code]), (0.0, 0.0, old.rows_seen));
        }
        for code in 0..k {
            let restarted = log.iter().any(|entry| entry.code as usize == code);
            let at = code * dim..(code + 1) * dim;
            if !restarted {
                prop_assert_eq!(&codebook[at.clone()], &before[at.clone()]);
                prop_assert_eq!((activity.cluster_size[code], activity.last_seen[code]), (old.cluster_size[code], old.last_seen[code]));
            }
            let expected = if restarted && means { codebook[at.clone()].to_vec() } else { vec![55.0; dim] };
            prop_assert_eq!(&mean[at], &expected[..]);
        }
    }
}

// -- loss, normalize, project

proptest! {
    #![proptest_config(config())]

    #[test]
    fn loss_is_never_negative_and_zero_on_codebook_rows(k in 1usize..40, dim in 1usize..40, rows in 0usize..60, weighted: bool, seed: u64) {
        let (x, codebook, codes) = (paint(rows * dim, seed), paint(k * dim, seed ^ 1), row_codes(rows, k, seed));
        let weights = row_weights(rows, seed);
        let weights = weighted.then_some(&weights[..]);
        let cpu = Cpu::new();
        let mut quantized = vec![9.0; rows * dim];
        gather(&cpu, &codes, mat(&codebook, k, dim), mat_mut(&mut quantized, rows, dim)).unwrap();
        let quantized = mat(&quantized, rows, dim);
        let (mut of_rows, mut of_codes) = (SquaredError::default(), SquaredError::default());
        squared_error(&cpu, mat(&x, rows, dim), quantized, &codes, weights, &mut of_rows).unwrap();
        squared_error(&cpu, quantized, quantized, &codes, weights, &mut of_codes).unwrap();
        let exact: f64 = (0..rows).filter(|&row| codes[row] != NO_CODE).map(|row| f64::from(weights.map_or(1.0, |w| w[row]))).sum();
        prop_assert!((of_rows.weight - exact).abs() < 1e-4, "{} {}", of_rows.weight, exact);
        prop_assert_eq!(of_rows.sum > 0.0, of_rows.weight > 0.0);
        prop_assert_eq!((of_codes.sum, of_codes.weight), (0.0, of_rows.weight));
        prop_assert!(of_rows.mean(dim) >= 0.0);
    }

    #[test]
    fn normalized_rows_have_unit_length(dim in 1usize..200, rows in 1usize..12, power in -120i32..120, seed: u64) {
        let mut x = paint(rows * dim, seed);
        x.iter_mut().for_each(|x| *x = (f64::from(*x) * two_to(power)) as f32);
        let (mut y, mut norms) = (vec![9.0; rows * dim], vec![9.0; rows]);
        normalize(&Cpu::new(), mat(&x, rows, dim), mat_mut(&mut y, rows, dim), Some(&mut norms)).unwrap();
        for row in 0..rows {
            let length = |x: &[f32]| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            let (of_x, of_y) = (length(&x[row * dim..][..dim]), length(&y[row * dim..][..dim]));
            prop_assert!((of_y - 1.0).abs() < 4.0 * f64::from(f32::EPSILON), "{}", of_y);
            prop_assert!((f64::from(norms[row]) / of_x - 1.0).abs() < 4.0 * f64::from(f32::EPSILON));
        }
    }

    #[test]
    fn normalize_forgets_powers_of_two_bit_by_bit(dim in 1usize..200, power in -30i32..30, seed: u64) {
        let x = paint(dim, seed);
        let scaled: Vec<f32> = x.iter().map(|x| x * two_to(power) as f32).collect();
        let (mut y, mut of_scaled) = (vec![9.0; dim], vec![9.0; dim]);
        normalize(&Cpu::new(), mat(&x, 1, dim), mat_mut(&mut y, 1, dim), None).unwrap();
        normalize(&Cpu::new(), mat(&scaled, 1, dim), mat_mut(&mut of_scaled, 1, dim), None).unwrap();
        assert_same_bits(&of_scaled, &y, "scaled row");
    }

    #[test]
    fn zero_rows_stay_zero_between_others(dim in 1usize..100, rows in 1usize..20, zero in 0usize..20, seed: u64) {
        let (mut x, zero) = (paint(rows * dim, seed), zero % rows);
        x[zero * dim..][..dim].fill(-0.0);
        let (mut y, mut norms) = (vec![9.0; rows * dim], vec![9.0; rows]);
        normalize(&Cpu::new(), mat(&x, rows, dim), mat_mut(&mut y, rows, dim), Some(&mut norms)).unwrap();
        for row in 0..rows {
            let all_zero = y[row * dim..][..dim].iter().all(|&y| y == 0.0);
            prop_assert_eq!((all_zero, norms[row] == 0.0), (row == zero, row == zero));
        }
    }

    #[test]
    fn project_is_linear_and_exact_on_a_grid(inputs in 0usize..150, outputs in 1usize..70, rows in 1usize..20, seed: u64) {
        // 150 · (8/64 + 8/64) · 16/64: every partial sum is a multiple of 2⁻¹² far below 2¹².
        let (a, b) = (grid(rows * inputs, seed, 8), grid(rows * inputs, seed ^ 1, 8));
        let (weight, bias) = (grid(outputs * inputs, seed ^ 2, 16), grid(outputs, seed ^ 3, 16));
        let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let of = |x: &[f32], bias: Option<&[f32]>| {
            let mut y = vec![9.0; rows * outputs];
            project(&Cpu::new(), mat(x, rows, inputs), mat(&weight, outputs, inputs), bias, mat_mut(&mut y, rows, outputs)).unwrap();
            y
        };
        let (of_a, of_b, of_sum) = (of(&a, None), of(&b, None), of(&sum, Some(&bias)));
        for (i, y) in of_sum.iter().enumerate() {
            let exact: f64 = (0..inputs).map(|k| f64::from(sum[i / outputs * inputs + k]) * f64::from(weight[i % outputs * inputs + k])).sum();
            prop_assert_eq!(f64::from(*y), exact + f64::from(bias[i % outputs]));
            prop_assert_eq!(*y, of_a[i] + of_b[i] + bias[i % outputs]);
        }
    }
}

// -- k-means

fn lloyd(
    x: &[f32],
    dim: usize,
    centres: &[f32],
    metric: Metric,
    cuts: &[usize],
    passes: usize,
) -> (Vec<f32>, Vec<vq_kernels::kmeans::Pass>) {
    let mut kmeans = KMeans::new(centres.to_vec(), centres.len() / dim, dim, metric).unwrap();
    let cpu = Cpu::new();
    let mut reports = Vec::new();
    for _ in 0..passes {
        let mut first = 0;
        for &cut in cuts.iter().chain(&[x.len() / dim]) {
            let part = &x[first * dim..cut.max(first) * dim];
            kmeans.accumulate(&cpu, mat(part, part.len() / dim, dim), None).unwrap();
            first = cut.max(first);
        }
        reports.push(kmeans.finish_pass(&cpu).unwrap());
    }
    (kmeans.centres().data().to_vec(), reports)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn seeds_do_not_depend_on_order_split_or_repetition(codes in 1usize..40, dim in 1usize..5, rows in 1usize..200, at in 0usize..200, seed: u64) {
        // Few levels: many rows are equal.
        let x = grid(rows * dim, seed, 4);
        let (at, order) = (at.min(rows), shuffled(rows, seed));
        let drawn = |parts: &[&[f32]]| {
            let mut seeds = Seeds::new(codes, dim, seed).unwrap();
            parts.iter().for_each(|part| seeds.offer(mat(part, part.len() / dim, dim)).unwrap());
            (seeds.len(), seeds.finish())
        };
        let whole = drawn(&[&x]);
        let (first, second) = x.split_at(at * dim);
        prop_assert_eq!(&drawn(&[first, second]), &whole);
        prop_assert_eq!(&drawn(&[second, first, second]), &whole);
        prop_assert_eq!(&drawn(&[&rows_in(&x, dim, &order)]), &whole);
        let mut distinct: Vec<Vec<u32>> = x.chunks_exact(dim).map(|row| row.iter().map(|x| x.to_bits()).collect()).collect();
        distinct.sort();
        distinct.dedup();
        prop_assert_eq!(whole.0, distinct.len().min(codes));
        if let Ok(centres) = whole.1 {
            let mut drawn: Vec<Vec<u32>> = centres.chunks_exact(dim).map(|row| row.iter().map(|x| x.to_bits()).collect()).collect();
            drawn.sort();
            prop_assert!(drawn.iter().all(|row| distinct.binary_search(row).is_ok()));
            drawn.dedup();
            prop_assert_eq!(drawn.len(), codes, "distinct rows");
        }
    }

    #[test]
    fn lloyds_inertia_never_rises(codes in 1usize..8, dim in 1usize..5, rows in 30usize..200, seed: u64) {
        let x = paint(rows * dim, seed);
        // Centres are rows, so that hardly one is empty; a refill may raise the inertia.
        let (_, passes) = lloyd(&x, dim, &x[..codes * dim], Metric::L2, &[], 6);
        for pair in passes.windows(2).filter(|pair| pair[0].refilled == 0) {
            prop_assert!(pair[1].inertia <= pair[0].inertia * (1.0 + 1e-6) + 1e-9, "{:?}", pair);
        }
        prop_assert!(passes.iter().all(|pass| pass.rows == rows as u64 && pass.inertia >= 0.0));
    }

    #[test]
    fn lloyd_does_not_depend_on_the_split(
        unit: bool, codes in 1usize..12, dim in 2usize..5, rows in 20usize..150, cuts in prop::collection::vec(0usize..20, 0..4), seed: u64,
    ) {
        let (x, metric) = match unit {
            true => (unit_rows(rows, dim, seed), Metric::Cosine),
            // Within 16 powers of two of each other, elements are exact whatever the batch's exponent.
            false => (grid(rows * dim, seed, 200), Metric::L2),
        };
        let centres = &x[..codes * dim];
        let mut cuts = cuts;
        cuts.sort_unstable();
        let (whole, split) = (lloyd(&x, dim, centres, metric, &[], 3), lloyd(&x, dim, centres, metric, &cuts, 3));
        assert_same_bits(&split.0, &whole.0, "centres");
        prop_assert_eq!(split.1, whole.1);
    }
}

/// Two batches against one, where the second has elements 2²¹ times larger than the first's.
#[test]
fn lloyd_does_not_depend_on_the_split_across_a_range_of_magnitudes() {
    let small = 0.3 * two_to(-20) as f32;
    let x = [small, small, small, small, 1_048_576.0];
    let centres = [0.0, 1_048_576.0];
    let (whole, _) = lloyd(&x, 1, &centres, Metric::L2, &[], 1);
    let (split, _) = lloyd(&x, 1, &centres, Metric::L2, &[4], 1);
    assert_same_bits(&split, &whole, "centres");
}

/// Mini-batch: a centre is the mean of all rows that it ever took; a row that lay far from its centre twice, at two distances,
/// refills one empty centre only.
#[test]
fn mini_batches_average_and_refill_with_distinct_rows() {
    let mut kmeans = KMeans::new(vec![0.0, 1000.0, 2000.0], 3, 1, Metric::L2).unwrap();
    for batch in [&[0.0f32, 10.0][..], &[10.0]] {
        kmeans.mini_batch(&Cpu::new(), mat(batch, batch.len(), 1), None).unwrap();
    }
    assert_eq!(kmeans.centres().data(), [(20.0f64 / 3.0) as f32, 1000.0, 2000.0]);
    let pass = kmeans.finish_pass(&Cpu::new()).unwrap();
    assert_eq!((pass.empty, pass.refilled), (2, 2));
    assert_eq!(kmeans.centres().data()[1..], [10.0, 0.0]);
}
