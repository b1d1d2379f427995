//! Exact sums, means and activity: CPU = PTX, tuned and reference.

use vq_kernels::cuda::ops::ema::{self as gpu_ema, DeviceActivity, DeviceStatistics, observe_scratch_len};
use vq_kernels::cuda::{Arg, DeviceMatRef, DeviceRef};
use vq_kernels::ops::ema::{self, Activity, Statistics};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Error, NO_CODE};

use crate::common::{assert_same_bits, assert_same_bits64, grid, mat, mat_mut, paint};
use crate::normalize::hostile;
use crate::support::{Gpu, refused};

/// Numbers of the ops in the kernels' status.
const EXPONENT: u32 = 4;
const ACCUMULATE: u32 = 5;
const MERGE: u32 = 11;

/// A weight of 1.
const ONE: i64 = 1 << 40;

struct Case {
    rows: usize,
    dim: usize,
    codes: usize,
    exponent: i32,
}

const fn case(rows: usize, dim: usize, codes: usize, exponent: i32) -> Case {
    Case { rows, dim, codes, exponent }
}

/// Ragged shapes; collapsed codebooks; exponents at both ends.
const CASES: &[Case] = &[
    case(1, 1, 1, 0),
    case(70, 1, 3, 2),
    case(33, 2, 40, 1),
    case(100, 3, 1, 128),
    case(257, 4, 5, 3),
    case(64, 8, 9, 128),
    case(130, 17, 3, -149),
    case(200, 32, 1, 128),
    case(95, 32, 50, 127),
    case(66, 33, 4, -126),
    case(40, 100, 7, 128),
];

/// Rows of every kind, within ±2^exponent where they are finite.
fn rows_within(case: &Case, seed: u64) -> Vec<f32> {
    let limit = 2f64.powi(case.exponent);
    let bound = |x: f32| if x.is_finite() { (f64::from(x).clamp(-limit, limit)) as f32 } else { x };
    hostile(case.rows, case.dim, seed).into_iter().map(bound).collect()
}

/// Codes in runs and at random, some of them none.
fn some_codes(rows: usize, codes: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed, 1);
    let mut code = 0;
    let mut next = |row: usize| {
        if row % 16 < 4 || rng.below(3) > 0 {
            code = rng.below(codes as u64) as u32;
        }
        if rng.below(9) == 0 { NO_CODE } else { code }
    };
    (0..rows).map(&mut next).collect()
}

fn some_weights(rows: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 2);
    (0..rows).map(|_| [0.0, -0.0, 1.0, 0.5, 1e-30, 1.0 / 3.0, rng.uniform() as f32][rng.below(7) as usize]).collect()
}

fn empty(gpu: &Gpu, codes: usize, dim: usize, exponent: i32) -> DeviceStatistics<'static> {
    DeviceStatistics::new_in(gpu, gpu.room(codes), gpu.room(codes * dim), dim, exponent).expect("shapes")
}

fn upload(gpu: &Gpu, statistics: &Statistics<Vec<i64>>) -> DeviceStatistics<'static> {
    let (weights, sums) = statistics.as_parts();
    let (weights, sums) = (gpu.upload(weights), gpu.upload(sums));
    DeviceStatistics::from_parts(weights, sums, statistics.dim(), statistics.exponent()).expect("shapes")
}

#[track_caller]
fn assert_same(gpu: &Gpu, device: &DeviceStatistics, host: &Statistics<Vec<i64>>, context: &str) {
    let (weights, sums) = device.as_parts();
    assert_eq!(gpu.read(weights), host.as_parts().0, "{context}: weights");
    assert_eq!(gpu.read(sums), host.as_parts().1, "{context}: sums");
    assert_eq!(device.exponent(), host.exponent(), "{context}");
}

/// A batch on both sides.
struct Batch {
    x: Vec<f32>,
    codes: Vec<u32>,
    weights: Option<Vec<f32>>,
    device_x: DeviceMatRef<'static>,
    device_codes: DeviceRef<'static, u32>,
    device_weights: Option<DeviceRef<'static, f32>>,
    dim: usize,
}

