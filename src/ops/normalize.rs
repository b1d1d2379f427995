//! Rows to unit length: `y = x / ‖x‖`.
//!
//! x, y: `[rows, dim]`; norms: `[rows]`. `n = Σ x_i²` over 32 virtual lanes; `‖x‖ = √n` and
//! `y_i = x_i / ‖x‖`, both correctly rounded. Where `n` is below 2⁻¹⁰⁰ (its terms may be
//! subnormal) or infinite and the row finite, the row is first scaled by the power of two that brings its largest magnitude into
//! `[½, 1)`. A zero row gives y = 0, norm 0 and no gradient. A row with an infinity or NaN gives
//! NaN in at least one element, so that search gives it no code.
//!
//! Gradient: `dx = (dy − (y·dy) y) / ‖x‖`, `t = y·dy` over 32 virtual lanes, then
//! `dx_i = fma(−t, y_i, dy_i) / ‖x‖`.
//!
//! Cost: one pass over memory. Source: the l2-normalized codes of Yu et al., "Vector-quantized image
//! modeling with improved VQGAN" (ICLR 2022), §3.2.

use super::lanes32;
use crate::cpu::{Cpu, Disjoint};
use crate::element::Element;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::real::Real;
use crate::simd::{Kernel, Lanes};

const OP: &str = "normalize";

/// Scales each row of `x` `[rows, dim]` to unit length, into `y` `[rows, dim]`; the lengths go to
/// `norms` `[rows]` where it is given ([`normalize_backward`] needs them).
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
///
/// ```
/// use vq_kernels::{Cpu, MatMut, MatRef, ops};
/// let (x, mut y) = ([3.0f32, 4.0], [0.0; 2]);
/// ops::normalize(&Cpu::new(), MatRef::new(&x, 1, 2)?, MatMut::new(&mut y, 1, 2)?, None)?;
/// assert_eq!(y, [0.6, 0.8]);
/// # Ok::<(), vq_kernels::Error>(())
/// ```
pub fn normalize<E: Element>(cpu: &Cpu, x: MatRef<E>, mut y: MatMut, norms: Option<&mut [f32]>) -> Result<()> {
    same(OP, "rows of y", x.rows(), y.rows())?;
    same(OP, "columns of y", x.cols(), y.cols())?;
    if let Some(norms) = &norms {
        same(OP, "number of norms", x.rows(), norms.len())?;
    }
    let (dim, y, norms) = (x.cols(), Disjoint::new(y.data()), norms.map(Disjoint::new));
    cpu.divide(x.rows(), super::ROW_BLOCK, &|first, count| {
        let x = x.rows_from(first, count);
        // SAFETY: `divide` gives every row to one part.
        let y = unsafe { y.range(first * dim, count * dim) };
        // SAFETY: as above.
        let norms = norms.as_ref().map(|norms| unsafe { norms.range(first, count) });
        cpu.isa().run(Forward { x, y, norms });
    });
    Ok(())
}

/// The gradient at `x`, into `dx` `[rows, dim]`, from `y` and `norms` of [`normalize`] and the
/// gradient `dy` at `y`.
///
/// # Errors
/// [`Error::Shape`] where the extents differ.
pub fn normalize_backward(cpu: &Cpu, y: MatRef, norms: &[f32], dy: MatRef, mut dx: MatMut) -> Result<()> {
    const OP: &str = "normalize_backward";
    same(OP, "number of norms", y.rows(), norms.len())?;
    same(OP, "rows of dy", y.rows(), dy.rows())?;
    same(OP, "columns of dy", y.cols(), dy.cols())?;
    same(OP, "rows of dx", y.rows(), dx.rows())?;
    same(OP, "columns of dx", y.cols(), dx.cols())?;
    let (dim, dx) = (y.cols(), Disjoint::new(dx.data()));
    cpu.divide(y.rows(), super::ROW_BLOCK, &|first, count| {
        let (y, dy) = (y.rows_from(first, count), dy.rows_from(first, count));
        // SAFETY: `divide` gives every row to one part.
        let dx = unsafe { dx.range(first * dim, count * dim) };
        cpu.isa().run(Backward { y, norms: &norms[first..first + count], dy, dx });
    });
    Ok(())
}

/// The textbook loops, generic over the float type; the f32 form is the contract. Shapes are not
/// checked: rows beyond the shortest argument are left out.
pub fn reference<F: Real>(x: &[F], dim: usize, y: &mut [F], norms: &mut [F]) {
    for ((x, y), norm) in x.chunks_exact(dim.max(1)).zip(y.chunks_exact_mut(dim.max(1))).zip(norms) {
        let n = lanes32::reference(dim, |i| (x[i], x[i]));
        if (F::SMALLEST_SQUARE..F::infinity()).contains(&n) {
            *norm = n.root();
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = x / *norm);
        } else {
            y.copy_from_slice(x);
            *norm = rescaled(y);
        }
    }
}

