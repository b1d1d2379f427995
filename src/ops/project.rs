//! Factorization: `Y = X·Wᵀ + b`, from the encoder's width (768) to a code's (32 or 8) and back.
//!
//! X: `[rows, inputs]`; W: `[outputs, inputs]`, as in PyTorch's `Linear`; b: `[outputs]`; Y: `[rows, outputs]`.
//! * `y[m][j]` is a chain over `inputs` that starts at `b[j]` (+0 without bias);
//! * `dx[m][i]` is a chain of `dy[m][j] · w[j][i]` over `outputs` that starts at +0;
//! * `dw[j][i]` and `db[j]` are chains over rows inside blocks of [`ROW_BLOCK`] rows; block sums are
//!   added to the f64 accumulator in ascending order. So a batch may be passed in parts, split at
//!   multiples of [`ROW_BLOCK`].
//!
//! Cost: `rows · inputs · outputs` FMAs each. Source: the factorized codes of Yu et al.,
//! "Vector-quantized image modeling with improved VQGAN" (ICLR 2022), §3.2.

use super::ROW_BLOCK;
use super::chain::{self, Sink, Strided, TILE_ROWS};
use crate::cpu::{Cpu, Disjoint};
use crate::element::Element;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::real::Real;
use crate::simd::{Kernel, Lanes};

/// Inner extent of a transposed piece of W on the stack. Small machines have small stacks.
///
/// Measured from 768 inputs on AVX-512 (`speed --op project`, µs a row at 1,024 and 16,384 rows): to 8 outputs 64 with blocks
/// of 1,024 rows 0.36 and 0.80, with blocks of 252 rows 256 takes 0.26 and 0.43, 384 0.31 and 0.49, 768 0.33 and 0.48; to 32
/// outputs 0.45 and 0.99, then 0.39 and 0.65, 0.55 and 0.75, 0.65 and 0.68.
const PIECE_INNER: usize = if cfg!(target_pointer_width = "64") { 256 } else { 64 };
/// Rows that take all pieces of W before the next rows do: few enough to stay in the second cache.
const PIECE_ROWS: usize = 252;
/// Outputs of a transposed piece of W on the stack.
const PIECE_OUTPUTS: usize = 32;

/// `y = x·weightᵀ + bias`.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
///
/// ```
/// use vq_kernels::{Cpu, MatMut, MatRef, ops};
/// let (x, weight, mut y) = ([1.0f32, 2.0], [1.0, 1.0, 0.5, -1.0, 0.0, 3.0], [0.0; 3]);
/// let bias = [0.0, 10.0, 0.0];
/// ops::project(&Cpu::new(), MatRef::new(&x, 1, 2)?, MatRef::new(&weight, 3, 2)?, Some(&bias), MatMut::new(&mut y, 1, 3)?)?;
/// assert_eq!(y, [3.0, 8.5, 6.0]);
/// # Ok::<(), vq_kernels::Error>(())
/// ```
pub fn project<E: Element>(cpu: &Cpu, x: MatRef<E>, weight: MatRef, bias: Option<&[f32]>, mut y: MatMut) -> Result<()> {
    const OP: &str = "project";
    same(OP, "columns of weight", x.cols(), weight.cols())?;
    same(OP, "rows of y", x.rows(), y.rows())?;
    same(OP, "columns of y", weight.rows(), y.cols())?;
    if let Some(bias) = bias {
        same(OP, "length of bias", weight.rows(), bias.len())?;
    }
    let (outputs, y) = (weight.rows(), Disjoint::new(y.data()));
    cpu.divide(x.rows(), TILE_ROWS * 8, &|first, count| {
        let x = x.rows_from(first, count);
        // SAFETY: `divide` gives every row to one part.
        let y = unsafe { y.range(first * outputs, count * outputs) };
        cpu.isa().run(Forward { x, weight, bias, y });
    });
    Ok(())
}

/// The gradient at `x`, into `dx` `[rows, inputs]`, from the gradient `dy` `[rows, outputs]`.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
pub fn project_backward_input(cpu: &Cpu, dy: MatRef, weight: MatRef, mut dx: MatMut) -> Result<()> {
    const OP: &str = "project_backward_input";
    same(OP, "columns of dy", weight.rows(), dy.cols())?;
    same(OP, "rows of dx", dy.rows(), dx.rows())?;
    same(OP, "columns of dx", weight.cols(), dx.cols())?;
    let (inputs, dx) = (weight.cols(), Disjoint::new(dx.data()));
    cpu.divide(dy.rows(), TILE_ROWS * 8, &|first, count| {
        let dy = dy.rows_from(first, count);
        // SAFETY: `divide` gives every row to one part.
        let dx = unsafe { dx.range(first * inputs, count * inputs) };
        cpu.isa().run(BackwardInput { dy, weight, dx });
    });
    Ok(())
}

