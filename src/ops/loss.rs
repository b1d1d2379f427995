//! The two terms of the VQ loss, apart and unweighted, and the gradient estimators.
//!
//! x, quantized: `[rows, dim]`; codes, weights: `[rows]`. Rows without a code or of weight zero count
//! for nothing and get no gradient.
//!
//! * Codebook term `Σ w ‖sg(z) − e‖²` and commitment term `Σ w ‖z − sg(e)‖²` (van den Oord, Vinyals,
//!   Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017, eq. 3) are both
//!   [`squared_error`]: the first on normalized rows, the second on un-normalized ones, where it keeps
//!   their volume from expanding. The mean of the papers is [`SquaredError::mean`].
//!   A row's `‖x − q‖²` is a sum over 32 virtual lanes of `t·t`, `t = x_i − q_i` rounded; rows are
//!   chained, `s = fma(w, r, s)`, inside blocks of [`ROW_BLOCK`] rows, and blocks added in f64.
//! * [`squared_error_backward`] adds `scale · w · (x − q)`.
//! * [`straight_through_backward`] passes the quantized rows' gradient on (Bengio et al. 2013).
//! * [`rotation_backward`] turns and scales it as the code turns and scales the row (Fifty et al.,
//!   "Restructuring vector quantization with the rotation trick", ICLR 2025, eq. 4 and §4.2).

use super::{ROW_BLOCK, chain, check_weights, lanes32, weight};
use crate::NO_CODE;
use crate::cpu::{Cpu, Disjoint};
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::real::Real;
use crate::simd::{Kernel, Lanes};

/// A weighted sum of squared distances, and what it was summed over. Sums carry over from one part
/// of a batch to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SquaredError {
    /// `Σ w ‖x − q‖²`.
    pub sum: f64,
    /// `Σ w` of the rows that have a code.
    pub weight: f64,
}

impl SquaredError {
    /// The mean over elements, `sum / (weight · dim)`; 0 where there was nothing to sum.
    pub fn mean(&self, dim: usize) -> f64 {
        let elements = self.weight * dim as f64;
        if elements > 0.0 { self.sum / elements } else { 0.0 }
    }
}

fn check(op: &'static str, x: &MatRef, quantized: &MatRef, codes: &[u32]) -> Result<()> {
    same(op, "rows of quantized", x.rows(), quantized.rows())?;
    same(op, "columns of quantized", x.cols(), quantized.cols())?;
    same(op, "number of row codes", x.rows(), codes.len())
}

/// Adds `Σ w ‖x − quantized‖²` and `Σ w` to `total`.
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::Value`]
/// for weights outside `0..=1`.
///
/// ```
/// use vq_kernels::{Cpu, MatRef, ops::loss};
/// let mut total = loss::SquaredError::default();
/// let (x, q) = ([1.0f32, 2.0], [1.0, 0.0]);
/// loss::squared_error(&Cpu::new(), MatRef::new(&x, 1, 2)?, MatRef::new(&q, 1, 2)?, &[7], None, &mut total)?;
/// assert_eq!((total.sum, total.mean(2)), (4.0, 2.0));
/// # Ok::<(), vq_kernels::Error>(())
/// ```
pub fn squared_error(
    cpu: &Cpu,
    x: MatRef,
    quantized: MatRef,
    codes: &[u32],
    weights: Option<&[f32]>,
    total: &mut SquaredError,
) -> Result<()> {
    const OP: &str = "squared_error";
    check(OP, &x, &quantized, codes)?;
    check_weights(OP, weights, x.rows())?;
    *total = cpu.isa().run(Forward { x, quantized, codes, weights, total: *total });
    Ok(())
}

