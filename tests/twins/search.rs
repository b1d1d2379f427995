//! `search` on every path: f16 coarse pass with the worst errors that the certificate allows, f32 pass, reference.

use vq_kernels::cuda::{DeviceMatRef, DeviceMut, PackedDeviceCodebook, Queue, ops as gpu_ops};
use vq_kernels::ops::Search;
use vq_kernels::{Code, Cpu, Element, Error, Metric, PackedCodebook, Packing, ops};

use crate::common::{assert_same_bits, grid, mat, paint, unit_rows};
use crate::normalize::hostile;
use crate::support::{Gpu, refused};
use crate::vm::MmaError;

/// A codebook on both sides.
struct Both {
    cpu: PackedCodebook<Vec<vq_kernels::Line>>,
    gpu: PackedDeviceCodebook<'static>,
    dim: usize,
}

impl Both {
    fn new(gpu: &Gpu, values: &[f32], codes: usize, dim: usize, metric: Metric) -> Self {
        let cpu = PackedCodebook::with_packing(mat(values, codes, dim), metric, Packing::F32).expect("a codebook");
        let storage = gpu.room(PackedDeviceCodebook::storage_len(codes, dim, metric).expect("a shape"));
        let gpu = PackedDeviceCodebook::pack(gpu, gpu.mat(values, codes, dim), metric, storage).expect("a codebook");
        Self { cpu, gpu, dim }
    }

    /// Codes and scores by every way are the CPU's.
    fn same<E: Element + bytemuck::Pod>(&self, gpu: &Gpu, x: &[E], weights: Option<&[f32]>, context: &str) {
        let rows = x.len() / self.dim;
        let (mut codes, mut scores) = (vec![0u32; rows], vec![0.0; rows]);
        let cpu = Cpu::new().with_search(Search::F32);
        ops::search(&cpu, mat(x, rows, self.dim), weights, &self.cpu, &mut codes, Some(&mut scores)).expect("shapes");
        let (x, device_weights) = (gpu.mat(x, rows, self.dim), weights.map(|w| gpu.slice(w)));
        for way in [Search::Coarse, Search::F32, Search::Auto] {
            let (mut found, mut found_scores) = (gpu.room::<u32>(rows), gpu.room(rows));
            let mut workspace = gpu.room(gpu_ops::search_workspace_len(gpu, rows, &self.gpu));
            gpu_ops::search(
                gpu,
                &x,
                device_weights.as_ref(),
                &self.gpu,
                &mut found,
                Some(&mut found_scores),
                way,
                &mut workspace,
            )
            .expect("shapes");
            assert_eq!(gpu.read(&found), codes, "{context}, {way:?}");
            assert_same_bits(&gpu.read(&found_scores), &scores, &format!("{context}, {way:?}"));
        }
    }
}

/// `x` `[rows, dim]` among `values` `[codes, dim]`, by every way.
pub fn every_way(gpu: &Gpu, (x, values): (&[f32], &[f32]), codes: usize, dim: usize, metric: Metric, context: &str) {
    Both::new(gpu, values, codes, dim, metric).same(gpu, x, None, context);
}

const DIMS: [usize; 12] = [1, 3, 8, 9, 16, 20, 32, 40, 64, 65, 100, 256];

#[test]
fn random_unit_rows_and_codes() {
    for (i, dim) in DIMS.into_iter().enumerate() {
        let gpu = Gpu::new(MmaError::Worst { seed: i as u64 }, [1, 3, 16][i % 3]);
        for (rows, codes) in [(1, 1), (37, 300), (530, 70)] {
            for metric in [Metric::Cosine, Metric::L2] {
                let values = unit_rows(codes, dim, 11);
                let both = Both::new(&gpu, &values, codes, dim, metric);
                let mut x = unit_rows(rows, dim, 12);
                // Some rows are codes.
                x[..dim].copy_from_slice(&values[(codes / 2) * dim..][..dim]);
                both.same(&gpu, &x, None, &format!("{rows} x {codes} x {dim}, {metric:?}"));
            }
        }
    }
}

