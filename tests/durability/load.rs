//! Clients that do all that can be done with licenses, until their server is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::proto::v1::license_service_client::LicenseServiceClient;
use countersign::proto::v1::{DeactivateRequest, ReinstateLicenseRequest, SuspendLicenseRequest};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Notify;
use tonic::transport::Channel;

use crate::known::{Activation, Answer, Fact, Issued, License};
use crate::support::{Server, activation};

/// How many answers have come, of all clients.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) acknowledged: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) unknown: AtomicU64,
    /// Rung when this many have come.
    pub(crate) enough: u64,
    pub(crate) bell: Notify,
}

impl Progress {
    fn count<T>(&self, answer: &Answer<T>) {
        match answer {
            Answer::Given(_) => {
                if self.acknowledged.fetch_add(1, Ordering::Relaxed) + 1 >= self.enough {
                    self.bell.notify_one();
                }
            }
            Answer::Refused(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            Answer::None => {
                self.unknown.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// One client. What it owns nobody else changes, so that it knows what each answer must be; for the
/// seats of the shared license it competes.
pub(crate) struct Client {
    pub(crate) own: License,
    pub(crate) shared: License,
    pub(crate) issued: Issued,
    rng: StdRng,
}

/// What is asked with.
struct Calls {
    app: ActivationServiceClient<Channel>,
    issuer: LicenseServiceClient<Channel>,
    progress: Arc<Progress>,
}

impl Client {
    pub(crate) fn new(own: License, shared: License, issued: Issued, seed: u64) -> Self {
        Self { own, shared, issued, rng: StdRng::seed_from_u64(seed) }
    }

    /// Calls until no answer comes.
    pub(crate) async fn run(mut self, server: &Server, progress: Arc<Progress>) -> Self {
        let mut calls = Calls { app: server.app(), issuer: server.issuer(), progress };
        loop {
            let answered = match self.rng.random_range(0..100) {
                0..50 => self.activate(&mut calls, true).await,
                50..65 => self.activate(&mut calls, false).await,
                65..75 => self.retry(&mut calls).await,
                75..92 => self.deactivate(&mut calls).await,
                92..96 => self.issue(&mut calls).await,
                _ => self.suspend_or_reinstate(&mut calls).await,
            };
            if !answered {
                return self;
            }
        }
    }

    fn license(&mut self, own: bool) -> &mut License {
        if own { &mut self.own } else { &mut self.shared }
    }

    async fn activate(&mut self, calls: &mut Calls, own: bool) -> bool {
        let nonce = self.rng.random();
        let license = self.license(own);
        let request = activation(&license.email, &license.key, nonce);
        let answer = Answer::of(calls.app.activate(request).await);
        calls.progress.count(&answer);
        let may_stand = license.suspended != Fact::Yes && (!own || license.used() < license.seats);
        let (begun, receipt) = match answer {
            Answer::Given(given) => {
                assert!(may_stand, "a seat was given that was not there");
                (Fact::Yes, Some(given.receipt))
            }
            Answer::Refused(reason) => {
                let expected = match license.suspended {
                    Fact::Yes => "LICENSE_SUSPENDED",
                    _ => "SEATS_EXHAUSTED",
                };
                assert_eq!(reason, expected);
                assert!(!own || !may_stand, "a seat was refused that is free");
                return true;
            }
            Answer::None => (Fact::Unknown, None),
        };
        license.activations.push(Activation { nonce, begun, ended: Fact::No, receipt });
        begun == Fact::Yes
    }

    /// One that was given, by its place.
    fn pick(&mut self, own: bool) -> Option<usize> {
        let count = self.license(own).activations.len();
        (count > 0).then(|| self.rng.random_range(0..count))
    }

    async fn retry(&mut self, calls: &mut Calls) -> bool {
        let own = self.rng.random();
        let Some(at) = self.pick(own) else { return true };
        let license = self.license(own);
        let known = license.activations[at].clone();
        let request = activation(&license.email, &license.key, known.nonce);
        let answer = Answer::of(calls.app.activate(request).await);
        calls.progress.count(&answer);
        match answer {
            Answer::Given(given) => {
                assert_eq!((known.ended, license.suspended), (Fact::No, Fact::No));
                // Those that came to be by an unanswered call have no receipt here yet.
                let receipt = known.receipt.unwrap_or_else(|| given.receipt.clone());
                assert_eq!(given.receipt, receipt, "a retry got another receipt");
                license.activations[at].receipt = Some(receipt);
            }
            Answer::Refused(reason) if license.suspended == Fact::Yes => {
                assert_eq!(reason, "LICENSE_SUSPENDED");
            }
            Answer::Refused(reason) => {
                assert_eq!((reason.as_str(), known.ended), ("ACTIVATION_ENDED", Fact::Yes));
            }
            Answer::None => return false,
        }
        true
    }

    async fn deactivate(&mut self, calls: &mut Calls) -> bool {
        let own = self.rng.random();
        let Some(at) = self.pick(own) else { return true };
        let known = &mut self.license(own).activations[at];
        let Some(receipt) = known.receipt.clone() else { return true };
        let answer = Answer::of(calls.app.deactivate(DeactivateRequest { receipt }).await);
        calls.progress.count(&answer);
        match answer {
            Answer::Given(_) => known.ended = Fact::Yes,
            Answer::Refused(reason) => panic!("an activation that was given is refused: {reason}"),
            Answer::None if known.ended == Fact::No => known.ended = Fact::Unknown,
            Answer::None => {}
        }
        !matches!(answer, Answer::None)
    }

    async fn issue(&mut self, calls: &mut Calls) -> bool {
        let nonce = self.rng.random();
        let answer = Answer::of(calls.issuer.issue_license(self.issued.request(nonce)).await);
        calls.progress.count(&answer);
        let (key, answered) = match answer {
            Answer::Given(given) => (given.license.map(|license| license.license_key), true),
            Answer::Refused(reason) => panic!("a license was refused: {reason}"),
            Answer::None => (None, false),
        };
        self.issued.keys.insert(nonce, key);
        answered
    }

    async fn suspend_or_reinstate(&mut self, calls: &mut Calls) -> bool {
        let license_key = self.own.key.clone();
        let suspend = self.own.suspended == Fact::No;
        let (changed, issuer) = (if suspend { Fact::Yes } else { Fact::No }, &mut calls.issuer);
        let answered = if suspend {
            let answer = issuer.suspend_license(SuspendLicenseRequest { license_key }).await;
            let answer = Answer::of(answer);
            calls.progress.count(&answer);
            matches!(answer, Answer::Given(_))
        } else {
            let answer = issuer.reinstate_license(ReinstateLicenseRequest { license_key }).await;
            let answer = Answer::of(answer);
            calls.progress.count(&answer);
            matches!(answer, Answer::Given(_))
        };
        self.own.suspended = if answered { changed } else { Fact::Unknown };
        answered
    }
}
