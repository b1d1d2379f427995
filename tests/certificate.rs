//! The coarse pass against the f32 pass where its bound is hardest pressed: crowded, duplicated, collinear and
//! lopsided codebooks, rows on the borders of cells, near-ties, contents that no packing wrote.
//!
//! Packed are the copies in 8 bits and in bf16; which one is taken is the instruction set's choice. AMX is emulated in the
//! unit tests where a machine lacks it.
//!
//! The two must agree on every code and score, bit for bit; the f32 pass is held against `reference` in
//! `differential`. `cargo test --release --test certificate -- --ignored --nocapture` compares 10¹² scores.

mod common;

use common::hard::{Hard, borders, hard_cases};
use common::{SMALL, assert_same_bits, cpus, mat, mat_mut, paint, unit_rows};
use vq_kernels::ops::search::Tally;
use vq_kernels::ops::{self, Search};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Line, MAX_DIM, Metric, NO_CODE, PackedCodebook, Packing};

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

#[test]
fn hard_codebooks_and_rows_are_searched_as_in_f32() {
    let shapes: &[(usize, usize)] =
        if SMALL { &[(70, 3)] } else { &[(300, 1), (1000, 3), (1500, 8), (777, 9), (600, 33), (300, 130)] };
    let mut near_ties = 0;
    for (seed, &(codes, dim)) in shapes.iter().enumerate() {
        for Hard { why, dim, codes: book, rows } in hard_cases(codes, dim, 100 * seed as u64) {
            for metric in METRICS {
                let packed = PackedCodebook::with_packing(mat(&book, codes, dim), metric, Packing::Bf16).unwrap();
                for cpu in cpus() {
                    let tally = Tally::default();
                    let (by_f32, by_f32_scores) = found(&cpu, &rows, dim, &packed, Search::F32);
                    let (coarse, scores) = found(&cpu.with_tally(&tally), &rows, dim, &packed, Search::Coarse);
                    let context = format!("{why}, {codes}x{dim} {metric:?} {}", cpu.isa().name());
                    assert_eq!(coarse, by_f32, "{context}");
                    assert_same_bits(&scores, &by_f32_scores, &context);
                    near_ties += tally.rescored_codes();
                }
            }
        }
    }
    assert!(near_ties > 0, "the coarse pass was never taken");
}

/// The bound must be needed: most of these rows have several codes that integers cannot tell apart.
#[test]
fn near_ties_within_the_bound_are_told_apart_in_f32() {
    let (codes, dim, rows) = if SMALL { (64, 4, 4) } else { (4096, 16, 600) };
    let mut book = unit_rows(codes, dim, 5);
    // Each second code is the one before it, some ulp away in one dimension.
    for pair in 0..codes / 2 {
        let (first, second) = book[2 * pair * dim..].split_at_mut(dim);
        second[..dim].copy_from_slice(first);
        let at = pair % dim;
        second[at] = f32::from_bits((first[at].to_bits() as i32 + (pair % 7) as i32 - 3) as u32);
    }
    let rows = borders(&book, dim, rows, 6);
    for metric in METRICS {
        let packed = PackedCodebook::with_packing(mat(&book, codes, dim), metric, Packing::Bf16).unwrap();
        let mut expected = vec![0; rows.len() / dim];
        let (x, all) = (mat(&rows, expected.len(), dim), mat(&book, codes, dim));
        ops::search::reference(x, all, metric, &mut expected, None);
        for cpu in cpus() {
            let tally = Tally::default();
            let (got, _) = found(&cpu.with_tally(&tally), &rows, dim, &packed, Search::Coarse);
            assert_eq!(got, expected, "{} {metric:?}", cpu.isa().name());
            assert_eq!(tally.rows(), expected.len());
            // Four subgroups in all are too few for Miri's rows to have a second one.
            let several = tally.rescored_codes() > 16 * (tally.rows() - tally.exact_rows());
            assert!(several || SMALL, "no row had two candidates");
        }
    }
}

