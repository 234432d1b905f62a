//! What persons ask for about their data: opened, verified, approved, extended, refused, fulfilled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use subtle::ConstantTimeEq as _;

use super::store::StoreError;
use super::writer::Request;
use super::{Service, ServiceError, Staff, reading};
use crate::domain::{
    By, Category, Email, Operation, PrivacyRequest, Purpose, Rejection, RequestId, RequestKind,
    RequestStep, SubjectCommand, SubjectId, Timestamp,
};

/// How long a verification code is good for.
const CODE_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a code may be tried.
const CODE_TRIES: u8 = 5;

/// A request as the privacy officer sees it.
pub struct RequestDetails {
    /// Its id.
    pub id: RequestId,
    /// What it is, and how far it has come.
    pub request: PrivacyRequest,
    /// Whether a second member of staff must approve it.
    pub needs_approval: bool,
}

/// What shows that somebody is the person.
pub enum Proof {
    /// The code that was sent to the stored address.
    Code(String),
    /// A receipt of an activation of theirs.
    Receipt(String),
}

/// The codes that are out. In memory alone: a restart makes them void.
#[derive(Default)]
pub(super) struct Codes(Mutex<HashMap<RequestId, Code>>);

struct Code {
    digits: String,
    until: Timestamp,
    tries_left: u8,
}

impl Codes {
    fn issue(&self, request: RequestId, now: Timestamp) -> String {
        let digits = format!("{:08}", rand::random_range(0..100_000_000u32));
        let code =
            Code { digits: digits.clone(), until: now.plus(CODE_LIFETIME), tries_left: CODE_TRIES };
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|_, code| code.until > now);
        codes.insert(request, code);
        digits
    }

    /// Whether this is the code. It is used up by that, or by too many tries.
    fn redeem(&self, request: RequestId, digits: &str, now: Timestamp) -> bool {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(code) = codes.get_mut(&request) else { return false };
        code.tries_left = code.tries_left.saturating_sub(1);
        let is_right = bool::from(code.digits.as_bytes().ct_eq(digits.as_bytes()));
        let is_good = is_right && code.until > now;
        if is_good || code.tries_left == 0 {
            codes.remove(&request);
        }
        is_good
    }
}

impl Service {
    /// Notes that a person asked for something. Somebody who is not known can ask too, and is answered
    /// that nothing is held.
    pub async fn open_request(
        &self,
        staff: &Staff,
        email: &Email,
        kind: RequestKind,
        received_at: Option<Timestamp>,
    ) -> Result<RequestDetails, ServiceError> {
        let request = RequestId::from_bytes(rand::random());
        let received_at = received_at.unwrap_or_else(|| self.clock.now());
        let by = self.by(staff, request, Operation::OpenRequest);
        let email = email.clone();
        self.ask(Request::Open { email, request, kind, received_at, by }).await?;
        self.request_details(request)
    }

    /// The requests that are open, those that are due first.
    pub async fn open_requests(self: &Arc<Self>) -> Result<Vec<RequestDetails>, ServiceError> {
        let service = Arc::clone(self);
        reading(move || {
            let ids = service.store.views.open_requests()?;
            let requests = ids.into_iter().map(|id| service.request_details(id));
            // Whose person is being erased is none any more.
            let is_gone = |error: &ServiceError| {
                matches!(error, ServiceError::Rejected(Rejection::RequestNotFound))
            };
            let requests = requests.filter(|request| !request.as_ref().err().is_some_and(is_gone));
            let mut requests: Vec<RequestDetails> = requests.collect::<Result<_, _>>()?;
            requests.sort_by_key(|details| details.request.gdpr_due());
            Ok(requests)
        })
        .await
    }

    /// A request, and the address of the person it is from, if they are known and it may be seen.
    pub async fn request(
        &self,
        staff: &Staff,
        id: RequestId,
    ) -> Result<(RequestDetails, Option<Email>), ServiceError> {
        let (subject, shows_email) =
            self.record_for_request(staff, id, Operation::GetRequest).await?;
        let email = if shows_email { self.store.email(subject)? } else { None };
        Ok((self.request_details(id)?, email))
    }

    /// A code to be sent to the stored address, and that address.
    pub async fn issue_code(
        &self,
        staff: &Staff,
        id: RequestId,
    ) -> Result<(String, Email), ServiceError> {
        if self.request_details(id)?.request.progress.is_closed() {
            return Err(Rejection::RequestClosed.into());
        }
        let operation = Operation::IssueVerificationCode;
        self.may_see_all(&self.by(staff, id, operation).access, &[Category::Email])?;
        let (subject, _) = self.record_for_request(staff, id, operation).await?;
        let email = self.store.email(subject)?.ok_or(Rejection::SubjectNotFound)?;
        Ok((self.codes.issue(id, self.clock.now()), email))
    }

