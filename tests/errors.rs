//! What is refused, how, and what is not: every error is reached, nothing panics, and a refused
//! call leaves its outputs as they were.

mod common;

use common::{mat, mat_mut, paint, unit_rows};
use vq_kernels::kmeans::{KMeans, Seeds};
use vq_kernels::ops::ema::{self, Activity, Statistics};
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::ops::restart::{self, Restarted, Rule, Summary};
use vq_kernels::ops::{self, Candidate, usage};
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner, Loss, Quantizer, StateRef};
use vq_kernels::{Cpu, Error, Isa, Line, MAX_CODES, MAX_DIM, MatMut, MatRef, Metric, NO_CODE, PackedCodebook, Packing};

// -- every variant

/// The parts of an error that its message must name.
fn named(error: &Error) -> Vec<String> {
    match error {
        Error::Shape { op, arg, expected, got } => {
            vec![op.to_string(), arg.to_string(), expected.to_string(), got.to_string()]
        }
        Error::TooLarge { op, arg, max, got } => {
            vec![op.to_string(), arg.to_string(), max.to_string(), got.to_string()]
        }
        Error::Empty { op, arg } => vec![op.to_string(), arg.to_string()],
        Error::CodeOutOfRange { op, row, code, codes } => {
            vec![op.to_string(), row.to_string(), code.to_string(), codes.to_string()]
        }
        Error::CodeWidth { codes, max } => vec![codes.to_string(), max.to_string()],
        Error::Value { op, arg, index, expected } => {
            vec![op.to_string(), arg.to_string(), index.to_string(), expected.to_string()]
        }
        Error::Config { field, expected } => vec![field.to_string(), expected.to_string()],
        Error::Order { op, expected } => vec![op.to_string(), expected.to_string()],
        Error::File { field, expected } => vec![field.to_string(), expected.to_string()],
        Error::Overflow { op, code } => vec![op.to_string(), code.to_string()],
        Error::Isa { name } => vec![name.to_string()],
        // The enum is non-exhaustive: a new variant comes here, and fails.
        other => panic!("{other:?} is not in this table: reach it in `every_error_is_reached_and_names_its_parts`"),
    }
}

/// The variant's name.
fn variant(error: &Error) -> String {
    format!("{error:?}").split([' ', '(']).next().unwrap_or_default().to_string()
}

#[test]
fn every_error_is_reached_and_names_its_parts() {
    let cpu = Cpu::new();
    let (book, x) = (PackedCodebook::new(mat(&[1.0f32, 2.0], 1, 2), Metric::L2).unwrap(), [0.0f32; 2]);
    let full = full_statistics();
    let errors = [
        MatRef::new(&x, 1, 3).unwrap_err(),
        MatRef::new(&x, usize::MAX, 2).unwrap_err(),
        PackedCodebook::new(mat::<f32>(&[], 0, 2), Metric::L2).unwrap_err(),
        ops::gather(&cpu, &[4u32], mat(&x, 1, 2), mat_mut(&mut [0.0; 2], 1, 2)).unwrap_err(),
        ops::search(&cpu, mat(&x, 1, 1 + 1), None, &wide_book(), &mut [0u16], None).unwrap_err(),
        ops::search(&cpu, mat(&x, 1, 2), Some(&[2.0]), &book, &mut [0u32], None).unwrap_err(),
        Quantizer::new(Config { decay: 1.0, ..Config::default() }, Initial::Normal).unwrap_err(),
        Quantizer::new(Config::default(), Initial::Normal).unwrap().update(&cpu).unwrap_err(),
        full.clone().accumulate(&cpu, mat(&[1.0], 1, 1), &[1], None).unwrap_err(),
        vq_kernels::index::Index::read(&[]).unwrap_err(),
        Isa::from_name("sse9").unwrap_err(),
    ];
    let mut reached: Vec<String> = errors.iter().map(variant).collect();
    reached.sort();
    let all = [
        "CodeOutOfRange",
        "CodeWidth",
        "Config",
        "Empty",
        "File",
        "Isa",
        "Order",
        "Overflow",
        "Shape",
        "TooLarge",
        "Value",
    ];
    assert_eq!(reached, all);
    for error in &errors {
        let message = error.to_string();
        for part in named(error) {
            // Overflow's and CodeWidth's parts are one string each; numbers appear as they are.
            assert!(
                message.contains(&part) || matches!(error, Error::Isa { .. }),
                "{message:?} does not name {part:?}"
            );
        }
        let _: &dyn core::error::Error = error;
    }
    assert!(Isa::from_name("sse9").unwrap_err().to_string().contains("scalar, avx2, avx2vnni, avx512"));
}

/// A codebook of 65,536 codes of 2 dimensions: one more than u16 can number.
fn wide_book() -> PackedCodebook<Vec<Line>> {
    PackedCodebook::new(mat(&vec![0.5f32; 2 << 16], 1 << 16, 2), Metric::Cosine).unwrap()
}

/// Two codes of one dimension; code 1 has taken 2²² rows.
fn full_statistics() -> Statistics<Vec<i64>> {
    let mut statistics = Statistics::new(2, 1, 0).unwrap();
    let (x, codes) = (vec![1.0f32; 1 << 20], vec![1u32; 1 << 20]);
    for _ in 0..4 {
        assert_eq!(statistics.accumulate(&Cpu::new(), mat(&x, 1 << 20, 1), &codes, None), Ok(0));
    }
    statistics
}

#[test]
fn a_code_takes_two_to_the_22_rows_and_no_more() {
    let (cpu, mut statistics) = (Cpu::new(), full_statistics());
    assert_eq!((statistics.weight(1), statistics.sum(1).next()), (4_194_304.0, Some(4_194_304.0)));
    let refused = statistics.accumulate(&cpu, mat(&[1.0, 1.0, 1.0], 3, 1), &[0, 1, 0], None);
    assert_eq!(refused, Err(Error::Overflow { op: "accumulate", code: 1 }));
    // The whole call is refused, with the rows before the one too many.
    assert_eq!((statistics.weight(0), statistics.weight(1)), (0.0, 4_194_304.0));
    assert_eq!(statistics.sum(0).next(), Some(0.0));
    let (mut other, before) = (Statistics::new(2, 1, 0).unwrap(), statistics.clone());
    other.accumulate(&cpu, mat(&[0.5], 1, 1), &[1], None).unwrap();
    assert_eq!(statistics.merge(&other), Err(Error::Overflow { op: "merge", code: 1 }));
    assert_eq!(statistics, before);
    // Two workers may fill a code between them.
    let half = || Statistics::from_parts(vec![0, 1 << 61], vec![0, 1 << 61], 1, 0).unwrap();
    let mut both = half();
    assert_eq!(both.merge(&half()), Ok(()));
    assert_eq!(both, before);
    // The most extreme sums: all rows at the limit of the exponent, both signs.
    statistics.clear(0);
    assert_eq!((statistics.total(), statistics.sum(1).next()), (0.0, Some(0.0)));
}

// -- shapes

#[test]
fn views_refuse_wrong_lengths_and_overflowing_shapes() {
    let mut data = [0u8; 6];
    for (rows, cols) in [(2, 2), (2, 4), (7, 1), (0, 1), (1, 0), (6, 0)] {
        let expected = Error::Shape { op: "matrix", arg: "length of the data", expected: rows * cols, got: 6 };
        assert_eq!(MatRef::new(&data, rows, cols).unwrap_err(), expected);
        assert_eq!(MatMut::new(&mut data, rows, cols).unwrap_err(), expected);
    }
    const ROOT: usize = 1 << (usize::BITS / 2);
    for (rows, cols) in [(usize::MAX, 2), (2, usize::MAX), (usize::MAX, usize::MAX), (ROOT, ROOT)] {
        assert_eq!(variant(&MatRef::new(&data, rows, cols).unwrap_err()), "TooLarge");
        assert_eq!(variant(&MatMut::new(&mut data, rows, cols).unwrap_err()), "TooLarge");
    }
    // Zero rows or columns are shapes, however many of the other there are.
    let (none, view) = (MatRef::<f32>::new(&[], usize::MAX, 0).unwrap(), mat(&data, 2, 3));
    assert_eq!((none.row(5), none.rows_from(usize::MAX, usize::MAX).rows()), (&[][..], 0));
    assert_eq!((view.row(2), view.row(usize::MAX), view.rows_from(1, usize::MAX).rows()), (&[][..], &[][..], 1));
}

