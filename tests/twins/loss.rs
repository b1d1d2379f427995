//! The losses and gradient estimators: CPU = PTX, tuned and reference.

use vq_kernels::cuda::ops::loss as gpu_loss;
use vq_kernels::cuda::{DeviceMatRef, DeviceRef, Queue};
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::{Cpu, NO_CODE};

use crate::common::{assert_same_bits, assert_same_bits64, mat, mat_mut, paint};
use crate::normalize::hostile;
use crate::support::{Gpu, refused};

/// The ops' numbers in `src/cuda/status.rs`.
const ERROR: u32 = 2;
const BACKWARD: u32 = 3;

/// Rows with some equal, some opposite, some hostile; codes with some missing; weights with some zero.
struct Case {
    rows: usize,
    dim: usize,
    x: Vec<f32>,
    q: Vec<f32>,
    g: Vec<f32>,
    codes: Vec<u32>,
    weights: Vec<f32>,
}

impl Case {
    fn new(rows: usize, dim: usize, tame: bool) -> Self {
        let x = if tame { paint(rows * dim, 1) } else { hostile(rows, dim, 1) };
        let mut q = paint(rows * dim, 2);
        for row in 0..rows {
            let (x, q) = (&x[row * dim..][..dim], &mut q[row * dim..][..dim]);
            match row % 6 {
                3 => q.copy_from_slice(x),
                4 => q.iter_mut().zip(x).for_each(|(q, x)| *q = -x),
                5 => q.fill(0.0),
                _ => {}
            }
        }
        let codes = (0..rows as u32).map(|row| if row % 7 == 3 { NO_CODE } else { row }).collect();
        let weights = (0..rows).map(|row| [1.0, 0.25, 0.0, 0.7, -0.0][row % 5]).collect();
        Self { rows, dim, x, q, g: paint(rows * dim, 3), codes, weights }
    }

    fn device(&self, gpu: &Gpu) -> Device {
        let mat = |data: &[f32]| gpu.mat(data, self.rows, self.dim);
        let (codes, weights) = (gpu.slice(&self.codes), gpu.slice(&self.weights));
        Device { x: mat(&self.x), q: mat(&self.q), g: mat(&self.g), codes, weights }
    }
}

struct Device {
    x: DeviceMatRef<'static>,
    q: DeviceMatRef<'static>,
    g: DeviceMatRef<'static>,
    codes: DeviceRef<'static, u32>,
    weights: DeviceRef<'static, f32>,
}

const SHAPES: [(usize, usize); 10] =
    [(16_900, 1), (1, 1), (13, 3), (40, 8), (33, 17), (37, 32), (29, 33), (31, 100), (2500, 2), (1025, 5)];

fn cases() -> impl Iterator<Item = Case> {
    SHAPES.into_iter().flat_map(|(rows, dim)| [true, false].map(|tame| Case::new(rows, dim, tame)))
}

#[test]
fn same_bits() {
    let gpu = Gpu::default();
    for case in cases() {
        let device = case.device(&gpu);
        for weighted in [true, false] {
            squared_error(&gpu, &case, &device, weighted);
            squared_error_backward(&gpu, &case, &device, weighted);
        }
        straight_through(&gpu, &case, &device);
        rotation(&gpu, &case, &device);
    }
    gpu.check().expect("all weights are within 0..=1");
    gpu.assert_all_ran("loss");
}

fn squared_error(gpu: &Gpu, case: &Case, device: &Device, weighted: bool) {
    let (rows, dim) = (case.rows, case.dim);
    let (x, q) = (mat(&case.x, rows, dim), mat(&case.q, rows, dim));
    let mut expected = SquaredError { sum: 1.5, weight: 0.1 };
    let weights = weighted.then_some(&case.weights[..]);
    loss::squared_error(&Cpu::new(), x, q, &case.codes, weights, &mut expected).expect("shapes");
    let expected = [expected.sum, expected.weight];
    let weights = weighted.then_some(&device.weights);
    let mut total = gpu.upload(&[1.5, 0.1]);
    let mut workspace = gpu.room(gpu_loss::squared_error_workspace_len(rows));
    gpu_loss::squared_error(gpu, &device.x, &device.q, &device.codes, weights, &mut total, &mut workspace)
        .expect("shapes");
    let context = format!("{rows} x {dim}, weighted: {weighted}");
    assert_same_bits64(&gpu.read(&total), &expected, &context);
    let total = gpu.upload(&[1.5, 0.1]);
    let args = [
        (&device.x).into(),
        (&device.q).into(),
        (&device.codes).into(),
        weights.into(),
        rows.into(),
        dim.into(),
        (&total).into(),
        gpu.status().into(),
        ERROR.into(),
    ];
    gpu.run("loss", "squared_error_ref", 1, 32, &args);
    assert_same_bits64(&gpu.read(&total), &expected, &format!("reference, {context}"));
}

