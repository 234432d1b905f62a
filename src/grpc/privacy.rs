//! `PrivacyService`, on the staff listener.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::authorise::staff;
use super::convert::{
    FieldError, bytes, categories, counts, erasure, notice, purpose, request as to_wire,
    request_kind, restriction_kind, time,
};
use super::status::{Fields, status};
use crate::domain::{Email, Note, Operation, PersonName, RequestId, RequestStep};
use crate::proto::v1::export_subject_request::Person;
use crate::proto::v1::privacy_service_server::PrivacyService;
use crate::proto::v1::verify_identity_request::Proof as WireProof;
use crate::proto::v1::{
    ApproveRequestRequest, ApproveRequestResponse, EraseSubjectRequest, EraseSubjectResponse,
    ExportSubjectRequest, ExportSubjectResponse, ExtendRequestRequest, ExtendRequestResponse,
    FulfilRequestRequest, FulfilRequestResponse, GetErasureRequest, GetErasureResponse,
    GetRequestRequest, GetRequestResponse, IssueVerificationCodeRequest,
    IssueVerificationCodeResponse, ListErasuresRequest, ListErasuresResponse, ListNoticesRequest,
    ListNoticesResponse, ListRequestsRequest, ListRequestsResponse, OpenRequestRequest,
    OpenRequestResponse, RecordDisclosureRequest, RecordDisclosureResponse, RectifySubjectRequest,
    RectifySubjectResponse, RefuseRequestRequest, RefuseRequestResponse, SetRestrictionRequest,
    SetRestrictionResponse, SettleNoticeRequest, SettleNoticeResponse, SweepRetentionRequest,
    SweepRetentionResponse, VerifyIdentityRequest, VerifyIdentityResponse,
};
use crate::service::Service;
use crate::service::privacy::Subject;
use crate::service::requests::Proof;
use crate::service::sweep::{Share, Swept};

/// What support staff with the privacy duty call.
pub(super) struct PrivacyHandler {
    pub(super) service: Arc<Service>,
    /// For how long a call sweeps, which must be answered in time.
    pub(super) sweep: Duration,
}

/// An id that is a request's only field.
fn id<'a, T>(field: &str, value: &'a [u8]) -> Result<T, Status>
where
    T: TryFrom<&'a [u8], Error = crate::domain::WrongLength>,
{
    let mut fields = Fields::default();
    let id = fields.take(field, bytes(value));
    id.ok_or_else(|| fields.refusal())
}

fn request_id(value: &[u8]) -> Result<RequestId, Status> {
    id("request_id", value)
}

#[tonic::async_trait]
impl PrivacyService for PrivacyHandler {
    type ExportSubjectStream =
        Pin<Box<dyn Stream<Item = Result<ExportSubjectResponse, Status>> + Send>>;

