//! The log and the vault as one server sees them: those that all share, with what is scheduled to go
//! wrong on the way.
//!
//! A fault meets the Nth call. What it leaves is what the traits' laws allow: an append and the
//! destruction of keys happen as a whole or not at all, of new keys any beginning may be there, and
//! what a call that was not answered did may have happened.

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

/// What another server does meanwhile.
pub(crate) type Meanwhile = Box<dyn FnOnce() + Send>;

/// What goes wrong.
pub(crate) enum Fault {
    /// The process ends.
    Crash(When),
    /// The call fails.
    Fail(When),
    /// The reply of an append is lost.
    Lost(When),
    /// Another server goes first: before an append, so that it conflicts, or while the reply is slow.
    Other(When, Meanwhile),
}

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

/// Whether the caller hears what became of a call. What nobody hears of may have been done in part,
/// where the laws let it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Yes,
    No,
}

/// What is scheduled for one server.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Schedule>);

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
        *lock(&self.0) = Schedule { armed: Some((counted, calls, fault)), has_struck: false };
    }

    /// Nothing goes wrong any more. What another server was to do meanwhile comes back.
    pub(crate) fn calm(&self) -> Option<Meanwhile> {
        match std::mem::take(&mut *lock(&self.0)).armed {
            Some((_, _, Fault::Other(_, meanwhile))) => Some(meanwhile),
            _ => None,
        }
    }

    /// Whether the server may have ended by a fault.
    pub(crate) fn has_struck(&self) -> bool {
        lock(&self.0).has_struck
    }

    fn due(&self, call: Call) -> Option<Fault> {
        let mut schedule = lock(&self.0);
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
        schedule.has_struck |= matches!(fault, Fault::Crash(_) | Fault::Fail(_));
        Some(fault)
    }

    fn meet<T, E: From<io::Error>>(
        &self,
        call: Call,
        work: impl FnOnce(Heard) -> Result<T, E>,
    ) -> Result<T, E> {
        match self.due(call) {
            None | Some(Fault::Lost(_)) => work(Heard::Yes),
            Some(Fault::Crash(When::Before)) => crash(),
            Some(Fault::Crash(When::After)) => {
                let _ = work(Heard::No);
                crash()
            }
            Some(Fault::Fail(When::Before)) => Err(injected().into()),
            Some(Fault::Fail(When::After)) => {
                let _ = work(Heard::No);
                Err(injected().into())
            }
            Some(Fault::Other(When::Before, meanwhile)) => {
                meanwhile();
                work(Heard::Yes)
            }
            Some(Fault::Other(When::After, meanwhile)) => {
                let done = work(Heard::Yes);
                meanwhile();
                done
            }
        }
    }
}

/// Ends a server here. No panic hook hears of it.
fn crash() -> ! {
    resume_unwind(Box::new(Crash))
}

fn injected() -> io::Error {
    io::Error::other("injected")
}

/// The shared log, as one server sees it.
pub(crate) struct SimLog {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) vault: Arc<MemoryVault>,
    pub(crate) witness: Arc<Mutex<Witness>>,
    pub(crate) faults: Arc<Faults>,
}

impl SimLog {
    fn append_now(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
        let appended = self.log.append(expected, records)?;
        if appended == Append::Appended {
            lock(&self.witness).appended(expected, records, self.vault.as_ref());
        }
        Ok(appended)
    }
}

impl Log for SimLog {
    fn head(&self) -> Result<Position, LogError> {
        self.faults.meet(Call::Read, |_| self.log.head())
    }

    fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
        let is_lost =
            matches!(&lock(&self.faults.0).armed, Some((Counted::Appends, 0, Fault::Lost(_))));
        if is_lost {
            let lost = self.faults.due(Call::Append);
            if let Some(Fault::Lost(When::After)) = lost {
                let _ = self.append_now(expected, records)?;
            }
            return Ok(Append::Unknown);
        }
        self.faults.meet(Call::Append, |_| self.append_now(expected, records))
    }

    fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
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
        self.faults.meet(Call::Change, |heard| {
            let made = if heard == Heard::Yes { keys.len() } else { keys.len().div_ceil(2) };
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
