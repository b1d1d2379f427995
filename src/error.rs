//! The one error type: which op, which argument, what was expected, what came.

use core::fmt;

/// `Result` with this crate's [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

/// Why a call was refused. Nothing has been written to the outputs unless the variant says so.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// An argument has the wrong number of elements, rows or columns.
    Shape {
        /// The op that refused.
        op: &'static str,
        /// Which argument, and which of its extents.
        arg: &'static str,
        /// The extent that the other arguments ask for.
        expected: usize,
        /// The extent that came.
        got: usize,
    },
    /// An extent, or a product of extents, is above what the op can index.
    TooLarge {
        /// The op that refused.
        op: &'static str,
        /// Which argument, and which of its extents.
        arg: &'static str,
        /// The largest extent allowed.
        max: u64,
        /// The extent that came (saturated).
        got: u64,
    },
    /// An extent that must be at least one is zero.
    Empty {
        /// The op that refused.
        op: &'static str,
        /// Which argument.
        arg: &'static str,
    },
    /// A code is neither below the number of codes nor [`NO_CODE`](crate::NO_CODE).
    CodeOutOfRange {
        /// The op that refused.
        op: &'static str,
        /// The row that holds the code.
        row: usize,
        /// The code.
        code: u32,
        /// The number of codes.
        codes: usize,
    },
    /// The output's integer type cannot number this many codes.
    CodeWidth {
        /// The number of codes.
        codes: usize,
        /// The most that the type can number (its largest value stands for "no code").
        max: usize,
    },
    /// An element has a value that the op does not accept.
    Value {
        /// The op that refused.
        op: &'static str,
        /// Which argument.
        arg: &'static str,
        /// The element's index.
        index: usize,
        /// What is accepted.
        expected: &'static str,
    },
    /// A setting is outside its range or contradicts another.
    Config {
        /// The setting.
        field: &'static str,
        /// What is accepted.
        expected: &'static str,
    },
    /// A part of a step was asked for out of turn.
    Order {
        /// The method that refused.
        op: &'static str,
        /// What must come before it.
        expected: &'static str,
    },
    /// A file is not what it claims to be, or cannot be read here.
    File {
        /// What is wrong with it.
        field: &'static str,
        /// What is accepted.
        expected: &'static str,
    },
    /// A sum could leave its integer range: more than 2²² rows fell to one code.
    Overflow {
        /// The op that refused.
        op: &'static str,
        /// The code whose sum is full.
        code: u32,
    },
    /// This machine, or this build, has no such instruction set.
    Isa {
        /// The instruction set asked for.
        name: &'static str,
    },
    /// Anything that concerns the GPU.
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::CudaError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { op, arg, expected, got } => {
                write!(f, "{op}: {arg} is {got}, expected {expected}")
            }
            Self::TooLarge { op, arg, max, got } => {
                write!(f, "{op}: {arg} is {got}, at most {max} is possible")
            }
            Self::Empty { op, arg } => write!(f, "{op}: {arg} is 0, at least 1 is needed"),
            Self::CodeOutOfRange { op, row, code, codes } => {
                write!(f, "{op}: row {row} has code {code}, but there are only {codes} codes")
            }
            Self::CodeWidth { codes, max } => {
                write!(f, "{codes} codes do not fit the output type (at most {max}); use u32 codes")
            }
            Self::Value { op, arg, index, expected } => {
                write!(f, "{op}: element {index} of {arg} is refused, expected {expected}")
            }
            Self::Config { field, expected } => write!(f, "config: {field}: expected {expected}"),
            Self::Order { op, expected } => write!(f, "{op}: out of turn, expected {expected} before it"),
            Self::File { field, expected } => write!(f, "file: {field} is wrong, expected {expected}"),
            Self::Overflow { op, code } => {
                write!(f, "{op}: more than 2^22 rows fell to code {code}; apply the statistics more often")
            }
            Self::Isa { name } => write!(f, "this machine or build has no {name}"),
            #[cfg(feature = "cuda")]
            Self::Cuda(error) => write!(f, "cuda: {error}"),
        }
    }
}

impl core::error::Error for Error {}

/// `Ok` where `got == expected`, else [`Error::Shape`].
pub(crate) fn same(op: &'static str, arg: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Shape { op, arg, expected, got }) }
}