#[test]
fn a_codebook_has_a_shape_that_can_be_indexed() {
    let cases: [(usize, usize, &str, &str); 6] = [
        (0, 4, "Empty", "no codes"),
        (4, 0, "Empty", "no dimensions"),
        (MAX_CODES + 1, 1, "TooLarge", "one code too many"),
        (usize::MAX, 1, "TooLarge", "as many codes as can be written"),
        (1, MAX_DIM + 1, "TooLarge", "one dimension too many"),
        (1, usize::MAX, "TooLarge", "as many dimensions as can be written"),
    ];
    for (codes, dim, expected, why) in cases {
        for metric in [Metric::Cosine, Metric::L2] {
            let refused = PackedCodebook::from_lines(&[][..], codes, dim, metric, Packing::Int8).unwrap_err();
            assert_eq!(variant(&refused), expected, "{why}");
        }
        assert_eq!(variant(&Seeds::new(codes, dim, 0).unwrap_err()), expected, "{why}");
        let config = Config { codes, dim, inputs: dim.max(1), factorize: dim == 0, ..Config::default() };
        assert_eq!(variant(&Quantizer::new(config, Initial::Normal).unwrap_err()), expected, "{why}");
    }
    assert_eq!(variant(&KMeans::new(vec![], 0, 4, Metric::L2).unwrap_err()), "Empty");
    assert_eq!(variant(&KMeans::new(vec![], 4, 0, Metric::L2).unwrap_err()), "Empty");
    assert_eq!(variant(&KMeans::new(vec![0.0; 7], 4, 2, Metric::L2).unwrap_err()), "Shape");
    assert_eq!(variant(&KMeans::new(vec![], usize::MAX, 2, Metric::L2).unwrap_err()), "TooLarge");
    for packing in [Packing::Int8, Packing::Bf16] {
        assert_eq!(PackedCodebook::lines_len(usize::MAX, usize::MAX, Metric::L2, packing), usize::MAX);
    }
    let len = PackedCodebook::lines_len(65, 3, Metric::L2, Packing::F32);
    assert_eq!(len, 2 * (3 + 1) * 4);
    for got in [len - 1, len + 1] {
        let lines = vec![Line([0.0; 16]); got];
        let expected = Error::Shape { op: "pack", arg: "number of lines", expected: len, got };
        assert_eq!(PackedCodebook::from_lines(&lines[..], 65, 3, Metric::L2, Packing::F32).unwrap_err(), expected);
    }
}

/// Dimensions of the calls below: rows, codes, dim, another width.
const N: usize = 5;
const K: usize = 7;
const D: usize = 3;
const W: usize = 4;

/// Calls `call` with extents that are all right, then with each extent one more and one less: the
/// first is accepted, every other refused with a `Shape`. The call checks that outputs are unchanged.
#[track_caller]
fn each_extent_is_checked<const E: usize>(
    op: &str,
    extents: [usize; E],
    call: impl Fn([usize; E]) -> Result<(), Error>,
) {
    assert_eq!(call(extents), Ok(()), "{op} with the right extents");
    for i in 0..E {
        for wrong in [extents[i] - 1, extents[i] + 1] {
            let mut extents = extents;
            extents[i] = wrong;
            match call(extents) {
                Err(Error::Shape { .. }) => {}
                other => panic!("{op}: extent {i} of {wrong} gave {other:?}"),
            }
        }
    }
}

/// `result`, after a look at what a refused call left behind.
#[track_caller]
fn unchanged<T: PartialEq + core::fmt::Debug, R>(result: Result<R, Error>, output: &[T], mark: T) -> Result<(), Error> {
    if result.is_err() {
        assert!(output.iter().all(|x| *x == mark), "a refused call wrote to its output: {output:?}");
    }
    result.map(|_| ())
}

#[test]
fn search_checks_every_extent() {
    let (cpu, book) = (Cpu::new(), PackedCodebook::new(mat(&paint(K * D, 1), K, D), Metric::L2).unwrap());
    each_extent_is_checked("search", [D, N, N, N], |[cols, codes, scores, weights]| {
        let (mut codes, mut scores) = (vec![77u32; codes], vec![77.0; scores]);
        let (x, weights) = (vec![1.0f32; N * cols], vec![1.0; weights]);
        let result = ops::search(&cpu, mat(&x, N, cols), Some(&weights), &book, &mut codes, Some(&mut scores));
        unchanged(result.clone(), &codes, 77)?;
        unchanged(result, &scores, 77.0)
    });
    each_extent_is_checked("search_top", [D, N, N], |[cols, rows, weights]| {
        let marked = Candidate { score: 1.0, code: 77 };
        let (mut best, x, weights) = (vec![marked; rows * 2], vec![1.0f32; N * cols], vec![1.0; weights]);
        let result = ops::search_top(&cpu, mat(&x, N, cols), Some(&weights), &book, mat_mut(&mut best, rows, 2));
        unchanged(result, &best, marked)
    });
    each_extent_is_checked("search_mth", [D, N, N], |[cols, codes, weights]| {
        let (mut codes, x, weights) = (vec![77; codes], vec![1.0f32; N * cols], vec![1.0; weights]);
        let mut scratch = [Candidate::NONE; 2];
        let result = ops::search_mth(&cpu, mat(&x, N, cols), Some(&weights), &book, 2, &mut codes, &mut scratch);
        unchanged(result, &codes, 77)
    });
    let x = [1.0f32; N * D];
    let (x, mut codes) = (mat(&x, N, D), [77; N]);
    let short = ops::search_mth(&cpu, x, None, &book, 3, &mut codes, &mut [Candidate::NONE; 2]);
    assert_eq!(short, Err(Error::Shape { op: "search_mth", arg: "length of scratch", expected: 3, got: 2 }));
    let none = ops::search_mth(&cpu, x, None, &book, 0, &mut codes, &mut [Candidate::NONE; 2]);
    assert_eq!(none, Err(Error::Empty { op: "search_mth", arg: "m" }));
    let huge = ops::search_mth(&cpu, x, None, &book, usize::MAX, &mut codes, &mut [Candidate::NONE; 2]);
    assert_eq!(variant(&huge.unwrap_err()), "Shape");
    let none = ops::search_top(&cpu, x, None, &book, mat_mut(&mut [], N, 0));
    assert_eq!(variant(&none.unwrap_err()), "Empty");
    assert_eq!(codes, [77; N]);
}

#[test]
fn search_of_no_rows_still_checks_the_columns() {
    let (cpu, book) = (Cpu::new(), PackedCodebook::new(mat(&paint(K * D, 1), K, D), Metric::L2).unwrap());
    let x = mat::<f32>(&[], 0, D + 1);
    assert_eq!(variant(&ops::search(&cpu, x, None, &book, &mut [0u32; 0], None).unwrap_err()), "Shape");
    assert_eq!(variant(&ops::search_top(&cpu, x, None, &book, mat_mut(&mut [], 0, 2)).unwrap_err()), "Shape");
    let mth = ops::search_mth(&cpu, x, None, &book, 1, &mut [], &mut [Candidate::NONE]);
    assert_eq!(mth.map_err(|error| variant(&error)), Err("Shape".to_string()));
}

#[test]
fn u16_numbers_65_535_codes_and_no_more() {
    let (cpu, x, mut codes) = (Cpu::new(), [1.0f32, 0.0], [3u16]);
    let refused = ops::search(&cpu, mat(&x, 1, 2), None, &wide_book(), &mut codes, None);
    assert_eq!((refused, codes), (Err(Error::CodeWidth { codes: 65_536, max: 65_535 }), [3]));
    let mut codebook = vec![0.0f32; 2 * 65_535];
    codebook[2 * 65_534] = 1.0;
    let book = PackedCodebook::new(mat(&codebook, 65_535, 2), Metric::Cosine).unwrap();
    ops::search(&cpu, mat(&x, 1, 2), None, &book, &mut codes, None).unwrap();
    assert_eq!(codes, [65_534]);
}

