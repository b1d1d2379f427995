//! The CUDA twins give the CPU's bits: every committed kernel, executed by the virtual machine of
//! `tests/ptx_vm`, against the op of the same name.
//!
//! Each op's test also asserts that every kernel of its image has run; the table below, that no image
//! is left out.
//!
//! Bad input, and where it is tried:
//! * wrong lengths, K or M of 0, too little room: `bad_shapes…` and `bad_input_is_refused` of each module;
//! * NaN, infinities, rows near the ends of f32: `hostile` rows in each `same_bits`, `search::hostile_rows_and_codes`,
//!   `kmeans_pass::rows_far_larger…`, and every third step of `quantizer`;
//! * collapsed and duplicated codebooks: `search::ties_duplicates_and_clusters`, `kmeans_pass::empty_centres…`,
//!   `restart::few_donors_or_none`;
//! * codes and weights that are none: `the_status_names…` of each module; full counts: `usage::a_full_count_stays_full`,
//!   `ema::a_full_code_is_refused`, `ema::counts_at_their_ends`;
//! * views of another stream: `cuda::memory` in the crate, whose check the machine of these tests makes at every launch;
//! * memory of another context or device, a device without room, an image that does not load, a device or a driver that is
//!   too old, captured graphs: `tests/device.rs`, on the virtual driver; no driver: `cuda::device` in the crate.
#![cfg(feature = "cuda")]

#[path = "../common/mod.rs"]
mod common;
mod support;
#[path = "../ptx_vm/vm/mod.rs"]
mod vm;

mod broken;
mod ema;
mod gather;
mod kmeans;
mod kmeans_pass;
mod loss;
mod normalize;
mod pack;
mod project;
mod quantizer;
mod random;
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
