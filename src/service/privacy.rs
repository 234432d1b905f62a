//! What is done with a person's data at their request: exported, put right, erased, restricted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::erasure::{keys, positions};
use super::notices::NoticeDetails;
use super::requests::RequestDetails;
use super::store::{StoreError, Stored};
use super::writer::Request;
use super::{Service, ServiceError, Staff, reading};
use crate::domain::{
    Authority, By, Category, Email, ErasureId, ErasureReason, Event, Notice, Operation, PersonName,
    Position, Purpose, RecipientName, Rejection, RequestId, RequestKind, RestrictionKind,
    SubjectCommand, SubjectId, Timestamp,
};
use crate::export::{self, Facts};
use crate::log::codec;
use crate::log::record::RecordHash;
use crate::policy::Policy;
use crate::vault::KeyName;

/// How long an erasure may wait for the next epoch.
pub const FINAL_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before that the vault moves to it.
const MARGIN: Duration = Duration::from_secs(60 * 60);
/// The same where the archive does not follow: it is given time to.
const LAST_MARGIN: Duration = Duration::from_secs(40 * 60);

/// The type of the statement that something was erased.
const CERTIFICATE_TYPE: &str = "erasure-certificate+jwt";

/// How many records of which kind of data.
pub type Counts = BTreeMap<Category, u64>;

/// Whose data is exported, and what for.
pub enum Subject {
    /// The person with this address.
    Email(Email, Purpose),
    /// Whoever made this request.
    Request(RequestId),
}

/// What became of an erasure.
pub struct ErasureDetails {
    /// Its id.
    pub id: ErasureId,
    /// Why.
    pub reason: ErasureReason,
    /// By whose word.
    pub authority: Authority,
    /// When the keys were destroyed.
    pub erased_at: Timestamp,
    /// When copies of the vault from before came to be of no use. `None`: not yet.
    pub final_at: Option<Timestamp>,
    /// What was erased.
    pub records: Counts,
    /// Once it is final: the statement that says so.
    pub certificate: Option<String>,
    /// The recipients that are still to be told, so that their notices still hold the address.
    pub to_be_told: Vec<RecipientName>,
}

/// What a certificate states. Nothing of it names a person.
#[derive(Serialize)]
struct Certificate<'a> {
    iss: &'a str,
    /// When it was final.
    iat: i64,
    /// The erasure.
    jti: String,
    /// When the keys were destroyed.
    erased_at: i64,
    /// Why.
    reason: &'static str,
    /// How many records of which category.
    records: BTreeMap<&'static str, u64>,
    /// The leaf hash of the record that says so.
    record: String,
}

/// What is held about a person.
#[derive(Default)]
struct Held {
    /// With their positions.
    events: Vec<(Position, Stored)>,
    /// What recipients are still to be told.
    waiting: Vec<(Notice, Timestamp)>,
    /// How many records the log has under the person's keys.
    in_log: Counts,
}

impl Held {
    /// Whether it is as much as the log has.
    fn is_whole(&self) -> bool {
        self.in_log.values().sum::<u64>() == (self.events.len() + self.waiting.len()) as u64
    }
}

/// An export as it is made, in pieces.
pub type Pieces = mpsc::Receiver<Result<Vec<u8>, ServiceError>>;

/// The size of a piece of an export.
const PIECE_BYTES: usize = 32 * 1024;
/// How many pieces may wait for whoever reads them.
const PIECES: usize = 4;
/// An answer begins this long after it was asked for, in which that of most persons is made, the record
/// of the read, a key for it and the proofs included: that nothing is held takes no other time. Two syncs
/// and a checkpoint take some milliseconds on a disk, and less than this on most.
const EVEN: Duration = Duration::from_millis(50);

/// How often an export reads what is held where it changes while it is read.
const READS: u32 = 5;
/// What a batch of the writer needs to be in the views after it is in the log, and more.
const READ_AGAIN: Duration = Duration::from_millis(10);

/// The most erasures that are listed.
const ERASURES: usize = 100;

