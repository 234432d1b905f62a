//! Who else has a person's data, and how they are told that it was put right or erased.

use std::time::Duration;

use super::{Email, ErasureId, NoticeId, SubjectId};

/// How long it is tried to tell a recipient. What they would be told is erased then.
pub const NOTICE_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a recipient is to be told.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Its id.
    pub id: NoticeId,
    /// Whose data it is about.
    pub subject: SubjectId,
    /// The erasure that it is due to.
    pub erasure: ErasureId,
    /// Who is told, as the policy names them.
    pub recipient: RecipientName,
    /// The address that they know.
    pub email: Email,
    /// What happened.
    pub change: Change,
}

/// What happened to a person's data.
#[derive(Debug, Clone)]
pub enum Change {
    /// It is erased.
    Erased,
    /// It was put right.
    Rectified {
        /// The right address. `None`: it is the name, which they are to ask for.
        email: Option<Email>,
    },
}

/// How a notice came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeOutcome {
    /// The recipient's webhook took it.
    Delivered,
    /// Staff told them.
    ByHand,
    /// It could not be delivered for as long as notices are kept.
    GivenUp,
}

impl NoticeOutcome {
    /// Its name in exports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::ByHand => "by_hand",
            Self::GivenUp => "given_up",
        }
    }
}

/// Somebody whom data is shared with, as the policy names them: 1 to 64 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecipientName(String);

impl RecipientName {
    /// `None` where the name is empty, too long, or has a control character.
    pub fn parse(name: &str) -> Option<Self> {
        let is_good = (1..=64).contains(&name.len()) && !name.chars().any(char::is_control);
        is_good.then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
