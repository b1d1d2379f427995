//! The frozen codebook of VQGAN-LC: k-means centres of a pretrained encoder's patch features.
//!
//! ```text
//! pictures ─ views ─ encoder ─ average pool ─ feature files ─ groups ─ k-means per group ─ centres [codes, width]
//! ```
//! The published recipe (VQGAN-LC, section 3.2 and its `codebook_generation`): CLIP ViT-L/14 features of the ImageNet
//! training set, 16 vectors of a picture by a 4×4 average, 100 Euclidean k-means centres of each of the 1000 classes.
//! Training never changes these centres: a checkpoint keeps [`hash_of`] them, which must equal the file's.

mod build;
mod cluster;
mod features;
mod file;
mod groups;
mod options;
mod sources;
mod work;

pub use build::{Built, Job, Stage, Watch, build};
pub(crate) use file::hex;
pub use file::{About, Centres, Figures, hash_of, load};
pub use groups::Grouping;
pub use options::{Options, run};
pub use sources::{Encoder, Grid, Patches, Pictures};
pub use work::{FeatureSettings, Settings};