/// Adds `scale · w · (x − quantized)` to `dx` `[rows, dim]`: the gradient of
/// `scale / 2 · Σ w ‖x − quantized‖²` at `x`. Its negative is the gradient at `quantized`.
///
/// `dx_i = fma(scale · w, x_i − q_i, dx_i)`, each factor rounded first.
///
/// # Errors
/// As [`squared_error`].
pub fn squared_error_backward(
    cpu: &Cpu,
    x: MatRef,
    quantized: MatRef,
    codes: &[u32],
    weights: Option<&[f32]>,
    scale: f32,
    mut dx: MatMut,
) -> Result<()> {
    const OP: &str = "squared_error_backward";
    check(OP, &x, &quantized, codes)?;
    check(OP, &x, &dx.as_ref(), codes)?;
    check_weights(OP, weights, x.rows())?;
    rows(cpu, x.cols(), &mut dx, &|first, dx| {
        cpu.isa().run(Backward { x, quantized, codes, weights, scale, first, dx });
    });
    Ok(())
}

/// The straight-through estimator: `dx = dquantized` where a row has a code, else 0.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
pub fn straight_through_backward(cpu: &Cpu, codes: &[u32], dquantized: MatRef, mut dx: MatMut) -> Result<()> {
    check("straight_through_backward", &dquantized, &dx.as_ref(), codes)?;
    let dim = dquantized.cols();
    rows(cpu, dim, &mut dx, &|first, dx| {
        for (i, dx) in dx.chunks_exact_mut(dim).enumerate() {
            match codes[first + i] {
                NO_CODE => dx.fill(0.0),
                _ => dx.copy_from_slice(dquantized.row(first + i)),
            }
        }
    });
    Ok(())
}

/// The rotation trick: with `u = x/‖x‖`, `v = q/‖q‖`, `w = (u+v)/‖u+v‖` and `λ = ‖q‖/‖x‖` held fixed,
/// `dx = λ (g − 2 w (w·g) + 2 u (v·g))` for `g = dquantized`.
///
/// The five inner products are sums over 32 virtual lanes, the coefficients f64, and
/// `dx_i = fma(a, x_i, fma(b, q_i, λ g_i))`. Where `x` or `q` has no direction, or they are opposite
/// (`1 + u·v < 2⁻²⁰`), the estimator is the straight-through one.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
pub fn rotation_backward(
    cpu: &Cpu,
    x: MatRef,
    quantized: MatRef,
    codes: &[u32],
    dquantized: MatRef,
    mut dx: MatMut,
) -> Result<()> {
    const OP: &str = "rotation_backward";
    check(OP, &x, &quantized, codes)?;
    check(OP, &x, &dquantized, codes)?;
    check(OP, &x, &dx.as_ref(), codes)?;
    rows(cpu, x.cols(), &mut dx, &|first, dx| {
        cpu.isa().run(Rotation { x, quantized, codes, dquantized, first, dx });
    });
    Ok(())
}

/// Calls `task(first, rows of dx from first on)` for the parts of `dx`.
fn rows(cpu: &Cpu, dim: usize, dx: &mut MatMut, task: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    let count = if dim == 0 { 0 } else { dx.rows() };
    let dx = Disjoint::new(dx.data());
    cpu.divide(count, ROW_BLOCK, &|first, count| {
        // SAFETY: `divide` gives every row to one part.
        task(first, unsafe { dx.range(first * dim, count * dim) });
    });
}

/// The textbook loops of [`squared_error`], generic over the float type; the f32 form is the contract.
///
/// # Panics
/// Where the extents differ.
pub fn reference<F: Real>(
    x: MatRef<F>,
    quantized: MatRef<F>,
    codes: &[u32],
    weights: Option<&[F]>,
    total: &mut SquaredError,
) {
    for first in (0..x.rows()).step_by(ROW_BLOCK) {
        let (mut sum, mut weight) = (F::zero(), F::zero());
        for row in first..(first + ROW_BLOCK).min(x.rows()) {
            let w = weights.map_or(F::one(), |w| w[row]);
            if codes[row] != NO_CODE && w > F::zero() {
                let (x, q) = (x.row(row), quantized.row(row));
                let distance = lanes32::reference(x.len(), |i| (x[i] - q[i], x[i] - q[i]));
                (sum, weight) = (w.fma(distance, sum), weight + w);
            }
        }
        total.sum += sum.as_f64();
        total.weight += weight.as_f64();
    }
}

