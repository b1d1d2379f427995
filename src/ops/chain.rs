//! The one matrix product: `C[r][o] = fma(A(r, k), B[k][o], C[r][o])` for ascending `k`.
//!
//! Lanes run across `o`, so each element is one f32 chain on every instruction set. `A` is read by
//! strides, which makes it a matrix, its transpose, or one column of rows.

use crate::simd::Lanes;

/// Where `A(r, k)` lies: `a[r · row + k · inner]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    pub a: *const f32,
    pub row: usize,
    pub inner: usize,
}

/// Rows that one register tile holds.
pub(crate) const TILE_ROWS: usize = 6;

/// Columns that one call of [`tile`] may be given at most, in vectors.
const TILE_VECTORS: usize = 2;

/// What the chains start from, and where they end.
pub(crate) trait Sink {
    /// The start of `C[r][o .. o + n]` (`n ≤ N`).
    ///
    /// # Safety
    /// The element range exists; the CPU supports `V`.
    unsafe fn start<V: Lanes>(&self, r: usize, o: usize, n: usize) -> V;
    /// Takes the end of `C[r][o .. o + n]`.
    ///
    /// # Safety
    /// As [`start`](Self::start).
    unsafe fn end<V: Lanes>(&mut self, r: usize, o: usize, n: usize, value: V);
}

/// All of `C`'s `rows × cols`, each element a chain over `inner` terms.
///
/// # Safety
/// `a` and `b[k · b_stride + o]` are readable for all `r < rows`, `k < inner`, `o < cols`; `sink`
/// takes `rows × cols`; the CPU supports `V`.
#[inline(always)]
pub(crate) unsafe fn product<V: Lanes>(
    (rows, inner, cols): (usize, usize, usize),
    a: Strided,
    b: *const f32,
    b_stride: usize,
    sink: &mut impl Sink,
) {
    let mut o = 0;
    while o < cols {
        let width = (cols - o).min(TILE_VECTORS * V::N);
        let mut r = 0;
        // SAFETY: rows `r .. r + R` and columns `o .. o + width` are within the extents.
        unsafe {
            // One vector of columns: twice the rows, for as many chains.
            while width <= V::N && r + 2 * TILE_ROWS <= rows {
                columns::<V, { 2 * TILE_ROWS }>(inner, a, r, b, b_stride, o, width, sink);
                r += 2 * TILE_ROWS;
            }
            while r + TILE_ROWS <= rows {
                columns::<V, TILE_ROWS>(inner, a, r, b, b_stride, o, width, sink);
                r += TILE_ROWS;
            }
            while r < rows {
                columns::<V, 1>(inner, a, r, b, b_stride, o, width, sink);
                r += 1;
            }
        }
        o += width;
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the paragraphs of `product`, split by width")]
unsafe fn columns<V: Lanes, const R: usize>(
    inner: usize,
    a: Strided,
    r: usize,
    b: *const f32,
    b_stride: usize,
    o: usize,
    width: usize,
    sink: &mut impl Sink,
) {
    // SAFETY: the caller's claim; a partial vector is the last one.
    unsafe {
        if width == 2 * V::N {
            tile::<V, R, 2, false>(inner, a, r, b, b_stride, o, V::N, sink);
        } else {
            let full = width / V::N;
            for v in 0..full {
                tile::<V, R, 1, false>(inner, a, r, b, b_stride, o + v * V::N, V::N, sink);
            }
            if !width.is_multiple_of(V::N) {
                tile::<V, R, 1, true>(inner, a, r, b, b_stride, o + full * V::N, width % V::N, sink);
            }
        }
    }
}

/// `R × W` vectors of chains in registers; the last vector has `n` lanes if `PARTIAL`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the innermost paragraph of `product`")]
unsafe fn tile<V: Lanes, const R: usize, const W: usize, const PARTIAL: bool>(
    inner: usize,
    a: Strided,
    r: usize,
    b: *const f32,
    b_stride: usize,
    o: usize,
    n: usize,
    sink: &mut impl Sink,
) {
    // SAFETY: the caller's claim.
    unsafe {
        let mut sums = [[V::splat(0.0); W]; R];
        for (i, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = sink.start(r + i, o + v * V::N, n);
            }
        }
        let a0 = a.a.add(r * a.row);
        for k in 0..inner {
            let b = b.add(k * b_stride + o);
            let mut terms = [V::splat(0.0); W];
            for (v, term) in terms.iter_mut().enumerate() {
                *term = if PARTIAL { V::load_partial(b, n) } else { V::load(b.add(v * V::N)) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(a0.add(i * a.row + k * a.inner).read_unaligned());
                for (sum, term) in sums.iter_mut().zip(terms) {
                    *sum = x.mul_add(term, *sum);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                sink.end(r + i, o + v * V::N, n, sum);
            }
        }
    }
}

/// Loads `n ≤ N` lanes.
///
/// # Safety
/// `p` is readable for `n` elements; the CPU supports `V`.
#[inline(always)]
pub(crate) unsafe fn load<V: Lanes>(p: *const f32, n: usize) -> V {
    // SAFETY: the caller's claim.
    unsafe { if n == V::N { V::load(p) } else { V::load_partial(p, n) } }
}

/// Stores `n ≤ N` lanes.
///
/// # Safety
/// `p` is writable for `n` elements; the CPU supports `V`.
#[inline(always)]
pub(crate) unsafe fn store<V: Lanes>(value: V, p: *mut f32, n: usize) {
    // SAFETY: the caller's claim.
    unsafe { if n == V::N { value.store(p) } else { value.store_partial(p, n) } }
}