#[test]
fn gather_project_and_normalize_check_every_extent() {
    let cpu = Cpu::new();
    each_extent_is_checked("gather", [N, D], |[rows, cols]| {
        let (mut out, codebook) = (vec![77.0; rows * cols], paint(K * D, 1));
        unchanged(ops::gather(&cpu, &[0u32; N], mat(&codebook, K, D), mat_mut(&mut out, rows, cols)), &out, 77.0)
    });
    each_extent_is_checked("project", [W, N, D, D], |[inputs, rows, outputs, bias]| {
        let (x, weight, bias, mut y) =
            (vec![1.0f32; N * W], vec![1.0; D * inputs], vec![1.0; bias], vec![77.0; rows * outputs]);
        let result =
            ops::project(&cpu, mat(&x, N, W), mat(&weight, D, inputs), Some(&bias), mat_mut(&mut y, rows, outputs));
        unchanged(result, &y, 77.0)
    });
    each_extent_is_checked("project_backward_input", [D, N, W], |[outputs, rows, inputs]| {
        let (dy, weight, mut dx) = (vec![1.0; N * outputs], vec![1.0; D * W], vec![77.0; rows * inputs]);
        let result =
            ops::project_backward_input(&cpu, mat(&dy, N, outputs), mat(&weight, D, W), mat_mut(&mut dx, rows, inputs));
        unchanged(result, &dx, 77.0)
    });
    each_extent_is_checked("project_backward_weight", [N, D, W, D], |[rows, outputs, inputs, bias]| {
        let (dy, x) = (vec![1.0; rows * D], vec![1.0; N * W]);
        let (mut dw, mut db) = (vec![77.0; outputs * inputs], vec![77.0; bias]);
        let dw_view = mat_mut(&mut dw, outputs, inputs);
        let result = ops::project_backward_weight(&cpu, mat(&dy, rows, D), mat(&x, N, W), dw_view, Some(&mut db));
        unchanged(result.clone(), &dw, 77.0)?;
        unchanged(result, &db, 77.0)
    });
    each_extent_is_checked("normalize", [N, D, N], |[rows, cols, norms]| {
        let (x, mut y, mut norms) = (vec![1.0f32; N * D], vec![77.0; rows * cols], vec![77.0; norms]);
        let result = ops::normalize(&cpu, mat(&x, N, D), mat_mut(&mut y, rows, cols), Some(&mut norms));
        unchanged(result.clone(), &y, 77.0)?;
        unchanged(result, &norms, 77.0)
    });
    each_extent_is_checked("normalize_backward", [N, N, D, N, D], |[norms, dy_rows, dy_cols, rows, cols]| {
        let (y, norms, dy, mut dx) =
            (vec![1.0; N * D], vec![1.0; norms], vec![1.0; dy_rows * dy_cols], vec![77.0; rows * cols]);
        let result = ops::normalize_backward(
            &cpu,
            mat(&y, N, D),
            &norms,
            mat(&dy, dy_rows, dy_cols),
            mat_mut(&mut dx, rows, cols),
        );
        unchanged(result, &dx, 77.0)
    });
}

#[test]
fn losses_check_every_extent() {
    let (cpu, x) = (Cpu::new(), vec![1.0; N * D]);
    let x = mat(&x, N, D);
    each_extent_is_checked("squared_error", [N, D, N, N], |[rows, cols, codes, weights]| {
        let (q, codes, weights) = (vec![2.0; rows * cols], vec![0; codes], vec![1.0; weights]);
        let mut total = [SquaredError { sum: 5.0, weight: 5.0 }];
        let result = loss::squared_error(&cpu, x, mat(&q, rows, cols), &codes, Some(&weights), &mut total[0]);
        unchanged(result, &total, SquaredError { sum: 5.0, weight: 5.0 })
    });
    each_extent_is_checked(
        "squared_error_backward",
        [N, D, N, N, N, D],
        |[rows, cols, codes, weights, dx_rows, dx_cols]| {
            let (q, codes, weights) = (vec![2.0; rows * cols], vec![0; codes], vec![1.0; weights]);
            let mut dx = vec![77.0; dx_rows * dx_cols];
            let view = mat_mut(&mut dx, dx_rows, dx_cols);
            let result = loss::squared_error_backward(&cpu, x, mat(&q, rows, cols), &codes, Some(&weights), 1.0, view);
            unchanged(result, &dx, 77.0)
        },
    );
    each_extent_is_checked("straight_through_backward", [N, N, D], |[codes, rows, cols]| {
        let (codes, mut dx) = (vec![0; codes], vec![77.0; rows * cols]);
        unchanged(loss::straight_through_backward(&cpu, &codes, x, mat_mut(&mut dx, rows, cols)), &dx, 77.0)
    });
    each_extent_is_checked("rotation_backward", [N, D, N, N, D, N, D], |[q, q_cols, codes, g, g_cols, rows, cols]| {
        let (quantized, codes, gradient) = (vec![2.0; q * q_cols], vec![0; codes], vec![1.0; g * g_cols]);
        let mut dx = vec![77.0; rows * cols];
        let view = mat_mut(&mut dx, rows, cols);
        let result =
            loss::rotation_backward(&cpu, x, mat(&quantized, q, q_cols), &codes, mat(&gradient, g, g_cols), view);
        unchanged(result, &dx, 77.0)
    });
}

#[test]
fn averages_and_usage_check_every_extent() {
    let cpu = Cpu::new();
    each_extent_is_checked("exponent", [N, N], |[codes, weights]| {
        ema::exponent(mat(&[1.0; N * D], N, D), &vec![0; codes], Some(&vec![1.0; weights])).map(|_| ())
    });
    each_extent_is_checked("new_in", [K * D], |[sums]| Statistics::new_in(vec![1; K], vec![1; sums], D, 0).map(|_| ()));
    each_extent_is_checked("accumulate", [D, N, N], |[cols, codes, weights]| {
        let (mut statistics, x) = (Statistics::new(K, D, 0).unwrap(), vec![1.0; N * cols]);
        let result = statistics.accumulate(&cpu, mat(&x, N, cols), &vec![0; codes], Some(&vec![1.0; weights]));
        unchanged(result, &[statistics.total()], 0.0)
    });
    each_extent_is_checked("merge", [K, D], |[codes, dim]| {
        let mut statistics = Statistics::new(K, D, 0).unwrap();
        statistics.merge(&Statistics::new(codes, dim, 0).unwrap())
    });
    each_extent_is_checked("update_means", [K, K, D, K, D], |[sizes, rows, cols, direction_rows, direction_cols]| {
        let mut statistics = Statistics::new(K, D, 0).unwrap();
        statistics.accumulate(&cpu, mat(&[1.0; N * D], N, D), &[0; N], None).unwrap();
        let (mut mean, mut direction) = (vec![77.0; rows * cols], vec![77.0; direction_rows * direction_cols]);
        let (means, directions) =
            (mat_mut(&mut mean, rows, cols), mat_mut(&mut direction, direction_rows, direction_cols));
        let result = ema::update_means(&cpu, 0.5, &statistics, &vec![1.0; sizes], means, Some(directions));
        unchanged(result.clone(), &mean, 77.0)?;
        unchanged(result, &direction, 77.0)
    });
    each_extent_is_checked("activity", [K, K], |[exposure, last_seen]| {
        Activity::new_in(vec![0.0f32; K], vec![0.0f32; exposure], vec![0.0f64; last_seen]).map(|_| ())
    });
    each_extent_is_checked("observe", [K], |[codes]| {
        let mut activity = Activity::new_in(vec![0.0f32; K], vec![0.0f32; K], vec![0.0f64; K]).unwrap();
        activity.observe(0.5, &Statistics::new(codes, D, 0).unwrap())
    });
    each_extent_is_checked("count", [N], |[weights]| {
        let mut counts = [0; K];
        unchanged(usage::count(&[0u32; N], Some(&vec![1.0; weights]), &mut counts), &counts, 0)
    });
    each_extent_is_checked("prune", [K], |[remap]| {
        let mut remap = vec![77; remap];
        unchanged(usage::prune(&[1; K], 1, &mut remap), &remap, 77)
    });
    each_extent_is_checked("compact", [K * D], |[len]| usage::compact(&mut vec![0.0; len], D, &[NO_CODE; K]));
    assert_eq!(variant(&usage::compact(&mut [0.0; 4], usize::MAX, &[0, 1]).unwrap_err()), "Shape");
    for remap in [[1, 0], [0, 0], [0, 2], [1, NO_CODE]] {
        let mut table = [1.0, 2.0];
        assert_eq!(variant(&usage::compact(&mut table, 1, &remap).unwrap_err()), "CodeOutOfRange", "{remap:?}");
        assert_eq!(table, [1.0, 2.0]);
    }
    each_extent_is_checked("repack", [K, D], |[codes, dim]| {
        let mut book = PackedCodebook::new(mat(&paint(K * D, 1), K, D), Metric::L2).unwrap();
        let codebook = vec![1.0f32; codes * dim];
        book.repack(mat(&codebook, codes, dim)).and(book.repack_codes(mat(&codebook, codes, dim), &[0]))
    });
    each_extent_is_checked("seeds", [D], |[cols]| Seeds::new(K, D, 0)?.offer(mat(&vec![1.0; N * cols], N, cols)));
    each_extent_is_checked("kmeans", [D, N], |[cols, weights]| {
        let mut kmeans = KMeans::new(paint(K * D, 1), K, D, Metric::L2)?;
        let (x, weights) = (vec![1.0; N * cols], vec![1.0; weights]);
        let both = kmeans.accumulate(&cpu, mat(&x, N, cols), Some(&weights));
        both.and(kmeans.mini_batch(&cpu, mat(&x, N, cols), Some(&weights)))
    });
    assert_eq!(variant(&Seeds::new(2, 1, 0).unwrap().finish().unwrap_err()), "Shape");
    assert_eq!(variant(&Statistics::new(usize::MAX, 2, 0).unwrap_err()), "TooLarge");
    assert_eq!(variant(&Statistics::new(usize::MAX / 16 + 1, 1, 0).unwrap_err()), "TooLarge");
}

