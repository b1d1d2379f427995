//! Registers of i32 lanes that add up products of bytes: what the coarse pass computes with.

/// A register of i32 lanes, each of which is also four bytes, or two 16-bit integers.
///
/// # Safety (of every method)
/// As for [`Lanes`](super::Lanes).
pub(crate) trait Dots: Copy {
    /// Number of i32 lanes: 1, 4, 8 or 16.
    const N: usize;
    /// Vector registers of the instruction set.
    const REGISTERS: usize;
    /// The largest magnitude of a row's bytes, at most 127.
    const ROW_MAX: i8;
    /// What is in a code's bytes beside its integers, as far as `dot` counts it: 128, or 0.
    const BIAS: i32;
    /// Whether [`zip`](Self::zip), [`unzip`](Self::unzip) and [`dot_matrix`](Self::dot_matrix) are there, which two
    /// rows at a time are multiplied with.
    const MATRIX: bool = false;
    /// All lanes `x`.
    unsafe fn splat(x: i32) -> Self;
    /// Lanes from `4 N` bytes.
    unsafe fn load(p: *const u8) -> Self;
    /// Lanes to `p[0..N]`.
    unsafe fn store(self, p: *mut i32);
    /// `self + Σ (codes[j] − 128 + BIAS) · row[j]` over the four bytes of a lane, those of `codes` unsigned, those
    /// of `row` signed and within `±ROW_MAX`. Wraps around at 2³¹.
    unsafe fn dot(self, codes: Self, row: Self) -> Self;
    /// Lanes of both, alternately: those of the first halves, and those of the second ones.
    unsafe fn zip(self, _other: Self) -> [Self; 2] {
        unreachable!("not without MATRIX")
    }
    /// The inverse of [`zip`](Self::zip): the even lanes of both, and the odd ones.
    unsafe fn unzip(self, _other: Self) -> [Self; 2] {
        unreachable!("not without MATRIX")
    }
    /// [`dot`](Self::dot) over eight bytes, those of two lanes: lane `2 k + r` gets the product of lanes `2 k` and
    /// `2 k + 1` of `codes` with lanes `2 r` and `2 r + 1` of `rows`. Only four lanes.
    unsafe fn dot_matrix(self, _codes: Self, _rows: Self) -> Self {
        unreachable!("not without MATRIX")
    }
    /// `Σ a[j] · b[j]` over the two signed 16-bit integers of a lane.
    unsafe fn dot_pairs(a: Self, b: Self) -> Self;
    /// The larger one.
    unsafe fn larger(self, other: Self) -> Self;
    /// Bit `l` is set where lane `l` of `self` is at least that of `other`.
    unsafe fn ge_mask(self, other: Self) -> u32;
}

/// One lane: any machine.
impl Dots for i32 {
    const N: usize = 1;
    const REGISTERS: usize = 16;
    const ROW_MAX: i8 = 127;
    const BIAS: i32 = 128;
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        x
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self {
        // SAFETY: the caller's `p` is valid for four bytes.
        unsafe { p.cast::<i32>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        // SAFETY: the caller's `p` is valid for one element.
        unsafe { p.write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn dot(self, codes: Self, row: Self) -> Self {
        let pairs = codes.to_ne_bytes().into_iter().zip(row.to_ne_bytes());
        pairs.fold(self, |sum, (c, x)| sum.wrapping_add(i32::from(c) * i32::from(x as i8)))
    }
    #[inline(always)]
    unsafe fn dot_pairs(a: Self, b: Self) -> Self {
        let product = |shift: u32| i32::from((a >> shift) as i16) * i32::from((b >> shift) as i16);
        product(0).wrapping_add(product(16))
    }
    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        Ord::max(self, other)
    }
    #[inline(always)]
    unsafe fn ge_mask(self, other: Self) -> u32 {
        u32::from(self >= other)
    }
}