    async fn export_subject(
        &self,
        request: Request<ExportSubjectRequest>,
    ) -> Result<Response<Self::ExportSubjectStream>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let whose = match &request.person {
            Some(Person::Email(email)) => {
                let email = fields.take("email", Email::parse(email));
                let purpose = fields.take("purpose", purpose(request.purpose));
                email.zip(purpose).map(|(email, purpose)| Subject::Email(email, purpose))
            }
            Some(Person::RequestId(id)) => {
                fields.take("request_id", bytes(id)).map(Subject::Request)
            }
            None => fields.take("person", Err(FieldError::Missing)),
        };
        let Some(whose) = whose else { return Err(fields.refusal()) };
        let pieces = self.service.export(&staff, whose).await.map_err(|e| status(&e))?;
        let chunks = ReceiverStream::new(pieces).map(|piece| match piece {
            Ok(chunk) => Ok(ExportSubjectResponse { chunk }),
            Err(error) => Err(status(&error)),
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn open_request(
        &self,
        request: Request<OpenRequestRequest>,
    ) -> Result<Response<OpenRequestResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let (Some(email), Some(kind), Some(received_at)) = (
            fields.take("email", Email::parse(&request.email)),
            fields.take("kind", request_kind(request.kind)),
            fields.take("received_at", time(request.received_at)),
        ) else {
            return Err(fields.refusal());
        };
        let opened = self.service.open_request(&staff, &email, kind, received_at).await;
        let request = Some(to_wire(&opened.map_err(|e| status(&e))?));
        Ok(Response::new(OpenRequestResponse { request }))
    }

    async fn list_requests(
        &self,
        _: Request<ListRequestsRequest>,
    ) -> Result<Response<ListRequestsResponse>, Status> {
        let requests = self.service.open_requests().await.map_err(|e| status(&e))?;
        let requests = requests.iter().map(to_wire).collect();
        Ok(Response::new(ListRequestsResponse { requests }))
    }

    async fn get_request(
        &self,
        request: Request<GetRequestRequest>,
    ) -> Result<Response<GetRequestResponse>, Status> {
        let staff = staff(&request)?;
        let id = request_id(&request.into_inner().request_id)?;
        let (details, email) = self.service.request(&staff, id).await.map_err(|e| status(&e))?;
        let email = email.map(|email| email.expose().to_owned()).unwrap_or_default();
        Ok(Response::new(GetRequestResponse { request: Some(to_wire(&details)), email }))
    }

    async fn issue_verification_code(
        &self,
        request: Request<IssueVerificationCodeRequest>,
    ) -> Result<Response<IssueVerificationCodeResponse>, Status> {
        let staff = staff(&request)?;
        let id = request_id(&request.into_inner().request_id)?;
        let (code, email) = self.service.issue_code(&staff, id).await.map_err(|e| status(&e))?;
        let email = email.expose().to_owned();
        Ok(Response::new(IssueVerificationCodeResponse { code, email }))
    }

    async fn verify_identity(
        &self,
        request: Request<VerifyIdentityRequest>,
    ) -> Result<Response<VerifyIdentityResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let proof = match request.proof {
            Some(WireProof::Code(code)) => Some(Proof::Code(code)),
            Some(WireProof::Receipt(receipt)) => Some(Proof::Receipt(receipt)),
            None => fields.take("proof", Err(FieldError::Missing)),
        };
        let id = fields.take("request_id", bytes(&request.request_id));
        let (Some(id), Some(proof)) = (id, proof) else { return Err(fields.refusal()) };
        let details =
            self.service.verify_identity(&staff, id, proof).await.map_err(|e| status(&e))?;
        Ok(Response::new(VerifyIdentityResponse { request: Some(to_wire(&details)) }))
    }

    async fn approve_request(
        &self,
        request: Request<ApproveRequestRequest>,
    ) -> Result<Response<ApproveRequestResponse>, Status> {
        let staff = staff(&request)?;
        let id = request_id(&request.into_inner().request_id)?;
        let operation = Operation::ApproveRequest;
        let details = self.service.step(&staff, id, RequestStep::Approved, operation).await;
        let request = Some(to_wire(&details.map_err(|e| status(&e))?));
        Ok(Response::new(ApproveRequestResponse { request }))
    }

