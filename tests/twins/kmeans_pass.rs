//! The whole of k-means: CPU = PTX, centres and what each pass came to.

use vq_kernels::cuda::kmeans::{DeviceKMeans, decode_pass};
use vq_kernels::kmeans::KMeans;
use vq_kernels::{Cpu, Error, Metric};

use crate::common::{assert_same_bits, mat, paint, unit_rows};
use crate::support::{Gpu, refused};

/// The CPU's and the device's, side by side.
struct Both<'a> {
    gpu: &'a Gpu,
    host: KMeans,
    device: DeviceKMeans<'a>,
    dim: usize,
}

impl<'a> Both<'a> {
    fn new(gpu: &'a Gpu, centres: &[f32], dim: usize, metric: Metric, rows: usize) -> Self {
        let codes = centres.len() / dim;
        let host = KMeans::new(centres.to_vec(), codes, dim, metric).expect("shapes");
        let mut view = gpu.mat_room(codes, dim);
        gpu.fill(&mut view, centres);
        let len = DeviceKMeans::memory_len(gpu, codes, dim, metric, rows).expect("shapes");
        let device = DeviceKMeans::new(gpu, view, metric, rows, gpu.room(len)).expect("shapes");
        Self { gpu, host, device, dim }
    }

    fn batch(&mut self, x: &[f32], weights: Option<&[f32]>, mini: bool) {
        let rows = x.len() / self.dim;
        let (view, device_weights) = (self.gpu.mat(x, rows, self.dim), weights.map(|weights| self.gpu.slice(weights)));
        let x = mat(x, rows, self.dim);
        if mini {
            self.host.mini_batch(&Cpu::new(), x, weights).expect("good rows");
            self.device.mini_batch(self.gpu, &view, device_weights.as_ref()).expect("shapes");
        } else {
            self.host.accumulate(&Cpu::new(), x, weights).expect("good rows");
            self.device.accumulate(self.gpu, &view, device_weights.as_ref()).expect("shapes");
        }
        self.gpu.check().expect("nothing noted");
        self.same("after a batch");
    }

    /// Ends the pass; returns how many centres were refilled.
    fn finish(&mut self) -> usize {
        let pass = self.host.finish_pass(&Cpu::new()).expect("a pass");
        self.device.finish_pass(self.gpu).expect("launches");
        let words = self.gpu.read_ref(&self.device.last_pass());
        assert_eq!(decode_pass(&words.try_into().expect("as many words")), pass);
        self.same(&format!("after {pass:?}"));
        pass.refilled
    }

    fn same(&self, context: &str) {
        let centres = self.gpu.read_ref(self.device.centres().data());
        assert_same_bits(&centres, self.host.centres().data(), context);
    }
}

fn weights(rows: usize) -> Vec<f32> {
    (0..rows).map(|row| [1.0, 0.3, 0.0, 1e-40, 0.7][row % 5]).collect()
}

#[test]
fn passes_in_batches_of_any_size() {
    let gpu = Gpu::default();
    for (metric, dim, codes) in [(Metric::L2, 6, 90), (Metric::Cosine, 5, 70), (Metric::L2, 33, 12)] {
        let mut both = Both::new(&gpu, &unit_rows(codes, dim, 1), dim, metric, 200);
        for pass in 0..2 {
            for (batch, rows) in [200, 1, 0, 37].into_iter().enumerate() {
                let x = unit_rows(rows, dim, 10 * pass + batch as u64);
                let weights = (batch % 2 == 0).then(|| weights(rows));
                both.batch(&x, weights.as_deref(), false);
            }
            both.finish();
        }
        // A pass without rows: all centres are empty, and none is refilled.
        assert_eq!(both.finish(), 0);
    }
}

#[test]
fn mini_batches_and_the_pass_around_them() {
    let gpu = Gpu::default();
    for metric in [Metric::L2, Metric::Cosine] {
        let (dim, codes) = (4, 300);
        let mut both = Both::new(&gpu, &unit_rows(codes, dim, 3), dim, metric, 64);
        for pass in 0..2 {
            for batch in 0..4 {
                both.batch(&unit_rows(64, dim, 20 + 4 * pass + batch), Some(&weights(64)), true);
            }
            assert!(both.finish() > 0);
        }
    }
}

