//! Every op on every instruction set against its `reference`, bit for bit, on a table of shapes.
//!
//! A tier that this machine lacks is named on standard error; `VQ_REQUIRE_ISA=avx2,avx512` turns that into
//! a failure.

mod common;

use common::{SMALL, assert_same_bits, cpus, grid, mat, paint, unit_rows};
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::ops::{self, ROW_BLOCK, Search, ema, normalize, project, search};
use vq_kernels::{Cpu, Isa, MatMut, MatRef, Metric, NO_CODE, PackedCodebook, Packing};

struct Case {
    rows: usize,
    codes: usize,
    dim: usize,
    why: &'static str,
}

const fn case(rows: usize, codes: usize, dim: usize, why: &'static str) -> Case {
    Case { rows, codes, dim, why }
}

/// Rows come in tiles of 6, 3 and 2 and blocks of 96; codes in panels of 64 and groups of 256;
/// dimensions in 32 virtual lanes, 16, 8 and 1.
const CASES: &[Case] = &[
    case(1, 1, 1, "the smallest of everything"),
    case(1, 65, 8, "one row, one code past a panel"),
    case(2, 63, 7, "a scalar tile, one short of a panel and of an AVX2 register"),
    case(5, 64, 9, "one short of an AVX-512 tile, one past an AVX2 register"),
    case(6, 128, 15, "one AVX-512 tile, one short of its register"),
    case(7, 257, 16, "one row past a tile, one code past a group"),
    case(13, 255, 17, "two tiles and a row, one short of a group"),
    case(95, 512, 31, "one short of a row block, two groups, one short of 32 lanes"),
    case(96, 513, 32, "a row block, one past two groups, 32 lanes exactly"),
    case(97, 100, 33, "one past a row block, one past 32 lanes"),
    case(200, 1000, 48, "a patch of 4 by 4 by 3"),
    case(193, 77, 63, "one past two row blocks"),
    case(31, 321, 65, "one past two rounds of 32 lanes"),
    case(3, 70, 257, "one past eight rounds"),
    case(2, 66, 769, "one past a ViT-B row"),
    case(1, 3, 4096, "the largest dimension"),
    case(ROW_BLOCK + 1, 10, 3, "one past a block of rows in sums"),
];

/// Values that make a kernel go wrong where it can: plain, exact with ties, huge and tiny.
fn inputs(len: usize, seed: u64) -> Vec<(&'static str, Vec<f32>)> {
    let normal = paint(len, seed);
    let wild = normal.iter().enumerate().map(|(i, x)| x * [1.0, 1e-30, 1e18, 1e-42, 0.0, -1.0, 1e-5][i % 7]).collect();
    vec![("normal", normal), ("grid", grid(len, seed, 5)), ("wild", wild)]
}

fn each_case(mut check: impl FnMut(&Cpu, &Case, &str)) {
    require_isas();
    for cpu in cpus() {
        // Miri interprets: the small cases still reach every tile and tail.
        for case in CASES.iter().filter(|case| !cfg!(miri) || case.rows * case.codes * case.dim < 1_500) {
            let context = format!("{} {}x{}x{} ({})", cpu.isa().name(), case.rows, case.codes, case.dim, case.why);
            check(&cpu, case, &context);
        }
    }
}

/// The ways to search of `cpu`: the codes must not depend on it.
fn ways<'a>(cpu: &Cpu<'a>) -> [Cpu<'a>; 3] {
    [Search::Auto, Search::F32, Search::Coarse].map(|search| cpu.with_search(search))
}

fn require_isas() {
    for name in Isa::NAMES {
        if Isa::from_name(name).is_err() {
            eprintln!("skipped: this machine has no {name}");
            let required = std::env::var("VQ_REQUIRE_ISA").unwrap_or_default();
            assert!(!required.split(',').any(|required| required == *name), "VQ_REQUIRE_ISA={required}");
        }
    }
}

