//! A witness: sees that each checkpoint of a log is a continuation of the one before, and says so by
//! its own signature (C2SP `tlog-cosignature`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::domain::{Position, Timestamp};
use crate::log::head::Checkpoint;
use crate::log::note::{Note, SignerKey, VerifierKey};
use crate::log::tree::Root;
use crate::tlog::proof::{Shown, compare};

/// What a file of evidence says that it is.
const FORMAT: &str = "countersign/evidence/v1";

/// What a witness has seen of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The tree.
    pub checkpoint: Checkpoint,
    /// The signed note of it, with the log's signature and no other.
    pub note: String,
}

/// The log shows another history than before, or nothing that a log may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// The checkpoint is not the log's.
    #[error("the server shows a checkpoint that the log's key did not sign")]
    Foreign,
    /// Fewer records than before.
    #[error(
        "ROLLED BACK: the log has {now} records, but had signed for {before}: the newest were dropped, \
         or it was restored from an older backup"
    )]
    RolledBack {
        /// What it had.
        before: Position,
        /// What it has.
        now: Position,
    },
    /// It signed for two histories.
    #[error(
        "FORK, proven: the log's first {before} records are not those it had signed for; its checkpoint \
         of {now} records is of another history"
    )]
    Forked {
        /// What it had.
        before: Position,
        /// What it has.
        now: Position,
    },
    /// It does not show that it signed for one.
    #[error(
        "FORK, unproven: the server does not show that its {now} records begin with the {before} that \
         the log had signed for; either they do not, or its tiles are damaged"
    )]
    Unproven {
        /// What it had.
        before: Position,
        /// What it has.
        now: Position,
    },
}

impl Alarm {
    /// Whether what the log signed proves it to anybody. Otherwise it is the witness's word.
    pub fn is_proven(self) -> bool {
        matches!(self, Self::Forked { .. })
    }
}

impl Seen {
    /// Reads a note of the log's.
    pub fn parse(note: &str, log: &VerifierKey) -> Result<Self, Alarm> {
        let checkpoint = Checkpoint::verify(note, log).ok_or(Alarm::Foreign)?;
        let note = Note::parse(note).and_then(|note| note.signed_by(log)).ok_or(Alarm::Foreign)?;
        Ok(Self { checkpoint, note })
    }

    /// Whether this is a continuation of what was seen before, as the proof must show.
    pub fn continues(&self, before: &Checkpoint, proof: &[impl AsRef<[u8]>]) -> Result<(), Alarm> {
        let (before_size, now) = (before.size, self.checkpoint.size);
        if now < before_size {
            return Err(Alarm::RolledBack { before: before_size, now });
        }
        let hashes: Result<Vec<Root>, _> =
            proof.iter().map(|hash| hash.as_ref().try_into()).collect();
        // What is no hash shows nothing.
        match compare(before, &self.checkpoint, &hashes.unwrap_or_default()) {
            Shown::Continuation => Ok(()),
            Shown::Fork => Err(Alarm::Forked { before: before_size, now }),
            Shown::Nothing => Err(Alarm::Unproven { before: before_size, now }),
        }
    }

    /// The note with the witness's signature as well.
    #[must_use]
    pub fn cosigned(&self, witness: &SignerKey, now: Timestamp) -> String {
        let text = Note::parse(&self.note).map(|note| note.text()).unwrap_or_default();
        format!("{}{}", self.note, witness.sign(text, now))
    }
}

/// What a witness found against a log, with all that it takes to judge it elsewhere: a JSON file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    format: String,
    /// What was found, in words. Who judges believes none of them.
    finding: String,
    /// Whether the rest proves it to anybody.
    proven: bool,
    found_at: String,
    /// The signed note that the witness had cosigned, if there was one.
    before: Option<String>,
    /// What the server showed then, as it came.
    shown: String,
    /// The hashes that were to lead from one to the other (RFC 6962 §2.1.2), in base64.
    consistency_proof: Vec<String>,
}

/// A file holds no evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not evidence of the form {FORMAT}")]
pub struct NoEvidence;

