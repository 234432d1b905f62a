//! What an erasure destroys: which keys of a person are to go, and how many records go with them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rand::CryptoRng;

use super::store::{Issued, Store, StoreError};
use crate::domain::{
    Category, Change, ErasureId, Event, KeptActivation, KeptLicense, LicenseId, Notice, NoticeId,
    Position, Status, SubjectId, Timestamp,
};
use crate::log::record::{self, KeySlot};
use crate::log::{self, LogError, codec};
use crate::policy::Policy;
use crate::vault::{KeyName, SlotState};
use crate::views::Entry;

/// How many entries are read at a time.
const ENTRIES: usize = 1000;

/// Every key of a person and of their licenses, with what it seals.
pub(super) fn keys(
    store: &Store,
    subject: SubjectId,
) -> Result<Vec<(Category, KeySlot)>, StoreError> {
    let own = store.vault.of_subject(subject).into_iter();
    let mut keys: Vec<(Category, KeySlot)> =
        own.filter_map(|(name, slot)| Some((name.category()?, slot))).collect();
    for license in licenses(store, subject)? {
        let slot = store.vault.find(&KeyName::License(license));
        keys.extend(slot.map(|slot| (Category::License, slot)));
    }
    Ok(keys)
}

/// The keys of addresses and names that newer ones have taken the place of.
pub(super) fn replaced_keys(store: &Store, subject: SubjectId) -> Vec<KeySlot> {
    let keys = store.vault.of_subject(subject).into_iter();
    let replaced = |name: &KeyName, slot: KeySlot| {
        matches!(name, KeyName::Identity(_) | KeyName::Name(_))
            && store.vault.find(name) != Some(slot)
    };
    keys.filter(|(name, slot)| replaced(name, *slot)).map(|(_, slot)| slot).collect()
}

/// The keys of what was kept for as long as the policy says.
pub(super) fn expired_keys(
    store: &Store,
    policy: &Policy,
    subject: SubjectId,
    now: Timestamp,
) -> Result<Vec<KeySlot>, StoreError> {
    let is_over = |category, from| policy.kept_until(category, from) <= now;
    let Some(known) = store.views.subject(subject)? else { return Ok(Vec::new()) };
    if known.restricted || known.held {
        return Ok(Vec::new());
    }
    let mut spans = Vec::new();
    let mut ends = BTreeMap::new();
    for license in licenses(store, subject)? {
        let end = license_end(store, license)?;
        ends.insert(license, end);
        for span in activation_spans(store, license, end)? {
            spans.push((license, span));
        }
    }
    let years = expired_years(spans.iter().map(|(_, span)| *span), |end| {
        is_over(Category::ActivationTime, end.end_of_year())
    });
    let still_used: HashSet<LicenseId> = spans
        .iter()
        .filter(|(_, span)| !years.contains(&span.begun.year()))
        .map(|(license, _)| *license)
        .collect();
    let open_since = open_since(store, subject)?;

    let mut keys = Vec::new();
    for (license, end) in &ends {
        // A license stays for as long as something is said of it.
        let is_expired = end.is_some_and(|end| end <= now && is_over(Category::License, end));
        if is_expired && !still_used.contains(license) {
            keys.extend(store.vault.find(&KeyName::License(*license)));
        }
    }
    // `None`: one never ends. Where no license is left at all, the person is nobody's customer any more.
    let all_ends = ends.values().copied().collect::<Option<Vec<_>>>();
    let is_over_for = |category| {
        all_ends.as_ref().is_some_and(|ends| {
            ends.iter().max().is_none_or(|last_end| is_over(category, *last_end))
        })
    };
    for (name, slot) in store.vault.of_subject(subject) {
        let is_expired = match name {
            KeyName::Identity(_) => is_over_for(Category::Email),
            // Names that were stored go when the policy does not let names be stored any more.
            KeyName::Name(_) => {
                policy.category(Category::Name).is_none() || is_over_for(Category::Name)
            }
            KeyName::Activations(_, year) => years.contains(&year),
            KeyName::Access(_, year) => {
                open_since.is_none_or(|open| year < open)
                    && is_over(Category::AccessRecord, Timestamp::start_of_year(year).end_of_year())
            }
            KeyName::License(_) | KeyName::Notice(_) | KeyName::System => false,
        };
        if is_expired {
            keys.push(slot);
        }
    }
    Ok(keys)
}

/// How many records of which event type are sealed under these keys.
pub(super) fn records_under(
    store: &Store,
    subject: SubjectId,
    keys: &[KeySlot],
) -> Result<Vec<(u8, u64)>, StoreError> {
    let keys: HashSet<KeySlot> = keys.iter().copied().collect();
    let mut counts: BTreeMap<u8, u64> = BTreeMap::new();
    for position in positions(store, subject)? {
        let header = store.header(position)?;
        if keys.contains(&header.slot) {
            *counts.entry(header.event_type).or_default() += 1;
        }
    }
    Ok(counts.into_iter().collect())
}

