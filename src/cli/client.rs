//! The connection of a client command: to the server of a directory, or to one that is named. Always
//! TLS, and only to a server whose certificate is of the named CA.

use std::error::Error as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use http::uri::Scheme;
use rustls::CertificateError;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use zeroize::Zeroizing;

use super::directory::Directory;
use super::failure::{Failure, chain};
use crate::domain::Role;

/// How long to wait for a connection, and for an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Which server, if it is not the one of `--dir`.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// The server, https://host:port [default: the one that serves --dir]
    #[arg(long, value_name = "URL")]
    endpoint: Option<ServerUrl>,
    /// The CA of the server's certificate, PEM [default: tls/server-ca.pem in --dir]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Which server, and who calls as staff.
#[derive(Debug, clap::Args)]
pub(super) struct Connect {
    #[command(flatten)]
    server: Server,
    /// The client certificate, PEM [default: that of the role, in tls/staff of --dir]
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The client certificate's key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

/// `https://host:port`. No other scheme: the transport would leave TLS out without a word.
#[derive(Debug, Clone)]
struct ServerUrl(String);

/// The text names no server that can be called.
#[derive(Debug, thiserror::Error)]
#[error("must be https://host:port; nothing is sent without TLS")]
struct NotHttps;

impl FromStr for ServerUrl {
    type Err = NotHttps;

    fn from_str(text: &str) -> Result<Self, NotHttps> {
        let uri: Uri = text.parse().map_err(|_| NotHttps)?;
        if uri.scheme() == Some(&Scheme::HTTPS) { Ok(Self(text.to_owned())) } else { Err(NotHttps) }
    }
}

/// There is no connection to the server.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    /// Nobody answers.
    #[error("{0} cannot be reached; is it running?")]
    Gone(String),
    /// Its certificate is signed by somebody else.
    #[error("{url} has a certificate that is not of the CA in {ca}; name its CA with --ca")]
    ForeignCa {
        /// The server.
        url: String,
        /// The file with the CA.
        ca: PathBuf,
    },
    /// Its certificate is not valid.
    #[error(
        "{0} has a certificate that is not valid here; it must be renewed, or the URL is wrong"
    )]
    Certificate(String),
    /// It does not accept who calls.
    #[error(
        "{0} closed the connection; is this certificate valid and signed by its staff CA \
         (--cert, --key)?"
    )]
    Closed(String),
}

impl Server {
    /// Connects to the public listener.
    pub(super) async fn public(&self, directory: &Directory) -> anyhow::Result<Channel> {
        let url = self.url(directory, "public")?;
        self.connect(directory, &url, None).await
    }

    fn url(&self, directory: &Directory, listener: &str) -> anyhow::Result<ServerUrl> {
        self.endpoint.clone().map_or_else(|| served(directory, listener), Ok)
    }

    async fn connect(
        &self,
        directory: &Directory,
        ServerUrl(url): &ServerUrl,
        identity: Option<Identity>,
    ) -> anyhow::Result<Channel> {
        let ca = self.ca.clone().unwrap_or_else(|| directory.join("tls/server-ca.pem"));
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&ca, "--ca")?));
        let tls = identity.into_iter().fold(tls, ClientTlsConfig::identity);
        let endpoint = Endpoint::from_shared(url.clone())
            .and_then(|endpoint| endpoint.tls_config(tls))
            .context(
                "the CA, the certificate and its key cannot be used; see that they are PEM, and \
                 that the key is the certificate's",
            )?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT);
        endpoint.connect().await.map_err(|error| {
            let url = url.clone();
            let reason = match tls_error(&error) {
                Some(rustls::Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature,
                )) => Unreachable::ForeignCa { url, ca },
                Some(rustls::Error::InvalidCertificate(_)) => Unreachable::Certificate(url),
                Some(rustls::Error::AlertReceived(_)) => Unreachable::Closed(url),
                _ => Unreachable::Gone(url),
            };
            anyhow::Error::new(error).context(reason)
        })
    }
}

impl Connect {
    /// Connects to the public listener, as nobody in particular.
    pub(super) async fn public(&self, directory: &Directory) -> anyhow::Result<Channel> {
        self.server.public(directory).await
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
        let (certificate, key) = if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            (certificate.clone(), key.clone())
        } else {
            let file = |extension| format!("tls/staff/{certificate}.{extension}");
            (directory.join(file("pem")), directory.join(file("key")))
        };
        let url = self.server.url(directory, "staff")?;
        let key = Zeroizing::new(read(&key, "--key")?);
        let identity = Identity::from_pem(read(&certificate, "--cert")?, key);
        let channel = self.server.connect(directory, &url, Some(identity)).await?;
        // In TLS 1.3 a client has its connection before the server has looked at its certificate.
        // A call that changes nothing shows what it thinks of it.
        let asked = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
        match asked {
            Err(status) if Failure::of(&status) == Failure::Lost => {
                Err(Unreachable::Closed(url.0).into())
            }
            _ => Ok(channel),
        }
    }
}

/// What TLS says of a connection that there is not.
fn tls_error(error: &tonic::transport::Error) -> Option<&rustls::Error> {
    chain(error.source()?)
        .find_map(|cause| cause.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref())
}

/// The address of the server that serves the directory.
fn served(directory: &Directory, listener: &str) -> anyhow::Result<ServerUrl> {
    let line = fs::read_to_string(directory.listening_path()).unwrap_or_default();
    let prefix = format!("{listener}=");
    let address = line.split_whitespace().find_map(|word| word.strip_prefix(&prefix));
    let address = address.and_then(|address| address.parse().ok()).with_context(|| {
        Unreachable::Gone(format!("the server of {}", directory.path().display()))
    })?;
    Ok(ServerUrl(format!("https://{}", reachable(address))))
}

/// Where a client on the same machine reaches a server that listens there: one that listens on all
/// addresses has a certificate for none of them by that name.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

fn read(path: &Path, option: &str) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| {
        format!("{} cannot be read; name the right file with {option}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_reached_by_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:8443", "127.0.0.1:8443"),
            ("[::]:8443", "[::1]:8443"),
            ("192.0.2.1:8443", "192.0.2.1:8443"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), reached);
        }
    }

    #[test]
    fn only_https_is_a_server() {
        assert!("https://localhost:8443".parse::<ServerUrl>().is_ok());
        for text in ["http://localhost:8443", "localhost:8443", "localhost", "ftp://a", "", "/a"] {
            assert!(text.parse::<ServerUrl>().is_err(), "{text}");
        }
    }
}