/// 2,048 times the chain of f32 loses or gains half a unit in the last place of what it has summed: only the bound's term for the
/// chain keeps the winner, since the integers are all but exact here.
#[test]
fn roundings_of_the_chain_are_within_the_bound() {
    let (codes, half) = (32, MAX_DIM / 2);
    let mut book = vec![0.0f32; codes * MAX_DIM];
    let code = |k: usize| k * MAX_DIM..(k + 1) * MAX_DIM;
    // The scale is largest · 33/32 / 127, of all codes: 1.
    book[5 * MAX_DIM] = 123.151_52;
    for (k, small) in [(0, 1.0f32), (20, 1.0 + 1.0 / 1024.0 / 1024.0)] {
        let code = &mut book[code(k)];
        code[..half].fill(120.0);
        code[half..].fill(small);
    }
    // Ties to even leave the sum of code 0 as it is; each term of code 20 rounds it up by 1/64, by 32 in all.
    book[20 * MAX_DIM] = 96.0;
    let mut x = vec![127.0f32 / 128.0; MAX_DIM];
    x[half..].fill(1.0 / 128.0);
    let packed = PackedCodebook::with_packing(mat(&book, codes, MAX_DIM), Metric::Cosine, Packing::Int8).unwrap();
    let mut exact = [0.0f64; 2];
    for (sum, k) in exact.iter_mut().zip([0, 20]) {
        *sum = book[code(k)].iter().zip(&x).map(|(c, x)| f64::from(*c) * f64::from(*x)).sum();
    }
    assert!(exact[0] > exact[1] + 23.0, "without rounding code 0 would be the nearest");
    for cpu in cpus() {
        let tally = Tally::default();
        let (got, _) = found(&cpu.with_tally(&tally), &x, MAX_DIM, &packed, Search::Coarse);
        assert_eq!((got[0], tally.exact_rows()), (20, 0), "{}", cpu.isa().name());
        assert_eq!(found(&cpu, &x, MAX_DIM, &packed, Search::F32).0, [20]);
    }
}

/// All codes are within the bound of the best one, which comes after the log of a block is full: then what was kept of a row must
/// not decide.
#[test]
fn rows_that_keep_too_much_are_searched_in_f32() {
    // A block's log has 64 subgroups of 16 codes for each of its 126 rows; then come 76 codes.
    let (rows, codes, dim, best) = (126, 1_100, 8, 1_030);
    let direction = unit_rows(1, dim, 3);
    let x = direction.repeat(rows);
    // A distance squares the difference: it must be larger to be one in f32.
    for (metric, others) in METRICS.into_iter().zip([0.9999, 0.995]) {
        let book: Vec<f32> =
            (0..codes * dim).map(|i| direction[i % dim] * if i / dim == best { 1.0 } else { others }).collect();
        let packed = PackedCodebook::with_packing(mat(&book, codes, dim), metric, Packing::Int8).unwrap();
        for cpu in cpus() {
            let tally = Tally::default();
            let (got, _) = found(&cpu.with_tally(&tally), &x, dim, &packed, Search::Coarse);
            assert_eq!(got, vec![best as u32; rows], "{} {metric:?}", cpu.isa().name());
            // The first rows that find the log full give up their places to the others.
            let exact = tally.exact_rows();
            assert!((1..rows).contains(&exact), "{} {metric:?}: {exact} rows in f32", cpu.isa().name());
        }
    }
}

/// 8-bit copies of codes that have changed one by one.
#[test]
fn the_bound_follows_codes_that_change_one_by_one() {
    let (codes, dim) = (70, 64);
    // The scale is largest · 33/32 / 127, of all codes: 1. All other integers are exact.
    let book = |value: f32| {
        let mut book = vec![value; codes * dim];
        book[5 * dim] = 123.151_52;
        book
    };
    let change = |book: &mut [f32], k: usize, value: f32| book[k * dim..(k + 1) * dim].fill(value);
    let check = |before: &[f32], after: &[f32], changed: &[u32], x: f32, expected: u32| {
        let mut packed = PackedCodebook::with_packing(mat(before, codes, dim), Metric::Cosine, Packing::Int8).unwrap();
        packed.repack_codes(mat(after, codes, dim), changed).unwrap();
        for cpu in cpus() {
            let (got, _) = found(&cpu, &vec![x; dim], dim, &packed, Search::Coarse);
            assert_eq!(got, [expected], "{}", cpu.isa().name());
        }
    };
    // By its integers code 20 is nearer, by 20; what code 0 loses by them is within its own error, which no code had before.
    let before = book(0.0);
    let mut after = before.clone();
    change(&mut after, 0, 10.49);
    change(&mut after, 20, 10.0);
    after[20 * dim] = 30.0;
    check(&before, &after, &[0, 20], 1.0, 0);
    // NaN has the integers of zeros, which would be nearer than all codes: then there is no copy.
    let before = book(20.0);
    let mut after = before.clone();
    change(&mut after, 40, f32::NAN);
    check(&before, &after, &[40], -1.0, 0);
}