fn squared_error_backward(gpu: &Gpu, case: &Case, device: &Device, weighted: bool) {
    const SCALE: f32 = 0.3;
    let (rows, dim) = (case.rows, case.dim);
    let (x, q) = (mat(&case.x, rows, dim), mat(&case.q, rows, dim));
    let mut expected = case.g.clone();
    let weights = weighted.then_some(&case.weights[..]);
    let dx = mat_mut(&mut expected, rows, dim);
    loss::squared_error_backward(&Cpu::new(), x, q, &case.codes, weights, SCALE, dx).expect("shapes");
    let weights = weighted.then_some(&device.weights);
    let room = || vq_kernels::cuda::DeviceMatMut::new(gpu.upload(&case.g), rows, dim).expect("as long as g");
    let mut dx = room();
    gpu_loss::squared_error_backward(gpu, &device.x, &device.q, &device.codes, weights, SCALE, &mut dx)
        .expect("shapes");
    let context = format!("{rows} x {dim}, weighted: {weighted}");
    assert_same_bits(&gpu.read_mat(&mut dx), &expected, &context);
    let mut dx = room();
    let args = [
        (&device.x).into(),
        (&device.q).into(),
        (&device.codes).into(),
        weights.into(),
        rows.into(),
        dim.into(),
        SCALE.into(),
        (&mut dx).into(),
        gpu.status().into(),
        BACKWARD.into(),
    ];
    gpu.run("loss", "squared_error_backward_ref", rows, 64, &args);
    assert_same_bits(&gpu.read_mat(&mut dx), &expected, &format!("reference, {context}"));
}

fn straight_through(gpu: &Gpu, case: &Case, device: &Device) {
    let (rows, dim) = (case.rows, case.dim);
    let mut expected = vec![0.0; rows * dim];
    let dx = mat_mut(&mut expected, rows, dim);
    loss::straight_through_backward(&Cpu::new(), &case.codes, mat(&case.g, rows, dim), dx).expect("shapes");
    let mut dx = gpu.mat_room(rows, dim);
    gpu_loss::straight_through_backward(gpu, &device.codes, &device.g, &mut dx).expect("shapes");
    assert_same_bits(&gpu.read_mat(&mut dx), &expected, &format!("{rows} x {dim}"));
    let mut dx = gpu.mat_room(rows, dim);
    let args = [(&device.codes).into(), (&device.g).into(), rows.into(), dim.into(), (&mut dx).into()];
    gpu.run("loss", "straight_through_backward_ref", rows, 64, &args);
    assert_same_bits(&gpu.read_mat(&mut dx), &expected, &format!("reference, {rows} x {dim}"));
}

fn rotation(gpu: &Gpu, case: &Case, device: &Device) {
    let (rows, dim) = (case.rows, case.dim);
    let [x, q, g] = [&case.x, &case.q, &case.g].map(|data| mat(data, rows, dim));
    let mut expected = vec![0.0; rows * dim];
    loss::rotation_backward(&Cpu::new(), x, q, &case.codes, g, mat_mut(&mut expected, rows, dim)).expect("shapes");
    let mut dx = gpu.mat_room(rows, dim);
    gpu_loss::rotation_backward(gpu, &device.x, &device.q, &device.codes, &device.g, &mut dx).expect("shapes");
    assert_same_bits(&gpu.read_mat(&mut dx), &expected, &format!("{rows} x {dim}"));
    let mut dx = gpu.mat_room(rows, dim);
    let args = [
        (&device.x).into(),
        (&device.q).into(),
        (&device.codes).into(),
        (&device.g).into(),
        rows.into(),
        dim.into(),
        (&mut dx).into(),
    ];
    gpu.run("loss", "rotation_backward_ref", rows, 64, &args);
    assert_same_bits(&gpu.read_mat(&mut dx), &expected, &format!("reference, {rows} x {dim}"));
}

