//! The twins of [`crate::ops`]: the same name, the same arguments in the same order (the queue comes first, outputs'
//! counts and workspaces behind them), the same bits.
//!
#![doc = include_str!("twins.md")]

pub mod ema;
mod gather;
pub mod loss;
mod normalize;
pub(crate) mod project;
pub mod restart;
mod search;
mod search_top;
pub mod usage;

pub(crate) use ema::zero;
pub use gather::gather;
pub use normalize::{normalize, normalize_backward};
pub use project::{
    project, project_backward_input, project_backward_weight, project_backward_weight_workspace_len, project_normalize,
};
pub use restart::restart;
pub(crate) use search::search_room;
pub use search::{search, search_workspace_len};
pub use search_top::{search_mth, search_top};

use super::memory::{DeviceMut, DeviceRef};
use crate::error::{Error, Result, same};

/// Threads that share a row: a power of two, 32 for rows of more than 16 elements.
pub(crate) fn row_width(dim: usize) -> u32 {
    dim.clamp(1, 32).next_power_of_two() as u32
}

/// As many u32 as a kernel's extent can be.
pub(crate) fn check_extent(op: &'static str, arg: &'static str, extent: usize) -> Result<()> {
    match u32::try_from(extent) {
        Ok(extent) if extent < u32::MAX => Ok(()),
        _ => Err(Error::TooLarge { op, arg, max: u64::from(u32::MAX) - 1, got: extent as u64 }),
    }
}

/// At least `needed` elements.
pub(crate) fn check_workspace<T>(op: &'static str, needed: usize, workspace: &DeviceMut<T>) -> Result<()> {
    match workspace.len() >= needed {
        true => Ok(()),
        false => Err(Error::Shape { op, arg: "length of workspace", expected: needed, got: workspace.len() }),
    }
}

/// A weight for each row, where there are weights; whether they are within `0..=1`, kernels see.
pub(crate) fn check_weights(op: &'static str, weights: Option<&DeviceRef<f32>>, rows: usize) -> Result<()> {
    weights.map_or(Ok(()), |weights| same(op, "number of weights", rows, weights.len()))
}
