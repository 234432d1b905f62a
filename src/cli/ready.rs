//! `ready`: what a supervisor asks, as it asks any gRPC server (`grpc.health.v1`).

use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::Server;
use super::directory::Directory;
use super::output::print;

/// Say whether the server takes writes: exit code 0, or 4
#[derive(Debug, clap::Args)]
pub(super) struct Ready {
    #[command(flatten)]
    server: Server,
}

impl Ready {
    /// Asks the public listener.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let channel = self.server.public(directory).await?;
        let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
        if answer.into_inner().status() != ServingStatus::Serving {
            return Err(Status::unavailable("the server takes no writes").into());
        }
        print(as_json, &serde_json::json!({ "ready": true }), || "ready".to_owned())?;
        Ok(())
    }
}