struct Restart {
    x_cols: usize,
    codes: usize,
    weights: usize,
    activity: usize,
    mean: (usize, usize),
    scratch: usize,
    rule: Rule,
    code: u32,
    weight: f32,
}

impl Restart {
    fn right() -> Self {
        let scratch = restart::scratch_len(N);
        Self {
            x_cols: D,
            codes: N,
            weights: N,
            activity: K,
            mean: (K, D),
            scratch,
            rule: Rule::default(),
            code: 0,
            weight: 1.0,
        }
    }

    fn call(&self) -> Result<Summary, Error> {
        let mut activity =
            Activity::new_in(vec![0.0f32; self.activity], vec![1.0f32; self.activity], vec![0.0f64; self.activity])?;
        activity.rows_seen = 1e9;
        let (x, mut codebook) = (paint(N * self.x_cols, 1), vec![77.0; K * D]);
        let mut mean = vec![77.0; self.mean.0 * self.mean.1];
        let mut log = [Restarted::default(); 2];
        let (mean_view, book_view) = (mat_mut(&mut mean, self.mean.0, self.mean.1), mat_mut(&mut codebook, K, D));
        let result = restart::restart(
            mat(&x, N, self.x_cols),
            &vec![self.code; self.codes],
            Some(&vec![self.weight; self.weights]),
            &self.rule,
            0,
            &mut activity,
            book_view,
            Some(mean_view),
            &mut vec![0; self.scratch],
            &mut log,
        );
        unchanged(result.clone(), &codebook, 77.0)?;
        unchanged(result.clone(), &mean, 77.0)?;
        result
    }
}

#[test]
fn restart_checks_every_extent_and_its_rule() {
    assert_eq!(Restart::right().call().map(|summary| summary.restarted), Ok(2));
    // Scratch may be longer than it needs to be.
    let short = Restart { scratch: restart::scratch_len(N) - 1, ..Restart::right() };
    assert_eq!(variant(&short.call().unwrap_err()), "Shape");
    assert!(Restart { scratch: restart::scratch_len(N) + 1, ..Restart::right() }.call().is_ok());
    let (right, scratch) = ([D, N, N, K, K, D], restart::scratch_len(N));
    each_extent_is_checked("restart", right, |[x_cols, codes, weights, activity, mean, mean_cols]| {
        Restart { x_cols, codes, weights, activity, mean: (mean, mean_cols), scratch, ..Restart::right() }
            .call()
            .map(|_| ())
    });
    for (share, patience) in [(-1.0, 8.0), (f64::NAN, 8.0), (0.1, -1.0), (0.1, f64::NAN)] {
        let rule = Rule { share, patience, seed: 0 };
        assert_eq!(variant(&Restart { rule, ..Restart::right() }.call().unwrap_err()), "Config", "{share} {patience}");
    }
    assert_eq!(variant(&Restart { code: K as u32, ..Restart::right() }.call().unwrap_err()), "CodeOutOfRange");
    assert_eq!(variant(&Restart { weight: f32::NAN, ..Restart::right() }.call().unwrap_err()), "Value");
}

/// `Activity`'s fields are public, so that their lengths may contradict each other.
#[test]
fn an_activity_of_unequal_lengths_is_refused() {
    for (exposure, last_seen) in [(K - 1, K), (K, K - 1)] {
        let activity = || Activity {
            cluster_size: vec![0.0f32; K],
            exposure: vec![1.0f32; exposure],
            last_seen: vec![0.0f64; last_seen],
            rows_seen: 1e9,
        };
        let restarted = std::panic::catch_unwind(|| {
            let (x, mut codebook) = (paint(N * D, 1), vec![77.0; K * D]);
            let (mut scratch, mut log) = (vec![0; restart::scratch_len(N)], [Restarted::default(); 2]);
            let book = mat_mut(&mut codebook, K, D);
            restart::restart(
                mat(&x, N, D),
                &[0; N],
                None,
                &Rule::default(),
                0,
                &mut activity(),
                book,
                None,
                &mut scratch,
                &mut log,
            )
        });
        assert!(
            matches!(restarted, Ok(Err(Error::Shape { .. }))),
            "restart with {exposure}, {last_seen}: {restarted:?}"
        );
        let observed = std::panic::catch_unwind(|| {
            let mut statistics = Statistics::new(K, D, 3).unwrap();
            statistics.accumulate(&Cpu::new(), mat(&paint(K * D, 1), K, D), &[0, 1, 2, 3, 4, 5, 6], None).unwrap();
            activity().observe(0.5, &statistics)
        });
        assert!(matches!(observed, Ok(Err(Error::Shape { .. }))), "observe with {exposure}, {last_seen}: {observed:?}");
    }
}

/// Extents whose product fits in a usize, but in no memory: refused rather than tried.
#[test]
fn shapes_beyond_memory_are_errors() {
    type Call = fn() -> Result<(), Error>;
    const HUGE: usize = 1 << (usize::BITS - 3);
    let calls: [(&str, Call); 3] = [
        ("inputs", || {
            Quantizer::new(Config { inputs: HUGE, dim: 1, codes: 1, ..Config::default() }, Initial::Normal).map(|_| ())
        }),
        ("source_dim", || {
            let learner = Learner::Projector { source_dim: HUGE };
            let config =
                Config { inputs: 1, dim: 1, codes: 1, learner, restart: None, factorize: false, ..Config::default() };
            Quantizer::new(config, Initial::Normal).map(|_| ())
        }),
        ("codes of statistics without dimensions", || Statistics::new(usize::MAX, 0, 0).map(|_| ())),
    ];
    for (what, call) in calls {
        let result = std::panic::catch_unwind(call);
        assert!(matches!(result, Ok(Err(Error::TooLarge { .. }))), "{what}: {result:?}");
    }
}

// -- values

