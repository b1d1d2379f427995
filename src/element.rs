//! Storage types: rows may be stored as f32, f16 or bf16 and codes as u32 or u16; computation is f32.
//! Fixed-point rows, q7 and q15, are a contract of their own: computation is in integers.

use crate::error::{Error, Result};
use crate::simd::{dots_q7, dots_q15};

/// The code of a row that has none: its scores are all NaN, or its weight is zero.
///
/// [`gather`](crate::ops::gather()) gives such a row zeros; losses, statistics and usage skip it.
pub const NO_CODE: u32 = u32::MAX;

mod sealed {
    pub trait Sealed {}
}

/// A type that a row's elements are stored in. Every value converts to f32 without rounding.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The type's name: `"f32"`, `"f16"`, `"bf16"`.
    const NAME: &'static str;
    /// The value as f32, exactly.
    fn to_f32(self) -> f32;
    /// The elements themselves where they already are f32.
    fn as_f32(elements: &[Self]) -> Option<&[f32]>;
    /// Room for one row of the largest dimension as f32, where elements must be widened.
    #[doc(hidden)]
    type Widened: AsRef<[f32]> + AsMut<[f32]>;
    /// An empty one.
    #[doc(hidden)]
    fn widened() -> Self::Widened;
}

impl sealed::Sealed for f32 {}
impl Element for f32 {
    const NAME: &'static str = "f32";
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn as_f32(elements: &[f32]) -> Option<&[f32]> {
        Some(elements)
    }
    type Widened = [f32; 0];
    #[inline(always)]
    fn widened() -> [f32; 0] {
        []
    }
}

#[cfg(feature = "half")]
macro_rules! half_element {
    ($type:ty, $name:literal) => {
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const NAME: &'static str = $name;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                <$type>::to_f32(self)
            }
            #[inline(always)]
            fn as_f32(_: &[$type]) -> Option<&[f32]> {
                None
            }
            type Widened = [f32; crate::codebook::MAX_DIM];
            #[inline(always)]
            fn widened() -> Self::Widened {
                [0.0; crate::codebook::MAX_DIM]
            }
        }
    };
}
#[cfg(feature = "half")]
half_element!(half::f16, "f16");
#[cfg(feature = "half")]
half_element!(half::bf16, "bf16");

/// A fixed-point type that rows and codes are stored in: `i8` for q7, `i16` for q15.
pub trait Fixed: sealed::Sealed + Copy + PartialEq + Into<i64> + Send + Sync + 'static {
    /// The type's name: `"q7"`, `"q15"`.
    const NAME: &'static str;
    /// The nearest value, of two equally near the even one; the type's ends beyond them. NaN becomes 0.
    fn nearest(x: f64) -> Self;
    /// The inner products of `x` and each of `codes`, exactly. Elements beyond the shortest are left out.
    #[doc(hidden)]
    fn dots<const N: usize>(x: &[Self], codes: [&[Self]; N]) -> [i64; N];
}

macro_rules! fixed {
    ($type:ty, $name:literal, $dots:ident) => {
        impl sealed::Sealed for $type {}
        impl Fixed for $type {
            const NAME: &'static str = $name;
            #[inline]
            fn nearest(x: f64) -> Self {
                // Where the unit in the last place is 1, adding rounds to an integer, ties to even.
                const TO_INTEGER: f64 = 1.5 * (1u64 << 52) as f64;
                let within = x.clamp(Self::MIN.into(), Self::MAX.into());
                ((within + TO_INTEGER) - TO_INTEGER) as Self
            }
            #[inline(always)]
            fn dots<const N: usize>(x: &[Self], codes: [&[Self]; N]) -> [i64; N] {
                $dots(x, codes)
            }
        }
    };
}
fixed!(i8, "q7", dots_q7);
fixed!(i16, "q15", dots_q15);

/// An integer type that codes are stored in. Its largest value stands for "no code".
pub trait Code: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The most codes that this type can number.
    const MAX_CODES: usize;
    /// Narrows; [`NO_CODE`] becomes this type's largest value.
    fn from_u32(code: u32) -> Self;
    /// Widens; this type's largest value becomes [`NO_CODE`].
    fn to_u32(self) -> u32;
}

impl sealed::Sealed for u32 {}
impl Code for u32 {
    const MAX_CODES: usize = crate::codebook::MAX_CODES;
    #[inline(always)]
    fn from_u32(code: u32) -> Self {
        code
    }
    #[inline(always)]
    fn to_u32(self) -> u32 {
        self
    }
}

impl sealed::Sealed for u16 {}
impl Code for u16 {
    const MAX_CODES: usize = u16::MAX as usize;
    #[inline(always)]
    fn from_u32(code: u32) -> Self {
        // NO_CODE truncates to u16::MAX; other codes are below it, which `check_width` ensures.
        code as u16
    }
    #[inline(always)]
    fn to_u32(self) -> u32 {
        if self == Self::MAX { NO_CODE } else { u32::from(self) }
    }
}

/// `Ok` where `C` can number `codes` codes, else [`Error::CodeWidth`].
pub(crate) fn check_width<C: Code>(codes: usize) -> Result<()> {
    match codes <= C::MAX_CODES {
        true => Ok(()),
        false => Err(Error::CodeWidth { codes, max: C::MAX_CODES }),
    }
}
