//! What trained tokenizers are for: samples to files of tokens, and back.
//!
//! ```text
//! pictures, maps, vectors, text ─ tokenize ─ tokens (safetensors) ─ detokenize ─ pictures, maps, vectors, text
//!                                  └────────── a checkpoint, or tokenizer.json ──────────┘
//! ```
//! A file of tokens names the tokenizer that made it by its hash, and no other takes it.

mod about;
mod decode;
mod encode;
mod file;
mod grids;
mod open;
mod output;

pub use about::{About, Sample};
pub use decode::{DecodeOptions, run as detokenize};
pub use encode::{EncodeOptions, run as tokenize};
pub use file::{TokenFile, Width};
pub use grids::{Grid, grids, measured};
pub use open::{Coder, Decoding, Opened, open};
