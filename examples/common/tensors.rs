//! Safetensors files that may be larger than memory: written whole or not at all, read in pieces.

mod read;
mod write;

pub use read::SafetensorsFile;
pub use safetensors::Dtype;
pub use write::{StreamWriter, Tensor, write_safetensors};

/// A number that a tensor holds; the format stores it little-endian.
pub trait Scalar: Copy + 'static {
    /// Its name in the format.
    const DTYPE: Dtype;
    /// Appends the stored form of `values`.
    fn encode(values: &[Self], bytes: &mut Vec<u8>);
    /// Appends the numbers that `bytes` stores; an incomplete last one is dropped.
    fn decode(bytes: &[u8], values: &mut Vec<Self>);
}

macro_rules! scalar {
    ($($type:ty => $dtype:ident),* $(,)?) => {$(
        impl Scalar for $type {
            const DTYPE: Dtype = Dtype::$dtype;

            fn encode(values: &[Self], bytes: &mut Vec<u8>) {
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }

            fn decode(bytes: &[u8], values: &mut Vec<Self>) {
                let (items, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
                values.extend(items.iter().map(|&item| Self::from_le_bytes(item)));
            }
        }
    )*};
}

scalar! {
    f32 => F32, f64 => F64, half::f16 => F16, half::bf16 => BF16,
    u8 => U8, i8 => I8, u16 => U16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
}

#[cfg(test)]
mod tests;
