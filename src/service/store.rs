//! What is stored: the log, the vault and the views, and how an event is read back.

use std::collections::HashMap;
use std::iter::Peekable;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use crate::domain::{
    Email, Event, License, LicenseId, LicenseKey, PersonName, Position, PrivacyRequest, Progress,
    RequestId, SubjectId, Terms, Timestamp,
};
use crate::log::codec::{self, DecodeError};
use crate::log::record::{self, Header, KeySlot, RecordHash};
use crate::log::{Log, LogError, PAGE, pages};
use crate::seal::{DataKey, OpenError, RecordKey};
use crate::vault::{KeyName, SlotState, Vault, VaultError};
use crate::views::{Checkpoint, LicenseView, RequestView, Views, ViewsError, Whole};

/// What is stored cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The views.
    #[error("{0}; check the disk, and they are rebuilt at the next start")]
    Views(#[from] ViewsError),
    /// Its key was destroyed.
    #[error("the event at position {0} was erased")]
    Erased(Position),
    /// A record does not open.
    #[error("the record at position {0} was {1}; restore log and vault from one backup")]
    Sealed(Position, OpenError),
    /// A record opens, and holds no event.
    #[error("the event at position {0} cannot be read: {1}; was it written by a later version?")]
    Event(Position, DecodeError),
    /// What one part names, another does not have.
    #[error("position {0} holds another event than the views say")]
    Mismatch(Position),
}

/// The log, the vault and the views.
pub struct Store {
    /// The records.
    pub log: Arc<dyn Log>,
    /// Their keys.
    pub vault: Arc<dyn Vault>,
    /// What they say.
    pub views: Views,
    /// How many records are sealed under which key.
    pub counts: SlotCounts,
}

/// How many records are sealed under which key, as the records say themselves. What an export holds is
/// compared with it.
#[derive(Debug, Default)]
pub struct SlotCounts(RwLock<Vec<u32>>);

impl From<Vec<u32>> for SlotCounts {
    /// By slot.
    fn from(counts: Vec<u32>) -> Self {
        Self(RwLock::new(counts))
    }
}

impl SlotCounts {
    /// All of them, by slot.
    pub fn to_vec(&self) -> Vec<u32> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a record.
    pub fn add(&self, slot: KeySlot) {
        let mut counts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slot.0 as usize;
        if counts.len() <= slot {
            counts.resize(slot + 1, 0);
        }
        counts[slot] += 1;
    }

    /// How many records there are.
    pub fn get(&self, slot: KeySlot) -> u32 {
        let counts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        counts.get(slot.0 as usize).copied().unwrap_or_default()
    }
}

/// An event in the log.
pub struct Stored {
    /// What happened.
    pub event: Event,
    /// The hash of its record.
    pub hash: RecordHash,
}

/// A license as it was issued.
pub struct Issued {
    /// Its key.
    pub key: LicenseKey,
    /// What it grants.
    pub terms: Terms,
    /// When.
    pub at: Timestamp,
}

/// A page of the log, opened.
pub struct Page {
    /// What was not erased.
    events: Vec<(Position, Event)>,
    /// The position after it.
    end: Position,
    /// The hash of its last record, if it has any.
    last: Option<RecordHash>,
    /// Whether more may follow.
    is_full: bool,
}

impl Page {
    /// Opens records from a position on.
    pub fn open(
        vault: &dyn Vault,
        first: Position,
        records: &[Vec<u8>],
    ) -> Result<Self, StoreError> {
        let mut reader = Reader::new(vault);
        let mut events = Vec::with_capacity(records.len());
        let mut end = first;
        for bytes in records {
            // What was erased is as if it had never been there.
            events.extend(reader.read(end, bytes)?.map(|event| (end, event)));
            end = end.plus(1);
        }
        let last = records.last().map(|bytes| record::hash(bytes));
        Ok(Self { events, end, last, is_full: records.len() == PAGE })
    }

    /// How far views are that have taken it in; `None`: it has nothing.
    pub fn end(&self) -> Option<Checkpoint> {
        self.last.map(|last| Checkpoint { next: self.end, last })
    }

    /// What was not erased.
    pub fn pairs(&self) -> impl Iterator<Item = (Position, &Event)> {
        self.events.iter().map(|(position, event)| (*position, event))
    }
}

impl Store {
    /// The event at a position.
    pub fn event(&self, position: Position) -> Result<Stored, StoreError> {
        let bytes = self.record(position)?;
        let event = Reader::new(self.vault.as_ref()).read(position, &bytes)?;
        Ok(Stored { event: event.ok_or(StoreError::Erased(position))?, hash: record::hash(&bytes) })
    }

    fn record(&self, position: Position) -> Result<Vec<u8>, LogError> {
        self.log.read(position, 1)?.pop().ok_or(LogError::Gap(position))
    }

    /// What of the record at a position is not sealed.
    pub(super) fn header(&self, position: Position) -> Result<Header, LogError> {
        self.header_and_hash(position).map(|(header, _)| header)
    }

