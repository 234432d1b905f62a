//! `witness`: a second machine that sees whether the log ever shows another history than before.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::time::sleep;
use tonic::Status;
use tonic::transport::Channel;

use super::client::Connect;
use super::dev_ca::write_new;
use super::directory::{Directory, read_secret, replace};
use super::failure::{is_passing, message};
use super::log::verifier_key;
use super::output::print;
use super::verify::Bad;
use crate::domain::Role;
use crate::log::note::{Algorithm, SignerKey, VerifierKey};
use crate::log::tree::Root;
use crate::proto::v1::transparency_service_client::TransparencyServiceClient;
use crate::proto::v1::{GetCheckpointRequest, GetConsistencyProofRequest};
use crate::service::clock::{Clock as _, SystemClock};
use crate::tlog::witness::{Alarm, Seen};

const KEY: &str = "witness.key";
const CHECKPOINT: &str = "checkpoint";
const EVIDENCE: &str = "evidence";

/// Watch a log from another machine, and cosign what it shows
///
/// STATE is a directory of the witness's own: its key, the newest checkpoint that it cosigned, and what
/// it found against the log, if anything.
#[derive(Debug, clap::Subcommand)]
pub(super) enum WitnessCommand {
    /// Make the directory and the witness's key
    Init {
        /// The directory
        state: PathBuf,
        /// The witness's name, a URL without https://, as in witness.example.com/w1
        #[arg(long)]
        name: String,
    },
    /// Print the public key that the witness's cosignatures verify with
    Key {
        /// The directory
        state: PathBuf,
    },
    /// Follow the log; ends with 3 where it shows another history than before
    Run(Run),
}

/// Follow a log.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The directory that `witness init` made
    state: PathBuf,
    /// The log's public key, or a file with it, as its operator gave it to you
    #[arg(long, value_name = "KEY")]
    log_key: String,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    every: u64,
    /// Look once, and end
    #[arg(long)]
    once: bool,
    /// Ask the public listener, which needs no certificate, where it shows the log's tree
    #[arg(long, conflicts_with_all = ["cert", "key"])]
    public: bool,
    #[command(flatten)]
    connect: Connect,
}

impl WitnessCommand {
    /// Runs the command.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        match self {
            Self::Init { state, name } => {
                let key = SignerKey::generate(&name, Algorithm::Cosignature, &mut rand::rng())?;
                fs::create_dir_all(&state)
                    .with_context(|| format!("{} cannot be made", state.display()))?;
                write_new(&state.join(KEY), key.expose().as_bytes(), 0o600)?;
                show_key(&key, as_json)
            }
            Self::Key { state } => show_key(&signer(&state)?, as_json),
            Self::Run(run) => run.run(directory, as_json).await,
        }
    }
}

fn show_key(key: &SignerKey, as_json: bool) -> anyhow::Result<()> {
    let key = key.public().to_string();
    Ok(print(as_json, &json!({ "witness_key": key }), || key.clone())?)
}

fn signer(state: &Path) -> anyhow::Result<SignerKey> {
    let path = state.join(KEY);
    SignerKey::parse(&read_secret(&path)?, Algorithm::Cosignature)
        .with_context(|| format!("{} is not valid", path.display()))
}

impl Run {
    async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let log = verifier_key(&self.log_key)?;
        if log.algorithm() != Algorithm::Ed25519 {
            bail!("--log-key is a witness's key; give the log's");
        }
        let witness = signer(&self.state)?;
        let evidence = self.state.join(EVIDENCE);
        if evidence.exists() {
            return Err(Bad::new(format!(
                "this witness found the log at fault: see {}; it cosigns nothing until that is moved away",
                evidence.display()
            ))
            .into());
        }
        loop {
            match self.look(directory, &log, &witness, as_json).await {
                // A server that is started again, or is busy, is no alarm.
                Err(error) if !self.once && is_passing(&error) => {
                    let (text, every) = (message(&error), self.every);
                    // Where nobody reads it, it goes on all the same.
                    let _ = writeln!(io::stderr(), "{text}; looking again in {every} s");
                }
                // That a call is refused is no alarm, and must not look like one.
                Err(error) if error.is::<Status>() => bail!("{}", message(&error)),
                looked => looked?,
            }
            if self.once {
                return Ok(());
            }
            sleep(Duration::from_secs(self.every)).await;
        }
    }

    /// Sees whether the log goes on from where it was, and cosigns.
    async fn look(
        &self,
        directory: &Directory,
        log: &VerifierKey,
        witness: &SignerKey,
        as_json: bool,
    ) -> anyhow::Result<()> {
        let path = self.state.join(CHECKPOINT);
        let before = match fs::read_to_string(&path) {
            Ok(note) => Some(Seen::parse(&note, log).map_err(|_| {
                Bad::new(format!(
                    "{} is not of the log with this key; a witness's directory is for one log",
                    path.display()
                ))
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context(format!("{} cannot be read", path.display())),
        };
        let channel = if self.public {
            self.connect.public(directory).await?
        } else {
            self.connect.staff(directory, Role::Witness).await?
        };
        let (note, proof) = ask(channel, before.as_ref()).await?;
        let seen = Seen::parse(&note, log).and_then(|seen| {
            before.as_ref().map_or(Ok(()), |before| seen.continues(&before.checkpoint, &proof))?;
            Ok(seen)
        });
        let seen = match seen {
            Ok(seen) => seen,
            Err(alarm) => return Err(self.raise(alarm, &note)?.into()),
        };
        let cosigned = seen.cosigned(witness, SystemClock.now());
        // Durable before it is shown: a witness must not forget what it has cosigned.
        replace(&path, cosigned.as_bytes(), 0o644)?;
        let size = seen.checkpoint.size;
        let value = json!({ "cosigned": size.0, "checkpoint": cosigned });
        print(as_json, &value, || format!("cosigned {size} records"))?;
        Ok(())
    }

    /// Keeps what the log showed: with the checkpoint that was cosigned before, it is the evidence.
    fn raise(&self, alarm: Alarm, note: &str) -> anyhow::Result<Bad> {
        let evidence = self.state.join(EVIDENCE);
        replace(&evidence, note.as_bytes(), 0o644)?;
        let (evidence, before) = (evidence.display(), self.state.join(CHECKPOINT));
        Ok(Bad::new(format!(
            "{alarm}. Nothing is cosigned. Both are signed by the log: {} and {evidence}; keep them, and \
             ask its operator",
            before.display()
        )))
    }
}

/// The log's newest checkpoint, and the proof that it goes on from another.
async fn ask(channel: Channel, before: Option<&Seen>) -> anyhow::Result<(String, Vec<Root>)> {
    let mut client = TransparencyServiceClient::new(channel);
    let fresh = client.get_checkpoint(GetCheckpointRequest { fresh: true }).await?;
    let fresh = fresh.into_inner().checkpoint;
    let Some(before) = before else { return Ok((fresh, Vec::new())) };
    let request = GetConsistencyProofRequest { size: before.checkpoint.size.0 };
    match client.get_consistency_proof(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let hashes: Result<_, _> = answer.hashes.into_iter().map(Root::try_from).collect();
            // What is no hash shows nothing.
            Ok((answer.checkpoint, hashes.unwrap_or_default()))
        }
        // Its size says enough.
        Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok((fresh, Vec::new())),
        Err(status) => Err(status.into()),
    }
}
