//! A fused multiply-add that is exact on every target.

/// `a · b + c`, rounded once, on every target.
///
/// Hardware where the build target has it; else [`soft_fma32`], never the platform's `fmaf`, which
/// is not right everywhere.
#[inline(always)]
pub(crate) fn fma32(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(all(feature = "std", any(target_feature = "fma", target_arch = "aarch64")))]
    return a.mul_add(b, c);
    #[cfg(not(all(feature = "std", any(target_feature = "fma", target_arch = "aarch64"))))]
    return soft_fma32(a, b, c);
}

/// `a · b + c`, rounded once, from f64 arithmetic.
///
/// The product of two f32 is exact in f64. The f64 sum is rounded to odd (Boldo and Melquiond,
/// "Emulation of FMA and correctly rounded sums", IEEE TC 2008, theorem 1), after which rounding to
/// f32 is the same as rounding once, subnormal results included, since 53 ≥ 2·24 + 2.
#[inline]
#[cfg_attr(all(not(test), feature = "std", any(target_feature = "fma", target_arch = "aarch64")), expect(dead_code))]
pub(crate) fn soft_fma32(a: f32, b: f32, c: f32) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let addend = f64::from(c);
    let sum = product + addend;
    // TwoSum (Knuth): `error` is exactly what the addition rounded away.
    let back = sum - product;
    let error = (product - (sum - back)) + (addend - back);
    let odd = if error != 0.0 && sum.is_finite() && sum.to_bits() & 1 == 0 {
        // The exact sum lies between `sum` and its neighbour on the error's side; that neighbour is odd.
        let towards_larger_magnitude = (error > 0.0) == (sum > 0.0);
        f64::from_bits(if towards_larger_magnitude { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
    } else {
        sum
    };
    odd as f32
}
