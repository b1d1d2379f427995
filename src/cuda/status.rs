//! What only the data on the device can show: the first refusal of a stream's kernels.

use crate::error::{Error, Result};

/// Number of u32 words of a status.
pub const STATUS_WORDS: usize = 8;

/// Ops that note refusals, by the number that kernels give. The order is that of `Op` below.
const OPS: [&str; 16] = [
    "search",
    "gather",
    "squared_error",
    "squared_error_backward",
    "exponent",
    "accumulate",
    "restart",
    "count",
    "compact",
    "renumber",
    "merge",
    "distances",
    "search_top",
    "search_mth",
    "encode",
    "decode",
];

/// An op's number in [`OPS`].
#[derive(Clone, Copy)]
pub(crate) enum Op {
    Search,
    Gather,
    SquaredError,
    SquaredErrorBackward,
    Exponent,
    Accumulate,
    Restart,
    Count,
    Compact,
    Renumber,
    Merge,
    Distances,
    SearchTop,
    SearchMth,
    Encode,
    Decode,
}

impl Op {
    pub const fn name(self) -> &'static str {
        OPS[self as usize]
    }
}

impl From<Op> for super::queue::Arg {
    fn from(op: Op) -> Self {
        Self::U32(op as u32)
    }
}

/// The error that `words` (`Status` in `cuda/common/types.cuh`) note, if any.
///
/// # Errors
/// [`Error::CodeOutOfRange`], [`Error::Value`] or [`Error::Overflow`], as the CPU's op of the same name. Unlike
/// there, other rows have been worked on.
pub fn decode(words: [u32; STATUS_WORDS]) -> Result<()> {
    // The fourth is between two kernels only.
    let [kind, op, _, _, low, high, code, codes] = words;
    let op = OPS.get(op as usize).copied().unwrap_or("cuda");
    let index = (u64::from(high) << 32 | u64::from(low)) as usize;
    match kind {
        0 => Ok(()),
        // Of a code, or of a remap.
        1 | 5 => Err(Error::CodeOutOfRange { op, row: index, code, codes: codes as usize }),
        2 => Err(Error::Value { op, arg: "weights", index, expected: "weights within 0..=1" }),
        3 => Err(Error::Value { op, arg: "x", index, expected: "magnitudes up to 2^exponent" }),
        4 => Err(Error::Overflow { op, code }),
        _ => Err(Error::Config { field: "status", expected: "words that kernels wrote" }),
    }
}
