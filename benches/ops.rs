//! Every op × instruction set × shape: `cargo bench --bench ops`. Each result is checked before it is timed.

#![allow(missing_docs, reason = "criterion's macros")]

use core::hint::black_box;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vq_kernels::ops::ema::Statistics;
use vq_kernels::ops::{self, Search, loss, search};
use vq_kernels::quantizer::{Config, Initial, Quantizer};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Isa, MatMut, MatRef, Metric, PackedCodebook, Packing};

fn unit_rows(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 0);
    let raw: Vec<f32> = (0..rows * dim).map(|_| rng.normal()).collect();
    let mut unit = vec![0.0; raw.len()];
    ops::normalize(&Cpu::new(), mat(&raw, rows, dim), MatMut::new(&mut unit, rows, dim).unwrap(), None).unwrap();
    unit
}

fn mat(data: &[f32], rows: usize, cols: usize) -> MatRef<'_> {
    MatRef::new(data, rows, cols).unwrap()
}

/// The vector tiers: scalar, with its software FMA, would take minutes.
fn tiers() -> impl Iterator<Item = Isa> {
    Isa::available().filter(|isa| *isa != Isa::SCALAR)
}

fn searches(c: &mut Criterion) {
    let mut group = c.benchmark_group("search");
    for (rows, codes, dim) in
        [(1, 100_000, 8), (1, 100_000, 32), (1024, 16_384, 8), (1024, 16_384, 32), (384, 16_384, 256)]
    {
        let (x, book) = (unit_rows(rows, dim, 1), unit_rows(codes, dim, 2));
        let packed = PackedCodebook::with_packing(mat(&book, codes, dim), Metric::Cosine, Packing::Bf16).unwrap();
        let mut expected = [0u32];
        search::reference(mat(&x[..dim], 1, dim), mat(&book, codes, dim), Metric::Cosine, &mut expected, None);
        group.throughput(Throughput::Elements((rows * codes) as u64));
        let ways = [("f32", Search::F32), ("coarse", Search::Coarse)];
        for (isa, (way, search)) in tiers().flat_map(|isa| ways.map(|way| (isa, way))) {
            let (cpu, mut found) = (Cpu::with_isa(isa).with_search(search), vec![0u32; rows]);
            ops::search(&cpu, mat(&x, rows, dim), None, &packed, &mut found, None).unwrap();
            assert_eq!(found[0], expected[0]);
            let id = BenchmarkId::new(format!("{}/{way}", isa.name()), format!("{rows}x{codes}x{dim}"));
            group.bench_function(id, |b| {
                b.iter(|| ops::search(&cpu, black_box(mat(&x, rows, dim)), None, &packed, &mut found, None).unwrap());
            });
        }
    }
    group.finish();
}

fn packings(c: &mut Criterion) {
    let mut group = c.benchmark_group("pack");
    group.sample_size(10);
    for (codes, dim) in [(16_384, 8), (100_000, 8), (100_000, 32)] {
        let book = unit_rows(codes, dim, 2);
        let book = mat(&book, codes, dim);
        group.throughput(Throughput::Elements(codes as u64));
        for packing in [Packing::F32, Packing::Int8, Packing::Bf16, Packing::Caps] {
            let mut packed = PackedCodebook::with_packing(book, Metric::Cosine, packing).unwrap();
            group.bench_function(BenchmarkId::new(format!("{packing:?}"), format!("{codes}x{dim}")), |b| {
                b.iter(|| packed.repack(black_box(book)).unwrap());
            });
            let changed: Vec<u32> = (0..1000).map(|i| i * 16).collect();
            group.bench_function(
                BenchmarkId::new(format!("{packing:?}, 1,000 codes"), format!("{codes}x{dim}")),
                |b| {
                    b.iter(|| packed.repack_codes(book, black_box(&changed)).unwrap());
                },
            );
        }
    }
    group.finish();
}

