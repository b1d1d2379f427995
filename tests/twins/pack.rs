//! Packed codebooks: the tuned kernels write what the plain one does.

use vq_kernels::Metric;
use vq_kernels::cuda::PackedDeviceCodebook;

use crate::common::{paint, unit_rows};
use crate::support::Gpu;

/// Words of the header, and which of them are maxima of sums whose order is free: roots rounded up.
const HEADER: usize = 16;
const SUMS: [usize; 2] = [3, 4];

fn same(gpu: &Gpu, values: &[f32], codes: usize, dim: usize, metric: Metric) {
    let context = format!("{codes} x {dim}, {metric:?}");
    let len = PackedDeviceCodebook::storage_len(codes, dim, metric).expect("a shape");
    // What no kernel writes reads as 5.
    let storage = gpu.upload(&vec![5u32; len]);
    let address = storage.address();
    let packed = PackedDeviceCodebook::pack(gpu, gpu.mat(values, codes, dim), metric, storage)
        .expect("a codebook of that shape");
    let words = || -> Vec<u32> { bytemuck::pod_collect_to_vec(&gpu.bytes(address, 4 * len)) };
    let tuned = words();
    gpu.write(address, bytemuck::cast_slice(&vec![5u32; len]));
    gpu.run("pack", "pack_ref", 1, 1, &packed.pack_ref_args());
    let plain = words();
    for at in SUMS {
        assert!(tuned[at].abs_diff(plain[at]) <= 1, "{context}: word {at} is {:x}, {:x}", tuned[at], plain[at]);
    }
    let wrong = (0..len).find(|at| !SUMS.contains(at) && tuned[*at] != plain[*at]);
    assert_eq!(wrong, None, "{context}: the header has {HEADER} of {len} words");
}

#[test]
fn as_the_plain_kernel() {
    let gpu = Gpu::default();
    for metric in [Metric::Cosine, Metric::L2] {
        for (codes, dim) in [(1, 1), (5, 3), (300, 8), (257, 16), (40, 33), (70, 64), (9, 100), (3, 256)] {
            same(&gpu, &unit_rows(codes, dim, 1), codes, dim, metric);
            let mut values = paint(codes * dim, 2);
            // Codes of very different lengths, of which f16 does not have the last bits, and zeros.
            values.iter_mut().enumerate().for_each(|(at, value)| *value *= [1.0, 1e-6, 900.0, 0.0][at / dim % 4]);
            same(&gpu, &values, codes, dim, metric);
            for wild in [f32::NAN, f32::INFINITY, f32::MAX, 1e-38] {
                values[codes * dim / 2] = wild;
                same(&gpu, &values, codes, dim, metric);
            }
        }
    }
    gpu.assert_all_ran("pack");
}
