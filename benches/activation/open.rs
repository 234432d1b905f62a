//! An open loop: calls begin when they are due, whether or not earlier ones are answered, as they do where
//! the callers are many. A call's latency counts from when it was due (no coordinated omission).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Certificate, Channel};

use crate::load::{endpoint, request};
use crate::support::servers::{License, Server};
use crate::support::{micros, nanos, new_histogram};

/// Enough that a stream is free for each call that the server keeps.
const CONNECTIONS: usize = 64;
/// How often it is looked which calls are due.
const TICK: Duration = Duration::from_millis(1);

/// What became of the calls.
pub(crate) struct Outcome {
    /// Calls due in a second.
    rate: f64,
    elapsed: Duration,
    accepted: Histogram<u64>,
    /// Told to come again.
    refused: Histogram<u64>,
}

impl Outcome {
    /// Calls that were carried out.
    pub(crate) fn calls(&self) -> u64 {
        self.accepted.len()
    }

    #[allow(clippy::cast_precision_loss)] // far below 2^52
    pub(crate) fn accepted_per_second(&self) -> f64 {
        self.accepted.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds, of the accepted and the refused.
    pub(crate) fn p99(&self) -> [f64; 2] {
        [&self.accepted, &self.refused].map(|of| micros(of.value_at_quantile(0.99)))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [accepted, refused] = self.p99();
        write!(
            f,
            "{:>7.0}/s due: {:>6.0}/s carried out, p50 {:>7.0} µs, p99 {accepted:>8.0} µs; {} refused, p99 \
             {refused:.0} µs",
            self.rate,
            self.accepted_per_second(),
            micros(self.accepted.value_at_quantile(0.5)),
            self.refused.len(),
        )
    }
}

/// Loads a server at a rate for a while, and waits for every answer.
pub(crate) async fn run(
    server: &Server,
    ca: &Certificate,
    licenses: &[License],
    rate: f64,
    length: Duration,
) -> Outcome {
    let licenses: Arc<[License]> = licenses.into();
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(endpoint(&server.address, ca).connect().await.unwrap());
    }
    let mut calls = JoinSet::new();
    let start = Instant::now();
    let mut channel = channels.iter().cycle();
    let mut begun = 0;
    while start.elapsed() < length {
        let due = |number: u32| Duration::from_secs_f64(f64::from(number) / rate);
        while due(begun) <= start.elapsed() && due(begun) < length {
            let channel = channel.next().unwrap().clone();
            calls.spawn(call(channel, Arc::clone(&licenses), start + due(begun)));
            begun += 1;
        }
        tokio::time::sleep(TICK).await;
    }
    let (mut accepted, mut refused) = (new_histogram(), new_histogram());
    while let Some(call) = calls.join_next().await {
        let (is_accepted, latency) = call.unwrap();
        let of = if is_accepted { &mut accepted } else { &mut refused };
        of.saturating_record(nanos(latency));
    }
    Outcome { rate, elapsed: start.elapsed(), accepted, refused }
}

/// Whether it was carried out, and how long after it was due it was answered.
async fn call(channel: Channel, licenses: Arc<[License]>, due: Instant) -> (bool, Duration) {
    let answer = ActivationServiceClient::new(channel).activate(request(&licenses)).await;
    if let Err(status) = &answer {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    (answer.is_ok(), due.elapsed())
}