#[test]
fn weights_outside_zero_to_one_are_refused_everywhere() {
    let cpu = Cpu::new();
    let (book, x) = (PackedCodebook::new(mat(&paint(K * D, 1), K, D), Metric::L2).unwrap(), paint(N * D, 2));
    let x = mat(&x, N, D);
    let mut quantizer = Quantizer::new(Config { inputs: D, codes: K, ..Config::default() }, Initial::Normal).unwrap();
    let mut kmeans = KMeans::new(paint(K * D, 1), K, D, Metric::L2).unwrap();
    for bad in [f32::NAN, -0.1, -f32::MIN_POSITIVE, 1.0 + f32::EPSILON, f32::INFINITY, f32::NEG_INFINITY] {
        let weights = [1.0, 0.0, bad, 0.5, 1.0];
        let w = Some(&weights[..]);
        let (mut codes, codes_out) = ([0u32; N], &mut [0u32; N]);
        let (mut dx, mut total) = ([0.0; N * D], SquaredError::default());
        let mut best = [Candidate::NONE; N];
        let results = [
            ops::search(&cpu, x, w, &book, &mut codes, None),
            ops::search_top(&cpu, x, w, &book, mat_mut(&mut best, N, 1)),
            ops::search_mth(&cpu, x, w, &book, 1, &mut codes, &mut [Candidate::NONE]),
            ema::exponent(x, &codes, w).map(|_| ()),
            Statistics::new(K, D, 3).unwrap().accumulate(&cpu, x, &codes, w).map(|_| ()),
            loss::squared_error(&cpu, x, x, &codes, w, &mut total),
            loss::squared_error_backward(&cpu, x, x, &codes, w, 1.0, mat_mut(&mut dx, N, D)),
            usage::count(&codes, w, &mut [0; K]),
            quantizer.encode(&cpu, x, w, codes_out),
            quantizer.train_step(&cpu, x, w, |_, _| panic!("refused before the head")).map(|_| ()),
            kmeans.accumulate(&cpu, x, w),
            kmeans.mini_batch(&cpu, x, w),
        ];
        for (i, result) in results.into_iter().enumerate() {
            match result {
                Err(Error::Value { arg: "weights", index: 2, .. }) => {}
                other => panic!("call {i} with weight {bad}: {other:?}"),
            }
        }
    }
}

#[test]
fn codes_that_do_not_exist_are_refused() {
    let (cpu, x, k) = (Cpu::new(), paint(3 * D, 2), K as u32);
    let bad = Error::CodeOutOfRange { op: "", row: 2, code: k, codes: K };
    let codes = [0, NO_CODE, k];
    #[track_caller]
    fn same_but_op(result: Result<(), Error>, expected: &Error) {
        match (result, expected) {
            (
                Err(Error::CodeOutOfRange { row, code, codes, .. }),
                Error::CodeOutOfRange { row: r, code: c, codes: k, .. },
            ) => {
                assert_eq!((row, code, codes), (*r, *c, *k));
            }
            (other, _) => panic!("{other:?}"),
        }
    }
    let (mut out, mut statistics, mut counts) = (vec![77.0; 3 * D], Statistics::new(K, D, 3).unwrap(), [0; K]);
    let codebook = paint(K * D, 1);
    let gathered = ops::gather(&cpu, &codes, mat(&codebook, K, D), mat_mut(&mut out, 3, D));
    same_but_op(unchanged(gathered, &out, 77.0), &bad);
    let gathered = ops::gather(&cpu, &[0u16, u16::MAX, K as u16], mat(&codebook, K, D), mat_mut(&mut out, 3, D));
    same_but_op(unchanged(gathered, &out, 77.0), &bad);
    let result = statistics.accumulate(&cpu, mat(&x, 3, D), &codes, None);
    same_but_op(unchanged(result, &[statistics.total()], 0.0), &bad);
    same_but_op(unchanged(usage::count(&codes, None, &mut counts), &counts, 0), &bad);
    let mut renumbered = codes;
    same_but_op(usage::renumber(&mut renumbered, &[4; K]), &bad);
    assert_eq!(renumbered, codes);
    let mut book = PackedCodebook::new(mat(&codebook, K, D), Metric::L2).unwrap();
    let before = book.lines().to_vec();
    same_but_op(book.repack_codes(mat(&[1.0f32; K * D], K, D), &[0, 1, k]), &bad);
    assert_eq!(bits(book.lines()), bits(&before), "nothing has been packed");
    let quantizer =
        Quantizer::new(Config { inputs: W, dim: D, codes: K, ..Config::default() }, Initial::Normal).unwrap();
    let mut out = vec![77.0; 3 * W];
    let result = quantizer.decode(&cpu, &codes, mat_mut(&mut out, 3, W));
    same_but_op(unchanged(result, &out, 77.0), &bad);
}

fn bits(lines: &[Line]) -> Vec<u32> {
    lines.iter().flat_map(|line| line.0).map(f32::to_bits).collect()
}

#[test]
fn decay_is_from_zero_up_to_but_not_one() {
    let (cpu, statistics) = (Cpu::new(), Statistics::new(1, 1, 0).unwrap());
    let mut activity = Activity::new_in(vec![0.0f32], vec![0.0f32], vec![0.0f64]).unwrap();
    for decay in [1.0, 1.5, -0.1, f64::NAN, f64::INFINITY] {
        let expected = "decay";
        let refused =
            |result: Result<(), Error>| matches!(result, Err(Error::Config { field, .. }) if field == expected);
        assert!(
            refused(ema::update_means(&cpu, decay, &statistics, &[0.0], mat_mut(&mut [0.0], 1, 1), None)),
            "{decay}"
        );
        assert!(refused(activity.observe(decay, &statistics)), "{decay}");
        assert!(refused(Quantizer::new(Config { decay, ..Config::default() }, Initial::Normal).map(|_| ())), "{decay}");
    }
    assert_eq!(activity.observe(0.0, &statistics), Ok(()));
    assert_eq!(ema::update_means(&cpu, 0.0, &statistics, &[0.0], mat_mut(&mut [0.0], 1, 1), None), Ok(()));
}

#[test]
fn elements_beyond_the_exponent_are_refused() {
    let (cpu, mut statistics) = (Cpu::new(), Statistics::new(1, 2, 0).unwrap());
    let refused = statistics.accumulate(&cpu, mat(&[0.5, 1.0, -1.0, 1.0001], 2, 2), &[0, 0], None);
    assert_eq!(
        refused,
        Err(Error::Value { op: "accumulate", arg: "x", index: 3, expected: "magnitudes up to 2^exponent" })
    );
    assert_eq!(statistics.total(), 0.0);
    // A row without a code, of weight zero or with an infinity does not count, whatever it holds.
    let x = mat(&[9.0, 9.0, 9.0, f32::INFINITY, 1.0, -1.0, 9.0, 9.0], 4, 2);
    assert_eq!(ema::exponent(x, &[NO_CODE, 0, 0, 0], Some(&[1.0, 1.0, 1.0, 0.0])), Ok(0));
    assert_eq!(statistics.accumulate(&cpu, x, &[NO_CODE, 0, 0, 0], Some(&[1.0, 1.0, 1.0, 0.0])), Ok(1));
    assert_eq!(statistics.sum(0).collect::<Vec<_>>(), [1.0, -1.0]);
    // So the index that is reported is that of a row that counts.
    let refused = statistics.accumulate(&cpu, mat(&[9.0, 9.0, 1.0, 2.0], 2, 2), &[NO_CODE, 0], None);
    assert_eq!(
        refused,
        Err(Error::Value { op: "accumulate", arg: "x", index: 3, expected: "magnitudes up to 2^exponent" })
    );
}

#[test]
fn statistics_of_other_exponents_do_not_merge() {
    let (mut a, b) = (Statistics::new(2, 1, 0).unwrap(), Statistics::new(2, 1, 1).unwrap());
    assert_eq!(variant(&a.merge(&b).unwrap_err()), "Config");
    assert_eq!(a, Statistics::new(2, 1, 0).unwrap());
}

