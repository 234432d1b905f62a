//! `StatisticsService`, on the staff listener.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{day, day_statistics};
use super::status::{Fields, status};
use crate::domain::Day;
use crate::proto::v1::statistics_service_server::StatisticsService;
use crate::proto::v1::{GetStatisticsRequest, GetStatisticsResponse};
use crate::service::Service;

/// What analytics call.
pub(super) struct StatisticsHandler(pub Arc<Service>);

#[tonic::async_trait]
impl StatisticsService for StatisticsHandler {
    async fn get_statistics(
        &self,
        request: Request<GetStatisticsRequest>,
    ) -> Result<Response<GetStatisticsResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let (Some(from), Some(to)) = (
            fields.take("from", day(&request.from, Day(i32::MIN))),
            fields.take("to", day(&request.to, Day(i32::MAX))),
        ) else {
            return Err(fields.refusal());
        };
        let counts = self.0.statistics(from..=to).await.map_err(|e| status(&e))?;
        let (days, smallest_group) =
            (counts.iter().map(day_statistics).collect(), self.0.smallest_group());
        Ok(Response::new(GetStatisticsResponse { days, smallest_group }))
    }
}
