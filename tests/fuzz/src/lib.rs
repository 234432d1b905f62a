//! What the targets share: how they take a fuzzer's bytes apart, a key, and checksums made right. A fuzzer does
//! not guess a checksum, and what lies behind one would never be tried.

use countersign::log::note::{Algorithm, SignerKey};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// A fuzzer's bytes, taken from the front. Where there are none left, they are zeros.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.take(N);
        let mut bytes = [0; N];
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.bytes();
        byte
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }

    /// The next `count` bytes, or what is left.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Pieces with a length of two bytes before each.
    pub fn pieces(mut self) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !self.0.is_empty() {
            let length = u16::from_be_bytes(self.bytes());
            pieces.push(self.take(length.into()));
        }
        pieces
    }

    /// Changes bytes somewhere, some times: a place of two bytes, and what to change there.
    pub fn damage(mut self, bytes: &mut [u8]) {
        while !self.0.is_empty() && !bytes.is_empty() {
            let at = usize::from(u16::from_be_bytes(self.bytes())) % bytes.len();
            bytes[at] ^= self.byte();
        }
    }
}

/// Puts the CRC-32C of what is before the last four bytes there.
pub fn with_checksum(bytes: &mut [u8]) {
    if let Some((body, checksum)) = bytes.split_last_chunk_mut::<4>() {
        *checksum = crc32c::crc32c(body).to_be_bytes();
    }
}

/// The key of a witness; the seeds are signed with it too.
pub fn witness() -> SignerKey {
    let mut rng = StdRng::seed_from_u64(2);
    SignerKey::generate("witness.example.com", Algorithm::Cosignature, &mut rng).unwrap()
}
