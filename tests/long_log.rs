//! A long log is not read whole before its server serves: what a start leaves out is read behind it.

mod support;

use std::fs;
use std::path::PathBuf;

use countersign::domain::Position;
use countersign::log::head::{Checkpoint, LogKey};
use support::{LONG_LOG, Place, Server, activation};

const EMAIL: &str = "ada@example.com";

/// A directory in which no log is too short, with some history.
async fn place() -> (Place, String) {
    let place = Place::new();
    place.configure(LONG_LOG);
    let server = place.start();
    let key = server.issue(EMAIL, "App", 100).await;
    for nonce in 0..20 {
        server.app().activate(activation(EMAIL, &key, nonce)).await.unwrap();
    }
    assert!(server.terminate().success());
    (place, key)
}

fn checked(place: &Place) -> PathBuf {
    place.directory().join("data/checked")
}

/// Activates once more, and says how many activations there are.
async fn used(server: &Server, key: &str, nonce: u128) -> u64 {
    server.app().activate(activation(EMAIL, key, nonce)).await.unwrap();
    server.history(EMAIL).await.unwrap().licenses[0].activations_total
}

/// Waits until the server's log has a text so often.
async fn logged(place: &Place, text: &str, times: usize) {
    let log = || fs::read_to_string(place.log_path()).unwrap();
    let waits = async {
        while log().matches(text).count() < times {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(support::FOREVER, waits).await.is_ok(), "{text}: {}", log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_on_from_what_was_checked_and_reads_it_again_later() {
    let (place, key) = place().await;
    assert!(checked(&place).exists());
    let server = place.start();
    assert_eq!(used(&server, &key, 20).await, 21);
    logged(&place, "the log was read again", 1).await;
    // A kill leaves the file of the start before, from which the next one goes on.
    server.kill();
    let server = place.start();
    assert_eq!(used(&server, &key, 21).await, 22);
    logged(&place, "the log was read again", 2).await;
    assert!(server.terminate().success());
    let verified = place.run(&["verify", "--deep"]);
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_checked_is_not_believed_where_it_is_damaged_or_of_another_log() {
    let (place, key) = place().await;
    let good = fs::read(checked(&place)).unwrap();
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    let (other, _) = self::place().await;
    let of_another = fs::read(checked(&other)).unwrap();
    for (expected, bytes) in (21..).zip([&flipped, &of_another, &Vec::new()]) {
        fs::write(checked(&place), bytes).unwrap();
        let server = place.start();
        assert_eq!(used(&server, &key, expected.into()).await, expected);
        assert!(server.terminate().success());
    }
    fs::remove_file(checked(&place)).unwrap();
    assert!(place.start().terminate().success());
    assert!(checked(&place).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_changed_since_ends_the_server() {
    let (place, _) = place().await;
    place.change_record(3);
    let server = place.start();
    assert!(!server.wait().success());
    logged(&place, "records are not those that were written; restore it from a backup", 1).await;
    // No start goes on from it any more.
    let (code, log) = place.try_start().map(Server::kill).unwrap_err();
    assert!(code != Some(0) && log.contains("are not those that were written"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_later_is_compared_with_all_of_the_log() {
    let (place, _) = place().await;
    let path = place.directory().join("tiles/checkpoint");
    let key = fs::read_to_string(place.directory().join("keys/log.key")).unwrap();
    let key = LogKey::parse(&key).unwrap();
    let published = key.verify(&fs::read_to_string(&path).unwrap()).unwrap();
    // As of a log that was restored from an older backup, went on otherwise, and was put aside again.
    let other = Checkpoint { size: Position(published.size.0 - 2), root: [7; 32] };
    fs::write(&path, key.sign(&other)).unwrap();
    let (code, log) = place.try_start().map(Server::kill).unwrap_err();
    assert!(code != Some(0) && log.contains("are not those that were written"), "{log}");
}
