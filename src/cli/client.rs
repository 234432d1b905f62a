//! The connection of a client command: to the server of a directory, or to one that is named.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::directory::Directory;
use crate::domain::Role;

/// How long to wait for a connection, and for an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the server is, if it is not the one of `--dir`.
#[derive(Debug, clap::Args)]
pub(super) struct Connect {
    /// The server, https://host:port [default: the one that serves --dir]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The CA of the server's certificate, PEM [default: tls/server-ca.pem in --dir]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The client certificate, PEM [default: that of the role, in tls/staff of --dir]
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The client certificate's key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

/// The server is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0} cannot be reached; is it running?")]
pub(super) struct Unreachable(String);

impl Connect {
    /// Where an app connects.
    pub(super) fn to_public(endpoint: Option<String>, ca: Option<PathBuf>) -> Self {
        Self { endpoint, ca, cert: None, key: None }
    }

    /// Connects to the public listener.
    pub(super) async fn public(&self, directory: &Directory) -> anyhow::Result<Channel> {
        self.connect(directory, "public", None).await
    }

    /// Connects to the staff listener, by default with the directory's certificate for a role.
    pub(super) async fn staff(&self, directory: &Directory, role: Role) -> anyhow::Result<Channel> {
        self.staff_as(directory, role.name()).await
    }

    /// Connects to the staff listener, by default with a certificate of the directory.
    pub(super) async fn staff_as(
        &self,
        directory: &Directory,
        certificate: &str,
    ) -> anyhow::Result<Channel> {
        let identity = if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            (certificate.clone(), key.clone())
        } else {
            let file = |extension| format!("tls/staff/{certificate}.{extension}");
            (directory.join(file("pem")), directory.join(file("key")))
        };
        self.connect(directory, "staff", Some(identity)).await
    }

    async fn connect(
        &self,
        directory: &Directory,
        listener: &str,
        identity: Option<(PathBuf, PathBuf)>,
    ) -> anyhow::Result<Channel> {
        let url = match &self.endpoint {
            Some(url) => url.clone(),
            None => served(directory, listener)?,
        };
        let ca = self.ca.clone().unwrap_or_else(|| directory.join("tls/server-ca.pem"));
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&ca)?));
        if let Some((certificate, key)) = identity {
            let key = zeroize::Zeroizing::new(read(&key)?);
            tls = tls.identity(Identity::from_pem(read(&certificate)?, key));
        }
        let endpoint = Endpoint::from_shared(url.clone())
            .and_then(|endpoint| endpoint.tls_config(tls))
            .with_context(|| format!("{url} cannot be used; expected https://host:port"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT);
        endpoint.connect().await.with_context(|| Unreachable(url))
    }
}

/// The address of the server that serves the directory.
fn served(directory: &Directory, listener: &str) -> anyhow::Result<String> {
    let line = fs::read_to_string(directory.listening_path()).unwrap_or_default();
    let prefix = format!("{listener}=");
    let address = line.split_whitespace().find_map(|word| word.strip_prefix(&prefix));
    let address = address
        .with_context(|| Unreachable(format!("the server of {}", directory.path().display())))?;
    Ok(format!("https://{address}"))
}

fn read(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}