impl Evidence {
    /// Keeps what was found, as it came.
    pub fn new(
        alarm: Alarm,
        before: Option<&Seen>,
        shown: &str,
        proof: &[impl AsRef<[u8]>],
        now: Timestamp,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            finding: alarm.to_string(),
            proven: alarm.is_proven(),
            found_at: now.to_string(),
            before: before.map(|before| before.note.clone()),
            shown: shown.to_owned(),
            consistency_proof: proof.iter().map(|hash| BASE64.encode(hash)).collect(),
        }
    }

    /// Reads what [`Evidence::to_json`] writes.
    pub fn parse(text: &str) -> Result<Self, NoEvidence> {
        let evidence: Self = serde_json::from_str(text).map_err(|_| NoEvidence)?;
        if evidence.format == FORMAT { Ok(evidence) } else { Err(NoEvidence) }
    }

    /// The file.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What it shows of the log with that key, whatever it says. `Ok(())`: nothing against it.
    pub fn judge(&self, log: &VerifierKey) -> Result<(), Alarm> {
        let shown = Seen::parse(&self.shown, log)?;
        let Some(before) = &self.before else { return Ok(()) };
        let before = Seen::parse(before, log)?;
        let lines = self.consistency_proof.iter();
        let proof: Result<Vec<_>, _> = lines.map(|line| BASE64.decode(line)).collect();
        shown.continues(&before.checkpoint, &proof.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::head::LogKey;
    use crate::log::note::{Algorithm, Verified};
    use crate::tlog::proof::consistency;
    use crate::tlog::proof::tests::leaves;

    const NONE: &[Root] = &[];

    #[test]
    fn a_continuation_is_cosigned_and_any_other_history_is_an_alarm() {
        let key = LogKey::generate("log.example.com", &mut rand::rng()).unwrap();
        let tree = leaves(20);
        let seen = |size| Seen::parse(&key.sign(&tree.checkpoint(size)), key.public()).unwrap();
        let proof = |old, new| {
            let Ok(proof) = consistency(&tree, Position(old), Position(new));
            proof.unwrap()
        };
        let before = seen(13).checkpoint;
        assert_eq!(seen(20).continues(&before, &proof(13, 20)), Ok(()));
        assert_eq!(seen(13).continues(&before, NONE), Ok(()));
        let (now, size) = (Position(12), Position(13));
        let rolled_back = Alarm::RolledBack { before: size, now };
        assert_eq!(seen(12).continues(&before, NONE), Err(rolled_back));

        let mut other = leaves(20);
        other.0[4] = [0; 32];
        let note = key.sign(&other.checkpoint(20));
        let forked = Seen::parse(&note, key.public()).unwrap();
        let Ok(shown) = consistency(&other, size, Position(20));
        let alarm = Alarm::Forked { before: size, now: Position(20) };
        assert_eq!(forked.continues(&before, &shown.unwrap()), Err(alarm));
        let unproven = Alarm::Unproven { before: size, now: Position(20) };
        assert_eq!(forked.continues(&before, &proof(13, 20)), Err(unproven));
        assert_eq!(forked.continues(&before, NONE), Err(unproven));
        let same = Seen::parse(&key.sign(&other.checkpoint(13)), key.public()).unwrap();
        assert_eq!(same.continues(&before, NONE), Err(Alarm::Forked { before: size, now: size }));

        let stranger = LogKey::generate("log.example.com", &mut rand::rng()).unwrap();
        assert_eq!(Seen::parse(&note, stranger.public()), Err(Alarm::Foreign));

        let witness = SignerKey::generate("w", Algorithm::Cosignature, &mut rand::rng()).unwrap();
        let note = seen(20).cosigned(&witness, Timestamp::from_millis(1_000_000).unwrap());
        assert_eq!(Seen::parse(&note, key.public()).unwrap().checkpoint, tree.checkpoint(20));
        let verified = Note::parse(&note).unwrap().verify(witness.public());
        assert_eq!(verified, Some(Verified::Cosigned(1000)));
        // However many signed it before, what is kept does not grow.
        let again = Seen::parse(&note, key.public()).unwrap();
        assert_eq!(again.cosigned(&witness, Timestamp::from_millis(1_000_000).unwrap()), note);
    }

    #[test]
    fn evidence_is_judged_by_what_was_signed_and_not_by_what_it_says() {
        let key = LogKey::generate("log.example.com", &mut rand::rng()).unwrap();
        let (tree, mut other) = (leaves(20), leaves(20));
        other.0[4] = [0; 32];
        let before = Seen::parse(&key.sign(&tree.checkpoint(13)), key.public()).unwrap();
        let shown = key.sign(&other.checkpoint(20));
        let Ok(proof) = consistency(&other, Position(13), Position(20));
        let proof = proof.unwrap();
        let (sizes, now) = ((Position(13), Position(20)), Timestamp::from_millis(0).unwrap());
        let forked = Alarm::Forked { before: sizes.0, now: sizes.1 };
        let unproven = Alarm::Unproven { before: sizes.0, now: sizes.1 };
        let written = |said, proof: &[Root]| {
            let evidence = Evidence::new(said, Some(&before), &shown, proof, now);
            let read = Evidence::parse(&evidence.to_json().unwrap()).unwrap();
            assert_eq!(read, evidence);
            read
        };
        assert_eq!(written(forked, &proof).judge(key.public()), Err(forked));
        assert_eq!(written(forked, NONE).judge(key.public()), Err(unproven));
        assert_eq!(written(forked, &proof[1..]).judge(key.public()), Err(unproven));
        let odd = Evidence::new(forked, Some(&before), &shown, &[b"odd"], now);
        assert_eq!(odd.judge(key.public()), Err(unproven));
        let nothing = Evidence::new(forked, None, &shown, NONE, now);
        assert_eq!(nothing.judge(key.public()), Ok(()));
        let stranger = LogKey::generate("log.example.com", &mut rand::rng()).unwrap();
        assert_eq!(written(forked, &proof).judge(stranger.public()), Err(Alarm::Foreign));
        for text in ["", "{}", &shown, r#"{"format":"countersign/evidence/v2"}"#] {
            assert_eq!(Evidence::parse(text), Err(NoEvidence), "{text}");
        }
    }
}
