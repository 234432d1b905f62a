//! `HistoryService`, on the staff listener.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::authorise::staff;
use super::convert::{FieldError, activation, license, purpose};
use super::status::{Fields, status};
use crate::domain::{Email, LicenseKey};
use crate::proto::v1::get_history_request::Person as WirePerson;
use crate::proto::v1::history_service_server::HistoryService;
use crate::proto::v1::{
    GetHistoryRequest, GetHistoryResponse, LicenseHistory, ListActivationsRequest,
    ListActivationsResponse,
};
use crate::service::Service;
use crate::service::history::{Activations, Person};

/// Activations a message, where the request names no number.
const PAGE: u32 = 100;
/// Activations a message, at most.
const PAGE_MAX: u32 = 1000;

/// What support staff call.
pub(super) struct HistoryHandler(pub Arc<Service>);

#[tonic::async_trait]
impl HistoryService for HistoryHandler {
    type ListActivationsStream =
        Pin<Box<dyn Stream<Item = Result<ListActivationsResponse, Status>> + Send>>;

    async fn get_history(
        &self,
        request: Request<GetHistoryRequest>,
    ) -> Result<Response<GetHistoryResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let person = match &request.person {
            Some(WirePerson::Email(email)) => {
                fields.take("email", Email::parse(email)).map(Person::Email)
            }
            Some(WirePerson::LicenseKey(key)) => {
                fields.take("license_key", LicenseKey::parse(key)).map(Person::LicenseKey)
            }
            None => fields.take("person", Err(FieldError::Missing)),
        };
        let purpose = fields.take("purpose", purpose(request.purpose));
        let (Some(person), Some(purpose)) = (person, purpose) else {
            return Err(fields.refusal());
        };
        let history = self.0.history(&staff, person, purpose).await.map_err(|e| status(&e))?;
        let licenses = history.licenses.iter().map(|of| LicenseHistory {
            license: Some(license(&of.license)),
            activations: of.activations.iter().map(activation).collect(),
            activations_total: of.activations_total,
        });
        Ok(Response::new(GetHistoryResponse {
            email: history.email.map(|email| email.expose().to_owned()).unwrap_or_default(),
            licenses: licenses.collect(),
            licenses_total: history.licenses_total,
        }))
    }

    async fn list_activations(
        &self,
        request: Request<ListActivationsRequest>,
    ) -> Result<Response<Self::ListActivationsStream>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let page = match request.page_size {
            0 => Ok(PAGE),
            size if size <= PAGE_MAX => Ok(size),
            _ => Err(FieldError::TooMany(PAGE_MAX)),
        };
        let (Some(key), Some(purpose), Some(page)) = (
            fields.take("license_key", LicenseKey::parse(&request.license_key)),
            fields.take("purpose", purpose(request.purpose)),
            fields.take("page_size", page),
        ) else {
            return Err(fields.refusal());
        };
        let activations = self.0.activations(&staff, &key, purpose, page as usize).await;
        let activations = activations.map_err(|error| status(&error))?;
        // One page ahead: a slow reader holds one page in memory, whatever the license.
        let (pages, stream) = mpsc::channel(1);
        tokio::spawn(send(activations, pages));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream).fuse())))
    }
}

async fn send(
    mut activations: Activations,
    pages: mpsc::Sender<Result<ListActivationsResponse, Status>>,
) {
    loop {
        let message = match activations.next_page().await {
            Ok((_, page)) if page.is_empty() => return,
            Ok((rest, page)) => {
                activations = rest;
                let activations = page.iter().map(activation).collect();
                pages.send(Ok(ListActivationsResponse { activations })).await
            }
            Err(error) => {
                // The client may be gone.
                let _ = pages.send(Err(status(&error))).await;
                return;
            }
        };
        if message.is_err() {
            return;
        }
    }
}
