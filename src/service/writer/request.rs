//! What is asked of the writer, and how it answers.

use tokio::sync::{mpsc, oneshot};

use crate::domain::{
    Access, Activation, By, Day, Email, ErasureId, License, LicenseCommand, LicenseId, LicenseKey,
    NoticeId, NoticeOutcome, PersonName, Rejection, RequestId, RequestKind, SubjectCommand,
    SubjectId, Terms, Timestamp,
};
use crate::service::store::Stored;

/// What is asked of the writer.
pub enum Request {
    /// Issue a license to the person with this address, known or not.
    Issue {
        /// The license.
        license: LicenseId,
        /// To whom.
        email: Email,
        /// Their name, for those whose name is not known yet.
        name: Option<PersonName>,
        /// The key it gets.
        key: LicenseKey,
        /// What it grants.
        terms: Terms,
        /// Who issues it.
        by: Access,
    },
    /// Do this with a license.
    License(LicenseId, LicenseCommand),
    /// Do this with a person's record.
    Subject(SubjectId, SubjectCommand),
    /// Note that the person with this address asked for something about their data, known or not.
    Open {
        /// The address. Where nobody is known by it, it is not stored.
        email: Email,
        /// A fresh id.
        request: RequestId,
        /// What for.
        kind: RequestKind,
        /// When it came in.
        received_at: Timestamp,
        /// Who opens it.
        by: By,
    },
    /// Erase all of a person's data.
    Erase {
        /// Whose.
        subject: SubjectId,
        /// Their request for it.
        request: RequestId,
        /// A fresh id.
        erasure: ErasureId,
        /// Whether it takes a second member of staff.
        needs_approval: bool,
        /// Whether their licenses live on, with nobody known.
        keep_licenses: bool,
        /// Who erases.
        by: By,
    },
    /// A notice has come to its end.
    Settle(NoticeId, NoticeOutcome),
    /// Record how much happened on the days before this one that are not counted yet.
    CloseDays(Day),
    /// Move the vault to a new epoch, so that what is erased is final.
    MoveEpoch,
    /// Answer what waits, and stop.
    End,
}

impl Request {
    /// Whether it has a batch of its own.
    pub(super) fn is_alone(&self) -> bool {
        match self {
            Self::Erase { .. }
            | Self::Settle(..)
            | Self::CloseDays(_)
            | Self::MoveEpoch
            | Self::End => true,
            Self::Subject(_, command) => {
                matches!(command, SubjectCommand::Rectify { .. } | SubjectCommand::Expire { .. })
            }
            Self::Issue { .. } | Self::License(..) | Self::Open { .. } => false,
        }
    }
}

/// What a granted request led to. All of it is durable.
#[derive(Default)]
pub struct Granted {
    /// The events, none where everything was so already.
    pub events: Vec<Stored>,
    /// The license after them, where the request was about one.
    pub license: Option<License>,
    /// The activation that the request named.
    pub activation: Option<Activation>,
}

/// Why the writer did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// Too many wait already; nothing has happened.
    Overloaded,
    /// It has stopped; what was asked may or may not have happened.
    Stopped,
}

/// What whoever asked is told.
pub(super) type Answer = Result<Granted, Rejection>;

/// A request, and where its answer goes.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// An answer on its way.
pub(super) struct Answered {
    pub(super) to: oneshot::Sender<Answer>,
    pub(super) answer: Answer,
}

impl Answered {
    pub(super) fn send(self) {
        // The client may be gone.
        let _ = self.to.send(self.answer);
    }
}

/// Where requests go in.
#[derive(Clone)]
pub struct WriterHandle {
    pub(super) jobs: mpsc::Sender<Job>,
}

impl WriterHandle {
    /// Asks, and waits until the answer is durable.
    pub async fn ask(&self, request: Request) -> Result<Answer, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(Job { request, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoAnswer::Overloaded,
            mpsc::error::TrySendError::Closed(_) => NoAnswer::Stopped,
        })?;
        answered.await.map_err(|_| NoAnswer::Stopped)
    }

    /// Has it answer what waits, and stop. Waits for a place in the queue.
    pub(in crate::service) async fn end(&self) {
        let (answer, answered) = oneshot::channel();
        // An error means that it has stopped already.
        if self.jobs.send(Job { request: Request::End, answer }).await.is_ok() {
            let _ = answered.await;
        }
    }

    /// Returns when the writer has stopped.
    pub(in crate::service) async fn stopped(&self) {
        self.jobs.closed().await;
    }

    /// Whether it has.
    pub(in crate::service) fn has_stopped(&self) -> bool {
        self.jobs.is_closed()
    }

    /// How many requests wait.
    pub(in crate::service) fn waiting(&self) -> usize {
        self.limit() - self.jobs.capacity()
    }

    /// How many may.
    pub(in crate::service) fn limit(&self) -> usize {
        self.jobs.max_capacity()
    }
}
