//! 4M's and DiVAE's tokenizers of images: a transformer to tokens, codes by moving averages, and a diffusion decoder that is conditioned on
//! them (Mizrahi et al. 2023; Shi et al. 2022).
//!
//! ```text
//! image ─ ViT ─ codes ─────────┐
//! image + noise at step t ─ UNet over patches ─ the clean image, the noise or v ─ loss
//! ```
//! The encoder is trained with the decoder, or is another tokenizer's and frozen (`--encoder`).

pub mod config;
pub mod data;
pub mod evaluate;
mod frozen;
pub mod model;
pub mod options;
pub mod presets;
mod report;
pub mod run;
mod task;
pub mod tokenizer;
