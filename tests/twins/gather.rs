//! `gather`: CPU = PTX, tuned and reference.

use bytemuck::Pod;
use vq_kernels::cuda::{Queue, ops as gpu_ops};
use vq_kernels::{Code, Cpu, NO_CODE, ops};

use crate::common::{assert_same_bits, mat, mat_mut, paint};
use crate::support::{Gpu, refused};

/// The op's number in `src/cuda/status.rs`.
const OP: u32 = 1;

fn twins<C: Code + Pod>(gpu: &Gpu, reference: &'static str) {
    for (rows, count, dim) in [(1, 1, 1), (13, 5, 3), (70, 9, 8), (33, 4, 17), (9, 300, 36), (300, 7, 2), (12, 3, 100)]
    {
        let codebook = paint(count * dim, 2);
        let code = |row: usize| if row % 5 == 4 { NO_CODE } else { (row * 7 % count) as u32 };
        let codes: Vec<C> = (0..rows).map(|row| C::from_u32(code(row))).collect();
        let mut expected = vec![0.0; rows * dim];
        ops::gather(&Cpu::new(), &codes, mat(&codebook, count, dim), mat_mut(&mut expected, rows, dim))
            .expect("shapes");
        let (codes, codebook) = (gpu.slice(&codes), gpu.mat(&codebook, count, dim));
        let mut out = gpu.mat_room(rows, dim);
        gpu_ops::gather(gpu, &codes, &codebook, &mut out).expect("shapes");
        let context = format!("{rows} rows, {count} x {dim}");
        assert_same_bits(&gpu.read_mat(&mut out), &expected, &context);
        let mut out = gpu.mat_room(rows, dim);
        let args = [
            (&codes).into(),
            (&codebook).into(),
            count.into(),
            rows.into(),
            dim.into(),
            (&mut out).into(),
            gpu.status().into(),
            OP.into(),
        ];
        gpu.run("gather", reference, rows, 64, &args);
        assert_same_bits(&gpu.read_mat(&mut out), &expected, &format!("reference, {context}"));
        gpu.check().expect("all codes exist");
    }
}

#[test]
fn same_bits() {
    let gpu = Gpu::default();
    twins::<u32>(&gpu, "gather_ref_u32");
    twins::<u16>(&gpu, "gather_ref_u16");
    gpu.assert_all_ran("gather");
}

fn noted<C: Code + Pod>(bad: C) {
    let gpu = Gpu::default();
    for dim in [4, 3] {
        let codebook = paint(5 * dim, 1);
        let codes = [C::from_u32(4), C::from_u32(NO_CODE), bad, C::from_u32(0)];
        let mut out = vec![0.0; 4 * dim];
        let expected = ops::gather(&Cpu::new(), &codes, mat(&codebook, 5, dim), mat_mut(&mut out, 4, dim));
        let mut out = gpu.mat_room(4, dim);
        gpu_ops::gather(&gpu, &gpu.slice(&codes), &gpu.mat(&codebook, 5, dim), &mut out).expect("shapes");
        assert_eq!(gpu.check(), expected);
        assert!(expected.is_err());
        let out = gpu.read_mat(&mut out);
        assert_same_bits(&out[..dim], &codebook[4 * dim..], "the first row");
        assert_same_bits(&out[dim..3 * dim], &vec![0.0; 2 * dim], "rows without a code, or a bad one");
        assert_same_bits(&out[3 * dim..], &codebook[..dim], "the row after");
        gpu.check().expect("noted only once");
    }
}

#[test]
fn a_code_out_of_range_is_noted() {
    noted(5u32);
    noted(65535u32);
    noted(5u16);
}

#[test]
fn bad_shapes_are_refused_and_no_rows_are_no_work() {
    let gpu = Gpu::default();
    let (codes, codebook) = (gpu.slice(&[0u32, 1]), gpu.mat(&[1.0f32; 6], 2, 3));
    refused(gpu_ops::gather(&gpu, &codes, &codebook, &mut gpu.mat_room(3, 3)));
    refused(gpu_ops::gather(&gpu, &codes, &codebook, &mut gpu.mat_room(2, 2)));
    gpu_ops::gather(&gpu, &gpu.slice::<u32>(&[]), &codebook, &mut gpu.mat_room(0, 3)).expect("no rows");
}
