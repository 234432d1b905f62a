//! Readiness that tells the truth (`grpc.health.v1`): a listener is `SERVING` while the writer takes
//! writes, and `NOT_SERVING` from the moment it stops or the server begins to end.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::service::Service;

/// The health of a whole listener, as the specification names it.
const WHOLE: &str = "";

/// The health of the services of one listener.
pub(super) struct Health {
    reporter: HealthReporter,
    services: &'static [&'static str],
}

impl Health {
    /// All of them serve.
    pub(super) async fn serving(
        reporter: HealthReporter,
        services: &'static [&'static str],
    ) -> Self {
        let health = Self { reporter, services };
        health.set(ServingStatus::Serving).await;
        health
    }

    async fn set(&self, status: ServingStatus) {
        for service in self.services.iter().chain(&[WHOLE]) {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Waits for `shutdown`, and lets go of those who watch: they are told, and their calls end, which
    /// would not end by themselves. A writer that stops is told of at once.
    pub(super) async fn until(mut self, service: Arc<Service>, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        tokio::select! {
            () = &mut shutdown => self.set(ServingStatus::NotServing).await,
            () = service.writer_stopped() => {
                self.set(ServingStatus::NotServing).await;
                shutdown.await;
            }
        }
        for service in self.services.iter().chain(&[WHOLE]) {
            self.reporter.clear_service_status(service).await;
        }
    }
}
