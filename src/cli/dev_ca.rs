//! A development CA: certificates to try the server with. Two CAs, so that no server certificate
//! passes for one of staff.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use zeroize::Zeroizing;

use crate::domain::Role;

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
