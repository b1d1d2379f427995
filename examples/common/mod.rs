//! What the example programs share, in the order in which a run meets it.
#![allow(dead_code, unused_imports, reason = "each program uses a part")]
#![allow(clippy::missing_errors_doc, reason = "a `Failure` says itself what failed and what to do")]

// What can go wrong, and files that are whole or absent.
pub mod failure;
pub mod files;
pub mod folder;
pub mod tensors;

// What goes in: pictures from files, or scenes from seeds.
pub mod random;

pub mod images;
pub mod scenes;

pub mod patches;

// Where it is computed, and how it is learned.
pub mod processor;

pub mod adam;
pub mod learning;

// What comes out, and what the person at the terminal sees meanwhile.
pub mod plots;
pub mod terminal;

pub use failure::Failure;
