//! `normalize` and its gradient: CPU = PTX, tuned and reference.

use vq_kernels::cuda::ops as gpu_ops;
use vq_kernels::{Cpu, Element, ops};

use crate::common::{assert_same_bits, mat, mat_mut, paint};
use crate::support::{Gpu, refused};

/// Rows of every kind: usual, zero, tiny, subnormal, huge, infinite, NaN.
pub fn hostile(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut x = paint(rows * dim, seed);
    let scales = [1.0, 1e-20, 1e-38, 1e-44, 1e25, 3e38, 0.0];
    for (row, x) in x.chunks_exact_mut(dim.max(1)).enumerate() {
        let scale = scales[row % 11 % scales.len()];
        x.iter_mut().for_each(|x| *x = (*x * scale).clamp(f32::MIN, f32::MAX));
        match row % 11 {
            8 => x[dim / 2] = f32::INFINITY,
            9 => x[dim - 1] = f32::NAN,
            10 => x.iter_mut().skip(1).for_each(|x| *x = -0.0),
            _ => {}
        }
    }
    x
}

fn twins<E: Element + bytemuck::Pod>(gpu: &Gpu, of: fn(f32) -> E, reference: &'static str) {
    for (rows, dim) in [(1, 1), (13, 3), (40, 8), (33, 17), (37, 32), (11, 33), (12, 100), (70, 2)] {
        let x: Vec<E> = hostile(rows, dim, 3).into_iter().map(of).collect();
        let (mut y, mut norms) = (vec![0.0; rows * dim], vec![0.0; rows]);
        ops::normalize(&Cpu::new(), mat(&x, rows, dim), mat_mut(&mut y, rows, dim), Some(&mut norms)).expect("shapes");
        let (mut device_y, mut device_norms) = (gpu.mat_room(rows, dim), gpu.room(rows));
        let device_x = gpu.mat(&x, rows, dim);
        gpu_ops::normalize(gpu, &device_x, &mut device_y, Some(&mut device_norms)).expect("shapes");
        let context = format!("{} {rows} x {dim}", E::NAME);
        assert_same_bits(&gpu.read_mat(&mut device_y), &y, &context);
        assert_same_bits(&gpu.read(&device_norms), &norms, &context);
        let (mut device_y, device_norms) = (gpu.mat_room(rows, dim), gpu.room::<f32>(rows));
        let args = [(&device_x).into(), rows.into(), dim.into(), (&mut device_y).into(), (&device_norms).into()];
        gpu.run("normalize", reference, rows, 64, &args);
        assert_same_bits(&gpu.read_mat(&mut device_y), &y, &format!("reference, {context}"));
        assert_same_bits(&gpu.read(&device_norms), &norms, &format!("reference, {context}"));
    }
}

#[test]
fn same_bits() {
    let gpu = Gpu::default();
    twins::<f32>(&gpu, |x| x, "normalize_ref_f32");
    twins(&gpu, half::f16::from_f32, "normalize_ref_f16");
    twins(&gpu, half::bf16::from_f32, "normalize_ref_bf16");
    for (rows, dim) in [(1, 1), (40, 8), (33, 17), (37, 32), (12, 100)] {
        let x = hostile(rows, dim, 5);
        let (mut y, mut norms, dy) = (vec![0.0; rows * dim], vec![0.0; rows], paint(rows * dim, 6));
        ops::normalize(&Cpu::new(), mat(&x, rows, dim), mat_mut(&mut y, rows, dim), Some(&mut norms)).expect("shapes");
        let mut dx = vec![0.0; rows * dim];
        let (y, dy) = (mat(&y, rows, dim), mat(&dy, rows, dim));
        ops::normalize_backward(&Cpu::new(), y, &norms, dy, mat_mut(&mut dx, rows, dim)).expect("shapes");
        let (y, dy, norms) = (gpu.mat(y.data(), rows, dim), gpu.mat(dy.data(), rows, dim), gpu.slice(&norms));
        let mut device_dx = gpu.mat_room(rows, dim);
        gpu_ops::normalize_backward(&gpu, &y, &norms, &dy, &mut device_dx).expect("shapes");
        assert_same_bits(&gpu.read_mat(&mut device_dx), &dx, &format!("{rows} x {dim}"));
        let mut device_dx = gpu.mat_room(rows, dim);
        let args = [(&y).into(), (&norms).into(), (&dy).into(), rows.into(), dim.into(), (&mut device_dx).into()];
        gpu.run("normalize", "normalize_backward_ref", rows, 64, &args);
        assert_same_bits(&gpu.read_mat(&mut device_dx), &dx, &format!("reference, {rows} x {dim}"));
    }
    gpu.assert_all_ran("normalize");
}

#[test]
fn bad_shapes_are_refused_and_no_rows_are_no_work() {
    let gpu = Gpu::default();
    let x = gpu.mat(&[1.0f32; 12], 4, 3);
    refused(gpu_ops::normalize(&gpu, &x, &mut gpu.mat_room(4, 2), None));
    refused(gpu_ops::normalize(&gpu, &x, &mut gpu.mat_room(3, 3), None));
    refused(gpu_ops::normalize(&gpu, &x, &mut gpu.mat_room(4, 3), Some(&mut gpu.room(3))));
    refused(gpu_ops::normalize_backward(&gpu, &x, &gpu.slice(&[1.0]), &x, &mut gpu.mat_room(4, 3)));
    gpu_ops::normalize(&gpu, &gpu.mat::<f32>(&[], 0, 3), &mut gpu.mat_room(0, 3), None).expect("no rows");
}