/// Adds the gradients at the weight and the bias to `dw` `[outputs, inputs]` and `db` `[outputs]`.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
pub fn project_backward_weight(
    cpu: &Cpu,
    dy: MatRef,
    x: MatRef,
    mut dw: MatMut<f64>,
    db: Option<&mut [f64]>,
) -> Result<()> {
    const OP: &str = "project_backward_weight";
    same(OP, "rows of dy", x.rows(), dy.rows())?;
    same(OP, "rows of dw", dy.cols(), dw.rows())?;
    same(OP, "columns of dw", x.cols(), dw.cols())?;
    if let Some(db) = db {
        same(OP, "length of db", dy.cols(), db.len())?;
        bias_gradient(dy, db);
    }
    let (inputs, outputs) = (x.cols(), dy.cols());
    let dw = Disjoint::new(dw.data());
    // Parts are columns of dw: every part reads all rows, in order.
    cpu.divide(inputs, 32, &|first, count| {
        cpu.isa().run(BackwardWeight { dy, x, columns: (first, count), dw: &dw, outputs, inputs });
    });
    Ok(())
}

/// The textbook loops of [`project`], generic over the float type; the f32 form is the contract.
///
/// # Panics
/// Where the extents differ.
pub fn reference<F: Real>(x: MatRef<F>, weight: MatRef<F>, bias: Option<&[F]>, y: &mut [F]) {
    for (row, y) in y.chunks_exact_mut(weight.rows().max(1)).enumerate() {
        for (j, y) in y.iter_mut().enumerate() {
            let start = bias.map_or(F::zero(), |b| b[j]);
            *y = x.row(row).iter().zip(weight.row(j)).fold(start, |s, (&x, &w)| x.fma(w, s));
        }
    }
}

/// The textbook loops of [`project_backward_input`], generic over the float type.
///
/// # Panics
/// Where the extents differ.
pub fn reference_backward_input<F: Real>(dy: MatRef<F>, weight: MatRef<F>, dx: &mut [F]) {
    for (row, dx) in dx.chunks_exact_mut(weight.cols().max(1)).enumerate() {
        for (i, dx) in dx.iter_mut().enumerate() {
            *dx = (0..weight.rows()).fold(F::zero(), |s, j| dy.row(row)[j].fma(weight.row(j)[i], s));
        }
    }
}

/// The textbook loops of [`project_backward_weight`], generic over the float type.
///
/// # Panics
/// Where the extents differ.
pub fn reference_backward_weight<F: Real>(dy: MatRef<F>, x: MatRef<F>, dw: &mut [f64], db: &mut [f64]) {
    for first in (0..x.rows()).step_by(ROW_BLOCK) {
        let rows = first..(first + ROW_BLOCK).min(x.rows());
        for j in 0..dy.cols() {
            db[j] += rows.clone().fold(F::zero(), |s, m| s + dy.row(m)[j]).as_f64();
            for i in 0..x.cols() {
                let block = rows.clone().fold(F::zero(), |s, m| dy.row(m)[j].fma(x.row(m)[i], s));
                dw[j * x.cols() + i] += block.as_f64();
            }
        }
    }
}

/// `db`: plain sums, in blocks of columns so that they stay in registers and the compiler sees lanes.
fn bias_gradient(dy: MatRef, db: &mut [f64]) {
    const COLUMNS: usize = 32;
    for first in (0..dy.rows()).step_by(ROW_BLOCK) {
        let block = dy.rows_from(first, ROW_BLOCK);
        for (c, db) in db.chunks_mut(COLUMNS).enumerate() {
            let mut sums = [0.0f32; COLUMNS];
            for m in 0..block.rows() {
                let row = &block.row(m)[c * COLUMNS..];
                sums.iter_mut().zip(row).for_each(|(sum, dy)| *sum += dy);
            }
            db.iter_mut().zip(sums).for_each(|(db, sum)| *db += f64::from(sum));
        }
    }
}

/// Chains that start and end in an f32 matrix.
struct InPlace {
    c: *mut f32,
    stride: usize,
}

impl Sink for InPlace {
    #[inline(always)]
    unsafe fn start<V: Lanes>(&self, r: usize, o: usize, n: usize) -> V {
        // SAFETY: the caller's element range exists.
        unsafe { chain::load(self.c.add(r * self.stride + o), n) }
    }
    #[inline(always)]
    unsafe fn end<V: Lanes>(&mut self, r: usize, o: usize, n: usize, value: V) {
        // SAFETY: the caller's element range exists.
        unsafe { chain::store(value, self.c.add(r * self.stride + o), n) }
    }
}

