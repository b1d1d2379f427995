//! The number type of the `reference` functions: f32 for the contract, f64 for the oracle.

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}
use sealed::Sealed;

/// A float with a fused multiply-add that is rounded once on every target.
pub trait Real: Sealed + num_traits::Float + core::fmt::Debug + 'static {
    /// `self · b + c`, rounded once.
    fn fma(self, b: Self, c: Self) -> Self;
    /// From f64, rounded once.
    fn of(value: f64) -> Self;
    /// To f64, exactly.
    fn as_f64(self) -> f64;
    /// The square root, correctly rounded.
    fn root(self) -> Self;
    /// A sum of squares that is finite and not below this has lost nothing to subnormal terms.
    const SMALLEST_SQUARE: Self;
}

impl Real for f32 {
    fn fma(self, b: Self, c: Self) -> Self {
        crate::simd::fma32(self, b, c)
    }
    fn of(value: f64) -> Self {
        value as f32
    }
    fn as_f64(self) -> f64 {
        f64::from(self)
    }
    fn root(self) -> Self {
        libm::sqrtf(self)
    }
    // 2⁻¹⁰⁰
    const SMALLEST_SQUARE: Self = f32::from_bits((127 - 100) << 23);
}

impl Real for f64 {
    fn fma(self, b: Self, c: Self) -> Self {
        libm::fma(self, b, c)
    }
    fn of(value: f64) -> Self {
        value
    }
    fn as_f64(self) -> f64 {
        self
    }
    fn root(self) -> Self {
        libm::sqrt(self)
    }
    // 2⁻⁹⁰⁰
    const SMALLEST_SQUARE: Self = f64::from_bits((1023 - 900) << 52);
}
