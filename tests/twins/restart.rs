//! Restart: the CPU's picks, from the parallel kernels and from the sequential one.

use vq_kernels::cuda::ops::ema::DeviceActivity;
use vq_kernels::cuda::ops::restart::{DeviceRestarted, Step, restart_scratch_len};
use vq_kernels::cuda::ops::{self as gpu_ops};
use vq_kernels::cuda::{Arg, Queue};
use vq_kernels::ops::ema::Activity;
use vq_kernels::ops::restart::{Restarted, Rule, restart, scratch_len};
use vq_kernels::rng::Rng;
use vq_kernels::{NO_CODE, Result};

use crate::common::{assert_same_bits, assert_same_bits64, grid, mat, mat_mut};
use crate::support::{Gpu, refused};

/// Number of the op in the kernels' status.
const RESTART: u32 = 6;

#[derive(Clone)]
struct Case {
    x: Vec<f32>,
    codes: Vec<u32>,
    weights: Option<Vec<f32>>,
    rule: Rule,
    step: u64,
    activity: Activity<Vec<f32>, Vec<f64>>,
    codebook: Vec<f32>,
    mean: Option<Vec<f32>>,
    dim: usize,
    log: usize,
}

/// What is there afterwards.
struct After {
    activity: Activity<Vec<f32>, Vec<f64>>,
    codebook: Vec<f32>,
    mean: Option<Vec<f32>>,
    log: Vec<DeviceRestarted>,
    summary: [u32; 2],
}

fn shape(rows: usize, codes: usize, dim: usize) -> [usize; 3] {
    [rows, codes, dim]
}