/// Every score is below 0, and codes that do not exist must not be above them.
#[test]
fn padding_is_nearer_than_no_code() {
    let (codes, dim) = (20, 64);
    let packed =
        PackedCodebook::with_packing(mat(&vec![20.0; codes * dim], codes, dim), Metric::Cosine, Packing::Int8).unwrap();
    for cpu in cpus() {
        let tally = Tally::default();
        let (got, _) = found(&cpu.with_tally(&tally), &vec![-1.0; dim], dim, &packed, Search::Coarse);
        assert_eq!((got[0], tally.rows(), tally.exact_rows()), (0, 1, 0), "{}", cpu.isa().name());
    }
}

/// All codes of a cell are within the bound of the best one, which comes last: more than the rows of a block keep.
#[test]
fn pruned_rows_that_keep_too_much_are_searched_in_f32() {
    let (rows, codes, dim, best) = (40, 1_000, 3, 998);
    let direction = unit_rows(1, dim, 3);
    let book: Vec<f32> =
        (0..codes * dim).map(|i| direction[i % dim] * if i / dim == best { 1.0 } else { 0.9999 }).collect();
    let packed = PackedCodebook::with_packing(mat(&book, codes, dim), Metric::Cosine, Packing::Caps).unwrap();
    for cpu in cpus() {
        let tally = Tally::default();
        let (got, _) = found(&cpu.with_tally(&tally), &direction.repeat(rows), dim, &packed, Search::Pruned);
        assert_eq!(got, vec![best as u32; rows], "{}", cpu.isa().name());
        // The first ones' fill the block's log.
        assert!(tally.exact_rows() >= rows - 9, "{}: {}", cpu.isa().name(), tally.exact_rows());
    }
}

/// Codes of unit length that are hard to put into cells, and rows at the cells' borders and far from all codes.
fn unit_cases(codes: usize, dim: usize, seed: u64) -> Vec<Hard> {
    let crowds = |width: f32| {
        let (centres, noise) = (unit_rows(5, dim, seed), paint(codes * dim, seed + 1));
        let raw: Vec<f32> = (0..codes * dim).map(|i| centres[i / dim % 5 * dim + i % dim] + width * noise[i]).collect();
        normalized(&raw, dim)
    };
    let mut one_sided = unit_rows(codes, dim, seed + 2);
    one_sided.chunks_exact_mut(dim).for_each(|code| code[0] = code[0].abs());
    let mut two_points = unit_rows(codes, dim, seed + 3);
    let first = two_points[..dim].to_vec();
    for (k, code) in two_points.chunks_exact_mut(dim).enumerate() {
        code.iter_mut().zip(&first).for_each(|(c, f)| *c = if k % 2 == 0 { *f } else { -f });
    }
    [
        ("random", unit_rows(codes, dim, seed)),
        ("five crowds", crowds(0.05)),
        ("five crowds, some ulp wide", crowds(2e-7)),
        ("half of the sphere", one_sided),
        ("two opposite points", two_points),
    ]
    .into_iter()
    .map(|(why, codes)| {
        let mut rows = borders(&codes, dim, 60, seed);
        rows.extend(codes[..dim].iter().map(|c| -c));
        rows.extend(unit_rows(40, dim, seed + 4));
        for scale in [1e-12f32, 3.0, 1e12] {
            rows.extend(unit_rows(4, dim, seed + 5).iter().map(|x| x * scale));
        }
        rows.extend(vec![0.0; dim]);
        rows.extend(vec![f32::NAN; dim]);
        Hard { why, dim, codes, rows }
    })
    .collect()
}

fn normalized(raw: &[f32], dim: usize) -> Vec<f32> {
    let mut unit = vec![0.0; raw.len()];
    let (x, y) = (mat(raw, raw.len() / dim, dim), mat_mut(&mut unit, raw.len() / dim, dim));
    ops::normalize(&Cpu::new(), x, y, None).unwrap();
    unit
}