#[test]
fn ties_duplicates_and_clusters() {
    let gpu = Gpu::default();
    for dim in [2, 8, 16, 33, 70] {
        for metric in [Metric::Cosine, Metric::L2] {
            // Sums are exact, and many codes are equal: the lowest must win.
            let values = grid(600 * dim, 5, 3);
            let both = Both::new(&gpu, &values, 600, dim, metric);
            both.same(&gpu, &grid(100 * dim, 6, 3), None, &format!("grid, {dim}, {metric:?}"));
            // One code 600 times, and a cluster far narrower than f16 can tell apart.
            let one = unit_rows(1, dim, 7).repeat(600);
            Both::new(&gpu, &one, 600, dim, metric).same(&gpu, &unit_rows(50, dim, 8), None, "one code");
            let noise = paint(one.len(), 9);
            let cluster: Vec<f32> = one.iter().zip(&noise).map(|(c, n)| c + n * 1e-5).collect();
            Both::new(&gpu, &cluster, 600, dim, metric).same(&gpu, &unit_rows(50, dim, 8), None, "a cluster");
        }
    }
}

#[test]
fn hostile_rows_and_codes() {
    let gpu = Gpu::default();
    for dim in [3, 8, 24, 70] {
        for metric in [Metric::Cosine, Metric::L2] {
            let context = |what: &str| format!("{what}, {dim}, {metric:?}");
            let x = hostile(66, dim, 21);
            let usual = unit_rows(300, dim, 22);
            Both::new(&gpu, &usual, 300, dim, metric).same(&gpu, &x, None, &context("hostile rows"));
            // Codes of all lengths, and rows that no scale brings near them.
            let scaled = |from: &[f32], scale: f32| from.iter().map(|c| c * scale).collect::<Vec<f32>>();
            for scale in [1e-25, 1e-12, 100.0, 1e15, 1e30] {
                let both = Both::new(&gpu, &scaled(&usual, scale), 300, dim, metric);
                both.same(&gpu, &x, None, &context("hostile rows, scaled codes"));
                let rows = scaled(&unit_rows(60, dim, 23), scale);
                both.same(&gpu, &rows, None, &context("scaled rows and codes"));
            }
            let mut one_huge = usual.clone();
            one_huge[5 * dim..6 * dim].iter_mut().for_each(|c| *c *= 1e6);
            Both::new(&gpu, &one_huge, 300, dim, metric).same(
                &gpu,
                &unit_rows(60, dim, 24),
                None,
                &context("one huge"),
            );
            for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut poisoned = usual.clone();
                poisoned[7 * dim + dim / 2] = poison;
                Both::new(&gpu, &poisoned, 300, dim, metric).same(&gpu, &x, None, &context("poisoned"));
            }
            let nothing = vec![f32::NAN; 20 * dim];
            Both::new(&gpu, &nothing, 20, dim, metric).same(&gpu, &x, None, &context("all NaN"));
            Both::new(&gpu, &vec![0.0; 20 * dim], 20, dim, metric).same(&gpu, &x, None, &context("all zero"));
        }
    }
}

#[test]
fn stored_in_halves_weights_and_narrow_codes() {
    let gpu = Gpu::default();
    for dim in [8, 19, 66] {
        let both = Both::new(&gpu, &unit_rows(400, dim, 31), 400, dim, Metric::Cosine);
        let x = unit_rows(45, dim, 32);
        let f16: Vec<half::f16> = x.iter().map(|&x| half::f16::from_f32(x)).collect();
        let bf16: Vec<half::bf16> = x.iter().map(|&x| half::bf16::from_f32(x)).collect();
        both.same(&gpu, &f16, None, "f16");
        both.same(&gpu, &bf16, None, "bf16");
        let weights: Vec<f32> = (0..45).map(|i| [0.0, 0.5, 1.0, 1e-40][i % 4]).collect();
        both.same(&gpu, &x, Some(&weights), "weights");
        let mut expected = [0u16; 45];
        ops::search(&Cpu::new(), mat(&x, 45, dim), None, &both.cpu, &mut expected, None).expect("shapes");
        assert_eq!(run::<u16>(&gpu, &gpu.mat(&x, 45, dim), &both.gpu, 45), expected);
    }
}