#[test]
fn search_is_the_reference() {
    each_case(|cpu, case, context| {
        let &Case { rows, codes: k, dim, .. } = case;
        for ((kind, x), (_, c)) in inputs(rows * dim, 1).into_iter().zip(inputs(k * dim, 2)) {
            for metric in [Metric::Cosine, Metric::L2] {
                let (mut expected, mut scores) = (vec![0; rows], vec![0.0f32; rows]);
                search::reference(mat(&x, rows, dim), mat(&c, k, dim), metric, &mut expected, Some(&mut scores));
                let packed = PackedCodebook::with_packing(mat(&c, k, dim), metric, Packing::Bf16).unwrap();
                for cpu in ways(cpu) {
                    let (mut got, mut got_scores) = (vec![7u32; rows], vec![7.0; rows]);
                    ops::search(&cpu, mat(&x, rows, dim), None, &packed, &mut got, Some(&mut got_scores)).unwrap();
                    assert_eq!(got, expected, "{context} {kind} {metric:?} {:?}", cpu.search());
                    let context = format!("{context} {kind} {metric:?} {:?}", cpu.search());
                    assert_same_bits(&got_scores, &scores, &context);
                }
            }
        }
    });
}

#[test]
fn top_m_and_the_mth_are_the_reference() {
    each_case(|cpu, case, context| {
        let &Case { codes: k, dim, .. } = case;
        let rows = case.rows.min(20);
        for ((kind, x), (_, c)) in inputs(rows * dim, 21).into_iter().zip(inputs(k * dim, 22)) {
            for (m, metric) in [(1, Metric::L2), (5, Metric::Cosine), (70, Metric::L2)] {
                let none = search::Candidate::NONE;
                let (mut expected, mut got) = (vec![none; rows * m], vec![none; rows * m]);
                search::reference_top(mat(&x, rows, dim), mat(&c, k, dim), metric, &mut expected, m);
                let packed = PackedCodebook::new(mat(&c, k, dim), metric).unwrap();
                let best = MatMut::new(&mut got, rows, m).unwrap();
                ops::search_top(cpu, mat(&x, rows, dim), None, &packed, best).unwrap();
                let codes = |best: &[search::Candidate]| best.iter().map(|c| c.code).collect::<Vec<_>>();
                let scores = |best: &[search::Candidate]| best.iter().map(|c| c.score).collect::<Vec<_>>();
                assert_eq!(codes(&got), codes(&expected), "{context} {kind} {metric:?} {m}");
                assert_same_bits(&scores(&got), &scores(&expected), context);
                let (mut mth, mut scratch) = (vec![7; rows], vec![none; 3 * m]);
                ops::search_mth(cpu, mat(&x, rows, dim), None, &packed, m, &mut mth, &mut scratch).unwrap();
                let last: Vec<u32> = expected.chunks_exact(m).map(|best| best[m - 1].code).collect();
                assert_eq!(mth, last, "{context} {kind} {metric:?} {m}");
            }
        }
    });
}

#[test]
fn search_of_special_values_is_the_reference() {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, -f32::MAX, 1e-45, 1.0, -1.0];
    for cpu in cpus().iter().flat_map(ways) {
        for (rows, k, dim) in [(40, 70, 1), (60, 300, 2), (30, 129, 5)] {
            let pick = |i: usize, stride: usize| special[(i * stride + i / 7) % special.len()];
            let x: Vec<f32> = (0..rows * dim).map(|i| pick(i, 3)).collect();
            let c: Vec<f32> = (0..k * dim).map(|i| pick(i, 7)).collect();
            for metric in [Metric::Cosine, Metric::L2] {
                let (mut expected, mut scores) = (vec![0; rows], vec![0.0f32; rows]);
                search::reference(mat(&x, rows, dim), mat(&c, k, dim), metric, &mut expected, Some(&mut scores));
                let packed = PackedCodebook::with_packing(mat(&c, k, dim), metric, Packing::Bf16).unwrap();
                let (mut got, mut got_scores) = (vec![7u32; rows], vec![7.0; rows]);
                ops::search(&cpu, mat(&x, rows, dim), None, &packed, &mut got, Some(&mut got_scores)).unwrap();
                assert_eq!(got, expected, "{cpu:?} {metric:?}");
                assert_same_bits(&got_scores, &scores, &format!("{cpu:?} {metric:?}"));
            }
        }
    }
}

