//! The log: records in order, durable. With the vault, the only truth.

pub mod codec;
pub mod record;