/// How many records of which event type went with keys that were destroyed, and are in no statement yet:
/// those of an erasure that was interrupted. Notices go without a statement.
pub(super) fn unstated(store: &Store) -> Result<BTreeMap<u8, u64>, StoreError> {
    let system = store.vault.find(&KeyName::System);
    let mut gone: BTreeMap<u8, u64> = BTreeMap::new();
    let mut statements = Vec::new();
    log::scan(store.log.as_ref(), Position::ZERO, |position, bytes| {
        let (header, _) =
            record::decode(bytes, position).map_err(|error| LogError::Damaged(position, error))?;
        if Some(header.slot) == system {
            statements.push(position);
        } else if store.vault.state(header.slot) == SlotState::Destroyed
            && header.event_type != codec::NOTICE_CREATED
        {
            *gone.entry(header.event_type).or_default() += 1;
        }
        Ok::<_, LogError>(())
    })?;
    for (_, event) in store.events(statements)? {
        let Event::DataErased { records, .. } = event else { continue };
        for (event_type, count) in records {
            let left = gone.entry(event_type).or_default();
            *left = left.saturating_sub(count);
        }
    }
    gone.retain(|_, count| *count > 0);
    Ok(gone)
}

/// Where everything about a person is: their own events and those of their licenses.
pub(super) fn positions(store: &Store, subject: SubjectId) -> Result<Vec<Position>, StoreError> {
    let mut positions = Vec::new();
    for entry in subject_entries(store, subject)? {
        positions.push(entry.position);
        if let Some(license) = entry.issued {
            let entries = license_entries(store, license)?;
            positions.extend(entries.iter().map(|entry| entry.position));
        }
    }
    positions.sort_unstable();
    Ok(positions)
}

/// The licenses of a person that are good for something, under fresh ids, with the seats in use.
pub(super) fn kept_licenses(
    store: &Store,
    subject: SubjectId,
    now: Timestamp,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<KeptLicense>, StoreError> {
    let mut kept = Vec::new();
    for license in licenses(store, subject)? {
        let Some(view) = store.views.license(license)? else { continue };
        let Issued { key, terms, .. } = store.issued(&view)?;
        if view.status == Status::Revoked || terms.expires_at.is_some_and(|end| end <= now) {
            continue;
        }
        let mut activations = Vec::new();
        for entry in license_entries(store, license)? {
            let Some(activation) = entry.activated else { continue };
            if store.views.activation(activation)?.is_none_or(|known| known.ended.is_some()) {
                continue;
            }
            match store.event(entry.position)?.event {
                Event::Activated { signing_key, lease_until, .. }
                | Event::ActivationKept { signing_key, lease_until, .. } => {
                    activations.push(KeptActivation { activation, signing_key, lease_until });
                }
                _ => return Err(StoreError::Mismatch(entry.position)),
            }
        }
        let [mut license, mut subject] = [[0; 16]; 2];
        rng.fill_bytes(&mut license);
        rng.fill_bytes(&mut subject);
        kept.push(KeptLicense {
            license: LicenseId::from_bytes(license),
            subject: SubjectId::from_bytes(subject),
            key,
            terms,
            suspended: view.status == Status::Suspended,
            activations,
        });
    }
    Ok(kept)
}

/// What is to be told to each recipient that got data of a person.
pub(super) fn notices(
    store: &Store,
    subject: SubjectId,
    erasure: ErasureId,
    change: &Change,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<Notice>, StoreError> {
    let Some(email) = store.email(subject)? else { return Ok(Vec::new()) };
    let mut recipients = BTreeSet::new();
    for entry in subject_entries(store, subject)?.into_iter().filter(|entry| entry.disclosed) {
        match store.event(entry.position)?.event {
            Event::Disclosed { recipient, .. } => recipients.insert(recipient),
            _ => return Err(StoreError::Mismatch(entry.position)),
        };
    }
    let notice = |recipient| {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        let (id, email, change) = (NoticeId::from_bytes(id), email.clone(), change.clone());
        Notice { id, subject, erasure, recipient, email, change }
    };
    Ok(recipients.into_iter().map(notice).collect())
}

/// All of a person's own entries.
pub(super) fn subject_entries(store: &Store, subject: SubjectId) -> Result<Vec<Entry>, StoreError> {
    all_entries(|from| Ok(store.views.subject_entries(subject, from, ENTRIES)?))
}

/// All of a license's entries.
pub(super) fn license_entries(store: &Store, license: LicenseId) -> Result<Vec<Entry>, StoreError> {
    all_entries(|from| Ok(store.views.license_entries(license, from, ENTRIES)?))
}

fn all_entries(
    read: impl Fn(Position) -> Result<Vec<Entry>, StoreError>,
) -> Result<Vec<Entry>, StoreError> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let next = entries.last().map_or(Position::ZERO, |last| last.position.plus(1));
        let page = read(next)?;
        if page.is_empty() {
            return Ok(entries);
        }
        entries.extend(page);
    }
}

