//! Searches in plain codebooks, for microcontrollers: fixed point (contract B) against its `reference` and against
//! distances in whole numbers, plain floats against contract A's, and what both refuse.

mod common;

use common::{assert_same_bits, cpus, grid, mat, mat_mut, paint, unit_rows};
use half::{bf16, f16};
use proptest::prelude::*;
use vq_kernels::ops::{self, fixed, search};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Element, Error, Fixed, MAX_CODES, MAX_DIM, MatRef, Metric, NO_CODE, PackedCodebook, Pool};

const METRICS: [Metric; 2] = [Metric::Cosine, Metric::L2];

/// Rows come in blocks of 8, codes in tiles of 4, elements in words of 4 and 2.
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (1, 2, 2),
    (2, 3, 3),
    (7, 4, 4),
    (8, 5, 5),
    (9, 7, 7),
    (16, 8, 8),
    (17, 63, 31),
    (40, 130, 32),
    (3, 257, 33),
    (2, 9, MAX_DIM - 1),
    (2, 9, MAX_DIM),
];

/// Values that make a kernel go wrong where it can: all of the range, few values so that ties happen, its ends.
fn rows<F: Fixed + TryFrom<i64>>(len: usize, seed: u64) -> [Vec<F>; 3] {
    let mut rng = Rng::new(seed, 0xF1);
    let (min, max) = (F::nearest(f64::MIN).into(), F::nearest(f64::MAX).into());
    let mut draw = |low: i64, high: i64| {
        let value = low + rng.below((high - low + 1) as u64) as i64;
        F::try_from(value).ok().expect("within the type")
    };
    let wide = (0..len).map(|_| draw(min, max)).collect();
    let ties = (0..len).map(|_| draw(-1, 1)).collect();
    let ends = (0..len).map(|_| if draw(0, 1).into() == 0 { draw(min, min) } else { draw(max, max) }).collect();
    [wide, ties, ends]
}

fn shapes() -> impl Iterator<Item = (usize, usize, usize)> {
    // Miri interprets: the small cases still reach every tile and tail.
    SHAPES.iter().copied().filter(|(rows, codes, dim)| !cfg!(miri) || rows * codes * dim < 1_500)
}

fn check_fixed<F: Fixed + TryFrom<i64>>() {
    for (n, k, dim) in shapes() {
        for (x, c) in rows::<F>(n * dim, 1).into_iter().zip(rows::<F>(k * dim, 2)) {
            let (x, c) = (mat(&x, n, dim), mat(&c, k, dim));
            for metric in METRICS {
                let (mut expected, mut scores) = (vec![0; n], vec![0; n]);
                fixed::reference(x, c, metric, &mut expected, Some(&mut scores));
                let (mut got, mut got_scores) = (vec![7u32; n], vec![7; n]);
                ops::search_fixed(&Cpu::new(), x, None, c, metric, &mut got, Some(&mut got_scores)).unwrap();
                assert_eq!((&got, &got_scores), (&expected, &scores), "{} {n}x{k}x{dim} {metric:?}", F::NAME);
            }
        }
    }
}

#[test]
fn fixed_search_is_the_reference() {
    check_fixed::<i8>();
    check_fixed::<i16>();
}

fn check_distances<F: Fixed + TryFrom<i64>>() {
    let (n, k, dim) = (30, 50, 6);
    for (x, c) in rows::<F>(n * dim, 3).into_iter().zip(rows::<F>(k * dim, 4)) {
        let (mut codes, mut scores) = (vec![0u16; n], vec![0; n]);
        let (x, c) = (mat(&x, n, dim), mat(&c, k, dim));
        ops::search_fixed(&Cpu::new(), x, None, c, Metric::L2, &mut codes, Some(&mut scores)).unwrap();
        for row in 0..n {
            let square = |a: &F, b: &F| ((*a).into() - (*b).into()).pow(2);
            let distance = |k: usize| x.row(row).iter().zip(c.row(k)).map(|(a, b)| square(a, b)).sum::<i64>();
            let (nearest, code) = (0..k).map(|k| (distance(k), k)).min().expect("some code");
            let length: i64 = x.row(row).iter().map(|&a| a.into() * a.into()).sum();
            assert_eq!((codes[row] as usize, length - scores[row]), (code, nearest), "{} row {row}", F::NAME);
        }
    }
}

