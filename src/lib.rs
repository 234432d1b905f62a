//! Countersign: an event-sourced license activation server.
//!
//! A desktop app activates a license over gRPC and TLS. The server decides, seals the event, appends
//! it to a log, makes that durable, and answers with a signed receipt that the app verifies offline.
//! `docs/architecture.md` has a picture. In the order of that way:
//!
//! - [`proto`]: the messages on the wire, and those that are stored.
//! - [`grpc`]: the listeners: TLS, bounds, who may call what, errors in one place.
//! - [`service`]: what can be asked, and the one writer that everything goes through.
//! - [`domain`]: the rules, pure: what a license may do, given what happened and the time.
//! - [`seal`]: encryption of events, and the tags by which a person is found without their address.
//! - [`log`]: the records, their tree, and the head file that says how far they had come.
//! - [`tlog`]: what others can check of the log: tiles, proofs, witnesses.
//! - [`vault`]: the keys of what is sealed.
//! - [`backup`]: copies of log and vault, at once or all the time, and the way back from them.
//! - [`views`]: what the log says, arranged for questions; rebuilt at will.
//! - [`receipt`]: what the app keeps: signed here, verified there.
//! - [`export`]: all that is held about a person, as one document.
//! - [`webhook`]: recipients of data are told of rectification and erasure.
//! - [`policy`]: what may be held, why, for how long, and who gets it.
//! - [`parallel`], [`background`]: what is done on all processors, and what gives way to all else.
//! - [`config`], [`telemetry`], [`metrics`], [`ops`], [`hardening`], [`cli`]: the operator's side.
//!
//! Imports run one way, `cli, grpc → service → {log, vault, views, receipt, export, policy} → seal →
//! domain`; `tests/architecture.rs` holds each room to it.
//!
//! An app in Rust needs [`proto::v1`] and [`receipt::PublicKeys`]; `examples/activate.rs` is one.

// Nothing that input, disk or network can cause may panic.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod background;
pub mod backup;
pub mod cli;
pub mod config;
pub mod domain;
pub mod export;
pub mod grpc;
pub mod hardening;
pub mod log;
pub mod metrics;
pub mod ops;
pub mod parallel;
pub mod policy;
pub mod proto;
pub mod receipt;
pub mod seal;
pub mod service;
pub mod telemetry;
pub mod tlog;
pub mod vault;
pub mod views;
pub mod webhook;
