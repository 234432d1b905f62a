use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::row::{EntriesRow, EntryRow};
use super::store::Key;
use super::*;
use crate::domain::{
    Authority, Change, Counts, Email, ErasureReason, Notice, NoticeOutcome, RecipientName,
    RestrictionKind, SigningKeyId, Timestamp,
};
use crate::domain::{LicenseKey, Product, Seats, Terms};
#[cfg(target_os = "linux")]
use crate::log::contained::WORKERS;

const SUBJECT: SubjectId = SubjectId::from_bytes([1; 16]);
const LICENSE: LicenseId = LicenseId::from_bytes([2; 16]);

fn activation(byte: u8) -> ActivationId {
    ActivationId::from_bytes([byte; 16])
}

fn events() -> Vec<(Position, Event)> {
    let at = Timestamp::from_millis(0).unwrap();
    let activated = |byte| Event::Activated {
        license: LICENSE,
        activation: activation(byte),
        signing_key: SigningKeyId::from_bytes([0; 32]),
        lease_until: None,
        at,
    };
    let events = [
        Event::SubjectRegistered {
            subject: SUBJECT,
            email: Email::parse("ada@example.com").unwrap(),
            at,
        },
        Event::LicenseIssued {
            license: LICENSE,
            subject: SUBJECT,
            key: LicenseKey::generate(|| 0),
            terms: Terms {
                product: Product::parse("p").unwrap(),
                seats: Seats::new(3).unwrap(),
                expires_at: None,
                updates_until: None,
            },
            at,
        },
        activated(10),
        activated(11),
        Event::Deactivated { license: LICENSE, activation: activation(10), by_staff: false, at },
        Event::LicenseSuspended { license: LICENSE, at },
    ];
    (0..).map(Position).zip(events).collect()
}

fn pairs(events: &[(Position, Event)]) -> impl Iterator<Item = (Position, &Event)> {
    events.iter().map(|(position, event)| (*position, event))
}

/// Takes events in, of which nothing is erased.
fn take<'e>(views: &Views, events: impl IntoIterator<Item = (Position, &'e Event)>) {
    let events: Vec<_> = events.into_iter().collect();
    let next = events.last().unwrap().0.plus(1);
    views.apply(events, Checkpoint { next, last: [9; 32] }, &|_| Ok(false)).unwrap();
}

/// All there is in views.
fn rows(views: &Views) -> Vec<(Key, Vec<u8>)> {
    let recent = views.read_recent();
    let rows = recent.layers(&views.store).unwrap().range(row::ALL).collect::<Result<_, _>>();
    rows.unwrap()
}

fn assert_as_expected(views: &Views) {
    assert_eq!(views.checkpoint().unwrap(), Checkpoint { next: Position(6), last: [9; 32] });
    assert_eq!(views.subject(SUBJECT).unwrap().unwrap().email, Some(Position(0)));
    let license = views.license(LICENSE).unwrap().unwrap();
    assert_eq!((license.used, license.activations), (1, 2));
    assert_eq!((license.status, license.issued), (Status::Suspended, Position(1)));
    let ended = views.activation(activation(10)).unwrap().unwrap();
    assert_eq!((ended.activated, ended.ended), (Position(2), Some(Position(4))));
    assert_eq!(views.newest_activations(LICENSE, 9).unwrap(), [activation(11), activation(10)]);
    assert_eq!(views.newest_activations(LICENSE, 1).unwrap(), [activation(11)]);
    let positions = |entries: Vec<Entry>| -> Vec<u64> {
        entries.iter().map(|entry| entry.position.0).collect()
    };
    assert_eq!(positions(views.subject_entries(SUBJECT, Position(0), 9).unwrap()), [0, 1]);
    assert_eq!(positions(views.license_entries(LICENSE, Position(3), 2).unwrap()), [3, 4]);
}

#[test]
fn one_batch_or_many_give_the_same_views() {
    let place = tempfile::tempdir().unwrap();
    let one = Views::open(&place.path().join("one"), 1 << 20).unwrap();
    take(&one, pairs(&events()));
    assert_as_expected(&one);
    let many = Views::open(&place.path().join("many"), 1 << 20).unwrap();
    for event in events() {
        take(&many, pairs(&[event]));
    }
    assert_as_expected(&many);
}

