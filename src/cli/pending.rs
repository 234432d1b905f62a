//! An activation without a receipt yet: its nonce, on disk before the first call, and until the
//! receipt is where it belongs. So whatever ends a command in between, the next one repeats the
//! activation, and takes no second seat.
//!
//! The file lies beside the receipt's and is named after the license, by its key's thumbprint: a
//! nonce is one activation of one license. The address is no part of it; if it was wrong, nothing
//! was activated with it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::directory::replace;
use super::output::{from_hex, hex};
use crate::domain::LicenseKey;
use crate::receipt::key_thumbprint;

/// Bytes of the thumbprint that tell one license from another in a file's name.
const NAME_BYTES: usize = 8;

/// The nonce of an activation that has no receipt yet.
pub(super) struct Pending {
    path: PathBuf,
    nonce: Vec<u8>,
    remembered: bool,
}

impl Pending {
    /// The nonce that an earlier command left beside `receipt`, or a fresh one, durable now.
    pub(super) fn beside(receipt: &Path, key: &LicenseKey) -> anyhow::Result<Self> {
        let mut name = receipt.file_name().context("it names no file")?.to_owned();
        name.push(format!(".{}.pending", hex(&key_thumbprint(key)[..NAME_BYTES])));
        let path = receipt.with_file_name(name);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let nonce = from_hex(text.trim()).map_err(|_| {
                    anyhow!("{} is damaged; remove it to take another seat", path.display())
                })?;
                Ok(Self { path, nonce, remembered: true })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let nonce = rand::random::<[u8; 16]>().to_vec();
                replace(&path, hex(&nonce).as_bytes(), 0o600)?;
                Ok(Self { path, nonce, remembered: false })
            }
            Err(error) => Err(error).context(format!("{} cannot be read", path.display())),
        }
    }

    /// The nonce.
    pub(super) fn nonce(&self) -> Vec<u8> {
        self.nonce.clone()
    }

    /// Whether an earlier command may have activated with it.
    pub(super) fn is_remembered(&self) -> bool {
        self.remembered
    }

    /// Removes it: the receipt is safe, or nothing is held by this nonce.
    pub(super) fn forget(self) -> anyhow::Result<()> {
        let path = self.path.display();
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| {
                format!("{path} cannot be removed; remove it, it is of no use any more")
            }),
            _ => Ok(()),
        }
    }
}
