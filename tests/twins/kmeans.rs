//! The steps of k-means: CPU = PTX, tuned and reference.

use vq_kernels::cuda::kmeans as gpu_kmeans;
use vq_kernels::cuda::ops::ema::DeviceStatistics;
use vq_kernels::cuda::{Arg, Queue};
use vq_kernels::kmeans::KMeans;
use vq_kernels::ops::ema::Statistics;
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Metric, NO_CODE, ops};

use crate::common::{assert_same_bits, assert_same_bits64, mat, mat_mut, paint, unit_rows};
use crate::normalize::hostile;
use crate::support::{Gpu, refused};

/// Number of the op in the kernels' status.
const DISTANCES: u32 = 12;

/// `KMeans::move_centres` in the open.
fn moved(statistics: &Statistics<Vec<i64>>, metric: Metric, keep: bool, seen: &mut [f64], centres: &mut [f32]) {
    let dim = statistics.dim();
    for k in statistics.hits().map(|k| k as usize) {
        let (new, old) = (statistics.weight(k), if keep { seen[k] } else { 0.0 });
        let centre = &mut centres[k * dim..][..dim];
        for (c, sum) in centre.iter_mut().zip(statistics.sum(k)) {
            *c = ((old * f64::from(*c) + sum) / (old + new)) as f32;
        }
        seen[k] = old + new;
        if metric == Metric::Cosine && centre.iter().any(|&c| c != 0.0) {
            let row = centre.to_vec();
            ops::normalize(&Cpu::new(), mat(&row, 1, dim), mat_mut(centre, 1, dim), None).expect("shapes");
        }
    }
}

fn moving(gpu: &Gpu) {
    for &(codes, dim, exponent) in &[(1, 1, 0), (40, 3, 5), (37, 8, 0), (50, 32, 128), (21, 33, -149), (9, 100, 60)] {
        let rows = 3 * codes;
        let limit = 2f64.powi(exponent);
        let x: Vec<f32> = hostile(rows, dim, 2)
            .into_iter()
            .map(|x| if x.is_finite() { f64::from(x).clamp(-limit, limit) as f32 } else { x })
            .collect();
        let mut rng = Rng::new(3, 3);
        let of: Vec<u32> = (0..rows).map(|_| rng.below(codes as u64) as u32).collect();
        let mut statistics = Statistics::new(codes, dim, exponent).expect("shapes");
        statistics.accumulate(&Cpu::new(), mat(&x, rows, dim), &of, None).expect("within the exponent");
        let (weights, sums) = statistics.as_parts();
        let (weights, sums) = (gpu.upload(weights), gpu.upload(sums));
        let device = DeviceStatistics::from_parts(weights, sums, dim, exponent).expect("shapes");
        for (metric, keep) in [(Metric::L2, false), (Metric::L2, true), (Metric::Cosine, false), (Metric::Cosine, true)]
        {
            let context = format!("{codes} x {dim}, 2^{exponent}, {metric:?}, keep: {keep}");
            let mut centres = hostile(codes, dim, 5);
            let mut seen: Vec<f64> = (0..codes).map(|k| (k % 4) as f64 * 2.5).collect();
            let (mut device_seen, plain_seen) = (gpu.upload(&seen), gpu.upload(&seen));
            let (mut device_centres, plain) = (gpu.mat_room(codes, dim), gpu.upload(&centres));
            gpu.fill(&mut device_centres, &centres);
            moved(&statistics, metric, keep, &mut seen, &mut centres);
            gpu_kmeans::move_centres(gpu, &device, metric, keep, &mut device_seen, &mut device_centres)
                .expect("shapes");
            assert_same_bits(&gpu.read_mat(&mut device_centres), &centres, &context);
            assert_same_bits64(&gpu.read(&device_seen), &seen, &context);
            let (weights, sums) = device.as_parts();
            let args = [
                weights.into(),
                sums.into(),
                codes.into(),
                dim.into(),
                exponent.into(),
                u32::from(keep).into(),
                u32::from(metric == Metric::Cosine).into(),
                (&plain_seen).into(),
                (&plain).into(),
            ];
            gpu.run("kmeans", "move_centres_ref", codes, 64, &args);
            assert_same_bits(&gpu.read(&plain), &centres, &format!("{context}, reference"));
            assert_same_bits64(&gpu.read(&plain_seen), &seen, &format!("{context}, reference"));
        }
    }
}

