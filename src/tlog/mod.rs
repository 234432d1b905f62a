//! What others can check of the log: its tree in tiles, proofs over it, and witnesses of it.
//!
//! All of it is made of the hashes of records, so it stays as it is when a person is erased, and says
//! nothing of them. The formats are those of <https://c2sp.org>; the tree is that of RFC 6962 §2.1.

pub mod proof;
pub mod replay;
pub mod tiles;
pub mod witness;
