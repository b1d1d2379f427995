//! The search by tiles, emulated: against the f32 pass and `reference`, where its bound is hardest pressed.

use super::emulator::{self, Guarded};
use crate::common::hard::{Hard, borders, hard_cases};
use crate::common::{assert_same_bits, mat, paint, unit_rows};
use crate::ops::search::Tally;
use crate::ops::{self, Search};
use crate::{Cpu, Isa, Line, Metric, NO_CODE, PackedCodebook, Packing, Pool};

const METRICS: [Metric; 2] = [Metric::Cosine, Metric::L2];

/// Codes and scores of all rows.
fn found(
    cpu: &Cpu,
    rows: &[f32],
    dim: usize,
    book: &PackedCodebook<impl AsRef<[Line]>>,
    search: Search,
) -> (Vec<u32>, Vec<f32>) {
    let count = rows.len() / dim;
    let (mut codes, mut scores) = (vec![0; count], vec![0.0; count]);
    ops::search(&cpu.with_search(search), mat(rows, count, dim), None, book, &mut codes, Some(&mut scores)).unwrap();
    (codes, scores)
}

/// Searches by tiles, in f32 on AVX-512, and by `reference` where asked; returns what the first did.
fn compare(isa: Isa, book: &[f32], rows: &[f32], dim: usize, metric: Metric, reference: bool, context: &str) -> Tally {
    let codes = book.len() / dim;
    // The copy ends where the accessible memory does.
    let len = PackedCodebook::lines_len(codes, dim, metric, Packing::Bf16);
    let mut memory = Guarded::new(64 * len);
    let lines: &mut [Line] = bytemuck::cast_slice_mut(memory.bytes());
    let packed = PackedCodebook::pack_into(mat(book, codes, dim), metric, Packing::Bf16, lines).unwrap();
    let (tally, cpu) = (Tally::default(), Cpu::with_isa(isa));
    let ((got, scores), executed) =
        emulator::clean(|| found(&cpu.with_tally(&tally), rows, dim, &packed, Search::Coarse));
    let (expected, expected_scores) = found(&cpu, rows, dim, &packed, Search::F32);
    assert_eq!(got, expected, "{context}");
    assert_same_bits(&scores, &expected_scores, context);
    let taken = packed.bf16().is_none() || executed.products > 0 || tally.exact_rows() == tally.rows();
    assert!(taken, "{context}: the tiles were not used");
    if reference {
        let mut codes_by_reference = vec![0; got.len()];
        let (x, all) = (mat(rows, got.len(), dim), mat(book, codes, dim));
        ops::search::reference(x, all, metric, &mut codes_by_reference, None);
        assert_eq!(got, codes_by_reference, "{context}");
    }
    tally
}

#[test]
fn hard_codebooks_and_rows_are_searched_as_in_f32() {
    let Some(isa) = emulator::isa() else { return };
    let (mut rescored, mut by_tiles) = (0, 0);
    let shapes = [(300, 1), (1000, 3), (1500, 8), (777, 9), (600, 33), (300, 130)];
    for (seed, (codes, dim)) in shapes.into_iter().enumerate() {
        for Hard { why, dim, codes: book, rows } in hard_cases(codes, dim, 100 * seed as u64) {
            for metric in METRICS {
                let context = format!("{why}, {codes}x{dim} {metric:?}");
                let tally = compare(isa, &book, &rows, dim, metric, codes == 777, &context);
                rescored += tally.rescored_codes();
                by_tiles += tally.rows() - tally.exact_rows();
            }
        }
    }
    assert!(rescored > 64 * by_tiles && by_tiles > 2000, "{rescored} codes of {by_tiles} rows rescored");
}

