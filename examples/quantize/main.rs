//! Rows to codes and back, with a codebook from a file; files may be larger than memory.
//!
//! ```sh
//! cargo run --release --example quantize -- encode --codebook codebook.safetensors --input x.safetensors --output codes.safetensors
//! cargo run --release --example quantize -- decode --codebook codebook.safetensors --input codes.safetensors --output y.safetensors
//! cargo run --release --example quantize -- inspect codebook.safetensors
//! cargo run --release --example quantize -- index --codebook codebook.safetensors --output codebook.vqi --element q7
//! ```
//!
//! | file | tensors |
//! |---|---|
//! | codebook | `codebook` [codes, dim] in f32, f16 or bf16; beside it what `train_codebook` writes |
//! | rows | `x` [rows, width] in f32, f16 or bf16; decoded rows are f32 |
//! | codes | `codes` [rows] in u32; 4294967295 where a row has none |
//! | index | the codes alone, for microcontrollers: `vq_kernels::index` |

#[path = "../common/mod.rs"]
mod common;

mod book;
mod decode;
mod encode;
mod index;
mod inspect;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use common::failure::run_main;
use common::terminal::catch_interrupts;

/// Rows to codes and back, with a codebook from a file.
#[derive(Parser)]
#[command(name = "quantize", version)]
struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// The nearest code of each row.
    Encode(encode::Options),
    /// The row that each code stands for.
    Decode(decode::Options),
    /// The codes as a file that microcontrollers read in place.
    Index(index::Options),
    /// What a file holds.
    Inspect(inspect::Options),
}

fn main() -> ExitCode {
    let options = Options::parse();
    run_main(|| {
        catch_interrupts()?;
        match &options.action {
            Action::Encode(options) => encode::encode(options),
            Action::Decode(options) => decode::decode(options),
            Action::Index(options) => index::index(options),
            Action::Inspect(options) => inspect::inspect(options),
        }
    })
}
