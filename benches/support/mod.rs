//! What the benchmarks share.

pub(crate) mod servers;

use std::time::Duration;

use hdrhistogram::Histogram;

/// A number of the command line. What cargo and a test harness would add is ignored.
pub(crate) fn number(name: &str) -> Option<u64> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1)?.parse().ok()
}

/// Whether a word is in the command line.
pub(crate) fn is_asked(word: &str) -> bool {
    std::env::args().any(|argument| argument == word)
}

/// Of nanoseconds, a microsecond to a minute.
pub(crate) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).unwrap()
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
pub(crate) fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}
