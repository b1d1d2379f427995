//! Counts, pruning and renumbering: CPU = PTX, tuned and reference.

use bytemuck::Pod;
use vq_kernels::cuda::ops::usage as gpu_usage;
use vq_kernels::cuda::{Arg, Queue};
use vq_kernels::ops::usage::{self, Usage};
use vq_kernels::rng::Rng;
use vq_kernels::{Code, NO_CODE};

use crate::support::{Gpu, refused};

/// Numbers of the ops in the kernels' status.
const COUNT: u32 = 7;
const COMPACT: u32 = 8;

fn some_codes(rows: usize, codes: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed, 1);
    let mut code = 0;
    let mut next = |_| {
        if rng.below(2) > 0 {
            code = rng.below(codes as u64) as u32;
        }
        if rng.below(9) == 0 { NO_CODE } else { code }
    };
    (0..rows).map(&mut next).collect()
}

fn counting<C: Code + Pod>(gpu: &Gpu, reference: &'static str) {
    for (rows, codes) in [(1, 1), (31, 5), (300, 1), (1000, 70), (513, 4000)] {
        for weighted in [false, true] {
            let of: Vec<C> = some_codes(rows, codes, 4).into_iter().map(C::from_u32).collect();
            let weights: Option<Vec<f32>> =
                weighted.then(|| (0..rows).map(|row| [0.0, -0.0, 1.0, 1e-40, 0.5][row % 7 % 5]).collect());
            let mut expected = vec![7; codes];
            usage::count(&of, weights.as_deref(), &mut expected).expect("codes exist");
            let (device, weights) = (gpu.slice(&of), weights.map(|weights| gpu.slice(&weights)));
            let mut counts = gpu.upload(&vec![7u64; codes]);
            gpu_usage::count(gpu, &device, weights.as_ref(), &mut counts).expect("shapes");
            assert_eq!(gpu.read(&counts), expected, "{rows} rows, {codes} codes");
            let counts = gpu.upload(&vec![7u64; codes]);
            let args = [
                (&device).into(),
                weights.as_ref().into(),
                rows.into(),
                codes.into(),
                COUNT.into(),
                (&counts).into(),
                gpu.status().into(),
            ];
            gpu.run("usage", reference, rows, 64, &args);
            assert_eq!(gpu.read(&counts), expected, "{rows} rows, {codes} codes, reference");
            gpu.check().expect("all codes exist");
        }
    }
}

/// Counts near the most that there is stay there, by however many rows, runs and warps it is passed.
#[test]
fn a_full_count_stays_full() {
    let gpu = Gpu::default();
    let full = u64::MAX;
    let before = [full, full - 1, full - 40, full - 600, full - 5000, 1 << 63, 0, full - 299];
    let (rows, codes) = (3000, before.len());
    for seed in 0..3 {
        let mut of = some_codes(rows, codes, seed);
        // Runs within a warp, and one code in every other row.
        of[64..200].fill(2);
        of.iter_mut().skip(1000).step_by(2).for_each(|code| *code = 7);
        let mut expected = before;
        usage::count(&of, None, &mut expected).expect("codes exist");
        assert_eq!([expected[0], expected[1], expected[2], expected[7]], [full; 4]);
        assert!(expected[4] < full);
        let (of, mut counts) = (gpu.slice(&of), gpu.upload(&before));
        gpu_usage::count(&gpu, &of, None, &mut counts).expect("shapes");
        assert_eq!(gpu.read(&counts), expected);
        let counts = gpu.upload(&before);
        let none = Arg::Address { address: 0, owner: 0 };
        let args = [(&of).into(), none, rows.into(), codes.into(), COUNT.into(), (&counts).into(), gpu.status().into()];
        gpu.run("usage", "count_ref_u32", rows, 64, &args);
        assert_eq!(gpu.read(&counts), expected, "reference");
        gpu.check().expect("all codes exist");
    }
}