fn run<C: Code + bytemuck::Pod>(gpu: &Gpu, x: &DeviceMatRef, codebook: &PackedDeviceCodebook, rows: usize) -> Vec<C> {
    let (mut found, mut workspace) = (gpu.room(rows), workspace(gpu, rows, codebook));
    gpu_ops::search(gpu, x, None, codebook, &mut found, None, Search::Coarse, &mut workspace).expect("shapes");
    gpu.read(&found)
}

fn workspace(gpu: &Gpu, rows: usize, codebook: &PackedDeviceCodebook) -> DeviceMut<'static, u8> {
    gpu.room(gpu_ops::search_workspace_len(gpu, rows, codebook))
}

#[test]
fn the_references_and_every_kernel() {
    let gpu = Gpu::default();
    for dim in [8, 16, 32, 64, 65] {
        for metric in [Metric::Cosine, Metric::L2] {
            let (values, x) = (unit_rows(90, dim, 41), hostile(40, dim, 42));
            let both = Both::new(&gpu, &values, 90, dim, metric);
            both.same(&gpu, &x, None, "every kernel");
            reference(&gpu, &both, &values, &x, metric, |x| x, "search_ref_f32");
            reference(&gpu, &both, &values, &x, metric, half::f16::from_f32, "search_ref_f16");
            reference(&gpu, &both, &values, &x, metric, half::bf16::from_f32, "search_ref_bf16");
        }
    }
    let both = Both::new(&gpu, &unit_rows(90, 8, 41), 90, 8, Metric::Cosine);
    both.same(&gpu, &[half::f16::ONE; 16], None, "f16");
    both.same(&gpu, &[half::bf16::ONE; 16], None, "bf16");
    gpu.assert_all_ran("search");
}

fn reference<E: Element + bytemuck::Pod>(
    gpu: &Gpu,
    both: &Both,
    values: &[f32],
    x: &[f32],
    metric: Metric,
    of: fn(f32) -> E,
    name: &'static str,
) {
    let (rows, dim) = (x.len() / both.dim, both.dim);
    let x: Vec<E> = x.iter().map(|&x| of(x)).collect();
    let (mut codes, mut scores) = (vec![0u32; rows], vec![0.0; rows]);
    ops::search(&Cpu::new(), mat(&x, rows, dim), None, &both.cpu, &mut codes, Some(&mut scores)).expect("shapes");
    let half_norm = |c: &[f32]| c.iter().fold(0.0f32, |n, &c| c.mul_add(c, n)) * -0.5;
    let half_norms: Vec<f32> = values.chunks(dim).map(half_norm).collect();
    let half_norms = (metric == Metric::L2).then(|| gpu.slice(&half_norms));
    let (found, found_scores) = (gpu.room::<u32>(rows), gpu.room::<f32>(rows));
    let args = [
        (&gpu.mat(&x, rows, dim)).into(),
        0u64.into(),
        (&gpu.slice(values)).into(),
        half_norms.as_ref().into(),
        rows.into(),
        (values.len() / dim).into(),
        dim.into(),
        (&found).into(),
        (&found_scores).into(),
        1u32.into(),
        gpu.status().into(),
        0u32.into(),
    ];
    gpu.run("search", name, rows, 64, &args);
    assert_eq!(gpu.read(&found), codes, "{name}");
    assert_same_bits(&gpu.read(&found_scores), &scores, name);
}

