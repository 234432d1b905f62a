//! The one writer: it alone appends, so it decides against state that nobody else changes.
//!
//! It takes all requests that wait, up to a bound, decides each against state that includes the
//! events decided before it in the same batch, makes the keys they need, seals the events, appends
//! them as one batch, and answers everybody once that is durable. A batch without events costs no
//! disk access.
//!
//! An erasure has a batch of its own: that it begins is durable first, then the keys are destroyed,
//! then that they are is recorded. One that was interrupted is carried to its end at the next start,
//! before anybody is served.
//!
//! After a failed write or sync nothing is known about the disk: the writer answers nobody any more,
//! stops, and the process ends. What was not acknowledged may or may not have happened; a retry
//! tells.

mod request;
mod upkeep;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rand::CryptoRng;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::domain::{
    Activation, Change, Command, Email, Event, Issue, License, LicenseCommand, Position, Rejection,
    RequestId, State, SubjectCommand, SubjectId, Timestamp, decide, evolve,
};
use crate::log::record::{self, Header, KeySlot, RecordHash};
use crate::log::tree::CompactRange;
use crate::log::{Append, LogError, codec};
use crate::policy::CurrentPolicy;
use crate::seal::{DataKey, LookupTag, MAX_PLAINTEXT_BYTES, RecordId, RecordKey, TooLong};
use crate::service::clock::Clock;
use crate::service::erasure;
use crate::service::store::{Store, StoreError, Stored, key_name};
use crate::vault::{KeyName, NewKey};
use crate::views::Checkpoint;
use request::{Answer, Answered, Job};
use upkeep::Begun;

pub use request::{Granted, NoAnswer, Request, WriterHandle};

/// The most requests that one batch answers. Beyond a few hundred a larger batch saves nothing: the
/// sync is shared already, and the first in it would wait for the last.
const BATCH: usize = 256;

/// How long a batch waits for more requests where the last one or this one has several: a request
/// that shares its syncs and its wake-ups costs less. One client alone never waits.
const GATHER: Duration = Duration::from_micros(400);

/// How much of the state is kept between batches. An entry is about 200 bytes.
const STATE_KEPT: usize = 100_000;

/// Why the writer stopped before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// What is stored cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event does not fit a record.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The system gives it no thread.
    #[error("the writer cannot be started: {0}; free some memory or threads, then start again")]
    Thread(std::io::Error),
    /// A defect in this software.
    #[error("the writer panicked; this is a defect, please report it with the lines above")]
    Panicked,
}

impl From<LogError> for WriterError {
    fn from(error: LogError) -> Self {
        Self::Store(error.into())
    }
}

/// Resolves when the writer has stopped.
pub type Stopped = oneshot::Receiver<Result<(), WriterError>>;

/// What a writer works with.
pub struct Parts {
    /// What it writes to. The views are up to the log.
    pub store: Arc<Store>,
    /// The tree over the log's records; the writer adds to it.
    pub tree: Arc<Mutex<CompactRange>>,
    /// The time of events.
    pub clock: Arc<dyn Clock>,
    /// Ids and keys.
    pub rng: Box<dyn CryptoRng + Send>,
    /// How many requests may wait.
    pub queue: usize,
    /// For how long data is kept.
    pub policy: CurrentPolicy,
}

/// Starts the writer on a thread of its own. It stops when the last handle is gone and everything that
/// waits is answered; the receiver then has its result. Must be called on a tokio runtime.
pub fn spawn(parts: Parts) -> Result<(WriterHandle, Stopped), WriterError> {
    let (handle, writer) = Writer::new(parts)?;
    let (stopped, result) = oneshot::channel();
    // Who is woken from another thread is woken by the kernel, one by one, which costs as much as to
    // decide. So a batch wakes one task, and that wakes the others where they run.
    let (answered, mut answers) = mpsc::unbounded_channel::<Vec<Answered>>();
    tokio::spawn(async move {
        while let Some(batch) = answers.recv().await {
            batch.into_iter().for_each(Answered::send);
        }
    });
    let run = move || {
        let store = Arc::clone(&writer.store);
        let run = std::panic::AssertUnwindSafe(|| writer.run(&answered));
        let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
            // It may have been over them, or in the middle of changing them.
            let _ = store.views.distrust();
            Err(WriterError::Panicked)
        });
        drop(store);
        // Nobody may be left to hear it.
        let _ = stopped.send(result);
    };
    thread::Builder::new().name("writer".to_owned()).spawn(run).map_err(WriterError::Thread)?;
    Ok((handle, result))
}

