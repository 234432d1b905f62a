//! The places of a listener: one for each connection, handshakes included. When all are taken, the
//! connections that were without a call for longest make room, so that whoever merely holds places
//! keeps nobody out. Where all came or were of use a moment ago, a client with many of which one was of no
//! use yet makes room for one that has fewer, so that whoever comes fastest does not either. Whoever uses
//! all of many connections all the time is not told from honest clients.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::service::guessing::Client;

/// A connection that was of use within so many milliseconds is not closed to make room.
const SPARED: u64 = 1000;
/// This part of all places is made free at once: to look for them takes longer than to free them.
const PART: usize = 32;

/// A client's certificate, and those between it and the CA.
type Chain = Arc<[CertificateDer<'static>]>;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    /// How many there are.
    most: usize,
    /// How many one client may have.
    of_one_client: usize,
    began: Instant,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    places: HashMap<u64, Holder>,
    clients: HashMap<Client, Crowd>,
    /// All are in use until then, in milliseconds since the beginning.
    in_use_until: u64,
}

/// The places of one client.
#[derive(Debug, Default)]
struct Crowd {
    places: usize,
    in_use_until: u64,
}

#[derive(Debug)]
struct Holder {
    client: Client,
    /// When, in milliseconds since the beginning.
    taken: u64,
    /// When it was last of use, in the same.
    used: Arc<AtomicU64>,
    certificates: Option<Chain>,
    /// Dropped, it asks the connection to go.
    _stay: oneshot::Sender<()>,
}

/// One place. Free when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    places: Arc<Places>,
    used: Arc<AtomicU64>,
    stay: oneshot::Receiver<()>,
}

impl Places {
    /// All are free.
    pub(super) fn new(most: usize, of_one_client: usize) -> Arc<Self> {
        Arc::new(Self { most, of_one_client, began: Instant::now(), taken: Mutex::default() })
    }

    /// A place, if one is free or another connection can make room.
    pub(super) fn take(self: &Arc<Self>, client: Client, now: Instant) -> Option<Place> {
        let now = self.millis(now);
        let mut taken = self.taken();
        let is_crowded =
            taken.clients.get(&client).is_some_and(|crowd| crowd.places >= self.of_one_client);
        if is_crowded && !taken.make_room(Some(client), self.of_one_client, now) {
            return None;
        }
        if taken.places.len() >= self.most
            && !taken.make_room(None, self.most, now)
            && !taken.make_room_for(client)
        {
            return None;
        }
        let number = taken.next;
        taken.next += 1;
        let used = Arc::new(AtomicU64::new(now));
        let (keep, stay) = oneshot::channel();
        let holder =
            Holder { client, taken: now, used: Arc::clone(&used), certificates: None, _stay: keep };
        taken.places.insert(number, holder);
        taken.clients.entry(client).or_default().places += 1;
        Some(Place { number, places: Arc::clone(self), used, stay })
    }

