//! Builds the frozen codebook of VQGAN-LC; `--help` tells all.
//!
//! ```sh
//! cargo run --release -p trainers --bin build_codebook
//! cargo run --release -p trainers --bin build_codebook -- --data photos.tar --encoder squeezenet1_1_f16.safetensors
//! ```

use std::process::ExitCode;

use clap::Parser;
use trainers::codebook::{Options, run};
use trainers::common::failure::run_main;
use trainers::common::terminal::catch_interrupts;

fn main() -> ExitCode {
    let options = Options::parse();
    run_main(|| {
        catch_interrupts()?;
        run(&options)
    })
}