/// The one writer. [`spawn`] runs it; a test may take its steps itself.
pub struct Writer {
    queue: mpsc::Receiver<Job>,
    store: Arc<Store>,
    tree: Arc<Mutex<CompactRange>>,
    clock: Arc<dyn Clock>,
    rng: Box<dyn CryptoRng + Send>,
    policy: CurrentPolicy,
    /// The next position.
    head: Position,
    /// Part of the views, as of `head`.
    state: State,
}

/// A batch, decided and not yet appended.
#[derive(Default)]
struct Plan {
    events: Vec<Planned>,
    /// What each request leads to, in the order of the events, or why it is refused.
    decisions: Vec<Result<Decision, Rejection>>,
    /// Persons that this batch registers, by the tag of their address.
    new_subjects: HashMap<LookupTag, SubjectId>,
}

struct Planned {
    event: Event,
    /// The event as it is sealed.
    encoded: Encoded,
    /// What it is sealed under.
    key: NewKey,
}

/// An event type and the event's bytes.
type Encoded = (u8, Zeroizing<Vec<u8>>);

impl Planned {
    /// Whether the key must be a fresh one: what it replaces is destroyed.
    fn replaces(&self) -> bool {
        matches!(self.event, Event::EmailRecorded { .. } | Event::NameRecorded { .. })
    }
}

struct Decision {
    /// How many events.
    events: usize,
    license: Option<License>,
    activation: Option<Activation>,
}

impl Writer {
    /// Carries to its end what the last process began, so that nobody meets it half done.
    pub fn new(parts: Parts) -> Result<(WriterHandle, Self), WriterError> {
        let (jobs, queue) = mpsc::channel(parts.queue);
        let head = parts.tree.lock().unwrap_or_else(PoisonError::into_inner).size();
        let mut writer = Self {
            queue,
            head,
            store: parts.store,
            tree: parts.tree,
            clock: parts.clock,
            rng: parts.rng,
            policy: parts.policy,
            state: State::default(),
        };
        writer.recover()?;
        Ok((WriterHandle { jobs }, writer))
    }

