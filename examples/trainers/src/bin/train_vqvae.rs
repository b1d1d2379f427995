//! Trains a VQ-VAE of images, classes, features or masks: 4M's tokenizers with a ViT both ways.

use std::process::ExitCode;

use clap::Parser;
use trainers::common::failure::run_main;
use trainers::common::terminal::catch_interrupts;
use trainers::vqvae::options::Options;
use trainers::vqvae::run::run;

fn main() -> ExitCode {
    let options = Options::parse();
    run_main(|| {
        catch_interrupts()?;
        run(&options)
    })
}
