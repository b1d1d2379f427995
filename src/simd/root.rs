//! Square roots, correctly rounded.
//!
//! On x86-64 `libm` takes them by assembly in the encoding of SSE, which stalls among instructions of AVX: 0.2 µs each,
//! where a row takes two. Intrinsics are encoded as the code around them.

/// `√x`.
#[inline(always)]
pub(crate) fn sqrt(x: f64) -> f64 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    {
        use core::arch::x86_64::{_mm_cvtsd_f64, _mm_set1_pd, _mm_sqrt_pd};
        // SAFETY: the build target has SSE2.
        unsafe { _mm_cvtsd_f64(_mm_sqrt_pd(_mm_set1_pd(x))) }
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    libm::sqrt(x)
}

/// `√x`.
#[inline(always)]
pub(crate) fn sqrtf(x: f32) -> f32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    {
        use core::arch::x86_64::{_mm_cvtss_f32, _mm_set1_ps, _mm_sqrt_ps};
        // SAFETY: the build target has SSE2.
        unsafe { _mm_cvtss_f32(_mm_sqrt_ps(_mm_set1_ps(x))) }
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    libm::sqrtf(x)
}

#[cfg(test)]
mod tests {
    #[test]
    fn roots_are_libms() {
        let mut rng = crate::rng::Rng::new(1, 0);
        for _ in 0..10_000 {
            let bits = rng.next_u64();
            let (wide, narrow) = (f64::from_bits(bits), f32::from_bits(bits as u32));
            let (root, expected) = (super::sqrt(wide), libm::sqrt(wide));
            assert!(root.to_bits() == expected.to_bits() || (root.is_nan() && expected.is_nan()), "{wide}");
            let (root, expected) = (super::sqrtf(narrow), libm::sqrtf(narrow));
            assert!(root.to_bits() == expected.to_bits() || (root.is_nan() && expected.is_nan()), "{narrow}");
        }
    }
}