#[test]
fn fixed_l2_is_the_smallest_distance_in_whole_numbers() {
    check_distances::<i8>();
    check_distances::<i16>();
}

#[test]
fn the_largest_sums_do_not_overflow() {
    let (low, high) = (vec![i16::MIN; MAX_DIM], vec![i16::MAX; MAX_DIM]);
    for (x, product) in [(&low, 1i64 << 42), (&high, -4096 * 32767 * 32768)] {
        for (metric, expected) in [(Metric::Cosine, product), (Metric::L2, 2 * product - (1 << 42))] {
            let (mut code, mut score) = ([9u32], [0]);
            let (x, book) = (mat(x, 1, MAX_DIM), mat(&low, 1, MAX_DIM));
            ops::search_fixed(&Cpu::new(), x, None, book, metric, &mut code, Some(&mut score)).unwrap();
            assert_eq!((code, score), ([0], [expected]), "{metric:?}");
        }
    }
    let low = vec![i8::MIN; MAX_DIM];
    let (mut code, mut score) = ([9u32], [0]);
    let x = mat(&low, 1, MAX_DIM);
    ops::search_fixed(&Cpu::new(), x, None, x, Metric::Cosine, &mut code, Some(&mut score)).unwrap();
    assert_eq!((code, score), ([0], [1 << 26]));
}

#[test]
fn ties_go_to_the_lowest_code_and_masked_rows_have_none() {
    let (x, book) = ([1i8, 2, 3, 4, -1, -1], [0i8, 0, 5, 5, 5, 5, 0, 0]);
    let (x, book, weights) = (mat(&x, 3, 2), mat(&book, 4, 2), [1.0, 0.0, 0.5]);
    let (mut codes, mut scores) = ([9u16; 3], [9; 3]);
    ops::search_fixed(&Cpu::new(), x, Some(&weights), book, Metric::Cosine, &mut codes, Some(&mut scores)).unwrap();
    assert_eq!((codes, scores), ([1, u16::MAX, 0], [15, i64::MIN, 0]));
    let (x, book) = ([1.0f32, 2.0, 3.0, 4.0, -1.0, f32::NAN], [0.0f32, 0.0, 5.0, 5.0, 5.0, 5.0, 0.0, 0.0]);
    let (x, book) = (mat(&x, 3, 2), mat(&book, 4, 2));
    let (mut codes, mut scores) = ([9u32; 3], [9.0; 3]);
    ops::search_unpacked(&Cpu::new(), x, Some(&weights), book, Metric::Cosine, &mut codes, Some(&mut scores)).unwrap();
    assert_eq!(codes, [1, NO_CODE, NO_CODE]);
    assert_same_bits(&scores, &[15.0, f32::NAN, f32::NAN], "masked, and NaN");
}

// -- floats in place

fn check_unpacked<E: Element, B: Element>(to_x: impl Fn(f32) -> E, to_code: impl Fn(f32) -> B) {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, -f32::MAX, 1e-45, 1.0, -1.0];
    let specials = |len: usize, stride: usize| (0..len).map(|i| special[(i * stride + i / 7) % 10]).collect();
    for (n, k, dim) in shapes() {
        let inputs: [[Vec<f32>; 2]; 3] = [
            [unit_rows(n, dim, 5), unit_rows(k, dim, 6)],
            [grid(n * dim, 7, 2), grid(k * dim, 8, 2)],
            [specials(n * dim, 3), specials(k * dim, 7)],
        ];
        for [x, c] in inputs {
            let (x, c): (Vec<E>, Vec<B>) = (x.into_iter().map(&to_x).collect(), c.into_iter().map(&to_code).collect());
            let wide_x: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
            let wide_c: Vec<f32> = c.iter().map(|c| c.to_f32()).collect();
            for (cpu, metric) in cpus().iter().flat_map(|cpu| METRICS.map(|metric| (cpu, metric))) {
                let context = format!("{} {}/{} {n}x{k}x{dim} {metric:?}", cpu.isa().name(), E::NAME, B::NAME);
                let (mut expected, mut scores) = (vec![0; n], vec![0.0; n]);
                let (wide_x, wide_c) = (mat(&wide_x, n, dim), mat(&wide_c, k, dim));
                search::reference(wide_x, wide_c, metric, &mut expected, Some(&mut scores));
                let (mut got, mut got_scores) = (vec![7u32; n], vec![7.0; n]);
                let (x, c) = (mat(&x, n, dim), mat(&c, k, dim));
                ops::search_unpacked(cpu, x, None, c, metric, &mut got, Some(&mut got_scores)).unwrap();
                assert_eq!(got, expected, "{context}");
                assert_same_bits(&got_scores, &scores, &context);
            }
        }
    }
}

