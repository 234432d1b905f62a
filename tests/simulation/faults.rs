//! The log and the vault as one server sees them: those that all share, with what is scheduled to go
//! wrong on the way.
//!
//! A fault meets the Nth call. What it leaves is what the traits' laws allow: an append and the
//! destruction of keys happen as a whole or not at all, of new keys any beginning may be there, and
//! what a call that was not answered did may have happened. A torn append leaves a beginning too, which
//! is cut off when the log is opened the next time; until then nobody may go on with the log.

use std::collections::BTreeMap;
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign::domain::{LicenseId, NoticeId, Position, SubjectId};
use countersign::log::memory::MemoryLog;
use countersign::log::record::KeySlot;
use countersign::log::{Append, Log, LogError};
use countersign::seal::{DataKey, LookupTag, TagKey};
use countersign::vault::memory::MemoryVault;
use countersign::vault::{KeyName, NewKey, SlotState, Vault, VaultError};
use rand::CryptoRng;

use crate::witness::Witness;

/// What a server that crashes unwinds with.
pub(crate) struct Crash;

/// Whether a fault comes before the call does its work, or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    After,
}

/// What a call leaves of its work when the server ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    Part,
    All,
}

/// What happens meanwhile.
pub(crate) type Meanwhile = Box<dyn FnOnce() + Send>;

/// What goes wrong.
pub(crate) enum Fault {
    /// The process ends.
    Crash(Left),
    /// The call fails.
    Fail(Left),
    /// The reply of an append is lost.
    Lost(When),
    /// The call is slow, and time passes, clients come and give up, or another server goes on: before an
    /// append, which conflicts then, or before the reply.
    Slow(When, Meanwhile),
}

impl Fault {
    fn kind(&self) -> &'static str {
        match self {
            Self::Crash(_) => "crashes",
            Self::Fail(_) => "failed calls",
            Self::Lost(_) => "lost replies",
            Self::Slow(..) => "slow calls",
        }
    }
}

/// How often what took place.
pub(crate) type Tally = BTreeMap<&'static str, u64>;

pub(crate) fn add(to: &mut Tally, more: Tally) {
    for (kind, count) in more {
        *to.entry(kind).or_default() += count;
    }
}

/// What must take place in a whole run.
pub(crate) const KINDS: [&str; 7] = [
    "crashes",
    "failed calls",
    "lost replies",
    "slow calls",
    "conflicts",
    "torn appends cut off",
    "clients who gave up",
];

/// Which calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// All.
    Any,
    /// Those that change something.
    Changes,
    /// Appends.
    Appends,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    Change,
    Append,
}

/// What is scheduled for one server.
#[derive(Default)]
pub(crate) struct Faults {
    schedule: Mutex<Schedule>,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Schedule {
    armed: Option<(Counted, u32, Fault)>,
    /// One that ends a server has met a call.
    has_struck: bool,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    /// After `calls` of these calls, the next one meets the fault.
    pub(crate) fn arm(&self, counted: Counted, calls: u32, fault: Fault) {
        *lock(&self.schedule) =
            Schedule { armed: Some((counted, calls, fault)), has_struck: false };
    }

    /// Nothing goes wrong any more. What was to happen meanwhile, and did not, comes back.
    pub(crate) fn calm(&self) -> Option<Meanwhile> {
        match std::mem::take(&mut *lock(&self.schedule)).armed {
            Some((_, _, Fault::Slow(_, meanwhile))) => Some(meanwhile),
            _ => None,
        }
    }

    /// Whether the server may have ended by a fault.
    pub(crate) fn has_struck(&self) -> bool {
        lock(&self.schedule).has_struck
    }

    /// What took place so far.
    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    fn count(&self, kind: &'static str) {
        *lock(&self.tally).entry(kind).or_default() += 1;
    }

    fn due(&self, call: Call) -> Option<Fault> {
        let mut schedule = lock(&self.schedule);
        let (counted, calls, _) = schedule.armed.as_mut()?;
        let counts = match counted {
            Counted::Any => true,
            Counted::Changes => call != Call::Read,
            Counted::Appends => call == Call::Append,
        };
        if !counts {
            return None;
        }
        if *calls > 0 {
            *calls -= 1;
            return None;
        }
        let (_, _, fault) = schedule.armed.take()?;
        self.count(fault.kind());
        schedule.has_struck |= matches!(fault, Fault::Crash(_) | Fault::Fail(_));
        Some(fault)
    }

    fn meet<T, E: From<io::Error>>(
        &self,
        call: Call,
        work: impl FnOnce(Left) -> Result<T, E>,
    ) -> Result<T, E> {
        match self.due(call) {
            None | Some(Fault::Lost(_)) => work(Left::All),
            Some(Fault::Crash(left)) => {
                leave(left, work);
                // No panic hook hears of it.
                resume_unwind(Box::new(Crash))
            }
            Some(Fault::Fail(left)) => {
                leave(left, work);
                Err(io::Error::other("injected").into())
            }
            Some(Fault::Slow(When::Before, meanwhile)) => {
                meanwhile();
                work(Left::All)
            }
            Some(Fault::Slow(When::After, meanwhile)) => {
                let done = work(Left::All);
                meanwhile();
                done
            }
        }
    }
}

fn leave<T>(left: Left, work: impl FnOnce(Left) -> T) {
    if left != Left::Nothing {
        work(left);
    }
}

/// What a torn append left behind the last whole one.
#[derive(Default)]
pub(crate) struct Torn(Mutex<Vec<Vec<u8>>>);

impl Torn {
    /// As the log's engine does when it is opened. Whether there was anything.
    pub(crate) fn cut_off(&self) -> bool {
        !std::mem::take(&mut *lock(&self.0)).is_empty()
    }
}

/// The shared log, as one server sees it.
pub(crate) struct SimLog {
    pub(crate) log: Arc<MemoryLog>,
    /// `None`: others are on it too, who would see what is torn before it is cut off.
    pub(crate) torn: Option<Arc<Torn>>,
    pub(crate) vault: Arc<MemoryVault>,
    pub(crate) witness: Arc<Mutex<Witness>>,
    pub(crate) faults: Arc<Faults>,
}

impl SimLog {
    fn assert_not_torn(&self) {
        let is_torn = self.torn.as_ref().is_some_and(|torn| !lock(&torn.0).is_empty());
        assert!(!is_torn, "a server goes on with a log that it failed to write");
    }

