//! A witness: sees that each checkpoint of a log is a continuation of the one before, and says so by
//! its own signature (C2SP `tlog-cosignature`).

use crate::domain::{Position, Timestamp};
use crate::log::head::Checkpoint;
use crate::log::note::{Note, SignerKey, VerifierKey};
use crate::log::tree::Root;
use crate::tlog::proof::verify_consistency;

/// What a witness has seen of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The tree.
    pub checkpoint: Checkpoint,
    /// The signed note of it.
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
    /// Other records than before.
    #[error(
        "FORK: the log's first {before} records are not those it had signed for; its checkpoint of \
         {now} records is of another history"
    )]
    Forked {
        /// What it had.
        before: Position,
        /// What it has.
        now: Position,
    },
}

impl Seen {
    /// Reads a note of the log's.
    pub fn parse(note: &str, log: &VerifierKey) -> Result<Self, Alarm> {
        let checkpoint = Checkpoint::verify(note, log).ok_or(Alarm::Foreign)?;
        Ok(Self { checkpoint, note: note.to_owned() })
    }

    /// Whether this is a continuation of what was seen before, as the proof must show.
    pub fn continues(&self, before: &Checkpoint, proof: &[Root]) -> Result<(), Alarm> {
        let (before_size, now) = (before.size, self.checkpoint.size);
        if now < before_size {
            return Err(Alarm::RolledBack { before: before_size, now });
        }
        if verify_consistency(before, &self.checkpoint, proof) {
            Ok(())
        } else {
            Err(Alarm::Forked { before: before_size, now })
        }
    }

    /// The note with the witness's signature as well.
    #[must_use]
    pub fn cosigned(&self, witness: &SignerKey, now: Timestamp) -> String {
        let text = Note::parse(&self.note).map(|note| note.text()).unwrap_or_default();
        format!("{}{}", self.note, witness.sign(text, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::head::LogKey;
    use crate::log::note::{Algorithm, Verified};
    use crate::tlog::proof::consistency;
    use crate::tlog::proof::tests::leaves;

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
        assert_eq!(seen(13).continues(&before, &[]), Ok(()));
        let (now, size) = (Position(12), Position(13));
        let rolled_back = Alarm::RolledBack { before: size, now };
        assert_eq!(seen(12).continues(&before, &[]), Err(rolled_back));

        let mut other = leaves(20);
        other.0[4] = [0; 32];
        let note = key.sign(&other.checkpoint(20));
        let forked = Seen::parse(&note, key.public()).unwrap();
        let Ok(shown) = consistency(&other, size, Position(20));
        let alarm = Alarm::Forked { before: size, now: Position(20) };
        assert_eq!(forked.continues(&before, &shown.unwrap()), Err(alarm));
        assert_eq!(forked.continues(&before, &proof(13, 20)), Err(alarm));
        let same = Seen::parse(&key.sign(&other.checkpoint(13)), key.public()).unwrap();
        assert!(matches!(same.continues(&before, &[]), Err(Alarm::Forked { .. })));

        let stranger = LogKey::generate("log.example.com", &mut rand::rng()).unwrap();
        assert_eq!(Seen::parse(&note, stranger.public()), Err(Alarm::Foreign));

        let witness = SignerKey::generate("w", Algorithm::Cosignature, &mut rand::rng()).unwrap();
        let note = seen(20).cosigned(&witness, Timestamp::from_millis(1_000_000).unwrap());
        assert_eq!(Seen::parse(&note, key.public()).unwrap().checkpoint, tree.checkpoint(20));
        let verified = Note::parse(&note).unwrap().verify(witness.public());
        assert_eq!(verified, Some(Verified::Cosigned(1000)));
    }
}