#[test]
fn pruned_searches_are_those_in_f32() {
    let shapes: &[(usize, usize)] = if SMALL {
        &[(130, 3)]
    } else {
        &[(1, 2), (300, 2), (1000, 1), (5000, 3), (20_000, 8), (7_777, 12), (3000, 16)]
    };
    for (seed, &(codes, dim)) in shapes.iter().enumerate() {
        for Hard { why, dim, codes: mut book, rows } in unit_cases(codes, dim, 50 + seed as u64) {
            let mut packed =
                PackedCodebook::with_packing(mat(&book, codes, dim), Metric::Cosine, Packing::Caps).unwrap();
            for round in 0..3 {
                for cpu in cpus() {
                    let tally = Tally::default();
                    let (by_f32, by_f32_scores) = found(&cpu, &rows, dim, &packed, Search::F32);
                    let (pruned, scores) = found(&cpu.with_tally(&tally), &rows, dim, &packed, Search::Pruned);
                    let context = format!("{why}, {codes}x{dim} {} round {round}", cpu.isa().name());
                    assert_eq!(pruned, by_f32, "{context}");
                    assert_same_bits(&scores, &by_f32_scores, &context);
                    assert_eq!(tally.rows(), rows.len() / dim, "{context}: not pruned");
                }
                // Some codes move a little, some to another place: their cells' caps must follow.
                let changed: Vec<u32> = (0..codes as u32).filter(|k| k % 9 == round).take(codes / 4).collect();
                for &k in &changed {
                    let step = paint(dim, u64::from(k));
                    let scale = if k % 2 == 0 { 0.02 } else { 10.0 };
                    let code = &mut book[k as usize * dim..][..dim];
                    let moved: Vec<f32> = code.iter().zip(step).map(|(c, s)| c + scale * s).collect();
                    code.copy_from_slice(&normalized(&moved, dim));
                }
                packed.repack_codes(mat(&book, codes, dim), &changed).unwrap();
            }
        }
    }
}

/// Codes may be a thousandth longer or shorter than 1, and centres are made of them.
#[test]
fn pruned_searches_of_codes_that_are_nearly_unit_are_those_in_f32() {
    for (codes, dim) in if SMALL { vec![(130, 2)] } else { vec![(128, 2), (2000, 3), (9000, 8)] } {
        for length in [0.9991f32, 1.0009, f32::NAN] {
            let mut book = unit_rows(codes, dim, 3);
            if dim == 2 {
                let degrees = |k: usize| match k {
                    0 | 2 => 0.0,
                    4 => 10.0,
                    k if k % 2 == 1 => -5.0,
                    k => 90.0 + k as f32,
                };
                book = (0..codes).flat_map(|k| <[f32; 2]>::from(degrees(k).to_radians().sin_cos())).collect();
                book.chunks_exact_mut(2).for_each(|code| code.swap(0, 1));
            }
            for (k, code) in book.chunks_exact_mut(dim).enumerate() {
                // No length of their own: as half precision rounds.
                let length = if length.is_nan() { [0.9992, 1.0, 1.0007][k % 3] } else { length };
                code.iter_mut().for_each(|c| *c *= length);
            }
            let mut rows = borders(&book, dim, 200, 5);
            rows.extend((0..200).flat_map(|i| {
                let (sin, cos) = (i as f32 * 0.1 - 10.0 + 4.99).to_radians().sin_cos();
                (0..dim).map(move |j| [cos, sin, 0.01][j.min(2)])
            }));
            let packed = PackedCodebook::with_packing(mat(&book, codes, dim), Metric::Cosine, Packing::Caps).unwrap();
            for cpu in cpus() {
                let tally = Tally::default();
                let pruned = found(&cpu.with_tally(&tally), &rows, dim, &packed, Search::Pruned);
                let context = format!("{codes}x{dim} length {length} {}", cpu.isa().name());
                assert_eq!(pruned, found(&cpu, &rows, dim, &packed, Search::F32), "{context}");
                assert_eq!(tally.rows(), rows.len() / dim, "{context}: not pruned");
            }
        }
    }
}