    /// The same, and the record's hash.
    pub(super) fn header_and_hash(
        &self,
        position: Position,
    ) -> Result<(Header, RecordHash), LogError> {
        let bytes = self.record(position)?;
        let (header, _) =
            record::decode(&bytes, position).map_err(|error| LogError::Damaged(position, error))?;
        Ok((header, record::hash(&bytes)))
    }

    /// Whether the key of the record at a position was destroyed.
    pub(super) fn is_erased(&self, position: Position) -> Result<bool, ViewsError> {
        let header = self.header(position);
        let header = header.map_err(|error| ViewsError::Damaged(error.to_string()))?;
        Ok(self.vault.state(header.slot) == SlotState::Destroyed)
    }

    /// Events at many positions.
    pub fn events(
        &self,
        positions: impl IntoIterator<Item = Position>,
    ) -> Result<Vec<(Position, Stored)>, StoreError> {
        let mut reader = Reader::new(self.vault.as_ref());
        let read = |position| {
            let bytes = self.record(position)?;
            let event = reader.read(position, &bytes)?.ok_or(StoreError::Erased(position))?;
            Ok((position, Stored { event, hash: record::hash(&bytes) }))
        };
        positions.into_iter().map(read).collect()
    }

    /// How a license was issued.
    pub fn issued(&self, license: &LicenseView) -> Result<Issued, StoreError> {
        match self.event(license.issued)?.event {
            Event::LicenseIssued { key, terms, at, .. }
            | Event::LicenseKept { key, terms, at, .. } => Ok(Issued { key, terms, at }),
            _ => Err(StoreError::Mismatch(license.issued)),
        }
    }

    /// What the rules need to know of a license.
    pub fn license(&self, id: LicenseId) -> Result<Option<License>, StoreError> {
        let Some(view) = self.views.license(id)? else { return Ok(None) };
        let terms = self.issued(&view)?.terms;
        let LicenseView { subject, issued, status, used, .. } = view;
        Ok(Some(License { subject, terms, status, used, issued }))
    }

    /// A person's address, if they have one.
    pub fn email(&self, id: SubjectId) -> Result<Option<Email>, StoreError> {
        let Some(at) = self.views.subject(id)?.and_then(|subject| subject.email) else {
            return Ok(None);
        };
        match self.event(at)?.event {
            Event::SubjectRegistered { email, .. } | Event::EmailRecorded { email, .. } => {
                Ok(Some(email))
            }
            _ => Err(StoreError::Mismatch(at)),
        }
    }

    /// A person's name, if it is known.
    pub fn name(&self, id: SubjectId) -> Result<Option<PersonName>, StoreError> {
        let Some(at) = self.views.subject(id)?.and_then(|subject| subject.name) else {
            return Ok(None);
        };
        match self.event(at)?.event {
            Event::NameRecorded { name, .. } => Ok(Some(name)),
            _ => Err(StoreError::Mismatch(at)),
        }
    }

    /// What the rules need to know of a request.
    pub fn request(&self, id: RequestId) -> Result<Option<PrivacyRequest>, StoreError> {
        let Some(view) = self.views.request(id)? else { return Ok(None) };
        let RequestView { subject, opened, steps } = view;
        let Event::RequestOpened { kind, received_at, by, is_unknown, .. } =
            self.event(opened)?.event
        else {
            return Err(StoreError::Mismatch(opened));
        };
        let mut progress = Progress::default();
        for position in steps {
            let Event::RequestStepped { step, .. } = self.event(position)?.event else {
                return Err(StoreError::Mismatch(position));
            };
            progress.step(&step);
        }
        let opened_by = by;
        Ok(Some(PrivacyRequest {
            subject,
            kind,
            received_at,
            opened_by,
            opened,
            is_unknown,
            progress,
        }))
    }

    /// Brings the views up to the log. `progress` is told how many records are taken in.
    pub fn catch_up(&self, mut progress: impl FnMut(Position)) -> Result<(), StoreError> {
        let from = self.views.checkpoint()?.next;
        let head = self.log.head()?;
        thread::scope(|scope| {
            let open = |first, records: &[Vec<u8>]| Page::open(self.vault.as_ref(), first, records);
            let pages = pages(scope, self.log.as_ref(), from, open);
            let mut pages = pages.map(|page| page.map_err(StoreError::from).flatten()).peekable();
            // A page alone is taken in sooner than files are made for more.
            if matches!(pages.peek(), Some(Ok(page)) if page.is_full)
                && let Some(whole) = self.views.begin_whole()?
            {
                take_in_whole(whole, head, &mut pages, &mut progress)?;
            }
            for page in pages {
                let page = page?;
                self.take_in(&page)?;
                progress(page.end);
            }
            Ok(())
        })
    }

    fn take_in(&self, page: &Page) -> Result<(), ViewsError> {
        let Some(end) = page.end() else { return Ok(()) };
        self.views.apply(page.pairs(), end, &|position| self.is_erased(position))
    }

