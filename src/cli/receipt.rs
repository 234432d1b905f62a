//! `receipt verify`: offline, with the public keys alone. `receipt prove`: a proof from the log. `keys rotate`: a fresh key for receipts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::json;

use super::activation::read;
use super::client::Connect;
use super::directory::{Directory, replace};
use super::log::verifier_key;
use super::output::{NotPrinted, print};
use crate::domain::{LicenseKeyError, Role, Timestamp};
use crate::log::head::Checkpoint;
use crate::proto::v1::GetInclusionProofRequest;
use crate::proto::v1::transparency_service_client::TransparencyServiceClient;
use crate::receipt::{Claims, PublicKeys};
use crate::service::clock::{Clock as _, SystemClock};
use crate::tlog::proof::{InclusionProof, ProofError};

/// Work with receipts.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ReceiptCommand {
    /// Verify a receipt offline; exits with 3 where it is not valid, or it or its license has expired
    Verify {
        /// The file that `activate` saved
        file: PathBuf,
        /// The public keys, a JWK Set [default: those of --dir]
        #[arg(long, value_name = "FILE")]
        jwks: Option<PathBuf>,
        /// Verify as well that the activation is in the log: what `activate --proof` saved
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
        /// The log's public key, or a file with it [default: that of --dir]
        #[arg(long, value_name = "KEY", requires = "proof")]
        log_key: Option<String>,
    },
    /// Have the server prove, to staff, that a receipt's activation is in its log
    Prove {
        /// The file that `activate` saved
        file: PathBuf,
        /// Where to save the proof; what an older one there says of the place saves the server a search
        #[arg(long, value_name = "FILE")]
        proof: PathBuf,
        #[command(flatten)]
        connect: Connect,
    },
}

/// Work with the keys that sign receipts.
#[derive(Debug, clap::Subcommand)]
pub(super) enum KeysCommand {
    /// Print the public keys, a JWK Set
    Show,
    /// Make a fresh key that signs from the next start on; old ones stay published
    Rotate,
}

/// What was given is not one, or not good any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotGood {
    /// It does not verify.
    #[error("the receipt {0}")]
    Invalid(#[from] crate::receipt::ReceiptError),
    /// Nor does the proof.
    #[error("the proof {0}")]
    Proof(#[from] ProofError),
    /// Its lease is over.
    #[error("the receipt has expired at {0}; renew it")]
    Expired(Timestamp),
    /// Its license is over.
    #[error("the license has expired at {0}; renew it with the vendor")]
    LicenseExpired(Timestamp),
    /// The server says that it is not good, and why.
    #[error("{0}")]
    Standing(&'static str),
    /// No license key.
    #[error("license_key {0}")]
    LicenseKey(LicenseKeyError),
}

impl ReceiptCommand {
    /// Verifies, and prints what the receipt states.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let (file, jwks, proof, log_key) = match self {
            Self::Verify { file, jwks, proof, log_key } => (file, jwks, proof, log_key),
            Self::Prove { file, proof, connect } => {
                return prove(&file, &proof, &connect, directory, as_json).await;
            }
        };
        let keys = match jwks {
            Some(path) => {
                let text = fs::read_to_string(&path);
                let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
                PublicKeys::from_jwks(&text)
                    .with_context(|| format!("{} is not valid", path.display()))?
            }
            None => directory.receipt_keys()?.public(),
        };
        let claims = keys.verify(&read(&file)?).map_err(NotGood::from)?;
        let proven = match proof {
            Some(path) => Some(verify_proof(&path, log_key.as_deref(), &claims, directory)?),
            None => None,
        };
        if let Some(end) = claims.expires_at
            && claims.expired_at(SystemClock.now())
        {
            return Err(NotGood::Expired(end).into());
        }
        if let Some(end) = claims.license.expires_at
            && claims.license.expired_at(SystemClock.now())
        {
            return Err(NotGood::LicenseExpired(end).into());
        }
        Ok(show(&claims, proven, as_json)?)
    }
}

/// Has the server prove that a receipt's activation is in the log.
async fn prove(
    file: &Path,
    proof: &Path,
    connect: &Connect,
    directory: &Directory,
    as_json: bool,
) -> anyhow::Result<()> {
    let channel = connect.staff(directory, Role::Support).await?;
    let request = GetInclusionProofRequest { receipt: read(file)?, log_index: known_index(proof) };
    let answer = TransparencyServiceClient::new(channel).get_inclusion_proof(request).await?;
    replace(proof, answer.into_inner().proof.as_bytes(), 0o644)?;
    let shown = proof.display().to_string();
    print(as_json, &json!({ "proof_file": shown }), || format!("the proof is in {shown}"))?;
    Ok(())
}

/// Where a record is, by the proof that is to be replaced. `None`: there is none; it is only a hint.
pub(super) fn known_index(proof: &Path) -> Option<u64> {
    let proof = InclusionProof::parse(&fs::read_to_string(proof).ok()?).ok()?;
    Some(proof.index.0)
}

/// The tree that a proof shows the receipt's record in.
fn verify_proof(
    path: &Path,
    log_key: Option<&str>,
    claims: &Claims,
    directory: &Directory,
) -> anyhow::Result<Checkpoint> {
    let log_key = match log_key {
        Some(given) => verifier_key(given)?,
        None => directory.log_key()?.public().clone(),
    };
    let text = fs::read_to_string(path);
    let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
    let proof = InclusionProof::parse(&text).map_err(NotGood::from)?;
    Ok(proof.verify(&claims.record, &log_key).map_err(NotGood::from)?)
}

fn show(claims: &Claims, proven: Option<Checkpoint>, as_json: bool) -> Result<(), NotPrinted> {
    let shown = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let value = json!({
        "valid": true,
        "issuer": claims.issuer,
        "product": claims.product.as_str(),
        "activation_id": BASE64URL.encode(claims.activation.as_bytes()),
        "issued_at": claims.issued_at.to_string(),
        "expires_at": shown(claims.expires_at),
        "seats": claims.license.seats,
        "license_expires_at": shown(claims.license.expires_at),
        "updates_until": shown(claims.license.updates_until),
        "in_log_of": proven.map(|tree| tree.size.0),
    });
    print(as_json, &value, || {
        let until = |what: &str, time| shown(time).map(|end| format!(", {what} {end}"));
        let ends: String = [
            until("until", claims.expires_at),
            until("licensed until", claims.license.expires_at),
            until("updates until", claims.license.updates_until),
        ]
        .into_iter()
        .flatten()
        .collect();
        format!(
            "valid: {} activated at {}{ends}, by {}{}",
            claims.product.as_str(),
            claims.issued_at,
            claims.issuer,
            proven.map_or_else(String::new, |tree| format!(
                "; it is in the log, among its first {} records",
                tree.size
            ))
        )
    })
}

impl KeysCommand {
    /// Prints or rotates the keys of the directory.
    pub(super) fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let mut keys = directory.receipt_keys()?;
        match self {
            Self::Show => {
                let jwks = keys.public().to_jwks();
                print(as_json, &serde_json::from_str(&jwks)?, || jwks)?;
            }
            Self::Rotate => {
                keys.rotate(&mut rand::rng());
                replace(&directory.receipt_keys_path(), keys.to_jwks().as_bytes(), 0o600)?;
                let id = BASE64URL.encode(keys.current().as_bytes());
                print(as_json, &json!({ "kid": id }), || {
                    format!("{id} signs from the server's next start on")
                })?;
            }
        }
        Ok(())
    }
}