#[test]
fn rows_in_memory_and_on_disk_are_one_view() {
    let place = tempfile::tempdir().unwrap();
    let views = Views::open(place.path(), 1 << 20).unwrap();
    let (at, signing_key) = (Timestamp::from_millis(0).unwrap(), SigningKeyId::from_bytes([0; 32]));
    let id = |number: u64| {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&number.to_be_bytes());
        ActivationId::from_bytes(id)
    };
    take(&views, pairs(&events()[..2]));
    views.write_recent().waiting = 4096;
    let total = 2 * 4096;
    for number in 2..total {
        let (license, activation, lease_until) = (LICENSE, id(number), None);
        let event = Event::Activated { license, activation, signing_key, lease_until, at };
        take(&views, [(Position(number), &event)]);
        // Each is there at once, wherever the border between memory and disk is.
        assert_eq!(views.activation(activation).unwrap().unwrap().activated, Position(number));
        if number.is_multiple_of(5) {
            let newest = views.newest_activations(LICENSE, 3).unwrap();
            let expected: Vec<_> = (2..=number).rev().take(3).map(id).collect();
            assert_eq!(newest, expected);
        }
    }
    for (from, limit) in (0..total).step_by(7).flat_map(|from| [(from, 3), (from, usize::MAX)]) {
        let entries = views.license_entries(LICENSE, Position(from), limit).unwrap();
        let positions = entries.iter().map(|entry| entry.position.0);
        assert!(positions.eq((from.max(2)..total).take(limit)), "{limit} from {from}");
    }
    drop(views);

    let killed = Views::open(place.path(), 1 << 20).unwrap();
    let on_disk = killed.checkpoint().unwrap().next;
    assert!(Position(2) < on_disk && on_disk < Position(total), "{on_disk}");
    let used = killed.license(LICENSE).unwrap().unwrap().used;
    assert_eq!(u64::from(used), on_disk.0 - 2, "rows and checkpoint are of one moment");
}

