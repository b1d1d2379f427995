//! The CUDA twins give the CPU's bits: every committed kernel, executed by the virtual machine of
//! `tests/ptx_vm`, against the op of the same name.
//!
//! Each op's test also asserts that every kernel of its image has run; the table below, that no image
//! is left out.
#![cfg(feature = "cuda")]

#[path = "../common/mod.rs"]
mod common;
mod support;
#[path = "../ptx_vm/vm/mod.rs"]
mod vm;

mod ema;
mod gather;
mod kmeans;
mod kmeans_pass;
mod loss;
mod normalize;
mod project;
mod quantizer;
mod restart;
mod search;
mod table;
mod text;
mod usage;

/// The images whose kernels a test here runs to the last.
const COVERED: &[&str] = &[
    "project",
    "normalize",
    "pack",
    "search",
    "search_top",
    "gather",
    "loss",
    "ema",
    "usage",
    "restart",
    "kmeans",
    "kmeans_pass",
    "quantizer",
];

#[test]
fn every_image_is_covered() {
    let images: Vec<&str> = vq_kernels::cuda::IMAGES.iter().map(|image| image.name).collect();
    assert_eq!(images, COVERED);
}
