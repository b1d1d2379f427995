//! Trains a VQGAN: VQGAN, VQGAN-FC, VQGAN-EMA or VQGAN-LC, with a CNN or a ViT.

use std::process::ExitCode;

use clap::Parser;
use trainers::common::failure::run_main;
use trainers::common::terminal::catch_interrupts;
use trainers::vqgan::options::Options;
use trainers::vqgan::run::run;

fn main() -> ExitCode {
    let options = Options::parse();
    run_main(|| {
        catch_interrupts()?;
        run(&options)
    })
}
