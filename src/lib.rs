//! Countersign: an event-sourced license activation server.

// Nothing that input, disk or network can cause may panic.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod domain;
pub mod log;
pub mod proto;
pub mod seal;
