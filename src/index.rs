//! A codebook as a file for programs that only encode: written once, read in place from flash or a mapping.
//!
//! All numbers are little-endian. The codes lie row after row, as [`search_unpacked`](crate::ops::search_unpacked)
//! and [`search_fixed`](crate::ops::search_fixed()) take them.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `VQINDEX` and a zero |
//! | 8 | 2 | version of the format, 1 |
//! | 10 | 1 | element: 0 f32, 1 f16, 2 q7, 3 q15 |
//! | 11 | 1 | metric: 0 cosine, 1 l2 |
//! | 12 | 4 | number of codes, `K` |
//! | 16 | 4 | dimensions of a code, `dim` |
//! | 20 | 4 | scale, an f32: what fixed-point codes were [multiplied by](crate::ops::to_fixed); 1 for floats |
//! | 24 | 8 | offset of the codes, 64 |
//! | 32 | 8 | length of the file |
//! | 40 | 4 | CRC-32C of the file without these four bytes |
//! | 44 | 20 | zeros |
//! | 64 | `K · dim ·` size | the codes |
//!
//! ```
//! use vq_kernels::index::{self, Aligned, Codes, Index};
//! use vq_kernels::{Cpu, MatRef, Metric, ops};
//!
//! // On the host, once.
//! let codebook = MatRef::new(&[1.0f32, 0.0, 0.0, 1.0, 0.6, 0.8], 3, 2)?;
//! let mut file = Aligned([0; index::len::<f32>(3, 2)]);
//! index::write(codebook, Metric::Cosine, 1.0, &mut file.0)?;
//!
//! // On the device: `static BOOK: &Aligned<[u8]> = &Aligned(*include_bytes!("codes.vqi"));`
//! let index = Index::read(&file.0)?;
//! let Codes::F32(codebook) = index.codes() else { unreachable!("written above") };
//! let mut code = [0u16];
//! let x = MatRef::new(&[0.5f32, 0.9], 1, 2)?;
//! ops::search_unpacked(&Cpu::new(), x, None, codebook, index.metric(), &mut code, None)?;
//! assert_eq!(code, [2]);
//! # Ok::<(), vq_kernels::Error>(())
//! ```
//!
//! From a file: map it, or read it into a `Vec` of [`Line`](crate::Line), whose bytes `bytemuck` gives.

mod crc;

use crate::codebook::Metric;
use crate::error::{Error, Result, same};
use crate::matrix::MatRef;
use crate::ops::fixed::check_scale;
use crate::ops::search::check_codebook;
use crc::Crc32c;

/// The alignment that the bytes must have, and that the codes have within them.
pub const ALIGN: usize = 64;

/// The version of the format that is written and read.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"VQINDEX\0";
const HEADER: usize = 64;
/// Where the checksum stands.
const CHECKSUM: core::ops::Range<usize> = 40..44;
/// Where the zeros stand.
const ZEROS: core::ops::Range<usize> = 44..HEADER;

/// Bytes at an address that an index may lie at.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Aligned<T: ?Sized>(pub T);

const _: () = assert!(align_of::<Aligned<u8>>() == ALIGN);

mod sealed {
    pub trait Sealed {}
}

/// An element that an index can hold: f32, `half::f16`, `i8` (q7), `i16` (q15).
pub trait Stored: sealed::Sealed + bytemuck::Pod {
    /// Its name: `"f32"`, `"f16"`, `"q7"`, `"q15"`.
    const NAME: &'static str;
    /// Its number in the header.
    #[doc(hidden)]
    const NUMBER: u8;
    /// Whether it has a scale.
    #[doc(hidden)]
    const FIXED: bool;
    /// Writes its little-endian bytes.
    #[doc(hidden)]
    fn put(self, bytes: &mut [u8]);
}