/// A row whose only comparable score is −inf has that code; it lies past the first group.
#[test]
fn minus_infinity_is_comparable() {
    for cpu in cpus().iter().flat_map(ways) {
        let mut c = vec![f32::NAN; 700];
        c[600] = f32::NEG_INFINITY;
        let packed = PackedCodebook::with_packing(mat(&c, 700, 1), Metric::Cosine, Packing::Bf16).unwrap();
        let (mut codes, mut scores) = ([0u32; 2], [0.0; 2]);
        ops::search(&cpu, mat(&[1.0, f32::NAN], 2, 1), None, &packed, &mut codes, Some(&mut scores)).unwrap();
        assert_eq!(codes, [600, NO_CODE]);
        assert!(scores[0] == f32::NEG_INFINITY && scores[1].is_nan());
    }
}

#[test]
fn ties_go_to_the_lowest_code() {
    let others: Vec<f32> = paint(700 * 4, 3).iter().map(|x| x * 0.01).collect();
    for cpu in cpus().iter().flat_map(ways) {
        let all = [[0, 1], [5, 63], [63, 64], [3, 255], [255, 256], [10, 698], [256, 699]];
        for copies in all.into_iter().step_by(if SMALL { 3 } else { 1 }) {
            let mut c = others.clone();
            for k in copies {
                c[k * 4..k * 4 + 4].copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
            }
            let packed = PackedCodebook::with_packing(mat(&c, 700, 4), Metric::L2, Packing::Bf16).unwrap();
            let mut codes = [0u32];
            ops::search(&cpu, mat(&[1.0, 2.0, 3.0, 4.0], 1, 4), None, &packed, &mut codes, None).unwrap();
            assert_eq!(codes[0] as usize, copies[0], "{cpu:?} {copies:?}");
        }
    }
}

#[test]
fn packing_some_codes_again_is_packing_all() {
    for metric in [Metric::Cosine, Metric::L2] {
        let (mut c, k, dim) = (paint(300 * 9, 5), 300, 9);
        let mut packed = PackedCodebook::with_packing(mat(&c, k, dim), metric, Packing::F32).unwrap();
        let changed = [0u32, 63, 64, 299, 150];
        for &code in &changed {
            c[code as usize * dim..][..dim].copy_from_slice(&paint(dim, 90 + u64::from(code)));
        }
        packed.repack_codes(mat(&c, k, dim), &changed).unwrap();
        let whole = PackedCodebook::with_packing(mat(&c, k, dim), metric, Packing::F32).unwrap();
        let floats = |p: &PackedCodebook<Vec<vq_kernels::Line>>| p.lines().iter().flat_map(|l| l.0).collect::<Vec<_>>();
        assert_same_bits(&floats(&packed), &floats(&whole), metric.name());
    }
}

