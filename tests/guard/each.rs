//! The ops, on buffers in a [`Place`].

use half::f16;
use vq_kernels::ops::ema::{self, Activity, Statistics};
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::ops::restart::{Restarted, Rule, restart, scratch_len};
use vq_kernels::ops::{self, Search, search::Candidate, usage};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Element, Line, Metric, NO_CODE, PackedCodebook, Packing};

use super::common::{mat, mat_mut, paint, unit_rows};
use super::place::{Place, Written};

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub rows: usize,
    pub codes: usize,
    pub dim: usize,
}

/// All dimensions up to two rounds of 32 lanes and three; rows and codes around tiles, panels of 64 and groups of 256.
pub fn shapes() -> impl Iterator<Item = Shape> {
    let small = (1..=67).map(|dim| Shape { rows: 1 + dim * 5 % 9, codes: 1 + dim * 37 % 131, dim });
    let rows = (1..=15).map(|rows| Shape { rows, codes: 66 - rows, dim: 1 + rows * 3 % 10 });
    let wide = [(97, 257, 5), (130, 300, 8), (127, 513, 3), (3, 65, 257), (6, 64, 769), (2, 3, 4096)];
    small.chain(rows).chain(wide.map(|(rows, codes, dim)| Shape { rows, codes, dim }))
}

/// Codes of rows, one in seven of which has none.
fn row_codes(rows: usize, codes: usize) -> Vec<u32> {
    let mut rng = Rng::new(5, 5);
    (0..rows).map(|row| if row % 7 == 3 { NO_CODE } else { rng.below(codes as u64) as u32 }).collect()
}

fn row_weights(rows: usize) -> Vec<f32> {
    (0..rows).map(|row| [1.0, 0.5, 0.0, 0.25][row % 4]).collect()
}

pub fn searches<E: Element>(cpu: &Cpu, shape: Shape, place: Place, to: impl Fn(f32) -> E, written: &mut Written) {
    let Shape { rows, codes: k, dim } = shape;
    let x: Vec<E> = paint(rows * dim, 1).into_iter().map(&to).collect();
    let (x, weights) = (place.input(&x), place.input(&row_weights(rows)));
    let (x, weights) = (mat(&x[..], rows, dim), Some(&weights[..]));
    let book = unit_rows(k, dim, 2);
    for (metric, packing) in [
        (Metric::Cosine, Packing::Int8),
        (Metric::L2, Packing::Int8),
        (Metric::Cosine, Packing::Caps),
        (Metric::Cosine, Packing::Adaptive),
        (Metric::Cosine, Packing::Bf16),
        (Metric::L2, Packing::Bf16),
        (Metric::L2, Packing::F32),
    ] {
        let len = PackedCodebook::lines_len(k, dim, metric, packing);
        let plain = place.input(&book);
        let lines = place.output(Line([0.0; 16]), len);
        let mut packed = PackedCodebook::pack_into(mat(&plain[..], k, dim), metric, packing, lines).unwrap();
        packed.repack_codes(mat(&plain[..], k, dim), &place.input(&[0, k as u32 - 1])).unwrap();
        packed.prepare(cpu, x).unwrap();
        // What is searched cannot be written to.
        let packed = PackedCodebook::from_lines(place.input(packed.lines()), k, dim, metric, packing).unwrap();
        for search in [Search::F32, Search::Coarse, Search::Pruned] {
            let cpu = cpu.with_search(search);
            for weights in [None, weights] {
                let (mut codes, mut scores) = (place.output(7u32, rows), place.output(7.0f32, rows));
                ops::search(&cpu, x, weights, &packed, &mut codes[..], Some(&mut scores)).unwrap();
                written.ints(&codes);
                written.f32(&scores);
                let mut short = place.output(7u16, rows);
                ops::search(&cpu, x, weights, &packed, &mut short[..], None).unwrap();
                written.ints(&short);
            }
        }
        let m = k.min(5);
        let mut best = place.output(Candidate::NONE, rows * m);
        ops::search_top(cpu, x, weights, &packed, mat_mut(&mut best, rows, m)).unwrap();
        written.best(&best);
        for scratch in [m, m * rows] {
            let (mut codes, mut scratch) = (place.output(7, rows), place.output(Candidate::NONE, scratch));
            ops::search_mth(cpu, x, None, &packed, m, &mut codes, &mut scratch).unwrap();
            written.ints(&codes);
        }
        let (mut codes, mut scores) = (place.output(7u32, rows), place.output(7.0f32, rows));
        ops::search_unpacked(cpu, x, weights, mat(&plain[..], k, dim), metric, &mut codes[..], Some(&mut scores))
            .unwrap();
        written.ints(&codes);
        written.f32(&scores);
    }
    let (mut y, mut norms) = (place.output(9.0, rows * dim), place.output(9.0, rows));
    ops::normalize(cpu, x, mat_mut(&mut y, rows, dim), Some(&mut norms)).unwrap();
    written.f32(&y);
    written.f32(&norms);
    let (weight, bias) = (place.input(&paint(k * dim, 3)), place.input(&paint(k, 4)));
    for bias in [None, Some(&bias[..])] {
        let mut y = place.output(9.0, rows * k);
        ops::project(cpu, x, mat(&weight[..], k, dim), bias, mat_mut(&mut y, rows, k)).unwrap();
        written.f32(&y);
    }
}