// -- the quantizer's settings and state

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let base = Config { inputs: 6, dim: 3, codes: 5, ..Config::default() };
    let frozen = Config { learner: Learner::Frozen, ..base };
    let projector = Learner::Projector { source_dim: 4 };
    let cases: [(Config, &str, &str); 13] = [
        (Config { factorize: false, ..base }, "Config", "rows are wider than codes"),
        (Config { inputs: 0, ..base }, "Empty", "no inputs"),
        (Config { dim: 0, ..base }, "Empty", "no dimensions"),
        (Config { codes: 0, ..base }, "Empty", "no codes"),
        (Config { commitment_weight: -0.1, ..base }, "Config", "a negative weight"),
        (Config { commitment_weight: f64::NAN, ..base }, "Config", "a weight that is no number"),
        (Config { codebook_weight: f64::INFINITY, ..base }, "Config", "an infinite weight"),
        (frozen, "Config", "frozen codes are not restarted"),
        (Config { learner: projector, ..base }, "Config", "projected codes are not restarted"),
        (Config { learner: Learner::Projector { source_dim: 0 }, restart: None, ..base }, "Empty", "no source"),
        (Config { decay: 1.0, ..base }, "Config", "nothing is ever learned"),
        (Config { restart: Some(Rule { share: -1.0, ..Rule::default() }), ..base }, "Config", "a negative share"),
        (
            Config { restart: Some(Rule { patience: f64::NAN, ..Rule::default() }), ..base },
            "Config",
            "no number of hits",
        ),
    ];
    for (config, expected, why) in cases {
        let refused = Quantizer::new(config, Initial::Normal);
        assert_eq!(refused.map(|_| ()).map_err(|error| variant(&error)), Err(expected.to_string()), "{why}");
    }
    for learner in [Learner::Gradient, Learner::Ema, Learner::Frozen, projector] {
        let config = Config { learner, restart: None, ..base };
        let width = if learner == projector { 4 } else { 3 };
        assert!(Quantizer::new(config, Initial::Codes(vec![0.5; 5 * width])).is_ok());
        for wrong in [5 * width - 1, 5 * width + 1, 0] {
            assert_eq!(variant(&Quantizer::new(config, Initial::Codes(vec![0.5; wrong])).unwrap_err()), "Shape");
        }
        for bad in [f32::NAN, f32::INFINITY] {
            let mut codes = vec![0.5; 5 * width];
            codes[4] = bad;
            let refused = Quantizer::new(config, Initial::Codes(codes)).unwrap_err();
            assert!(matches!(refused, Error::Value { index: 4, .. }), "{refused:?}");
        }
    }
}

#[test]
fn the_quantizer_checks_every_extent() {
    let (cpu, config) = (Cpu::new(), Config { inputs: W, dim: D, codes: K, ..Config::default() });
    let new = || Quantizer::new(config, Initial::Normal).unwrap();
    each_extent_is_checked("encode", [W, N, N], |[cols, codes, weights]| {
        let (x, mut codes, weights) = (vec![1.0f32; N * cols], vec![77; codes], vec![1.0; weights]);
        unchanged(new().encode(&cpu, mat(&x, N, cols), Some(&weights), &mut codes), &codes, 77)
    });
    for factorize in [false, true] {
        let inputs = if factorize { W } else { D };
        let quantizer = Quantizer::new(Config { inputs, factorize, ..config }, Initial::Normal).unwrap();
        each_extent_is_checked("decode", [N, inputs], |[rows, cols]| {
            let mut out = vec![77.0; rows * cols];
            unchanged(quantizer.decode(&cpu, &[0; N], mat_mut(&mut out, rows, cols)), &out, 77.0)
        });
    }
    each_extent_is_checked("train_step", [W, N], |[cols, weights]| {
        let (mut quantizer, x) = (new(), vec![1.0; N * cols]);
        let before = format!("{:?}", quantizer.state());
        let result = quantizer.train_step(&cpu, mat(&x, N, cols), Some(&vec![1.0; weights]), |_, _| {});
        unchanged(result, &[format!("{:?}", quantizer.state())], before)
    });
    assert_eq!(variant(&new().update(&cpu).unwrap_err()), "Order");
    let mut quantizer = new();
    quantizer.train_step(&cpu, mat(&[1.0; N * W], N, W), None, |_, _| {}).unwrap();
    assert_eq!(variant(&quantizer.update(&cpu).unwrap_err()), "Order");
    // `backward` wants the rows that `forward` saw, and a gradient of their extents.
    let (ones, terms) = ([1.0; 2 * N * W], Loss::default());
    assert_eq!(variant(&new().backward(&cpu, mat(&ones[..N * W], N, W), &ones[..N * W], terms).unwrap_err()), "Order");
    each_extent_is_checked("backward", [N, W, N * W], |[rows, cols, len]| {
        let (mut quantizer, x) = (new(), vec![1.0; rows * cols]);
        quantizer.forward(&cpu, mat(&ones[..N * W], N, W), None).unwrap();
        let before = quantizer.last_input_gradient().to_vec();
        let result = quantizer.backward(&cpu, mat(&x, rows, cols), &vec![1.0; len], terms);
        unchanged(result, &[quantizer.last_input_gradient().to_vec()], before)
    });
    let mut quantizer = new();
    quantizer.forward(&cpu, mat(&ones[..N * W], N, W), None).unwrap();
    let infinite = Loss { codebook: f64::INFINITY, commitment: 0.0 };
    let refused = quantizer.backward(&cpu, mat(&ones[..N * W], N, W), &ones[..N * W], infinite);
    assert_eq!(variant(&refused.unwrap_err()), "Config");
}

#[test]
fn a_state_with_other_tensors_is_refused() {
    let config = Config { inputs: W, dim: D, codes: K, ..Config::default() };
    let quantizer = Quantizer::new(config, Initial::Normal).unwrap();
    let state = quantizer.state();
    let new = || Quantizer::new(Config { seed: 1, ..config }, Initial::Normal).unwrap();
    assert_eq!(new().restore_from(&state), Ok(()));
    let (long32, long64, longer) = (vec![0.0f32; 500], vec![0.0f64; 500], vec![0u64; 500]);
    for i in 0..state.len() {
        let mut others = state.clone();
        let (name, tensor) = others.remove(i);
        let config = |result| matches!(result, Err(Error::Config { field, .. }) if field == name);
        assert!(config(new().restore_from(&others)), "without {name}");
        let (mistyped, long) = match tensor {
            StateRef::F32(values) => {
                (StateRef::F64(&long64[..values.len()]), StateRef::F32(&long32[..values.len() + 1]))
            }
            StateRef::F64(values) => {
                (StateRef::U64(&longer[..values.len()]), StateRef::F64(&long64[..values.len() + 1]))
            }
            StateRef::U64(values) => {
                (StateRef::F32(&long32[..values.len()]), StateRef::U64(&longer[..values.len() + 1]))
            }
        };
        others.push((name, mistyped));
        assert!(config(new().restore_from(&others)), "{name} of another type");
        others.pop();
        others.push((name, long));
        let refused = new().restore_from(&others);
        assert!(matches!(refused, Err(Error::Shape { op: "restore", arg, .. }) if arg == name), "{name}: {refused:?}");
    }
    for bad in [f64::NAN, -1.0, f64::INFINITY] {
        let (values, mut others) = ([bad], state.clone());
        others.retain(|(name, _)| *name != "rows_seen");
        others.push(("rows_seen", StateRef::F64(&values)));
        assert_eq!(variant(&new().restore_from(&others).unwrap_err()), "Config", "{bad} rows seen");
    }
}

// -- what is not an error

