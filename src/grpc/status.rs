//! Errors to the wire, in one place: `google.rpc.Status` with `ErrorInfo`, and `BadRequest` or
//! `RetryInfo` where they help.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::backup::BackupError;
use crate::domain::Rejection;
use crate::proto::ERROR_DOMAIN;
use crate::service::ServiceError;
use crate::service::guessing::TooMany;
use crate::telemetry::Complaint;

/// When to call again after an overload: the queue is empty much sooner, and clients spread.
const RETRY_OVERLOADED: Duration = Duration::from_secs(1);
/// When to call again while the server restarts.
const RETRY_STOPPED: Duration = Duration::from_secs(5);

/// What anybody who has a receipt, or may ask for the tree, can bring about.
static NOT_IN_LOG: Complaint = Complaint::new();
static NO_PROOF: Complaint = Complaint::new();

/// The status that tells a client of this error.
pub(super) fn status(error: &ServiceError) -> Status {
    let text = error.to_string();
    match error {
        ServiceError::Rejected(rejection) => {
            let details = info(rejection.reason(), metadata(rejection));
            Status::with_error_details(code(rejection), text, details)
        }
        ServiceError::PurposeNotAllowed => {
            let details = info("PURPOSE_NOT_ALLOWED", HashMap::new());
            Status::with_error_details(Code::PermissionDenied, text, details)
        }
        ServiceError::Receipt(reason) => {
            let mut details = info("RECEIPT_INVALID", HashMap::new());
            details.add_bad_request_violation("receipt", reason.to_string());
            Status::with_error_details(Code::InvalidArgument, text, details)
        }
        ServiceError::NotLeased => {
            let details = info("RECEIPT_NOT_LEASED", HashMap::new());
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
        ServiceError::Overloaded => unavailable("OVERLOADED", text, RETRY_OVERLOADED),
        ServiceError::Stopped => unavailable("STOPPING", text, RETRY_STOPPED),
        ServiceError::Export(error) => {
            tracing::error!("an export stopped: {error}");
            let details = info("EXPORT_STOPPED", HashMap::new());
            let text = "the export stopped before its end; ask for it again";
            Status::with_error_details(Code::Internal, text, details)
        }
        ServiceError::TreeBehind => unavailable("TREE_BEHIND", text, RETRY_OVERLOADED),
        ServiceError::NotInLog => {
            if NOT_IN_LOG.is_due() {
                tracing::error!("a receipt that was signed here has no record in the log");
            }
            let details = info("RECORD_NOT_FOUND", HashMap::new());
            Status::with_error_details(Code::NotFound, text, details)
        }
        ServiceError::SizeAhead(_) => {
            let details = info("SIZE_AHEAD", HashMap::new());
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
        ServiceError::Tiles(error) => {
            if NO_PROOF.is_due() {
                tracing::error!("a proof could not be made: {error}");
            }
            unavailable("TREE_BEHIND", ServiceError::TreeBehind.to_string(), RETRY_STOPPED)
        }
        // What is wrong with the disk is for the operator, who has it in the log.
        ServiceError::Store(error) => {
            tracing::error!("a call could not be answered: {error}");
            let details = info("STORAGE", HashMap::new());
            let text = "the server cannot read its data; its operator has been told";
            Status::with_error_details(Code::Internal, text, details)
        }
    }
}

/// The status that tells the operator why there is no backup.
pub(super) fn backup(error: &BackupError) -> Status {
    tracing::error!("a backup stopped: {error}");
    let details = info("BACKUP_STOPPED", HashMap::new());
    Status::with_error_details(Code::Internal, error.to_string(), details)
}

/// A member of staff calls what their role may not, or their certificate names no role.
pub(super) fn denied(text: &str) -> Status {
    let details = info("ROLE_MISSING", HashMap::new());
    Status::with_error_details(Code::PermissionDenied, text, details)
}

/// Too many licenses were not found of late.
pub(super) fn too_many(TooMany(retry): TooMany) -> Status {
    let mut details = info("TOO_MANY_ATTEMPTS", HashMap::new());
    details.set_retry_info(Some(retry));
    let text = "too many attempts with a key or an address that do not fit; call again later";
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

fn unavailable(reason: &str, text: String, retry: Duration) -> Status {
    let mut details = info(reason, HashMap::new());
    details.set_retry_info(Some(retry));
    Status::with_error_details(Code::Unavailable, text, details)
}

fn info(reason: &str, metadata: HashMap<String, String>) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata)
}

fn code(rejection: &Rejection) -> Code {
    match rejection {
        Rejection::LicenseNotFound
        | Rejection::ActivationNotFound
        | Rejection::SubjectNotFound
        | Rejection::RequestNotFound
        | Rejection::ErasureNotFound
        | Rejection::NoticeNotFound
        | Rejection::RecipientUnknown => Code::NotFound,
        Rejection::SeatsExhausted { .. } => Code::ResourceExhausted,
        Rejection::LicenseSuspended
        | Rejection::LicenseRevoked
        | Rejection::LicenseExpired
        | Rejection::ActivationEnded
        | Rejection::Restricted
        | Rejection::LegalHold
        | Rejection::RequestClosed
        | Rejection::RequestOfOtherKind
        | Rejection::ReceivedInFuture
        | Rejection::IdentityNotVerified
        | Rejection::WrongCode
        | Rejection::ForeignReceipt
        | Rejection::ApprovalMissing
        | Rejection::SecondActorNeeded
        | Rejection::RequestExtendedAlready
        | Rejection::ExtensionTooLate
        | Rejection::NotExported
        | Rejection::NamesOff
        | Rejection::RecipientMayNotHave
        | Rejection::EpochNotMoved
        | Rejection::MasterKeyFixed => Code::FailedPrecondition,
        Rejection::TooLong => Code::InvalidArgument,
        Rejection::NonceReused | Rejection::EmailTaken => Code::AlreadyExists,
    }
}

fn metadata(rejection: &Rejection) -> HashMap<String, String> {
    match rejection {
        Rejection::SeatsExhausted { seats, used } => HashMap::from([
            ("seats".to_owned(), seats.get().to_string()),
            ("used".to_owned(), used.to_string()),
        ]),
        _ => HashMap::new(),
    }
}

/// Reads the fields of a request, and remembers what is wrong with each.
#[derive(Default)]
pub(super) struct Fields(Vec<FieldViolation>);

impl Fields {
    /// The value, if it is one.
    pub(super) fn take<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        value: Result<T, E>,
    ) -> Option<T> {
        value.map_err(|error| self.0.push(FieldViolation::new(field, error.to_string()))).ok()
    }

    /// Whether none is wrong.
    pub(super) fn are_good(&self) -> bool {
        self.0.is_empty()
    }

    /// The refusal that names every field that is wrong.
    pub(super) fn refusal(self) -> Status {
        let named: Vec<String> =
            self.0.iter().map(|wrong| format!("{} {}", wrong.field, wrong.description)).collect();
        let mut details = info("INVALID_FIELD", HashMap::new());
        details.set_bad_request(self.0);
        Status::with_error_details(Code::InvalidArgument, named.join("; "), details)
    }
}
