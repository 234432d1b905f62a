//! Promise: a hostile client costs a bounded amount, and honest clients notice nothing. Each test
//! attacks a real server, with honest clients beside; `docs/attacks.md` has the table.

#[path = "../support/mod.rs"]
mod support;

mod bombs;
mod client;
mod floods;
mod guessing;
mod honest;
mod idle;
mod limits;
mod proofs;
mod slow;

use tokio::sync::Mutex;

/// Held by each test: what one does to the machine must not be measured by another.
static ALONE: Mutex<()> = Mutex::const_new(());
