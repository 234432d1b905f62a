//! What an erasure destroys: which keys of a person are to go, and how many records go with them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::RangeFrom;

use rand::CryptoRng;

use super::store::{Issued, Store, StoreError, Stored};
use crate::domain::{
    Authority, Category, Change, ErasureId, Event, KeptActivation, KeptLicense, LicenseId, Notice,
    NoticeId, Position, RequestId, RequestStep, SealedActor, Status, SubjectId, Timestamp,
};
use crate::log::record::{self, KeySlot};
use crate::log::{LogError, codec, scan};
use crate::policy::Policy;
use crate::policy::retention::{Span, seat_years};
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
    let mut ends = BTreeMap::new();
    for license in licenses(store, subject)? {
        ends.insert(license, license_end(store, license)?);
    }
    let is_expired = |end: &Option<Timestamp>| {
        end.is_some_and(|end| end <= now && is_over(Category::License, end))
    };
    let is_over_with = |end: Timestamp| is_over(Category::ActivationTime, end.end_of_year());
    let may_go = |name: &KeyName| match name {
        KeyName::Activations(_, year) => is_over_with(Timestamp::start_of_year(*year)),
        _ => false,
    };
    let names = store.vault.of_subject(subject);
    let mut spans = Vec::new();
    // When seats were taken and freed is in many records, and of most persons nothing can go.
    if ends.values().any(is_expired) || names.iter().any(|(name, _)| may_go(name)) {
        for (license, end) in &ends {
            let of_license = activation_spans(store, *license, *end)?;
            spans.extend(of_license.into_iter().map(|span| (*license, span)));
        }
    }
    let years = seat_years(spans.iter().map(|(_, span)| *span)).into_iter();
    let years = years.filter(|together| together.ended.is_some_and(is_over_with));
    let years: BTreeSet<u16> = years.flat_map(|together| together.years).collect();
    let still_used: HashSet<LicenseId> = spans
        .iter()
        .filter(|(_, span)| !years.contains(&span.begun.year()))
        .map(|(license, _)| *license)
        .collect();
    let open_years = open_request_years(store, subject)?;

    let mut keys = Vec::new();
    for (license, end) in &ends {
        // A license stays for as long as something is said of it.
        if is_expired(end) && !still_used.contains(license) {
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
    for (name, slot) in names {
        let goes = match name {
            // Whoever got the address must be known for as long as there is one to be told of.
            KeyName::Identity(_) | KeyName::Disclosures(_) => is_over_for(Category::Email),
            // Names that were stored go when the policy does not let names be stored any more.
            KeyName::Name(_) => {
                policy.category(Category::Name).is_none() || is_over_for(Category::Name)
            }
            KeyName::Activations(_, year) => years.contains(&year),
            KeyName::Access(_, year) => {
                !open_years.contains(&year)
                    && is_over(Category::AccessRecord, Timestamp::start_of_year(year).end_of_year())
            }
            KeyName::License(_) | KeyName::Notice(_) | KeyName::System => false,
        };
        if goes {
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

/// Whether keys of a person were destroyed, and the views do not know yet.
pub(super) fn is_begun(store: &Store, subject: SubjectId) -> Result<bool, StoreError> {
    for position in positions(store, subject)? {
        if store.is_erased(position)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many records of which event type went with keys that were destroyed, and are in no statement yet:
/// those of the one erasure that was interrupted. Notices go without a statement. Reads the whole log.
pub(super) fn unstated_records(store: &Store) -> Result<BTreeMap<u8, u64>, StoreError> {
    let mut gone: BTreeMap<u8, u64> = BTreeMap::new();
    let mut statements = Vec::new();
    scan(store.log.as_ref(), Position::ZERO, |position, bytes| {
        let (header, _) =
            record::decode(bytes, position).map_err(|error| LogError::Damaged(position, error))?;
        if codec::category(header.event_type).is_none() {
            statements.push(position);
        } else if store.vault.state(header.slot) == SlotState::Destroyed
            && header.event_type != codec::NOTICE_CREATED
        {
            *gone.entry(header.event_type).or_default() += 1;
        }
        Ok::<_, LogError>(())
    })?;
    for (_, Stored { event, .. }) in store.events(statements)? {
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

/// What is to be told where this goes: a recipient has the address, so only its end concerns them.
pub(super) fn expiry_notices(
    store: &Store,
    policy: &Policy,
    subject: SubjectId,
    erasure: ErasureId,
    now: Timestamp,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<Notice>, StoreError> {
    let address = store.vault.find(&KeyName::Identity(subject));
    let expired = expired_keys(store, policy, subject, now)?;
    if address.is_some_and(|address| expired.contains(&address)) {
        notices(store, subject, erasure, &Change::Erased, rng)
    } else {
        Ok(Vec::new())
    }
}

/// Who opened a request and who approved it, which their access records say.
pub(super) fn authority(store: &Store, request: RequestId) -> Result<Authority, StoreError> {
    let mut authority = Authority::default();
    let Some(view) = store.views.request(request)? else { return Ok(authority) };
    // The record of who took a step comes right after it.
    let actor = |step: Position| -> Result<Option<SealedActor>, StoreError> {
        match store.event(step.plus(1))?.event {
            Event::AccessRecorded { access, .. } if access.request == Some(request) => {
                Ok(access.actor.sealed().cloned())
            }
            _ => Ok(None),
        }
    };
    authority.opened_by = actor(view.opened)?;
    for step in view.steps {
        if let Event::RequestStepped { step: RequestStep::Approved, .. } = store.event(step)?.event
        {
            authority.approved_by = actor(step)?;
        }
    }
    Ok(authority)
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

/// The years from that on in which a person opened a request that is still open: its steps may be in
/// any of them.
fn open_request_years(store: &Store, subject: SubjectId) -> Result<RangeFrom<u16>, StoreError> {
    let mut first = u16::MAX;
    for request in store.views.open_requests()? {
        if let Some(view) = store.views.request(request)?
            && view.subject == subject
        {
            first = first.min(store.event(view.opened)?.event.at().year());
        }
    }
    Ok(first..)
}
