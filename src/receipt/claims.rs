//! Claims: what a receipt states, and their JSON (RFC 7519).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroize as _;

use super::{ReceiptError, decode, encode};
use crate::domain::{ActivationId, Binding, LicenseKey, Product, Timestamp};

const KEY_THUMBPRINT_LABEL: &[u8] = b"countersign/license-key/v1";

/// What a receipt states. Prints `[redacted]`: it tells when a person activated what.
///
/// A receipt holds moments in seconds, rounded down, so claims that were read from one may differ
/// from those it was made of.
#[derive(Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who made the receipt: `iss` (RFC 7519 §4.1.1).
    pub issuer: String,
    /// For what: `aud` (§4.1.3).
    pub product: Product,
    /// When: `iat` (§4.1.6).
    pub issued_at: Timestamp,
    /// The end of the lease: `exp` (§4.1.4). `None`: the product has none.
    pub expires_at: Option<Timestamp>,
    /// Which activation: `jti` (§4.1.7).
    pub activation: ActivationId,
    /// The key pair that must be at hand where the receipt is used: `cnf.jkt` (RFC 7800 §3.1,
    /// RFC 9449 §6.1).
    pub binding: Binding,
    /// Of which license, and what it grants: `license`.
    pub license: LicenseClaims,
    /// The leaf hash (RFC 6962 §2.1) of the activation's record in the log: `record`.
    pub record: [u8; 32],
}

/// What a receipt states of its license. Prints `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct LicenseClaims {
    /// See [`key_thumbprint`].
    pub key_thumbprint: [u8; 32],
    /// How many activations it allows at once.
    pub seats: u32,
    /// No activation from here on, and the app is not licensed any more. `None`: never.
    pub expires_at: Option<Timestamp>,
    /// The end of the maintenance window. `None`: all versions are covered.
    pub updates_until: Option<Timestamp>,
}

/// Names a license key to one who knows it: `SHA-256("countersign/license-key/v1" || the 26
/// symbols)`. The key's 125 random bits cannot be guessed from it.
pub fn key_thumbprint(key: &LicenseKey) -> [u8; 32] {
    let mut symbols = key.symbols();
    let thumbprint = Sha256::new_with_prefix(KEY_THUMBPRINT_LABEL).chain_update(symbols).finalize();
    symbols.zeroize();
    thumbprint.into()
}

impl Claims {
    /// Whether the lease is over: a receipt is not good on or after `exp` (RFC 7519 §4.1.4).
    pub fn expired_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// The payload: the same claims give the same bytes.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, ReceiptError> {
        let payload = Payload {
            iss: Cow::Borrowed(&self.issuer),
            aud: Cow::Borrowed(self.product.as_str()),
            iat: Seconds(self.issued_at),
            exp: self.expires_at.map(Seconds),
            jti: Bytes(*self.activation.as_bytes()),
            cnf: Confirmation { jkt: Bytes(*self.binding.as_bytes()) },
            license: LicensePayload {
                key_thumbprint: Bytes(self.license.key_thumbprint),
                seats: self.license.seats,
                expires_at: self.license.expires_at.map(Seconds),
                updates_until: self.license.updates_until.map(Seconds),
            },
            record: Bytes(self.record),
        };
        serde_json::to_vec(&payload).map_err(|_| ReceiptError::Claims)
    }

    /// Reads a payload whose signature is verified.
    pub(super) fn from_json(json: &[u8]) -> Result<Self, ReceiptError> {
        let payload: Payload<'_> =
            serde_json::from_slice(json).map_err(|_| ReceiptError::Claims)?;
        let moment = |seconds: Option<Seconds>| seconds.map(|Seconds(moment)| moment);
        Ok(Self {
            issuer: payload.iss.into_owned(),
            product: Product::parse(&payload.aud).map_err(|_| ReceiptError::Claims)?,
            issued_at: payload.iat.0,
            expires_at: moment(payload.exp),
            activation: ActivationId::from_bytes(payload.jti.0),
            binding: Binding::from_bytes(payload.cnf.jkt.0),
            license: LicenseClaims {
                key_thumbprint: payload.license.key_thumbprint.0,
                seats: payload.license.seats,
                expires_at: moment(payload.license.expires_at),
                updates_until: moment(payload.license.updates_until),
            },
            record: payload.record.0,
        })
    }
}

impl LicenseClaims {
    /// Whether the license is over, which ends on `expires_at`.
    pub fn expired_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claims[redacted]")
    }
}

impl fmt::Debug for LicenseClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LicenseClaims[redacted]")
    }
}

/// The JSON. The order of the fields is the order of the members and never changes; a new claim
/// goes to the end, optional. Claims that are not here are ignored (RFC 7519 §4).
#[derive(Serialize, Deserialize)]
struct Payload<'a> {
    iss: Cow<'a, str>,
    aud: Cow<'a, str>,
    iat: Seconds,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    exp: Option<Seconds>,
    jti: Bytes<16>,
    cnf: Confirmation,
    license: LicensePayload,
    record: Bytes<32>,
}

#[derive(Serialize, Deserialize)]
struct Confirmation {
    jkt: Bytes<32>,
}

#[derive(Serialize, Deserialize)]
struct LicensePayload {
    key_thumbprint: Bytes<32>,
    seats: u32,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    expires_at: Option<Seconds>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    updates_until: Option<Seconds>,
}

/// Absent is one thing and `null` another: an end that cannot be read is not "never".
fn not_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Seconds>, D::Error> {
    Seconds::deserialize(deserializer).map(Some)
}

/// A `NumericDate` (RFC 7519 §2) in whole seconds.
struct Seconds(Timestamp);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0.as_seconds())
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let millis = i64::deserialize(deserializer)?.checked_mul(1000);
        let moment = millis.and_then(Timestamp::from_millis);
        moment.map(Self).ok_or_else(|| D::Error::custom("not a moment"))
    }
}

/// Bytes of a fixed length, in base64url.
struct Bytes<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Bytes<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(&text).map(Self).ok_or_else(|| D::Error::custom("not the bytes expected"))
    }
}
