//! Slows whoever tries license keys or addresses until one fits. All of it lives in memory of a fixed
//! size, under hashes whose salt dies with the process, and no time, key or address can be read from it.
//!
//! Only refusals with `LICENSE_NOT_FOUND` count, so that honest apps are never in want, however many
//! share one address. Once a client has used up its own, it is refused before anything is looked up, so that
//! the refusal says nothing. Once a key or an address has been tried too often, by whomever, clients that
//! have failed within the window are refused on it, and others are not: nobody can lock a customer out by
//! trying their address.

use std::fmt;
use std::hash::{BuildHasher as _, Hash as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::domain::{Email, LicenseKey};

/// How many clients, keys and addresses are remembered: 1.5 MiB each. More push out those that
/// have failed least.
const REMEMBERED: usize = 65_536;
/// Where a hash may lie: so many cells beside each other.
const WAYS: usize = 8;

/// How many failures are borne.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuessLimits {
    /// Failures of one client, an IPv4 address or an IPv6 network of /64. 0 turns it off. 60.
    pub of_client: u32,
    /// Failures with one license key or one e-mail address, by all clients. 0 turns it off. 20.
    pub of_target: u32,
    /// Minutes in which so many are forgiven, evenly. 10.
    pub minutes: u32,
}

impl Default for GuessLimits {
    fn default() -> Self {
        Self { of_client: 60, of_target: 20, minutes: 10 }
    }
}

/// Who calls, as far as it is known: a salted hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(u64);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// Makes clients of addresses. A secret of this process.
#[derive(Debug, Clone, Default)]
pub struct Salt(RandomState);

impl Salt {
    /// The client with this address. Whoever has one of IPv6 has the 2^64 of its network.
    pub fn client(&self, address: IpAddr) -> Client {
        let network = match address.to_canonical() {
            IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
            IpAddr::V6(address) => u128::from(address) >> 64 << 64,
        };
        Client(self.0.hash_one(Ipv6Addr::from(network)))
    }
}

/// Too many have failed. When to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany(pub Duration);

/// The failures of late.
pub struct Guesses {
    salt: RandomState,
    began: Instant,
    clients: Failures,
    targets: Failures,
}

impl Guesses {
    /// None yet.
    pub fn new(limits: GuessLimits, now: Instant) -> Self {
        let window = Duration::from_secs(u64::from(limits.minutes) * 60);
        Self {
            salt: RandomState::new(),
            began: now,
            clients: Failures::new(limits.of_client, window),
            targets: Failures::new(limits.of_target, window),
        }
    }

    /// Whether this client may try this key with this address.
    pub fn check(
        &self,
        client: Client,
        key: &LicenseKey,
        email: Option<&Email>,
        now: Instant,
    ) -> Result<(), TooMany> {
        let now = self.millis(now);
        let mut wait = self.clients.wait(client.0, now);
        if self.clients.has_failed(client.0, now) {
            let targets = self.targets(key, email);
            wait =
                targets.iter().fold(wait, |wait, target| wait.max(self.targets.wait(*target, now)));
        }
        if wait == 0 { Ok(()) } else { Err(TooMany(Duration::from_millis(wait))) }
    }

    /// Notes that it was none.
    pub fn failed(&self, client: Client, key: &LicenseKey, email: Option<&Email>, now: Instant) {
        let now = self.millis(now);
        self.clients.count(client.0, now);
        for target in self.targets(key, email) {
            self.targets.count(target, now);
        }
    }

