//! Normalization and its gradient on every tier against `reference`.

use half::{bf16, f16};
use vq_kernels::ops::{self, normalize as op};
use vq_kernels::{Cpu, Isa};

use crate::Reach;
use crate::input::{Input, Stored, assert_bits, mat, mat_mut, stored};

const BACKWARD: usize = 0;
const HALF: usize = 1;

pub fn normalize(input: &mut Input, reach: &Reach) {
    match input.below(4) {
        0 | 1 => of::<f32>(input, reach),
        2 => of::<f16>(input, reach),
        _ => of::<bf16>(input, reach),
    }
}

fn of<E: Stored>(input: &mut Input, reach: &Reach) {
    let (rows, dim) = (input.rows(), input.dim());
    let x = input.matrix(rows, dim);
    let (x, offset, wide) = stored::<E>(input, &x);
    let (mut y, mut norms) = (vec![0.0f32; wide.len()], vec![0.0f32; rows]);
    op::reference(&wide, dim, &mut y, &mut norms);
    lengths(&wide, dim, &y, &norms);
    let (dy, mut dx) = (input.matrix(rows, dim), vec![0.0f32; wide.len()]);
    op::reference_backward(&y, &norms, &dy, dim, &mut dx);
    let with_norms = !input.once_in(4);
    for cpu in Isa::available().map(Cpu::with_isa) {
        let (mut got, mut got_norms) = (vec![7.0; wide.len()], vec![7.0; rows]);
        let lengths = with_norms.then_some(&mut got_norms[..]);
        let x = mat(&x[offset..], rows, dim);
        ops::normalize(&cpu, x, mat_mut(&mut got, rows, dim), lengths).expect("the shapes agree");
        assert_bits(&got, &y, &cpu);
        if with_norms {
            assert_bits(&got_norms, &norms, &cpu);
        }
        let mut got = vec![7.0; wide.len()];
        let out = mat_mut(&mut got, rows, dim);
        let done = ops::normalize_backward(&cpu, mat(&y, rows, dim), &norms, mat(&dy, rows, dim), out);
        done.expect("the shapes agree");
        assert_bits(&got, &dx, &cpu);
        if rows > 0 {
            reach.tier(&cpu);
            reach.mark(BACKWARD);
            if E::NAME != "f32" {
                reach.mark(HALF);
            }
        }
    }
}

/// What kernels and reference have in common, against f64: rows of unit length, and their norms.
fn lengths(x: &[f32], dim: usize, y: &[f32], norms: &[f32]) {
    let length = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    for ((x, y), &norm) in x.chunks_exact(dim).zip(y.chunks_exact(dim)).zip(norms) {
        let expected = length(x);
        // Subnormal norms have few digits, and the largest rows have a norm beyond f32.
        if expected > 0.0 && expected < f64::from(f32::MAX) {
            let slack = 1e-5 * expected + 1e-45;
            assert!((f64::from(norm) - expected).abs() <= slack, "norm {norm:e} of {x:?}, expected {expected:e}");
            assert!((length(y) - 1.0).abs() < 1e-5, "{x:?} becomes {y:?}");
        }
    }
}