#[test]
fn all_edges_of_rows_codes_and_dimensions_are_searched_as_in_f32() {
    let Some(isa) = emulator::isa() else { return };
    let rows = [1, 2, 15, 16, 17, 31, 32, 33, 63, 65];
    let codes = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 191, 193, 320];
    let dims = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100];
    let mut seed = 0;
    for (i, codes) in codes.into_iter().enumerate() {
        for (j, dim) in dims.into_iter().enumerate() {
            let (rows, metric) = (rows[(i + 3 * j) % rows.len()], METRICS[(i + j) % 2]);
            seed += 1;
            let (book, x) = (paint(codes * dim, seed), paint(rows * dim, seed + 1000));
            compare(isa, &book, &x, dim, metric, true, &format!("{rows} rows, {codes}x{dim} {metric:?}"));
        }
    }
    // More rows than a block has, of few and of many steps; and more groups than a sweep takes at once.
    for (rows, codes, dim) in [(383, 130, 8), (384, 70, 32), (385, 64, 7), (800, 65, 40), (150, 65, 512), (33, 9000, 2)]
    {
        let (book, x) = (paint(codes * dim, 5), paint(rows * dim, 6));
        for metric in METRICS {
            compare(isa, &book, &x, dim, metric, false, &format!("{rows} rows, {codes}x{dim} {metric:?}"));
        }
    }
    // The widest: a panel fills the block.
    let (book, x) = (paint(70 * crate::MAX_DIM, 7), paint(35 * crate::MAX_DIM, 8));
    for metric in METRICS {
        compare(isa, &book, &x, crate::MAX_DIM, metric, false, "the widest");
    }
}

/// The bound must be needed: most of these rows have several codes that 16 bits cannot tell apart.
#[test]
fn near_ties_within_the_bound_are_told_apart_in_f32() {
    let Some(isa) = emulator::isa() else { return };
    for dim in [8, 16] {
        let codes = 2048;
        let mut book = unit_rows(codes, dim, 5);
        // Each code of the second half is one of the first, some ulp away in one dimension.
        for k in 0..codes / 2 {
            let (first, second) = book.split_at_mut((codes / 2 + k) * dim);
            second[..dim].copy_from_slice(&first[k * dim..][..dim]);
            let at = k % dim;
            second[at] = f32::from_bits((second[at].to_bits() as i32 + (k % 7) as i32 - 3) as u32);
        }
        let rows = borders(&book, dim, 200, 6);
        for metric in METRICS {
            let tally = compare(isa, &book, &rows, dim, metric, true, &format!("{dim} {metric:?}"));
            assert_eq!((tally.rows(), tally.exact_rows()), (200, 0));
            assert!(tally.rescored_codes() > 100 * tally.rows(), "no row had two candidates");
        }
    }
}

/// Of groups of 64 codes, beyond the winner's: at most 0.01 of 8 dimensions, 0.5 of 32 and 0.8 of 256.
#[test]
fn few_groups_are_rescored() {
    let Some(isa) = emulator::isa() else { return };
    for (codes, dim, rows, most) in [(20_000, 8, 96, 0.011), (20_000, 32, 96, 0.5), (2_000, 256, 32, 0.8)] {
        let (book, x) = (unit_rows(codes, dim, 1), unit_rows(rows, dim, 2));
        let tally = compare(isa, &book, &x, dim, Metric::Cosine, false, &format!("{codes}x{dim}"));
        let beyond = tally.rescored_codes() as f64 / 64.0 / rows as f64 - 1.0;
        assert!(tally.exact_rows() == 0 && beyond <= most, "{codes}x{dim}: {beyond} groups");
    }
}

#[test]
#[ignore = "long: what README states of 100,000 codes"]
fn groups_rescored_of_a_hundred_thousand_codes() {
    let Some(isa) = emulator::isa() else { return };
    for (dim, rows) in [(3, 96), (4, 96), (5, 96), (8, 384), (12, 96), (16, 96), (32, 384), (64, 96), (256, 96)] {
        let (book, x) = (unit_rows(100_000, dim, 1), unit_rows(rows, dim, 2));
        for metric in METRICS {
            let tally = compare(isa, &book, &x, dim, metric, false, "");
            let beyond = tally.rescored_codes() as f64 / 64.0 / rows as f64 - 1.0;
            println!(
                "{dim} {metric:?}: {beyond:.4} groups beyond the winner's, {} of {rows} rows in f32",
                tally.exact_rows()
            );
        }
    }
}

