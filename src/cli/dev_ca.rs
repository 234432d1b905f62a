//! A development CA: certificates to try the server with. Two CAs, so that no server certificate
//! passes for one of staff.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::domain::{Role, Timestamp};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// Writes `server-ca.pem`, `server.pem`, `staff-ca.pem`, `staff/<role>.pem` and the keys to them
/// into a new directory. The server's certificate is for localhost; that of a role names `dev-<role>`.
pub(super) fn write(directory: &Path, year: u16) -> anyhow::Result<()> {
    let staff_directory = directory.join("staff");
    fs::create_dir_all(&staff_directory)
        .with_context(|| format!("{} cannot be made", staff_directory.display()))?;

    let server_ca = issuer("Countersign development server CA", year)?;
    let mut server = parameters("localhost", year, 1);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.subject_alt_names = vec![
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
        SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
    ];
    write_ca(directory, "server-ca", &server_ca)?;
    write_pair(directory, "server", &server, &server_ca)?;

    let staff_ca = issuer("Countersign development staff CA", year)?;
    write_ca(directory, "staff-ca", &staff_ca)?;
    let roles = Role::ALL.map(|role| (role.name(), role.name()));
    // A second actor, who approves what the first one asks for.
    for (name, role) in roles.into_iter().chain([("privacy-2", Role::Privacy.name())]) {
        let mut staff = parameters(name, year, 1);
        staff.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let uri = format!("countersign://staff/{role}/dev-{name}");
        staff.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        write_pair(&staff_directory, name, &staff, &staff_ca)?;
    }
    Ok(())
}

/// The list of revoked staff certificates with `staff/<name>.pem` added to those of the list before,
/// which may be empty; PEM, signed by the staff CA. It is written anew each time, and never expires:
/// the server takes a list for what it says, however old.
pub(super) fn revoke(
    directory: &Path,
    name: &str,
    before: &[u8],
    now: Timestamp,
) -> anyhow::Result<String> {
    let read = |name: String| {
        let path = directory.join(name);
        fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    let certificate = CertificateDer::from_pem_slice(&read(format!("staff/{name}.pem"))?)
        .with_context(|| format!("staff/{name}.pem holds no certificate"))?;
    let (_, certificate) = X509Certificate::from_der(&certificate)
        .with_context(|| format!("staff/{name}.pem holds a certificate that cannot be read"))?;
    let mut serials = vec![certificate.raw_serial().to_vec()];
    if !before.is_empty() {
        let unreadable = "the list of revoked certificates cannot be read; repair or remove it";
        let list = CertificateRevocationListDer::from_pem_slice(before).context(unreadable)?;
        let (_, list) = CertificateRevocationList::from_der(&list).context(unreadable)?;
        serials.extend(list.iter_revoked_certificates().map(|known| known.raw_serial().to_vec()));
    }
    serials.sort_unstable();
    serials.dedup();

    let key = Zeroizing::new(String::from_utf8(read("staff-ca.key".to_owned())?)?);
    let ca = CertificateDer::from_pem_slice(&read("staff-ca.pem".to_owned())?)
        .context("staff-ca.pem holds no certificate")?;
    let issuer = rcgen::Issuer::from_ca_cert_der(&ca, KeyPair::from_pem(&key)?)?;
    let today = rcgen::date_time_ymd(i32::from(now.year()), 1, 1);
    let revoked = |serial: &Vec<u8>| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: today,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: today,
        next_update: rcgen::date_time_ymd(9999, 12, 31),
        crl_number: SerialNumber::from(u64::try_from(serials.len())?),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(&issuer)?.pem()?)
}

fn parameters(name: &str, year: u16, years: u16) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = rcgen::date_time_ymd(i32::from(year), 1, 1);
    parameters.not_after = rcgen::date_time_ymd(i32::from(year + years + 1), 1, 1);
    parameters
}

fn issuer(name: &str, year: u16) -> anyhow::Result<Issuer> {
    let mut ca = parameters(name, year, 10);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?)
}

fn write_ca(directory: &Path, name: &str, issuer: &Issuer) -> anyhow::Result<()> {
    write_new(&directory.join(format!("{name}.pem")), issuer.pem().as_bytes(), 0o644)?;
    let key = Zeroizing::new(issuer.key().serialize_pem());
    write_new(&directory.join(format!("{name}.key")), key.as_bytes(), 0o600)
}

fn write_pair(
    directory: &Path,
    name: &str,
    parameters: &CertificateParams,
    issuer: &Issuer,
) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&key, issuer)?;
    write_new(&directory.join(format!("{name}.pem")), certificate.pem().as_bytes(), 0o644)?;
    let key = Zeroizing::new(key.serialize_pem());
    write_new(&directory.join(format!("{name}.key")), key.as_bytes(), 0o600)
}

/// Writes a file that must not exist yet, durably, and never readable to more than `mode` says.
pub(super) fn write_new(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}
