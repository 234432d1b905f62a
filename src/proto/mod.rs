//! The messages and services compiled from `proto/`. Their `Debug` shows no content.

pub mod codec;

/// The wire: what clients and staff tools call.
#[allow(missing_docs, clippy::all, clippy::pedantic)] // generated; documented in proto/
pub mod v1 {
    tonic::include_proto!("countersign.v1");
    include!(concat!(env!("OUT_DIR"), "/countersign.v1.debug.rs"));
}

/// What is persisted, sealed.
#[allow(missing_docs, clippy::all, clippy::pedantic)] // generated; documented in proto/
pub mod events {
    tonic::include_proto!("countersign.events.v1");
    include!(concat!(env!("OUT_DIR"), "/countersign.events.v1.debug.rs"));
}

/// The data category of each event type, as the options in `events.proto` name it.
pub const EVENT_CATEGORIES: &[(u8, &str)] =
    include!(concat!(env!("OUT_DIR"), "/event_categories.rs"));

/// The domain of the reasons that errors carry.
pub const ERROR_DOMAIN: &str = "countersign.v1";

/// The compiled descriptors of the wire, for gRPC reflection. What is persisted is nobody's business.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
