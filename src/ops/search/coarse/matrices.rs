//! Products of bytes two rows at a time, where a machine multiplies matrices: the same copy of the codebook, two of whose steps are
//! put side by side on their way, and the same sums.

use crate::codebook::int8::{QUARTER, VECTOR};
use crate::simd::Dots;

/// Whether `R` rows are multiplied two at a time, as matrices.
pub(super) const fn by_matrices<D: Dots, const R: usize>() -> bool {
    D::MATRIX && R.is_multiple_of(2)
}

/// The sums of each two rows, lanes being codes, to sums that [`Dots::dot_matrix`] adds to: lanes are in turn
/// the first row's and the second one's, the first half of the codes coming first.
///
/// # Safety
/// The CPU supports `D`, which has `MATRIX`.
#[inline(always)]
pub(super) unsafe fn pair_rows<D: Dots, const R: usize, const W: usize>(sums: &mut [[D; W]; R]) {
    for rows in sums.chunks_exact_mut(2) {
        let (first, second) = rows.split_at_mut(1);
        for (a, b) in first[0].iter_mut().zip(&mut second[0]) {
            // SAFETY: the caller's claim.
            [*a, *b] = unsafe { a.zip(*b) };
        }
    }
}

/// The inverse of [`pair_rows`]; maxima of lanes may have come between.
///
/// # Safety
/// As [`pair_rows`].
#[inline(always)]
pub(super) unsafe fn part_rows<D: Dots, const R: usize>(best: &mut [D; R]) {
    for rows in best.chunks_exact_mut(2) {
        // SAFETY: the caller's claim.
        [rows[0], rows[1]] = unsafe { rows[0].unzip(rows[1]) };
    }
}

/// Adds the products of `W` vectors of codes from `bytes` on with the words of `R` rows, two steps at a time.
///
/// # Safety
/// As [`pair_rows`]; `W` vectors can be read at each of `steps` steps of `bytes`, and `steps ≥ 1` of `words`.
#[inline(always)]
pub(super) unsafe fn multiply<D: Dots, const R: usize, const W: usize>(
    sums: &mut [[D; W]; R],
    bytes: *const u8,
    words: &[*const i32; R],
    steps: usize,
) {
    for i in 0..steps / 2 {
        // SAFETY: the caller's claims.
        unsafe { multiply_two(sums, bytes, words, [2 * i, 2 * i + 1], !0) };
    }
    if !steps.is_multiple_of(2) {
        // SAFETY: the caller's claims. The last step twice, but once with zeros.
        unsafe { multiply_two(sums, bytes, words, [steps - 1, steps - 1], 0) };
    }
}

/// [`multiply`] for two steps, the second one's words under a mask.
///
/// # Safety
/// As [`multiply`], with `steps` below its own.
#[inline(always)]
unsafe fn multiply_two<D: Dots, const R: usize, const W: usize>(
    sums: &mut [[D; W]; R],
    bytes: *const u8,
    words: &[*const i32; R],
    [i, j]: [usize; 2],
    mask: i32,
) {
    // SAFETY: the caller's claims; four words are a vector.
    unsafe {
        let mut rows = [D::splat(0); R];
        for (rows, words) in rows.chunks_exact_mut(2).zip(words.chunks_exact(2)) {
            let four = [*words[0].add(i), *words[0].add(j) & mask, *words[1].add(i), *words[1].add(j) & mask];
            rows[0] = D::load(four.as_ptr().cast());
        }
        for w in 0..W {
            let (first, second) = (bytes.add(i * QUARTER + w * VECTOR), bytes.add(j * QUARTER + w * VECTOR));
            let [low, high] = D::load(first).zip(D::load(second));
            for (rows, sums) in rows.chunks_exact(2).zip(sums.chunks_exact_mut(2)) {
                sums[0][w] = sums[0][w].dot_matrix(low, rows[0]);
                sums[1][w] = sums[1][w].dot_matrix(high, rows[0]);
            }
        }
    }
}