fn row_ops(c: &mut Criterion) {
    const ROWS: usize = 1024;
    for isa in tiers() {
        let cpu = Cpu::with_isa(isa);
        let mut group = c.benchmark_group(format!("rows/{}", isa.name()));
        group.throughput(Throughput::Elements(ROWS as u64));
        for dim in [8, 32, 256] {
            let (x, q) = (unit_rows(ROWS, dim, 3), unit_rows(ROWS, dim, 4));
            let (mut y, mut norms) = (vec![0.0; x.len()], vec![0.0; ROWS]);
            let codes: Vec<u32> = (0..ROWS as u32).map(|i| i % 700).collect();
            group.bench_function(BenchmarkId::new("normalize", dim), |b| {
                b.iter(|| {
                    let y = MatMut::new(&mut y, ROWS, dim).unwrap();
                    ops::normalize(&cpu, black_box(mat(&x, ROWS, dim)), y, Some(&mut norms)).unwrap();
                });
            });
            group.bench_function(BenchmarkId::new("squared_error", dim), |b| {
                b.iter(|| {
                    let (mut total, x) = (loss::SquaredError::default(), black_box(mat(&x, ROWS, dim)));
                    loss::squared_error(&cpu, x, mat(&q, ROWS, dim), &codes, None, &mut total).unwrap();
                    total
                });
            });
            let mut statistics = Statistics::new(700, dim, 0).unwrap();
            group.bench_function(BenchmarkId::new("accumulate", dim), |b| {
                b.iter(|| {
                    statistics.clear(0);
                    statistics.accumulate(&cpu, black_box(mat(&x, ROWS, dim)), &codes, None).unwrap()
                });
            });
        }
        for (inputs, outputs) in [(768, 32), (768, 8), (32, 768), (8, 768)] {
            let (x, w, dy) = (unit_rows(ROWS, inputs, 5), unit_rows(outputs, inputs, 6), unit_rows(ROWS, outputs, 7));
            let (x, w, dy) = (mat(&x, ROWS, inputs), mat(&w, outputs, inputs), mat(&dy, ROWS, outputs));
            let shape = format!("{inputs}to{outputs}");
            let (mut y, mut dx, mut dw) =
                (vec![0.0; ROWS * outputs], vec![0.0; ROWS * inputs], vec![0.0; outputs * inputs]);
            group.bench_function(BenchmarkId::new("project", &shape), |b| {
                b.iter(|| {
                    ops::project(&cpu, black_box(x), w, None, MatMut::new(&mut y, ROWS, outputs).unwrap()).unwrap()
                });
            });
            group.bench_function(BenchmarkId::new("project_dx", &shape), |b| {
                b.iter(|| {
                    ops::project_backward_input(&cpu, black_box(dy), w, MatMut::new(&mut dx, ROWS, inputs).unwrap())
                        .unwrap()
                });
            });
            group.bench_function(BenchmarkId::new("project_dw", &shape), |b| {
                b.iter(|| {
                    let dw = MatMut::new(&mut dw, outputs, inputs).unwrap();
                    ops::project_backward_weight(&cpu, black_box(dy), x, dw, None).unwrap();
                });
            });
        }
        group.finish();
    }
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    group.sample_size(10);
    let (rows, codes) = (1024, 16_384);
    for dim in [8, 32] {
        let x = unit_rows(rows, dim, 8);
        let config = Config { inputs: dim, dim, codes, factorize: false, ..Config::default() };
        group.throughput(Throughput::Elements(rows as u64));
        for isa in tiers() {
            let (cpu, mut quantizer) = (Cpu::with_isa(isa), Quantizer::new(config, Initial::Normal).unwrap());
            group.bench_function(BenchmarkId::new(isa.name(), format!("{rows}x{codes}x{dim}")), |b| {
                b.iter(|| quantizer.train_step(&cpu, black_box(mat(&x, rows, dim)), None, |_, _| {}).unwrap());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, searches, packings, row_ops, steps);
criterion_main!(benches);
