//! `gather`: CPU = PTX, tuned and reference.

use bytemuck::Pod;
use half::{bf16, f16};
use vq_kernels::cuda::{DeviceMatMut, DeviceMatRef, DeviceRef, Queue, ops as gpu_ops};
use vq_kernels::{Code, Cpu, NO_CODE, ops};

use crate::common::{assert_same_bits, mat, mat_mut, paint};
use crate::support::{Gpu, refused};

/// The op's number in `src/cuda/status.rs`.
const OP: u32 = 1;

/// Elements whose bits are all different, or nearly.
fn elements<T: Pod>(len: usize) -> Vec<T> {
    let bytes: Vec<u8> = (0..len * size_of::<T>()).map(|i| (i * 167 + i / 251) as u8 | 1).collect();
    bytemuck::pod_collect_to_vec(&bytes)
}

fn bytes<T: Pod>(elements: &[T]) -> &[u8] {
    bytemuck::cast_slice(elements)
}

/// `before` elements of both tables come first, so that rows begin where a word of 16 bytes would not.
fn one<C: Code + Pod, T: Pod + Default + Send + Sync>(gpu: &Gpu, [rows, count, dim, before]: [usize; 4]) {
    let codebook: Vec<T> = elements(count * dim);
    let code = |row: usize| if row % 5 == 4 { NO_CODE } else { (row * 7 % count) as u32 };
    let codes: Vec<C> = (0..rows).map(|row| C::from_u32(code(row))).collect();
    let mut expected = vec![T::default(); rows * dim];
    ops::gather(&Cpu::new(), &codes, mat(&codebook, count, dim), mat_mut(&mut expected, rows, dim)).expect("shapes");
    let shifted: Vec<T> = vec![T::default(); before].into_iter().chain(codebook.iter().copied()).collect();
    let (codes, shifted) = (gpu.slice(&codes), gpu.slice(&shifted));
    let codebook = DeviceMatRef::new(shifted.range(before, count * dim), count, dim).expect("the length");
    let context = format!("{rows} rows, {count} x {dim} of {} bytes, from {before} on", size_of::<T>());
    // What lies around the rows stays.
    let around: Vec<T> = elements(before + rows * dim + 9);
    let mut room = gpu.room::<T>(around.len());
    gpu.write(room.address(), bytes(&around));
    let mut out = DeviceMatMut::new(room.range(before, rows * dim), rows, dim).expect("the length");
    gpu_ops::gather(gpu, &codes, &codebook, &mut out).expect("shapes");
    drop(out);
    let (front, back) = (&around[..before], &around[before + rows * dim..]);
    let found = gpu.read(&room);
    assert_eq!(bytes(&found), [bytes(front), bytes(&expected), bytes(back)].concat(), "{context}");
    let mut out = gpu.mat_room::<T>(rows, dim);
    let args = [
        (&codes).into(),
        (&codebook).into(),
        count.into(),
        rows.into(),
        ((dim * size_of::<T>()) as u64).into(),
        (&mut out).into(),
        gpu.status().into(),
        OP.into(),
    ];
    gpu.run("gather", if size_of::<C>() == 2 { "gather_ref_u16" } else { "gather_ref_u32" }, rows, 64, &args);
    assert_eq!(bytes(&gpu.read_mat(&mut out)), bytes(&expected), "reference, {context}");
    gpu.check().expect("all codes exist");
}

fn twins<C: Code + Pod>(gpu: &Gpu) {
    for (rows, count, dim) in [(1, 1, 1), (13, 5, 3), (70, 9, 8), (33, 4, 17), (9, 300, 36), (300, 7, 2), (12, 3, 100)]
    {
        one::<C, f32>(gpu, [rows, count, dim, 0]);
        one::<C, f16>(gpu, [rows, count, dim, 0]);
        one::<C, bf16>(gpu, [rows, count, dim, 0]);
        one::<C, i8>(gpu, [rows, count, dim, 0]);
    }
    for before in [1, 2, 3, 4, 8] {
        one::<C, f32>(gpu, [7, 3, 8, before]);
        one::<C, f16>(gpu, [7, 3, 8, before]);
        one::<C, u8>(gpu, [7, 3, 16, before]);
    }
    one::<C, u32>(gpu, [9, 5, 6, 0]);
    one::<C, i16>(gpu, [9, 5, 7, 0]);
    one::<C, f64>(gpu, [9, 5, 3, 0]);
    one::<C, [u8; 3]>(gpu, [9, 5, 7, 1]);
}

#[test]
fn same_bits() {
    let gpu = Gpu::default();
    twins::<u32>(&gpu);
    twins::<u16>(&gpu);
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
    // Rows of more words than u32 counts, of which nothing is there.
    let cols = (3 << 30) + 1;
    // SAFETY: refused before anything reads it.
    let wide = unsafe { DeviceRef::<[u8; 3]>::from_raw(4096, cols) };
    let wide = DeviceMatRef::new(wide, 1, cols).expect("the length");
    refused(gpu_ops::gather(&gpu, &gpu.slice::<u32>(&[]), &wide, &mut gpu.mat_room(0, cols)));
}