    /// Whether the views are of this log: it has the record that they ended with.
    pub fn views_match(&self) -> Result<bool, StoreError> {
        let checkpoint = self.views.checkpoint()?;
        let Some(last) = checkpoint.next.0.checked_sub(1) else { return Ok(true) };
        let page = self.log.read(Position(last), 1)?;
        Ok(page.first().is_some_and(|bytes| record::hash(bytes) == checkpoint.last))
    }
}

/// Makes the views of all that was in the log before any of it was read. What another server erases
/// meanwhile, it says behind that, and the views are made to forget it then. Half of the progress is
/// that all is read, the other that the views are made of it.
fn take_in_whole(
    mut whole: Whole<'_>,
    head: Position,
    pages: &mut Peekable<impl Iterator<Item = Result<Page, StoreError>>>,
    mut progress: impl FnMut(Position),
) -> Result<(), StoreError> {
    let mut end = Checkpoint::default();
    let is_before = |page: &Result<Page, _>| page.as_ref().map_or(true, |page| page.end <= head);
    while let Some(page) = pages.next_if(is_before) {
        let page = page?;
        whole.apply(page.pairs())?;
        end = page.end().unwrap_or(end);
        progress(half_read(end.next));
    }
    let records = end.next;
    Ok(whole.finish(end, |done, parts| {
        progress(half_made(records, done, parts));
    })?)
}

/// How far views of a whole log are when it is read up to there: that is half of it.
pub fn half_read(done: Position) -> Position {
    Position(done.0 / 2)
}

/// How far they are when so many of the parts are done that are made of all records: the other half.
pub fn half_made(records: Position, done: u64, parts: u64) -> Position {
    let read = half_read(records).0;
    Position(read + (records.0 - read) * done / parts)
}

/// Opens records, and keeps the data keys of those it just opened: neighbours often share one.
pub struct Reader<'a> {
    vault: &'a dyn Vault,
    keys: HashMap<KeySlot, DataKey>,
}

/// How many data keys a reader keeps.
const KEYS_KEPT: usize = 4096;

impl<'a> Reader<'a> {
    /// One that opens with these keys.
    pub fn new(vault: &'a dyn Vault) -> Self {
        Self { vault, keys: HashMap::new() }
    }

    /// The event in a record; `None`: it was erased.
    pub fn read(&mut self, position: Position, bytes: &[u8]) -> Result<Option<Event>, StoreError> {
        let (header, sealed) =
            record::decode(bytes, position).map_err(|error| LogError::Damaged(position, error))?;
        if self.keys.len() >= KEYS_KEPT {
            self.keys.clear();
        }
        let key = match self.keys.entry(header.slot) {
            std::collections::hash_map::Entry::Occupied(key) => key.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => match self.vault.key(header.slot) {
                Ok(key) => place.insert(key),
                Err(VaultError::Destroyed(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            },
        };
        let plaintext = RecordKey::derive(key, &header.id)
            .open(sealed, &header.to_bytes(), &header.commitment)
            .map_err(|error| StoreError::Sealed(position, error))?;
        let event = codec::decode(&plaintext);
        event.map(Some).map_err(|error| StoreError::Event(position, error))
    }
}

/// The key that an event is sealed under; `owner` tells whose a license is. `None`: it is about a
/// license that nobody has.
pub(super) fn key_name(
    event: &Event,
    owner: impl Fn(LicenseId) -> Option<SubjectId>,
) -> Option<KeyName> {
    Some(match event {
        Event::SubjectRegistered { subject, .. } | Event::EmailRecorded { subject, .. } => {
            KeyName::Identity(*subject)
        }
        Event::NameRecorded { subject, .. } => KeyName::Name(*subject),
        Event::LicenseIssued { license, .. }
        | Event::LicenseKept { license, .. }
        | Event::LicenseSuspended { license, .. }
        | Event::LicenseReinstated { license, .. }
        | Event::LicenseRevoked { license, .. } => KeyName::License(*license),
        Event::Activated { license, at, .. }
        | Event::Deactivated { license, at, .. }
        | Event::ActivationKept { license, at, .. } => {
            KeyName::Activations(owner(*license)?, at.year())
        }
        Event::AccessRecorded { subject, at, .. }
        | Event::RestrictionChanged { subject, at, .. }
        | Event::RequestOpened { subject, at, .. }
        | Event::RequestStepped { subject, at, .. } => KeyName::Access(*subject, at.year()),
        Event::Disclosed { subject, .. } | Event::RecipientTold { subject, .. } => {
            KeyName::Disclosures(*subject)
        }
        Event::NoticeCreated { notice, .. } => KeyName::Notice(notice.id),
        Event::ErasureBegun { .. }
        | Event::DataErased { .. }
        | Event::EpochMoved { .. }
        | Event::NoticeSettled { .. }
        | Event::DayClosed { .. } => KeyName::System,
    })
}
