//! What the clients know of what they asked for, and whether a server says the same.
//!
//! An acknowledged change must be there, once; a refused one must not; one whose answer never came may
//! be there or not, and once it is known which, it must stay so.

use std::collections::HashMap;

use countersign::domain::{ActivationId, Binding, Nonce};
use countersign::proto::v1::{
    GetLicenseRequest, IssueLicenseRequest, LicenseStatus, ListActivationsRequest, Purpose,
};
use countersign::receipt::PublicKeys;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::support::{Server, activation, reason};

/// Whether something has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    No,
    /// The answer never came.
    Unknown,
    Yes,
}

impl Fact {
    /// What a server says; from now on nothing else is right.
    fn settle(&mut self, seen: bool, what: &str) {
        let seen = if seen { Self::Yes } else { Self::No };
        assert!(
            *self == Self::Unknown || *self == seen,
            "{what}: {self:?} is known, {seen:?} seen"
        );
        *self = seen;
    }
}

/// The answer to a call.
pub(crate) enum Answer<T> {
    Given(T),
    /// The rules refuse it, for this reason.
    Refused(String),
    /// None, or one that tells nothing.
    None,
}

impl<T> Answer<T> {
    pub(crate) fn of(result: Result<tonic::Response<T>, Status>) -> Self {
        match result {
            Ok(response) => Self::Given(response.into_inner()),
            Err(status) if status.code() == tonic::Code::Unavailable => Self::None,
            Err(status) if status.get_details_error_info().is_some() => {
                Self::Refused(reason(&status))
            }
            // The connection was cut off.
            Err(_) => Self::None,
        }
    }
}

/// An activation that was asked for and not refused.
#[derive(Debug, Clone)]
pub(crate) struct Activation {
    pub(crate) nonce: u128,
    pub(crate) begun: Fact,
    pub(crate) ended: Fact,
    pub(crate) receipt: Option<String>,
}

impl Activation {
    fn id(&self) -> Vec<u8> {
        let binding = Binding::try_from([7; 32].as_slice()).unwrap();
        let nonce = Nonce::try_from(self.nonce.to_be_bytes().as_slice()).unwrap();
        ActivationId::derive(&nonce, &binding).as_bytes().to_vec()
    }
}

/// A license, and all that its clients know of it.
#[derive(Debug, Clone)]
pub(crate) struct License {
    pub(crate) email: String,
    pub(crate) key: String,
    pub(crate) seats: usize,
    pub(crate) suspended: Fact,
    pub(crate) activations: Vec<Activation>,
}

impl License {
    pub(crate) async fn issue(server: &Server, email: &str, seats: u32) -> Self {
        Self {
            email: email.to_owned(),
            key: server.issue(email, "App", seats).await,
            seats: seats as usize,
            suspended: Fact::No,
            activations: Vec::new(),
        }
    }

    /// How many seats are in use, where that is certain.
    pub(crate) fn used(&self) -> usize {
        let holds = |a: &&Activation| a.begun == Fact::Yes && a.ended == Fact::No;
        self.activations.iter().filter(holds).count()
    }

    /// Asks again for each activation whose answer never came. Where it was there it is given, and
    /// where it was not it takes a seat if there is one.
    pub(crate) async fn retry_unknown(&mut self, server: &Server, is_shared: bool) -> usize {
        let mut retried = 0;
        for at in 0..self.activations.len() {
            if self.activations[at].receipt.is_some() {
                continue;
            }
            retried += 1;
            let begun = self.activations[at].begun;
            let request = activation(&self.email, &self.key, self.activations[at].nonce);
            match Answer::of(server.app().activate(request).await) {
                Answer::Given(given) => {
                    self.activations[at].begun = Fact::Yes;
                    self.activations[at].receipt = Some(given.receipt);
                }
                Answer::Refused(reason) if reason == "SEATS_EXHAUSTED" => {
                    assert_ne!(begun, Fact::Yes, "it holds a seat");
                    self.activations[at].begun = Fact::No;
                    assert!(is_shared || self.used() >= self.seats - self.unknown());
                }
                Answer::Refused(reason) => {
                    assert_eq!(reason, "LICENSE_SUSPENDED");
                    assert_ne!(self.suspended, Fact::No);
                }
                Answer::None => panic!("the server is there and does not answer"),
            }
        }
        retried
    }

