//! What commands print: for people, or as JSON.

use std::io::{self, Write as _};

use serde_json::{Value, json};

use crate::proto::v1;

/// Nobody has seen what was to be printed.
#[derive(Debug, thiserror::Error)]
#[error("the output cannot be written: {0}; send it where there is room")]
pub(super) struct NotPrinted(io::Error);

/// Prints a value: as JSON, or as the text for people. A closed pipe is no error: whoever reads may
/// have seen enough.
pub(super) fn print(
    as_json: bool,
    value: &Value,
    text: impl FnOnce() -> String,
) -> Result<(), NotPrinted> {
    match deliver(as_json, value, text) {
        Err(NotPrinted(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Prints what must not be lost, so that a closed pipe is an error too.
pub(super) fn deliver(
    as_json: bool,
    value: &Value,
    text: impl FnOnce() -> String,
) -> Result<(), NotPrinted> {
    let text = if as_json { format!("{value:#}") } else { text() };
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(NotPrinted)
}

/// An id in hex: unlike base64url, it never begins like an option.
pub(super) fn hex(id: &[u8]) -> String {
    id.iter().fold(String::with_capacity(2 * id.len()), |hex, byte| hex + &format!("{byte:02x}"))
}

/// The id of such a text.
pub(super) fn from_hex(text: &str) -> anyhow::Result<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let pairs = digits.as_ref().map(|digits| digits.as_chunks::<2>());
    match pairs {
        Some((pairs, [])) => Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect()),
        _ => anyhow::bail!("the id is not hexadecimal; copy it from where it was shown"),
    }
}

/// A moment as RFC 3339.
pub(super) fn time(time: Option<&prost_types::Timestamp>) -> Option<String> {
    let time = time?;
    jiff::Timestamp::new(time.seconds, time.nanos).ok().map(|moment| moment.to_string())
}

/// A license, for programs.
pub(super) fn license_json(license: &v1::License) -> Value {
    json!({
        "license_key": license.license_key,
        "product": license.product,
        "seats": license.seats,
        "used": license.used,
        "status": status(license.status()),
        "issued_at": time(license.issued_at.as_ref()),
        "expires_at": time(license.expires_at.as_ref()),
        "updates_until": time(license.updates_until.as_ref()),
    })
}

/// A license, for people.
pub(super) fn license_text(license: &v1::License) -> String {
    let mut lines = vec![
        format!(
            "{}  {}  {}  {} of {} seats in use",
            license.license_key,
            license.product,
            status(license.status()),
            license.used,
            license.seats,
        ),
        format!("  issued {}", time(license.issued_at.as_ref()).unwrap_or_default()),
    ];
    lines.extend(time(license.expires_at.as_ref()).map(|end| format!("  expires {end}")));
    lines.extend(time(license.updates_until.as_ref()).map(|end| format!("  updates until {end}")));
    lines.join("\n")
}

fn status(status: v1::LicenseStatus) -> &'static str {
    match status {
        v1::LicenseStatus::Unspecified => "unknown",
        v1::LicenseStatus::Active => "active",
        v1::LicenseStatus::Suspended => "suspended",
        v1::LicenseStatus::Revoked => "revoked",
    }
}
