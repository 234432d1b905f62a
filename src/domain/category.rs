//! What kinds of personal data there are. Each persisted field names one in `events.proto`.

use serde::{Deserialize, Serialize};

/// A kind of personal data. Each has keys of its own, so that it can be erased alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// A person's address.
    Email,
    /// A person's name.
    Name,
    /// What they bought, and its state.
    License,
    /// When and how often it was activated.
    ActivationTime,
    /// Who looked at their data or got it, and what they asked for about it.
    AccessRecord,
}

impl Category {
    /// All there are.
    pub const ALL: [Self; 5] =
        [Self::Email, Self::Name, Self::License, Self::ActivationTime, Self::AccessRecord];

    /// Its name in policy files and exports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Name => "name",
            Self::License => "license",
            Self::ActivationTime => "activation_time",
            Self::AccessRecord => "access_record",
        }
    }
}
