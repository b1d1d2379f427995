//! How good reconstructions are, how far apart two sets of images are, how many codes are used, and what linear maps would keep.
//!
//! Host code in `f64` on slices, with no tensor library: the same figures on every machine. FID needs Inception-v3, which the feature
//! `metrics` brings by burn-train, with weights that a user has; without them the distance of other features goes by its own name.

#[cfg(feature = "metrics")]
pub mod burn;
mod frechet;
pub mod maps;
mod pair;
mod pca;
mod rate;
mod singular;
mod ssim;
mod usage;

pub use frechet::Frechet;
pub use pair::{LARGEST_PSNR, Pair};
pub use pca::Pca;
pub use rate::Spectrum;
pub use ssim::MsSsim;
pub use usage::{Definition, UsageCounter, UsageReport};
