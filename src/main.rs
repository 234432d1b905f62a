//! The `countersign` binary: parses, and calls the library.

use std::process::ExitCode;

use clap::Parser as _;
use countersign::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