/// The textbook loops of [`squared_error_backward`], generic over the float type.
///
/// # Panics
/// Where the extents differ.
pub fn reference_backward<F: Real>(
    x: MatRef<F>,
    quantized: MatRef<F>,
    codes: &[u32],
    weights: Option<&[F]>,
    scale: F,
    dx: &mut [F],
) {
    for row in 0..x.rows() {
        let s = scale * weights.map_or(F::one(), |w| w[row]);
        if codes[row] != NO_CODE && s != F::zero() {
            for i in 0..x.cols() {
                let dx = &mut dx[row * x.cols() + i];
                *dx = s.fma(x.row(row)[i] - quantized.row(row)[i], *dx);
            }
        }
    }
}

/// The textbook loops of [`rotation_backward`], generic over the float type.
///
/// # Panics
/// Where the extents differ.
pub fn reference_rotation<F: Real>(
    x: MatRef<F>,
    quantized: MatRef<F>,
    codes: &[u32],
    dquantized: MatRef<F>,
    dx: &mut [F],
) {
    for (row, dx) in dx.chunks_exact_mut(x.cols().max(1)).enumerate() {
        if codes[row] == NO_CODE {
            dx.fill(F::zero());
            continue;
        }
        let (x, q, g) = (x.row(row), quantized.row(row), dquantized.row(row));
        let dot = |a: &[F], b: &[F]| lanes32::reference(a.len(), |i| (a[i], b[i])).as_f64();
        let turn = Turn::new([dot(x, x), dot(q, q), dot(x, q), dot(x, g), dot(q, g)]);
        let [a, b, scale] = [turn.x, turn.q, turn.g].map(F::of);
        for i in 0..dx.len() {
            dx[i] = turn.apply(a, x[i], b, q[i], scale, g[i]);
        }
    }
}

/// The rotation's gradient as a combination of `x`, `q` and `g`.
struct Turn {
    x: f64,
    q: f64,
    g: f64,
    plain: bool,
}

impl Turn {
    /// From `[x·x, q·q, x·q, x·g, q·g]`.
    fn new([xx, qq, xq, xg, qg]: [f64; 5]) -> Self {
        const SMALLEST: f64 = 1.0 / (1 << 20) as f64;
        let (nx, nq) = (crate::simd::sqrt(xx), crate::simd::sqrt(qq));
        let closeness = 1.0 + xq / (nx * nq);
        // Also where a norm is zero, infinite or NaN: then `closeness` is not a number or λ is not usable.
        let usable = closeness >= SMALLEST && nx.is_normal() && nq.is_normal();
        if !usable {
            return Self { x: 0.0, q: 0.0, g: 1.0, plain: true };
        }
        // g − 2w(w·g) + 2u(v·g), with w(w·g) = (u+v)(u·g+v·g) / (2 + 2 u·v).
        let (ug, vg, scale) = (xg / nx, qg / nq, nq / nx);
        let a = (ug + vg) / closeness;
        Self { x: scale * (2.0 * vg - a) / nx, q: -scale * a / nq, g: scale, plain: false }
    }

    /// One element, for the reference.
    fn apply<F: Real>(&self, a: F, x: F, b: F, q: F, scale: F, g: F) -> F {
        if self.plain { scale * g } else { a.fma(x, b.fma(q, scale * g)) }
    }
}

struct Forward<'a> {
    x: MatRef<'a>,
    quantized: MatRef<'a>,
    codes: &'a [u32],
    weights: Option<&'a [f32]>,
    total: SquaredError,
}

