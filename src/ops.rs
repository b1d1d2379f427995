//! The ops, in the order in which data flows through them.
//!
//! | op | what | order of arithmetic |
//! |---|---|---|
//! | [`project()`] | `Y = X·Wᵀ + b` and its three gradients | a chain over the inner extent; weight gradients in blocks of [`ROW_BLOCK`] rows |
//! | [`normalize()`] | rows to unit length | 32 virtual lanes |
//! | [`search()`] | the nearest code of each row | a chain over the dimensions |
//! | [`search_unpacked`] | the same, in a plain codebook | the same |
//! | [`search_fixed`] | the nearest code of fixed-point rows | integers |
//! | [`gather()`] | codes to rows | – |
//! | [`loss`] | codebook and commitment terms, gradient estimators | 32 virtual lanes, then a chain over rows in blocks |
//! | [`ema`] | sums per code, moving averages | exact integers, then f64 |
//! | [`usage`] | how often each code is used; pruning | integers |
//! | [`restart()`] | replaces stale codes by rows of the batch | integers |
//!
//! Each file reads in one order: its contract, the checked public function, the naive `reference`,
//! the kernel. Tests stand in `tests/`. A *chain* is `s = fma(a_i, b_i, s)` for ascending `i`, in f32. *32 virtual
//! lanes* are 32 such chains, lane `i mod 32`, added up by the tree 16-8-4-2-1. So every instruction
//! set, number of threads and split of a batch gives the same bits (−0 = +0, all NaN alike).

pub mod ema;
pub mod fixed;
pub mod gather;
pub mod loss;
pub mod normalize;
pub mod project;
pub mod restart;
pub mod search;
pub mod unpacked;
pub mod usage;

mod chain;
mod flat;
mod lanes32;
mod weights;

pub use fixed::{search_fixed, to_fixed};
pub use gather::gather;
pub use normalize::{normalize, normalize_backward};
pub use project::{project, project_backward_input, project_backward_weight};
pub use restart::restart;
pub use search::{Candidate, Search, search, search_mth, search_top};
pub use unpacked::search_unpacked;

pub(crate) use weights::{check_codes, check_rows, check_weights, weight};

/// Rows in a block of a sum over rows: inside, an f32 chain in row order; block sums are added in
/// ascending order in f64. A batch may be split at multiples of it without changing a bit.
pub const ROW_BLOCK: usize = 1024;