    async fn extend_request(
        &self,
        request: Request<ExtendRequestRequest>,
    ) -> Result<Response<ExtendRequestResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let (Some(id), Some(reason)) = (
            fields.take("request_id", bytes(&request.request_id)),
            fields.take("reason", Note::parse(&request.reason)),
        ) else {
            return Err(fields.refusal());
        };
        let step = RequestStep::Extended { reason };
        let details = self.service.step(&staff, id, step, Operation::ExtendRequest).await;
        let request = Some(to_wire(&details.map_err(|e| status(&e))?));
        Ok(Response::new(ExtendRequestResponse { request }))
    }

    async fn refuse_request(
        &self,
        request: Request<RefuseRequestRequest>,
    ) -> Result<Response<RefuseRequestResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let (Some(id), Some(reason), Some(evidence)) = (
            fields.take("request_id", bytes(&request.request_id)),
            fields.take("reason", Note::parse(&request.reason)),
            fields.take("evidence", Note::parse(&request.evidence)),
        ) else {
            return Err(fields.refusal());
        };
        let step = RequestStep::Refused { reason, evidence };
        let details = self.service.step(&staff, id, step, Operation::RefuseRequest).await;
        let request = Some(to_wire(&details.map_err(|e| status(&e))?));
        Ok(Response::new(RefuseRequestResponse { request }))
    }

    async fn fulfil_request(
        &self,
        request: Request<FulfilRequestRequest>,
    ) -> Result<Response<FulfilRequestResponse>, Status> {
        let staff = staff(&request)?;
        let id = request_id(&request.into_inner().request_id)?;
        let operation = Operation::FulfilRequest;
        let details = self.service.step(&staff, id, RequestStep::Fulfilled, operation).await;
        let request = Some(to_wire(&details.map_err(|e| status(&e))?));
        Ok(Response::new(FulfilRequestResponse { request }))
    }

    async fn rectify_subject(
        &self,
        request: Request<RectifySubjectRequest>,
    ) -> Result<Response<RectifySubjectResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let (email, name) = match (request.email.as_str(), request.name.as_str()) {
            ("", "") => {
                fields.take::<(), _>("email", Err(FieldError::Missing));
                (None, None)
            }
            (email, name) => (
                (!email.is_empty()).then(|| fields.take("email", Email::parse(email))),
                (!name.is_empty()).then(|| fields.take("name", PersonName::parse(name))),
            ),
        };
        let id = fields.take("request_id", bytes(&request.request_id));
        if !fields.are_good() {
            return Err(fields.refusal());
        }
        let Some(id) = id else { return Err(fields.refusal()) };
        let details = self.service.rectify(&staff, id, email.flatten(), name.flatten()).await;
        let request = Some(to_wire(&details.map_err(|e| status(&e))?));
        Ok(Response::new(RectifySubjectResponse { request }))
    }

    async fn erase_subject(
        &self,
        request: Request<EraseSubjectRequest>,
    ) -> Result<Response<EraseSubjectResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let id = request_id(&request.request_id)?;
        let erased = self.service.erase(&staff, id, request.keep_licenses, request.wait).await;
        let erasure = Some(erasure(&erased.map_err(|e| status(&e))?));
        Ok(Response::new(EraseSubjectResponse { erasure }))
    }

    async fn get_erasure(
        &self,
        request: Request<GetErasureRequest>,
    ) -> Result<Response<GetErasureResponse>, Status> {
        let id = id("erasure_id", &request.get_ref().erasure_id)?;
        let erasure = Some(erasure(&self.service.erasure(id).map_err(|e| status(&e))?));
        Ok(Response::new(GetErasureResponse { erasure }))
    }

    async fn list_erasures(
        &self,
        _: Request<ListErasuresRequest>,
    ) -> Result<Response<ListErasuresResponse>, Status> {
        let (erasures, total) = self.service.erasures().await.map_err(|e| status(&e))?;
        let erasures = erasures.iter().map(erasure).collect();
        Ok(Response::new(ListErasuresResponse { erasures, total }))
    }

    async fn set_restriction(
        &self,
        request: Request<SetRestrictionRequest>,
    ) -> Result<Response<SetRestrictionResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let (Some(email), Some(kind)) = (
            fields.take("email", Email::parse(&request.email)),
            fields.take("kind", restriction_kind(request.kind)),
        ) else {
            return Err(fields.refusal());
        };
        let set = self.service.restrict(&staff, &email, kind, request.holds).await;
        set.map_err(|e| status(&e))?;
        Ok(Response::new(SetRestrictionResponse {}))
    }

    async fn sweep_retention(
        &self,
        request: Request<SweepRetentionRequest>,
    ) -> Result<Response<SweepRetentionResponse>, Status> {
        let SweepRetentionRequest { dry_run, share } = request.into_inner();
        let mut fields = Fields::default();
        let share = u16::try_from(share).map_err(|_| FieldError::TooMany(u16::MAX.into()));
        let Some(share) = fields.take("share", share) else { return Err(fields.refusal()) };
        let swept = self.service.sweep(dry_run, Share(share), Instant::now() + self.sweep).await;
        let Swept { subjects, records, next } = swept.map_err(|e| status(&e))?;
        let (records, next_share) = (counts(&records), next.map_or(0, |share| share.0.into()));
        Ok(Response::new(SweepRetentionResponse { subjects, records, next_share }))
    }

    async fn record_disclosure(
        &self,
        request: Request<RecordDisclosureRequest>,
    ) -> Result<Response<RecordDisclosureResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let (Some(email), Some(categories), Some(at)) = (
            fields.take("email", Email::parse(&request.email)),
            fields.take("categories", categories(&request.categories)),
            fields.take("at", time(request.at)),
        ) else {
            return Err(fields.refusal());
        };
        let recorded = self
            .service
            .record_disclosure(&staff, &email, &request.recipient, categories, at)
            .await;
        recorded.map_err(|e| status(&e))?;
        Ok(Response::new(RecordDisclosureResponse {}))
    }

    async fn list_notices(
        &self,
        request: Request<ListNoticesRequest>,
    ) -> Result<Response<ListNoticesResponse>, Status> {
        let notices = self.service.notices(&staff(&request)?).await.map_err(|e| status(&e))?;
        Ok(Response::new(ListNoticesResponse { notices: notices.iter().map(notice).collect() }))
    }

    async fn settle_notice(
        &self,
        request: Request<SettleNoticeRequest>,
    ) -> Result<Response<SettleNoticeResponse>, Status> {
        let staff = staff(&request)?;
        let id = id("notice_id", &request.into_inner().notice_id)?;
        self.service.settle_by_hand(&staff, id).await.map_err(|e| status(&e))?;
        Ok(Response::new(SettleNoticeResponse {}))
    }
}