impl Batch {
    fn new(gpu: &Gpu, x: Vec<f32>, codes: Vec<u32>, weights: Option<Vec<f32>>, dim: usize) -> Self {
        let (device_x, device_codes) = (gpu.mat(&x, codes.len(), dim), gpu.slice(&codes));
        let device_weights = weights.as_ref().map(|weights| gpu.slice(weights));
        Self { x, codes, weights, device_x, device_codes, device_weights, dim }
    }

    fn of(gpu: &Gpu, case: &Case, weighted: bool, seed: u64) -> Self {
        let weights = weighted.then(|| some_weights(case.rows, seed));
        Self::new(gpu, rows_within(case, seed), some_codes(case.rows, case.codes, seed), weights, case.dim)
    }

    fn add_to_host(&self, statistics: &mut Statistics<Vec<i64>>) -> vq_kernels::Result<usize> {
        let x = mat(&self.x, self.codes.len(), self.dim);
        statistics.accumulate(&Cpu::new(), x, &self.codes, self.weights.as_deref())
    }

    fn add_to(&self, gpu: &Gpu, statistics: &mut DeviceStatistics) {
        let weights = self.device_weights.as_ref();
        statistics.accumulate(gpu, &self.device_x, &self.device_codes, weights, None).expect("shapes");
    }

    /// By the reference kernel; returns what was left out.
    fn add_by_reference(&self, gpu: &Gpu, statistics: &DeviceStatistics) -> u32 {
        let left_out = gpu.upload(&[0u32]);
        let (weights, sums) = statistics.as_parts();
        let args = [
            (&self.device_x).into(),
            (&self.device_codes).into(),
            self.device_weights.as_ref().into(),
            self.codes.len().into(),
            self.dim.into(),
            statistics.codes().into(),
            statistics.exponent().into(),
            ACCUMULATE.into(),
            weights.into(),
            sums.into(),
            (&left_out).into(),
            status(gpu),
        ];
        gpu.run("ema", "accumulate_ref", self.codes.len(), 64, &args);
        gpu.read(&left_out)[0]
    }
}

fn status(gpu: &Gpu) -> Arg {
    vq_kernels::cuda::Queue::status(gpu).into()
}

fn accumulation(gpu: &Gpu) {
    for (case, weighted) in CASES.iter().flat_map(|case| [(case, false), (case, true)]) {
        let &Case { rows, dim, codes, exponent } = case;
        let context = format!("{rows} x {dim}, {codes} codes, 2^{exponent}, weighted: {weighted}");
        let batch = Batch::of(gpu, case, weighted, 3);
        let mut host = Statistics::new(codes, dim, exponent).expect("shapes");
        let left = batch.add_to_host(&mut host).expect(&context);
        // -- the exponent alone
        let x = mat(&batch.x, rows, dim);
        let expected = ema::exponent(x, &batch.codes, batch.weights.as_deref()).expect("shapes");
        let mut out = gpu.room::<i32>(1);
        let weights = batch.device_weights.as_ref();
        gpu_ema::exponent(gpu, &batch.device_x, &batch.device_codes, weights, &mut out).expect("shapes");
        assert_eq!(gpu.read(&out), [expected], "{context}");
        let largest = gpu.upload(&[0u32]);
        let args = [
            (&batch.device_x).into(),
            (&batch.device_codes).into(),
            weights.into(),
            rows.into(),
            dim.into(),
            EXPONENT.into(),
            (&largest).into(),
            status(gpu),
        ];
        gpu.run("ema", "exponent_ref", rows, 64, &args);
        gpu.run("ema", "exponent_finish", 1, 1, &[(&largest).into()]);
        assert_eq!(gpu.read(&largest)[0] as i32, expected, "{context}, reference");
        // -- the sums
        let mut device = empty(gpu, codes, dim, exponent);
        let mut left_out = gpu.upload(&[5u32]);
        let of = (&batch.device_x, &batch.device_codes);
        device.accumulate(gpu, of.0, of.1, weights, Some(&mut left_out)).expect("shapes");
        assert_same(gpu, &device, &host, &context);
        assert_eq!(gpu.read(&left_out), [5 + left as u32], "{context}");
        let plain = empty(gpu, codes, dim, exponent);
        assert_eq!(batch.add_by_reference(gpu, &plain), left as u32, "{context}");
        assert_same(gpu, &plain, &host, &context);
        gpu.check().expect(&context);
        // -- merged, coarsened, cleared
        let other = upload(gpu, &host);
        let (weights, sums) = plain.as_parts();
        let (from_weights, from_sums) = other.as_parts();
        let args = [
            from_weights.into(),
            from_sums.into(),
            codes.into(),
            dim.into(),
            MERGE.into(),
            weights.into(),
            sums.into(),
            status(gpu),
        ];
        gpu.run("ema", "merge_ref", codes, 64, &args);
        device.merge(gpu, &other).expect("shapes");
        host.merge(&host.clone()).expect("shapes");
        assert_same(gpu, &device, &host, &context);
        assert_same(gpu, &plain, &host, &context);
        let (weights, sums) = plain.as_parts();
        let args = [codes.into(), dim.into(), weights.into(), sums.into()];
        gpu.run("ema", "clear_ref", codes, 64, &args);
        for by in [0, 1, 7, 40] {
            host.coarsen(exponent + by);
            device.coarsen(gpu, exponent + by).expect("fits");
            assert_same(gpu, &device, &host, &format!("{context}, coarser by {by}"));
        }
        host.clear(3);
        device.clear(gpu, 3).expect("fits");
        assert_same(gpu, &device, &host, &context);
        assert!(gpu.read(plain.as_parts().1).iter().chain(&gpu.read(plain.as_parts().0)).all(|&sum| sum == 0));
    }
}