#[test]
fn no_rows_are_no_error() {
    let cpu = Cpu::new();
    let none = || mat::<f32>(&[], 0, D);
    let book = PackedCodebook::new(mat(&paint(K * D, 1), K, D), Metric::L2).unwrap();
    ops::search(&cpu, none(), Some(&[]), &book, &mut [0u32; 0], Some(&mut [])).unwrap();
    ops::search_top(&cpu, none(), Some(&[]), &book, mat_mut(&mut [], 0, 3)).unwrap();
    ops::search_mth(&cpu, none(), Some(&[]), &book, 1, &mut [], &mut [Candidate::NONE]).unwrap();
    ops::gather(&cpu, &[0u32; 0], mat(&paint(K * D, 1), K, D), mat_mut(&mut [], 0, D)).unwrap();
    ops::gather(&cpu, &[NO_CODE], none(), mat_mut(&mut [9.0; D], 1, D)).unwrap();
    let weight = paint(W * D, 1);
    ops::project(&cpu, none(), mat(&weight, W, D), Some(&[1.0; W]), mat_mut(&mut [], 0, W)).unwrap();
    ops::project_backward_input(&cpu, mat(&[], 0, W), mat(&weight, W, D), mat_mut(&mut [], 0, D)).unwrap();
    let (mut dw, mut db) = ([3.0; W * D], [3.0; W]);
    ops::project_backward_weight(&cpu, mat(&[], 0, W), none(), mat_mut(&mut dw, W, D), Some(&mut db)).unwrap();
    assert_eq!((dw, db), ([3.0; W * D], [3.0; W]));
    ops::normalize(&cpu, none(), mat_mut(&mut [], 0, D), Some(&mut [])).unwrap();
    ops::normalize_backward(&cpu, none(), &[], none(), mat_mut(&mut [], 0, D)).unwrap();
    let mut total = SquaredError { sum: 2.0, weight: 1.0 };
    loss::squared_error(&cpu, none(), none(), &[], Some(&[]), &mut total).unwrap();
    assert_eq!((total, SquaredError::default().mean(D)), (SquaredError { sum: 2.0, weight: 1.0 }, 0.0));
    loss::squared_error_backward(&cpu, none(), none(), &[], Some(&[]), 1.0, mat_mut(&mut [], 0, D)).unwrap();
    loss::straight_through_backward(&cpu, &[], none(), mat_mut(&mut [], 0, D)).unwrap();
    loss::rotation_backward(&cpu, none(), none(), &[], none(), mat_mut(&mut [], 0, D)).unwrap();
    let mut statistics = Statistics::new(K, D, 0).unwrap();
    assert_eq!(statistics.accumulate(&cpu, none(), &[], Some(&[])), Ok(0));
    assert_eq!((statistics.total(), ema::exponent(none(), &[], None)), (0.0, Ok(-149)));
    usage::count(&[0u32; 0], Some(&[]), &mut []).unwrap();
    assert_eq!((usage::Usage::of(&[]).utilization(), usage::Usage::of(&[0, 0]).perplexity), (0.0, 0.0));
    let mut activity = Activity::new_in(vec![0.0f32; K], vec![0.0f32; K], vec![0.0f64; K]).unwrap();
    activity.rows_seen = 1e9;
    let (mut codebook, mut log) = (paint(K * D, 1), [Restarted::default(); K]);
    let (view, mut scratch) = (mat_mut(&mut codebook, K, D), vec![0; restart::scratch_len(0)]);
    let summary =
        restart::restart(none(), &[], None, &Rule::default(), 0, &mut activity, view, None, &mut scratch, &mut log);
    let summary = summary.unwrap();
    assert_eq!((summary.stale, summary.restarted), (K, 0));
    let mut seeds = Seeds::new(K, D, 0).unwrap();
    seeds.offer(none()).unwrap();
    assert!(seeds.is_empty());
    let mut kmeans = KMeans::new(paint(K * D, 1), K, D, Metric::L2).unwrap();
    kmeans.accumulate(&cpu, none(), None).unwrap();
    kmeans.mini_batch(&cpu, none(), None).unwrap();
    let pass = kmeans.finish_pass(&cpu).unwrap();
    assert_eq!((pass.rows, pass.empty, pass.refilled, pass.inertia), (0, K, 0, 0.0));
    assert_eq!(kmeans.centres().data(), paint(K * D, 1));
}

/// One small quantizer for each learner, with and without each fix.
fn quantizers() -> Vec<Quantizer> {
    let mut all = Vec::new();
    let learners = [Learner::Gradient, Learner::Ema, Learner::Frozen, Learner::Projector { source_dim: 5 }];
    for learner in learners {
        for (factorize, normalize) in [(false, false), (false, true), (true, false), (true, true)] {
            for estimator in [Estimator::StraightThrough, Estimator::Rotation] {
                let restart = matches!(learner, Learner::Gradient | Learner::Ema)
                    .then_some(Rule { patience: 1.0, ..Rule::default() });
                let config = Config {
                    inputs: if factorize { 6 } else { 4 },
                    dim: 4,
                    codes: 16,
                    learner,
                    factorize,
                    normalize,
                    restart,
                    estimator,
                    ..Config::default()
                };
                all.push(Quantizer::new(config, Initial::Normal).unwrap());
            }
        }
    }
    all
}

/// The floats of a state, as bits, with the tensors' names.
fn state_bits(quantizer: &Quantizer) -> Vec<(&'static str, Vec<u64>)> {
    let bits = |tensor: &StateRef<'_>| match tensor {
        StateRef::F32(values) => values.iter().map(|x| u64::from(x.to_bits())).collect(),
        StateRef::F64(values) => values.iter().map(|x| x.to_bits()).collect(),
        StateRef::U64(values) => values.to_vec(),
    };
    quantizer.state().iter().map(|(name, tensor)| (*name, bits(tensor))).collect()
}

#[track_caller]
fn assert_finite(quantizer: &Quantizer) {
    for (name, tensor) in quantizer.state() {
        let finite = match tensor {
            StateRef::F32(values) => values.iter().all(|x| x.is_finite()),
            StateRef::F64(values) => values.iter().all(|x| x.is_finite()),
            StateRef::U64(_) => true,
        };
        assert!(finite, "{name} has become infinite or NaN: {:?}", quantizer.config());
    }
}

/// A step with plain gradient descent; the head's gradient is that of the output's own square.
fn step(quantizer: &mut Quantizer, x: MatRef, weights: Option<&[f32]>) -> vq_kernels::quantizer::Report {
    let cpu = Cpu::new();
    let report = quantizer.train_step(&cpu, x, weights, |output, gradient| {
        gradient.iter_mut().zip(output.data()).for_each(|(g, y)| *g = 0.01 * y);
    });
    quantizer
        .apply(&cpu, |update| {
            update.values.iter_mut().zip(update.gradient).for_each(|(v, g)| *v -= 0.1 * g);
        })
        .unwrap();
    report.unwrap()
}

#[test]
fn a_step_of_no_rows_changes_nothing_but_the_counter() {
    for mut quantizer in quantizers() {
        let inputs = quantizer.config().inputs;
        let before = state_bits(&quantizer);
        let report = step(&mut quantizer, mat(&[], 0, inputs), Some(&[]));
        assert_eq!((report.rows, report.active, report.without_code, report.mean_norm), (0, 0, 0, 0.0));
        assert_eq!((report.loss.codebook, report.loss.commitment), (0.0, 0.0));
        let after = state_bits(&quantizer);
        assert!(before.iter().zip(&after).all(|(a, b)| a == b || a.0 == "step"), "{:?}", quantizer.config());
        quantizer.encode(&Cpu::new(), mat::<f32>(&[], 0, inputs), None, &mut []).unwrap();
        quantizer.decode(&Cpu::new(), &[], mat_mut(&mut [], 0, inputs)).unwrap();
    }
}

/// What the step before restarted is not told again: an optimizer would forget its moments twice.
#[test]
fn a_step_of_no_rows_restarts_nothing() {
    let rule = Rule { patience: 0.1, ..Rule::default() };
    // Not EMA, whose codes become the rows that hit them: then no row is a donor.
    let learner = Learner::Gradient;
    let shape = Config { inputs: 2, dim: 2, codes: 30, factorize: false, ..Config::default() };
    let mut quantizer = Quantizer::new(Config { learner, restart: Some(rule), ..shape }, Initial::Normal).unwrap();
    step(&mut quantizer, mat(&paint(2 * 5, 1), 5, 2), None);
    assert!(!quantizer.last_restarted().is_empty());
    assert_eq!(step(&mut quantizer, mat(&[], 0, 2), None).restart, Summary::default());
    assert!(quantizer.last_restarted().is_empty());
}

/// Gradients that were not applied are gone with the next step, even one of no rows, and with another state.
#[test]
fn gradients_are_those_of_the_last_step_or_none() {
    let shape = Config { inputs: 2, dim: 2, codes: 30, factorize: false, restart: None, ..Config::default() };
    let mut quantizer = Quantizer::new(Config { learner: Learner::Gradient, ..shape }, Initial::Normal).unwrap();
    let other = quantizer.clone();
    let visited = |quantizer: &Quantizer| {
        let mut count = 0;
        quantizer.gradients(|_, _, _| count += 1);
        count
    };
    let x = paint(2 * 5, 1);
    let pass = |quantizer: &mut Quantizer, x: MatRef| quantizer.train_step(&Cpu::new(), x, None, |_, _| {}).unwrap();
    pass(&mut quantizer, mat(&x, 5, 2));
    assert!(visited(&quantizer) > 0);
    pass(&mut quantizer, mat(&[], 0, 2));
    assert_eq!(visited(&quantizer), 0, "after a step of no rows");
    pass(&mut quantizer, mat(&x, 5, 2));
    quantizer.restore_from(&other.state()).unwrap();
    assert_eq!(visited(&quantizer), 0, "after a state was restored");
}

#[test]
fn a_full_count_stays_full() {
    let mut counts = [u64::MAX - 1, 0];
    assert_eq!(usage::count(&[0u32, 0, 0, 1], None, &mut counts), Ok(()));
    assert_eq!(counts, [u64::MAX, 1]);
}