pub fn fixed(cpu: &Cpu, shape: Shape, place: Place, written: &mut Written) {
    let Shape { rows, codes: k, dim } = shape;
    let (x, book) = (place.input(&paint(rows * dim, 1)), place.input(&paint(k * dim, 2)));
    let weights = place.input(&row_weights(rows));
    for metric in [Metric::Cosine, Metric::L2] {
        let (mut codes, mut scores) = (place.output(7u32, rows), place.output(7i64, rows));
        let (mut q7, mut q7_book) = (place.output(0i8, rows * dim), place.output(0i8, k * dim));
        ops::to_fixed(cpu, mat(&x[..], rows, dim), 40.0, mat_mut(&mut q7, rows, dim)).unwrap();
        ops::to_fixed(cpu, mat(&book[..], k, dim), 40.0, mat_mut(&mut q7_book, k, dim)).unwrap();
        let (x, book) = (mat(&q7[..], rows, dim), mat(&q7_book[..], k, dim));
        ops::search_fixed(cpu, x, Some(&weights), book, metric, &mut codes[..], Some(&mut scores)).unwrap();
        written.ints(&codes);
        written.ints(&scores);
    }
    for metric in [Metric::Cosine, Metric::L2] {
        let (mut codes, mut scores) = (place.output(7u16, rows), place.output(7i64, rows));
        let (mut q15, mut q15_book) = (place.output(0i16, rows * dim), place.output(0i16, k * dim));
        ops::to_fixed(cpu, mat(&x[..], rows, dim), 9e3, mat_mut(&mut q15, rows, dim)).unwrap();
        ops::to_fixed(cpu, mat(&book[..], k, dim), 9e3, mat_mut(&mut q15_book, k, dim)).unwrap();
        let (x, book) = (mat(&q15[..], rows, dim), mat(&q15_book[..], k, dim));
        ops::search_fixed(cpu, x, Some(&weights), book, metric, &mut codes[..], Some(&mut scores)).unwrap();
        written.ints(&codes);
        written.ints(&scores);
    }
}

