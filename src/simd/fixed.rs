//! Exact inner products of fixed-point rows with `N` codes: two products an instruction on a Cortex-M with
//! the DSP extension, plain loops elsewhere.
//!
//! Widths: a q7 product is at most 2¹⁴, so 4,096 of them fit an i32; a q15 product is at most 2³⁰, so two
//! would not, and 4,096 of them take 2⁴² of an i64.

#[cfg(not(all(target_arch = "arm", any(feature = "cortex-m-dsp", target_feature = "dsp"))))]
pub(crate) use portable::{dots_q7, dots_q15};

#[cfg(all(target_arch = "arm", any(feature = "cortex-m-dsp", target_feature = "dsp")))]
pub(crate) use dsp::{dots_q7, dots_q15};

/// All cut to the shortest of them: indices below one length are below all.
#[inline(always)]
fn cut<'a, T, const N: usize>(x: &'a [T], codes: [&'a [T]; N]) -> (&'a [T], [&'a [T]; N]) {
    let len = codes.iter().fold(x.len(), |len, code| len.min(code.len()));
    (&x[..len], codes.map(|code| &code[..len]))
}

#[cfg_attr(all(target_arch = "arm", any(feature = "cortex-m-dsp", target_feature = "dsp")), expect(dead_code))]
mod portable {
    use super::cut;

    /// The inner products of `x` and each of `codes`, of at most 2¹⁶ elements.
    #[inline(always)]
    pub(crate) fn dots_q7<const N: usize>(x: &[i8], codes: [&[i8]; N]) -> [i64; N] {
        let mut sums = [0i32; N];
        let (x, codes) = cut(x, codes);
        for i in 0..x.len() {
            for (sum, code) in sums.iter_mut().zip(codes) {
                *sum += i32::from(x[i]) * i32::from(code[i]);
            }
        }
        sums.map(i64::from)
    }

    /// The inner products of `x` and each of `codes`.
    #[inline(always)]
    pub(crate) fn dots_q15<const N: usize>(x: &[i16], codes: [&[i16]; N]) -> [i64; N] {
        let mut sums = [0i64; N];
        let (x, codes) = cut(x, codes);
        for i in 0..x.len() {
            for (sum, code) in sums.iter_mut().zip(codes) {
                *sum += i64::from(i32::from(x[i]) * i32::from(code[i]));
            }
        }
        sums
    }
}

#[cfg(all(target_arch = "arm", any(feature = "cortex-m-dsp", target_feature = "dsp")))]
mod dsp {
    use super::cut;
    use core::arch::asm;

    /// The inner products of `x` and each of `codes`, of at most 2¹⁶ elements.
    #[inline(always)]
    pub(crate) fn dots_q7<const N: usize>(x: &[i8], codes: [&[i8]; N]) -> [i64; N] {
        let mut sums = [0i32; N];
        let (x, codes) = cut(x, codes);
        let (words, code_words) = cut(words(x), codes.map(words));
        for (i, &x) in words.iter().enumerate() {
            let x = pairs(u32::from_ne_bytes(x));
            for (sum, code) in sums.iter_mut().zip(code_words) {
                let code = pairs(u32::from_ne_bytes(code[i]));
                *sum = smlad(x.1, code.1, smlad(x.0, code.0, *sum));
            }
        }
        for i in words.len() * 4..x.len() {
            for (sum, code) in sums.iter_mut().zip(codes) {
                *sum += i32::from(x[i]) * i32::from(code[i]);
            }
        }
        sums.map(i64::from)
    }

    /// The inner products of `x` and each of `codes`.
    #[inline(always)]
    pub(crate) fn dots_q15<const N: usize>(x: &[i16], codes: [&[i16]; N]) -> [i64; N] {
        let mut sums = [0i64; N];
        let (x, codes) = cut(x, codes);
        let (words, code_words) = cut(words(x), codes.map(words));
        for (i, &x) in words.iter().enumerate() {
            let x = u32::from_ne_bytes(x);
            for (sum, code) in sums.iter_mut().zip(code_words) {
                *sum = smlald(x, u32::from_ne_bytes(code[i]), *sum);
            }
        }
        for i in words.len() * 2..x.len() {
            for (sum, code) in sums.iter_mut().zip(codes) {
                *sum += i64::from(i32::from(x[i]) * i32::from(code[i]));
            }
        }
        sums
    }

    /// Four bytes at a time, in memory order: one load each, which needs no alignment.
    #[inline(always)]
    fn words<T: bytemuck::Pod>(elements: &[T]) -> &[[u8; 4]] {
        bytemuck::cast_slice::<T, u8>(elements).as_chunks().0
    }

    /// Four i8 as two pairs of i16: the even ones and the odd ones.
    #[inline(always)]
    fn pairs(word: u32) -> (u32, u32) {
        let (even, odd);
        // SAFETY: the DSP extension is there (`cfg`); only registers are touched.
        unsafe {
            asm!("sxtb16 {even}, {word}", "sxtb16 {odd}, {word}, ror #8", word = in(reg) word,
                even = out(reg) even, odd = lateout(reg) odd, options(pure, nomem, nostack));
        }
        (even, odd)
    }

    /// `sum + a.0·b.0 + a.1·b.1` of pairs of i16.
    #[inline(always)]
    fn smlad(a: u32, b: u32, sum: i32) -> i32 {
        let out;
        // SAFETY: the DSP extension is there (`cfg`); only registers are touched.
        unsafe {
            asm!("smlad {out}, {a}, {b}, {sum}", a = in(reg) a, b = in(reg) b, sum = in(reg) sum,
                out = lateout(reg) out, options(pure, nomem, nostack));
        }
        out
    }

    /// [`smlad`] into 64 bits.
    #[inline(always)]
    fn smlald(a: u32, b: u32, sum: i64) -> i64 {
        let (mut low, mut high) = (sum as u32, (sum >> 32) as u32);
        // SAFETY: the DSP extension is there (`cfg`); only registers are touched.
        unsafe {
            asm!("smlald {low}, {high}, {a}, {b}", a = in(reg) a, b = in(reg) b,
                low = inout(reg) low, high = inout(reg) high, options(pure, nomem, nostack));
        }
        (u64::from(high) << 32 | u64::from(low)) as i64
    }
}
