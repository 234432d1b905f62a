//! What went wrong: for the person who called, and as an exit code for their script.
//!
//! A server's refusal speaks for itself. What the transport says when there was no answer does not:
//! whether the call was made is then unknown, and that is what the person is told.

use std::error::Error;
use std::iter;

use tonic::{Code, Status, TimeoutExpired};

use super::client::Unreachable;
use super::receipt::NotGood;
use super::verify::Bad;

const ERROR: u8 = 1;
const REFUSED: u8 = 3;
const UNAVAILABLE: u8 = 4;

/// How a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection ended before the answer.
    Lost,
    /// The time was up before the answer.
    Late,
    /// The server cannot do it now, and has not done it.
    Busy,
    /// The server tried, and could not.
    Broken,
    /// The server will not do it.
    Refused,
}

impl Failure {
    /// How the call failed that ended with this status. One that the transport made has a source;
    /// one that the server sent has none.
    pub(super) fn of(status: &Status) -> Self {
        match (status.code(), status.source()) {
            (Code::DeadlineExceeded, _) | (Code::Cancelled, None) => Self::Late,
            (_, Some(source)) if chain(source).any(<dyn Error>::is::<TimeoutExpired>) => Self::Late,
            (_, Some(_)) => Self::Lost,
            (Code::Unavailable, None) => Self::Busy,
            (Code::Internal | Code::Unknown | Code::DataLoss, None) => Self::Broken,
            (_, None) => Self::Refused,
        }
    }
}

/// Whether the same call may have another outcome in a moment.
pub(super) fn is_passing(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<Status>().map(Failure::of);
    matches!(status, Some(Failure::Lost | Failure::Late | Failure::Busy))
        || error.is::<Unreachable>()
}

/// What went wrong, from the outside in.
pub(super) fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let status = cause.downcast_ref::<Status>();
        let said = status.map_or_else(|| cause.to_string(), explain);
        // Many an error's text has its cause in it already.
        if !text.contains(&said) {
            let separator = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{separator}{said}");
        }
        if status.is_some() {
            break;
        }
    }
    text
}

/// The exit code.
pub(super) fn code(error: &anyhow::Error) -> u8 {
    if error.is::<NotGood>() || error.is::<Bad>() {
        return REFUSED;
    }
    if error.is::<Unreachable>() {
        return UNAVAILABLE;
    }
    match error.downcast_ref::<Status>().map(Failure::of) {
        Some(Failure::Lost | Failure::Late | Failure::Busy) => UNAVAILABLE,
        Some(Failure::Refused) => REFUSED,
        Some(Failure::Broken) | None => ERROR,
    }
}

/// An error, and what caused it.
pub(super) fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

fn explain(status: &Status) -> String {
    match (Failure::of(status), status.code(), status.message()) {
        (Failure::Lost, ..) => "the connection was lost before the answer; what was asked for may \
             be done all the same: look, or call again"
            .to_owned(),
        (Failure::Late, ..) => "no answer came in time; what was asked for may be done all the \
             same: look, or call again"
            .to_owned(),
        (_, Code::Unimplemented, "") => {
            "the server knows no such call; is this not its staff listener, or is it of another \
             version?"
                .to_owned()
        }
        (_, code, "") => format!("the server says {code:?} and no more; ask its operator"),
        (_, _, said) => said.to_owned(),
    }
}