#[test]
fn normalize_and_its_gradient_are_the_reference() {
    each_case(|cpu, case, context| {
        let &Case { rows, dim, .. } = case;
        for (kind, x) in inputs(rows * dim, 3) {
            let (mut y, mut norms) = (vec![0.0f32; x.len()], vec![0.0f32; rows]);
            normalize::reference(&x, dim, &mut y, &mut norms);
            let (mut got, mut got_norms) = (vec![7.0; x.len()], vec![7.0; rows]);
            let out = MatMut::new(&mut got, rows, dim).unwrap();
            ops::normalize(cpu, mat(&x, rows, dim), out, Some(&mut got_norms)).unwrap();
            assert_same_bits(&got, &y, &format!("{context} {kind}"));
            assert_same_bits(&got_norms, &norms, &format!("{context} {kind} norms"));
            let dy = paint(x.len(), 4);
            let mut dx = vec![0.0f32; x.len()];
            normalize::reference_backward(&y, &norms, &dy, dim, &mut dx);
            let mut got = vec![7.0; x.len()];
            let out = MatMut::new(&mut got, rows, dim).unwrap();
            ops::normalize_backward(cpu, mat(&y, rows, dim), &norms, mat(&dy, rows, dim), out).unwrap();
            assert_same_bits(&got, &dx, &format!("{context} {kind} gradient"));
        }
    });
}

#[test]
fn project_and_its_gradients_are_the_reference() {
    each_case(|cpu, case, context| {
        // The table's codes serve as outputs, cut so that the naive loops end.
        let &Case { rows, codes, dim: inputs_, .. } = case;
        let outputs = codes.min(70);
        for (kind, x) in inputs(rows * inputs_, 5) {
            let (weight, bias, dy) = (paint(outputs * inputs_, 6), paint(outputs, 7), paint(rows * outputs, 8));
            let (x, weight, dy) = (mat(&x, rows, inputs_), mat(&weight, outputs, inputs_), mat(&dy, rows, outputs));
            for bias in [None, Some(&bias[..])] {
                let (mut y, mut got) = (vec![0.0f32; rows * outputs], vec![7.0; rows * outputs]);
                project::reference(x, weight, bias, &mut y);
                ops::project(cpu, x, weight, bias, MatMut::new(&mut got, rows, outputs).unwrap()).unwrap();
                assert_same_bits(&got, &y, &format!("{context} {kind}"));
            }
            let (mut dx, mut got) = (vec![0.0f32; rows * inputs_], vec![7.0; rows * inputs_]);
            project::reference_backward_input(dy, weight, &mut dx);
            ops::project_backward_input(cpu, dy, weight, MatMut::new(&mut got, rows, inputs_).unwrap()).unwrap();
            assert_same_bits(&got, &dx, &format!("{context} {kind} dx"));
            let (mut dw, mut db) = (vec![1.0; outputs * inputs_], vec![1.0; outputs]);
            let (mut got, mut got_db) = (dw.clone(), db.clone());
            project::reference_backward_weight(dy, x, &mut dw, &mut db);
            let out = MatMut::new(&mut got, outputs, inputs_).unwrap();
            ops::project_backward_weight(cpu, dy, x, out, Some(&mut got_db)).unwrap();
            assert!(same_f64(&got, &dw) && same_f64(&got_db, &db), "{context} {kind} dw, db");
        }
    });
}

fn same_f64(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b || a.is_nan() && b.is_nan())
}

#[test]
fn losses_and_their_gradients_are_the_reference() {
    each_case(|cpu, case, context| {
        let &Case { rows, dim, .. } = case;
        let codes: Vec<u32> = (0..rows).map(|i| if i % 5 == 3 { NO_CODE } else { i as u32 }).collect();
        let weights: Vec<f32> = (0..rows).map(|i| [1.0, 0.0, 0.25, 0.7][i % 4]).collect();
        for ((kind, x), (_, q)) in inputs(rows * dim, 9).into_iter().zip(inputs(rows * dim, 10)) {
            let g = paint(rows * dim, 11);
            let (x, q, g) = (mat(&x, rows, dim), mat(&q, rows, dim), mat(&g, rows, dim));
            for weights in [None, Some(&weights[..])] {
                let (mut expected, mut got) = (SquaredError::default(), SquaredError::default());
                loss::reference(x, q, &codes, weights, &mut expected);
                loss::squared_error(cpu, x, q, &codes, weights, &mut got).unwrap();
                let sums = |e: &SquaredError| [e.sum, e.weight];
                assert!(same_f64(&sums(&got), &sums(&expected)), "{context} {kind}: {got:?} {expected:?}");
                let mut expected = paint(rows * dim, 12);
                let mut got = expected.clone();
                loss::reference_backward(x, q, &codes, weights, 0.3, &mut expected);
                let dx = MatMut::new(&mut got, rows, dim).unwrap();
                loss::squared_error_backward(cpu, x, q, &codes, weights, 0.3, dx).unwrap();
                assert_same_bits(&got, &expected, &format!("{context} {kind} gradient"));
            }
            let (mut expected, mut got) = (vec![0.0; rows * dim], vec![7.0; rows * dim]);
            loss::reference_rotation(x, q, &codes, g, &mut expected);
            loss::rotation_backward(cpu, x, q, &codes, g, MatMut::new(&mut got, rows, dim).unwrap()).unwrap();
            assert_same_bits(&got, &expected, &format!("{context} {kind} rotation"));
        }
    });
}

