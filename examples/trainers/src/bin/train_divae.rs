//! Trains a tokenizer with a diffusion decoder: 4M's of images, normals, depth and edges, and DiVAE's losses.

use std::process::ExitCode;

use clap::Parser;
use trainers::common::failure::run_main;
use trainers::common::terminal::catch_interrupts;
use trainers::divae::options::Options;
use trainers::divae::run::run;

fn main() -> ExitCode {
    let options = Options::parse();
    run_main(|| {
        catch_interrupts()?;
        run(&options)
    })
}
