//! A person: known by the first license issued to them; each access to their data is recorded.

use super::{Access, Event, Position, Rejection, State, SubjectId, Timestamp};

/// What the rules need to know of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Where they were registered.
    pub registered: Position,
}

/// What can be asked of a person's record.
#[derive(Debug, Clone)]
pub enum SubjectCommand {
    /// Staff are about to read the person's data.
    RecordAccess(Access),
}

pub(super) fn decide(
    state: &State,
    id: SubjectId,
    command: &SubjectCommand,
    now: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    state.subjects.get(&id).ok_or(Rejection::SubjectNotFound)?;
    let SubjectCommand::RecordAccess(access) = command;
    Ok(vec![Event::AccessRecorded { subject: id, access: access.clone(), at: now }])
}