#[test]
#[cfg_attr(any(miri, target_endian = "big"), ignore = "how much is pruned, at a size that takes too long there")]
fn pruning_leaves_most_codes_out() {
    let (codes, dim, rows) = (20_000, 8, 300);
    let (book, x) = (unit_rows(codes, dim, 1), unit_rows(rows, dim, 2));
    let packed = PackedCodebook::with_packing(mat(&book, codes, dim), Metric::Cosine, Packing::Caps).unwrap();
    let tally = Tally::default();
    let _ = found(&Cpu::new().with_tally(&tally), &x, dim, &packed, Search::Auto);
    assert_eq!((tally.rows(), tally.exact_rows()), (rows, 0));
    assert!(tally.rescored_codes() < 20 * rows, "{} codes rescored", tally.rescored_codes());
}

/// An adaptive codebook decides anew for every batch; whatever it does, codes are those of the f32 pass, and cells are
/// built and left as what they gain and cost asks for.
#[test]
#[cfg_attr(miri, ignore = "as pruned searches, and long")]
fn adaptive_searches_are_those_in_f32() {
    let mut pruned = 0;
    for (seed, (codes, dim)) in [(60_000, 2), (50_000, 8), (20_000, 16)].into_iter().enumerate() {
        for Hard { why, codes: mut book, rows, .. } in unit_cases(codes, dim, 70 + seed as u64) {
            let mut packed =
                PackedCodebook::with_packing(mat(&book, codes, dim), Metric::Cosine, Packing::Adaptive).unwrap();
            let mut f32s = PackedCodebook::with_packing(mat(&book, codes, dim), Metric::Cosine, Packing::F32).unwrap();
            // As many as make a build worth its time.
            let many: Vec<f32> = rows.iter().copied().cycle().take(30_000 * dim).collect();
            for round in 0..6 {
                let rows = if round == 3 { &rows } else { &many };
                packed.prepare(&Cpu::new(), mat(rows, rows.len() / dim, dim)).unwrap();
                let few = &rows[..rows.len().min(300 * dim)];
                let context = format!("{why}, {codes}x{dim} round {round}");
                let expected = found(&Cpu::new(), few, dim, &f32s, Search::F32);
                for search in [Search::Auto, Search::Coarse, Search::Pruned] {
                    let tally = Tally::default();
                    let (got, scores) = found(&Cpu::new().with_tally(&tally), few, dim, &packed, search);
                    assert_eq!(got, expected.0, "{context} {search:?}");
                    assert_same_bits(&scores, &expected.1, &context);
                    pruned += usize::from(search == Search::Auto && tally.visited_codes() > 0);
                }
                let changed: Vec<u32> = (0..codes as u32).filter(|k| k % 7 == round).collect();
                for &k in &changed {
                    let code = &mut book[k as usize * dim..][..dim];
                    let moved: Vec<f32> = code.iter().zip(paint(dim, u64::from(k))).map(|(c, s)| c + 0.1 * s).collect();
                    code.copy_from_slice(&normalized(&moved, dim));
                }
                match round % 2 {
                    0 => packed.repack_codes(mat(&book, codes, dim), &changed).unwrap(),
                    _ => packed.repack(mat(&book, codes, dim)).unwrap(),
                }
                f32s.repack(mat(&book, codes, dim)).unwrap();
            }
        }
    }
    assert!(pruned >= 10, "{pruned} of 90 batches were pruned: nothing was tested");
}

