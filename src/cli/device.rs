//! What an app has of its own: a key pair, made at its first start, whose thumbprint binds receipts
//! to it. The command line keeps one as an app would keep it in the system's keychain.

use std::fs;

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::dev_ca::write_new;
use super::directory::Directory;
use crate::domain::Binding;
use crate::receipt::KeyRing;

/// The thumbprint (RFC 7638) of this device's key pair, which is made where there is none.
pub(super) fn binding(directory: &Directory) -> anyhow::Result<Binding> {
    let path = directory.join("client/device.jwks");
    if !path.exists() {
        fs::create_dir_all(directory.join("client"))?;
        write_new(&path, KeyRing::generate(&mut rand::rng()).to_jwks().as_bytes(), 0o600)?;
    }
    let keys = Zeroizing::new(fs::read_to_string(&path)?);
    let keys =
        KeyRing::from_jwks(&keys).with_context(|| format!("{} is not valid", path.display()))?;
    Ok(Binding::from_bytes(*keys.current().as_bytes()))
}
