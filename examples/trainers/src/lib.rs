//! Trainings of tokenizers, whole, from `vq-kernels` and burn: VQGAN, VQGAN-FC, VQGAN-EMA and VQGAN-LC, with CNN or ViT; 4M's VQ-VAEs of maps
//! and vectors, its diffusion decoders, its WordPiece.
//!
//! ```text
//! data ─ nets (encoder) ─ quantize ─ nets (decoder), diffusion ─ losses (features) ─┬─ vqgan, divae, vqvae, mlp_vqvae ─ metrics, study
//!                                                                 shell (steps, checkpoints) ─┘   wordpiece ─ tokens
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
pub mod optim;
pub mod shell;

// What is trained so: images, maps, vectors, text.
pub mod vqgan;

pub mod divae;
pub mod vqvae;

pub mod mlp_vqvae;

pub mod wordpiece;

// What trained tokenizers are for.
pub mod tokens;

// What came out.
pub mod metrics;
pub mod study;