/// Cells come when a batch is large enough or many have come, stay where a few codes change, wait where all do and few
/// rows come, and never come to codes that they cannot help.
#[test]
#[cfg_attr(miri, ignore = "long")]
fn adaptive_codebooks_build_cells_where_they_pay() {
    let (codes, dim) = (50_000, 8);
    let (book, x) = (unit_rows(codes, dim, 1), unit_rows(60_000, dim, 2));
    let pruned = |packed: &PackedCodebook<Vec<Line>>| {
        let tally = Tally::default();
        let _ = found(&Cpu::new().with_tally(&tally), &x[..64 * dim], dim, packed, Search::Auto);
        tally.visited_codes() > 0
    };
    let pack =
        |book: &[f32]| PackedCodebook::with_packing(mat(book, codes, dim), Metric::Cosine, Packing::Adaptive).unwrap();
    let (cpu, few, many) = (Cpu::new(), mat(&x[..500 * dim], 500, dim), mat(&x, 60_000, dim));
    let mut packed = pack(&book);
    packed.prepare(&cpu, few).unwrap();
    assert!(!pruned(&packed), "500 rows do not pay for cells");
    packed.prepare(&cpu.with_search(Search::Coarse), many).unwrap();
    assert!(!pruned(&packed), "they were not asked for");
    packed.prepare(&cpu, many).unwrap();
    assert!(pruned(&packed), "60,000 rows pay for cells");
    packed.repack_codes(mat(&book, codes, dim), &[0, 7, 49_999]).unwrap();
    assert!(pruned(&packed), "three codes are put in their cells again");
    packed.repack(mat(&book, codes, dim)).unwrap();
    assert!(!pruned(&packed), "all codes are others");
    packed.prepare(&cpu, few).unwrap();
    assert!(!pruned(&packed), "500 rows do not pay for moving all codes");
    packed.prepare(&cpu, many).unwrap();
    assert!(pruned(&packed), "60,000 rows do");
    // Little by little.
    let mut packed = pack(&book);
    let batches = (0..2_000).take_while(|_| {
        packed.prepare(&cpu, few).unwrap();
        !pruned(&packed)
    });
    assert!((20..2_000).contains(&batches.count()), "500 rows, again and again, pay in the end");
    // Codes of another length, and rows that reach every cell.
    let mut longer = book.clone();
    longer[dim * 100] += 1.0;
    let mut packed = pack(&longer);
    packed.prepare(&cpu, many).unwrap();
    assert!(!pruned(&packed), "codes that are not of unit length have no cells");
    let mut packed = pack(&book);
    let zeros = vec![0.0; x.len()];
    packed.prepare(&cpu, mat(&zeros, 60_000, dim)).unwrap();
    assert!(!pruned(&packed), "rows of zeros are not helped");
    let error = packed.prepare(&cpu, mat(&x, 60_000 * dim / 4, 4)).unwrap_err();
    assert!(error.to_string().contains("columns of x"), "{error}");
}

/// Codes that are not of unit length, and L2, have no caps; searching takes another way.
#[test]
fn what_has_no_caps_is_searched_otherwise() {
    let (codes, dim) = (500, 4);
    let mut book = unit_rows(codes, dim, 1);
    book[7] *= 1.5;
    let x = paint(9 * dim, 2);
    for (metric, dim) in [(Metric::Cosine, dim), (Metric::L2, dim), (Metric::Cosine, 20)] {
        let (book, x) = if dim == 20 { (unit_rows(100, 20, 3), paint(180, 4)) } else { (book.clone(), x.clone()) };
        let packed = PackedCodebook::with_packing(mat(&book, book.len() / dim, dim), metric, Packing::Caps).unwrap();
        let tally = Tally::default();
        let pruned = found(&Cpu::new().with_tally(&tally), &x, dim, &packed, Search::Pruned);
        assert_eq!(pruned, found(&Cpu::new(), &x, dim, &packed, Search::F32));
        assert_eq!(tally.rows(), 0);
    }
}

#[test]
#[cfg_attr(any(miri, target_endian = "big"), ignore = "how much is excluded, at a size that takes too long there")]
fn the_coarse_pass_excludes_nearly_all_codes() {
    let (codes, dim, rows) = (20_000, 32, 300);
    let (book, x) = (unit_rows(codes, dim, 1), unit_rows(rows, dim, 2));
    let packed = PackedCodebook::with_packing(mat(&book, codes, dim), Metric::Cosine, Packing::Bf16).unwrap();
    let tally = Tally::default();
    let _ = found(&Cpu::new().with_tally(&tally), &x, dim, &packed, Search::Coarse);
    assert_eq!((tally.rows(), tally.exact_rows()), (rows, 0));
    assert!(tally.rescored_codes() < 200 * rows, "{} codes rescored", tally.rescored_codes());
}