#[test]
fn unpacked_search_is_contract_a() {
    check_unpacked(|x| x, |c| c);
    check_unpacked(|x| x, f16::from_f32);
    check_unpacked(bf16::from_f32, |c| c);
    check_unpacked(f16::from_f32, bf16::from_f32);
}

#[test]
fn unpacked_and_packed_find_the_same_codes_on_any_number_of_threads() {
    let (n, k, dim) = (if cfg!(miri) { 20 } else { 203 }, 77, 9);
    let (x, c) = (paint(n * dim, 9), paint(k * dim, 10));
    let (x, c) = (mat(&x, n, dim), mat(&c, k, dim));
    let (mut packed, mut plain, mut divided) = (vec![0u32; n], vec![0u32; n], vec![0u32; n]);
    let book = PackedCodebook::new(c, Metric::L2).unwrap();
    ops::search(&Cpu::new(), x, None, &book, &mut packed, None).unwrap();
    ops::search_unpacked(&Cpu::new(), x, None, c, Metric::L2, &mut plain, None).unwrap();
    ops::search_unpacked(&Cpu::new().with_pool(&Threads), x, None, c, Metric::L2, &mut divided, None).unwrap();
    assert_eq!((&plain, &divided), (&packed, &packed));
    let (mut q_x, mut q_c) = (vec![0i8; n * dim], vec![0i8; k * dim]);
    let cpus = [Cpu::new(), Cpu::new().with_pool(&Threads)];
    let [alone, threads] = cpus.map(|cpu| {
        ops::to_fixed(&cpu, x, 30.0, mat_mut(&mut q_x, n, dim)).unwrap();
        ops::to_fixed(&cpu, c, 30.0, mat_mut(&mut q_c, k, dim)).unwrap();
        let mut codes = vec![0u32; n];
        let (x, c) = (mat(&q_x, n, dim), mat(&q_c, k, dim));
        ops::search_fixed(&cpu, x, None, c, Metric::L2, &mut codes, None).unwrap();
        codes
    });
    assert_eq!(alone, threads);
}

/// A thread for each task.
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

// -- rounding

/// `x · scale` to the nearest whole number, ties to even, within `min..=max`: in whole numbers alone.
fn rounded(x: f32, scale: f32, min: i64, max: i64) -> i64 {
    let parts = |x: f32| {
        let (bits, exponent) = (x.to_bits(), (x.to_bits() >> 23 & 255) as i32);
        let mantissa = i128::from(bits & 0x7F_FFFF) | if exponent > 0 { 1 << 23 } else { 0 };
        (if x < 0.0 { -mantissa } else { mantissa }, exponent.max(1) - 150)
    };
    let ((a, e), (b, f)) = (parts(x), parts(scale));
    let (product, exponent) = (a * b, e + f);
    let whole = match exponent {
        0.. => product.saturating_mul(1 << exponent.min(60)),
        ..-100 => 0,
        _ => {
            let unit = 1i128 << -exponent;
            let (floor, rest) = (product.div_euclid(unit), product.rem_euclid(unit) * 2);
            floor + i128::from(rest > unit || rest == unit && floor % 2 != 0)
        }
    };
    whole.clamp(min.into(), max.into()) as i64
}

