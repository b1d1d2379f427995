//! Trains a VQ-VAE of vectors: 4M's tokenizers of global embeddings and of poses.

use std::process::ExitCode;

use clap::Parser;
use trainers::common::failure::run_main;
use trainers::common::terminal::catch_interrupts;
use trainers::mlp_vqvae::options::Options;
use trainers::mlp_vqvae::run::run;

fn main() -> ExitCode {
    let options = Options::parse();
    run_main(|| {
        catch_interrupts()?;
        run(&options)
    })
}