fn coarsening(gpu: &Gpu) {
    let full = 1i64 << 62;
    let sums: Vec<i64> = [0, 1, 2, 3, 5, 6, 7, 10, full, full - 1, full / 2, 3 * (full / 4), ONE + ONE / 2]
        .into_iter()
        .flat_map(|sum| [sum, -sum])
        .collect();
    for shift in [1, 2, 3, 39, 41, 60, 61, 62, 63, 64, 90, 200] {
        let host = Statistics::from_parts(vec![full; sums.len()], sums.clone(), 1, -149).expect("within weights");
        let mut device = upload(gpu, &host);
        let there = upload(gpu, &host);
        let mut host = host;
        host.coarsen(-149 + shift);
        device.coarsen(gpu, -149 + shift).expect("fits");
        assert_same(gpu, &device, &host, &format!("by {shift}"));
        // -- by exponents that only the device knows; then by a smaller one, which changes nothing
        let exponent = gpu.upload(&[-149i32]);
        for needed in [-149 + shift, -149] {
            let (needed, coarser) = (gpu.upload(&[needed]), there.as_parts().1);
            let args = [(sums.len() as u64).into(), (&exponent).into(), (&needed).into(), coarser.into()];
            gpu.run("ema", "coarsen_there", sums.len(), 256, &args);
            gpu.run("ema", "exponent_raise", 1, 1, &[(&needed).into(), (&exponent).into()]);
            assert_eq!(gpu.read(&exponent), [-149 + shift]);
            assert_eq!(gpu.read(coarser), host.as_parts().1, "by {shift}, there");
        }
    }
}

