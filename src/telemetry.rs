//! Logs: what the server does, never for whom. Only this crate's own lines are written: those of
//! libraries may hold an address.

use serde::{Deserialize, Serialize};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

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
