//! What the server counts about itself, for Prometheus, as `OpenMetrics` text.
//!
//! Nothing here is about a person: label values come from fixed sets, and there is none of a customer, a
//! product, a member of staff or an address. `docs/operating.md` says what each metric means and when
//! to act on it.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// What the text is, for `Content-Type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds, from an answer out of memory to the bound of a call.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Events, up to a full batch in which each request leads to a few.
const EVENTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Where clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Listener {
    /// For apps.
    Public,
    /// For staff.
    Staff,
}

impl Listener {
    const ALL: [Self; 2] = [Self::Public, Self::Staff];

    const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Staff => "staff",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    listener: &'static str,
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

#[derive(Debug, Clone)]
struct InSeconds;

impl MetricConstructor<Histogram> for InSeconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

type Number = Gauge<u64, AtomicU64>;

/// What is asked for at the time of a reading, and not counted along the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Whether the writer takes writes.
    pub writable: bool,
    /// Requests that wait for the writer.
    pub queue_depth: u64,
    /// How many may.
    pub queue_limit: u64,
    /// The next position of the log.
    pub log_head: u64,
    /// Records of the log that the views have not taken in.
    pub view_lag: u64,
    /// Records that are in no published checkpoint yet.
    pub checkpoint_lag: u64,
    /// Slots of the vault that were ever used, those of destroyed keys included.
    pub vault_slots: u64,
    /// The epoch of the master key.
    pub epoch: u64,
    /// Erasures that are not final yet.
    pub pending_erasures: u64,
    /// Records of the log that the continuous archive does not have; 0 where there is none.
    pub archive_lag: u64,
    /// Whether the archive's last step failed.
    pub archive_failing: bool,
}

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Histogram, InSeconds>,
    connections: Family<ListenerLabels, Gauge>,
    rate_limited: Counter,
    append_seconds: Histogram,
    append_events: Histogram,
    writable: Number,
    queue_depth: Number,
    queue_limit: Number,
    log_head: Number,
    view_lag: Number,
    checkpoint_lag: Number,
    vault_slots: Number,
    epoch: Number,
    pending_erasures: Number,
    archive_lag: Number,
    archive_failing: Number,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            calls: Family::new_with_constructor(InSeconds),
            connections: Family::default(),
            rate_limited: Counter::default(),
            append_seconds: Histogram::new(SECONDS),
            append_events: Histogram::new(EVENTS),
            writable: Number::default(),
            queue_depth: Number::default(),
            queue_limit: Number::default(),
            log_head: Number::default(),
            view_lag: Number::default(),
            checkpoint_lag: Number::default(),
            vault_slots: Number::default(),
            epoch: Number::default(),
            pending_erasures: Number::default(),
            archive_lag: Number::default(),
            archive_failing: Number::default(),
        };
        for listener in Listener::ALL {
            // Shown from the start, so that a rule on it does not meet nothing.
            drop(metrics.connections.get_or_create(&ListenerLabels { listener: listener.name() }));
        }
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let mut registry = Registry::with_prefix("countersign");
        registry.register_with_unit(
            "call",
            "Calls by listener, method and code, and how long each took",
            Unit::Seconds,
            self.calls.clone(),
        );
        registry.register("connections", "Connections that are open", self.connections.clone());
        registry.register(
            "rate_limited_calls",
            "Calls that a rate limit refused",
            self.rate_limited.clone(),
        );
        registry.register_with_unit(
            "append",
            "How long an append to the log took, its sync included",
            Unit::Seconds,
            self.append_seconds.clone(),
        );
        registry.register(
            "append_events",
            "How many events an append had",
            self.append_events.clone(),
        );
        let numbers = [
            ("writable", "1 while the writer takes writes", &self.writable),
            ("queue_depth", "Requests that wait for the writer", &self.queue_depth),
            ("queue_limit", "Requests that may wait for the writer", &self.queue_limit),
            ("log_head", "Records in the log", &self.log_head),
            ("view_lag", "Records that the views have not taken in", &self.view_lag),
            ("checkpoint_lag", "Records in no published checkpoint yet", &self.checkpoint_lag),
            ("vault_slots", "Slots of the vault in use, or of destroyed keys", &self.vault_slots),
            ("epoch", "The epoch of the master key", &self.epoch),
            ("pending_erasures", "Erasures that are not final yet", &self.pending_erasures),
            ("archive_lag", "Records that are not archived", &self.archive_lag),
            ("archive_failing", "1 while the archive does not go on", &self.archive_failing),
        ];
        for (name, help, number) in numbers {
            registry.register(name, help, number.clone());
        }
        self.registry = registry;
        self
    }

    /// Counts a call that ended. `method` and `code` must come from a fixed set.
    pub fn called(
        &self,
        listener: Listener,
        method: &'static str,
        code: &'static str,
        took: Duration,
    ) {
        let labels = CallLabels { listener: listener.name(), method, code };
        self.calls.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a connection until what is returned is dropped.
    pub fn connected(&self, listener: Listener) -> Connected {
        let labels = ListenerLabels { listener: listener.name() };
        let open = self.connections.get_or_create_owned(&labels);
        open.inc();
        Connected(open)
    }

    /// Counts a call that a rate limit refused.
    pub fn rate_limited(&self) {
        self.rate_limited.inc();
    }

    /// Counts an append of so many events that is durable now.
    pub fn appended(&self, events: usize, took: Duration) {
        self.append_seconds.observe(took.as_secs_f64());
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.append_events.observe(f64::from(events));
    }

    /// All metrics as text.
    pub fn encode(&self, reading: Reading) -> Result<String, fmt::Error> {
        self.writable.set(reading.writable.into());
        self.queue_depth.set(reading.queue_depth);
        self.queue_limit.set(reading.queue_limit);
        self.log_head.set(reading.log_head);
        self.view_lag.set(reading.view_lag);
        self.checkpoint_lag.set(reading.checkpoint_lag);
        self.vault_slots.set(reading.vault_slots);
        self.epoch.set(reading.epoch);
        self.pending_erasures.set(reading.pending_erasures);
        self.archive_lag.set(reading.archive_lag);
        self.archive_failing.set(reading.archive_failing.into());
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A connection that is open.
#[derive(Debug)]
pub struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::default();
        let (open, closed) =
            (metrics.connected(Listener::Public), metrics.connected(Listener::Public));
        drop(closed);
        metrics.called(Listener::Staff, "A/B", "OK", Duration::from_millis(3));
        metrics.appended(7, Duration::from_millis(20));
        metrics.rate_limited();
        let reading = Reading { log_head: 9, writable: true, ..Reading::default() };
        let text = metrics.encode(reading).unwrap();
        for line in [
            r#"countersign_connections{listener="public"} 1"#,
            r#"countersign_connections{listener="staff"} 0"#,
            r#"countersign_call_seconds_count{listener="staff",method="A/B",code="OK"} 1"#,
            r#"countersign_call_seconds_bucket{le="0.005",listener="staff",method="A/B",code="OK"} 1"#,
            r#"countersign_append_seconds_bucket{le="0.025"} 1"#,
            r#"countersign_append_seconds_bucket{le="0.01"} 0"#,
            "countersign_append_events_sum 7.0",
            "countersign_rate_limited_calls_total 1",
            "countersign_log_head 9",
            "countersign_writable 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        drop(open);
    }
}