/// Statistics, sizes and means of every kind, for `codes` codes.
fn means(gpu: &Gpu) {
    for &(codes, dim, exponent, decay) in &[
        (1, 1, 0, 0.99),
        (40, 3, 5, 0.0),
        (37, 8, 0, 0.99),
        (50, 32, 128, 0.9),
        (21, 33, -149, 0.5),
        (9, 100, 60, 0.99),
    ] {
        let context = format!("{codes} x {dim}, 2^{exponent}");
        let case = case(3 * codes, dim, codes, exponent);
        let mut statistics = Statistics::new(codes, dim, exponent).expect("shapes");
        Batch::of(gpu, &case, true, 9).add_to_host(&mut statistics).expect(&context);
        let device = upload(gpu, &statistics);
        let sizes: Vec<f32> = paint(codes, 4).iter().map(|x| if *x < 0.0 { 0.0 } else { *x }).collect();
        for hostile_means in [false, true] {
            let start = if hostile_means { hostile(codes, dim, 8) } else { paint(codes * dim, 8) };
            for cosine in [false, true] {
                let context = format!("{context}, hostile: {hostile_means}, cosine: {cosine}");
                let (mut mean, mut direction) = (start.clone(), paint(codes * dim, 7));
                let (mut tuned, mut tuned_direction) = (gpu.mat_room(codes, dim), gpu.mat_room(codes, dim));
                gpu.fill(&mut tuned, &mean);
                gpu.fill(&mut tuned_direction, &direction);
                let (mut plain, mut plain_direction) = (gpu.upload(&mean), gpu.upload(&direction));
                let to = cosine.then(|| mat_mut(&mut direction, codes, dim));
                ema::update_means(&Cpu::new(), decay, &statistics, &sizes, mat_mut(&mut mean, codes, dim), to)
                    .expect("shapes");
                let device_sizes = gpu.slice(&sizes);
                let to = cosine.then_some(&mut tuned_direction);
                gpu_ema::update_means(gpu, decay, &device, &device_sizes, &mut tuned, to).expect("shapes");
                let (weights, sums) = device.as_parts();
                let to = if cosine { Arg::from(&mut plain_direction) } else { Arg::U64(0) };
                let args = [
                    decay.into(),
                    weights.into(),
                    sums.into(),
                    codes.into(),
                    dim.into(),
                    exponent.into(),
                    (&device_sizes).into(),
                    (&mut plain).into(),
                    to,
                ];
                gpu.run("ema", "update_means_ref", codes, 64, &args);
                assert_same_bits(&gpu.read_mat(&mut tuned), &mean, &context);
                assert_same_bits(&gpu.read_mat(&mut tuned_direction), &direction, &context);
                assert_same_bits(&gpu.read(&plain), &mean, &format!("{context}, reference"));
                assert_same_bits(&gpu.read(&plain_direction), &direction, &format!("{context}, reference"));
            }
        }
    }
}

fn activity(gpu: &Gpu) {
    let decay = 0.99;
    let mut rng = Rng::new(5, 5);
    // The last: totals that need more than 63 bits, and are rounded.
    for (codes, bits) in [(1, 3), (300, 20), (1000, 41), (40_000, 62), (4_097, 21), (4_097, 22)] {
        let mut weights: Vec<i64> = (0..codes)
            .map(|k| if k % 3 == 0 { 0 } else { (rng.next_u64() >> (64 - bits)) as i64 | (k as i64 & 1) })
            .collect();
        if codes == 4_097 {
            // 2⁷⁴ and half a unit of its last place: a tie; and a little more: none.
            weights.fill(1 << 62);
            weights[77] = (1 << 21) + (bits - 21);
        }
        let statistics = Statistics::from_parts(weights, vec![0; codes], 1, 0).expect("weights up to 2^62");
        let device = upload(gpu, &statistics);
        let mut host = Activity::new(codes);
        let rooms = (gpu.room(codes), gpu.room(codes), gpu.room(codes), gpu.room(1));
        let mut tuned = DeviceActivity::new_in(gpu, rooms.0, rooms.1, rooms.2, rooms.3).expect("shapes");
        let start: Vec<f32> = (0..codes).map(|k| [0.0, 1e-30, 8e-31, 1e-38, 5.0][k % 5]).collect();
        host.cluster_size.copy_from_slice(&start);
        tuned.cluster_size = gpu.upload(&start);
        let (size, exposure) = (gpu.upload(&start), gpu.upload(&vec![0f32; codes]));
        let (last_seen, rows_seen) = (gpu.upload(&vec![0f64; codes]), gpu.upload(&[0f64]));
        let mut scratch = gpu.room(observe_scratch_len());
        for step in 0..2 {
            let context = format!("{codes} codes of {bits} bits, step {step}");
            host.observe(decay, &statistics).expect("shapes");
            tuned.observe(gpu, decay, &device, &mut scratch).expect("shapes");
            let weights = device.as_parts().0;
            let args = [
                decay.into(),
                weights.into(),
                codes.into(),
                (&size).into(),
                (&exposure).into(),
                (&last_seen).into(),
                (&rows_seen).into(),
            ];
            gpu.run("ema", "observe_ref", 1, 1, &args);
            for (size, exposure) in [(&tuned.cluster_size, &tuned.exposure), (&size, &exposure)] {
                assert_same_bits(&gpu.read(size), &host.cluster_size, &context);
                assert_same_bits(&gpu.read(exposure), &host.exposure, &context);
            }
            for (last, rows) in [(&tuned.last_seen, &tuned.rows_seen), (&last_seen, &rows_seen)] {
                assert_same_bits64(&gpu.read(last), &host.last_seen, &context);
                assert_same_bits64(&gpu.read(rows), &[host.rows_seen], &context);
            }
        }
    }
}

