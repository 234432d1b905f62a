//! Logs: what the server does, never for whom. Only this crate's own lines are written: those of
//! libraries may hold an address.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

/// How often a complaint is made.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the usual ones
pub enum Verbosity {
    Error,
    Warn,
    Info,
    Debug,
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `error`, `warn`, `info` or `debug`. `info`.
    pub level: Verbosity,
    /// `pretty` or `json`. `json`.
    pub format: Format,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: Verbosity::Info, format: Format::Json }
    }
}

/// Sends this process's log lines to standard error from here on. A second call changes nothing.
pub fn init(settings: LogSettings) {
    let level = match settings.level {
        Verbosity::Error => Level::ERROR,
        Verbosity::Warn => Level::WARN,
        Verbosity::Info => Level::INFO,
        Verbosity::Debug => Level::DEBUG,
    };
    let ours = Targets::new().with_target(env!("CARGO_PKG_NAME"), level);
    let registry = tracing_subscriber::registry();
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    // An error means that there is a subscriber already.
    let _ = match settings.format {
        Format::Json => registry.with(lines.json().with_filter(ours)).try_init(),
        Format::Pretty => registry.with(lines.with_filter(ours)).try_init(),
    };
}

/// Something to complain of that others can bring about as often as they like: now and then.
#[derive(Debug, Default)]
pub struct Complaint(Mutex<Option<Instant>>);

impl Complaint {
    /// One that was not made yet.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether to make it now.
    pub fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() > COMPLAINT_INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

/// Why something that is tried again and again does not go on, to be said once.
#[derive(Debug, Default)]
pub struct Trouble(Option<String>);

impl Trouble {
    /// Takes in a failure. Whether to say so: it was not the same before.
    pub fn is_new(&mut self, failure: &str) -> bool {
        let is_new = self.0.as_deref() != Some(failure);
        if is_new {
            self.0 = Some(failure.to_owned());
        }
        is_new
    }

    /// Takes in that it goes on. Whether to say so: it did not before.
    pub fn is_over(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Whether it did not go on the last time.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_said_when_it_comes_when_it_changes_and_when_it_goes() {
        let mut trouble = Trouble::default();
        assert!(!trouble.is_over() && !trouble.is_there());
        assert!(trouble.is_new("full"));
        assert!(!trouble.is_new("full") && trouble.is_there());
        assert!(trouble.is_new("gone"));
        assert!(trouble.is_over() && !trouble.is_over());
        assert!(trouble.is_new("gone"));
    }

    #[test]
    fn a_complaint_is_not_made_twice_in_a_row() {
        static COMPLAINT: Complaint = Complaint::new();
        assert!(COMPLAINT.is_due());
        assert!(!COMPLAINT.is_due());
        assert!(Complaint::default().is_due(), "each is one of its own");
    }
}