/// Codes that change are copied as if all were, and bounds hold for those before and after.
#[test]
fn changed_codes_are_copied() {
    let Some(isa) = emulator::isa() else { return };
    for (codes, dim) in [(130, 3), (200, 8), (129, 33), (64, 70)] {
        for metric in METRICS {
            let mut book = unit_rows(codes, dim, 3);
            let pack =
                |book: &[f32]| PackedCodebook::with_packing(mat(book, codes, dim), metric, Packing::Bf16).unwrap();
            let mut packed = pack(&book);
            for round in 0..4 {
                // Some codes move; in the third round one is not finite, and there is no copy until it is gone.
                let changed: Vec<u32> = (0..codes as u32).filter(|k| k % 5 == round || *k == 128 || *k == 0).collect();
                for &k in &changed {
                    let moved = paint(dim, u64::from(k + 1000 * round));
                    book[k as usize * dim..][..dim].copy_from_slice(&moved);
                }
                if round == 2 {
                    book[0] = f32::INFINITY;
                }
                packed.repack_codes(mat(&book, codes, dim), &changed).unwrap();
                assert_eq!(packed.bf16().is_some(), round != 2);
                if let Some(copy) = packed.bf16() {
                    let fresh = pack(&book);
                    let groups = codes.div_ceil(64);
                    assert!(copy.groups(0, groups) == fresh.bf16().unwrap().groups(0, groups), "{codes}x{dim}");
                }
                let (cpu, rows) = (Cpu::with_isa(isa), borders(&book, dim, 40, 9));
                let ((got, _), executed) = emulator::clean(|| found(&cpu, &rows, dim, &packed, Search::Coarse));
                assert_eq!(executed.products > 0, round != 2);
                assert_eq!(got, found(&cpu, &rows, dim, &packed, Search::F32).0, "{codes}x{dim} {metric:?} {round}");
            }
        }
    }
}

/// Masked rows, codes of 16 bits, and any division of the rows over threads.
#[test]
fn weights_and_threads_change_no_code() {
    struct Threads;
    // SAFETY: one scoped thread for each index; the scope joins them.
    unsafe impl Pool for Threads {
        fn threads(&self) -> usize {
            3
        }
        fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
            std::thread::scope(|scope| (0..tasks).for_each(|i| drop(scope.spawn(move || task(i)))));
        }
    }
    let Some(isa) = emulator::isa() else { return };
    let (codes, dim, rows) = (300, 8, 500);
    let (book, x) = (unit_rows(codes, dim, 1), unit_rows(rows, dim, 2));
    let weights: Vec<f32> = (0..rows).map(|i| if i % 3 == 1 { 0.0 } else { 0.5 }).collect();
    let packed = PackedCodebook::with_packing(mat(&book, codes, dim), Metric::L2, Packing::Bf16).unwrap();
    let run = |cpu: &Cpu| {
        let mut found = vec![0u16; rows];
        ops::search(cpu, mat(&x, rows, dim), Some(&weights), &packed, &mut found, None).unwrap();
        found
    };
    let (cpu, tally) = (Cpu::with_isa(isa), Tally::default());
    let expected = run(&cpu.with_search(Search::F32));
    assert!(expected.iter().zip(&weights).all(|(&k, &w)| (k == NO_CODE as u16) == (w == 0.0)));
    assert_eq!(run(&cpu.with_search(Search::Coarse).with_tally(&tally)), expected);
    assert_eq!(run(&cpu.with_search(Search::Coarse).with_pool(&Threads).with_tally(&tally)), expected);
    assert_eq!((tally.rows(), tally.exact_rows()), (2 * weights.iter().filter(|&&w| w > 0.0).count(), 0));
}