#[test]
fn same_bits() {
    let gpu = Gpu::default();
    accumulation(&gpu);
    coarsening(&gpu);
    means(&gpu);
    activity(&gpu);
    gpu.assert_all_ran("ema");
}

/// The data's faults: the CPU's error, from the tuned and the reference kernel, and nothing of such rows added.
#[test]
fn the_exponent_is_of_counted_rows() {
    let gpu = Gpu::default();
    for (rows, dim) in [(40, 1), (40, 3), (70, 9), (40, 33)] {
        for odd in 0..rows {
            // One row far above all others, that has no code.
            let mut x = grid(rows * dim, odd as u64, 64);
            x[odd * dim + odd % dim] = 1e9;
            let codes: Vec<u32> = (0..rows).map(|row| if row == odd { NO_CODE } else { 0 }).collect();
            let expected = ema::exponent(mat(&x, rows, dim), &codes, None).expect("shapes");
            assert!(expected <= 0);
            let mut out = gpu.room::<i32>(1);
            gpu_ema::exponent(&gpu, &gpu.mat(&x, rows, dim), &gpu.slice(&codes), None, &mut out).expect("shapes");
            assert_eq!(gpu.read(&out), [expected], "row {odd} of {rows} x {dim}");
        }
    }
}

#[test]
fn the_status_names_the_cpus_errors() {
    let gpu = Gpu::default();
    let (rows, dim, codes) = (40, 5, 3);
    let good = || (vec![0.25; rows * dim], vec![1u32; rows], Some(vec![1.0; rows]));
    let mut far = good();
    far.0[17 * dim + 3] = -1.5;
    far.0[17 * dim + 4] = 2.0;
    let mut heavy = good();
    heavy.2.as_mut().expect("weights")[30] = 1.5;
    let mut nan = good();
    nan.2.as_mut().expect("weights")[7] = f32::NAN;
    let mut code = good();
    code.1[12] = codes as u32;
    for (x, codes_of, weights) in [far, heavy, nan, code] {
        let batch = Batch::new(&gpu, x, codes_of, weights, dim);
        let mut host = Statistics::new(codes, dim, 0).expect("shapes");
        let expected = batch.add_to_host(&mut host);
        assert!(expected.is_err());
        let mut device = empty(&gpu, codes, dim, 0);
        batch.add_to(&gpu, &mut device);
        assert_eq!(gpu.check(), expected.clone().map(drop));
        assert_eq!(gpu.read(device.as_parts().0)[1], (rows as i64 - 1) * ONE);
        assert_eq!(gpu.read(device.as_parts().1)[dim + 2], (rows as i64 - 1) * (ONE / 4));
        let device = empty(&gpu, codes, dim, 0);
        batch.add_by_reference(&gpu, &device);
        assert_eq!(gpu.check(), expected.map(drop), "reference");
        assert_eq!(gpu.read(device.as_parts().0)[1], (rows as i64 - 1) * ONE);
    }
    let x = gpu.mat(&[1.0f32], 1, 1);
    let mut out = gpu.room(1);
    gpu_ema::exponent(&gpu, &x, &gpu.slice(&[0]), Some(&gpu.slice(&[2.0])), &mut out).expect("shapes");
    let expected = ema::exponent(mat(&[1.0], 1, 1), &[0], Some(&[2.0])).map(drop);
    assert_eq!(gpu.check(), expected);
}