#[test]
fn statistics_are_the_reference() {
    each_case(|cpu, case, context| {
        let &Case { rows, codes: k, dim, .. } = case;
        let x = unit_rows(rows, dim, 13);
        let codes: Vec<u32> = (0..rows).map(|i| if i % 9 == 4 { NO_CODE } else { (i * 7 % k) as u32 }).collect();
        let row_weights: Vec<f32> = (0..rows).map(|i| [1.0, 0.0, 0.3][i % 3]).collect();
        for weights in [None, Some(&row_weights[..])] {
            let (mut n, mut sums) = (vec![0; k], vec![0; k * dim]);
            ema::reference(mat(&x, rows, dim), &codes, weights, 0, &mut n, &mut sums);
            let mut got = ema::Statistics::new(k, dim, 0).unwrap();
            got.accumulate(cpu, mat(&x, rows, dim), &codes, weights).unwrap();
            let unit = (1u64 << 40) as f64;
            for code in 0..k {
                assert_eq!(got.weight(code) * unit, n[code] as f64, "{context} weight of {code}");
                let exact: Vec<f64> = sums[code * dim..][..dim].iter().map(|&s| s as f64 / unit).collect();
                assert_eq!(got.sum(code).collect::<Vec<_>>(), exact, "{context} sum of {code}");
            }
        }
    });
}

#[test]
fn half_precision_rows_are_searched_as_the_same_rows_widened() {
    let (rows, k, dim) = if cfg!(miri) { (7, 70, 9) } else { (50, 200, 300) };
    let (x, c) = (paint(rows * dim, 14), paint(k * dim, 15));
    let halves: Vec<half::f16> = x.iter().map(|&x| half::f16::from_f32(x)).collect();
    let wide: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
    let packed = PackedCodebook::new(mat(&c, k, dim), Metric::L2).unwrap();
    for cpu in cpus() {
        let (mut a, mut b) = (vec![0u32; rows], vec![0u32; rows]);
        ops::search(&cpu, MatRef::new(&halves, rows, dim).unwrap(), None, &packed, &mut a, None).unwrap();
        ops::search(&cpu, mat(&wide, rows, dim), None, &packed, &mut b, None).unwrap();
        assert_eq!(a, b, "{}", cpu.isa().name());
        let (weight, mut ya, mut yb) = (paint(9 * dim, 16), vec![0.0; rows * 9], vec![0.0; rows * 9]);
        let weight = mat(&weight, 9, dim);
        let y = MatMut::new(&mut ya, rows, 9).unwrap();
        ops::project(&cpu, MatRef::new(&halves, rows, dim).unwrap(), weight, None, y).unwrap();
        ops::project(&cpu, mat(&wide, rows, dim), weight, None, MatMut::new(&mut yb, rows, 9).unwrap()).unwrap();
        assert_same_bits(&ya, &yb, cpu.isa().name());
    }
}