/// More rows than a block sorts, so that runs are merged across blocks; collapsed and doubled centres; rows that come
/// twice, and more of them than are kept.
#[test]
fn empty_centres_become_the_farthest_rows() {
    let gpu = Gpu::default();
    let (dim, codes, rows) = (3, 200, 2500);
    let mut centres = vec![0.25; codes * dim];
    centres[..5 * dim].copy_from_slice(&paint(5 * dim, 2));
    let mut x = paint(rows * dim, 4);
    let (half, rest) = x.split_at_mut(rows * dim / 2);
    rest[..600 * dim].copy_from_slice(&half[..600 * dim]);
    // A row on its own centre, one that differs by the sign of a zero, and whole runs of equal rows.
    x[..dim].copy_from_slice(&centres[..dim]);
    x[dim..3 * dim].copy_from_slice(&[0.0, 9.0, 9.0, -0.0, 9.0, 9.0]);
    x[100 * dim..300 * dim].fill(7.5);
    let mut both = Both::new(&gpu, &centres, dim, Metric::L2, rows);
    both.batch(&x, None, false);
    both.batch(&x[..40 * dim], None, false);
    assert_eq!(both.finish(), 64);
    both.batch(&x, Some(&weights(rows)), false);
    assert!(both.finish() > 0);
    gpu.assert_all_ran("kmeans_pass");
}

#[test]
fn rows_far_larger_than_the_centres_and_not_finite_ones() {
    let gpu = Gpu::default();
    let (dim, codes, rows) = (4, 20, 60);
    for metric in [Metric::L2, Metric::Cosine] {
        let mut both = Both::new(&gpu, &unit_rows(codes, dim, 5), dim, metric, rows);
        for scale in [1.0, 1e4, 1e30, 1e-30, f32::MAX] {
            let mut x: Vec<f32> = paint(rows * dim, 6).iter().map(|x| (x * scale).clamp(-f32::MAX, f32::MAX)).collect();
            x[5] = f32::NAN;
            x[9] = f32::INFINITY;
            x[21] = f32::NEG_INFINITY;
            both.batch(&x, None, false);
        }
        both.finish();
        both.batch(&paint(rows * dim, 7), None, true);
        both.finish();
    }
}

#[test]
fn the_status_names_the_cpus_errors() {
    let gpu = Gpu::default();
    let centres = unit_rows(4, 2, 1);
    let mut both = Both::new(&gpu, &centres, 2, Metric::L2, 8);
    let (x, bad) = (unit_rows(8, 2, 2), [1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0, 1.0]);
    let expected = both.host.accumulate(&Cpu::new(), mat(&x, 8, 2), Some(&bad));
    assert!(expected.is_err());
    both.device.accumulate(&gpu, &gpu.mat(&x, 8, 2), Some(&gpu.slice(&bad))).expect("shapes");
    assert_eq!(gpu.check(), expected);
}

#[test]
fn bad_input_is_refused() {
    let gpu = Gpu::default();
    let len = |codes, dim, rows| DeviceKMeans::memory_len(&gpu, codes, dim, Metric::L2, rows);
    for (codes, dim, rows) in
        [(0, 3, 10), (4, 0, 10), (4, 3, 0), (usize::MAX, 3, 10), (4, 3, usize::MAX), (4, 3, 1 << 31)]
    {
        refused(len(codes, dim, rows).map(drop));
    }
    let enough = len(4, 3, 10).expect("shapes");
    for wrong in [0, enough - 1, enough + 1] {
        refused(DeviceKMeans::new(&gpu, gpu.mat_room(4, 3), Metric::L2, 10, gpu.room(wrong)).map(drop));
    }
    let mut both = Both::new(&gpu, &unit_rows(4, 3, 1), 3, Metric::L2, 10);
    let kmeans = &mut both.device;
    refused(kmeans.accumulate(&gpu, &gpu.mat(&[0.0; 20], 10, 2), None));
    refused(kmeans.accumulate(&gpu, &gpu.mat(&[0.0; 30], 10, 3), Some(&gpu.slice(&[1.0; 9]))));
    let many = refused(kmeans.mini_batch(&gpu, &gpu.mat(&[0.0; 33], 11, 3), None));
    assert_eq!(many, Error::TooLarge { op: "kmeans", arg: "rows", max: 10, got: 11 });
    // Refused before anything was launched: what follows is as on the CPU.
    both.batch(&unit_rows(10, 3, 2), None, false);
    both.finish();
}
