//! `activate`, `deactivate`, `renew`, `check`: what an app does, from the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::client::Connect;
use super::device;
use super::directory::{Directory, replace};
use super::output::print;
use crate::proto::v1::activation_service_client::ActivationServiceClient;
use crate::proto::v1::{ActivateRequest, CheckRequest, DeactivateRequest, RenewRequest, Standing};

/// How often to call again while the server is busy or restarts.
const RETRIES: u32 = 5;

/// Use a seat of a license
#[derive(Debug, clap::Args)]
pub(super) struct Activate {
    /// The address the license was bought with
    #[arg(long)]
    email: String,
    /// The license key
    #[arg(long, value_name = "LICENSE_KEY", id = "license_key")]
    key: String,
    /// Where to save the receipt [default: print it]
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// The server, https://host:port [default: the one that serves --dir]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The CA of the server's certificate, PEM [default: tls/server-ca.pem in --dir]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A receipt in a file.
#[derive(Debug, clap::Args)]
pub(super) struct Saved {
    /// The file that `activate` saved
    #[arg(long, value_name = "FILE")]
    receipt: PathBuf,
    #[command(flatten)]
    connect: Connect,
}

impl Activate {
    /// Calls the server, and saves or prints the receipt.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let connect = Connect::to_public(self.endpoint, self.ca);
        let request = ActivateRequest {
            email: self.email,
            license_key: self.key,
            nonce: rand::random::<[u8; 16]>().to_vec(),
            binding: device::binding(directory)?.as_bytes().to_vec(),
        };
        let receipt = activate(&connect, directory, &request).await?;
        let Some(file) = self.receipt else {
            print(as_json, &json!({ "receipt": receipt }), || receipt.clone());
            return Ok(());
        };
        replace(&file, receipt.as_bytes(), 0o600)?;
        let shown = file.display().to_string();
        print(as_json, &json!({ "receipt_file": shown }), || {
            format!("activated; the receipt is in {shown}")
        });
        Ok(())
    }
}

/// Activates with one nonce, however often it takes, so that it takes one seat.
async fn activate(
    connect: &Connect,
    directory: &Directory,
    request: &ActivateRequest,
) -> anyhow::Result<String> {
    let mut client = ActivationServiceClient::new(connect.public(directory).await?);
    for retries_left in (0..=RETRIES).rev() {
        match client.activate(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner().receipt),
            Err(status) if status.code() == Code::Unavailable && retries_left > 0 => {
                let hint = status.get_details_retry_info().and_then(|info| info.retry_delay);
                tokio::time::sleep(hint.unwrap_or(Duration::from_secs(1))).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
    unreachable!("the last try returns")
}

/// Ends the receipt's activation.
pub(super) async fn deactivate(
    saved: Saved,
    directory: &Directory,
    as_json: bool,
) -> anyhow::Result<()> {
    let request = DeactivateRequest { receipt: read(&saved.receipt)? };
    let channel = saved.connect.public(directory).await?;
    ActivationServiceClient::new(channel).deactivate(request).await?;
    print(as_json, &json!({ "deactivated": true }), || "deactivated; the seat is free".to_owned());
    Ok(())
}

/// Gives a leased receipt a new end, and saves it in its place.
pub(super) async fn renew(
    saved: Saved,
    directory: &Directory,
    as_json: bool,
) -> anyhow::Result<()> {
    let request = RenewRequest { receipt: read(&saved.receipt)? };
    let channel = saved.connect.public(directory).await?;
    let renewed = ActivationServiceClient::new(channel).renew(request).await?.into_inner();
    replace(&saved.receipt, renewed.receipt.as_bytes(), 0o600)?;
    let shown = saved.receipt.display().to_string();
    print(as_json, &json!({ "receipt_file": shown }), || format!("renewed {shown}"));
    Ok(())
}

/// Asks what became of the receipt's activation and its license.
pub(super) async fn check(
    saved: Saved,
    directory: &Directory,
    as_json: bool,
) -> anyhow::Result<()> {
    let request = CheckRequest { receipt: read(&saved.receipt)? };
    let channel = saved.connect.public(directory).await?;
    let answer = ActivationServiceClient::new(channel).check(request).await?.into_inner();
    let standing = match answer.standing() {
        Standing::Unspecified => "unknown",
        Standing::Good => "good",
        Standing::Suspended => "suspended",
        Standing::Revoked => "revoked",
        Standing::Expired => "expired",
        Standing::Deactivated => "deactivated",
    };
    print(as_json, &json!({ "standing": standing }), || standing.to_owned());
    Ok(())
}

/// A receipt from a file.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path);
    let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(text.trim().to_owned())
}
