//! The ops of a training step beside search, projection and averages: gradients, losses, gathering, restart.

use vq_kernels::ops::ema::Activity;
use vq_kernels::ops::loss::{self, SquaredError};
use vq_kernels::ops::restart::{self, Restarted, Rule};
use vq_kernels::rng::Rng;
use vq_kernels::{MatMut, MatRef, ops};

use crate::Op;
use crate::cases::{Case, INPUTS, Size, normal, unit_rows, verify, zeros};
use crate::common::Failure;
use crate::common::processor::Processor;
use crate::limit::{Copies, Limit};

/// A matrix of `rows` rows, as the ops take it.
fn mat(values: &[f32], rows: usize) -> Result<MatRef<'_>, Failure> {
    Ok(MatRef::new(values, rows, values.len() / rows)?)
}

fn mat_mut<T>(values: &mut [T], rows: usize) -> Result<MatMut<'_, T>, Failure> {
    let cols = values.len() / rows;
    Ok(MatMut::new(values, rows, cols)?)
}

/// The one of these ops that `op` names. Outputs are compared with what their equation says of a row or two.
pub fn case(op: Op, processor: &Processor, size: Size) -> Result<Case<'_>, Failure> {
    let (cpu, Size { rows, codes, dim, seed, .. }) = (processor.cpu(), size);
    let fmas = |count: f64| Limit::Fmas { cpu: processor.cpu(), count };
    // Matrices of the rows' size that are read or written.
    let copies = |matrices: usize, more: usize| {
        let bytes = matrices * rows * dim * size_of::<f32>() + more;
        Limit::Copies(Copies::of_bytes(processor.pool(), bytes))
    };
    let mut rng = Rng::new(seed, 2);
    let row_codes: Vec<u32> = (0..rows).map(|_| rng.below(codes as u64) as u32).collect();
    let mut y: Vec<f32> = zeros(rows * dim)?;
    let x = unit_rows(&cpu, seed, 0, rows, dim)?;
    let codes_or_none = if matches!(op, Op::Gather | Op::Restart) { codes } else { 0 };
    let (limit, run): (_, Box<dyn FnMut() -> Result<(), Failure>>) = match op {
        Op::ProjectInput => {
            let (weight, mut dx) = (unit_rows(&cpu, seed, 1, dim, INPUTS)?, zeros(rows * INPUTS)?);
            let run = move || {
                Ok(ops::project_backward_input(&cpu, mat(&x, rows)?, mat(&weight, dim)?, mat_mut(&mut dx, rows)?)?)
            };
            (fmas(rows as f64 * (INPUTS * dim) as f64), Box::new(run))
        }
        Op::ProjectWeight => {
            let (wide, mut dw, mut db) = (unit_rows(&cpu, seed, 1, rows, INPUTS)?, zeros(dim * INPUTS)?, zeros(dim)?);
            let run = move || {
                let dw = mat_mut(&mut dw, dim)?;
                Ok(ops::project_backward_weight(&cpu, mat(&x, rows)?, mat(&wide, rows)?, dw, Some(&mut db))?)
            };
            (fmas(rows as f64 * (INPUTS * dim) as f64), Box::new(run))
        }
        Op::NormalizeBackward => {
            let (dy, norms) = (normal(seed, 1, rows, dim)?, vec![2.0; rows]);
            let run = move || {
                Ok(ops::normalize_backward(&cpu, mat(&x, rows)?, &norms, mat(&dy, rows)?, mat_mut(&mut y, rows)?)?)
            };
            (copies(3, rows * size_of::<f32>()), Box::new(run))
        }
        Op::Gather => {
            let book = unit_rows(&cpu, seed, 1, codes, dim)?;
            ops::gather(&cpu, &row_codes, mat(&book, codes)?, mat_mut(&mut y, rows)?)?;
            verify(y[..dim] == book[row_codes[0] as usize * dim..][..dim], "gather does not give the code")?;
            let run = move || Ok(ops::gather(&cpu, &row_codes, mat(&book, codes)?, mat_mut(&mut y, rows)?)?);
            (copies(2, 0), Box::new(run))
        }
        Op::StraightThrough => {
            let run =
                move || Ok(loss::straight_through_backward(&cpu, &row_codes, mat(&x, rows)?, mat_mut(&mut y, rows)?)?);
            (copies(2, 0), Box::new(run))
        }
        Op::Rotation => {
            let (quantized, dy) = (unit_rows(&cpu, seed, 1, rows, dim)?, normal(seed, 3, rows, dim)?);
            let run = move || {
                let (x, quantized, dy) = (mat(&x, rows)?, mat(&quantized, rows)?, mat(&dy, rows)?);
                Ok(loss::rotation_backward(&cpu, x, quantized, &row_codes, dy, mat_mut(&mut y, rows)?)?)
            };
            (copies(4, 0), Box::new(run))
        }
        Op::Loss => {
            let quantized = unit_rows(&cpu, seed, 1, rows, dim)?;
            let run = move || {
                let mut total = SquaredError::default();
                loss::squared_error(&cpu, mat(&x, rows)?, mat(&quantized, rows)?, &row_codes, None, &mut total)?;
                verify(total.mean(dim).is_finite(), "the loss is not finite")
            };
            (copies(2, 0), Box::new(run))
        }
        Op::LossBackward => {
            let quantized = unit_rows(&cpu, seed, 1, rows, dim)?;
            let run = move || {
                let (x, quantized, dx) = (mat(&x, rows)?, mat(&quantized, rows)?, mat_mut(&mut y, rows)?);
                Ok(loss::squared_error_backward(&cpu, x, quantized, &row_codes, None, 1e-9, dx)?)
            };
            (copies(4, 0), Box::new(run))
        }
        Op::Restart => {
            let (mut book, mut log) =
                (unit_rows(&cpu, seed, 1, codes, dim)?, vec![Restarted::default(); rows.min(codes)]);
            let mut scratch = vec![0; restart::scratch_len(rows)];
            let mut activity = Activity::new_in(vec![1.0; codes], vec![1.0; codes], vec![0.0; codes])?;
            let (rule, mut step) = (Rule::default(), 0);
            let run = move || {
                step += 1;
                let (x, book) = (mat(&x, rows)?, mat_mut(&mut book, codes)?);
                let (codes, log) = (&row_codes, &mut log);
                restart::restart(x, codes, None, &rule, step, &mut activity, book, None, &mut scratch, log)?;
                Ok(())
            };
            // Each code's size, exposure and last hit, once.
            let limit =
                Limit::Copies(Copies::of_bytes(processor.pool(), codes * (2 * size_of::<f32>() + size_of::<f64>())));
            (limit, Box::new(run))
        }
        Op::Search | Op::Project | Op::Normalize | Op::Ema | Op::Step => {
            return Err(Failure::new("this op has a case of its own"));
        }
    };
    Ok(Case { limit, codes: codes_or_none, run })
}