fn measuring(gpu: &Gpu) {
    for &(rows, dim, codes) in &[(1, 1, 1), (70, 3, 4), (129, 8, 50), (40, 32, 3), (65, 33, 7), (33, 100, 9)] {
        let context = format!("{rows} x {dim}, {codes} centres");
        let (x, centres) = (hostile(rows, dim, 6), paint(codes * dim, 7));
        let mut rng = Rng::new(1, 9);
        let mut of: Vec<u32> =
            (0..rows).map(|_| if rng.below(8) == 0 { NO_CODE } else { rng.below(codes as u64) as u32 }).collect();
        let (mut device_codes, plain_codes) = (gpu.upload(&of), gpu.upload(&of));
        let mut expected = vec![0f64; rows];
        for (row, code) in of.iter_mut().enumerate().filter(|(_, code)| **code != NO_CODE) {
            let centre = &centres[*code as usize * dim..][..dim];
            let differences = x[row * dim..][..dim].iter().zip(centre).map(|(&x, &c)| f64::from(x) - f64::from(c));
            let distance: f64 = differences.map(|t| t * t).sum();
            if distance.is_finite() { expected[row] = distance } else { *code = NO_CODE }
        }
        let (device_x, device_centres) = (gpu.mat(&x, rows, dim), gpu.mat(&centres, codes, dim));
        let mut out = gpu.room(rows);
        gpu_kmeans::distances(gpu, &device_x, &device_centres, &mut device_codes, &mut out).expect("shapes");
        assert_same_bits64(&gpu.read(&out), &expected, &context);
        assert_eq!(gpu.read(&device_codes), of, "{context}");
        let out = gpu.room::<f64>(rows);
        let args = [
            (&device_x).into(),
            (&device_centres).into(),
            rows.into(),
            dim.into(),
            codes.into(),
            DISTANCES.into(),
            (&plain_codes).into(),
            (&out).into(),
            Arg::U64(gpu.status()),
        ];
        gpu.run("kmeans", "distances_ref", rows, 64, &args);
        assert_same_bits64(&gpu.read(&out), &expected, &format!("{context}, reference"));
        assert_eq!(gpu.read(&plain_codes), of, "{context}, reference");
        gpu.check().expect("all codes exist");
    }
}

/// A mini-batch step of the CPU's [`KMeans`] and the same step out of the device's parts.
fn against_the_whole(gpu: &Gpu) {
    let (rows, dim, codes) = (200, 6, 11);
    for metric in [Metric::L2, Metric::Cosine] {
        let centres = unit_rows(codes, dim, 1);
        let mut host = KMeans::new(centres.clone(), codes, dim, metric).expect("shapes");
        let mut seen = gpu.upload(&vec![0f64; codes]);
        let mut device_centres = gpu.mat_room(codes, dim);
        gpu.fill(&mut device_centres, &centres);
        // As `KMeans::new` has it.
        let of_centres = ops::ema::exponent(mat(&centres, codes, dim), &[0; 11], None).expect("shapes");
        let exponent = if metric == Metric::L2 { of_centres + 8 } else { 0 };
        for step in 0..3 {
            let x = unit_rows(rows, dim, 10 + step);
            let packed = vq_kernels::PackedCodebook::new(host.centres(), metric).expect("shapes");
            let mut of = vec![0; rows];
            ops::search(&Cpu::new(), mat(&x, rows, dim), None, &packed, &mut of, None).expect("shapes");
            host.mini_batch(&Cpu::new(), mat(&x, rows, dim), None).expect("unit rows");
            let rooms = (gpu.room(codes), gpu.room(codes * dim));
            let mut statistics = DeviceStatistics::new_in(gpu, rooms.0, rooms.1, dim, exponent).expect("shapes");
            let x = gpu.mat(&x, rows, dim);
            let mut device_codes = gpu.upload(&of);
            let to = &mut gpu.room(rows);
            gpu_kmeans::distances(gpu, &x, &device_centres.as_ref(), &mut device_codes, to).expect("shapes");
            statistics.accumulate(gpu, &x, &device_codes.as_ref(), None, None).expect("shapes");
            gpu_kmeans::move_centres(gpu, &statistics, metric, true, &mut seen, &mut device_centres).expect("shapes");
            assert_same_bits(&gpu.read_mat(&mut device_centres), host.centres().data(), &format!("{metric:?} {step}"));
        }
    }
}

#[test]
fn same_bits() {
    let gpu = Gpu::default();
    moving(&gpu);
    measuring(&gpu);
    against_the_whole(&gpu);
    gpu.assert_all_ran("kmeans");
}

#[test]
fn bad_shapes_are_refused_and_no_rows_are_no_work() {
    let gpu = Gpu::default();
    let rooms = (gpu.room(4), gpu.room(12));
    let statistics = DeviceStatistics::new_in(&gpu, rooms.0, rooms.1, 3, 0).expect("shapes");
    let moved = |seen: usize, rows, cols| {
        let (mut seen, mut centres) = (gpu.room(seen), gpu.mat_room(rows, cols));
        gpu_kmeans::move_centres(&gpu, &statistics, Metric::L2, false, &mut seen, &mut centres)
    };
    refused(moved(3, 4, 3));
    refused(moved(4, 3, 3));
    refused(moved(4, 4, 2));
    let (x, centres) = (gpu.mat(&[1f32; 6], 2, 3), gpu.mat(&[1f32; 12], 4, 3));
    refused(gpu_kmeans::distances(&gpu, &x, &gpu.mat(&[1f32; 8], 4, 2), &mut gpu.room(2), &mut gpu.room(2)));
    refused(gpu_kmeans::distances(&gpu, &x, &centres, &mut gpu.room(1), &mut gpu.room(2)));
    refused(gpu_kmeans::distances(&gpu, &x, &centres, &mut gpu.room(2), &mut gpu.room(3)));
    let none = gpu.mat::<f32>(&[], 0, 3);
    gpu_kmeans::distances(&gpu, &none, &centres, &mut gpu.room(0), &mut gpu.room(0)).expect("no rows");
    let mut codes = gpu.upload(&[4u32, 0]);
    gpu_kmeans::distances(&gpu, &x, &centres, &mut codes, &mut gpu.room(2)).expect("shapes");
    let expected = vq_kernels::Error::CodeOutOfRange { op: "distances", row: 0, code: 4, codes: 4 };
    assert_eq!(gpu.check(), Err(expected));
    assert_eq!(gpu.read(&codes), [4, 0]);
}