fn pruning(gpu: &Gpu) {
    for codes in [0usize, 1, 5, 1000, 4096, 4097, 9000] {
        let mut rng = Rng::new(codes as u64, 3);
        let counts: Vec<u64> = (0..codes).map(|_| [0, 0, 1, 3, u64::MAX, 1 << 32][rng.below(6) as usize]).collect();
        let device = gpu.slice(&counts);
        let used = Usage::of(&counts).active as u32;
        let mut out = gpu.room::<u32>(1);
        gpu_usage::active(gpu, &device, &mut out).expect("shapes");
        assert_eq!(gpu.read(&out), [used], "{codes} codes");
        let mut out = gpu.room::<u32>(1);
        gpu.run("usage", "active_ref", 1, 1, &[(&device).into(), codes.into(), (&mut out).into()]);
        assert_eq!(gpu.read(&out), [used], "{codes} codes, reference");
        for at_least in [0, 1, 2, u64::MAX] {
            let mut remap = vec![0; codes];
            let kept = usage::prune(&counts, at_least, &mut remap).expect("shapes");
            let (mut device_remap, mut device_kept) = (gpu.room(codes), gpu.room(1));
            gpu_usage::prune(gpu, &device, at_least, &mut device_remap, &mut device_kept).expect("shapes");
            assert_eq!(gpu.read(&device_remap), remap, "{codes} codes, at least {at_least}");
            assert_eq!(gpu.read(&device_kept), [kept as u32]);
            let (plain, plain_kept) = (gpu.room::<u32>(codes), gpu.room::<u32>(1));
            let args = [(&device).into(), codes.into(), at_least.into(), (&plain).into(), (&plain_kept).into()];
            gpu.run("usage", "prune_ref", 1, 1, &args);
            assert_eq!((gpu.read(&plain), gpu.read(&plain_kept)), (remap.clone(), vec![kept as u32]), "reference");
            compacting(gpu, &remap, kept);
        }
    }
}

fn compacting(gpu: &Gpu, remap: &[u32], kept: usize) {
    let codes = remap.len();
    let mut rng = Rng::new(codes as u64, 8);
    let device_remap = gpu.slice(remap);
    for dim in [1, 3] {
        let table: Vec<f32> = (0..codes * dim).map(|_| rng.normal()).collect();
        let mut expected = table.clone();
        usage::compact(&mut expected, dim, remap).expect("numbered in order");
        let mut out = gpu.room(kept * dim);
        gpu_usage::compact(gpu, &gpu.slice(&table), dim, &device_remap, &mut out).expect("shapes");
        assert_eq!(gpu.read(&out), expected[..kept * dim], "{codes} codes of {dim}");
        let bytes: Vec<u8> = (0..codes * dim).map(|i| (i % 251) as u8).collect();
        let mut expected = bytes.clone();
        usage::compact(&mut expected, dim, remap).expect("numbered in order");
        let mut out = gpu.room(kept * dim);
        gpu_usage::compact(gpu, &gpu.slice(&bytes), dim, &device_remap, &mut out).expect("shapes");
        assert_eq!(gpu.read(&out), expected[..kept * dim], "{codes} codes of {dim} bytes");
        let out = gpu.room::<u8>(kept * dim);
        let args = [
            (&gpu.slice(&bytes)).into(),
            (&device_remap).into(),
            codes.into(),
            (dim as u64).into(),
            COMPACT.into(),
            (&out).into(),
            kept.into(),
            Arg::U64(gpu.status()),
        ];
        gpu.run("usage", "compact_ref", 1, 1, &args);
        assert_eq!(gpu.read(&out), expected[..kept * dim], "{codes} codes of {dim} bytes, reference");
    }
    gpu.check().expect("numbered in order");
}

fn renumbering(gpu: &Gpu) {
    let (rows, codes) = (700, 50);
    let mut of = some_codes(rows, codes, 6);
    let remap: Vec<u32> = (0..codes as u32).map(|k| if k % 3 == 0 { NO_CODE } else { k / 2 }).collect();
    let mut device = gpu.upload(&of);
    gpu_usage::renumber(gpu, &mut device, &gpu.slice(&remap)).expect("shapes");
    usage::renumber(&mut of, &remap).expect("codes exist");
    assert_eq!(gpu.read(&device), of);
    gpu.check().expect("all codes exist");
}

#[test]
fn same_numbers() {
    let gpu = Gpu::default();
    counting::<u32>(&gpu, "count_ref_u32");
    counting::<u16>(&gpu, "count_ref_u16");
    pruning(&gpu);
    renumbering(&gpu);
    gpu.assert_all_ran("usage");
}

