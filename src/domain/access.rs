//! Who reads personal data, as what, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::RequestId;

/// What a member of staff may do; from the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Issues, suspends, reinstates and revokes licenses.
    Issuer,
    /// Customer support: reads histories, frees seats.
    Support,
    /// Customer support with the privacy duty: exports as well.
    Privacy,
    /// Statistics only, which name nobody.
    Analytics,
    /// The log's checkpoints and proofs only, which hold nothing of a person.
    Witness,
}

impl Role {
    /// All there are.
    pub const ALL: [Self; 5] =
        [Self::Issuer, Self::Support, Self::Privacy, Self::Analytics, Self::Witness];

    /// Its name in certificates, records and exports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Support => "support",
            Self::Privacy => "privacy",
            Self::Analytics => "analytics",
            Self::Witness => "witness",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// The name of a member of staff, from the certificate: 1 to 64 of `a-z 0-9 . _ -`.
/// Personal data too: prints `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// `None` where the name is empty, too long, or has another character.
    pub fn parse(name: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        ((1..=64).contains(&name.len()) && name.bytes().all(allowed)).then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The name of a member of staff, as it is recorded: to read it takes two keys that the server does
/// not have.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedActor(Vec<u8>);

impl SealedActor {
    /// How long one is.
    pub const BYTES: usize = 113;

    /// Takes the bytes as they are.
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SealedActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedActor[redacted]")
    }
}

/// Who accessed a person's data, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedActor {
    /// As events of the first version have it.
    Named(Actor),
    /// Sealed apart.
    Sealed(SealedActor),
}

impl RecordedActor {
    /// The name, where it is sealed.
    pub const fn sealed(&self) -> Option<&SealedActor> {
        match self {
            Self::Named(_) => None,
            Self::Sealed(sealed) => Some(sealed),
        }
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Actor[redacted]")
    }
}

/// Why personal data is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The person asked support for help.
    CustomerSupport,
    /// The person asked for access to, or a copy of, their data.
    AccessRequest,
    /// A license is issued or changed.
    LicenseAdministration,
    /// A license is suspected to be misused.
    FraudPrevention,
}

impl Purpose {
    /// Its name in the policy file and in exports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CustomerSupport => "customer_support",
            Self::AccessRequest => "access_request",
            Self::LicenseAdministration => "license_administration",
            Self::FraudPrevention => "fraud_prevention",
        }
    }
}

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names of the RPCs
pub enum Operation {
    IssueLicense,
    GetLicense,
    SuspendLicense,
    ReinstateLicense,
    RevokeLicense,
    FreeSeat,
    GetHistory,
    ListActivations,
    ExportSubject,
    OpenRequest,
    GetRequest,
    IssueVerificationCode,
    VerifyIdentity,
    ExtendRequest,
    ApproveRequest,
    RefuseRequest,
    FulfilRequest,
    RectifySubject,
    EraseSubject,
    SetRestriction,
    RecordDisclosure,
    ListNotices,
    SettleNotice,
}

impl Operation {
    /// Its name in exports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IssueLicense => "IssueLicense",
            Self::GetLicense => "GetLicense",
            Self::SuspendLicense => "SuspendLicense",
            Self::ReinstateLicense => "ReinstateLicense",
            Self::RevokeLicense => "RevokeLicense",
            Self::FreeSeat => "FreeSeat",
            Self::GetHistory => "GetHistory",
            Self::ListActivations => "ListActivations",
            Self::ExportSubject => "ExportSubject",
            Self::OpenRequest => "OpenRequest",
            Self::GetRequest => "GetRequest",
            Self::IssueVerificationCode => "IssueVerificationCode",
            Self::VerifyIdentity => "VerifyIdentity",
            Self::ExtendRequest => "ExtendRequest",
            Self::ApproveRequest => "ApproveRequest",
            Self::RefuseRequest => "RefuseRequest",
            Self::FulfilRequest => "FulfilRequest",
            Self::RectifySubject => "RectifySubject",
            Self::EraseSubject => "EraseSubject",
            Self::SetRestriction => "SetRestriction",
            Self::RecordDisclosure => "RecordDisclosure",
            Self::ListNotices => "ListNotices",
            Self::SettleNotice => "SettleNotice",
        }
    }
}

/// One access to a person's data, as it is recorded with that person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who.
    pub actor: RecordedActor,
    /// As what.
    pub role: Role,
    /// Why.
    pub purpose: Purpose,
    /// By which call.
    pub operation: Operation,
    /// The person's request that it is for.
    pub request: Option<RequestId>,
}