impl Kernel for Forward<'_> {
    type Output = SquaredError;
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) -> SquaredError {
        let mut total = self.total;
        for first in (0..self.x.rows()).step_by(ROW_BLOCK) {
            let (mut sum, mut weights) = (0.0f32, 0.0f32);
            for row in first..(first + ROW_BLOCK).min(self.x.rows()) {
                let w = weight(self.weights, row);
                if self.codes[row] != NO_CODE && w > 0.0 {
                    let (x, q) = (self.x.row(row), self.quantized.row(row));
                    // SAFETY: both rows have `x.len()` elements; V by `run`'s caller.
                    let distance = unsafe { lanes32::squared_distance::<V>(x.as_ptr(), q.as_ptr(), x.len()) };
                    sum = crate::simd::fma32(w, distance, sum);
                    weights += w;
                }
            }
            total.sum += f64::from(sum);
            total.weight += f64::from(weights);
        }
        total
    }
}

struct Backward<'a> {
    x: MatRef<'a>,
    quantized: MatRef<'a>,
    codes: &'a [u32],
    weights: Option<&'a [f32]>,
    scale: f32,
    first: usize,
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let dim = self.x.cols();
        for (i, dx) in self.dx.chunks_exact_mut(dim).enumerate() {
            let row = self.first + i;
            let s = self.scale * weight(self.weights, row);
            if self.codes[row] == NO_CODE || s == 0.0 {
                continue;
            }
            let (x, q, dx) = (self.x.row(row).as_ptr(), self.quantized.row(row).as_ptr(), dx.as_mut_ptr());
            // SAFETY: x, q and dx have dim elements; V by `run`'s caller.
            unsafe {
                let s = V::splat(s);
                for_lanes::<V>(dim, |i, n| {
                    let (x, q, d) =
                        (chain::load::<V>(x.add(i), n), chain::load::<V>(q.add(i), n), chain::load::<V>(dx.add(i), n));
                    chain::store(s.mul_add(x.sub(q), d), dx.add(i), n);
                });
            }
        }
    }
}

/// Calls `body(i, n)` for `i = 0, N, 2N, …`, with `n` the lanes that exist there.
#[inline(always)]
fn for_lanes<V: Lanes>(dim: usize, mut body: impl FnMut(usize, usize)) {
    let mut i = 0;
    while i + V::N <= dim {
        body(i, V::N);
        i += V::N;
    }
    if i < dim {
        body(i, dim - i);
    }
}

struct Rotation<'a> {
    x: MatRef<'a>,
    quantized: MatRef<'a>,
    codes: &'a [u32],
    dquantized: MatRef<'a>,
    first: usize,
    dx: &'a mut [f32],
}

impl Kernel for Rotation<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let dim = self.x.cols();
        for (i, dx) in self.dx.chunks_exact_mut(dim).enumerate() {
            let row = self.first + i;
            if self.codes[row] == NO_CODE {
                dx.fill(0.0);
                continue;
            }
            let (x, q, g) = (self.x.row(row), self.quantized.row(row), self.dquantized.row(row));
            // SAFETY: the rows have dim elements each; V by `run`'s caller.
            let dot = |a: &[f32], b: &[f32]| f64::from(unsafe { lanes32::dot::<V>(a.as_ptr(), b.as_ptr(), dim) });
            let turn = Turn::new([dot(x, x), dot(q, q), dot(x, q), dot(x, g), dot(q, g)]);
            let [a, b, scale] = [turn.x, turn.q, turn.g].map(|c| c as f32);
            let (x, q, g, dx) = (x.as_ptr(), q.as_ptr(), g.as_ptr(), dx.as_mut_ptr());
            // SAFETY: x, q, g and dx have dim elements; V by `run`'s caller.
            unsafe {
                let [a, b, scale] = [V::splat(a), V::splat(b), V::splat(scale)];
                for_lanes::<V>(dim, |i, n| {
                    let turned = scale.mul(chain::load::<V>(g.add(i), n));
                    let turned = match turn.plain {
                        true => turned,
                        false => {
                            let (x, q) = (chain::load::<V>(x.add(i), n), chain::load::<V>(q.add(i), n));
                            a.mul_add(x, b.mul_add(q, turned))
                        }
                    };
                    chain::store(turned, dx.add(i), n);
                });
            }
        }
    }
}