#[test]
fn bad_input_is_refused() {
    let gpu = Gpu::default();
    let both = Both::new(&gpu, &unit_rows(20, 4, 1), 20, 4, Metric::Cosine);
    let (x, book) = (gpu.mat(&unit_rows(6, 4, 2), 6, 4), &both.gpu);
    let search = |x: &DeviceMatRef, weights: Option<&[f32]>, codes: usize, scores: usize, bytes: usize| {
        let weights = weights.map(|w| gpu.slice(w));
        let (mut codes, mut scores, mut workspace) = (gpu.room::<u32>(codes), gpu.room(scores), gpu.room(bytes));
        let scores = Some(&mut scores);
        gpu_ops::search(&gpu, x, weights.as_ref(), book, &mut codes, scores, Search::Coarse, &mut workspace)
    };
    let bytes = gpu_ops::search_workspace_len(&gpu, 6, book);
    search(&x, None, 6, 6, bytes).expect("right shapes");
    refused(search(&gpu.mat(&[0.0; 18], 6, 3), None, 6, 6, bytes));
    refused(search(&x, None, 5, 6, bytes));
    refused(search(&x, None, 6, 7, bytes));
    refused(search(&x, Some(&[1.0; 5]), 6, 6, bytes));
    refused(search(&x, None, 6, 6, bytes - 1));
    search(&gpu.mat(&[], 0, 4), None, 0, 0, gpu_ops::search_workspace_len(&gpu, 0, book)).expect("no rows");
    gpu.check().expect("nothing noted");
    search(&x, Some(&[1.0, 1.0, f32::NAN, 1.0, 0.0, 2.0]), 6, 6, bytes).expect("right shapes");
    let noted = refused(gpu.check());
    assert!(matches!(noted, Error::Value { op: "search", arg: "weights", index: 2 | 5, .. }), "{noted}");
    gpu.check().expect("told once");
    for (codes, dim) in [(0, 4), (4, 0), (1, 5000), (1 << 25, 1)] {
        PackedDeviceCodebook::storage_len(codes, dim, Metric::L2).expect_err("no such codebook");
    }
    let (values, storage) = (gpu.mat(&[0.5; 8], 2, 4), gpu.room(7));
    refused(PackedDeviceCodebook::pack(&gpu, values, Metric::Cosine, storage).map(drop));
}

/// Rows are told by their place in the whole batch, whatever part they are searched in.
#[test]
fn the_status_names_rows_of_the_whole_batch() {
    let gpu = Gpu::default();
    let both = Both::new(&gpu, &unit_rows(20, 4, 1), 20, 4, Metric::Cosine);
    let (values, mut weights) = (unit_rows(9, 4, 2), [1.0; 9]);
    weights[7] = -0.5;
    let (x, device_weights) = (gpu.mat(&values, 9, 4), gpu.slice(&weights));
    // Candidates for two rows at a time.
    let (mut codes, mut scratch) = (gpu.room(9), gpu.room(6));
    gpu_ops::search_mth(&gpu, &x, Some(&device_weights), &both.gpu, 3, &mut codes, &mut scratch).expect("shapes");
    let mut scratch = vec![ops::Candidate::NONE; 6];
    let values = mat(&values, 9, 4);
    let expected = ops::search_mth(&Cpu::new(), values, Some(&weights), &both.cpu, 3, &mut [0; 9], &mut scratch);
    assert!(matches!(expected, Err(Error::Value { op: "search_mth", index: 7, .. })), "{expected:?}");
    assert_eq!(gpu.check(), expected);
}