impl Case {
    /// Rows and a codebook of few values, so that rows equal each other and their codes; a third of the codes
    /// stale, none of them hit where `observed`.
    fn new([rows, codes, dim]: [usize; 3], levels: u32, observed: bool, log: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed, 77);
        let mut activity = Activity::new(codes);
        activity.rows_seen = 20.0 * codes as f64;
        for k in 0..codes {
            let (size, exposure, last) = match rng.below(6) {
                // Unhit for long, and of little share: stale.
                0 => (0.01, codes as f32, 1.0),
                1 => (0.0, 0.0, 0.0),
                // A fair share; hit lately; just at the patience; not a number.
                2 => (1.0, codes as f32, 0.0),
                3 => (0.0, codes as f32, activity.rows_seen),
                4 => (0.03, codes as f32, activity.rows_seen - 8.0 * codes as f64),
                _ => (if k % 5 == 0 { f32::NAN } else { 0.5 }, 1.0, activity.rows_seen),
            };
            (activity.cluster_size[k], activity.exposure[k], activity.last_seen[k]) = (size, exposure, last);
        }
        let rule = Rule { seed: seed ^ 0xABCD_EF01_2345_6789, ..Rule::default() };
        let stale = |k: u32| {
            let k = k as usize;
            activity.expected_hits(k) >= rule.patience
                && (activity.relative_use(k) < rule.share || activity.relative_use(k).is_nan())
        };
        let of: Vec<u32> = (0..rows)
            .map(|_| match rng.below(10) {
                0 => NO_CODE,
                _ => match rng.below(codes as u64) as u32 {
                    k if observed && stale(k) => NO_CODE,
                    k => k,
                },
            })
            .collect();
        let mut x = grid(rows * dim, seed + 1, levels);
        for row in 0..rows {
            match rng.below(23) {
                0 if dim > 0 => x[row * dim + dim - 1] = [f32::NAN, f32::INFINITY, -0.0][row % 3],
                _ => {}
            }
        }
        let weights =
            seed.is_multiple_of(2).then(|| (0..rows).map(|_| [0.0, 1.0, 0.5, 1e-40][rng.below(4) as usize]).collect());
        let codebook = grid(codes * dim, seed + 2, levels);
        let mean = (!seed.is_multiple_of(3)).then(|| grid(codes * dim, seed + 3, levels));
        Self { x, codes: of, weights, rule, step: seed * 0x1_0000_0001, activity, codebook, mean, dim, log }
    }

    fn shape(&self) -> [usize; 3] {
        [self.codes.len(), self.activity.cluster_size.len(), self.dim]
    }

    fn on_the_cpu(&self) -> Result<After> {
        let [rows, k, dim] = self.shape();
        let Self { mut activity, mut codebook, mut mean, .. } = self.clone();
        let (mut scratch, mut log) = (vec![0; scratch_len(rows)], vec![Restarted::default(); self.log]);
        let summary = restart(
            mat(&self.x, rows, dim),
            &self.codes,
            self.weights.as_deref(),
            &self.rule,
            self.step,
            &mut activity,
            mat_mut(&mut codebook, k, dim),
            mean.as_mut().map(|mean| mat_mut(mean, k, dim)),
            &mut scratch,
            &mut log,
        )?;
        let entry = |of: &Restarted| DeviceRestarted {
            code: of.code,
            row: of.row,
            relative_use: of.relative_use,
            expected_hits: of.expected_hits,
        };
        let log = log[..summary.restarted].iter().map(entry).collect();
        Ok(After { activity, codebook, mean, log, summary: [summary.stale as u32, summary.restarted as u32] })
    }

    /// By the op, or by the sequential kernel alone; and whether the op had to go on to that.
    fn on_the_gpu(&self, gpu: &Gpu, sequential: bool) -> (After, bool) {
        let [rows, k, dim] = self.shape();
        let (x, codes) = (gpu.mat(&self.x, rows, dim), gpu.slice(&self.codes));
        let weights = self.weights.as_ref().map(|weights| gpu.slice(weights));
        let of = &self.activity;
        let mut activity = DeviceActivity {
            cluster_size: gpu.upload(&of.cluster_size),
            exposure: gpu.upload(&of.exposure),
            last_seen: gpu.upload(&of.last_seen),
            rows_seen: gpu.upload(&[of.rows_seen]),
        };
        let (mut codebook, mut mean) = (gpu.mat_room(k, dim), gpu.mat_room(k, dim));
        gpu.fill(&mut codebook, &self.codebook);
        if let Some(values) = &self.mean {
            gpu.fill(&mut mean, values);
        }
        let mut scratch = gpu.room::<u32>(restart_scratch_len(rows, k));
        let (mut log, mut summary) = (gpu.room::<DeviceRestarted>(self.log), gpu.room::<u32>(2));
        let to = self.mean.is_some().then_some(&mut mean);
        let mut went_on = false;
        if sequential {
            let table = gpu.room::<u32>(scratch_len(rows));
            let half_bits = (64 - (rows.max(1) as u64 - 1).leading_zeros()).div_ceil(2).max(1);
            let args = [
                (&x).into(),
                (&codes).into(),
                weights.as_ref().into(),
                rows.into(),
                dim.into(),
                k.into(),
                self.rule.share.into(),
                self.rule.patience.into(),
                self.rule.seed.into(),
                self.step.into(),
                Arg::U64(0),
                half_bits.into(),
                (&activity.cluster_size).into(),
                (&activity.exposure).into(),
                (&activity.last_seen).into(),
                (&activity.rows_seen).into(),
                (&mut codebook).into(),
                to.map_or(Arg::U64(0), Arg::from),
                Arg::U64(0),
                table.len().into(),
                (&table).into(),
                (&log).into(),
                self.log.into(),
                RESTART.into(),
                (&summary).into(),
                gpu.status().into(),
            ];
            gpu.run("restart", "restart_ref", 1, 64, &args);
        } else {
            let (rule, there) = (&self.rule, gpu.slice(&[self.step]));
            let step = if self.step.is_multiple_of(2) { Step::Here(self.step) } else { Step::There(&there) };
            let (log, summary) = (&mut log, &mut summary);
            let state = &mut activity;
            let weights = weights.as_ref();
            gpu_ops::restart(
                gpu,
                &x,
                &codes,
                weights,
                rule,
                step,
                state,
                &mut codebook,
                to,
                &mut scratch,
                log,
                summary,
            )
            .expect("shapes");
            // The head: how many codes are stale, and the flag.
            // SAFETY: the scratch is there for good, and nobody else reads it.
            let head = gpu.read(&unsafe { vq_kernels::cuda::DeviceMut::<u32>::from_raw(scratch.address(), 2) });
            went_on = head[0] > 0 && head[1] > 0;
        }
        let summary = gpu.read(&summary);
        // SAFETY: the entries are within the log, and nobody else reads them.
        let entries = unsafe { vq_kernels::cuda::DeviceMut::from_raw(log.address(), summary[1] as usize) };
        let after = After {
            activity: Activity {
                cluster_size: gpu.read(&activity.cluster_size),
                exposure: gpu.read(&activity.exposure),
                last_seen: gpu.read(&activity.last_seen),
                rows_seen: gpu.read(&activity.rows_seen)[0],
            },
            codebook: gpu.read_mat(&mut codebook),
            mean: self.mean.is_some().then(|| gpu.read_mat(&mut mean)),
            log: gpu.read(&entries),
            summary: [summary[0], summary[1]],
        };
        (after, went_on)
    }
}