struct Forward<'a, E> {
    x: MatRef<'a, E>,
    weight: MatRef<'a>,
    bias: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl<E: Element> Kernel for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { x, weight, bias, y } = self;
        let (inputs, outputs) = (x.cols(), weight.rows());
        for y in y.chunks_exact_mut(outputs.max(1)) {
            match bias {
                Some(bias) => y.copy_from_slice(bias),
                None => y.fill(0.0),
            }
        }
        // Wᵀ piece by piece on the stack; the chains rest in y between pieces, which is exact.
        let mut piece = [0.0f32; PIECE_INNER * PIECE_OUTPUTS];
        for first in (0..x.rows()).step_by(PIECE_ROWS) {
            let x = x.rows_from(first, PIECE_ROWS);
            for j in (0..outputs).step_by(PIECE_OUTPUTS) {
                let cols = PIECE_OUTPUTS.min(outputs - j);
                for k in (0..inputs).step_by(PIECE_INNER) {
                    let inner = PIECE_INNER.min(inputs - k);
                    for o in 0..cols {
                        let w = &weight.row(j + o)[k..k + inner];
                        piece[o..].iter_mut().step_by(PIECE_OUTPUTS).zip(w).for_each(|(p, w)| *p = *w);
                    }
                    let c = y[first * outputs..][..x.rows() * outputs].as_mut_ptr();
                    let sink = |row: usize| InPlace { c: c.wrapping_add(row * outputs + j), stride: outputs };
                    match E::as_f32(x.data()) {
                        Some(data) => {
                            let a = Strided { a: data.as_ptr().wrapping_add(k), row: inputs, inner: 1 };
                            // SAFETY: x has rows × inputs with `k + inner ≤ inputs`; piece holds
                            // inner × cols; y has rows × outputs with `j + cols ≤ outputs`.
                            unsafe {
                                chain::product::<V>(
                                    (x.rows(), inner, cols),
                                    a,
                                    piece.as_ptr(),
                                    PIECE_OUTPUTS,
                                    &mut sink(0),
                                )
                            };
                        }
                        None => {
                            // Stored in half precision: widened tile by tile.
                            for r in (0..x.rows()).step_by(TILE_ROWS) {
                                let mut wide = [0.0f32; TILE_ROWS * PIECE_INNER];
                                let rows = TILE_ROWS.min(x.rows() - r);
                                for i in 0..rows {
                                    let x = &x.row(r + i)[k..k + inner];
                                    wide[i * PIECE_INNER..].iter_mut().zip(x).for_each(|(w, x)| *w = x.to_f32());
                                }
                                let a = Strided { a: wide.as_ptr(), row: PIECE_INNER, inner: 1 };
                                // SAFETY: as above, with wide of rows × PIECE_INNER.
                                unsafe {
                                    chain::product::<V>(
                                        (rows, inner, cols),
                                        a,
                                        piece.as_ptr(),
                                        PIECE_OUTPUTS,
                                        &mut sink(r),
                                    )
                                };
                            }
                        }
                    }
                }
            }
        }
    }
}

struct BackwardInput<'a> {
    dy: MatRef<'a>,
    weight: MatRef<'a>,
    dx: &'a mut [f32],
}

impl Kernel for BackwardInput<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { dy, weight, dx } = self;
        let (inputs, outputs) = (weight.cols(), weight.rows());
        dx.fill(0.0);
        let a = Strided { a: dy.data().as_ptr(), row: outputs, inner: 1 };
        let mut sink = InPlace { c: dx.as_mut_ptr(), stride: inputs };
        // SAFETY: dy is rows × outputs, weight outputs × inputs, dx rows × inputs, checked by the caller.
        unsafe { chain::product::<V>((dy.rows(), outputs, inputs), a, weight.data().as_ptr(), inputs, &mut sink) };
    }
}

struct BackwardWeight<'a, 'd> {
    dy: MatRef<'a>,
    x: MatRef<'a>,
    columns: (usize, usize),
    dw: &'a Disjoint<'d, f64>,
    outputs: usize,
    inputs: usize,
}

/// Chains that start at +0 and are added to an f64 matrix.
struct AddTo<'a, 'd> {
    dw: &'a Disjoint<'d, f64>,
    first: usize,
    stride: usize,
}

impl Sink for AddTo<'_, '_> {
    #[inline(always)]
    unsafe fn start<V: Lanes>(&self, _: usize, _: usize, _: usize) -> V {
        // SAFETY: the caller vouches for V.
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn end<V: Lanes>(&mut self, r: usize, o: usize, n: usize, value: V) {
        let mut lanes = [0.0f32; 16];
        // SAFETY: 16 ≥ V::N.
        unsafe { value.store(lanes.as_mut_ptr()) };
        // SAFETY: this part of the columns belongs to one task only.
        let dw = unsafe { self.dw.range(r * self.stride + self.first + o, n) };
        dw.iter_mut().zip(lanes).for_each(|(dw, sum)| *dw += f64::from(sum));
    }
}

impl Kernel for BackwardWeight<'_, '_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { dy, x, columns: (first, count), dw, outputs, inputs } = self;
        let mut sink = AddTo { dw, first, stride: inputs };
        for row in (0..x.rows()).step_by(ROW_BLOCK) {
            let (dy, x) = (dy.rows_from(row, ROW_BLOCK), x.rows_from(row, ROW_BLOCK));
            let a = Strided { a: dy.data().as_ptr(), row: 1, inner: outputs };
            let b = x.data().as_ptr().wrapping_add(first);
            // SAFETY: dy is rows × outputs read transposed; x is rows × inputs with `first + count ≤ inputs`.
            unsafe { chain::product::<V>((outputs, x.rows(), count), a, b, inputs, &mut sink) };
        }
    }
}