    fn run(mut self, answers: &mpsc::UnboundedSender<Vec<Answered>>) -> Result<(), WriterError> {
        let mut jobs = Vec::with_capacity(BATCH);
        let mut answered = 0;
        while self.queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
            if jobs.len().max(answered) > 1 {
                thread::sleep(GATHER);
                self.gather(&mut jobs);
            }
            let batch = self.answer_all(&mut jobs)?;
            answered = batch.len();
            // An error means that the runtime ends, and with it everybody who waits.
            let _ = answers.send(batch);
        }
        Ok(())
    }

    /// Answers the requests that wait now, at most a batch of them. After an error it must be dropped:
    /// everyone who waits then learns that it stopped.
    pub fn step(&mut self) -> Result<(), WriterError> {
        let mut jobs = Vec::new();
        self.gather(&mut jobs);
        self.answer_all(&mut jobs)?.into_iter().for_each(Answered::send);
        Ok(())
    }

    fn gather(&mut self, jobs: &mut Vec<Job>) {
        while jobs.len() < BATCH
            && let Ok(job) = self.queue.try_recv()
        {
            jobs.push(job);
        }
    }

    fn answer_all(&mut self, jobs: &mut Vec<Job>) -> Result<Vec<Answered>, WriterError> {
        // Who asked has given up; what is not decided is not acknowledged either.
        jobs.retain(|job| !job.answer.is_closed());
        if jobs.iter().any(|job| matches!(job.request, Request::End)) {
            self.queue.close();
        }
        // On an error the jobs are dropped: everyone who waits learns that it stopped.
        let mut answers = Vec::with_capacity(jobs.len());
        let shares = |a: &Job, b: &Job| !a.request.is_alone() && !b.request.is_alone();
        for batch in jobs.chunk_by(shares) {
            answers.extend(self.answer(batch).inspect_err(|error| {
                if let WriterError::Store(StoreError::Views(_)) = error {
                    // Where this fails too, they will not open either.
                    let _ = self.store.views.distrust();
                }
            })?);
        }
        let answered = jobs.drain(..).zip(answers);
        Ok(answered.map(|(job, answer)| Answered { to: job.answer, answer }).collect())
    }

    fn answer(&mut self, jobs: &[Job]) -> Result<Vec<Answer>, WriterError> {
        match jobs {
            [Job { request: Request::MoveEpoch, .. }] => return Ok(vec![self.move_epoch()?]),
            [Job { request: Request::Settle(notice, outcome), .. }] => {
                return Ok(vec![self.settle(*notice, *outcome)?]);
            }
            [Job { request: Request::CloseDays(before), .. }] => {
                self.close_days(*before)?;
                return Ok(vec![Ok(Granted::default())]);
            }
            [Job { request: Request::End, .. }] => return Ok(vec![Ok(Granted::default())]),
            _ => {}
        }
        let answers = self.commit(jobs)?;
        for stored in answers.iter().flatten().flat_map(|granted| &granted.events) {
            if let Event::ErasureBegun { erasure, subject, reason, at, .. } = stored.event {
                self.finish_erasure(erasure, subject, reason, at, Begun::Now)?;
            }
        }
        Ok(answers)
    }

    /// Decides and appends until no other writer gets in between.
    fn commit(&mut self, jobs: &[Job]) -> Result<Vec<Answer>, WriterError> {
        loop {
            let plan = self.decide(jobs)?;
            let records = self.seal(&plan.events)?;
            if records.is_empty() || self.append(&records)? {
                return self.publish(plan, &records);
            }
            self.catch_up()?;
        }
    }

    fn decide(&mut self, jobs: &[Job]) -> Result<Plan, WriterError> {
        let State { subjects, licenses, activations, requests } = &self.state;
        let kept = subjects.len() + licenses.len() + activations.len() + requests.len();
        if kept > STATE_KEPT {
            self.state = State::default();
        }
        let now = self.clock.now();
        let mut plan = Plan::default();
        for job in jobs {
            let decision = self.decide_one(&job.request, now, &mut plan)?;
            plan.decisions.push(decision);
        }
        Ok(plan)
    }

    fn decide_one(
        &mut self,
        request: &Request,
        now: Timestamp,
        plan: &mut Plan,
    ) -> Result<Result<Decision, Rejection>, WriterError> {
        let command = match self.command(request, now, plan)? {
            Ok(command) => command,
            Err(rejection) => return Ok(Err(rejection)),
        };
        self.load(&command)?;
        let events = match decide(&self.state, &command, now) {
            Ok(events) => events,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let encoded: Vec<Encoded> = events.iter().map(codec::encode).collect();
        if encoded.iter().any(|(_, bytes)| bytes.len() > MAX_PLAINTEXT_BYTES) {
            return Ok(Err(Rejection::TooLong));
        }
        let first = plan.events.len();
        for (event, encoded) in events.into_iter().zip(encoded) {
            let position = self.head.plus(plan.events.len() as u64);
            evolve(&mut self.state, position, &event);
            let tag_key = self.store.vault.tag_key();
            let tag = match &event {
                Event::SubjectRegistered { subject, email, .. } => {
                    let tag = tag_key.email(email);
                    plan.new_subjects.insert(tag, *subject);
                    Some(tag)
                }
                Event::EmailRecorded { email, .. } => Some(tag_key.email(email)),
                Event::LicenseIssued { key, .. } | Event::LicenseKept { key, .. } => {
                    Some(tag_key.license_key(key))
                }
                _ => None,
            };
            let owner = |license| self.state.licenses.get(&license).map(|license| license.subject);
            let name = key_name(&event, owner).ok_or(StoreError::Mismatch(position))?;
            plan.events.push(Planned { event, encoded, key: NewKey { name, tag } });
        }
        Ok(Ok(Decision {
            events: plan.events.len() - first,
            license: self.license(&command).cloned(),
            activation: named_activation(&command)
                .and_then(|activation| self.state.activations.get(&activation).copied()),
        }))
    }

    /// What is asked for, in the words of the rules.
    fn command(
        &mut self,
        request: &Request,
        now: Timestamp,
        plan: &Plan,
    ) -> Result<Result<Command, Rejection>, WriterError> {
        let tag_key = self.store.vault.tag_key();
        Ok(Ok(match request {
            Request::Issue { license, email, name, key, terms, by } => {
                let subject = self.subject_of(email, plan);
                let (email, name, key) = (email.clone(), name.clone(), key.clone());
                let (terms, by) = (terms.clone(), by.clone());
                let issue = Issue { subject, email, name, key, terms, by };
                Command::License(*license, LicenseCommand::Issue(issue))
            }
            Request::Open { email, request, kind, received_at, by } => {
                let subject = self.subject_of(email, plan);
                let (request, kind, received_at) = (*request, *kind, *received_at);
                let by = by.clone();
                let open = SubjectCommand::OpenRequest { request, kind, received_at, by };
                Command::Subject(subject, open)
            }
            Request::License(license, command) => Command::License(*license, command.clone()),
            Request::Subject(subject, command) => {
                if let SubjectCommand::Rectify { email: Some(email), .. } = command {
                    let owner = self.store.vault.subject_by_email(&tag_key.email(email));
                    if owner.is_some_and(|owner| owner != *subject) {
                        return Ok(Err(Rejection::EmailTaken));
                    }
                }
                let mut command = command.clone();
                let (store, rng) = (&self.store, &mut *self.rng);
                match &mut command {
                    SubjectCommand::Rectify {
                        request, erasure, email, notices, authority, ..
                    } => {
                        let change = Change::Rectified { email: email.clone() };
                        *notices = erasure::notices(store, *subject, *erasure, &change, rng)?;
                        *authority = erasure::authority(store, *request)?;
                    }
                    SubjectCommand::Expire { erasure, notices } => {
                        let policy = self.policy.get();
                        *notices =
                            erasure::expiry_notices(store, &policy, *subject, *erasure, now, rng)?;
                    }
                    _ => {}
                }
                Command::Subject(*subject, command)
            }
            Request::Erase { subject, request, erasure, needs_approval, keep_licenses, by } => {
                let keep = if *keep_licenses {
                    erasure::kept_licenses(&self.store, *subject, now, &mut *self.rng)?
                } else {
                    Vec::new()
                };
                let (request, erasure, needs_approval) = (*request, *erasure, *needs_approval);
                let by = by.clone();
                let notices = erasure::notices(
                    &self.store,
                    *subject,
                    erasure,
                    &Change::Erased,
                    &mut *self.rng,
                )?;
                let mut authority = erasure::authority(&self.store, request)?;
                authority.keeps_licenses = *keep_licenses;
                Command::Subject(
                    *subject,
                    SubjectCommand::Erase {
                        request,
                        erasure,
                        needs_approval,
                        keep,
                        notices,
                        authority,
                        by,
                    },
                )
            }
            // They have batches of their own, and no rule.
            Request::MoveEpoch | Request::Settle(..) | Request::CloseDays(_) | Request::End => {
                return Ok(Err(Rejection::MasterKeyFixed));
            }
        }))
    }

    /// Puts into the state what exists of what the command names.
    fn load(&mut self, command: &Command) -> Result<(), StoreError> {
        let (store, state) = (&self.store, &mut self.state);
        let subject = match command {
            Command::License(id, command) => {
                if !state.licenses.contains_key(id)
                    && let Some(license) = store.license(*id)?
                {
                    state.licenses.insert(*id, license);
                }
                if let LicenseCommand::Issue(issue) = command { Some(issue.subject) } else { None }
            }
            Command::Subject(subject, _) => Some(*subject),
        };
        if let Some(subject) = subject
            && !state.subjects.contains_key(&subject)
            && let Some(known) = store.views.subject(subject)?
        {
            state.subjects.insert(subject, known);
        }
        if let Some(request) = named_request(command)
            && !state.requests.contains_key(&request)
            && let Some(known) = store.request(request)?
        {
            state.requests.insert(request, known);
        }
        if let Some(activation) = named_activation(command)
            && !state.activations.contains_key(&activation)
            && let Some(known) = store.views.activation(activation)?
        {
            state.activations.insert(activation, known);
        }
        Ok(())
    }

    fn license(&self, command: &Command) -> Option<&License> {
        match command {
            Command::License(id, _) => self.state.licenses.get(id),
            Command::Subject(..) => None,
        }
    }

    /// Who has this address, or a fresh id where nobody is known by it.
    fn subject_of(&mut self, email: &Email, plan: &Plan) -> SubjectId {
        let tag = self.store.vault.tag_key().email(email);
        let known = self.store.vault.subject_by_email(&tag);
        known.or_else(|| plan.new_subjects.get(&tag).copied()).unwrap_or_else(|| {
            let mut bytes = [0; 16];
            self.rng.fill_bytes(&mut bytes);
            SubjectId::from_bytes(bytes)
        })
    }

    /// Makes the keys that are not there yet, durably, then the records.
    fn seal(&mut self, events: &[Planned]) -> Result<Vec<Vec<u8>>, WriterError> {
        let mut slots: HashMap<KeyName, KeySlot> = HashMap::new();
        let mut new: Vec<NewKey> = Vec::new();
        for planned in events {
            let key = &planned.key;
            if slots.contains_key(&key.name) {
                continue;
            }
            let known = self.store.vault.find(&key.name).filter(|_| !planned.replaces());
            if let Some(slot) = known {
                slots.insert(key.name, slot);
            } else if !new.iter().any(|other| other.name == key.name) {
                new.push(*key);
            }
        }
        if !new.is_empty() {
            let made = self.store.vault.create(&new, self.head, &mut *self.rng);
            let made = made.map_err(StoreError::from)?;
            slots.extend(new.iter().map(|key| key.name).zip(made));
        }
        let mut keys: HashMap<KeySlot, DataKey> = HashMap::new();
        // All at once: each ask is a call of the system.
        let mut ids = vec![RecordId::default(); events.len()];
        self.rng.fill_bytes(ids.as_flattened_mut());
        let mut records = Vec::with_capacity(events.len());
        let planned = events.iter().zip(ids).zip(self.head.0..);
        for ((Planned { encoded, key, .. }, id), position) in planned {
            let slot = slots[&key.name];
            let data_key = match keys.entry(slot) {
                std::collections::hash_map::Entry::Occupied(key) => key.into_mut(),
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(self.store.vault.key(slot).map_err(StoreError::from)?)
                }
            };
            let record_key = RecordKey::derive(data_key, &id);
            let (event_type, ref plaintext) = *encoded;
            debug_assert_eq!(key.name.category(), codec::category(event_type));
            let commitment = *record_key.commitment();
            let position = Position(position);
            let header = Header { event_type, position, slot, id, commitment };
            let sealed = record_key.seal(plaintext, &header.to_bytes())?;
            records.push(record::encode(&header, &sealed));
        }
        Ok(records)
    }

    /// Whether the records are in the log now. If not, another writer was first.
    fn append(&mut self, records: &[Vec<u8>]) -> Result<bool, WriterError> {
        let log = &self.store.log;
        loop {
            match log.append(self.head, records)? {
                Append::Appended => return Ok(true),
                Append::Conflict { .. } => return Ok(false),
                // Record ids are random, so equal records are ours.
                Append::Unknown => {
                    let there = log.read(self.head, records.len())?;
                    if !there.is_empty() {
                        return Ok(there == records);
                    }
                }
            }
        }
    }

    /// Takes in what another writer appended.
    fn catch_up(&mut self) -> Result<(), WriterError> {
        self.state = State::default();
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        self.head = crate::log::scan(self.store.log.as_ref(), self.head, |position, bytes| {
            tree.push(record::hash(bytes));
            if let Ok((header, _)) = record::decode(bytes, position) {
                self.store.counts.add(header.slot);
            }
            Ok::<_, LogError>(())
        })?;
        drop(tree);
        Ok(self.store.catch_up(|_| ())?)
    }

    /// The events are durable: the views take them in, and everyone gets an answer.
    fn publish(&mut self, plan: Plan, records: &[Vec<u8>]) -> Result<Vec<Answer>, WriterError> {
        let hashes: Vec<RecordHash> = records.iter().map(|bytes| record::hash(bytes)).collect();
        if let Some(&last) = hashes.last() {
            let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
            for &hash in &hashes {
                tree.push(hash);
            }
            drop(tree);
            let events = plan.events.iter().map(|planned| &planned.event);
            let events = (self.head.0..).map(Position).zip(events);
            for (record, position) in records.iter().zip(self.head.0..) {
                if let Ok((header, _)) = record::decode(record, Position(position)) {
                    self.store.counts.add(header.slot);
                }
            }
            let next = self.head.plus(records.len() as u64);
            let is_erased = |position| self.store.is_erased(position);
            let views = &self.store.views;
            views.apply(events, Checkpoint { next, last }, &is_erased).map_err(StoreError::from)?;
            self.head = next;
        }
        let mut stored = plan
            .events
            .into_iter()
            .zip(hashes)
            .map(|(planned, hash)| Stored { event: planned.event, hash });
        let mut granted = |decision: Decision| Granted {
            events: stored.by_ref().take(decision.events).collect(),
            license: decision.license,
            activation: decision.activation,
        };
        Ok(plan.decisions.into_iter().map(|decision| decision.map(&mut granted)).collect())
    }
}

fn named_activation(command: &Command) -> Option<crate::domain::ActivationId> {
    match command {
        Command::License(
            _,
            LicenseCommand::Activate { activation, .. }
            | LicenseCommand::Deactivate { activation, .. },
        ) => Some(*activation),
        _ => None,
    }
}

fn named_request(command: &Command) -> Option<RequestId> {
    match command {
        Command::Subject(
            _,
            SubjectCommand::Step { request, .. }
            | SubjectCommand::Exported { request, .. }
            | SubjectCommand::Rectify { request, .. }
            | SubjectCommand::Erase { request, .. },
        ) => Some(*request),
        _ => None,
    }
}
