//! Reductions over a row: 32 virtual lanes and one tree, on registers of any width.

use crate::real::Real;
use crate::simd::Lanes;

const LANES: usize = 32;

/// `Σ term(i).0 · term(i).1` over `0..d` in the contract's order: the executable specification.
pub(crate) fn reference<F: Real>(d: usize, term: impl Fn(usize) -> (F, F)) -> F {
    let mut lanes = [F::zero(); LANES];
    for i in 0..d {
        let (a, b) = term(i);
        lanes[i % LANES] = a.fma(b, lanes[i % LANES]);
    }
    tree(lanes)
}

#[inline(always)]
fn tree<F: Real>(mut lanes: [F; LANES]) -> F {
    for width in [16, 8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] = lanes[lane] + lanes[lane + width];
        }
    }
    lanes[0]
}

/// `Σ a_i · b_i`.
///
/// # Safety
/// `a` and `b` are readable for `d` elements; the CPU supports `V`.
#[inline(always)]
pub(crate) unsafe fn dot<V: Lanes>(a: *const f32, b: *const f32, d: usize) -> f32 {
    // SAFETY: the same claims.
    unsafe { reduce::<V, false>(a, b, d) }
}

/// `Σ (a_i − b_i)²`, the difference rounded first.
///
/// # Safety
/// As [`dot`].
#[inline(always)]
pub(crate) unsafe fn squared_distance<V: Lanes>(a: *const f32, b: *const f32, d: usize) -> f32 {
    // SAFETY: the same claims.
    unsafe { reduce::<V, true>(a, b, d) }
}

#[inline(always)]
unsafe fn reduce<V: Lanes, const DIFFERENCE: bool>(a: *const f32, b: *const f32, d: usize) -> f32 {
    #[inline(always)]
    unsafe fn step<V: Lanes, const DIFFERENCE: bool>(a: V, b: V, sum: V) -> V {
        // SAFETY: the caller vouches for V.
        unsafe {
            if DIFFERENCE {
                let t = a.sub(b);
                t.mul_add(t, sum)
            } else {
                a.mul_add(b, sum)
            }
        }
    }
    // SAFETY: `at + N ≤ d` before each full load, and `d − at` elements remain at the partial one.
    unsafe {
        // Only the first 32 / N are used; the others vanish when this is compiled.
        let mut sums = [V::splat(0.0); LANES];
        let mut i = 0;
        while i + LANES <= d {
            for (p, sum) in sums.iter_mut().take(LANES / V::N).enumerate() {
                let at = i + p * V::N;
                *sum = step::<V, DIFFERENCE>(V::load(a.add(at)), V::load(b.add(at)), *sum);
            }
            i += LANES;
        }
        for (p, sum) in sums.iter_mut().take(LANES / V::N).enumerate() {
            let at = i + p * V::N;
            if at + V::N <= d {
                *sum = step::<V, DIFFERENCE>(V::load(a.add(at)), V::load(b.add(at)), *sum);
            } else if at < d {
                let (a, b) = (V::load_partial(a.add(at), d - at), V::load_partial(b.add(at), d - at));
                *sum = step::<V, DIFFERENCE>(a, b, *sum);
            }
        }
        let mut lanes = [0.0; LANES];
        for (p, sum) in sums.iter().take(LANES / V::N).enumerate() {
            sum.store(lanes.as_mut_ptr().add(p * V::N));
        }
        tree(lanes)
    }
}