/// The textbook gradient, generic over the float type.
///
/// # Panics
/// Where the extents differ.
pub fn reference_backward<F: Real>(y: &[F], norms: &[F], dy: &[F], dim: usize, dx: &mut [F]) {
    let dim = dim.max(1);
    for (row, &norm) in norms.iter().enumerate() {
        let at = row * dim..(row + 1) * dim;
        let (y, dy, dx) = (&y[at.clone()], &dy[at.clone()], &mut dx[at]);
        let t = lanes32::reference(dim, |i| (y[i], dy[i]));
        for i in 0..dim {
            dx[i] = if norm == F::zero() { F::zero() } else { (-t).fma(y[i], dy[i]) / norm };
        }
    }
}

/// The rare row, in `y`, whose sum of squares is below 2⁻¹⁰⁰, infinite or NaN: normalized in
/// place. Returns its norm.
#[cold]
fn rescaled<F: Real>(y: &mut [F]) -> F {
    let largest = y.iter().fold(F::zero(), |m, x| if x.abs() > m { x.abs() } else { m });
    if largest == F::zero() || !y.iter().all(|x| x.is_finite()) {
        // All zero: +0 everywhere; not finite: NaN everywhere.
        let norm = y.iter().fold(F::zero(), |sum, &x| sum + x * F::zero());
        y.fill(norm);
        return norm;
    }
    // The largest magnitude times 2^−power is in [½, 1). Two factors, as one power of two may leave
    // the type's range.
    let (mantissa, exponent, _) = largest.integer_decode();
    let power = i32::from(exponent) + mantissa.ilog2() as i32 + 1;
    let half = F::of(libm::ldexp(1.0, -(power / 2)));
    let rest = F::of(libm::ldexp(1.0, -(power - power / 2)));
    y.iter_mut().for_each(|y| *y = *y * half * rest);
    let root = lanes32::reference(y.len(), |i| (y[i], y[i])).root();
    y.iter_mut().for_each(|y| *y = *y / root);
    F::of(libm::ldexp(root.as_f64(), power))
}

struct Forward<'a, E> {
    x: MatRef<'a, E>,
    y: &'a mut [f32],
    norms: Option<&'a mut [f32]>,
}

impl<E: Element> Kernel for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Self { x, y, mut norms } = self;
        let dim = x.cols();
        for row in 0..x.rows() {
            let y = &mut y[row * dim..][..dim];
            let norm = match E::as_f32(x.row(row)) {
                // SAFETY: V by `run`'s caller.
                Some(x) => unsafe { normalized_row::<V>(x, y) },
                None => {
                    y.iter_mut().zip(x.row(row)).for_each(|(y, x)| *y = x.to_f32());
                    // SAFETY: V by `run`'s caller.
                    unsafe { normalized_in_place::<V>(y) }
                }
            };
            if let Some(norms) = &mut norms {
                norms[row] = norm;
            }
        }
    }
}

/// One row, from `x` to `y` of the same length; returns its norm.
///
/// # Safety
/// The CPU supports `V`.
#[inline(always)]
pub(super) unsafe fn normalized_row<V: Lanes>(x: &[f32], y: &mut [f32]) -> f32 {
    y.copy_from_slice(x);
    // SAFETY: the caller vouches for V.
    unsafe { normalized_in_place::<V>(y) }
}

#[inline(always)]
unsafe fn normalized_in_place<V: Lanes>(y: &mut [f32]) -> f32 {
    let (p, dim) = (y.as_mut_ptr(), y.len());
    // SAFETY: `p` has dim elements: `i + N ≤ dim` at each full access, `dim − i` remain at the partial
    // one; V by the caller.
    unsafe {
        let n = lanes32::dot::<V>(p, p, dim);
        if !(f32::SMALLEST_SQUARE..f32::INFINITY).contains(&n) {
            return rescaled(y);
        }
        let norm = crate::simd::sqrtf(n);
        let divisor = V::splat(norm);
        let mut i = 0;
        while i + V::N <= dim {
            V::load(p.add(i)).div(divisor).store(p.add(i));
            i += V::N;
        }
        if i < dim {
            V::load_partial(p.add(i), dim - i).div(divisor).store_partial(p.add(i), dim - i);
        }
        norm
    }
}

struct Backward<'a> {
    y: MatRef<'a>,
    norms: &'a [f32],
    dy: MatRef<'a>,
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let dim = self.y.cols();
        for (row, &norm) in self.norms.iter().enumerate() {
            let dx = &mut self.dx[row * dim..][..dim];
            if norm == 0.0 {
                dx.fill(0.0);
                continue;
            }
            let (y, dy) = (self.y.row(row).as_ptr(), self.dy.row(row).as_ptr());
            // SAFETY: y, dy and dx have dim elements each; full accesses end at or before dim.
            unsafe {
                let t = V::splat(-lanes32::dot::<V>(y, dy, dim));
                let norm = V::splat(norm);
                let mut i = 0;
                while i + V::N <= dim {
                    let g = t.mul_add(V::load(y.add(i)), V::load(dy.add(i)));
                    g.div(norm).store(dx.as_mut_ptr().add(i));
                    i += V::N;
                }
                if i < dim {
                    let g = t.mul_add(V::load_partial(y.add(i), dim - i), V::load_partial(dy.add(i), dim - i));
                    g.div(norm).store_partial(dx.as_mut_ptr().add(i), dim - i);
                }
            }
        }
    }
}
