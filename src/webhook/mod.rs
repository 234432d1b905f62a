//! Recipients of data are told by webhook when a person's data is put right or erased, as Standard
//! Webhooks (<https://www.standardwebhooks.com>) has it: `webhook-id` stays for all tries of a notice,
//! `webhook-timestamp` is the try's, and `webhook-signature` is an HMAC-SHA-256 of both and the body.
//!
//! A notice stays in the log until it is delivered, so tries go on after a restart. What cannot be
//! delivered for long is given up, by the service.

mod post;

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::ClientConfig;
use serde_json::json;
use sha2::Sha256;
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

use crate::domain::{Change, Notice, NoticeId, NoticeOutcome, RecipientName, Timestamp};
use crate::service::clock::Clock;
use crate::service::notices::NoticeDetails;
use crate::service::{Service, ServiceError};
use post::PostError;

/// How long the first try that fails is followed by none; each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// How often it is looked for notices where nothing says that there are new ones.
const LOOK: Duration = Duration::from_secs(60);

/// What a secret begins with.
const SECRET_PREFIX: &str = "whsec_";

/// Where a recipient is told.
pub struct Target {
    url: http::Uri,
    secret: Zeroizing<Vec<u8>>,
    tls: Arc<ClientConfig>,
}

/// Why a target cannot be used. Holds nothing of the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Another scheme than https, or no host.
    #[error("the url must be https://host/path")]
    Url,
    /// Not of the form.
    #[error("the secret must be one line {SECRET_PREFIX}<base64 of 24 to 64 bytes>")]
    Secret,
}

impl Target {
    /// A target; `secret` is the text of its file.
    pub fn new(url: &str, secret: &str, tls: Arc<ClientConfig>) -> Result<Self, TargetError> {
        let url: http::Uri = url.parse().map_err(|_| TargetError::Url)?;
        if url.scheme() != Some(&http::uri::Scheme::HTTPS) || url.host().is_none() {
            return Err(TargetError::Url);
        }
        let encoded = secret.trim().strip_prefix(SECRET_PREFIX).ok_or(TargetError::Secret)?;
        let secret = Zeroizing::new(BASE64.decode(encoded).map_err(|_| TargetError::Secret)?);
        if !(24..=64).contains(&secret.len()) {
            return Err(TargetError::Secret);
        }
        Ok(Self { url, secret, tls })
    }

    fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let mut signature = String::from("v1,");
        if let Ok(mut mac) = <Hmac<Sha256>>::new_from_slice(&self.secret) {
            mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
            BASE64.encode_string(mac.finalize().into_bytes(), &mut signature);
        }
        signature
    }

    async fn tell(&self, details: &NoticeDetails, now: Timestamp) -> Result<(), PostError> {
        let body = body(details);
        let (id, timestamp) = (message_id(details.notice.id), now.as_seconds());
        let headers = [
            ("webhook-signature", self.sign(&id, timestamp, &body)),
            ("webhook-timestamp", timestamp.to_string()),
            ("webhook-id", id),
        ];
        post::post(&self.url, Arc::clone(&self.tls), headers, body).await
    }
}

fn message_id(id: NoticeId) -> String {
    format!("msg_{}", BASE64URL.encode(id.as_bytes()))
}

fn body(details: &NoticeDetails) -> String {
    let notice = &details.notice;
    let email = notice.email.expose();
    let (kind, data) = match &notice.change {
        Change::Erased => ("person.erased", json!({ "email": email })),
        Change::Rectified { email: Some(right) } => {
            ("person.rectified", json!({ "email": email, "new_email": right.expose() }))
        }
        Change::Rectified { email: None } => {
            ("person.rectified", json!({ "email": email, "name_changed": true }))
        }
    };
    let timestamp = details.created_at.to_string();
    json!({ "type": kind, "timestamp": timestamp, "data": data }).to_string()
}

/// When something is tried again.
struct Pause {
    until: Instant,
    length: Duration,
}

/// Who is not told for a while. One who cannot be reached is tried with one notice at a time, so that
/// nobody else waits for as long as each of theirs would take; a notice that they refuse holds up no
/// other.
#[derive(Default)]
struct Pauses {
    targets: HashMap<RecipientName, Pause>,
    notices: HashMap<NoticeId, Pause>,
}

impl Pauses {
    fn holds(&self, notice: &Notice, now: Instant) -> bool {
        let target = self.targets.get(&notice.recipient);
        let mut pauses = [target, self.notices.get(&notice.id)].into_iter().flatten();
        pauses.any(|pause| pause.until > now)
    }

    fn failed(&mut self, notice: &Notice, is_reached: bool, now: Instant) {
        if is_reached {
            self.targets.remove(&notice.recipient);
            lengthen(&mut self.notices, notice.id, now);
        } else {
            lengthen(&mut self.targets, notice.recipient.clone(), now);
        }
    }

    fn told(&mut self, notice: &Notice) {
        self.targets.remove(&notice.recipient);
        self.notices.remove(&notice.id);
    }