#[test]
fn a_step_with_all_rows_masked_learns_nothing() {
    for mut quantizer in quantizers() {
        let inputs = quantizer.config().inputs;
        let before = state_bits(&quantizer);
        let x = paint(40 * inputs, 3);
        // The head's gradient at a masked row is the caller's to weigh: here it is none.
        let report = quantizer.train_step(&Cpu::new(), mat(&x, 40, inputs), Some(&[0.0; 40]), |_, _| {}).unwrap();
        quantizer
            .apply(&Cpu::new(), |update| {
                update.values.iter_mut().zip(update.gradient).for_each(|(v, g)| *v -= 0.1 * g);
            })
            .unwrap();
        assert_eq!((report.rows, report.active, report.without_code), (0, 0, 0));
        let after = state_bits(&quantizer);
        assert!(before.iter().zip(&after).all(|(a, b)| a == b || a.0 == "step"), "{:?}", quantizer.config());
        assert!(quantizer.last_codes().iter().all(|&code| code == NO_CODE));
        assert!(quantizer.last_input_gradient().iter().all(|&g| g == 0.0));
    }
}

#[test]
fn rows_that_are_not_finite_leave_the_others_and_all_parameters_alone() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for mut quantizer in quantizers() {
            let inputs = quantizer.config().inputs;
            let mut x = paint(40 * inputs, 3);
            let mut alone = quantizer.clone();
            step(&mut alone, mat(&x[2 * inputs..], 38, inputs), None);
            x[inputs - 1] = bad;
            x[inputs..2 * inputs].fill(bad);
            let report = step(&mut quantizer, mat(&x, 40, inputs), None);
            assert_eq!(quantizer.last_codes()[2..], alone.last_codes()[..], "codes of the other rows");
            // An infinite row has no direction, but it may have a nearest code under L2.
            if bad.is_nan() || quantizer.config().normalize {
                assert_eq!((report.rows, report.without_code), (38, 2), "{:?}", quantizer.config());
                assert_eq!(quantizer.last_codes()[..2], [NO_CODE; 2]);
                assert!(report.loss.commitment.is_finite() && report.mean_norm.is_finite());
                let others = &quantizer.last_input_gradient()[2 * inputs..];
                assert!(others.iter().all(|g| g.is_finite()));
            }
            assert_finite(&quantizer);
        }
    }
}

#[test]
fn masked_rows_may_hold_anything() {
    for mut quantizer in quantizers() {
        let inputs = quantizer.config().inputs;
        let (mut x, mut weights) = (paint(40 * inputs, 3), [1.0; 40]);
        x[..inputs].fill(f32::NAN);
        weights[0] = 0.0;
        let report = step(&mut quantizer, mat(&x, 40, inputs), Some(&weights));
        assert_eq!((report.rows, report.without_code), (39, 0));
        assert_finite(&quantizer);
    }
}

#[test]
fn nan_scores_never_win_and_infinite_ones_compare() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let cases: [(&[f32], f32, Metric, u32, &str); 12] = [
        (&[nan, 1.0], 1.0, Metric::L2, 1, "a NaN code before another"),
        (&[1.0, nan], -5.0, Metric::Cosine, 0, "a NaN code after another"),
        (&[nan, nan], 1.0, Metric::L2, NO_CODE, "NaN codes only"),
        (&[nan], 1.0, Metric::Cosine, NO_CODE, "a NaN code only"),
        (&[1.0, 2.0], nan, Metric::L2, NO_CODE, "a NaN row"),
        (&[-1.0, 2.0], inf, Metric::Cosine, 1, "+inf beats −inf"),
        (&[-1.0, -2.0], inf, Metric::Cosine, 0, "−inf beats none"),
        (&[0.0, -2.0], inf, Metric::Cosine, 1, "0 · inf is NaN, so −inf wins"),
        (&[0.0], inf, Metric::Cosine, NO_CODE, "0 · inf only"),
        (&[-1.0, -1.0, -1.0], -inf, Metric::L2, 0, "equal infinite scores"),
        (&[5.0, 5.0, 5.0], 1.0, Metric::L2, 0, "duplicates only"),
        (&[2.0, -0.0, 0.0], 0.0, Metric::L2, 1, "−0 and +0 are one code"),
    ];
    for cpu in common::cpus() {
        for (codebook, x, metric, expected, why) in cases {
            let book = PackedCodebook::new(mat(codebook, codebook.len(), 1), metric).unwrap();
            let (mut codes, mut scores, mut best) = ([7u32], [7.0], [Candidate::NONE]);
            ops::search(&cpu, mat(&[x], 1, 1), None, &book, &mut codes, Some(&mut scores)).unwrap();
            ops::search_top(&cpu, mat(&[x], 1, 1), None, &book, mat_mut(&mut best, 1, 1)).unwrap();
            assert_eq!((codes[0], best[0].code), (expected, expected), "{why}, {:?}", cpu.isa());
            assert_eq!(scores[0].is_nan(), expected == NO_CODE, "{why}, {:?}", cpu.isa());
        }
    }
}

#[test]
fn rows_without_direction_and_value_pass_through_every_op() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let rows: [([f32; 2], &str); 6] = [
        ([0.0, 0.0], "zero"),
        ([nan, 1.0], "NaN"),
        ([inf, 1.0], "inf"),
        ([-inf, inf], "two infinities"),
        ([f32::MAX, f32::MAX], "whose square overflows"),
        ([1e-45, 0.0], "subnormal"),
    ];
    let (cpu, codes) = (Cpu::new(), [0, NO_CODE]);
    for (row, why) in rows {
        let x = [row, [0.6, 0.8]].concat();
        let (mut y, mut norms, mut dx) = ([9.0; 4], [9.0; 2], [0.0; 4]);
        ops::normalize(&cpu, mat(&x, 2, 2), mat_mut(&mut y, 2, 2), Some(&mut norms)).unwrap();
        let finite = row.iter().all(|x| x.is_finite());
        assert_eq!(y[..2].iter().all(|y| y.is_finite()), finite, "{why}");
        assert!(y[2..].iter().all(|y| y.is_finite()), "{why}");
        ops::normalize_backward(&cpu, mat(&y, 2, 2), &norms, mat(&[1.0; 4], 2, 2), mat_mut(&mut dx, 2, 2)).unwrap();
        let q = [0.0, 1.0, 0.0, 0.0];
        loss::rotation_backward(
            &cpu,
            mat(&x, 2, 2),
            mat(&q, 2, 2),
            &codes,
            mat(&[1.0; 4], 2, 2),
            mat_mut(&mut dx, 2, 2),
        )
        .unwrap();
        if !finite || row == [0.0, 0.0] {
            assert_eq!(dx, [1.0, 1.0, 0.0, 0.0], "{why}: straight through, and nothing without a code");
        }
        let mut statistics = Statistics::new(1, 2, 128).unwrap();
        assert_eq!(statistics.accumulate(&cpu, mat(&x, 2, 2), &codes, None), Ok(usize::from(!finite)), "{why}");
        let mut seeds = Seeds::new(2, 2, 0).unwrap();
        seeds.offer(mat(&x, 2, 2)).unwrap();
        assert_eq!(seeds.len(), 1 + usize::from(finite), "{why}");
        let mut kmeans = KMeans::new(unit_rows(3, 2, 1), 3, 2, Metric::L2).unwrap();
        kmeans.accumulate(&cpu, mat(&x, 2, 2), None).unwrap();
        kmeans.finish_pass(&cpu).unwrap();
        assert!(kmeans.centres().data().iter().all(|c| c.is_finite()), "{why}");
    }
}

/// A row without a code gets no gradient, whatever arrives from the head.
#[test]
fn estimators_ignore_the_gradient_of_rows_without_a_code() {
    let (cpu, x, gradient) = (Cpu::new(), [1.0, 2.0], [f32::NAN, f32::INFINITY]);
    let (x, gradient) = (mat(&x, 1, 2), mat(&gradient, 1, 2));
    let mut dx = [9.0; 2];
    loss::straight_through_backward(&cpu, &[NO_CODE], gradient, mat_mut(&mut dx, 1, 2)).unwrap();
    assert_eq!(dx, [0.0; 2]);
    loss::rotation_backward(&cpu, x, x, &[NO_CODE], gradient, mat_mut(&mut dx, 1, 2)).unwrap();
    assert_eq!(dx, [0.0; 2]);
}
