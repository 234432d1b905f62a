//! Who a member of staff is, from their certificate; and which role may call what.

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::tiles;
use crate::domain::{Actor, Role};
use crate::service::Staff;

/// What the URI name of a staff certificate begins with; then comes `<role>/<actor>`.
const PREFIX: &str = "countersign://staff/";

/// Why a certificate names nobody. Holds nothing of the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be parsed.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// Two names could mean two roles.
    #[error("the certificate must have exactly one URI name, not {0}")]
    Uris(usize),
    /// The name has another form.
    #[error("the certificate's URI name must be {PREFIX}<role>/<actor>")]
    Form,
}

/// Reads role and actor from the certificate's one URI name (RFC 5280 §4.2.1.6).
pub fn identify(certificate: &[u8]) -> Result<Staff, IdentityError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| IdentityError::Unreadable)?;
    let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
    let names = names.map(|extension| extension.value.general_names.as_slice());
    let uris: Vec<&str> = names
        .unwrap_or_default()
        .iter()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris[..] {
        [uri] => from_uri(uri).ok_or(IdentityError::Form),
        _ => Err(IdentityError::Uris(uris.len())),
    }
}

fn from_uri(uri: &str) -> Option<Staff> {
    let (role, actor) = uri.strip_prefix(PREFIX)?.split_once('/')?;
    Some(Staff { role: Role::from_name(role)?, actor: Actor::parse(actor)? })
}

/// Whether a role may call the method at this path. What is not named here nobody may call.
pub(super) fn may_call(role: Role, path: &str) -> bool {
    if tiles::is_static(path) {
        return true;
    }
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
    else {
        return false;
    };
    let allowed: &[Role] = match (service, method) {
        (
            "countersign.v1.LicenseService",
            "IssueLicense" | "SuspendLicense" | "ReinstateLicense" | "RevokeLicense",
        ) => &[Role::Issuer],
        ("countersign.v1.LicenseService", "GetLicense" | "FreeSeat")
        | ("countersign.v1.PrivacyService", "RecordDisclosure") => {
            &[Role::Issuer, Role::Support, Role::Privacy]
        }
        ("countersign.v1.HistoryService", "GetHistory" | "ListActivations") => {
            &[Role::Support, Role::Privacy]
        }
        (
            "countersign.v1.PrivacyService",
            "ExportSubject"
            | "OpenRequest"
            | "ListRequests"
            | "GetRequest"
            | "IssueVerificationCode"
            | "VerifyIdentity"
            | "ApproveRequest"
            | "ExtendRequest"
            | "RefuseRequest"
            | "FulfilRequest"
            | "RectifySubject"
            | "EraseSubject"
            | "GetErasure"
            | "ListErasures"
            | "SetRestriction"
            | "SweepRetention"
            | "ListNotices"
            | "SettleNotice",
        ) => &[Role::Privacy],
        ("countersign.v1.StatisticsService", "GetStatistics") => &[Role::Analytics],
        (
            "countersign.v1.TransparencyService",
            "GetCheckpoint" | "GetInclusionProof" | "GetConsistencyProof",
        )
        | (
            "grpc.health.v1.Health"
            | "grpc.reflection.v1.ServerReflection"
            | "grpc.reflection.v1alpha.ServerReflection",
            _,
        ) => &Role::ALL,
        _ => &[],
    };
    allowed.contains(&role)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(uris: &[&str]) -> Vec<u8> {
        let mut parameters =
            rcgen::CertificateParams::new(vec!["staff.example.com".to_owned()]).unwrap();
        for uri in uris {
            let uri = (*uri).try_into().unwrap();
            parameters.subject_alt_names.push(rcgen::SanType::URI(uri));
        }
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn one_uri_name_gives_role_and_actor() {
        let staff = identify(&certificate(&["countersign://staff/support/ada.l"])).unwrap();
        assert_eq!((staff.role, staff.actor.expose()), (Role::Support, "ada.l"));
    }

    #[test]
    fn any_other_number_or_form_names_nobody() {
        let good = "countersign://staff/support/ada";
        assert_eq!(identify(b"").unwrap_err(), IdentityError::Unreadable);
        assert_eq!(identify(&certificate(&[])).unwrap_err(), IdentityError::Uris(0));
        assert_eq!(identify(&certificate(&[good, good])).unwrap_err(), IdentityError::Uris(2));
        for uri in [
            "countersign://staff/support",
            "countersign://staff/support/",
            "countersign://staff/Support/ada",
            "countersign://staff/root/ada",
            "countersign://staff/support/ada/privacy",
            "countersign://staff/support/Ada",
            "countersign://staff/support/ada?role=privacy",
            "countersign://staff//ada",
            "https://staff/support/ada",
            " countersign://staff/support/ada",
        ] {
            assert_eq!(identify(&certificate(&[uri])).unwrap_err(), IdentityError::Form, "{uri}");
        }
    }

    #[test]
    fn what_is_not_named_nobody_may_call() {
        for role in Role::ALL {
            for path in [
                "",
                "/",
                "/countersign.v1.LicenseService",
                "/countersign.v1.LicenseService/Unknown",
                "/countersign.v1.LicenseService/IssueLicense/",
                "//countersign.v1.LicenseService/IssueLicense",
                "/countersign.v1.ActivationService/Activate",
            ] {
                assert!(!may_call(role, path), "{path}");
            }
        }
    }
}
