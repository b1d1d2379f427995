//! The main job: trains a codebook with a linear VQ autoencoder built from this crate's ops alone.
//!
//! ```text
//! patch ─ project ─ normalize ─ search ─ gather ─ project ─ patch
//! ```
//! All gradients are the crate's; Adam is this program's. Without data it renders scenes itself:
//!
//! ```sh
//! cargo run --release --example train_codebook
//! cargo run --release --example train_codebook -- --images photos.tar --codes 100000 --learn projector
//! ```

#[path = "../common/mod.rs"]
mod common;

mod compare;
mod data;
mod options;
mod report;
mod run;
mod trainer;

use std::process::ExitCode;

use clap::Parser;

use common::failure::run_main;
use common::terminal::catch_interrupts;
use options::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    run_main(|| {
        options.check()?;
        catch_interrupts()?;
        if options.compare { compare::compare(&options) } else { run::run(&options) }
    })
}
