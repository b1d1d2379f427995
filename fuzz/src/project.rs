//! Projection and its three gradients on every tier against `reference`.

use half::{bf16, f16};
use vq_kernels::ops::{self, ROW_BLOCK, project as op};
use vq_kernels::{Cpu, Isa};

use crate::Reach;
use crate::input::{Input, Stored, assert_bits, assert_bits64, mat, mat_mut, stored};

const BACKWARD: usize = 0;
const HALF: usize = 1;
const BLOCKS: usize = 2;

pub fn project(input: &mut Input, reach: &Reach) {
    match input.below(4) {
        0 | 1 => of::<f32>(input, reach),
        2 => of::<f16>(input, reach),
        _ => of::<bf16>(input, reach),
    }
}

fn of<E: Stored>(input: &mut Input, reach: &Reach) {
    let (rows, outputs, inputs) = match input.below(120) {
        // Past a block of rows; past both extents of a piece of the weight; nothing to sum or to write.
        0 => (ROW_BLOCK + input.below(3), 1 + input.below(2), 1 + input.below(2)),
        1 => (1 + input.below(3), 33, 256 + input.below(3)),
        2 => (input.below(3), input.below(2), input.below(2)),
        _ => input.shape(),
    };
    let x = input.matrix(rows, inputs);
    let (x, offset, wide) = stored::<E>(input, &x);
    let (x, wide) = (mat(&x[offset..], rows, inputs), mat(&wide, rows, inputs));
    let (weight, dy) = (input.matrix(outputs, inputs), input.matrix(rows, outputs));
    let (weight, dy) = (mat(&weight, outputs, inputs), mat(&dy, rows, outputs));
    let bias = (!input.once_in(3)).then(|| input.values(outputs));
    let (mut y, mut dx) = (vec![0.0f32; rows * outputs], vec![0.0f32; rows * inputs]);
    op::reference(wide, weight, bias.as_deref(), &mut y);
    op::reference_backward_input(dy, weight, &mut dx);
    // Gradients are added to what is there.
    let start: Vec<f64> = (0..outputs * inputs + outputs).map(|_| f64::from(input.uniform())).collect();
    let (mut dw, mut db) = (start[..outputs * inputs].to_vec(), start[outputs * inputs..].to_vec());
    op::reference_backward_weight(dy, wide, &mut dw, &mut db);
    let split = input.below(rows + 1);
    for cpu in Isa::available().map(Cpu::with_isa) {
        let mut got = vec![7.0; rows * outputs];
        for (first, count) in [(0, split), (split, rows - split)] {
            let y = mat_mut(&mut got[first * outputs..][..count * outputs], count, outputs);
            ops::project(&cpu, x.rows_from(first, count), weight, bias.as_deref(), y).expect("the shapes agree");
        }
        assert_bits(&got, &y, &cpu);
        let mut got = vec![7.0; rows * inputs];
        let done = ops::project_backward_input(&cpu, dy, weight, mat_mut(&mut got, rows, inputs));
        done.expect("the shapes agree");
        assert_bits(&got, &dx, &cpu);
        let (mut got, mut got_bias) = (start[..outputs * inputs].to_vec(), start[outputs * inputs..].to_vec());
        let into = mat_mut(&mut got, outputs, inputs);
        let done = ops::project_backward_weight(&cpu, dy, wide, into, bias.is_some().then_some(&mut got_bias));
        done.expect("the shapes agree");
        assert_bits64(&got, &dw, &cpu);
        assert_bits64(&got_bias, if bias.is_some() { &db } else { &start[outputs * inputs..] }, &cpu);
        if rows * inputs * outputs > 0 {
            reach.tier(&cpu);
            reach.mark(if rows > ROW_BLOCK { BLOCKS } else { BACKWARD });
            if E::NAME != "f32" {
                reach.mark(HALF);
            }
        }
    }
}
