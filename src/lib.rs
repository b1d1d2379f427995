#![doc = include_str!("lib.md")]
#![cfg_attr(not(test), no_std)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

/// What unit tests share with the integration tests, which names the crate.
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
#[cfg(test)]
extern crate self as vq_kernels;

mod codebook;
mod cpu;
mod element;
mod error;
mod matrix;
mod real;
mod simd;

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod index;
#[cfg(feature = "alloc")]
pub mod kmeans;
pub mod ops;
#[cfg(feature = "alloc")]
pub mod quantizer;
pub mod rng;

pub use codebook::{Line, MAX_CODES, MAX_DIM, Metric, PANEL, PackedCodebook, Packing};
pub use cpu::{Cpu, Pool};
pub use element::{Code, Element, Fixed, NO_CODE};
pub use error::{Error, Result};
pub use matrix::{MatMut, MatRef};
pub use real::Real;
pub use simd::Isa;

/// The README's examples, compiled and run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