    /// Notes that somebody has shown to be the person.
    pub async fn verify_identity(
        &self,
        staff: &Staff,
        id: RequestId,
        proof: Proof,
    ) -> Result<RequestDetails, ServiceError> {
        let request = self.request_details(id)?.request;
        let step = match proof {
            Proof::Code(digits) => {
                if !self.codes.redeem(id, digits.trim(), self.clock.now()) {
                    return Err(Rejection::WrongCode.into());
                }
                RequestStep::VerifiedByCode
            }
            Proof::Receipt(receipt) => {
                let claims = self.receipt_keys.verify(receipt.trim())?;
                let activation = self.store.views.activation(claims.activation)?;
                let license = activation.map(|activation| activation.license);
                let license = license.map(|id| self.store.views.license(id)).transpose()?.flatten();
                if license.is_none_or(|license| license.subject != request.subject) {
                    return Err(Rejection::ForeignReceipt.into());
                }
                RequestStep::VerifiedByReceipt
            }
        };
        self.step(staff, id, step, Operation::VerifyIdentity).await
    }

    /// Takes a step of a request.
    pub async fn step(
        &self,
        staff: &Staff,
        request: RequestId,
        step: RequestStep,
        operation: Operation,
    ) -> Result<RequestDetails, ServiceError> {
        let by = self.by(staff, request, operation);
        let subject = self.request_subject(request)?;
        let step = SubjectCommand::Step { request, step, by };
        self.ask(Request::Subject(subject, step)).await?;
        self.request_details(request)
    }

    /// Who does something about a request, and by what they are told from another.
    pub(super) fn by(&self, staff: &Staff, request: RequestId, operation: Operation) -> By {
        let mut access = self.access(staff, Purpose::AccessRequest, operation);
        access.request = Some(request);
        By { access, tag: self.store.vault.tag_key().actor(&staff.actor, request) }
    }

    /// Records a read, and gives who it is about and whether their address may be seen.
    async fn record_for_request(
        &self,
        staff: &Staff,
        id: RequestId,
        operation: Operation,
    ) -> Result<(SubjectId, bool), ServiceError> {
        let subject = self.request_subject(id)?;
        let access = self.by(staff, id, operation).access;
        let shows_email = self.may_see(&access, Category::Email);
        self.ask(Request::Subject(subject, SubjectCommand::RecordAccess(access))).await?;
        Ok((subject, shows_email))
    }

    pub(super) fn request_subject(&self, id: RequestId) -> Result<SubjectId, ServiceError> {
        let view = self.store.views.request(id)?.ok_or(Rejection::RequestNotFound)?;
        Ok(view.subject)
    }

    pub(super) fn request_details(&self, id: RequestId) -> Result<RequestDetails, ServiceError> {
        let request = match self.store.request(id) {
            // Its person is being erased, and it with them.
            Err(StoreError::Erased(_)) => None,
            request => request?,
        };
        let request = request.ok_or(Rejection::RequestNotFound)?;
        Ok(RequestDetails { id, request, needs_approval: self.needs_approval(request.kind) })
    }

    /// Whether the policy asks for a second member of staff.
    pub(super) fn needs_approval(&self, kind: RequestKind) -> bool {
        let dual_control = self.settings.policy.get().dual_control;
        match kind {
            RequestKind::Access | RequestKind::Portability => dual_control.export,
            RequestKind::Erasure => dual_control.erasure,
            RequestKind::Rectification | RequestKind::Restriction | RequestKind::Objection => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_good_once_and_for_few_tries() {
        let (codes, id, now) = (Codes::default(), RequestId::from_bytes([1; 16]), Timestamp::EPOCH);
        let wrong = |code: &str| if code == "00000000" { "00000001" } else { "00000000" };
        let code = codes.issue(id, now);
        assert_eq!(code.len(), 8);
        assert!(!codes.redeem(RequestId::from_bytes([2; 16]), &code, now));
        for _ in 0..4 {
            assert!(!codes.redeem(id, wrong(&code), now));
        }
        assert!(codes.redeem(id, &code, now));
        assert!(!codes.redeem(id, &code, now));

        let code = codes.issue(id, now);
        for _ in 0..5 {
            assert!(!codes.redeem(id, wrong(&code), now));
        }
        assert!(!codes.redeem(id, &code, now));

        let code = codes.issue(id, now);
        assert!(!codes.redeem(id, &code, now.plus(CODE_LIFETIME)));
    }
}