    /// Asks those to go whose certificate is not admitted any more.
    pub(super) fn keep_only(&self, admits: impl Fn(&[CertificateDer<'static>]) -> bool) {
        let chain = |(number, holder): (&u64, &Holder)| {
            holder.certificates.clone().map(|chain| (*number, chain))
        };
        let known: Vec<(u64, Chain)> = self.taken().places.iter().filter_map(chain).collect();
        for (number, _) in known.iter().filter(|(_, chain)| !admits(chain)) {
            self.taken().free(*number);
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Taken {
    /// Frees the places, of one client or of all, that were without a call for longest. Tells
    /// whether there were any.
    fn make_room(&mut self, client: Option<Client>, places: usize, now: u64) -> bool {
        let in_use_until = match client {
            None => &mut self.in_use_until,
            Some(client) => &mut self.clients.entry(client).or_default().in_use_until,
        };
        if *in_use_until > now {
            return false;
        }
        let mut unused: Vec<(u64, u64)> = self
            .places
            .iter()
            .filter(|(_, holder)| client.is_none_or(|client| holder.client == client))
            .map(|(number, holder)| (holder.used.load(Ordering::Relaxed), *number))
            .collect();
        unused.sort_unstable();
        let spared = |used: u64| used.saturating_add(SPARED) > now;
        if let Some((used, _)) = unused.first().filter(|(used, _)| spared(*used)) {
            *in_use_until = used.saturating_add(SPARED);
            return false;
        }
        let part = places.div_ceil(PART);
        for (_, number) in unused.into_iter().take(part).filter(|(used, _)| !spared(*used)) {
            self.free(number);
        }
        true
    }

    /// Frees the place of a connection that was of no use yet, of the client that has most among those
    /// with such a one, if that is more than this client will have. Tells whether there was any.
    fn make_room_for(&mut self, client: Client) -> bool {
        let places = |client| self.clients.get(client).map_or(0, |crowd| crowd.places);
        let wanted = places(&client) + 1;
        let was_used = |holder: &Holder| holder.used.load(Ordering::Relaxed) > holder.taken;
        let unused = self.places.iter().filter(|(_, holder)| !was_used(holder));
        let most = unused
            .map(|(number, holder)| (places(&holder.client), Reverse(*number)))
            .filter(|(places, _)| *places > wanted)
            .max();
        most.inspect(|(_, Reverse(number))| self.free(*number)).is_some()
    }

    fn free(&mut self, number: u64) {
        let Some(holder) = self.places.remove(&number) else { return };
        if let Some(crowd) = self.clients.get_mut(&holder.client) {
            crowd.places -= 1;
            if crowd.places == 0 {
                self.clients.remove(&holder.client);
            }
        }
    }
}

impl Place {
    /// Notes that the connection is of use.
    pub(super) fn use_at(&self, now: Instant) {
        self.used.store(self.places.millis(now), Ordering::Relaxed);
    }

    /// Notes by which certificates the connection is there.
    pub(super) fn certify(&self, chain: &[CertificateDer<'static>]) {
        if let Some(holder) = self.places.taken().places.get_mut(&self.number) {
            holder.certificates = Some(chain.into());
        }
    }

    /// Ready when the connection must go.
    pub(super) fn poll_lost(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // It says so once, and panics when it is asked again.
        if self.stay.is_terminated() {
            return Poll::Ready(());
        }
        Pin::new(&mut self.stay).poll(context).map(drop)
    }

    /// Returns when the connection must go.
    pub(super) async fn lost(&mut self) {
        std::future::poll_fn(|context| self.poll_lost(context)).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().free(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::*;
    use crate::service::guessing::Salt;

    fn is_lost(place: &mut Place) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        place.poll_lost(&mut context).is_ready()
    }

    /// Clients, by number.
    fn clients() -> impl Fn(u8) -> Client {
        let salt = Salt::default();
        move |number| salt.client(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)))
    }

    #[test]
    fn who_was_of_no_use_for_longest_makes_room() {
        let client = clients();
        let places = Places::new(3, 3);
        let first = places.began;
        let mut held: Vec<_> = (0..3).map(|n| places.take(client(n), first).unwrap()).collect();
        assert!(places.take(client(9), first).is_none(), "all came just now");
        let later = first + Duration::from_secs(2);
        held[0].use_at(later);
        held[2].use_at(later);
        let newcomer = places.take(client(9), later).unwrap();
        for _ in 0..2 {
            assert_eq!(held.iter_mut().map(is_lost).collect::<Vec<_>>(), [false, true, false]);
        }
        assert!(places.take(client(9), later).is_none(), "the others are in use");
        drop(newcomer);
        assert!(places.take(client(9), later).is_some());
    }

    #[test]
    fn a_crowd_that_came_a_moment_ago_makes_room_for_others() {
        let client = clients();
        let places = Places::new(4, 4);
        let first = places.began;
        let mut crowd = [(); 3].map(|()| places.take(client(1), first).unwrap());
        let mut other = places.take(client(2), first).unwrap();
        crowd[0].use_at(first + Duration::from_millis(5));
        let mut newcomer = places.take(client(3), first).unwrap();
        assert_eq!(crowd.each_mut().map(is_lost), [false, true, false], "the first is of use");
        assert!(places.take(client(1), first).is_none(), "nobody has more than a crowd");
        assert!(places.take(client(3), first).is_none(), "they would have as many");
        assert!(!is_lost(&mut other) && !is_lost(&mut newcomer));
    }

    #[test]
    fn who_uses_their_many_does_not_keep_a_crowd_of_others_safe() {
        let client = clients();
        let places = Places::new(5, 5);
        let first = places.began;
        let mut used = [(); 3].map(|()| places.take(client(1), first).unwrap());
        let mut idle = [(); 2].map(|()| places.take(client(2), first).unwrap());
        for place in &used {
            place.use_at(first + Duration::from_millis(5));
        }
        assert!(places.take(client(3), first).is_some());
        assert_eq!(idle.each_mut().map(is_lost), [true, false]);
        assert_eq!(used.each_mut().map(is_lost), [false; 3]);
    }

    #[test]
    fn a_crowd_makes_room_among_itself() {
        let client = clients();
        let places = Places::new(100, 2);
        let first = places.began;
        let mut other = places.take(client(0), first).unwrap();
        let mut crowd = [(); 2].map(|()| places.take(client(1), first).unwrap());
        assert!(places.take(client(1), first).is_none());
        let later = first + Duration::from_secs(2);
        assert!(places.take(client(1), later).is_some());
        assert!(is_lost(&mut crowd[0]) && !is_lost(&mut crowd[1]) && !is_lost(&mut other));
        drop((crowd, other));
        let taken = places.taken();
        assert!(taken.places.is_empty() && taken.clients.is_empty());
    }

    #[test]
    fn whose_certificate_is_withdrawn_must_go() {
        let salt = Salt::default();
        let client = salt.client(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let places = Places::new(9, 9);
        let [mut good, mut bad, mut none] =
            [(); 3].map(|()| places.take(client, places.began).unwrap());
        good.certify(&[CertificateDer::from(vec![1])]);
        bad.certify(&[CertificateDer::from(vec![2])]);
        places.keep_only(|chain| chain[0].as_ref() == [1]);
        assert!(!is_lost(&mut good) && is_lost(&mut bad) && !is_lost(&mut none));
    }
}