    /// Forgets what waits no more.
    fn retain(&mut self, waiting: &[NoticeDetails]) {
        let waits = |is: &dyn Fn(&Notice) -> bool| waiting.iter().any(|of| is(&of.notice));
        self.targets.retain(|recipient, _| waits(&|notice| notice.recipient == *recipient));
        self.notices.retain(|id, _| waits(&|notice| notice.id == *id));
    }

    /// When the next one ends.
    fn end(&self, now: Instant) -> Option<Instant> {
        let pauses = self.targets.values().chain(self.notices.values());
        pauses.map(|pause| pause.until).filter(|until| *until > now).min()
    }
}

fn lengthen<K: Eq + Hash>(pauses: &mut HashMap<K, Pause>, key: K, now: Instant) {
    let length = pauses.get(&key).map_or(FIRST_PAUSE, |pause| pause.length * 2).min(LAST_PAUSE);
    pauses.insert(key, Pause { until: now + length, length });
}

/// Tells recipients for as long as the server runs.
pub async fn tell(
    service: Arc<Service>,
    targets: BTreeMap<RecipientName, Target>,
    clock: Arc<dyn Clock>,
) {
    let mut pauses = Pauses::default();
    loop {
        let wake = Instant::now() + LOOK;
        let next = match tell_once(&service, &targets, clock.as_ref(), &mut pauses).await {
            Ok(()) => pauses.end(Instant::now()).map_or(wake, |at| at.min(wake)),
            Err(error) => {
                tracing::warn!("recipients cannot be told: {error}");
                wake
            }
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = service.notice_created() => {}
        }
    }
}

async fn tell_once(
    service: &Service,
    targets: &BTreeMap<RecipientName, Target>,
    clock: &dyn Clock,
    pauses: &mut Pauses,
) -> Result<(), ServiceError> {
    let waiting = service.waiting_notices()?;
    pauses.retain(&waiting);
    for details in waiting {
        let notice = &details.notice;
        let Some(target) = targets.get(&notice.recipient) else { continue };
        if pauses.holds(notice, Instant::now()) {
            continue;
        }
        match target.tell(&details, clock.now()).await {
            Ok(()) => {
                service.settle(notice.id, NoticeOutcome::Delivered).await?;
                pauses.told(notice);
            }
            Err(error) => {
                pauses.failed(notice, matches!(error, PostError::Status(_)), Instant::now());
                let recipient = notice.recipient.as_str();
                tracing::warn!(recipient, "a recipient is not told yet: {error}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Email, ErasureId, SubjectId};

    fn tls() -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let roots = rustls::RootCertStore::empty();
        Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth())
    }

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of Standard Webhooks' reference libraries.
        let target =
            Target::new("https://example.com/", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", tls());
        let body = r#"{"test": 2432232314}"#;
        let signature = target.unwrap().sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn who_cannot_be_reached_holds_up_nobody_else_and_a_refused_notice_no_other() {
        let notice = |recipient: &str, id: u8| Notice {
            id: NoticeId::from_bytes([id; 16]),
            subject: SubjectId::from_bytes([1; 16]),
            erasure: ErasureId::from_bytes([1; 16]),
            recipient: RecipientName::parse(recipient).unwrap(),
            email: Email::parse("ada@example.com").unwrap(),
            change: Change::Erased,
        };
        let [dead, dead_too] = [notice("Dead", 1), notice("Dead", 2)];
        let [refused, other] = [notice("Alive", 3), notice("Alive", 4)];
        let (mut pauses, start) = (Pauses::default(), Instant::now());
        let held = |pauses: &Pauses, now| {
            [&dead, &dead_too, &refused, &other].map(|notice| pauses.holds(notice, now))
        };
        pauses.failed(&dead, false, start);
        pauses.failed(&refused, true, start);
        assert_eq!(held(&pauses, start), [true, true, true, false]);
        assert_eq!(pauses.end(start), Some(start + FIRST_PAUSE));
        let later = start + FIRST_PAUSE;
        assert_eq!((held(&pauses, later), pauses.end(later)), ([false; 4], None));
        // Whichever of theirs is tried next, the pause is twice as long.
        pauses.failed(&dead_too, false, later);
        assert_eq!(pauses.end(later), Some(later + FIRST_PAUSE * 2));
        pauses.told(&dead);
        assert_eq!(held(&pauses, later), [false; 4]);
    }

    #[test]
    fn a_target_that_cannot_be_used_is_told() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for (url, secret, expected) in [
            ("http://example.com/", secret, TargetError::Url),
            ("/hook", secret, TargetError::Url),
            ("not a url", secret, TargetError::Url),
            ("https://example.com/", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", TargetError::Secret),
            ("https://example.com/", "whsec_AAAA", TargetError::Secret),
            ("https://example.com/", "whsec_*", TargetError::Secret),
        ] {
            assert_eq!(Target::new(url, secret, tls()).err(), Some(expected), "{url}");
        }
    }
}