#[test]
fn what_is_erased_is_as_if_it_had_never_been_read() {
    let place = tempfile::tempdir().unwrap();
    let at = Timestamp::from_millis(0).unwrap();
    let (erasure, reason) = (ErasureId::from_bytes([7; 16]), ErasureReason::Request);
    let authority = Authority::default();
    let begun = Event::ErasureBegun { erasure, subject: SUBJECT, reason, authority, at };
    let records = Vec::new();
    let erased = Event::DataErased { erasure, subject: SUBJECT, reason, records, epoch: 1, at };
    // What is erased was counted before.
    let counts = Counts { licenses: 1, activations: 2, license_persons: 1, activation_persons: 1 };
    let counts = vec![(Product::parse("p").unwrap(), counts)];
    let counted = Event::DayClosed { day: Day(0), counts: counts.clone(), at };
    let moved = Event::EpochMoved { epoch: 2, at };
    // Everything; one activation, begun and ended; the address.
    for gone in [&[0, 1, 2, 3, 4, 5][..], &[2, 4], &[0]] {
        let is_erased = |position: Position| Ok(gone.contains(&position.0));
        let ends = [begun.clone(), counted.clone(), erased.clone(), moved.clone()];
        let ends: Vec<_> = (6..).map(Position).zip(ends).collect();
        let end = Checkpoint { next: Position(10), last: [9; 32] };

        let name = format!("{gone:?}");
        let live = Views::open(&place.path().join(&name), 1 << 20).unwrap();
        take(&live, pairs(&events()));
        take(&live, pairs(&ends[..1]));
        assert_eq!(live.pending_erasures().unwrap(), [erasure]);
        assert_eq!(live.erasure(erasure).unwrap().unwrap().erased, None);
        live.apply(pairs(&ends[1..]), end, &is_erased).unwrap();

        let rebuilt = Views::open(&place.path().join(name + "rebuilt"), 1 << 20).unwrap();
        let kept: Vec<_> =
            events().into_iter().filter(|(position, _)| !gone.contains(&position.0)).collect();
        rebuilt.apply(pairs(&kept).chain(pairs(&ends)), end, &is_erased).unwrap();

        for views in [&live, &rebuilt] {
            assert_eq!(views.pending_erasures().unwrap(), []);
            assert_eq!(views.erasure(erasure).unwrap().unwrap().is_final, Some(Position(9)));
            assert_eq!(views.epoch().unwrap(), 2);
            assert!(views.uncounted_days().unwrap().is_empty());
            assert_eq!(views.counted_days(Day(0)..=Day(0)).unwrap()[&Day(0)], counts);
        }
        let rows = |views: &Views| {
            views.close().unwrap();
            views.store.range(row::ALL).map(Result::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(rows(&live), rows(&rebuilt), "{gone:?}");
        let subject = live.subject(SUBJECT).unwrap();
        assert_eq!(subject.is_some(), gone.len() < 6);
        assert_eq!(subject.and_then(|subject| subject.email).is_some(), gone[0] != 0);
        assert_eq!(live.activation(activation(10)).unwrap().is_some(), gone == [0]);
    }
}

#[test]
fn entries_are_in_order_wherever_a_page_ends_and_whatever_is_erased_of_them() {
    let place = tempfile::tempdir().unwrap();
    let at = Timestamp::from_millis(0).unwrap();
    let (erasure, reason) = (ErasureId::from_bytes([7; 16]), ErasureReason::Request);
    let authority = Authority::default();
    let counts = vec![(Product::parse("p").unwrap(), Counts::default())];
    let ends = [
        Event::ErasureBegun { erasure, subject: SUBJECT, reason, authority, at },
        Event::DayClosed { day: Day(0), counts, at },
        Event::DataErased { erasure, subject: SUBJECT, reason, records: vec![], epoch: 1, at },
    ];
    // An entry of the license and one of the person in turn, up to where pages of the license end, and around.
    let pair = |number| {
        let (kind, signing_key) = (RestrictionKind::LegalHold, SigningKeyId::from_bytes([0; 32]));
        let (license, activation) = (LICENSE, activation(number));
        [
            Event::Activated { license, activation, signing_key, lease_until: None, at },
            Event::RestrictionChanged { subject: SUBJECT, kind, holds: true, at },
        ]
    };
    let page = row::PAGE_ENTRIES;
    let counts = [page - 1, page, page + 1, 3 * page, 3 * page + 1];
    for (count, is_all) in counts.map(|count| (count, false)).into_iter().chain([(counts[4], true)])
    {
        let begin = events().into_iter().take(2).map(|(_, event)| event);
        let events = begin.chain((0..count).flat_map(pair)).chain(ends.clone());
        let events: Vec<_> = (0..).map(Position).zip(events).collect();
        let end = Checkpoint { next: Position(events.len() as u64), last: [9; 32] };
        let (before, ends) = events.split_at(events.len() - ends.len());
        let name = format!("{count} {is_all}");
        let live = Views::open(&place.path().join(&name), 1 << 20).unwrap();
        take(&live, pairs(before));

        let assert_entries = |is_kept: &dyn Fn(u64) -> bool| {
            let all = (0..before.len() as u64).filter(|position| is_kept(*position));
            let (of_license, of_subject): (Vec<_>, Vec<_>) =
                all.partition(|position| *position > 1 && position % 2 == 0);
            for from in 0..before.len() as u64 {
                for limit in [1, 2, 40, usize::MAX] {
                    let expected = |entries: &[u64]| -> Vec<u64> {
                        let after = entries.iter().filter(|position| **position >= from);
                        after.copied().take(limit).collect()
                    };
                    let found = |entries: Result<Vec<Entry>, ViewsError>| -> Vec<u64> {
                        entries.unwrap().iter().map(|entry| entry.position.0).collect()
                    };
                    let from = Position(from);
                    let license = live.license_entries(LICENSE, from, limit);
                    assert_eq!(found(license), expected(&of_license), "{limit} from {from}");
                    let subject = live.subject_entries(SUBJECT, from, limit);
                    assert_eq!(found(subject), expected(&of_subject), "{limit} from {from}");
                }
            }
            let number = |position: &u64| activation(u8::try_from((position - 2) / 2).unwrap());
            for limit in [1, usize::from(page), usize::from(page) + 1, usize::MAX] {
                let newest: Vec<_> = of_license.iter().rev().map(number).take(limit).collect();
                assert_eq!(live.newest_activations(LICENSE, limit).unwrap(), newest);
            }
        };
        assert_entries(&|_| true);

        // Of both some are erased, or all; of pages that are on the disk.
        live.write_recent().settle_all(&live.store).unwrap();
        let is_kept = |position: u64| !is_all && (position < 2 || position % 3 != 2);
        let is_erased = |position: Position| Ok(!is_kept(position.0));
        live.apply(pairs(ends), end, &is_erased).unwrap();
        assert_entries(&is_kept);
        assert_eq!(live.license(LICENSE).unwrap().is_none(), is_all);
        let rebuilt = Views::open(&place.path().join(name + " again"), 1 << 20).unwrap();
        let kept: Vec<_> = before.iter().filter(|(at, _)| is_kept(at.0)).cloned().collect();
        rebuilt.apply(pairs(&kept).chain(pairs(ends)), end, &is_erased).unwrap();
        assert!(rows(&live) == rows(&rebuilt), "{count}");
        if !is_all {
            // They go on alike.
            let more: Vec<_> = (end.next.0..).map(Position).zip(pair(count)).collect();
            take(&live, pairs(&more));
            take(&rebuilt, pairs(&more));
            assert!(rows(&live) == rows(&rebuilt), "{count}");
            let last = live.license_entries(LICENSE, end.next, 1).unwrap();
            assert_eq!(last[0].position, end.next);
        }
    }
}

/// Events by chance, of persons and licenses whose ids begin with one of two bytes.
fn any_events(rng: &mut StdRng, count: usize) -> Vec<(Position, Event)> {
    let id = |rng: &mut StdRng| {
        let mut id: [u8; 16] = rng.random();
        id[0] = rng.random_range(0..2);
        id
    };
    let (signing_key, lease_until) = (SigningKeyId::from_bytes([0; 32]), None);
    let (mut subjects, mut licenses) = (vec![SUBJECT], vec![]);
    let mut taken: Vec<(LicenseId, ActivationId)> = Vec::new();
    let mut events: Vec<Event> = Vec::new();
    while events.len() < count {
        let at = Timestamp::from_millis(i64::try_from(events.len()).unwrap() * 60_000).unwrap();
        let subject = subjects[rng.random_range(0..subjects.len())];
        let email = || Email::parse("ada@example.com").unwrap();
        let product = || Product::parse(["p", "q"][events.len() % 2]).unwrap();
        let license = licenses.get(rng.random_range(0..=licenses.len())).copied();
        let event = match (rng.random_range(0..100), license) {
            (0, _) if subjects.len() < 30 => {
                let subject = SubjectId::from_bytes(id(rng));
                subjects.push(subject);
                Event::SubjectRegistered { subject, email: email(), at }
            }
            (1, _) => Event::EmailRecorded { subject, email: email(), at },
            (2, _) => {
                let kind = RestrictionKind::Restriction;
                Event::RestrictionChanged { subject, kind, holds: rng.random(), at }
            }
            (3, _) => {
                let recipient = RecipientName::parse("ZenDesk").unwrap();
                Event::Disclosed { subject, recipient, categories: Vec::new(), at }
            }
            (4, _) => {
                let day = Day(rng.random_range(-1..=at.day().0));
                Event::DayClosed { day, counts: vec![(product(), Counts::default())], at }
            }
            (5, _) => Event::EpochMoved { epoch: rng.random(), at },
            (6, _) | (_, None) if licenses.len() < 50 => {
                let (license, key) = (LicenseId::from_bytes(id(rng)), LicenseKey::generate(|| 0));
                let (seats, expires_at, updates_until) = (Seats::new(3).unwrap(), None, None);
                let terms = Terms { product: product(), seats, expires_at, updates_until };
                licenses.push(license);
                if rng.random() {
                    Event::LicenseIssued { license, subject, key, terms, at }
                } else {
                    Event::LicenseKept { license, subject, key, terms, suspended: true, at }
                }
            }
            (7, Some(license)) => Event::LicenseSuspended { license, at },
            (8, Some(license)) => Event::LicenseReinstated { license, at },
            (9..30, Some(_)) if !taken.is_empty() => {
                let (license, activation) = taken.swap_remove(rng.random_range(0..taken.len()));
                Event::Deactivated { license, activation, by_staff: false, at }
            }
            (30, Some(license)) => {
                let other = taken.pop().map(|(_, activation)| activation);
                let activation = other.unwrap_or_else(|| ActivationId::from_bytes(id(rng)));
                Event::ActivationKept { license, activation, signing_key, lease_until, at }
            }
            (_, Some(license)) => {
                let activation = ActivationId::from_bytes(id(rng));
                taken.push((license, activation));
                Event::Activated { license, activation, signing_key, lease_until, at }
            }
            (_, None) => continue,
        };
        events.push(event);
    }
    (0..).map(Position).zip(events).collect()
}

#[test]
fn changes_that_were_put_off_make_the_same_rows() {
    let mut rng = StdRng::seed_from_u64(1);
    // A few, which stay in memory, and more than that.
    for count in [10, 300, 6000] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("whole");
        let events = any_events(&mut rng, count);
        let end = Checkpoint { next: Position(events.len() as u64), last: [9; 32] };
        let by_one = Views::open(&place.path().join("by one"), 1 << 20).unwrap();
        take(&by_one, pairs(&events));

        let views = Views::open(&path, 1 << 20).unwrap();
        let mut whole = views.begin_whole().unwrap().unwrap();
        for some in events.chunks(7) {
            whole.apply(pairs(some)).unwrap();
        }
        assert!(views.checkpoint().is_err(), "nothing is there before the end");
        let mut told = Vec::new();
        whole.finish(end, |done, parts| told.push((done, parts))).unwrap();
        assert_eq!(told.last(), Some(&(told.len() as u64, told.len() as u64)));
        assert!(rows(&views) == rows(&by_one), "{count}");
        assert!(views.begin_whole().unwrap().is_none(), "they are not taken in twice");
        drop(views);
        let views = Views::open(&path, 1 << 20).unwrap();
        assert_eq!(views.checkpoint().unwrap(), end);
        assert!(rows(&views) == rows(&by_one), "{count}");
    }
}

#[test]
fn views_with_another_row_than_comes_of_the_log_are_found() {
    let place = tempfile::tempdir().unwrap();
    let events = any_events(&mut StdRng::seed_from_u64(2), 6000);
    let end = Checkpoint { next: Position(events.len() as u64), last: [9; 32] };
    let live = Views::open(place.path(), 1 << 20).unwrap();
    take(&live, pairs(&events));
    let is_same = || {
        let scratch = tempfile::tempdir().unwrap();
        let empty = Views::open(scratch.path(), 1 << 20).unwrap();
        let mut whole = empty.begin_whole().unwrap().unwrap();
        whole.apply(pairs(&events)).unwrap();
        whole.is_in(&live, end, |_, _| ()).unwrap()
    };
    let put = |key: &[u8], row: Option<Vec<u8>>| {
        let mut recent = live.write_recent();
        *recent.changes(&live.store).unwrap().bytes(key.into()).unwrap() = row;
    };
    assert!(is_same());
    let rows = rows(&live);
    let kinds = rows.chunk_by(|(one, _), (next, _)| one[0] == next[0]);
    let firsts: Vec<u8> = kinds.clone().map(|kind| kind[0].0[0]).collect();
    assert!(row::ROWS_OF_MANY.iter().all(|prefix| firsts.contains(prefix)), "{firsts:?}");
    for kind in kinds {
        for (key, row) in [&kind[0], &kind[kind.len() - 1]] {
            put(key, Some([row.as_slice(), &[0]].concat()));
            assert!(!is_same(), "{key:?} is changed");
            put(key, None);
            assert!(!is_same(), "{key:?} is missing");
            put(key, Some(row.clone()));
        }
        let first = kind[0].0[0];
        let strays = [vec![first], [&[first][..], &[0xFF; 40]].concat(), vec![first + 1]];
        for stray in
            strays.into_iter().filter(|stray| rows.iter().all(|(key, _)| **key != stray[..]))
        {
            put(&stray, Some(Vec::new()));
            assert!(!is_same(), "{stray:?} is there");
            put(&stray, None);
        }
    }
    assert!(is_same());
}

#[test]
fn a_log_that_makes_no_views_is_told_without_making_them() {
    let can_be_made = |events: &[(Position, Event)]| {
        let place = tempfile::tempdir().unwrap();
        let views = Views::open(place.path(), 1 << 20).unwrap();
        let mut whole = views.begin_whole().unwrap().unwrap();
        whole.apply(pairs(events)).unwrap();
        whole.can_be_made(|_, _| ())
    };
    let mut events = events();
    can_be_made(&events).unwrap();
    // A seat that is freed twice.
    let (_, freed) = events[4].clone();
    events.extend([(Position(6), freed.clone()), (Position(7), freed)]);
    assert!(matches!(can_be_made(&events), Err(ViewsError::Damaged(_))));
}

#[test]
fn a_whole_log_that_was_not_taken_in_to_its_end_leaves_nothing_to_believe() {
    let place = tempfile::tempdir().unwrap();
    let views = Views::open(place.path(), 1 << 20).unwrap();
    let mut whole = views.begin_whole().unwrap().unwrap();
    whole.apply(pairs(&events())).unwrap();
    drop(whole);
    assert!(views.close().is_err());
    drop(views);
    assert!(Views::open(place.path(), 1 << 20).is_err());
    // A license that was never issued has no row to be changed.
    Views::delete(place.path()).unwrap();
    let views = Views::open(place.path(), 1 << 20).unwrap();
    let mut whole = views.begin_whole().unwrap().unwrap();
    whole.apply(pairs(&events()[5..])).unwrap();
    let end = Checkpoint { next: Position(6), last: [9; 32] };
    assert!(whole.finish(end, |_, _| ()).is_err());
    assert!(views.checkpoint().is_err());
}

#[test]
fn an_erasure_is_final_when_its_notices_are_settled_also_where_these_are_erased() {
    let place = tempfile::tempdir().unwrap();
    let at = Timestamp::from_millis(0).unwrap();
    let (erasure, reason) = (ErasureId::from_bytes([7; 16]), ErasureReason::Request);
    let (id, outcome) = (NoticeId::from_bytes([8; 16]), NoticeOutcome::ByHand);
    let authority = Authority::default();
    let notice = Notice {
        id,
        subject: SUBJECT,
        erasure,
        recipient: RecipientName::parse("ZenDesk").unwrap(),
        email: Email::parse("ada@example.com").unwrap(),
        change: Change::Erased,
    };
    let events = [
        Event::NoticeCreated { notice, at },
        Event::ErasureBegun { erasure, subject: SUBJECT, reason, authority, at },
        Event::DataErased { erasure, subject: SUBJECT, reason, records: vec![], epoch: 1, at },
        Event::EpochMoved { epoch: 2, at },
        Event::NoticeSettled { notice: id, subject: SUBJECT, created: Position(0), outcome, at },
        Event::EpochMoved { epoch: 3, at },
    ];
    let events: Vec<_> = (0..).map(Position).zip(events).collect();
    // As it happened, and after the notice is erased.
    for first in [0, 1] {
        let views = Views::open(&place.path().join(first.to_string()), 1 << 20).unwrap();
        take(&views, pairs(&events[first..5]));
        assert_eq!(views.erasure(erasure).unwrap().unwrap().is_final, None);
        assert_eq!(views.pending_erasures().unwrap(), [erasure]);
        take(&views, pairs(&events[5..]));
        assert_eq!(views.erasure(erasure).unwrap().unwrap().is_final, Some(Position(5)));
        assert_eq!(views.pending_erasures().unwrap(), []);
    }
}

#[test]
fn views_are_believed_when_closed_but_not_after_a_power_cut() {
    let place = tempfile::tempdir().unwrap();
    drop(Views::open(place.path(), 1 << 20).unwrap());
    fs::write(place.path().join(TRUST), "another boot").unwrap();
    assert!(matches!(Views::open(place.path(), 1 << 20), Err(ViewsError::Damaged(_))));
    Views::delete(place.path()).unwrap();
    let views = Views::open(place.path(), 1 << 20).unwrap();
    assert_eq!(views.checkpoint().unwrap().next, Position(0));
    take(&views, pairs(&events()));
    views.close().unwrap();
    drop(views);
    assert_eq!(fs::read_to_string(place.path().join(TRUST)).unwrap(), CLOSED);
    assert_as_expected(&Views::open(place.path(), 1 << 20).unwrap());
}

#[test]
fn distrusted_views_do_not_open() {
    let place = tempfile::tempdir().unwrap();
    let views = Views::open(place.path(), 1 << 20).unwrap();
    views.distrust().unwrap();
    drop(views);
    assert!(Views::open(place.path(), 1 << 20).is_err());
}

/// What a row holds is damaged, and its engine did not see it.
#[test]
fn rows_that_hold_too_much_are_unreadable_and_end_no_process() {
    let (day, product) = (Day(0), "p");
    let counts_full = CountsRow { activations: u32::MAX, ..CountsRow::default() };
    let counts =
        (row::counts(row::UNCOUNTED, day, product), postcard::to_stdvec(&counts_full).unwrap());
    let license = |activations, there: u64, entries| {
        let row = LicenseRow {
            subject: *SUBJECT.as_bytes(),
            issued: 1,
            status: 0,
            used: 1,
            activations,
            product: product.to_owned(),
        };
        let mut owner = Owner::new(row);
        for position in 2..2 + there {
            owner.add(EntryRow { position, kind: EntryKind::Other }).unwrap();
        }
        owner.entries = entries;
        (row::license(LICENSE), owner.to_bytes().unwrap())
    };
    let (some, full) = (4, row::PAGE_ENTRIES);
    let entries = |pages, newest| EntriesRow { pages, newest };
    let new = Event::Activated {
        license: LICENSE,
        activation: activation(12),
        signing_key: SigningKeyId::from_bytes([0; 32]),
        lease_until: None,
        at: Timestamp::from_millis(0).unwrap(),
    };
    for (damaged, is_borne) in [
        (license(2, some, entries(0, 4)), true),
        (license(2, full.into(), entries(0, full)), true),
        (license(u64::MAX, some, entries(0, 4)), false),
        // More than there may be; fewer, or more, than there are; pages, and no entry behind them.
        (license(2, some, entries(0, full + 1)), false),
        (license(2, some, entries(0, full)), false),
        (license(2, some, entries(0, 0)), false),
        (license(2, 0, entries(0, 4)), false),
        (license(2, 0, entries(1, 0)), false),
        (license(2, full.into(), entries(u32::MAX, full)), false),
        (counts, false),
    ] {
        let place = tempfile::tempdir().unwrap();
        let views = Views::open(place.path(), 1 << 20).unwrap();
        take(&views, pairs(&events()));
        views.close().unwrap();
        views.store.write(&[(damaged.0, Some(damaged.1))].into()).unwrap();
        let end = Checkpoint { next: Position(7), last: [9; 32] };
        let applied = views.apply([(Position(6), &new)], end, &|_| Ok(false));
        assert_eq!(applied.is_ok(), is_borne, "{applied:?}");
    }
}

/// By that name a panic of such a thread is told from one of ours.
#[cfg(target_os = "linux")]
#[test]
fn the_engines_threads_are_called_what_is_expected() {
    let place = tempfile::tempdir().unwrap();
    let _views = Views::open(place.path(), 1 << 20).unwrap();
    let is_worker = |thread: fs::DirEntry| {
        let name = fs::read_to_string(thread.path().join("comm"));
        name.is_ok_and(|name| name.starts_with(WORKERS))
    };
    // One has its name once it runs.
    let begun = std::time::Instant::now();
    while !fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok).any(is_worker) {
        assert!(begun.elapsed().as_secs() < 30, "no thread is called {WORKERS}");
        std::thread::yield_now();
    }
}

