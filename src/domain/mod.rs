//! The rules, pure: `decide(&State, Command, now) -> Result<Vec<Event>, Rejection>` and
//! `evolve(&mut State, position, &Event)`. No clock, no randomness, no storage, no async: what they
//! would bring comes in as an argument.

mod access;
mod category;
mod email;
mod event;
mod ids;
mod license;
mod license_key;
mod rejection;
mod state;
mod subject;

pub use access::{Access, Actor, Operation, Purpose, Role};
pub use category::Category;
pub use email::{Email, EmailError, NORMALISER_VERSION};
pub use event::{Event, Position};
pub use ids::{
    ActivationId, Binding, LicenseId, Nonce, SigningKeyId, SubjectId, Timestamp, WrongLength,
};
pub use license::{Issue, License, LicenseCommand, Product, Seats, Status, Terms, TermsError};
pub use license_key::{LicenseKey, LicenseKeyError};
pub use rejection::Rejection;
pub use state::{Activation, Command, State, decide, evolve};
pub use subject::{Subject, SubjectCommand};
