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
mod name;
mod notice;
mod rejection;
mod request;
mod state;
mod subject;

pub use access::{Access, Actor, Operation, Purpose, RecordedActor, Role, SealedActor};
pub use category::Category;
pub use email::{Email, EmailError, NORMALISER_VERSION};
pub use event::{Authority, Counts, ErasureReason, Event, Position};
pub use ids::{
    ActivationId, ActorTag, Binding, Day, ErasureId, LicenseId, Nonce, NoticeId, RequestId,
    SigningKeyId, SubjectId, Timestamp, WrongLength,
};
pub use license::{Issue, License, LicenseCommand, Product, Seats, Status, Terms, TermsError};
pub use license_key::{LicenseKey, LicenseKeyError};
pub use name::{Note, PersonName, TextError};
pub use notice::{Change, NOTICE_KEPT, Notice, NoticeOutcome, RecipientName};
pub use rejection::Rejection;
pub use request::{
    By, PrivacyRequest, Progress, RequestKind, RequestStep, RestrictionKind, gdpr_due, swiss_due,
};
pub use state::{Activation, Command, State, decide, evolve};
pub use subject::{KeptActivation, KeptLicense, Subject, SubjectCommand};