#[test]
fn elements_beyond_the_exponent_are_refused_at_both_ends() {
    let gpu = Gpu::default();
    let least = f32::from_bits(1);
    for (exponent, within, beyond) in [
        (-149, least, 2.0 * least),
        (-127, f32::MIN_POSITIVE / 2.0, f32::MIN_POSITIVE),
        (-126, f32::MIN_POSITIVE, f32::MIN_POSITIVE + least),
        (0, 1.0, 1.0f32.next_up()),
        (127, -2f32.powi(127), -f32::MAX),
    ] {
        for (at, dim) in [(0, 1), (8, 3), (67, 34)] {
            let mut x = vec![within; 40 * dim];
            for fault in [false, true] {
                let mut host = Statistics::new(2, dim, exponent).expect("shapes");
                if fault {
                    x[at] = beyond;
                }
                let batch = Batch::new(&gpu, x.clone(), vec![1; 40], None, dim);
                let expected = batch.add_to_host(&mut host).map(drop);
                assert_eq!(expected.is_err(), fault);
                let mut device = empty(&gpu, 2, dim, exponent);
                batch.add_to(&gpu, &mut device);
                assert_eq!(gpu.check(), expected, "2^{exponent}");
                if !fault {
                    assert_same(&gpu, &device, &host, &format!("2^{exponent}"));
                }
                batch.add_by_reference(&gpu, &empty(&gpu, 2, dim, exponent));
                assert_eq!(gpu.check(), expected, "2^{exponent}, reference");
            }
        }
    }
}

#[test]
fn counts_at_their_ends() {
    let gpu = Gpu::default();
    // -- rows that are left out: NaN in each of 40
    let (rows, dim) = (40, 2);
    let mut device = empty(&gpu, 3, dim, 0);
    let (x, codes) = (gpu.mat(&vec![f32::NAN; rows * dim], rows, dim), gpu.slice(&vec![1u32; rows]));
    for (before, after) in [(0, 40), (u32::MAX - 40, u32::MAX), (u32::MAX - 39, u32::MAX), (u32::MAX, u32::MAX)] {
        let mut left_out = gpu.upload(&[before]);
        device.accumulate(&gpu, &x, &codes, None, Some(&mut left_out)).expect("shapes");
        assert_eq!(gpu.read(&left_out), [after]);
    }
    gpu.check().expect("nothing noted");
    // -- totals that no rows give, whose sum is beyond i64
    for weights in [[i64::MAX, 0, 0], [1 << 62, 0, 0]] {
        let far = |weights: &[i64]| {
            let (weights, sums) = (gpu.upload(weights), gpu.upload(&[0i64; 6]));
            DeviceStatistics::from_parts(weights, sums, dim, 0).expect("shapes")
        };
        let mut device = far(&weights);
        device.merge(&gpu, &far(&[i64::MAX, 1, 0])).expect("shapes");
        assert_eq!(gpu.check(), Err(Error::Overflow { op: "merge", code: 0 }));
        assert_eq!(gpu.read(device.as_parts().0), [weights[0], 1, 0]);
    }
}

#[test]
fn a_full_code_is_refused() {
    let gpu = Gpu::default();
    let full = 1i64 << 62;
    let (rows, dim) = (70, 2);
    // Room for 0, 69 and 70 more rows.
    for (left, fits) in [(0, false), (69, false), (70, true)] {
        let mut host = Statistics::from_parts(vec![full - left * ONE, 0], vec![0; 4], dim, 0).expect("within");
        let batch = Batch::new(&gpu, vec![0.5; rows * dim], vec![0; rows], None, dim);
        let (mut device, plain) = (upload(&gpu, &host), upload(&gpu, &host));
        let expected = batch.add_to_host(&mut host).map(drop);
        assert_eq!(expected.is_ok(), fits);
        batch.add_to(&gpu, &mut device);
        assert_eq!(gpu.check(), expected, "{left} left");
        batch.add_by_reference(&gpu, &plain);
        assert_eq!(gpu.check(), expected, "{left} left, reference");
        for statistics in [&device, &plain] {
            let (weights, sums) = statistics.as_parts();
            let (weight, sum) = (gpu.read(weights)[0], gpu.read(sums)[0]);
            assert!(weight <= full);
            // What was counted was added, and nothing else.
            assert_eq!(sum, (weight - (full - left * ONE)) / 2);
        }
        let other =
            upload(&gpu, &Statistics::from_parts(vec![71 * ONE, ONE], vec![0, 0, 5, 6], dim, 0).expect("within"));
        device.merge(&gpu, &other).expect("shapes");
        assert_eq!(gpu.check(), Err(Error::Overflow { op: "merge", code: 0 }));
        assert_eq!(gpu.read(device.as_parts().0)[1], ONE);
        assert_eq!(gpu.read(device.as_parts().1)[2..], [5, 6]);
    }
}