#[test]
fn the_status_names_the_cpus_errors() {
    let gpu = Gpu::default();
    let codes = [0u32, 1, 9, 2, 0];
    let mut counts = gpu.upload(&[0u64; 3]);
    gpu_usage::count(&gpu, &gpu.slice(&codes), None, &mut counts).expect("shapes");
    assert_eq!(gpu.check(), usage::count(&codes, None, &mut [0; 3]));
    assert_eq!(gpu.read(&counts), [2, 1, 1]);
    let narrow = [0u16, u16::MAX, 3, 2];
    gpu_usage::count(&gpu, &gpu.slice(&narrow), None, &mut counts).expect("shapes");
    assert_eq!(gpu.check(), usage::count(&narrow, None, &mut [0; 3]));
    assert_eq!(gpu.read(&counts), [3, 1, 2]);
    let weights = [0.5, 1.0, 2.0, 1.0, 1.0];
    let codes = [0u32, 1, 1, 2, 0];
    gpu_usage::count(&gpu, &gpu.slice(&codes), Some(&gpu.slice(&weights)), &mut counts).expect("shapes");
    assert_eq!(gpu.check(), usage::count(&codes, Some(&weights), &mut [0; 3]));
    let mut renumbered = gpu.upload(&[0u32, 3, NO_CODE]);
    gpu_usage::renumber(&gpu, &mut renumbered, &gpu.slice(&[7, 8, 9])).expect("shapes");
    assert_eq!(gpu.check(), usage::renumber(&mut [0, 3, NO_CODE], &[7, 8, 9]));
    assert_eq!(gpu.read(&renumbered), [7, 3, NO_CODE]);
    // -- a remap that prune does not make: the first fault is named, and nothing is moved
    for remap in [vec![0, 2, 1], vec![NO_CODE, 1, NO_CODE], vec![0, 0, 1], vec![0, 1, 7], vec![5, 6, 7]] {
        let mut table = [1.0f32, 2.0, 3.0];
        let expected = usage::compact(&mut table, 1, &remap);
        assert!(expected.is_err());
        let mut out = gpu.upload(&[9.0f32; 3]);
        gpu_usage::compact(&gpu, &gpu.slice(&table), 1, &gpu.slice(&remap), &mut out).expect("shapes");
        assert_eq!(gpu.check(), expected, "{remap:?}");
        assert_eq!(gpu.read(&out), [9.0; 3], "{remap:?}");
        let bytes = gpu.upload(&[9u8; 3]);
        let (table, remap) = (gpu.slice(&[1u8, 2, 3]), gpu.slice(&remap));
        let three: Arg = 3usize.into();
        let args = [
            (&table).into(),
            (&remap).into(),
            three,
            1u64.into(),
            COMPACT.into(),
            (&bytes).into(),
            three,
            gpu.status().into(),
        ];
        gpu.run("usage", "compact_ref", 1, 1, &args);
        assert_eq!(gpu.check(), expected, "reference");
        assert_eq!(gpu.read(&bytes), [9; 3]);
    }
    // -- no room for all
    let mut out = gpu.upload(&[9.0f32; 2]);
    gpu_usage::compact(&gpu, &gpu.slice(&[1.0f32, 2.0, 3.0]), 1, &gpu.slice(&[0, 1, 2]), &mut out).expect("shapes");
    assert!(gpu.check().is_err());
    assert_eq!(gpu.read(&out), [9.0; 2]);
}

#[test]
fn bad_shapes_are_refused_and_no_rows_are_no_work() {
    let gpu = Gpu::default();
    let (codes, mut counts) = (gpu.slice(&[0u32, 1]), gpu.upload(&[0u64; 3]));
    refused(gpu_usage::count(&gpu, &codes, Some(&gpu.slice(&[1.0])), &mut counts));
    refused(gpu_usage::active(&gpu, &counts.as_ref(), &mut gpu.room(2)));
    refused(gpu_usage::prune(&gpu, &counts.as_ref(), 1, &mut gpu.room(2), &mut gpu.room(1)));
    refused(gpu_usage::prune(&gpu, &counts.as_ref(), 1, &mut gpu.room(3), &mut gpu.room(0)));
    let remap = gpu.slice(&[0u32, 1, 2]);
    refused(gpu_usage::compact(&gpu, &gpu.slice(&[0f32; 5]), 2, &remap, &mut gpu.room(6)));
    refused(gpu_usage::compact(&gpu, &gpu.slice(&[0f32; 6]), 2, &remap, &mut gpu.room(5)));
    gpu_usage::count(&gpu, &gpu.slice::<u32>(&[]), None, &mut counts).expect("no rows");
    gpu_usage::renumber(&gpu, &mut gpu.room(0), &remap).expect("no rows");
    gpu_usage::compact(&gpu, &gpu.slice::<f32>(&[]), 0, &remap, &mut gpu.room(0)).expect("no elements");
    assert_eq!(gpu.read(&counts), [0; 3]);
}
