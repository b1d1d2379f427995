//! A fused multiply-add that is exact on every target.

/// `a · b + c`, rounded once, on every target.
///
/// Hardware where the build target has it; else [`soft_fma32`], never the platform's `fmaf`, which
/// is not right everywhere.
#[inline(always)]
pub(crate) fn fma32(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(all(feature = "std", any(target_feature = "fma", target_arch = "aarch64")))]
    return a.mul_add(b, c);
    #[cfg(all(feature = "cortex-m-fma", target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
    return vfma(a, b, c);
    #[cfg(not(any(
        all(feature = "std", any(target_feature = "fma", target_arch = "aarch64")),
        all(feature = "cortex-m-fma", target_arch = "arm", target_os = "none", target_abi = "eabihf")
    )))]
    return soft_fma32(a, b, c);
}

/// The FPU's own, of Cortex-M4F and every later Cortex-M with an FPU.
///
/// Through the core registers, since stable Rust does not let `asm!` name float operands on these targets.
#[cfg(all(feature = "cortex-m-fma", target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
#[inline(always)]
fn vfma(a: f32, b: f32, c: f32) -> f32 {
    let sum: u32;
    // SAFETY: the feature promises an FPU with VFMA; nothing but the registers named here is touched.
    unsafe {
        core::arch::asm!(
            "vmov s0, {a}",
            "vmov s1, {b}",
            "vmov s2, {c}",
            "vfma.f32 s2, s0, s1",
            "vmov {sum}, s2",
            a = in(reg) a.to_bits(),
            b = in(reg) b.to_bits(),
            c = in(reg) c.to_bits(),
            sum = lateout(reg) sum,
            out("s0") _, out("s1") _, out("s2") _,
            options(pure, nomem, nostack),
        );
    }
    f32::from_bits(sum)
}

/// `a · b + c`, rounded once, from f64 arithmetic.
///
/// The product of two f32 is exact in f64. The f64 sum is rounded to odd (Boldo and Melquiond,
/// "Emulation of FMA and correctly rounded sums", IEEE TC 2008, theorem 1), after which rounding to
/// f32 is the same as rounding once, subnormal results included, since 53 ≥ 2·24 + 2.
#[inline]
#[cfg_attr(
    any(
        all(not(test), feature = "std", any(target_feature = "fma", target_arch = "aarch64")),
        all(feature = "cortex-m-fma", target_arch = "arm", target_os = "none", target_abi = "eabihf")
    ),
    expect(dead_code)
)]
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
