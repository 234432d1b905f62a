//! `ready`: what a supervisor asks, as it asks any gRPC server (`grpc.health.v1`).

use std::path::PathBuf;

use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::Connect;
use super::directory::Directory;
use super::output::print;

/// Say whether the server takes writes: exit code 0, or 4
#[derive(Debug, clap::Args)]
pub(super) struct Ready {
    /// The server, https://host:port [default: the one that serves --dir]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The CA of the server's certificate, PEM [default: tls/server-ca.pem in --dir]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Ready {
    /// Asks the public listener.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let channel = Connect::to_public(self.endpoint, self.ca).public(directory).await?;
        let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
        if answer.into_inner().status() != ServingStatus::Serving {
            return Err(Status::unavailable("the server takes no writes").into());
        }
        print(as_json, &serde_json::json!({ "ready": true }), || "ready".to_owned());
        Ok(())
    }
}