macro_rules! stored {
    ($type:ty, $name:literal, $number:literal, $fixed:literal) => {
        impl sealed::Sealed for $type {}
        impl Stored for $type {
            const NAME: &'static str = $name;
            const NUMBER: u8 = $number;
            const FIXED: bool = $fixed;
            fn put(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    };
}
stored!(f32, "f32", 0, false);
#[cfg(feature = "half")]
stored!(half::f16, "f16", 1, false);
stored!(i8, "q7", 2, true);
stored!(i16, "q15", 3, true);

/// Bytes of an index of `codes × dim` (saturated at `usize::MAX`).
pub const fn len<T: Stored>(codes: usize, dim: usize) -> usize {
    codes.saturating_mul(dim).saturating_mul(size_of::<T>()).saturating_add(HEADER)
}

/// Writes `codebook` `[K, dim]`, whose codes are to be compared by `metric`, as an index into `bytes`.
///
/// `scale` is what fixed-point codes were [multiplied by](crate::ops::to_fixed), and 1 for floats.
///
/// # Errors
/// [`Error::Empty`] and [`Error::TooLarge`] for codebooks that cannot be, [`Error::Shape`] unless `bytes` has
/// [`len`] elements, [`Error::Config`] for a scale that is not finite and above zero, or not 1 for floats.
pub fn write<T: Stored>(codebook: MatRef<T>, metric: Metric, scale: f32, bytes: &mut [u8]) -> Result<()> {
    const OP: &str = "index::write";
    check_codebook(OP, codebook.rows(), codebook.cols())?;
    same(OP, "number of bytes", len::<T>(codebook.rows(), codebook.cols()), bytes.len())?;
    check_scale(scale)?;
    if !T::FIXED && scale != 1.0 {
        return Err(Error::Config { field: "scale", expected: "1 for floats" });
    }
    let length = bytes.len() as u64;
    let (header, codes) = bytes.split_at_mut(HEADER);
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10] = T::NUMBER;
    header[11] = u8::from(metric == Metric::L2);
    // At most 2²⁴ codes of 2¹² dimensions, by `check_codebook`.
    header[12..16].copy_from_slice(&(codebook.rows() as u32).to_le_bytes());
    header[16..20].copy_from_slice(&(codebook.cols() as u32).to_le_bytes());
    header[20..24].copy_from_slice(&scale.to_le_bytes());
    header[24..32].copy_from_slice(&(HEADER as u64).to_le_bytes());
    header[32..40].copy_from_slice(&length.to_le_bytes());
    header[ZEROS].fill(0);
    for (code, bytes) in codebook.data().iter().zip(codes.chunks_exact_mut(size_of::<T>())) {
        code.put(bytes);
    }
    let checksum = checksum(bytes).to_le_bytes();
    bytes[CHECKSUM].copy_from_slice(&checksum);
    Ok(())
}

/// The checksum that the header of `bytes` should hold; there are at least [`HEADER`] of them.
fn checksum(bytes: &[u8]) -> u32 {
    Crc32c::new().add(&bytes[..CHECKSUM.start]).add(&bytes[CHECKSUM.end..]).finish()
}

/// The codes of an index, `[K, dim]`, where they lie.
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub enum Codes<'a> {
    /// In f32: contract A.
    F32(MatRef<'a, f32>),
    /// In f16: contract A, each element widened exactly.
    #[cfg(feature = "half")]
    F16(MatRef<'a, half::f16>),
    /// In q7: contract B.
    Q7(MatRef<'a, i8>),
    /// In q15: contract B.
    Q15(MatRef<'a, i16>),
}

impl Codes<'_> {
    /// The elements' name: `"f32"`, `"f16"`, `"q7"`, `"q15"`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::F32(_) => f32::NAME,
            #[cfg(feature = "half")]
            Self::F16(_) => half::f16::NAME,
            Self::Q7(_) => i8::NAME,
            Self::Q15(_) => i16::NAME,
        }
    }
}

/// An index in memory, checked.
#[derive(Clone, Copy, Debug)]
pub struct Index<'a> {
    codes: Codes<'a>,
    metric: Metric,
    scale: f32,
}

