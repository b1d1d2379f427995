//! Writes the tokens that a trained tokenizer makes of pictures, maps, vectors or text; `--help` tells all.

use std::process::ExitCode;

use clap::Parser;
use trainers::common::failure::run_main;
use trainers::common::terminal::catch_interrupts;
use trainers::tokens::{EncodeOptions, tokenize};

fn main() -> ExitCode {
    let options = EncodeOptions::parse();
    run_main(|| {
        catch_interrupts()?;
        tokenize(&options)
    })
}