#[track_caller]
fn assert_same(got: &After, expected: &After, context: &str) {
    assert_eq!(got.summary, expected.summary, "{context}");
    assert_eq!(got.log, expected.log, "{context}");
    assert_same_bits(&got.codebook, &expected.codebook, context);
    assert_eq!(got.mean, expected.mean, "{context}");
    assert_same_bits(&got.activity.cluster_size, &expected.activity.cluster_size, context);
    assert_same_bits(&got.activity.exposure, &expected.activity.exposure, context);
    assert_same_bits64(&got.activity.last_seen, &expected.activity.last_seen, context);
    assert_eq!(got.activity.rows_seen, expected.activity.rows_seen);
}

#[test]
fn same_picks() {
    let gpu = Gpu::default();
    let shapes = [
        shape(1, 1, 1),
        shape(70, 40, 3),
        shape(300, 60, 1),
        shape(64, 200, 2),
        shape(33, 20, 8),
        shape(520, 700, 4),
        shape(130, 1100, 5),
        shape(1300, 90, 2),
        shape(100, 30, 32),
        shape(41, 50, 33),
        shape(20, 12, 100),
        shape(0, 9, 4),
    ];
    let (mut sequential, mut parallel, mut restarted) = (0, 0, 0);
    for (seed, shape) in (0u64..).zip(shapes) {
        for (levels, observed, log) in
            [(1, true, 2000), (40, true, 2000), (1, false, 2000), (2, false, 5), (3, true, 3), (40, true, 0)]
        {
            let case = Case::new(shape, levels, observed, log, seed);
            let context = format!("{shape:?}, {levels} levels, observed: {observed}, log of {log}, seed {seed}");
            let expected = case.on_the_cpu().expect(&context);
            let (got, went_on) = case.on_the_gpu(&gpu, false);
            assert_same(&got, &expected, &context);
            assert!(!(observed && went_on), "{context}");
            assert_same(&case.on_the_gpu(&gpu, true).0, &expected, &format!("reference, {context}"));
            gpu.check().expect(&context);
            sequential += usize::from(went_on);
            parallel += usize::from(!went_on);
            restarted += expected.summary[1];
        }
    }
    // Both ways were gone, and had something to do.
    assert!(sequential > 5 && parallel > 30 && restarted > 500, "{sequential}, {parallel}, {restarted}");
    gpu.assert_all_ran("restart");
}

/// A row that equals its own stale code's old value is a donor once that code has been replaced, and only then.
#[test]
fn a_row_of_a_code_that_is_replaced_before_it() {
    let gpu = Gpu::default();
    let mut ways = [0, 0];
    for step in 0..24 {
        let mut case = Case::new(shape(3, 3, 1), 40, false, 3, 1);
        case.activity.cluster_size.fill(0.0);
        case.activity.exposure.fill(3.0);
        case.activity.last_seen.fill(0.0);
        (case.step, case.codebook) = (step, vec![1.0, 2.0, 3.0]);
        (case.x, case.codes) = (vec![1.0, 7.0, 2.0], vec![0, 2, 1]);
        let expected = case.on_the_cpu().expect("shapes");
        let (got, went_on) = case.on_the_gpu(&gpu, false);
        assert!(went_on);
        assert_same(&got, &expected, &format!("step {step}"));
        ways[usize::from(expected.summary[1] > 1)] += 1;
    }
    assert!(ways[0] > 0 && ways[1] > 0, "{ways:?}");
}

