//! `staff revoke`: a certificate of the development CA is not admitted any more.

use std::fs;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::dev_ca;
use super::directory::{Directory, replace};
use super::output::print;
use crate::service::clock::{Clock as _, SystemClock};

/// Work with staff certificates of the development CA; with a CA of your own, use its tools.
#[derive(Debug, clap::Subcommand)]
pub(super) enum StaffCommand {
    /// Revoke the certificate tls/staff/NAME.pem; a running server ends its connections
    Revoke {
        /// As the file is named, e.g. support
        name: String,
    },
}

impl StaffCommand {
    /// Adds the certificate to the list that the server looks at.
    pub(super) fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let Self::Revoke { name } = self;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(is_plain) {
            bail!("{name:?} names no file in tls/staff; give its name without .pem");
        }
        let path = directory.join(directory.config()?.staff.revoked);
        let before = if path.exists() {
            fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?
        } else {
            Vec::new()
        };
        let list = dev_ca::revoke(&directory.join("tls"), &name, &before, SystemClock.now())?;
        replace(&path, list.as_bytes(), 0o644)?;
        print(as_json, &json!({ "revoked": name }), || format!("revoked {name}"))?;
        Ok(())
    }
}
