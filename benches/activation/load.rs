//! The load: workers that each call again as soon as they are answered, for a while. Every call must
//! succeed.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::proto::v1::{ActivateRequest, GetHistoryRequest, Purpose, get_history_request};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::support::servers::{License, Server};
use crate::support::{nanos, new_histogram};

#[derive(Clone, Copy)]
pub(crate) enum Scenario {
    /// Connections that stay open.
    Warm { connections: usize, in_flight: usize },
    /// A full handshake for each call.
    NewConnections { workers: usize },
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Warm { connections, in_flight } => {
                write!(f, "warm, {connections} x {in_flight} in flight")
            }
            Self::NewConnections { workers } => {
                write!(f, "new connection each, {workers} at once")
            }
        }
    }
}

/// What was measured in one round.
pub(crate) struct Measured {
    pub(crate) calls: u64,
    elapsed: Duration,
    /// Nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Of the server, and of this process.
    cpu: [Duration; 2],
}

impl Measured {
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    pub(crate) fn calls_per_second(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of processor time that a call takes of the server, and of the client.
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    pub(crate) fn cpu_per_call(&self) -> [f64; 2] {
        self.cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / self.calls as f64)
    }
}

/// Loads a server for a while.
pub(crate) async fn run(
    scenario: Scenario,
    server: &Server,
    ca: &Certificate,
    licenses: &[License],
    length: Duration,
) -> Measured {
    let licenses: Arc<[License]> = licenses.into();
    let (address, ca) = (server.address.clone(), ca.clone());
    let endpoint = move || self::endpoint(&address, &ca);
    let mut workers = JoinSet::new();
    let channels = match scenario {
        Scenario::Warm { connections, .. } => {
            let mut channels = Vec::new();
            for _ in 0..connections {
                channels.push(endpoint().connect().await.unwrap());
            }
            channels
        }
        Scenario::NewConnections { .. } => Vec::new(),
    };
    let (start, cpu) = (Instant::now(), cpu_from_now(server));
    let end = start + length;
    match scenario {
        Scenario::Warm { in_flight, .. } => {
            for channel in channels {
                for _ in 0..in_flight {
                    let (channel, licenses) = (channel.clone(), Arc::clone(&licenses));
                    let connect = move || std::future::ready(channel.clone());
                    workers.spawn(worker(connect, licenses, end));
                }
            }
        }
        Scenario::NewConnections { workers: count } => {
            for _ in 0..count {
                let endpoint = endpoint.clone();
                let connect = move || {
                    let endpoint = endpoint();
                    async move { endpoint.connect().await.unwrap() }
                };
                workers.spawn(worker(connect, Arc::clone(&licenses), end));
            }
        }
    }
    let mut latency = new_histogram();
    while let Some(worker) = workers.join_next().await {
        latency.add(worker.unwrap()).unwrap();
    }
    Measured { calls: latency.len(), elapsed: start.elapsed(), latency, cpu: cpu() }
}

/// Waits until a server has nothing to do any more: what it puts off is not to be at the next one's cost.
pub(crate) async fn settled(server: &Server) {
    const TICKS: Duration = Duration::from_millis(50);
    loop {
        let before = cpu_time(server.pid);
        tokio::time::sleep(TICKS).await;
        if cpu_time(server.pid) == before {
            return;
        }
    }
}

/// A fresh TLS configuration remembers no session, so that each handshake is a full one.
pub(crate) fn endpoint(address: &str, ca: &Certificate) -> Endpoint {
    let tls = ClientTlsConfig::new().ca_certificate(ca.clone());
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap()
}

/// A new activation of any of the licenses.
pub(crate) fn request(licenses: &[License]) -> ActivateRequest {
    let License { email, key } = &licenses[rand::random_range(0..licenses.len())];
    ActivateRequest {
        email: email.clone(),
        license_key: key.clone(),
        nonce: rand::random::<[u8; 16]>().to_vec(),
        binding: rand::random::<[u8; 32]>().to_vec(),
    }
}

/// A look at the history of a license's person.
pub(crate) fn look(License { email, .. }: &License) -> GetHistoryRequest {
    GetHistoryRequest {
        person: Some(get_history_request::Person::Email(email.clone())),
        purpose: Purpose::CustomerSupport.into(),
    }
}

async fn worker<C: Future<Output = Channel>>(
    connect: impl Fn() -> C,
    licenses: Arc<[License]>,
    end: Instant,
) -> Histogram<u64> {
    let mut latency = new_histogram();
    while Instant::now() < end {
        let request = request(&licenses);
        let begun = Instant::now();
        let answer = ActivationServiceClient::new(connect().await).activate(request).await;
        latency.saturating_record(nanos(begun.elapsed()));
        assert!(answer.unwrap().into_inner().receipt.len() > 600);
    }
    latency
}

/// The processor time that a server and this process use from now on.
pub(crate) fn cpu_from_now(server: &Server) -> impl Fn() -> [Duration; 2] + use<> {
    let processes = [server.pid, std::process::id()];
    let before = processes.map(cpu_time);
    move || [0, 1].map(|i| cpu_time(processes[i]).saturating_sub(before[i]))
}

/// The processor time that a process has used, in user and kernel mode (`proc_pid_stat(5)`,
/// fields 14 and 15, in ticks of a hundredth of a second); zero where there is no `/proc`.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    Duration::from_millis(ticks.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
}
