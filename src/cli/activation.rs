//! `activate`, `deactivate`, `renew`, `check`: what an app does, from the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::client::Server;
use super::device;
use super::directory::{Directory, replace};
use super::failure::is_passing;
use super::output::{deliver, print};
use super::pending::Pending;
use super::receipt::{NotGood, known_index};
use crate::domain::LicenseKey;
use crate::proto::ERROR_DOMAIN;
use crate::proto::v1::activation_service_client::ActivationServiceClient;
use crate::proto::v1::transparency_service_client::TransparencyServiceClient;
use crate::proto::v1::{
    ActivateRequest, CheckRequest, DeactivateRequest, GetInclusionProofRequest, RenewRequest,
    Standing,
};

/// How long to wait before calling again, where the server does not say it: long enough together for
/// a restart.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// However long a server wants its callers to wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What holds for an activation whose receipt is not safe yet.
const AGAIN: &str = "give the same command again, which takes no second seat";

/// Use a seat of a license
#[derive(Debug, clap::Args)]
pub(super) struct Activate {
    /// The address the license was bought with
    #[arg(long)]
    email: String,
    /// The license key
    #[arg(long, value_name = "LICENSE_KEY")]
    key: String,
    /// Where to save the receipt [default: print it]
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Where to save a proof that the activation is in the server's log, for `receipt verify --proof`
    #[arg(long, value_name = "FILE", requires = "receipt")]
    proof: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
}

/// A receipt in a file.
#[derive(Debug, clap::Args)]
pub(super) struct Saved {
    /// The file that `activate` saved
    #[arg(long, value_name = "FILE")]
    receipt: PathBuf,
    #[command(flatten)]
    server: Server,
}

impl Activate {
    /// Calls the server, and saves or prints the receipt. A seat is taken only when the receipt has
    /// a place to go, and by one nonce, which is kept until the receipt is there.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let key = LicenseKey::parse(&self.key).map_err(NotGood::LicenseKey)?;
        // Before anything is made: where nobody serves, nothing is left behind.
        let channel = self.server.public(directory).await?;
        let binding = device::binding(directory)?;
        let place = match &self.receipt {
            Some(file) => file.clone(),
            None => directory.join("client/activation"),
        };
        let pending = || {
            must_be_file(&place)?;
            Pending::beside(&place, &key).with_context(|| {
                format!("nothing was activated: no receipt can be kept at {}", place.display())
            })
        };
        let request = |pending: &Pending| ActivateRequest {
            email: self.email.clone(),
            license_key: self.key.clone(),
            nonce: pending.nonce(),
            binding: binding.as_bytes().to_vec(),
        };

        let mut kept = pending()?;
        let mut answer = self.call(directory, channel.clone(), request(&kept)).await;
        if kept.is_remembered() && answer.as_ref().is_err_and(has_ended) {
            // What an earlier command activated was ended since: this is another activation.
            kept.forget()?;
            kept = pending()?;
            answer = self.call(directory, channel, request(&kept)).await;
        }
        let receipt = match answer {
            Ok(receipt) => receipt,
            Err(error) if is_passing(&error) => {
                return Err(error.context(format!("the license may be activated; {AGAIN}")));
            }
            Err(error) => {
                if holds_no_seat(&error, kept.is_remembered()) {
                    kept.forget()?;
                }
                return Err(error);
            }
        };

        let printed = || deliver(as_json, &json!({ "receipt": receipt }), || receipt.clone());
        if let Some(file) = &self.receipt {
            if let Err(error) = replace(file, receipt.as_bytes(), 0o600) {
                printed().context(format!("the receipt cannot be saved; {AGAIN}"))?;
                return Err(error.context(format!(
                    "activated, but the receipt is not saved; it is on standard output: keep it, \
                     or {AGAIN}"
                )));
            }
            let shown = file.display().to_string();
            print(as_json, &json!({ "receipt_file": shown }), || {
                format!("activated; the receipt is in {shown}")
            })?;
        } else {
            printed().context(format!("activated, but the receipt is not printed; {AGAIN}"))?;
        }
        kept.forget()?;
        match &self.proof {
            Some(file) => self.save_proof(file, receipt, directory, as_json).await,
            None => Ok(()),
        }
    }

    async fn save_proof(
        &self,
        file: &Path,
        receipt: String,
        directory: &Directory,
        as_json: bool,
    ) -> anyhow::Result<()> {
        let channel = self.server.public(directory).await?;
        let log_index = known_index(file);
        let answer = TransparencyServiceClient::new(channel)
            .get_inclusion_proof(GetInclusionProofRequest { receipt, log_index })
            .await
            .map_err(|status| match status.code() {
                Code::Unimplemented => anyhow!(
                    "activated, and the receipt is saved, but this server gives apps no proofs; ask \
                     the vendor for one"
                ),
                _ => anyhow::Error::from(status)
                    .context(format!("activated, and the receipt is saved, but no proof; {AGAIN}")),
            })?;
        replace(file, answer.into_inner().proof.as_bytes(), 0o644)?;
        let shown = file.display().to_string();
        print(as_json, &json!({ "proof_file": shown }), || format!("the proof is in {shown}"))?;
        Ok(())
    }

    /// Activates with one nonce, however often it takes, so that it takes one seat.
    async fn call(
        &self,
        directory: &Directory,
        channel: Channel,
        request: ActivateRequest,
    ) -> anyhow::Result<String> {
        let mut answer = call_once(channel, request.clone()).await;
        for pause in PAUSES {
            match answer {
                Err(error) if is_passing(&error) => {
                    tokio::time::sleep(wanted_pause(&error).unwrap_or(pause)).await;
                }
                other => return other,
            }
            // A server that was started again may be at another address.
            answer = match self.server.public(directory).await {
                Ok(channel) => call_once(channel, request.clone()).await,
                Err(error) => Err(error),
            };
        }
        answer
    }
}

