//! VQ-GAN trainings, whole, from `vq-kernels` and burn: VQGAN, VQGAN-FC, VQGAN-EMA and VQGAN-LC, with CNN or ViT.
//!
//! ```text
//! data ─ nets (encoder) ─ quantize ─ nets (decoder) ─ losses (features) ─ vqgan (steps, checkpoints) ─ metrics, study
//! ```
//! The programs in `src/bin` parse their arguments and call one function here. [`quantize`] stands alone: take it
//! into a burn project of your own.

#[path = "../../common/mod.rs"]
pub mod common;

// Where it runs, and a module's tensors by name.
pub mod backend;
pub mod params;

// What goes in.
pub mod data;

// What is trained, and what it is trained against.
pub mod nets;
pub mod quantize;

pub mod features;
pub mod losses;

pub mod diffusion;

pub mod codebook;

// How it is trained.
pub mod divae;
pub mod mlp_vqvae;
pub mod optim;
pub mod shell;
pub mod vqgan;
pub mod vqvae;

// Text as tokens.
pub mod wordpiece;

// What trained tokenizers are for.
pub mod tokens;

// What came out.
pub mod metrics;
pub mod study;