    fn unknown(&self) -> usize {
        self.activations.iter().filter(|a| a.begun == Fact::Unknown).count()
    }

    /// Compares all that is known with what the server says, and takes over what was not known.
    pub(crate) async fn check(&mut self, server: &Server, keys: &PublicKeys) {
        let mut listed = list(server, &self.key).await;
        let purpose = Purpose::LicenseAdministration.into();
        let get = GetLicenseRequest { license_key: self.key.clone(), purpose };
        let license = server.issuer().get_license(get).await.unwrap().into_inner().license.unwrap();
        let holding = listed.values().filter(|ended| !**ended).count();
        assert_eq!(license.used as usize, holding);
        assert!(holding <= self.seats, "a seat was sold twice");
        self.suspended.settle(license.status() == LicenseStatus::Suspended, "suspended");
        for known in &mut self.activations {
            let found = listed.remove(&known.id());
            known.begun.settle(found.is_some(), "begun");
            known.ended.settle(found == Some(true), "ended");
            if let Some(receipt) = &known.receipt {
                let claims = keys.verify(receipt).unwrap();
                assert_eq!(claims.activation.as_bytes().as_slice(), known.id());
            }
        }
        assert!(listed.is_empty(), "{} activations that were refused are there", listed.len());
        self.activations.retain(|known| known.begun == Fact::Yes);
    }
}

/// Whether each activation has ended, by its id.
async fn list(server: &Server, key: &str) -> HashMap<Vec<u8>, bool> {
    let request = ListActivationsRequest {
        license_key: key.to_owned(),
        purpose: Purpose::CustomerSupport.into(),
        page_size: 1000,
    };
    let mut pages = server.support().list_activations(request).await.unwrap().into_inner();
    let mut listed = HashMap::new();
    while let Some(page) = pages.message().await.unwrap() {
        for activation in page.activations {
            let ended = activation.deactivated_at.is_some();
            let twice = listed.insert(activation.activation_id, ended);
            assert!(twice.is_none(), "an activation is there twice");
        }
    }
    listed
}

/// The licenses that a client had issued to one person.
#[derive(Debug, Default)]
pub(crate) struct Issued {
    pub(crate) email: String,
    /// By the nonce; `None`: the answer never came.
    pub(crate) keys: HashMap<u128, Option<String>>,
}

impl Issued {
    /// A request for one more license.
    pub(crate) fn request(&self, nonce: u128) -> IssueLicenseRequest {
        IssueLicenseRequest {
            email: self.email.clone(),
            product: "More".to_owned(),
            seats: 1,
            nonce: nonce.to_be_bytes().to_vec(),
            ..IssueLicenseRequest::default()
        }
    }

    /// Each that was acknowledged is there, nothing is that was not asked for, and asking again for
    /// the unknown ones gives one each.
    pub(crate) async fn check(&mut self, server: &Server) {
        if self.keys.is_empty() {
            return;
        }
        for after_retry in [false, true] {
            let mut there = match server.history(&self.email).await {
                Ok(history) => history.licenses,
                // Nothing but one unknown license was ever asked for.
                Err(status) => {
                    assert_eq!(reason(&status), "SUBJECT_NOT_FOUND");
                    Vec::new()
                }
            };
            let mut unknown = 0;
            for key in self.keys.values() {
                let Some(key) = key else {
                    unknown += 1;
                    continue;
                };
                let is_it = |of: &_| license_key(of) == key.as_str();
                let at = there.iter().position(is_it).expect("an acknowledged license is lost");
                there.swap_remove(at);
            }
            assert!(there.len() <= unknown, "a license is there twice");
            if after_retry {
                assert_eq!(unknown, 0);
            }
            let nonces: Vec<u128> = self.keys.keys().copied().collect();
            for nonce in nonces {
                if self.keys[&nonce].is_none() {
                    let request = self.request(nonce);
                    let answer = server.issuer().issue_license(request).await.unwrap().into_inner();
                    self.keys.insert(nonce, Some(answer.license.unwrap().license_key));
                }
            }
        }
    }
}

fn license_key(of: &countersign::proto::v1::LicenseHistory) -> &str {
    of.license.as_ref().map_or("", |license| &license.license_key)
}