/// Without the permission, on another tier, and for few rows, no tile is touched; the copy in 8 bits takes their place.
#[test]
fn a_refusal_an_opt_out_and_few_rows_fall_back() {
    let Some(isa) = emulator::isa() else { return };
    let (codes, dim) = (20_000, 8);
    let (book, x) = (unit_rows(codes, dim, 1), unit_rows(40, dim, 2));
    let packed = PackedCodebook::with_packing(mat(&book, codes, dim), Metric::Cosine, Packing::Bf16).unwrap();
    let expected = found(&Cpu::with_isa(isa), &x, dim, &packed, Search::F32);
    let other = Isa::avx512_vnni().unwrap_or(Isa::SCALAR);
    let cases = [
        ("allowed", isa, Some(true), 40, Search::Auto, true),
        ("refused", isa, Some(false), 40, Search::Auto, false),
        ("refused by this machine", isa, None, 40, Search::Coarse, false),
        ("opted out", other, Some(true), 40, Search::Auto, false),
        ("few rows", isa, Some(true), 15, Search::Auto, false),
        ("few rows, but asked for", isa, Some(true), 15, Search::Coarse, true),
    ];
    for (why, isa, answer, rows, search, tiles) in cases {
        emulator::ANSWER.set(answer);
        let tally = Tally::default();
        let ((got, scores), executed) =
            emulator::clean(|| found(&Cpu::with_isa(isa).with_tally(&tally), &x[..rows * dim], dim, &packed, search));
        assert_eq!((&got[..], &scores[..]), (&expected.0[..rows], &expected.1[..rows]), "{why}");
        assert_eq!(executed.products > 0, tiles, "{why}");
        // The coarse pass was taken either way.
        assert_eq!((tally.rows(), tally.exact_rows()), (rows, 0), "{why}");
    }
    // A codebook without the copy.
    emulator::ANSWER.set(Some(true));
    let int8 = PackedCodebook::with_packing(mat(&book, codes, dim), Metric::Cosine, Packing::Int8).unwrap();
    let (got, executed) = emulator::clean(|| found(&Cpu::with_isa(isa), &x, dim, &int8, Search::Auto));
    assert_eq!((got, executed.products), (expected, 0));
}

/// `from_lines` checks no contents: whatever they are, searching is safe and codes exist.
#[test]
fn any_contents_of_a_copy_are_safe() {
    let Some(isa) = emulator::isa() else { return };
    let (codes, dim, rows) = (300, 9, 20);
    let x = paint(rows * dim, 8);
    for seed in 0..60 {
        let mut rng = crate::rng::Rng::new(seed, 3);
        let metric = METRICS[seed as usize % 2];
        let len = PackedCodebook::lines_len(codes, dim, metric, Packing::Bf16);
        let book = PackedCodebook::with_packing(mat(&unit_rows(codes, dim, seed), codes, dim), metric, Packing::Bf16);
        let mut lines = book.unwrap().lines().to_vec();
        let header = PackedCodebook::lines_len(codes, dim, metric, Packing::Int8);
        for _ in 0..[4, 40, 20 * len][seed as usize % 3] {
            let line = if seed % 3 == 0 { header } else { rng.below(len as u64) as usize };
            lines[line].0[rng.below(16) as usize] = f32::from_bits(rng.next_u64() as u32);
        }
        let mut book = PackedCodebook::from_lines(lines, codes, dim, metric, Packing::Bf16).unwrap();
        let ((got, _), _) = emulator::clean(|| found(&Cpu::with_isa(isa), &x, dim, &book, Search::Coarse));
        assert!(got.iter().all(|&k| k == NO_CODE || (k as usize) < codes));
        book.repack_codes(mat(&unit_rows(codes, dim, seed), codes, dim), &[0, 17, codes as u32 - 1]).unwrap();
    }
}