impl<'a> Index<'a> {
    /// Reads an index, which is all of `bytes`, in place.
    ///
    /// All of it is checked, the checksum included: two table look-ups a byte.
    ///
    /// # Errors
    /// [`Error::File`] where `bytes` are no index of this version, truncated, overlong, corrupted, not aligned to
    /// [`ALIGN`], or hold elements that this build or machine cannot read; [`Error::Empty`], [`Error::TooLarge`] and
    /// [`Error::Config`] where a sound checksum covers a shape or a scale that cannot be.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let Some((header, codes)) = bytes.split_first_chunk::<HEADER>() else {
            return refuse("length", "at least the 64 bytes of a header");
        };
        let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if header[..8] != MAGIC {
            return refuse("magic", "`VQINDEX`");
        }
        if u16::from_le_bytes([header[8], header[9]]) != VERSION {
            return refuse("version", "1");
        }
        if !bytes.as_ptr().addr().is_multiple_of(ALIGN) {
            return refuse("address", "one aligned to 64 bytes");
        }
        if u64_at(32) != bytes.len() as u64 {
            return refuse("length", "what the header says: it is truncated or overlong");
        }
        if u32_at(CHECKSUM.start) != checksum(bytes) {
            return refuse("checksum", "that of its bytes: it is corrupted");
        }
        if u64_at(24) != HEADER as u64 || header[ZEROS].iter().any(|&zero| zero != 0) {
            return refuse("header", "codes at offset 64, and zeros before them");
        }
        let metric = match header[11] {
            0 => Metric::Cosine,
            1 => Metric::L2,
            _ => return refuse("metric", "0 or 1"),
        };
        let (rows, cols) = (u32_at(12) as usize, u32_at(16) as usize);
        check_codebook("index", rows, cols)?;
        let scale = f32::from_bits(u32_at(20));
        check_scale(scale)?;
        let codes = match header[10] {
            0 => Codes::F32(view(codes, rows, cols, scale)?),
            #[cfg(feature = "half")]
            1 => Codes::F16(view(codes, rows, cols, scale)?),
            #[cfg(not(feature = "half"))]
            1 => return refuse("element", "f32, q7 or q15: f16 takes the feature `half`"),
            2 => Codes::Q7(view(codes, rows, cols, scale)?),
            3 => Codes::Q15(view(codes, rows, cols, scale)?),
            _ => return refuse("element", "0 to 3"),
        };
        Ok(Self { codes, metric, scale })
    }

    /// The codes, `[K, dim]`.
    pub fn codes(&self) -> Codes<'a> {
        self.codes
    }

    /// How rows and codes are to be compared.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// What fixed-point codes were [multiplied by](crate::ops::to_fixed); 1 for floats.
    pub fn scale(&self) -> f32 {
        self.scale
    }
}

/// All of `bytes` as elements of the machine's own byte order.
fn view<T: Stored>(bytes: &[u8], rows: usize, cols: usize, scale: f32) -> Result<MatRef<'_, T>> {
    if cfg!(target_endian = "big") && size_of::<T>() > 1 {
        return refuse("byte order", "a little-endian machine");
    }
    if !T::FIXED && scale != 1.0 {
        return refuse("scale", "1 for floats");
    }
    // In 64 bits: at most 2²⁴ · 2¹² · 4, by `check_codebook`.
    if rows as u64 * cols as u64 * size_of::<T>() as u64 != bytes.len() as u64 {
        return refuse("length", "a header and the codes");
    }
    match bytemuck::try_cast_slice(bytes) {
        Ok(codes) => MatRef::new(codes, rows, cols),
        Err(_) => refuse("address", "one aligned to 64 bytes"),
    }
}

fn refuse<T>(field: &'static str, expected: &'static str) -> Result<T> {
    Err(Error::File { field, expected })
}