fn check_rounding(x: &[f32], scale: f32) {
    let (mut q7, mut q15) = (vec![9i8; x.len()], vec![9i16; x.len()]);
    ops::to_fixed(&Cpu::new(), mat(x, x.len(), 1), scale, mat_mut(&mut q7, x.len(), 1)).unwrap();
    ops::to_fixed(&Cpu::new(), mat(x, 1, x.len()), scale, mat_mut(&mut q15, 1, x.len())).unwrap();
    for ((&x, &q7), &q15) in x.iter().zip(&q7).zip(&q15) {
        assert_eq!(i64::from(q7), rounded(x, scale, -128, 127), "q7: {x:e} · {scale:e}");
        assert_eq!(i64::from(q15), rounded(x, scale, -32768, 32767), "q15: {x:e} · {scale:e}");
    }
}

#[test]
fn to_fixed_rounds_once_to_even_and_saturates() {
    let halves: Vec<f32> = (-300..300).map(|i| i as f32 / 2.0).collect();
    // 0.49999997 · 1 and 1.4999999 · 1 are below their ties; in f32, products with 3 or 1/3 would round onto them.
    let near = [0.499_999_97, 0.500_000_06, 1.499_999_9, -0.499_999_97, 0.166_666_67, 0.833_333_3, 1e-45, -1e-45];
    let far = [f32::MAX, -f32::MAX, 32767.4, 32767.5, -32768.5, -32769.0, 127.5, -128.5, 0.0, -0.0];
    for scale in [1.0, 0.5, 3.0, 1.0 / 3.0, 127.0, 32767.0, 1e-30, f32::MAX, f32::MIN_POSITIVE, 1e-45] {
        check_rounding(&halves, scale);
        check_rounding(&near, scale);
        check_rounding(&far, scale);
    }
    let (ends, mut out) = ([f32::INFINITY, f32::NEG_INFINITY], [0i8; 2]);
    ops::to_fixed(&Cpu::new(), mat(&ends, 1, 2), 1e-45, mat_mut(&mut out, 1, 2)).unwrap();
    assert_eq!(out, [127, -128]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 192 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn to_fixed_of_any_number_is_the_exact_one(bits in prop::collection::vec(any::<u32>(), 1..40), scale in any::<u32>()) {
        let mut x: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|x| x.is_finite()).collect();
        let scale = f32::from_bits(scale & 0x7FFF_FFFF);
        if scale.is_finite() && scale > 0.0 {
            // And numbers whose products lie near the integers' range.
            x.extend((-40..40).map(|i| i as f32 * 0.5 / scale).filter(|x| x.is_finite()));
            check_rounding(&x, scale);
        }
    }

    #[test]
    fn a_code_finds_itself_under_l2(seed in any::<u64>(), k in 1usize..40, dim in 1usize..20) {
        let [codes, ..] = rows::<i16>(k * dim, seed);
        let (book, mut found, mut scores) = (mat(&codes, k, dim), vec![0u32; k], vec![0; k]);
        ops::search_fixed(&Cpu::new(), book, None, book, Metric::L2, &mut found, Some(&mut scores)).unwrap();
        for (row, &code) in found.iter().enumerate() {
            // Itself, or an equal one before it.
            prop_assert!(code as usize <= row && book.row(code as usize) == book.row(row));
        }
    }
}

// -- refusals

