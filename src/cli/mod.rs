//! The command line. A command a file; this one parses and runs.

mod activation;
mod backup;
mod client;
mod dev_ca;
mod device;
mod directory;
mod export;
mod failure;
mod history;
mod license;
mod log;
mod output;
mod pending;
mod policy;
mod privacy;
mod progress;
mod purpose;
mod ready;
mod receipt;
mod restore;
mod serve;
mod staff;
mod stats;
mod verify;
mod views;
mod watched;
mod witness;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use serde_json::json;

use crate::hardening;
use crate::service::clock::{Clock as _, SystemClock};
use directory::Directory;
use failure::{code, message};
use output::print;

/// An event-sourced license activation server.
///
/// Exit codes: 0 done; 1 error; 2 usage; 3 refused, or not valid, or not good any more; 4 the server
/// is not there, not to be trusted, busy, or gave no answer.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, max_term_width = 100)]
pub struct Cli {
    /// The directory that holds everything
    #[arg(long, global = true, default_value = "countersign-data", value_name = "DIR")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the directory: keys, development certificates, configuration, policy, an empty log
    Init {
        /// The log's name in checkpoints, a URL without https://; it can never be changed
        #[arg(long, value_name = "NAME", default_value = directory::LOG_NAME)]
        log_name: String,
    },
    Serve(serve::Serve),
    Ready(ready::Ready),
    #[command(subcommand)]
    License(license::LicenseCommand),
    Activate(activation::Activate),
    /// End an activation and free its seat
    Deactivate(activation::Saved),
    /// Give a leased receipt a new end
    Renew(activation::Saved),
    /// Ask whether a receipt's license is still good; exits with 3 where it is not
    Check(activation::Saved),
    History(history::History),
    Export(export::Export),
    #[command(subcommand)]
    Privacy(privacy::PrivacyCommand),
    Stats(stats::Stats),
    #[command(subcommand)]
    Staff(staff::StaffCommand),
    #[command(subcommand)]
    Receipt(receipt::ReceiptCommand),
    #[command(subcommand)]
    Keys(receipt::KeysCommand),
    #[command(subcommand)]
    Log(log::LogCommand),
    #[command(subcommand)]
    Witness(witness::WitnessCommand),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Verify(verify::Verify),
    #[command(subcommand)]
    Views(views::ViewsCommand),
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the version
    Version,
}

/// Look at the configuration.
#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print what holds, defaults included
    Show,
}

impl Cli {
    /// Runs the command, prints an error to standard error, and gives the exit code.
    pub fn run(self) -> ExitCode {
        match self.try_run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Where nobody reads it, the exit code still tells.
                let _ = writeln!(io::stderr(), "countersign: {}", message(&error));
                ExitCode::from(code(&error))
            }
        }
    }

    fn try_run(self) -> anyhow::Result<()> {
        // Before any key is read.
        hardening::forbid_core_dumps().context("core dumps cannot be turned off")?;
        let directory = Directory::new(&self.dir);
        let as_json = self.json;
        match self.command {
            Command::Init { log_name } => {
                directory.init(&log_name, SystemClock.now(), &mut rand::rng())?;
                let shown = directory.path().display().to_string();
                print(as_json, &json!({ "directory": shown }), || format!("made {shown}"))?;
                Ok(())
            }
            Command::Serve(serve) => serve.run(&directory),
            Command::Ready(command) => block_on(command.run(&directory, as_json)),
            Command::License(command) => block_on(command.run(&directory, as_json)),
            Command::Activate(command) => block_on(command.run(&directory, as_json)),
            Command::Deactivate(saved) => {
                block_on(activation::deactivate(saved, &directory, as_json))
            }
            Command::Renew(saved) => block_on(activation::renew(saved, &directory, as_json)),
            Command::Check(saved) => block_on(activation::check(saved, &directory, as_json)),
            Command::History(command) => block_on(command.run(&directory, as_json)),
            Command::Export(command) => block_on(command.run(&directory, as_json)),
            Command::Stats(command) => block_on(command.run(&directory, as_json)),
            Command::Privacy(command) => block_on(command.run(&directory, as_json)),
            Command::Staff(command) => command.run(&directory, as_json),
            Command::Receipt(command) => block_on(command.run(&directory, as_json)),
            Command::Log(command) => block_on(command.run(&directory, as_json)),
            Command::Witness(command) => block_on(command.run(&directory, as_json)),
            Command::Keys(command) => command.run(&directory, as_json),
            Command::Backup(command) => command.run(&directory, as_json),
            Command::Restore(command) => command.run(&directory, as_json),
            Command::Verify(command) => command.run(&directory, as_json),
            Command::Views(command) => command.run(&directory, as_json),
            Command::Policy(command) => command.run(&directory, as_json),
            Command::Config(ConfigCommand::Show) => {
                let config = directory.config()?;
                let text = toml::to_string_pretty(&config)?;
                print(as_json, &serde_json::to_value(&config)?, || text)?;
                Ok(())
            }
            Command::Version => {
                let version = env!("CARGO_PKG_VERSION");
                print(as_json, &json!({ "version": version }), || {
                    Self::command().render_version().trim_end().to_owned()
                })?;
                Ok(())
            }
        }
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
