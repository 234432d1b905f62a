//! `TransparencyService`: on the staff listener, and on the public one where the vendor wants it.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::status::status;
use crate::domain::Position;
use crate::proto::v1::transparency_service_server::TransparencyService;
use crate::proto::v1::{
    GetCheckpointRequest, GetCheckpointResponse, GetConsistencyProofRequest,
    GetConsistencyProofResponse, GetInclusionProofRequest, GetInclusionProofResponse,
};
use crate::service::Service;

/// What witnesses and owners of receipts call.
pub(super) struct TransparencyHandler(pub Arc<Service>);

#[tonic::async_trait]
impl TransparencyService for TransparencyHandler {
    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        let published = self.0.checkpoint(request.into_inner().fresh).await;
        let checkpoint = published.map_err(|error| status(&error))?.note.clone();
        Ok(Response::new(GetCheckpointResponse { checkpoint }))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<GetInclusionProofRequest>,
    ) -> Result<Response<GetInclusionProofResponse>, Status> {
        let GetInclusionProofRequest { receipt, log_index } = request.into_inner();
        let proof = self.0.prove(&receipt, log_index.map(Position)).await;
        let proof = proof.map_err(|error| status(&error))?.to_string();
        Ok(Response::new(GetInclusionProofResponse { proof }))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<GetConsistencyProofRequest>,
    ) -> Result<Response<GetConsistencyProofResponse>, Status> {
        let proof = self.0.consistency(Position(request.into_inner().size)).await;
        let proof = proof.map_err(|error| status(&error))?;
        Ok(Response::new(GetConsistencyProofResponse {
            checkpoint: proof.published.note.clone(),
            hashes: proof.hashes.iter().map(|hash| hash.to_vec()).collect(),
        }))
    }
}