async fn call_once(channel: Channel, request: ActivateRequest) -> anyhow::Result<String> {
    let answer = ActivationServiceClient::new(channel).activate(request).await?;
    Ok(answer.into_inner().receipt)
}

/// A receipt replaces a file, or is a new one; a device or a directory cannot be replaced.
fn must_be_file(path: &Path) -> anyhow::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        bail!(
            "nothing was activated: {} is no regular file; name another, or leave --receipt out to \
             have it printed",
            path.display()
        );
    }
    Ok(())
}

/// When the server wants to be called again.
fn wanted_pause(error: &anyhow::Error) -> Option<Duration> {
    let details = error.downcast_ref::<Status>()?.get_details_retry_info()?;
    Some(details.retry_delay?.min(LONGEST_PAUSE))
}

/// Why the server refuses.
fn reason(error: &anyhow::Error) -> Option<String> {
    let info = error.downcast_ref::<Status>()?.get_details_error_info()?;
    (info.domain == ERROR_DOMAIN).then_some(info.reason)
}

/// Whether the nonce stands for an activation that is over.
fn has_ended(error: &anyhow::Error) -> bool {
    matches!(reason(error).as_deref(), Some("ACTIVATION_ENDED" | "NONCE_REUSED"))
}

/// Whether this refusal says that no receipt can be had with the nonce: one that holds a seat would
/// have been answered with its receipt.
fn holds_no_seat(error: &anyhow::Error, remembered: bool) -> bool {
    match reason(error).as_deref() {
        Some("SEATS_EXHAUSTED" | "LICENSE_EXPIRED" | "LICENSE_REVOKED") => true,
        // With the right address it may hold one from before.
        Some("LICENSE_NOT_FOUND" | "INVALID_FIELD") => !remembered,
        _ => has_ended(error),
    }
}

/// Ends the receipt's activation.
pub(super) async fn deactivate(
    saved: Saved,
    directory: &Directory,
    as_json: bool,
) -> anyhow::Result<()> {
    let request = DeactivateRequest { receipt: read(&saved.receipt)? };
    let channel = saved.server.public(directory).await?;
    ActivationServiceClient::new(channel).deactivate(request).await?;
    print(as_json, &json!({ "deactivated": true }), || "deactivated; the seat is free".to_owned())?;
    Ok(())
}

/// Gives a leased receipt a new end, and saves it in its place.
pub(super) async fn renew(
    saved: Saved,
    directory: &Directory,
    as_json: bool,
) -> anyhow::Result<()> {
    let request = RenewRequest { receipt: read(&saved.receipt)? };
    let channel = saved.server.public(directory).await?;
    let renewed = ActivationServiceClient::new(channel).renew(request).await?.into_inner();
    replace(&saved.receipt, renewed.receipt.as_bytes(), 0o600)?;
    let shown = saved.receipt.display().to_string();
    print(as_json, &json!({ "receipt_file": shown }), || format!("renewed {shown}"))?;
    Ok(())
}

/// Asks what became of the receipt's activation and its license.
pub(super) async fn check(
    saved: Saved,
    directory: &Directory,
    as_json: bool,
) -> anyhow::Result<()> {
    let request = CheckRequest { receipt: read(&saved.receipt)? };
    let channel = saved.server.public(directory).await?;
    let answer = ActivationServiceClient::new(channel).check(request).await?.into_inner();
    let (standing, not_good) = match answer.standing() {
        Standing::Good => ("good", None),
        Standing::Suspended => ("suspended", Some("the license is suspended; contact the vendor")),
        Standing::Revoked => ("revoked", Some("the license is revoked; contact the vendor")),
        Standing::Expired => ("expired", Some("the license has expired; renew it with the vendor")),
        Standing::Deactivated => ("deactivated", Some("the activation has ended; activate again")),
        Standing::Unspecified => {
            ("unknown", Some("the server says what this version does not know; update it"))
        }
    };
    print(as_json, &json!({ "standing": standing }), || standing.to_owned())?;
    not_good.map_or(Ok(()), |why| Err(NotGood::Standing(why).into()))
}

/// A receipt from a file.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path);
    let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(text.trim().to_owned())
}
