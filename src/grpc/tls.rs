//! TLS 1.3 for both listeners, and for calls of our own, from PEM files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CipherSuite, ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::domain::Timestamp;

/// What a listener serves with.
pub struct Tls {
    pub(super) server: Arc<ServerConfig>,
    /// Where clients must have a certificate.
    clients: Option<Clients>,
}

/// Which certificates of clients are admitted.
struct Clients {
    /// Of these CAs.
    roots: Arc<RootCertStore>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// Whether a client with this certificate, and those between it and the CA, may be there now.
    pub(super) fn admits(&self, chain: &[CertificateDer<'static>]) -> bool {
        match (&self.clients, chain.split_first()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(clients), Some((own, between))) => {
                clients.verifier.verify_client_cert(own, between, UnixTime::now()).is_ok()
            }
        }
    }

    /// The same, but that of clients' certificates those are not admitted that this list has. Nothing else
    /// is read again, so that nothing else can keep a list from being in force.
    pub fn with_revoked(self: &Arc<Self>, revoked: &Path) -> Result<Arc<Self>, TlsError> {
        match &self.clients {
            None => Ok(Arc::clone(self)),
            Some(Clients { roots, .. }) => {
                staff(Arc::clone(roots), revoked, Arc::clone(&self.server.cert_resolver))
            }
        }
    }
}

/// HTTP/2, which is all that gRPC speaks.
const ALPN: &[u8] = b"h2";

/// Certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{0} cannot be read: {1}; put it there, or correct its path in countersign.toml")]
    Unreadable(PathBuf, io::Error),
    /// The file holds no certificate.
    #[error("{0} holds no certificate in PEM form")]
    NoCertificate(PathBuf),
    /// The file holds no private key.
    #[error("{0} holds no private key in PEM form")]
    NoKey(PathBuf),
    /// The certificate cannot be parsed.
    #[error("{0} holds a certificate that cannot be read")]
    Certificate(PathBuf),
    /// Key and certificate are not one pair, or of a kind that is not supported.
    #[error(
        "{certificate} and {key} cannot be used together: {reason}; put the key there that the \
         certificate was made for"
    )]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: rustls::Error,
    },
    /// The clients' certificates cannot be verified with this.
    #[error("{0} cannot serve to verify client certificates: {1}")]
    ClientCa(PathBuf, String),
    /// The list of revoked certificates is none.
    #[error(
        "{0} holds no list of revoked certificates in PEM form that can be used; put the list there, or \
         remove the file where none is revoked"
    )]
    Revoked(PathBuf),
    /// The TLS library refuses.
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
}

/// For apps: no client certificate; sessions resume by tickets, which saves both sides work.
pub fn public_config(certificate: &Path, key: &Path) -> Result<Arc<Tls>, TlsError> {
    let builder = builder(provider())?.with_no_client_auth();
    let mut config = with_pair(builder, pair(certificate, key)?);
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(Tls { server: Arc::new(config), clients: None }))
}

/// For staff: a client certificate of their own CA is a must, and not to be among those that `revoked`
/// lists; where there is no such file, none is. Sessions do not resume, because a resumed session
/// would not check the certificate again.
pub fn staff_config(
    certificate: &Path,
    key: &Path,
    client_ca: &Path,
    revoked: &Path,
) -> Result<Arc<Tls>, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in certificates(client_ca)? {
        let added = roots.add(ca);
        added.map_err(|error| TlsError::ClientCa(client_ca.to_owned(), error.to_string()))?;
    }
    staff(roots.into(), revoked, pair(certificate, key)?)
}

fn staff(
    roots: Arc<RootCertStore>,
    revoked: &Path,
    pair: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<Tls>, TlsError> {
    let provider = provider();
    // A list covers the CA that signed it. What no list is about is not revoked.
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider.clone())
            .with_crls(revocation_lists(revoked)?)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| match error {
                VerifierBuilderError::InvalidCrl(_) => TlsError::Revoked(revoked.to_owned()),
                error => TlsError::Library(rustls::Error::General(error.to_string())),
            })?;
    let builder = builder(provider)?.with_client_cert_verifier(Arc::clone(&verifier));
    let mut config = with_pair(builder, pair);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    let clients = Some(Clients { roots, verifier });
    Ok(Arc::new(Tls { server: Arc::new(config), clients }))
}

/// For calls of our own to servers with certificates of these CAs.
pub fn client_config(ca: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    // A system's store may hold one that this library does not read.
    roots.add_parsable_certificates(certificates(ca)?);
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// From when to when the first certificate in a file is valid.
pub fn validity(certificate: &Path) -> Result<(Timestamp, Timestamp), TlsError> {
    let unreadable = || TlsError::Certificate(certificate.to_owned());
    let chain = certificates(certificate)?;
    let first = chain.first().ok_or_else(|| TlsError::NoCertificate(certificate.to_owned()))?;
    let (_, parsed) = X509Certificate::from_der(first).map_err(|_| unreadable())?;
    let moment = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1000));
    let validity = parsed.validity();
    let from = moment(validity.not_before.timestamp()).ok_or_else(unreadable)?;
    let to = moment(validity.not_after.timestamp()).ok_or_else(unreadable)?;
    Ok((from, to))
}

/// The certificates in a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::NoCertificate(path.to_owned())),
    }
}

/// The lists of revoked certificates in a file, which may be missing. One that is empty is being written.
fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let pem = match std::fs::read(path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TlsError::Unreadable(path.to_owned(), error)),
    };
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&pem).collect();
    match lists {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        _ => Err(TlsError::Revoked(path.to_owned())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Unreadable(path.to_owned(), error))
}

/// Prefers the cipher suite that every implementation must have (RFC 8446 §9.1): most processors have
/// instructions for SHA-256, few for SHA-384, which in software takes a tenth of a handshake.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, rustls::Error> {
    ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])
}

fn with_pair(
    builder: ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
    pair: Arc<dyn ResolvesServerCert>,
) -> ServerConfig {
    let mut config = builder.with_cert_resolver(pair);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ignore_client_order = true;
    config
}

fn pair(certificate: &Path, key: &Path) -> Result<Arc<dyn ResolvesServerCert>, TlsError> {
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&Zeroizing::new(read(key)?));
    let private = Zeroizing::new(private.map_err(|_| TlsError::NoKey(key.to_owned()))?);
    let pair = certified(chain, &private).map_err(|reason| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason,
    })?;
    Ok(Arc::new(SingleCertAndKey::from(pair)))
}

/// A chain and its key. rustls's own way to put them together leaves the bytes of the key behind.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    private: &PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let pair = CertifiedKey::new(chain, aws_lc_rs::sign::any_supported_type(private)?);
    pair.keys_match()?;
    Ok(pair)
}