#[test]
fn the_best_few() {
    let gpu = Gpu::default();
    for (dim, codes, m) in [(1, 1, 1), (2, 40, 7), (8, 300, 40), (6, 300, 300), (3, 9, 20), (20, 70, 65)] {
        for metric in [Metric::Cosine, Metric::L2] {
            let (values, mut x) = (grid(codes * dim, 51, 4), hostile(15, dim, 52));
            x.extend(grid(5 * dim, 53, 4));
            let both = Both::new(&gpu, &values, codes, dim, metric);
            let weights: Vec<f32> = (0..20).map(|i| [1.0, 1.0, 0.0][i % 3]).collect();
            top(&gpu, &both, &x, &weights, m, |x| x, "search_top_ref_f32");
            top(&gpu, &both, &x, &weights, m, half::f16::from_f32, "search_top_ref_f16");
            top(&gpu, &both, &x, &weights, m, half::bf16::from_f32, "search_top_ref_bf16");
        }
    }
    gpu.assert_all_ran("search_top");
    let both = Both::new(&gpu, &unit_rows(20, 4, 1), 20, 4, Metric::Cosine);
    let x = gpu.mat(&unit_rows(6, 4, 2), 6, 4);
    refused(gpu_ops::search_top(&gpu, &x, None, &both.gpu, &mut gpu.mat_room(5, 2)));
    refused(gpu_ops::search_top(&gpu, &x, None, &both.gpu, &mut gpu.mat_room(6, 0)));
    refused(gpu_ops::search_mth(&gpu, &x, None, &both.gpu, 0, &mut gpu.room(6), &mut gpu.room(9)));
    refused(gpu_ops::search_mth(&gpu, &x, None, &both.gpu, 10, &mut gpu.room(6), &mut gpu.room(9)));
    refused(gpu_ops::search_mth(&gpu, &x, None, &both.gpu, 2, &mut gpu.room(5), &mut gpu.room(9)));
}

fn top<E: Element + bytemuck::Pod>(
    gpu: &Gpu,
    both: &Both,
    x: &[f32],
    weights: &[f32],
    m: usize,
    of: fn(f32) -> E,
    reference: &'static str,
) {
    use vq_kernels::ops::Candidate;
    let (rows, dim) = (x.len() / both.dim, both.dim);
    let x: Vec<E> = x.iter().map(|&x| of(x)).collect();
    let mut best = vec![Candidate::NONE; rows * m];
    let (cpu, view) = (Cpu::new(), crate::common::mat_mut(&mut best, rows, m));
    ops::search_top(&cpu, mat(&x, rows, dim), Some(weights), &both.cpu, view).expect("shapes");
    let split = |best: &[Candidate]| -> (Vec<u32>, Vec<f32>) { best.iter().map(|c| (c.code, c.score)).unzip() };
    let (codes, scores) = split(&best);
    let (x, device_weights) = (gpu.mat(&x, rows, dim), gpu.slice(weights));
    let mut found = gpu.mat_room(rows, m);
    gpu_ops::search_top(gpu, &x, Some(&device_weights), &both.gpu, &mut found).expect("shapes");
    let (found_codes, found_scores) = split(&gpu.read_mat(&mut found));
    assert_eq!(found_codes, codes, "{} of {dim}, {m} best", E::NAME);
    assert_same_bits(&found_scores, &scores, "scores");
    let (mut mth, mut scratch) = (gpu.room(rows), gpu.room(7 * m));
    gpu_ops::search_mth(gpu, &x, Some(&device_weights), &both.gpu, m, &mut mth, &mut scratch).expect("shapes");
    assert_eq!(gpu.read(&mth), best.chunks(m).map(|best| best[m - 1].code).collect::<Vec<_>>());
    // The reference knows the codes as they are, and h as the packing has it.
    let mut found = gpu.mat_room::<Candidate>(rows, m);
    both.gpu.reference_args(|codebook, half_norms| {
        let args = [
            (&x).into(),
            (&device_weights).into(),
            codebook,
            half_norms,
            rows.into(),
            both.cpu.codes().into(),
            dim.into(),
            m.into(),
            (&mut found).into(),
            gpu.status().into(),
            0u32.into(),
        ];
        gpu.run("search_top", reference, rows, 64, &args);
    });
    assert_eq!(split(&gpu.read_mat(&mut found)).0, codes, "{reference} of {dim}, {m} best");
}