#[test]
fn a_change_that_was_not_made_to_its_end_is_neither_read_nor_built_on_nor_believed() {
    let place = tempfile::tempdir().unwrap();
    let views = Views::open(place.path(), 1 << 20).unwrap();
    take(&views, pairs(&events()));
    let at = Timestamp::from_millis(0).unwrap();
    let (erasure, reason) = (ErasureId::from_bytes([7; 16]), ErasureReason::Request);
    let authority = Authority::default();
    let ends = [
        Event::ErasureBegun { erasure, subject: SUBJECT, reason, authority, at },
        Event::DataErased { erasure, subject: SUBJECT, reason, records: vec![], epoch: 1, at },
    ];
    let ends: Vec<_> = (6..).map(Position).zip(ends).collect();
    let end = Checkpoint { next: Position(8), last: [9; 32] };
    let unreadable = |_| Err(ViewsError::Damaged("nobody can tell".to_owned()));
    assert!(views.apply(pairs(&ends), end, &unreadable).is_err());
    assert!(views.license(LICENSE).is_err() && views.checkpoint().is_err());
    assert!(views.apply(pairs(&ends), end, &|_| Ok(false)).is_err());
    assert!(views.close().is_err());
    assert_ne!(fs::read_to_string(place.path().join(TRUST)).unwrap(), CLOSED);
}