#[test]
fn bad_shapes_are_refused_and_no_rows_are_no_work() {
    let gpu = Gpu::default();
    let mut statistics = empty(&gpu, 4, 3, 0);
    let x = gpu.mat(&[1.0f32; 6], 2, 3);
    let codes = gpu.slice(&[0u32, 1]);
    refused(DeviceStatistics::new_in(&gpu, gpu.room(4), gpu.room(11), 3, 0).map(drop));
    refused(DeviceStatistics::new_in(&gpu, gpu.room(4), gpu.room(0), 0, 0).map(drop));
    refused(statistics.accumulate(&gpu, &gpu.mat(&[1.0f32; 4], 2, 2), &codes, None, None));
    refused(statistics.accumulate(&gpu, &x, &gpu.slice(&[0]), None, None));
    refused(statistics.accumulate(&gpu, &x, &codes, Some(&gpu.slice(&[1.0])), None));
    refused(statistics.accumulate(&gpu, &x, &codes, None, Some(&mut gpu.room(2))));
    refused(statistics.merge(&gpu, &empty(&gpu, 3, 3, 0)));
    refused(statistics.merge(&gpu, &empty(&gpu, 4, 2, 0)));
    refused(statistics.merge(&gpu, &empty(&gpu, 4, 3, 1)));
    refused(gpu_ema::exponent(&gpu, &x, &codes, None, &mut gpu.room(2)));
    let sizes = gpu.slice(&[0f32; 4]);
    refused(gpu_ema::update_means(&gpu, 1.0, &statistics, &sizes, &mut gpu.mat_room(4, 3), None));
    refused(gpu_ema::update_means(&gpu, 0.9, &statistics, &gpu.slice(&[0f32; 3]), &mut gpu.mat_room(4, 3), None));
    refused(gpu_ema::update_means(&gpu, 0.9, &statistics, &sizes, &mut gpu.mat_room(4, 2), None));
    let direction = &mut gpu.mat_room(3, 3);
    refused(gpu_ema::update_means(&gpu, 0.9, &statistics, &sizes, &mut gpu.mat_room(4, 3), Some(direction)));
    refused(DeviceActivity::new_in(&gpu, gpu.room(4), gpu.room(3), gpu.room(4), gpu.room(1)).map(drop));
    let rooms = (gpu.room(4), gpu.room(4), gpu.room(4), gpu.room(1));
    let mut activity = DeviceActivity::new_in(&gpu, rooms.0, rooms.1, rooms.2, rooms.3).expect("shapes");
    let mut scratch = gpu.room(observe_scratch_len());
    refused(activity.observe(&gpu, 0.9, &empty(&gpu, 3, 3, 0), &mut scratch));
    refused(activity.observe(&gpu, -0.1, &statistics, &mut scratch));
    refused(activity.observe(&gpu, 0.9, &statistics, &mut gpu.room(observe_scratch_len() - 1)));
    refused(activity.observe(&gpu, 0.9, &statistics, &mut gpu.room(observe_scratch_len() - 1)));
    let (none, nobody) = (gpu.mat::<f32>(&[], 0, 3), gpu.slice::<u32>(&[]));
    statistics.accumulate(&gpu, &none, &nobody, None, None).expect("no rows");
    let mut out = gpu.room(1);
    gpu_ema::exponent(&gpu, &none, &nobody, None, &mut out).expect("no rows");
    assert_eq!(gpu.read(&out), [-149]);
    let mut nothing = empty(&gpu, 0, 3, 0);
    nothing.clear(&gpu, 0).expect("no codes");
    nothing.coarsen(&gpu, 4).expect("no codes");
    gpu.check().expect("nothing is noted");
}