    fn append_now(
        &self,
        expected: Position,
        records: &[Vec<u8>],
        left: Left,
    ) -> Result<Append, LogError> {
        if left == Left::Part {
            let Some(torn) = &self.torn else { return Ok(Append::Unknown) };
            lock(&torn.0).extend_from_slice(&records[..records.len().div_ceil(2)]);
            return Ok(Append::Unknown);
        }
        let appended = self.log.append(expected, records)?;
        match appended {
            Append::Appended => {
                lock(&self.witness).appended(expected, records, self.vault.as_ref());
            }
            Append::Conflict { .. } => self.faults.count("conflicts"),
            Append::Unknown => {}
        }
        Ok(appended)
    }
}

impl Log for SimLog {
    fn head(&self) -> Result<Position, LogError> {
        self.assert_not_torn();
        self.faults.meet(Call::Read, |_| self.log.head())
    }

    fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
        self.assert_not_torn();
        let is_lost = matches!(
            &lock(&self.faults.schedule).armed,
            Some((Counted::Appends, 0, Fault::Lost(_)))
        );
        if is_lost {
            let lost = self.faults.due(Call::Append);
            if let Some(Fault::Lost(When::After)) = lost {
                let _ = self.append_now(expected, records, Left::All)?;
            }
            return Ok(Append::Unknown);
        }
        self.faults.meet(Call::Append, |left| self.append_now(expected, records, left))
    }

    fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        self.assert_not_torn();
        self.faults.meet(Call::Read, |_| self.log.read(from, limit))
    }
}

/// The shared vault, as one server sees it.
pub(crate) struct SimVault {
    pub(crate) vault: Arc<MemoryVault>,
    pub(crate) witness: Arc<Mutex<Witness>>,
    pub(crate) faults: Arc<Faults>,
}

impl SimVault {
    /// As a server does at its start.
    pub(crate) fn destroy_unused(
        &self,
        is_used: impl Fn(KeySlot) -> bool,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), VaultError> {
        self.faults.meet(Call::Change, |_| self.vault.destroy_unused(is_used, rng))
    }
}

impl Vault for SimVault {
    fn tag_key(&self) -> &TagKey {
        self.vault.tag_key()
    }

    fn create(
        &self,
        keys: &[NewKey],
        head: Position,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<KeySlot>, VaultError> {
        self.faults.meet(Call::Change, |left| {
            let made = if left == Left::All { keys.len() } else { keys.len().div_ceil(2) };
            self.vault.create(&keys[..made], head, rng)
        })
    }

    fn find(&self, name: &KeyName) -> Option<KeySlot> {
        self.vault.find(name)
    }

    fn key(&self, slot: KeySlot) -> Result<DataKey, VaultError> {
        self.faults.meet(Call::Read, |_| self.vault.key(slot))
    }

    fn state(&self, slot: KeySlot) -> SlotState {
        self.vault.state(slot)
    }

    fn of_subject(&self, subject: SubjectId) -> Vec<(KeyName, KeySlot)> {
        self.vault.of_subject(subject)
    }

    fn notices(&self) -> Vec<(NoticeId, KeySlot)> {
        self.vault.notices()
    }

    fn subject_by_email(&self, tag: &LookupTag) -> Option<SubjectId> {
        self.vault.subject_by_email(tag)
    }

    fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId> {
        self.vault.license_by_key(tag)
    }

    fn destroy(&self, slots: &[KeySlot], rng: &mut dyn CryptoRng) -> Result<(), VaultError> {
        self.faults.meet(Call::Change, |_| {
            self.vault.destroy(slots, rng)?;
            lock(&self.witness).destroyed(slots);
            Ok(())
        })
    }

    fn slots_used(&self) -> u32 {
        self.vault.slots_used()
    }

    fn epoch(&self) -> u32 {
        self.vault.epoch()
    }

    fn move_epoch(&self, rng: &mut dyn CryptoRng) -> Result<(), VaultError> {
        self.faults.meet(Call::Change, |_| self.vault.move_epoch(rng))
    }
}