/// `from_lines` checks no contents: whatever they are, searching is safe and codes exist.
#[test]
fn any_contents_of_a_copy_are_safe() {
    let (codes, dim, rows) = (300, 9, 20);
    let x = paint(rows * dim, 8);
    for seed in 0..if SMALL { 2 } else { 200 } {
        for (metric, packing) in [
            (Metric::Cosine, Packing::Bf16),
            (Metric::L2, Packing::Bf16),
            (Metric::Cosine, Packing::Caps),
            (Metric::Cosine, Packing::Adaptive),
        ] {
            let mut rng = Rng::new(seed, 3);
            let len = PackedCodebook::lines_len(codes, dim, metric, packing);
            let book = PackedCodebook::with_packing(mat(&unit_rows(codes, dim, seed), codes, dim), metric, packing);
            let mut lines = book.unwrap().lines().to_vec();
            // Broken bounds alone, a few broken numbers, or noise throughout.
            let f32_lines = PackedCodebook::lines_len(codes, dim, metric, Packing::F32);
            for _ in 0..[4, 40, 20 * len][seed as usize % 3] {
                let line = if seed % 3 == 0 { f32_lines } else { rng.below(len as u64) as usize };
                lines[line].0[rng.below(16) as usize] = f32::from_bits(rng.next_u64() as u32);
            }
            let mut book = PackedCodebook::from_lines(lines, codes, dim, metric, packing).unwrap();
            for search in [Search::Coarse, Search::Pruned] {
                for cpu in cpus() {
                    let (got, _) = found(&cpu, &x, dim, &book, search);
                    assert!(got.iter().all(|&k| k == NO_CODE || (k as usize) < codes));
                }
                let changed = [0, 17, codes as u32 - 1];
                book.prepare(&Cpu::new(), mat(&x, rows, dim)).unwrap();
                book.repack_codes(mat(&unit_rows(codes, dim, seed), codes, dim), &changed).unwrap();
            }
        }
    }
}

#[test]
fn the_widest_rows_fit_every_integer() {
    let codes = 20;
    for value in [1.0f32, -1.0] {
        let book = vec![value; codes * MAX_DIM];
        let rows = vec![-1.0; MAX_DIM];
        for metric in METRICS {
            let packed = PackedCodebook::with_packing(mat(&book, codes, MAX_DIM), metric, Packing::Bf16).unwrap();
            for cpu in cpus() {
                let expected = found(&cpu, &rows, MAX_DIM, &packed, Search::F32);
                assert_eq!(found(&cpu, &rows, MAX_DIM, &packed, Search::Coarse), expected);
            }
        }
    }
}

/// 10¹² scores at K = 100,000, every row by both passes: about ten minutes on one thread of a fast machine.
#[test]
#[ignore = "long: run it with --ignored"]
fn a_million_million_scores() {
    let codes = 100_000;
    let (mut scores, mut near_ties) = (0u64, 0usize);
    for (dim, rows, metric) in [
        (8, 8_000_000, Metric::Cosine),
        (8, 500_000, Metric::L2),
        (3, 300_000, Metric::L2),
        (32, 1_000_000, Metric::Cosine),
        (32, 200_000, Metric::L2),
        (256, 20_000, Metric::Cosine),
    ] {
        // Half of the codes in crowds: rows near those have many near-ties.
        let mut book = unit_rows(codes, dim, 1);
        let noise = paint(codes / 2 * dim, 2);
        for (i, noise) in noise.into_iter().enumerate() {
            book[codes / 2 * dim + i] = book[i / dim % 500 * dim + i % dim] + 0.02 * noise;
        }
        let packed = PackedCodebook::with_packing(mat(&book, codes, dim), metric, Packing::Bf16).unwrap();
        let tally = Tally::default();
        for (block, first) in (0..rows).step_by(10_000).enumerate() {
            let mut x = unit_rows(9_000.min(rows - first), dim, 10 + block as u64);
            x.extend(borders(&book, dim, 1_000, block as u64));
            let cpu = Cpu::new().with_tally(&tally);
            let (expected, _) = found(&cpu, &x, dim, &packed, Search::F32);
            let (got, _) = found(&cpu, &x, dim, &packed, Search::Coarse);
            assert_eq!(got, expected, "dim {dim} {metric:?} block {block}");
            scores += (x.len() / dim * codes) as u64;
        }
        near_ties += (tally.rescored_codes() / 16).saturating_sub(tally.rows());
        let groups = tally.rescored_codes() as f64 / 64.0 / tally.rows() as f64;
        println!(
            "dim {dim} {metric:?}: {} rows, {groups:.2} groups a row, {} in f32",
            tally.rows(),
            tally.exact_rows()
        );
    }
    println!("{scores} scores, {near_ties} subgroups beside the best one came within the bound; no code differs");
    assert!(scores >= 1_000_000_000_000 && near_ties >= 1_000_000);
}
