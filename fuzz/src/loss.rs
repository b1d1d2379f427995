//! Losses and gradient estimators on every tier against `reference`.

use vq_kernels::ops::{ROW_BLOCK, gather, loss as op};
use vq_kernels::{Cpu, Isa, NO_CODE};

use crate::Reach;
use crate::input::{Input, assert_bits, assert_bits64, mat, mat_mut};

const ROTATION: usize = 0;
const BLOCKS: usize = 1;

pub fn loss(input: &mut Input, reach: &Reach) {
    let (rows, dim) = match input.below(100) {
        0 => (ROW_BLOCK + input.below(3), 1 + input.below(3)),
        _ => (input.rows(), input.dim()),
    };
    let (x, q, g) = (input.matrix(rows, dim), input.matrix(rows, dim), input.matrix(rows, dim));
    // Quantized rows are often near their rows, or against them.
    let q = match input.below(4) {
        0 => x.iter().map(|x| x * 0.999).collect(),
        1 => x.iter().map(|x| -x).collect(),
        _ => q,
    };
    let (codes, weights) = (input.codes(rows, 4), input.weights(rows));
    let (scale, start) = (input.values(1)[0], input.values(rows * dim));
    let [x, q, g] = [&x, &q, &g].map(|values| mat(values, rows, dim));
    let mut total = op::SquaredError { sum: f64::from(input.uniform()), weight: 3.0 };
    let begun = total;
    op::reference(x, q, &codes, weights.as_deref(), &mut total);
    let mut dx = start.clone();
    op::reference_backward(x, q, &codes, weights.as_deref(), scale, &mut dx);
    let mut turned = vec![0.0f32; rows * dim];
    op::reference_rotation(x, q, &codes, g, &mut turned);
    let mut straight = g.data().to_vec();
    for (row, straight) in straight.chunks_exact_mut(dim).enumerate() {
        if codes[row] == NO_CODE {
            straight.fill(0.0);
        }
    }
    gathered(input, &codes, dim);
    for cpu in Isa::available().map(Cpu::with_isa) {
        let mut got = begun;
        op::squared_error(&cpu, x, q, &codes, weights.as_deref(), &mut got).expect("the shapes agree");
        assert_bits64(&[got.sum, got.weight], &[total.sum, total.weight], &cpu);
        let mut got = start.clone();
        let out = mat_mut(&mut got, rows, dim);
        let done = op::squared_error_backward(&cpu, x, q, &codes, weights.as_deref(), scale, out);
        done.expect("the shapes agree");
        assert_bits(&got, &dx, &cpu);
        got.fill(7.0);
        op::rotation_backward(&cpu, x, q, &codes, g, mat_mut(&mut got, rows, dim)).expect("the shapes agree");
        assert_bits(&got, &turned, &cpu);
        got.fill(7.0);
        op::straight_through_backward(&cpu, &codes, g, mat_mut(&mut got, rows, dim)).expect("the shapes agree");
        assert_bits(&got, &straight, &cpu);
        if rows > 0 {
            reach.tier(&cpu);
            reach.mark(if rows > ROW_BLOCK { BLOCKS } else { ROTATION });
        }
    }
}

/// Codes to rows, over what was there.
fn gathered(input: &mut Input, codes: &[u32], dim: usize) {
    let (book, cpu) = (input.values(4 * dim), input.cpu());
    let mut got = vec![7.0; codes.len() * dim];
    gather(&cpu, codes, mat(&book, 4, dim), mat_mut(&mut got, codes.len(), dim)).expect("codes that exist");
    let zeros = vec![0.0; dim];
    let code = |k: &u32| if *k == NO_CODE { zeros.clone() } else { book[*k as usize * dim..][..dim].to_vec() };
    assert_bits(&got, &codes.iter().flat_map(code).collect::<Vec<_>>(), &"gather");
}
