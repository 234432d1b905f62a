//! `PrivacyService`, on the staff listener.

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::authorise::staff;
use super::convert::purpose;
use super::status::{Fields, status};
use crate::domain::Email;
use crate::proto::v1::privacy_service_server::PrivacyService;
use crate::proto::v1::{ExportSubjectRequest, ExportSubjectResponse};
use crate::service::Service;

/// The size of a piece of an export.
const CHUNK_BYTES: usize = 32 * 1024;

/// What support staff with the privacy duty call.
pub(super) struct PrivacyHandler(pub Arc<Service>);

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
        let (Some(email), Some(purpose)) = (
            fields.take("email", Email::parse(&request.email)),
            fields.take("purpose", purpose(request.purpose)),
        ) else {
            return Err(fields.refusal());
        };
        let document = self.0.export(&staff, &email, purpose).await.map_err(|e| status(&e))?;
        let chunks: Vec<_> = document
            .chunks(CHUNK_BYTES)
            .map(|chunk| Ok(ExportSubjectResponse { chunk: chunk.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}
