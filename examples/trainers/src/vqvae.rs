//! 4M's VQ-VAEs: a transformer to tokens, codes by moving averages, a transformer back, for images and for maps that are none:
//! classes, masks, features of other networks.
//!
//! ```text
//! sample ─ (class embedding) ─ ViT ─ codes ─ ViT ─ loss of its modality
//! ```

pub mod config;
pub mod data;
pub mod evaluate;
pub mod model;
pub mod options;
pub mod presets;
mod report;
pub mod run;
mod task;
pub mod tokenizer;
