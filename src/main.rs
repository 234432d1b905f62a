//! The `countersign` binary: parses, and calls the library.

use std::process::ExitCode;

use clap::Parser as _;
use countersign::cli::Cli;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
