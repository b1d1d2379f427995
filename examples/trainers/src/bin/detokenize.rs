//! Writes what a trained tokenizer makes of tokens: pictures, maps, vectors or text; `--help` tells all.

use std::process::ExitCode;

use clap::Parser;
use trainers::common::failure::run_main;
use trainers::common::terminal::catch_interrupts;
use trainers::tokens::{DecodeOptions, detokenize};

fn main() -> ExitCode {
    let options = DecodeOptions::parse();
    run_main(|| {
        catch_interrupts()?;
        detokenize(&options)
    })
}