#[test]
fn wrong_arguments_are_errors_and_write_nothing() {
    let (cpu, metric) = (Cpu::new(), Metric::Cosine);
    let (x, wide) = ([1i8; 6], vec![0i8; 1 << 16]);
    let (x, book) = (mat(&x, 3, 2), mat(&x, 3, 2));
    let (floats, wide_floats) = ([1.0f32; 6], vec![0.0f32; 1 << 16]);
    let (y, plain) = (mat(&floats, 3, 2), mat(&floats, 3, 2));
    let (mut codes, mut scores, mut float_scores) = ([9u16; 3], [9i64; 3], [9.0f32; 3]);
    let shape = |op, arg, expected, got| Err(Error::Shape { op, arg, expected, got });

    // search_fixed and search_unpacked refuse alike.
    for (op, fixed) in [("search_fixed", true), ("search_unpacked", false)] {
        let mut search = |cols: usize, k: (usize, usize), weights: Option<&[f32]>, codes: &mut [u16], scored: usize| {
            if fixed {
                let (x, book) =
                    (MatRef::new(&x.data()[..3 * cols], 3, cols)?, MatRef::new(&wide[..k.0 * k.1], k.0, k.1)?);
                ops::search_fixed(&cpu, x, weights, book, metric, codes, Some(&mut scores[..scored]))
            } else {
                let x = MatRef::new(&y.data()[..3 * cols], 3, cols)?;
                let book = MatRef::new(&wide_floats[..k.0 * k.1], k.0, k.1)?;
                ops::search_unpacked(&cpu, x, weights, book, metric, codes, Some(&mut float_scores[..scored]))
            }
        };
        assert_eq!(search(2, (4, 1), None, &mut codes, 3), shape(op, "columns of x", 1, 2));
        assert_eq!(search(2, (4, 2), None, &mut codes[..2], 3), shape(op, "length of codes", 3, 2));
        assert_eq!(search(2, (4, 2), None, &mut codes, 2), shape(op, "length of scores", 3, 2));
        assert_eq!(search(2, (0, 2), None, &mut codes, 3), Err(Error::Empty { op, arg: "number of codes" }));
        assert_eq!(search(0, (2, 0), None, &mut codes, 3), Err(Error::Empty { op, arg: "dim" }));
        assert_eq!(search(1, (65_536, 1), None, &mut codes, 3), Err(Error::CodeWidth { codes: 65_536, max: 65_535 }));
        assert_eq!(search(2, (4, 2), Some(&[1.0; 2]), &mut codes, 3), shape(op, "number of weights", 3, 2));
        let refused = Err(Error::Value { op, arg: "weights", index: 1, expected: "weights within 0..=1" });
        assert_eq!(search(2, (4, 2), Some(&[1.0, f32::NAN, 1.0]), &mut codes, 3), refused);
    }
    let deep = vec![0i8; MAX_DIM + 1];
    let deep = mat(&deep, 1, MAX_DIM + 1);
    let most = |arg, max: usize, got: usize| {
        Err(Error::TooLarge { op: "search_fixed", arg, max: max as u64, got: got as u64 })
    };
    let refused = ops::search_fixed(&cpu, deep, None, deep, metric, &mut codes[..1], None);
    assert_eq!(refused, most("dim", MAX_DIM, MAX_DIM + 1));
    let many = vec![0i8; MAX_CODES + 1];
    let refused =
        ops::search_fixed(&cpu, mat(&[1i8], 1, 1), None, mat(&many, MAX_CODES + 1, 1), metric, &mut [0u32], None);
    assert_eq!(refused, most("number of codes", MAX_CODES, MAX_CODES + 1));
    assert_eq!((codes, scores, float_scores), ([9; 3], [9; 3], [9.0; 3]));

    // No rows: nothing to do.
    assert_eq!(ops::search_fixed(&cpu, mat(&[], 0, 2), None, book, metric, &mut [0u32; 0], None), Ok(()));
    assert_eq!(ops::search_unpacked(&cpu, mat::<f32>(&[], 0, 2), None, plain, metric, &mut [0u32; 0], None), Ok(()));
}

#[test]
fn to_fixed_refuses_shapes_scales_and_nan() {
    let (cpu, mut out) = (Cpu::new(), [9i8; 4]);
    let x = [1.0f32, 2.0, f32::NAN, 4.0];
    let refused = Error::Value { op: "to_fixed", arg: "x", index: 2, expected: "a number" };
    assert_eq!(ops::to_fixed(&cpu, mat(&x, 2, 2), 1.0, mat_mut(&mut out, 2, 2)), Err(refused));
    let scale = Error::Config { field: "scale", expected: "a finite number above 0" };
    for wrong in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(ops::to_fixed(&cpu, mat(&x[..2], 1, 2), wrong, mat_mut(&mut out[..2], 1, 2)), Err(scale.clone()));
    }
    for (rows, cols) in [(1, 4), (4, 1)] {
        let refused = ops::to_fixed(&cpu, mat(&x, 2, 2), 1.0, mat_mut(&mut out, rows, cols));
        assert!(matches!(refused, Err(Error::Shape { op: "to_fixed", expected: 2, .. })), "{refused:?}");
    }
    assert_eq!(out, [9; 4]);
    assert_eq!((<i8 as Fixed>::NAME, <i16 as Fixed>::NAME, i8::nearest(f64::NAN)), ("q7", "q15", 0));
}
