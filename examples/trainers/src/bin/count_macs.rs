//! Prints what the published networks cost: parameters and multiply-accumulates, as VQGAN-LC's table has them and in full.
//!
//! ```sh
//! cargo run --release -p trainers --bin count_macs
//! ```

use std::process::ExitCode;

use clap::Parser;
use trainers::common::failure::{Context, Failure, run_main};
use trainers::common::terminal::print;
use trainers::nets::macs::table;

/// Counts parameters and multiply-accumulates of the published networks, from the networks themselves.
#[derive(Parser)]
struct Options {
    /// Print exact numbers as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    run_main(|| run(&options))
}

fn run(options: &Options) -> Result<(), Failure> {
    let (published, diffusion) = (table::published()?, table::diffusion());
    print(&match options.json {
        true => {
            serde_json::to_string_pretty(&[published, diffusion].concat()).context(|| "cannot write JSON".into())?
        }
        false => table::text(&[&published, &diffusion]),
    })
}