/// Sends what is written, a piece at a time, and waits where nobody takes it.
struct PieceWriter {
    pieces: mpsc::Sender<Result<Vec<u8>, ServiceError>>,
    piece: Vec<u8>,
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Service {
    /// All that is held about a person, as one ZIP in pieces. The read itself is in it. That nothing is
    /// held is an answer too, and takes the same way.
    pub async fn export(
        self: &Arc<Self>,
        staff: &Staff,
        whose: Subject,
    ) -> Result<Pieces, ServiceError> {
        let even = Instant::now() + EVEN;
        let mut handed_over = None;
        let (subject, read, access) = match whose {
            Subject::Email(email, purpose) => {
                if self.needs_approval(RequestKind::Access) {
                    return Err(Rejection::ApprovalMissing.into());
                }
                let subject = self.find_subject(&email).unwrap_or(SubjectId::NOBODY);
                (subject, subject, self.access(staff, purpose, Operation::ExportSubject))
            }
            Subject::Request(id) => {
                let RequestDetails { request, needs_approval, .. } = self.request_details(id)?;
                if !request.kind.is_answered_by_an_export() {
                    return Err(Rejection::RequestOfOtherKind.into());
                }
                request.may_be_fulfilled(needs_approval)?;
                let By { access, tag } = self.by(staff, id, Operation::ExportSubject);
                handed_over = Some(SubjectCommand::Exported { request: id, by: tag });
                let read = if request.is_unknown { SubjectId::NOBODY } else { request.subject };
                (request.subject, read, access)
            }
        };
        let policy = self.settings.policy.get();
        let stored: Vec<Category> =
            policy.categories.iter().map(|category| category.name).collect();
        self.record(subject, access, &stored).await?;
        let (pieces, receiver) = mpsc::channel(PIECES);
        let service = Arc::clone(self);
        tokio::spawn(async move {
            let written = {
                let (service, pieces) = (Arc::clone(&service), pieces.clone());
                reading(move || service.write_export(read, &policy, pieces)).await
            };
            let noted = match (written, handed_over) {
                (Ok(()), Some(handed_over)) => {
                    service.note_export(subject, handed_over, &pieces).await
                }
                (written, _) => written,
            };
            if let Err(error) = noted {
                // Whoever asked may be gone.
                let _ = pieces.send(Err(error)).await;
            }
        });
        sleep_until(even).await;
        Ok(receiver)
    }

    /// Notes that an export was handed over, once the last piece was taken and before the caller learns
    /// that it was the last. One that was cut off is none.
    async fn note_export(
        &self,
        subject: SubjectId,
        handed_over: SubjectCommand,
        pieces: &mpsc::Sender<Result<Vec<u8>, ServiceError>>,
    ) -> Result<(), ServiceError> {
        // There is room for as many as can wait when none does.
        if pieces.reserve_many(PIECES).await.is_err() {
            return Ok(());
        }
        match self.ask(Request::Subject(subject, handed_over)).await {
            // The request was ended or erased meanwhile: the export is one all the same.
            Ok(_) | Err(ServiceError::Rejected(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn write_export(
        &self,
        subject: SubjectId,
        policy: &Policy,
        pieces: mpsc::Sender<Result<Vec<u8>, ServiceError>>,
    ) -> Result<(), ServiceError> {
        let mut out = PieceWriter { pieces, piece: Vec::with_capacity(PIECE_BYTES) };
        let held = self.held(subject).map_err(|error| match error {
            StoreError::Erased(_) => Rejection::SubjectNotFound.into(),
            error => ServiceError::from(error),
        });
        let Held { events, waiting, in_log } = held?;
        let proofs = self.prove_all(events.iter().map(|(position, of)| (*position, of.hash)));
        let events: Vec<_> =
            events.into_iter().map(|(position, of)| (position, of.event)).collect();
        let facts = Facts {
            events: &events,
            waiting: &waiting,
            in_log: &in_log,
            proofs: proofs.as_ref(),
            policy,
            now: self.clock.now(),
        };
        let sign =
            |typ: &str, claims: &serde_json::Value| self.receipts.sign_statement(typ, claims).ok();
        export::write(&facts, &self.settings.issuer, &sign, &mut out)?;
        Ok(())
    }

    /// What is held about a person, at one moment: it is read again where something was added or erased
    /// while it was read.
    fn held(&self, subject: SubjectId) -> Result<Held, StoreError> {
        for _ in 1..READS {
            match self.read_held(subject) {
                Ok(held) if held.is_whole() => return Ok(held),
                Ok(_) | Err(StoreError::Erased(_)) => std::thread::sleep(READ_AGAIN),
                Err(error) => return Err(error),
            }
        }
        self.read_held(subject)
    }

    fn read_held(&self, subject: SubjectId) -> Result<Held, StoreError> {
        if subject == SubjectId::NOBODY {
            return Ok(Held::default());
        }
        let mut held = Held::default();
        for (category, slot) in keys(&self.store, subject)? {
            *held.in_log.entry(category).or_default() += u64::from(self.store.counts.get(slot));
        }
        held.events = self.store.events(positions(&self.store, subject)?)?;
        for NoticeDetails { notice, created_at, .. } in self.waiting_notices()? {
            if notice.subject == subject {
                let slot = self.store.vault.find(&KeyName::Notice(notice.id));
                let records = slot.map_or(0, |slot| self.store.counts.get(slot));
                *held.in_log.entry(Category::Email).or_default() += u64::from(records);
                held.waiting.push((notice, created_at));
            }
        }
        Ok(held)
    }

    /// Puts address or name right, and fulfils the request for it.
    pub async fn rectify(
        &self,
        staff: &Staff,
        request: RequestId,
        email: Option<Email>,
        name: Option<PersonName>,
    ) -> Result<RequestDetails, ServiceError> {
        self.names_allowed(name.as_ref())?;
        let subject = self.request_subject(request)?;
        let by = self.by(staff, request, Operation::RectifySubject);
        let erasure = ErasureId::from_bytes(rand::random());
        // The writer, which alone knows who is to be told, fills them in.
        let (notices, authority) = (Vec::new(), Authority::default());
        let rectify =
            SubjectCommand::Rectify { request, erasure, email, name, notices, authority, by };
        self.ask(Request::Subject(subject, rectify)).await?;
        self.notices_created.notify_one();
        self.request_details(request)
    }

    pub(super) fn names_allowed(&self, name: Option<&PersonName>) -> Result<(), Rejection> {
        let is_stored = self.settings.policy.get().category(Category::Name).is_some();
        if name.is_none() || is_stored { Ok(()) } else { Err(Rejection::NamesOff) }
    }

    /// Erases all of a person's data, and fulfils the request for it. With `wait` it is final
    /// afterwards.
    pub async fn erase(
        &self,
        staff: &Staff,
        request: RequestId,
        keep_licenses: bool,
        wait: bool,
    ) -> Result<ErasureDetails, ServiceError> {
        let subject = self.request_subject(request)?;
        let by = self.by(staff, request, Operation::EraseSubject);
        let erasure = ErasureId::from_bytes(rand::random());
        let needs_approval = self.needs_approval(RequestKind::Erasure);
        let erase = Request::Erase { subject, request, erasure, needs_approval, keep_licenses, by };
        self.ask(erase).await?;
        self.notices_created.notify_one();
        if wait {
            match self.move_epoch().await {
                // The answer says that it is not final.
                Ok(())
                | Err(ServiceError::Rejected(
                    Rejection::MasterKeyFixed | Rejection::EpochNotMoved,
                )) => {}
                Err(error) => return Err(error),
            }
        }
        self.erasure(erasure)
    }

    /// The newest erasures, newest first and without their certificates, and how many there are.
    pub async fn erasures(self: &Arc<Self>) -> Result<(Vec<ErasureDetails>, u64), ServiceError> {
        let service = Arc::clone(self);
        reading(move || {
            let mut erasures = Vec::new();
            for id in service.store.views.erasures()? {
                let view = service.store.views.erasure(id)?;
                erasures
                    .extend(view.filter(|view| view.erased.is_some()).map(|view| (view.begun, id)));
            }
            erasures.sort_unstable_by_key(|(begun, _)| Reverse(*begun));
            let total = erasures.len() as u64;
            let waiting = service.waiting_notices()?;
            let newest = erasures.into_iter().take(ERASURES);
            let newest =
                newest.map(|(_, id)| Ok::<_, ServiceError>(service.read_erasure(id, &waiting)?.0));
            Ok((newest.collect::<Result<_, ServiceError>>()?, total))
        })
        .await
    }

    /// What became of an erasure, with its certificate once it is final.
    pub fn erasure(&self, id: ErasureId) -> Result<ErasureDetails, ServiceError> {
        let (mut details, hash) = self.read_erasure(id, &self.waiting_notices()?)?;
        if let Some(final_at) = details.final_at {
            let counts = details.records.iter().map(|(category, count)| (category.name(), *count));
            let certificate = Certificate {
                iss: &self.settings.issuer,
                iat: final_at.as_seconds(),
                jti: format!("{:032x}", u128::from_be_bytes(*id.as_bytes())),
                erased_at: details.erased_at.as_seconds(),
                reason: details.reason.name(),
                records: counts.collect(),
                record: BASE64URL.encode(hash),
            };
            details.certificate =
                Some(self.receipts.sign_statement(CERTIFICATE_TYPE, &certificate)?);
        }
        Ok(details)
    }

    /// An erasure, and the hash of the record that says that it was carried out.
    fn read_erasure(
        &self,
        id: ErasureId,
        waiting: &[NoticeDetails],
    ) -> Result<(ErasureDetails, RecordHash), ServiceError> {
        let view = self.store.views.erasure(id)?.ok_or(Rejection::ErasureNotFound)?;
        let position = view.erased.ok_or(Rejection::ErasureNotFound)?;
        let stored = self.store.event(position)?;
        let Event::DataErased { reason, records, at: erased_at, .. } = stored.event else {
            return Err(StoreError::Mismatch(position).into());
        };
        let Event::ErasureBegun { authority, .. } = self.store.event(view.begun)?.event else {
            return Err(StoreError::Mismatch(view.begun).into());
        };
        let final_at = view.is_final.map(|position| self.store.event(position)).transpose()?;
        let details = ErasureDetails {
            id,
            reason,
            authority,
            erased_at,
            final_at: final_at.map(|stored| stored.event.at()),
            records: by_category(records),
            certificate: None,
            to_be_told: to_be_told(view.subject, waiting),
        };
        Ok((details, stored.hash))
    }

    /// Narrows what a person's data may be used for, or lifts that.
    pub async fn restrict(
        &self,
        staff: &Staff,
        email: &Email,
        kind: RestrictionKind,
        holds: bool,
    ) -> Result<(), ServiceError> {
        let by = self.access(staff, Purpose::AccessRequest, Operation::SetRestriction);
        let subject = self.known(email, &by).await?;
        let restrict = SubjectCommand::Restrict { kind, holds, by };
        self.ask(Request::Subject(subject, restrict)).await.map(drop)
    }

    /// Moves the vault to a new epoch. From then on an archive opens nothing until it has the vault of
    /// that epoch; so one that does not follow is to be mended first.
    async fn move_epoch(&self) -> Result<(), ServiceError> {
        if !self.is_archived() {
            tracing::error!("no erasure is made final while the archive does not go on: mend it");
            return Err(Rejection::EpochNotMoved.into());
        }
        self.ask(Request::MoveEpoch).await.map(drop)
    }

    fn is_archived(&self) -> bool {
        self.is_archived.as_ref().is_none_or(|is_archived| is_archived())
    }

    /// Moves the vault to a new epoch where an erasure has waited for nearly as long as it may; at last
    /// whatever becomes of the archive: what is erased comes first.
    pub async fn finish_erasures(&self) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let is_archived = self.is_archived();
        let margin = if is_archived { MARGIN } else { LAST_MARGIN };
        let waiting = self.waiting_notices()?;
        for id in self.store.views.pending_erasures()? {
            let Some(view) = self.store.views.erasure(id)? else { continue };
            let Some(position) = view.erased else { continue };
            // It would not be final.
            if !to_be_told(view.subject, &waiting).is_empty() {
                continue;
            }
            let erased_at = self.store.event(position)?.event.at();
            if erased_at.plus(FINAL_WITHIN.saturating_sub(margin)) <= now {
                if !is_archived {
                    tracing::error!(
                        "an erasure could wait no longer, and the archive does not follow: it opens \
                         nothing until it does"
                    );
                }
                return self.ask(Request::MoveEpoch).await.map(drop);
            }
        }
        Ok(())
    }
}

/// Who is still to be told of something about a person. What waits for that holds their address.
fn to_be_told(subject: SubjectId, waiting: &[NoticeDetails]) -> Vec<RecipientName> {
    let notices = waiting.iter().map(|details| &details.notice);
    let notices = notices.filter(|notice| notice.subject == subject);
    let recipients: BTreeSet<_> = notices.map(|notice| notice.recipient.clone()).collect();
    recipients.into_iter().collect()
}

pub(super) fn by_category(records: Vec<(u8, u64)>) -> Counts {
    let mut counts = Counts::new();
    for (event_type, count) in records {
        if let Some(category) = codec::category(event_type) {
            *counts.entry(category).or_default() += count;
        }
    }
    counts
}