pub fn backwards(cpu: &Cpu, shape: Shape, place: Place, written: &mut Written) {
    let Shape { rows, codes: k, dim } = shape;
    let unit = unit_rows(rows, dim, 6);
    let (y, norms) =
        (place.input(&unit), place.input(&paint(rows, 7).iter().map(|x| x.abs() + 0.1).collect::<Vec<_>>()));
    let (dy, mut dx) = (place.input(&paint(rows * dim, 8)), place.output(9.0, rows * dim));
    let (y, dy) = (mat(&y[..], rows, dim), mat(&dy[..], rows, dim));
    ops::normalize_backward(cpu, y, &norms, dy, mat_mut(&mut dx, rows, dim)).unwrap();
    written.f32(&dx);

    let (weight, g) = (place.input(&paint(k * dim, 9)), place.input(&paint(rows * k, 10)));
    let (weight, g) = (mat(&weight[..], k, dim), mat(&g[..], rows, k));
    ops::project_backward_input(cpu, g, weight, mat_mut(&mut dx, rows, dim)).unwrap();
    written.f32(&dx);
    let (mut dw, mut db) = (place.output(0.5f64, k * dim), place.output(0.5f64, k));
    ops::project_backward_weight(cpu, g, y, mat_mut(&mut dw, k, dim), Some(&mut db)).unwrap();
    written.f64(&dw);
    written.f64(&db);

    let (codes, weights) = (place.input(&row_codes(rows, k)), place.input(&row_weights(rows)));
    let (book, mut quantized) = (place.input(&unit_rows(k, dim, 11)), place.output(9.0, rows * dim));
    ops::gather(cpu, &codes[..], mat(&book[..], k, dim), mat_mut(&mut quantized, rows, dim)).unwrap();
    written.f32(&quantized);
    let short = place.input(&codes.iter().map(|&code| code as u16).collect::<Vec<_>>());
    let mut halves = place.output(f16::ONE, rows * dim);
    let half_book = place.input(&book.iter().map(|&c| f16::from_f32(c)).collect::<Vec<_>>());
    ops::gather(cpu, &short[..], mat(&half_book[..], k, dim), mat_mut(&mut halves, rows, dim)).unwrap();
    written.f32(&halves.iter().map(|h| h.to_f32()).collect::<Vec<_>>());
    let quantized = place.input(&quantized);
    let q = mat(&quantized[..], rows, dim);
    for weights in [None, Some(&weights[..])] {
        let mut total = SquaredError::default();
        loss::squared_error(cpu, y, q, &codes, weights, &mut total).unwrap();
        written.f64(&[total.sum, total.weight]);
        loss::squared_error_backward(cpu, y, q, &codes, weights, 0.7, mat_mut(&mut dx, rows, dim)).unwrap();
        written.f32(&dx);
    }
    loss::rotation_backward(cpu, y, q, &codes, dy, mat_mut(&mut dx, rows, dim)).unwrap();
    written.f32(&dx);
    loss::straight_through_backward(cpu, &codes, dy, mat_mut(&mut dx, rows, dim)).unwrap();
    written.f32(&dx);
}

pub fn statistics(cpu: &Cpu, shape: Shape, place: Place, written: &mut Written) {
    let Shape { rows, codes: k, dim } = shape;
    let (x, codes) = (place.input(&paint(rows * dim, 12)), place.input(&row_codes(rows, k)));
    let (x, weights) = (mat(&x[..], rows, dim), place.input(&row_weights(rows)));
    let exponent = ema::exponent(x, &codes, None).unwrap();
    let empty = || Statistics::new_in(place.output(0i64, k), place.output(0i64, k * dim), dim, exponent).unwrap();
    let (mut statistics, mut other) = (empty(), empty());
    for weights in [None, Some(&weights[..])] {
        statistics.accumulate(cpu, x, &codes, weights).unwrap();
        other.accumulate(cpu, x, &codes, weights).unwrap();
    }
    statistics.merge(&other).unwrap();
    statistics.coarsen(exponent + 3);
    written.ints(statistics.as_parts().0);
    written.ints(statistics.as_parts().1);

    let activity =
        || Activity::new_in(place.output(0.0f32, k), place.output(0.0f32, k), place.output(0.0f64, k)).unwrap();
    let mut activity = activity();
    activity.observe(0.9, &statistics).unwrap();
    let (mut mean, mut direction) = (place.state(&paint(k * dim, 13)), place.output(9.0, k * dim));
    let (to_mean, to_direction) = (mat_mut(&mut mean, k, dim), Some(mat_mut(&mut direction, k, dim)));
    ema::update_means(cpu, 0.9, &statistics, &activity.cluster_size, to_mean, to_direction).unwrap();
    written.f32(&mean);
    written.f32(&direction);

    activity.rows_seen += 20.0 * k as f64;
    let rule = Rule { patience: 1.0, ..Rule::default() };
    let mut scratch = place.output(9u32, scratch_len(rows));
    let mut log = place.output(Restarted::default(), rows);
    let (book, mean) = (mat_mut(&mut direction, k, dim), Some(mat_mut(&mut mean, k, dim)));
    let summary =
        restart(x, &codes, Some(&weights), &rule, 3, &mut activity, book, mean, &mut scratch, &mut log).unwrap();
    written.counts(&[summary.stale as u64, summary.restarted as u64]);
    written.f32(&direction);

    let (mut counts, mut remap) = (place.output(0u64, k), place.output(7u32, k));
    usage::count(&codes[..], Some(&weights), &mut counts).unwrap();
    usage::prune(&counts, 1, &mut remap).unwrap();
    usage::compact(&mut direction, dim, &remap).unwrap();
    let mut codes = place.state(&codes);
    usage::renumber(&mut codes, &remap).unwrap();
    written.counts(&counts);
    written.ints(&codes);
}
