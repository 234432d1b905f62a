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
use super::directory::{Directory, lock_file, read_secret, replace};
use super::failure::{is_passing, message};
use super::log::{signed_note, verifier_key};
use super::output::print;
use super::verify::Bad;
use crate::domain::{Position, Role, Timestamp};
use crate::log::note::{Algorithm, Note, SignerKey, Verified, VerifierKey};
use crate::proto::v1::transparency_service_client::TransparencyServiceClient;
use crate::proto::v1::{GetCheckpointRequest, GetConsistencyProofRequest};
use crate::service::clock::{Clock as _, SystemClock};
use crate::tlog::witness::{Alarm, Evidence, Seen};

const KEY: &str = "witness.key";
const CHECKPOINT: &str = "checkpoint";
const EVIDENCE: &str = "evidence";
const LOCK: &str = "lock";
/// How long a log may be silent, in seconds: longer than a restart or an upgrade takes.
const ALARM_AFTER: u64 = 60 * 60;

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
        /// A checkpoint of the log, or a proof that holds one, to begin with; without it the witness
        /// believes the first that it sees
        #[arg(long, value_name = "FILE", requires = "log_key")]
        checkpoint: Option<PathBuf>,
        /// The log's public key, or a file with it
        #[arg(long, value_name = "KEY", requires = "checkpoint")]
        log_key: Option<String>,
    },
    /// Print the public key that the witness's cosignatures verify with
    Key {
        /// The directory
        state: PathBuf,
    },
    /// Follow the log; ends with 3 where it shows another history than before, or is silent
    Run(Run),
    /// Judge what a witness found, without it and without the log; exits with 3 where it proves nothing
    Judge {
        /// The file `evidence` in the witness's directory
        evidence: PathBuf,
        /// The log's public key, or a file with it
        #[arg(long, value_name = "KEY")]
        log_key: String,
    },
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
    /// Seconds without a checkpoint that could be verified, after which that is an alarm; 0: at once
    #[arg(long, value_name = "SECONDS", default_value_t = ALARM_AFTER)]
    alarm_after: u64,
    /// Seconds without anything new in the log, after which that is an alarm too; from the start on
    /// [default: a log may rest]
    #[arg(long, value_name = "SECONDS", conflicts_with = "once")]
    alarm_at_rest: Option<u64>,
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
            Self::Init { state, name, checkpoint, log_key } => {
                let key = SignerKey::generate(&name, Algorithm::Cosignature, &mut rand::rng())?;
                let first = match (checkpoint, log_key) {
                    (Some(file), Some(log_key)) => Some(first_seen(&file, &log_key)?),
                    _ => None,
                };
                fs::create_dir_all(&state)
                    .with_context(|| format!("{} cannot be made", state.display()))?;
                if state.join(KEY).exists() {
                    bail!("{} holds a witness already; name another --state", state.display());
                }
                // Before the key: a witness without it would begin with whatever it sees.
                if let Some(Seen { note, .. }) = first {
                    replace(&state.join(CHECKPOINT), note.as_bytes(), 0o644)?;
                }
                replace(&state.join(KEY), key.expose().as_bytes(), 0o600)?;
                show_key(&key, as_json)
            }
            Self::Key { state } => show_key(&signer(&state)?, as_json),
            Self::Run(run) => run.run(directory, as_json).await,
            Self::Judge { evidence, log_key } => judge(&evidence, &log_key, as_json),
        }
    }
}

/// What a witness begins with: what its owner has of the log from elsewhere.
fn first_seen(file: &Path, log_key: &str) -> anyhow::Result<Seen> {
    let log = log_verifier(log_key)?;
    Seen::parse(&signed_note(file)?, &log).map_err(|_| {
        let shown = file.display();
        Bad::new(format!("{shown} holds no checkpoint that the key of --log-key signed")).into()
    })
}

fn log_verifier(given: &str) -> anyhow::Result<VerifierKey> {
    let log = verifier_key(given)?;
    if log.algorithm() != Algorithm::Ed25519 {
        bail!("--log-key is a witness's key; give the log's");
    }
    Ok(log)
}

