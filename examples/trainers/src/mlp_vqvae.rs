//! 4M's VQ-VAEs of vectors: a bottleneck MLP to several tokens at once, codes, and an MLP back; for embeddings of whole images or sentences and for
//! poses.
//!
//! ```text
//! vector ─ MLP ─ linear ─ heads ─ memcodes, or one codebook for all heads ─ linear ─ MLP ─ vector
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
