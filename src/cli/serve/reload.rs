//! What is read from files at the start, and again at SIGHUP: certificates and the policy; and the list of
//! revoked certificates, by itself, as soon as it is another. What is of no use changes nothing: the server
//! goes on with what it has, and says why.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::super::directory::{Directory, read_secret};
use super::super::watched::WatchedFile;
use crate::config::{Config, Webhook};
use crate::domain::RecipientName;
use crate::grpc::tls::{self, Tls, TlsError};
use crate::policy::{CurrentPolicy, Policy};
use crate::service::clock::{Clock as _, SystemClock};
use crate::telemetry::Trouble;
use crate::webhook::Target;

/// What a running server takes up again.
pub(super) struct Reloaded {
    /// Where the files are.
    pub(super) directory: Directory,
    /// What they are called.
    pub(super) config: Config,
    /// What the public and the staff listener serve with.
    pub(super) tls: [watch::Sender<Arc<Tls>>; 2],
    /// What everybody keeps to.
    pub(super) policy: CurrentPolicy,
}

impl Reloaded {
    /// Reads the files again at each signal, and the list of revoked certificates when it is another, for
    /// as long as the process runs.
    pub(super) fn at_each(self, mut signal: Signal, mut revoked: WatchedFile) {
        tokio::spawn(async move {
            let mut trouble = Trouble::default();
            loop {
                tokio::select! {
                    Some(()) = signal.recv() => {
                        self.reload_certificates();
                        self.reload_policy();
                    }
                    () = revoked.changed() => match self.reload_revoked() {
                        Ok(()) => {
                            trouble.is_over();
                            tracing::info!("the list of revoked certificates was read again");
                        }
                        Err(error) => {
                            // It may be in the middle of being written, and is not to be missed.
                            revoked.look_again();
                            if trouble.is_new(&error.to_string()) {
                                tracing::error!("revoked certificates stay as they were: {error}");
                            }
                        }
                    },
                }
            }
        });
    }

    /// Connections of staff whose certificate is not admitted any more end.
    fn reload_revoked(&self) -> Result<(), TlsError> {
        let [_, staff] = &self.tls;
        let revoked = self.directory.join(&self.config.staff.revoked);
        let new = staff.borrow().with_revoked(&revoked)?;
        staff.send_replace(new);
        Ok(())
    }

    /// New connections get the certificates that are there now, and those of staff whose own is not
    /// admitted any more end.
    fn reload_certificates(&self) {
        match certificates(&self.directory, &self.config) {
            Ok(new) => {
                for (shared, new) in self.tls.iter().zip(new) {
                    shared.send_replace(new);
                }
                tracing::info!("the certificates were read again");
            }
            Err(error) => tracing::error!("the certificates stay as they were: {error:#}"),
        }
    }

    /// Whatever is asked from here on is under the policy that is there now.
    fn reload_policy(&self) {
        match self.new_policy() {
            Ok(new) => {
                self.policy.replace(new);
                tracing::info!("the policy was read again");
            }
            Err(error) => tracing::error!("the policy stays as it was: {error:#}"),
        }
    }

    fn new_policy(&self) -> anyhow::Result<Policy> {
        let policy = self.directory.policy()?;
        for webhook in &self.config.webhooks {
            recipient(webhook, &policy)?;
        }
        Ok(policy)
    }
}

/// What both listeners serve with, the public one first.
pub(super) fn certificates(
    directory: &Directory,
    config: &Config,
) -> anyhow::Result<[Arc<Tls>; 2]> {
    let public = {
        let [certificate, key] =
            [&config.public.certificate, &config.public.key].map(|file| directory.join(file));
        check_validity(&certificate)?;
        tls::public_config(&certificate, &key)?
    };
    let staff = {
        let staff = &config.staff;
        let [certificate, key, ca, revoked] =
            [&staff.certificate, &staff.key, &staff.client_ca, &staff.revoked]
                .map(|file| directory.join(file));
        check_validity(&certificate)?;
        tls::staff_config(&certificate, &key, &ca, &revoked)?
    };
    Ok([public, staff])
}

fn check_validity(certificate: &Path) -> anyhow::Result<()> {
    let (from, to) = tls::validity(certificate)?;
    let (shown, now) = (certificate.display(), SystemClock.now());
    if now < from {
        bail!("{shown} is not valid before {from}; set this machine's clock, or renew it");
    }
    if now > to {
        bail!("{shown} has expired at {to}; renew it");
    }
    Ok(())
}

/// Where recipients are told.
pub(super) fn webhooks(
    directory: &Directory,
    config: &Config,
    policy: &Policy,
) -> anyhow::Result<BTreeMap<RecipientName, Target>> {
    let mut targets = BTreeMap::new();
    for webhook in &config.webhooks {
        let name = &webhook.recipient;
        let recipient = recipient(webhook, policy)?;
        let secret = read_secret(&directory.join(&webhook.secret))?;
        let tls = tls::client_config(&directory.join(&webhook.ca))?;
        let target = Target::new(&webhook.url, &secret, tls)
            .with_context(|| format!("[[webhook]] {name} is not valid"))?;
        if targets.insert(recipient, target).is_some() {
            bail!("[[webhook]] {name} is there twice; keep one");
        }
    }
    Ok(targets)
}

/// Who is told by a webhook. The policy must name them.
fn recipient(webhook: &Webhook, policy: &Policy) -> anyhow::Result<RecipientName> {
    let name = &webhook.recipient;
    let known = policy.recipients.iter().any(|recipient| recipient.name == *name);
    RecipientName::parse(name)
        .filter(|_| known)
        .with_context(|| format!("[[webhook]] {name}: policy.toml names no such recipient"))
}
