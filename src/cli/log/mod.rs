//! `log`: the log's key, its newest checkpoint, and whether all of it is as it was written.

mod verify;

use std::path::PathBuf;

use serde_json::json;

use super::client::Connect;
use super::directory::{Directory, replace};
use super::output::print;
use crate::domain::Role;
use crate::proto::v1::GetCheckpointRequest;
use crate::proto::v1::transparency_service_client::TransparencyServiceClient;
use verify::Verify;

pub(super) use verify::{signed_note, verifier_key};

/// Work with the log that everything is recorded in.
#[derive(Debug, clap::Subcommand)]
pub(super) enum LogCommand {
    /// Print the public key that checkpoints and proofs verify with
    Key,
    /// Print a checkpoint of all that is in the log now, from the running server
    Checkpoint {
        /// Where to save it [default: print it]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        connect: Connect,
    },
    Verify(Verify),
}

impl LogCommand {
    /// Runs the command.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        match self {
            Self::Key => {
                let key = directory.log_key()?.public().to_string();
                print(as_json, &json!({ "log_key": key }), || key.clone())?;
                Ok(())
            }
            Self::Checkpoint { out, connect } => {
                let channel = connect.staff(directory, Role::Witness).await?;
                let request = GetCheckpointRequest { fresh: true };
                let answer =
                    TransparencyServiceClient::new(channel).get_checkpoint(request).await?;
                let note = answer.into_inner().checkpoint;
                if let Some(file) = out {
                    replace(&file, note.as_bytes(), 0o644)?;
                    let shown = file.display().to_string();
                    print(as_json, &json!({ "checkpoint_file": shown }), || {
                        format!("the checkpoint is in {shown}")
                    })?;
                } else {
                    let value = json!({ "checkpoint": note });
                    print(as_json, &value, || note.trim_end().to_owned())?;
                }
                Ok(())
            }
            Self::Verify(verify) => verify.run(directory, as_json),
        }
    }
}
