//! The reviews' experiments; `--help` tells all.
//!
//! ```sh
//! cargo run --release -p trainers --bin study -- mth-nearest --runs out/lc,out/fc
//! cargo run --release -p trainers --bin study -- cost --preset lc-f16 --model lc
//! ```

use std::process::ExitCode;

use clap::Parser;
use trainers::common::failure::run_main;
use trainers::common::terminal::catch_interrupts;
use trainers::study::{StudyOptions, run};

fn main() -> ExitCode {
    let options = StudyOptions::parse();
    run_main(|| {
        catch_interrupts()?;
        run(&options)
    })
}
