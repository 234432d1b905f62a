//! The answer to an access request: one ZIP with a report for the person, the same for machines, a
//! table of activations, and a signed manifest. Pure: from the person's events to bytes.
//!
//! It holds what GDPR Art. 15(1) and (2) and the Swiss FADP Art. 25 ask for; `docs/privacy.md` says
//! where each is.

mod bundle;
mod csv;
mod document;
#[allow(clippy::format_push_string, clippy::format_collect)] // HTML reads best as it is formatted
mod html;

pub use bundle::{BundleError, Sign, write};
pub use document::{Facts, Proof, Proofs};

/// The JSON Schema of `data.json`.
pub const SCHEMA: &str = include_str!("schema.json");