fn licenses(store: &Store, subject: SubjectId) -> Result<Vec<LicenseId>, StoreError> {
    Ok(subject_entries(store, subject)?.into_iter().filter_map(|entry| entry.issued).collect())
}

/// When a license ended or will end; `None`: never.
fn license_end(store: &Store, license: LicenseId) -> Result<Option<Timestamp>, StoreError> {
    let Some(view) = store.views.license(license)? else { return Ok(None) };
    let expires_at = store.issued(&view)?.terms.expires_at;
    if view.status != Status::Revoked {
        return Ok(expires_at);
    }
    for entry in license_entries(store, license)?.iter().rev() {
        if entry.activated.is_none()
            && let Event::LicenseRevoked { at, .. } = store.event(entry.position)?.event
        {
            return Ok(Some(expires_at.map_or(at, |end| end.min(at))));
        }
    }
    Ok(expires_at)
}

/// When a seat was in use.
#[derive(Debug, Clone, Copy)]
struct Span {
    begun: Timestamp,
    /// `None`: it still is.
    ended: Option<Timestamp>,
}

fn activation_spans(
    store: &Store,
    license: LicenseId,
    license_end: Option<Timestamp>,
) -> Result<Vec<Span>, StoreError> {
    let mut spans = Vec::new();
    for entry in license_entries(store, license)? {
        let Some(activation) = entry.activated else { continue };
        let begun = store.event(entry.position)?.event.at();
        let known = store.views.activation(activation)?;
        let ended = known.and_then(|known| known.ended);
        let ended = ended.map(|at| store.event(at)).transpose()?.map(|stored| stored.event.at());
        spans.push(Span { begun, ended: ended.or(license_end) });
    }
    Ok(spans)
}

/// The years whose activations can go. Those that a seat was taken and freed in go together, so that
/// nobody reads of the one without the other.
fn expired_years(
    spans: impl Iterator<Item = Span>,
    is_over: impl Fn(Timestamp) -> bool,
) -> BTreeSet<u16> {
    let mut groups: Vec<(BTreeSet<u16>, bool)> = Vec::new();
    for span in spans {
        let last = span.ended.map_or(span.begun.year(), Timestamp::year);
        let mut years = BTreeSet::from([span.begun.year(), last]);
        let mut can_go = span.ended.is_some_and(&is_over);
        groups.retain(|(other, other_can_go)| {
            let is_apart = other.is_disjoint(&years);
            if !is_apart {
                years.extend(other);
                can_go &= other_can_go;
            }
            is_apart
        });
        groups.push((years, can_go));
    }
    groups.into_iter().filter(|(_, can_go)| *can_go).flat_map(|(years, _)| years).collect()
}

/// The year in which the oldest request of a person was opened that is still open. What is recorded
/// from then on may be a step of it.
fn open_since(store: &Store, subject: SubjectId) -> Result<Option<u16>, StoreError> {
    let mut oldest: Option<u16> = None;
    for request in store.views.open_requests()? {
        if let Some(view) = store.views.request(request)?
            && view.subject == subject
        {
            let year = store.event(view.opened)?.event.at().year();
            oldest = Some(oldest.map_or(year, |oldest| oldest.min(year)));
        }
    }
    Ok(oldest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(year: u16) -> Timestamp {
        Timestamp::start_of_year(year).plus(Duration::from_secs(1_000_000))
    }

    #[test]
    fn years_go_when_all_that_a_seat_was_in_them_for_can_go() {
        let span = |begun, ended: Option<u16>| Span { begun: at(begun), ended: ended.map(at) };
        let expired = |spans: &[Span]| -> Vec<u16> {
            expired_years(spans.iter().copied(), |end| end.year() <= 2024).into_iter().collect()
        };
        let none = Vec::<u16>::new();
        assert_eq!(expired(&[]), none);
        assert_eq!(expired(&[span(2020, Some(2020)), span(2021, None)]), [2020]);
        assert_eq!(expired(&[span(2020, Some(2023)), span(2021, None)]), [2020, 2023]);
        assert_eq!(expired(&[span(2020, Some(2021)), span(2021, None)]), none);
        assert_eq!(expired(&[span(2020, Some(2021)), span(2021, Some(2025))]), none);
        assert_eq!(
            expired(&[span(2020, Some(2021)), span(2022, Some(2024)), span(2021, Some(2022))]),
            [2020, 2021, 2022, 2024]
        );
    }
}