#[test]
fn a_bad_weight_is_noted_and_counts_as_zero() {
    let gpu = Gpu::default();
    for bad in [f32::NAN, 1.5, -0.5] {
        let mut case = Case::new(40, 8, true);
        case.weights[11] = bad;
        let device = case.device(&gpu);
        let (x, q) = (mat(&case.x, 40, 8), mat(&case.q, 40, 8));
        let (codes, weights) = (&case.codes, Some(&case.weights[..]));
        let expected = loss::squared_error(&Cpu::new(), x, q, codes, weights, &mut SquaredError::default());
        let mut total = gpu.upload(&[0.0; 2]);
        let mut workspace = gpu.room(gpu_loss::squared_error_workspace_len(40));
        let weights = Some(&device.weights);
        gpu_loss::squared_error(&gpu, &device.x, &device.q, &device.codes, weights, &mut total, &mut workspace)
            .expect("shapes");
        assert_eq!(gpu.check(), expected);
        assert!(expected.is_err());
        let mut dx = gpu.mat_room(40, 8);
        gpu.check().expect("noted only once");
        gpu_loss::straight_through_backward(&gpu, &device.codes, &device.g, &mut dx).expect("shapes");
        gpu_loss::squared_error_backward(&gpu, &device.x, &device.q, &device.codes, weights, 1.0, &mut dx)
            .expect("shapes");
        let mut room = vec![0.0; 320];
        let weights = Some(&case.weights[..]);
        let dx = mat_mut(&mut room, 40, 8);
        assert_eq!(gpu.check(), loss::squared_error_backward(&Cpu::new(), x, q, codes, weights, 1.0, dx));
        case.weights[11] = 0.0;
        let mut expected = SquaredError::default();
        loss::squared_error(&Cpu::new(), x, q, codes, Some(&case.weights), &mut expected)
            .expect("weights within 0..=1");
        assert_same_bits64(&gpu.read(&total), &[expected.sum, expected.weight], "the others count");
    }
}

#[test]
fn bad_shapes_are_refused_and_no_rows_are_no_work() {
    let gpu = Gpu::default();
    let (x, less) = (gpu.mat(&[1.0f32; 12], 4, 3), gpu.mat(&[1.0f32; 9], 3, 3));
    let (codes, weights) = (gpu.slice(&[0u32; 4]), gpu.slice(&[1.0f32; 3]));
    let error = |q: &DeviceMatRef, codes: &DeviceRef<u32>, weights: Option<&DeviceRef<f32>>, total, room| {
        gpu_loss::squared_error(&gpu, &x, q, codes, weights, &mut gpu.room(total), &mut gpu.room(room))
    };
    let needed = gpu_loss::squared_error_workspace_len(4);
    refused(error(&less, &codes, None, 2, needed));
    refused(error(&x, &gpu.slice(&[0]), None, 2, needed));
    refused(error(&x, &codes, Some(&weights), 2, needed));
    refused(error(&x, &codes, None, 1, needed));
    refused(error(&x, &codes, None, 2, needed - 1));
    refused(gpu_loss::squared_error_backward(&gpu, &x, &x, &codes, Some(&weights), 1.0, &mut gpu.mat_room(4, 3)));
    refused(gpu_loss::squared_error_backward(&gpu, &x, &x, &codes, None, 1.0, &mut gpu.mat_room(4, 2)));
    refused(gpu_loss::straight_through_backward(&gpu, &codes, &x, &mut gpu.mat_room(3, 3)));
    refused(gpu_loss::rotation_backward(&gpu, &x, &x, &codes, &less, &mut gpu.mat_room(4, 3)));
    let (none, no_codes) = (gpu.mat::<f32>(&[], 0, 3), gpu.slice::<u32>(&[]));
    let mut dx = gpu.mat_room(0, 3);
    gpu_loss::squared_error(&gpu, &none, &none, &no_codes, None, &mut gpu.room(2), &mut gpu.room(0)).expect("no rows");
    gpu_loss::squared_error_backward(&gpu, &none, &none, &no_codes, None, 1.0, &mut dx).expect("no rows");
    gpu_loss::straight_through_backward(&gpu, &no_codes, &none, &mut dx).expect("no rows");
    gpu_loss::rotation_backward(&gpu, &none, &none, &no_codes, &none, &mut dx).expect("no rows");
}