fn judge(evidence: &Path, log_key: &str, as_json: bool) -> anyhow::Result<()> {
    let log = log_verifier(log_key)?;
    let shown = evidence.display();
    let text = fs::read_to_string(evidence).with_context(|| format!("{shown} cannot be read"))?;
    let judged = Evidence::parse(&text).with_context(|| format!("{shown}"))?.judge(&log);
    let said = match judged {
        Ok(()) => "nothing is wrong with what it holds".to_owned(),
        Err(alarm) => alarm.to_string(),
    };
    let is_proven = judged.is_err_and(Alarm::is_proven);
    if as_json || is_proven {
        print(as_json, &json!({ "proven": is_proven, "finding": said }), || said.clone())?;
    }
    if is_proven { Ok(()) } else { Err(Bad::new(format!("it proves nothing: {said}")).into()) }
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

/// Since when there is nothing to see.
struct Quiet {
    /// When a checkpoint was verified last.
    verified: Timestamp,
    /// The records that the log had then, and since when.
    size: Option<Position>,
    grown: Timestamp,
}

impl Run {
    async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let log = log_verifier(&self.log_key)?;
        let witness = signer(&self.state)?;
        // Two of them could cosign two histories.
        let _lock = lock_file(&self.state.join(LOCK))?.with_context(|| {
            format!("another witness runs in {}; stop it first", self.state.display())
        })?;
        let evidence = self.state.join(EVIDENCE);
        if evidence.exists() {
            return Err(Bad::new(format!(
                "this witness found the log at fault: see {}; it cosigns nothing until that is moved away",
                evidence.display()
            ))
            .into());
        }
        let now = SystemClock.now();
        // However often it is started again, silence goes on from where it began.
        let verified = self.cosigned_at(&witness).map_or(now, |cosigned| cosigned.min(now));
        let mut quiet = Quiet { verified, size: None, grown: now };
        loop {
            match self.look(directory, &log, &witness, as_json).await {
                Ok(size) => self.must_move(&mut quiet, size)?,
                // A server that is started again, or is busy, is no alarm, unless it stays away.
                Err(error) if is_passing(&error) => {
                    self.must_be_heard(&quiet, &error)?;
                    if self.once {
                        return Err(error);
                    }
                    let (text, every) = (message(&error), self.every);
                    // Where nobody reads it, it goes on all the same.
                    let _ = writeln!(io::stderr(), "{text}; looking again in {every} s");
                }
                // That a call is refused is no alarm, and must not look like one.
                Err(error) if error.is::<Status>() => bail!("{}", message(&error)),
                Err(error) => return Err(error),
            }
            if self.once {
                return Ok(());
            }
            sleep(Duration::from_secs(self.every)).await;
        }
    }

    /// When this witness cosigned last. `None`: it has not, as far as can be told.
    fn cosigned_at(&self, witness: &SignerKey) -> Option<Timestamp> {
        let note = fs::read_to_string(self.state.join(CHECKPOINT)).ok()?;
        match Note::parse(&note)?.verify(witness.public())? {
            Verified::Cosigned(seconds) => {
                Timestamp::from_millis(i64::try_from(seconds).ok()?.checked_mul(1000)?)
            }
            Verified::Signed => None,
        }
    }

    /// That nothing can be verified may be how another history is hidden.
    fn must_be_heard(&self, quiet: &Quiet, error: &anyhow::Error) -> Result<(), Bad> {
        let until = quiet.verified.plus(Duration::from_secs(self.alarm_after));
        if SystemClock.now() < until {
            return Ok(());
        }
        let (since, text) = (quiet.verified, message(error));
        Err(Bad::new(format!("SILENT: no checkpoint could be verified since {since}: {text}")))
    }

    /// So may be that there is nothing new.
    fn must_move(&self, quiet: &mut Quiet, size: Position) -> Result<(), Bad> {
        let now = SystemClock.now();
        quiet.verified = now;
        if quiet.size != Some(size) {
            (quiet.size, quiet.grown) = (Some(size), now);
        }
        match self.alarm_at_rest.map(Duration::from_secs) {
            Some(longest) if quiet.grown.plus(longest) <= now => Err(Bad::new(format!(
                "SILENT: the log shows no more than {size} records since {}",
                quiet.grown
            ))),
            _ => Ok(()),
        }
    }

    /// Sees whether the log goes on from where it was, and cosigns.
    async fn look(
        &self,
        directory: &Directory,
        log: &VerifierKey,
        witness: &SignerKey,
        as_json: bool,
    ) -> anyhow::Result<Position> {
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
            Err(alarm) => {
                let now = SystemClock.now();
                let evidence = Evidence::new(alarm, before.as_ref(), &note, &proof, now);
                return Err(self.raise(alarm, &evidence)?.into());
            }
        };
        let cosigned = seen.cosigned(witness, SystemClock.now());
        // Durable before it is shown: a witness must not forget what it has cosigned.
        replace(&path, cosigned.as_bytes(), 0o644)?;
        let size = seen.checkpoint.size;
        let value = json!({ "cosigned": size.0, "checkpoint": cosigned });
        print(as_json, &value, || format!("cosigned {size} records"))?;
        Ok(size)
    }

    /// Keeps what the log showed, for others to judge.
    fn raise(&self, alarm: Alarm, evidence: &Evidence) -> anyhow::Result<Bad> {
        let path = self.state.join(EVIDENCE);
        replace(&path, evidence.to_json()?.as_bytes(), 0o644)?;
        let path = path.display();
        let worth = if alarm.is_proven() {
            "what the log signed is in"
        } else {
            "that it is so is this witness's word; what it saw is in"
        };
        Ok(Bad::new(format!(
            "{alarm}. Nothing is cosigned; {worth} {path}: keep it, and ask the log's operator"
        )))
    }
}

/// The log's newest checkpoint, and the proof that it goes on from another.
async fn ask(channel: Channel, before: Option<&Seen>) -> anyhow::Result<(String, Vec<Vec<u8>>)> {
    let mut client = TransparencyServiceClient::new(channel);
    let fresh = client.get_checkpoint(GetCheckpointRequest { fresh: true }).await?;
    let fresh = fresh.into_inner().checkpoint;
    let Some(before) = before else { return Ok((fresh, Vec::new())) };
    let request = GetConsistencyProofRequest { size: before.checkpoint.size.0 };
    match client.get_consistency_proof(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            Ok((answer.checkpoint, answer.hashes))
        }
        // Its size says enough.
        Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok((fresh, Vec::new())),
        Err(status) => Err(status.into()),
    }
}
