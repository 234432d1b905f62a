//! Countersign: an event-sourced license activation server.

// Nothing that input, disk or network can cause may panic.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod cli;
pub mod config;
pub mod domain;
pub mod export;
pub mod grpc;
pub mod log;
pub mod policy;
pub mod proto;
pub mod receipt;
pub mod seal;
pub mod service;
pub mod telemetry;
pub mod vault;
pub mod views;
