//! What an app has of its own: a key pair, made at its first start, whose thumbprint binds receipts
//! to it. The command line keeps one as an app would keep it in the system's keychain.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use super::directory::{Directory, replace};
use crate::domain::Binding;
use crate::receipt::KeyRing;

/// The thumbprint (RFC 7638) of this device's key pair, which is made where there is none. The
/// directory itself is never made here: it would be in the way of `init`.
pub(super) fn binding(directory: &Directory) -> anyhow::Result<Binding> {
    let path = directory.join("client/device.jwks");
    if !path.exists() {
        if !directory.path().is_dir() {
            bail!(
                "{} is not there, which is to hold this device's key pair; make a directory for \
                 it, and name it with --dir",
                directory.path().display()
            );
        }
        let client = directory.join("client");
        match fs::create_dir(&client) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made.and_then(|()| fs::File::open(directory.path())?.sync_all()),
        }
        .with_context(|| format!("{} cannot be made", client.display()))?;
        replace(&path, KeyRing::generate(&mut rand::rng()).to_jwks().as_bytes(), 0o600)?;
    }
    let keys = Zeroizing::new(
        fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read; put it back", path.display()))?,
    );
    let keys =
        KeyRing::from_jwks(&keys).with_context(|| format!("{} is not valid", path.display()))?;
    Ok(Binding::from_bytes(*keys.current().as_bytes()))
}
