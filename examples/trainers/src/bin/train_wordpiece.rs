//! Trains the vocabulary of captions, boxes, metadata and instances; `--help` tells all.
//!
//! ```sh
//! cargo run --release -p trainers --bin train_wordpiece -- --data captions.tsv
//! ```

use std::process::ExitCode;

use clap::Parser;
use trainers::common::failure::run_main;
use trainers::common::terminal::catch_interrupts;
use trainers::wordpiece::{Options, run};

fn main() -> ExitCode {
    let options = Options::parse();
    run_main(|| {
        catch_interrupts()?;
        run(&options)
    })
}
