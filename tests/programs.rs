//! The example programs, run as a person runs them: what they print, which files they leave, how they
//! refuse, and that a killed training goes on as if nothing had happened.
//!
//! `cargo test` builds the programs; `cargo test --test programs` alone does not.

#[path = "programs/place.rs"]
mod place;

#[cfg(unix)]
#[path = "programs/outputs.rs"]
mod outputs;
#[path = "programs/quantizing.rs"]
mod quantizing;
#[path = "programs/refusals.rs"]
mod refusals;
#[cfg(unix)]
#[path = "programs/resuming.rs"]
mod resuming;
#[path = "programs/speeding.rs"]
mod speeding;
#[path = "programs/training.rs"]
mod training;
