//! An open loop: calls begin when they are due, whether or not earlier ones are answered, as they do where
//! the callers are many. A call's latency counts from when it was due (no coordinated omission).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::load::{cpu_from_now, endpoint, request};
use crate::support::servers::{Countersign, License};
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
    /// What the server's own clock says of them.
    in_server: [Within; 2],
    /// Processor time, of the server and of this process.
    cpu: [Duration; 2],
}

/// The calls of one kind, by how long the server had them.
struct Within(Vec<(f64, u64)>);

impl Within {
    /// Of activations that ended so, as its metrics tell: how many took no longer than so many seconds.
    fn read(metrics: &str, code: &str) -> Self {
        let code = format!("code=\"{code}\"");
        let counts = metrics.lines().filter_map(|line| {
            let bucket = line.strip_prefix("countersign_call_seconds_bucket{")?;
            let (labels, count) = bucket.split_once("} ")?;
            let is_meant = labels.contains("ActivationService/Activate") && labels.contains(&code);
            let (_, bound) = labels.split_once("le=\"").filter(|_| is_meant)?;
            Some((bound.split('"').next()?.parse().ok()?, count.trim().parse().ok()?))
        });
        Self(counts.collect())
    }

    /// Those after an earlier reading, which has the same bounds, or nothing.
    fn since(mut self, before: &Self) -> Self {
        for ((_, count), (_, earlier)) in self.0.iter_mut().zip(&before.0) {
            *count -= earlier;
        }
        self
    }

    /// Milliseconds in which 99 of 100 were answered, as finely as the server counts; none, where there are
    /// none.
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    fn p99_ms(&self) -> Option<f64> {
        let all = self.0.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
        let bound = self.0.iter().find(|(_, count)| *count as f64 >= 0.99 * all as f64)?.0;
        Some(bound * 1e3)
    }
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

    /// All of it but what the reader knows.
    pub(crate) fn to_json(&self) -> Value {
        let [accepted, refused] = [&self.accepted, &self.refused]
            .map(|of| [0.5, 0.99].map(|quantile| micros(of.value_at_quantile(quantile))));
        let [accepted_in_server, refused_in_server] = self.in_server.each_ref().map(Within::p99_ms);
        let [server, client] = self.cpu.map(|cpu| cpu.as_secs_f64());
        json!({
            "due_per_second": self.rate, "accepted_per_second": self.accepted_per_second(),
            "refused": self.refused.len(), "accepted_p50_p99_us": accepted, "refused_p50_p99_us": refused,
            "accepted_p99_in_server_ms": accepted_in_server, "refused_p99_in_server_ms": refused_in_server,
            "seconds": self.elapsed.as_secs_f64(), "server_cpu_seconds": server, "client_cpu_seconds": client,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>7.0}/s due: {:>6.0}/s carried out, {} refused",
            self.rate,
            self.accepted_per_second(),
            self.refused.len(),
        )?;
        let [server, client] = self.cpu.map(|cpu| cpu.as_secs_f64());
        write!(
            f,
            "\n  in {:.1} s; processor time: server {server:.1} s, client {client:.1} s",
            self.elapsed.as_secs_f64()
        )?;
        for ((name, of), within) in [("carried out", &self.accepted), ("refused", &self.refused)]
            .into_iter()
            .zip(&self.in_server)
        {
            let Some(in_server) = within.p99_ms() else { continue };
            let [p50, p99] = [0.5, 0.99].map(|quantile| micros(of.value_at_quantile(quantile)));
            write!(
                f,
                "\n  {name}: since it was due p50 {p50:.0} µs, p99 {p99:.0} µs; in the server p99 within \
                 {in_server} ms"
            )?;
        }
        Ok(())
    }
}

/// Loads a server at a rate for a while, and waits for every answer.
pub(crate) async fn run(
    server: &Countersign,
    licenses: &[License],
    rate: f64,
    length: Duration,
) -> Outcome {
    let licenses: Arc<[License]> = licenses.into();
    let (address, ca) = (&server.server.address, server.ca());
    let in_server = || {
        let metrics = server.metrics();
        ["OK", "UNAVAILABLE"].map(|code| Within::read(&metrics, code))
    };
    let before = in_server();
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(endpoint(address, &ca).connect().await.unwrap());
    }
    let mut calls = JoinSet::new();
    let (start, cpu) = (Instant::now(), cpu_from_now(&server.server));
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
    let (elapsed, cpu) = (start.elapsed(), cpu());
    let [of_accepted, of_refused] = &before;
    let [accepted_after, refused_after] = in_server();
    let in_server = [accepted_after.since(of_accepted), refused_after.since(of_refused)];
    Outcome { rate, elapsed, accepted, refused, in_server, cpu }
}

/// Whether it was carried out, and how long after it was due it was answered.
async fn call(channel: Channel, licenses: Arc<[License]>, due: Instant) -> (bool, Duration) {
    let answer = ActivationServiceClient::new(channel).activate(request(&licenses)).await;
    if let Err(status) = &answer {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    (answer.is_ok(), due.elapsed())
}