/// All rows alike, rows that equal their codes, and nothing stale.
#[test]
fn few_donors_or_none() {
    let gpu = Gpu::default();
    let mut case = Case::new(shape(200, 100, 3), 40, true, 100, 1);
    case.x.iter_mut().for_each(|x| *x = -0.0);
    case.x[3] = 0.0;
    let expected = case.on_the_cpu().expect("shapes");
    assert_eq!(expected.summary[1], 1);
    assert_same(&case.on_the_gpu(&gpu, false).0, &expected, "one value");
    let mut case = Case::new(shape(200, 100, 3), 40, true, 100, 1);
    for (row, &code) in case.codes.iter().enumerate().filter(|(_, code)| **code != NO_CODE) {
        let (from, to) = (code as usize * 3, row * 3);
        case.x[to..to + 3].copy_from_slice(&case.codebook[from..from + 3]);
    }
    let expected = case.on_the_cpu().expect("shapes");
    assert!(expected.summary[0] > 0 && expected.summary[1] == 0);
    assert_same(&case.on_the_gpu(&gpu, false).0, &expected, "rows equal to their codes");
    let mut case = Case::new(shape(200, 100, 3), 40, true, 100, 1);
    case.activity.last_seen.fill(case.activity.rows_seen);
    // Nothing stale: rows are not looked at.
    case.codes[5] = 100;
    let (got, _) = case.on_the_gpu(&gpu, false);
    gpu.check().expect("rows are not looked at");
    case.codes[5] = 99;
    assert_same(&got, &case.on_the_cpu().expect("shapes"), "nothing stale");
}

#[test]
fn the_status_names_the_cpus_errors() {
    let gpu = Gpu::default();
    let case = Case::new(shape(50, 40, 3), 40, true, 100, 1);
    let mut code = case.clone();
    code.codes[31] = 40;
    let mut weight = case.clone();
    weight.weights = Some(vec![1.0; 50]);
    weight.weights.as_mut().expect("weights")[8] = -0.5;
    for case in [code, weight] {
        let expected = case.on_the_cpu().map(drop);
        assert!(expected.is_err());
        case.on_the_gpu(&gpu, false);
        assert_eq!(gpu.check(), expected);
    }
}

#[test]
fn bad_shapes_are_refused() {
    let gpu = Gpu::default();
    let rule = Rule::default();
    let (rows, k, dim) = (4, 3, 2);
    let needed = restart_scratch_len(rows, k);
    let activity = |k: usize| DeviceActivity::new_in(&gpu, gpu.room(k), gpu.room(k), gpu.room(k), gpu.room(1));
    let go = |columns, codes: usize, weights: usize, of: usize, mean: usize, scratch, summary, rule: &Rule| {
        let x = gpu.mat(&vec![0f32; rows * columns], rows, columns);
        let (codes, weights) = (gpu.slice(&vec![0u32; codes]), gpu.slice(&vec![1f32; weights]));
        let mut book = gpu.mat_room(k, dim);
        gpu.fill(&mut book, &[0f32; 6]);
        let (mut mean, mut activity) = (gpu.mat_room(mean, dim), activity(of).expect("shapes"));
        let (mut scratch, mut log, mut summary) = (gpu.room(scratch), gpu.room(k), gpu.room(summary));
        let (state, mean) = (&mut activity, Some(&mut mean));
        let weights = Some(&weights);
        gpu_ops::restart(
            &gpu,
            &x,
            &codes,
            weights,
            rule,
            0_u64,
            state,
            &mut book,
            mean,
            &mut scratch,
            &mut log,
            &mut summary,
        )
    };
    go(2, 4, 4, 3, 3, needed, 2, &rule).expect("shapes");
    refused(go(3, 4, 4, 3, 3, needed, 2, &rule));
    refused(go(2, 3, 4, 3, 3, needed, 2, &rule));
    refused(go(2, 4, 5, 3, 3, needed, 2, &rule));
    refused(go(2, 4, 4, 2, 3, needed, 2, &rule));
    refused(go(2, 4, 4, 3, 2, needed, 2, &rule));
    refused(go(2, 4, 4, 3, 3, needed - 1, 2, &rule));
    refused(go(2, 4, 4, 3, 3, needed, 1, &rule));
    refused(go(2, 4, 4, 3, 3, needed, 2, &Rule { patience: 0.0, ..rule }));
    refused(go(2, 4, 4, 3, 3, needed, 2, &Rule { share: f64::NAN, ..rule }));
    assert_eq!(restart_scratch_len((1 << 30) + 1, 1), usize::MAX);
}