    /// The key and the address, hashed. Where there is no address its place is empty.
    fn targets(&self, key: &LicenseKey, email: Option<&Email>) -> [u64; 2] {
        let mut hasher = self.salt.build_hasher();
        ("e-mail", email.map(Email::expose_normal)).hash(&mut hasher);
        let email = std::hash::Hasher::finish(&hasher);
        [self.salt.hash_one(("key", key.symbols())), email]
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

/// Failures by hash, in a table of a fixed size. Each failure moves the time at which all of its
/// hash are forgiven by one step into the future, up to the most that there may be. That there was one at
/// all is known for the whole window after the last, however fast they are forgiven.
struct Failures {
    /// Milliseconds after which one failure is forgiven.
    step: u64,
    /// Milliseconds: as many steps as there may be failures. 0: they are not counted.
    most: u64,
    /// Their own lock: it is held for a few comparisons.
    sets: Mutex<Box<[[Cell; WAYS]]>>,
}

/// One hash, when it is forgiven, and when it is forgotten, in milliseconds.
#[derive(Clone, Copy, Default)]
struct Cell {
    hash: u64,
    forgiven: u64,
    forgotten: u64,
}

impl Failures {
    fn new(most: u32, window: Duration) -> Self {
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let step = window.checked_div(u64::from(most)).unwrap_or(0);
        let sets = if step == 0 { 0 } else { REMEMBERED / WAYS };
        let sets = Mutex::new(vec![[Cell::default(); WAYS]; sets].into_boxed_slice());
        Self { step, most: step * u64::from(most), sets }
    }

    /// Milliseconds to wait for before another may fail.
    fn wait(&self, hash: u64, now: u64) -> u64 {
        (self.known(hash).forgiven + self.step).saturating_sub(now + self.most)
    }

    /// Whether there was one within the window.
    fn has_failed(&self, hash: u64, now: u64) -> bool {
        self.most == 0 || self.known(hash).forgotten > now
    }

    fn count(&self, hash: u64, now: u64) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(set) = Self::set(&mut sets, hash) else { return };
        let known = set.iter().position(|cell| cell.hash == hash);
        let least = || set.iter().enumerate().min_by_key(|(_, cell)| cell.forgiven);
        let Some(index) = known.or_else(|| least().map(|(index, _)| index)) else { return };
        let before = if known.is_some() { set[index].forgiven } else { 0 };
        let forgiven = (before.max(now) + self.step).min(now + self.most);
        set[index] = Cell { hash, forgiven, forgotten: now + self.most };
    }

    fn known(&self, hash: u64) -> Cell {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let set = Self::set(&mut sets, hash);
        let cell = set.and_then(|set| set.iter().find(|cell| cell.hash == hash));
        cell.copied().unwrap_or_default()
    }

    fn set(sets: &mut [[Cell; WAYS]], hash: u64) -> Option<&mut [Cell; WAYS]> {
        let count = u64::try_from(sets.len()).ok()?;
        let index = usize::try_from(hash.checked_rem(count)?).ok()?;
        sets.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    struct Try {
        guesses: Guesses,
        salt: Salt,
        now: Instant,
    }

    impl Try {
        fn new(of_client: u32, of_target: u32) -> Self {
            let now = Instant::now();
            let limits = GuessLimits { of_client, of_target, minutes: 10 };
            Self { guesses: Guesses::new(limits, now), salt: Salt::default(), now }
        }

        /// Tries, and fails where it may.
        fn fail(&self, address: &str, key: u128, email: &str) -> Result<(), TooMany> {
            let client = self.salt.client(address.parse().unwrap());
            let mut bits = (key + 1) << 64;
            let key = LicenseKey::generate(|| {
                // Not every number makes a key.
                bits += 1 << 8;
                bits
            });
            let email = Email::parse(email).unwrap();
            self.guesses.check(client, &key, Some(&email), self.now)?;
            self.guesses.failed(client, &key, Some(&email), self.now);
            Ok(())
        }
    }

    #[test]
    fn a_client_may_fail_so_often_and_is_forgiven_evenly() {
        let mut attempt = Try::new(10, 0);
        for key in 0..10 {
            assert_eq!(attempt.fail("192.0.2.1", key, "ada@example.com"), Ok(()));
        }
        assert_eq!(attempt.fail("192.0.2.1", 11, "bob@example.com"), Err(TooMany(MINUTE)));
        assert_eq!(attempt.fail("::ffff:192.0.2.1", 12, "ada@example.com"), Err(TooMany(MINUTE)));
        assert_eq!(attempt.fail("192.0.2.2", 13, "ada@example.com"), Ok(()));
        attempt.now += MINUTE;
        assert_eq!(attempt.fail("192.0.2.1", 14, "ada@example.com"), Ok(()));
        assert_eq!(attempt.fail("192.0.2.1", 15, "ada@example.com"), Err(TooMany(MINUTE)));
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let attempt = Try::new(2, 0);
        for (address, may) in [
            ("2001:db8::1", true),
            ("2001:db8::2:3", true),
            ("2001:db8::ffff:4", false),
            ("2001:db8:0:1::1", true),
        ] {
            assert_eq!(attempt.fail(address, 1, "ada@example.com").is_ok(), may, "{address}");
        }
    }

    #[test]
    fn many_clients_get_one_try_each_at_what_was_tried_too_often() {
        let attempt = Try::new(60, 5);
        let address = |n: u32| format!("192.0.2.{n}");
        for n in 0..100 {
            let key = u128::from(n);
            // Nobody is locked out who has not failed.
            assert_eq!(attempt.fail(&address(n), key, "ada@example.com"), Ok(()), "{n}");
            let second = attempt.fail(&address(n), key + 1000, "ada@example.com");
            assert_eq!(second.is_ok(), n < 2, "{n}");
            // Other addresses are not meant.
            assert_eq!(attempt.fail(&address(n), key, &format!("p{n}@example.com")), Ok(()));
        }
        // Nor do they get another when their own failures are forgiven: for the window they are known.
        let mut attempt = attempt;
        for minute in 1..=8 {
            attempt.now += MINUTE;
            let again = |n| attempt.fail(&address(n), u128::from(n), "ada@example.com").is_ok();
            // As many as are forgiven in all, whoever they are.
            assert!((0..100).filter(|n| again(*n)).count() <= 1, "{minute}");
        }
        // The same for one key with many addresses.
        let attempt = Try::new(60, 5);
        let failures =
            (0..99).filter(|n| attempt.fail("192.0.2.1", 7, &format!("p{n}@a.example")).is_ok());
        assert_eq!(failures.count(), 5);
    }

    #[test]
    fn zero_turns_it_off() {
        let attempt = Try::new(0, 0);
        assert!((0..1000).all(|key| attempt.fail("192.0.2.1", key, "ada@example.com").is_ok()));
        // And leaves the other on.
        let attempt = Try::new(0, 3);
        let failures =
            (0..99).filter(|key| attempt.fail("192.0.2.1", *key, "a@example.com").is_ok());
        assert_eq!(failures.count(), 3);
    }

    #[test]
    fn the_table_keeps_its_size_and_those_that_fail_most() {
        let attempt = Try::new(10, 0);
        for key in 0..10 {
            attempt.fail("192.0.2.1", key, "ada@example.com").unwrap();
        }
        for n in 0..300_000u32 {
            let address = std::net::Ipv4Addr::from(n + 0x0a00_0000).to_string();
            attempt.fail(&address, 1, "ada@example.com").unwrap();
        }
        assert!(attempt.fail("192.0.2.1", 11, "ada@example.com").is_err());
        let sets = attempt.guesses.clients.sets.lock().unwrap();
        assert_eq!(size_of_val(&**sets), 3 << 19);
    }
}
