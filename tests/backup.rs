//! Promise: from a backup, or from the archive, a server is rebuilt with all that was acknowledged
//! before it, and nothing that was erased; and what is not whole is refused with a message that says
//! where.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use countersign::domain::{Counts, Day, Event, Position, Product, Timestamp};
use countersign::log::head::{self, LogKey};
use countersign::log::record;
use countersign::log::tree::CompactRange;
use countersign::proto::v1::BackupRequest;
use countersign::proto::v1::operator_service_client::OperatorServiceClient;
use countersign::views::Views;
use serde_json::Value;
use support::{Place, Server, activation, files, reason};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tonic::Code;

const ADA: &str = "ada@example.com";
const GRACE: &str = "grace@example.com";
const CLIENTS: u128 = 8;

/// What is done to a backup.
type Ruin<'a> = &'a dyn Fn(&Path);
/// Receipts by nonce.
type Receipts = BTreeMap<u128, String>;

/// Clients that activate until they are told to stop.
struct Load {
    receipts: Arc<Mutex<Receipts>>,
    is_over: Arc<AtomicBool>,
    clients: JoinSet<()>,
    count: Arc<(AtomicUsize, Notify)>,
}

impl Load {
    fn start(server: &Server, key: &str) -> Self {
        let mut load = Self {
            receipts: Arc::default(),
            is_over: Arc::default(),
            clients: JoinSet::new(),
            count: Arc::default(),
        };
        for client in 0..CLIENTS {
            let (mut app, key) = (server.app(), key.to_owned());
            let (receipts, is_over) = (Arc::clone(&load.receipts), Arc::clone(&load.is_over));
            let count = Arc::clone(&load.count);
            load.clients.spawn(async move {
                for call in 0.. {
                    let nonce = client << 32 | call;
                    let Ok(answer) = app.activate(activation(ADA, &key, nonce)).await else {
                        return;
                    };
                    receipts.lock().await.insert(nonce, answer.into_inner().receipt);
                    count.0.fetch_add(1, Ordering::SeqCst);
                    count.1.notify_one();
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        load
    }

    async fn acknowledged(&self, at_least: usize) -> Receipts {
        while self.count.0.load(Ordering::SeqCst) < at_least {
            self.count.1.notified().await;
        }
        self.receipts.lock().await.clone()
    }

    async fn end(self) -> Receipts {
        self.is_over.store(true, Ordering::SeqCst);
        self.clients.join_all().await;
        let receipts = self.receipts.lock().await;
        receipts.clone()
    }
}

fn good(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(output: &Output, named: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    for name in named {
        assert!(text.contains(name), "{name} is not in {text}");
    }
}

async fn back_up(place: &Place, to: &Path) -> u64 {
    let output = place.run_async(&["--json", "backup", to.to_str().unwrap()]).await;
    good(&output)["records"].as_u64().unwrap()
}

fn restore(place: &Place, from: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["--json", "restore", from.to_str().unwrap()];
    arguments.extend(more);
    place.run(&arguments)
}

fn verify(place: &Place, more: &[&str]) -> Value {
    let mut arguments = vec!["--json", "verify"];
    arguments.extend(more);
    good(&place.run(&arguments))
}

/// Another machine: configuration and keys, and nothing of the data.
fn elsewhere(place: &Place) -> Place {
    let other = Place::empty();
    for path in files(&place.directory()) {
        let name = path.strip_prefix(place.directory()).unwrap();
        let first = name.iter().next().unwrap();
        if ["keys", "tls", "countersign.toml", "policy.toml"].iter().any(|kept| first == *kept) {
            let to = other.directory().join(name);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&path, to).unwrap();
        }
    }
    other
}

/// Each retry gets the receipt of the first time, byte for byte, and takes no seat.
async fn assert_there(server: &Server, key: &str, receipts: &Receipts) {
    for (nonce, receipt) in receipts {
        let again = server.app().activate(activation(ADA, key, *nonce)).await;
        assert_eq!(again.unwrap().into_inner().receipt, *receipt, "{nonce}");
    }
}

async fn activations(server: &Server, email: &str) -> u64 {
    server.history(email).await.unwrap().licenses[0].activations_total
}

fn copy_directory(from: &Path, to: &Path) {
    for path in files(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&path, to).unwrap();
    }
}

fn segments(backup: &Path) -> Vec<PathBuf> {
    let mut found = files(&backup.join("segments"));
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_has_all_that_was_acknowledged_before_it() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 100_000).await;
    let load = Load::start(&server, &key);
    let backup = place.beside("backup");

    let before_first = load.acknowledged(100).await;
    let first = back_up(&place, &backup).await;
    let of_first: Vec<(PathBuf, Vec<u8>, u64, i64)> = segments(&backup)
        .into_iter()
        .map(|path| {
            let about = fs::metadata(&path).unwrap();
            (path.clone(), fs::read(&path).unwrap(), about.ino(), about.mtime_nsec())
        })
        .collect();
    let old = place.beside("first");
    copy_directory(&backup, &old);
    let before_second = load.acknowledged(before_first.len() + 200).await;
    let second = back_up(&place, &backup).await;
    let all = load.end().await;
    println!(
        "backups of {first} and {second} records, while {} calls were acknowledged",
        all.len()
    );
    assert!(second > first && first > before_first.len() as u64 && all.len() > before_second.len());

    for (path, bytes, inode, written) in &of_first {
        let about = fs::metadata(path).unwrap();
        assert_eq!((about.ino(), about.mtime_nsec()), (*inode, *written), "{}", path.display());
        assert_eq!(fs::read(path).unwrap(), *bytes);
    }
    assert_eq!(segments(&backup).len(), of_first.len() + 1, "one more for what is new");
    for path in files(&backup) {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is for nobody else", path.display());
    }
    let socket = fs::metadata(place.directory().join("run/operator")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o700);
    assert_eq!(verify(&place, &[backup.to_str().unwrap()])["records"], second);

    for (from, expected, records) in
        [(&old, &before_first, first), (&backup, &before_second, second)]
    {
        let other = elsewhere(&place);
        assert_eq!(good(&restore(&other, from, &[]))["records"], records);
        assert_eq!(verify(&other, &["--deep"])["records"], records);
        let server = other.start();
        let there = activations(&server, ADA).await;
        assert_there(&server, &key, expected).await;
        assert_eq!(activations(&server, ADA).await, there, "a retry takes no seat");
        assert!(server.terminate().success());
        assert_eq!(verify(&other, &["--deep"])["views"], "match the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_brings_back_a_log_that_is_gone() {
    let place = Place::new();
    let archive = place.beside("archive");
    let config = place.directory().join("countersign.toml");
    let text = fs::read_to_string(&config).unwrap();
    let archived = format!("[archive]\ndirectory = {:?}\n", archive.to_str().unwrap());
    fs::write(&config, text + &archived).unwrap();
    let mut acknowledged = Receipts::new();
    let mut key = String::new();
    for round in 0..3u128 {
        let server = place.start();
        if round == 0 {
            key = server.issue(ADA, "App", 100_000).await;
        }
        for call in 0..40 {
            let nonce = round << 32 | call;
            let answer = server.app().activate(activation(ADA, &key, nonce)).await.unwrap();
            acknowledged.insert(nonce, answer.into_inner().receipt);
        }
        // All that there is now.
        let expected = back_up(&place, &place.beside(&format!("other-{round}"))).await;
        let stated = loop {
            // It may not be there yet.
            let looked = place.run_async(&["--json", "verify", archive.to_str().unwrap()]).await;
            let stated = serde_json::from_slice::<Value>(&looked.stdout).unwrap_or_default();
            if stated["records"].as_u64() >= Some(expected) {
                break stated["records"].clone();
            }
        };
        server.kill();
        let tails = segments(&archive);
        assert_eq!(tails.len(), 1, "what does not fill a segment is in one tail: {tails:?}");

        fs::remove_dir_all(place.directory().join("data/log")).unwrap();
        assert!(place.refusal().contains("data/log"));
        assert_eq!(good(&restore(&place, &archive, &[]))["records"], stated);
        assert_eq!(verify(&place, &["--deep"])["records"], stated);
        let server = place.start();
        assert_there(&server, &key, &acknowledged).await;
        assert_eq!(activations(&server, ADA).await, acknowledged.len() as u64);
        assert!(server.terminate().success());
    }
    println!("the log was lost three times, with {} acknowledged", acknowledged.len());
    // A backup goes on where the archive ends, and the archive after it.
    let before = verify(&place, &[])["records"].as_u64().unwrap();
    assert_eq!(back_up(&place, &archive).await, before);
    assert!(segments(&archive).iter().all(|path| path.extension().unwrap() == "seg"));
    let lock = fs::File::open(archive.join("lock")).unwrap();
    lock.lock().unwrap();
    let busy = place.run(&["backup", archive.to_str().unwrap()]);
    refused(&busy, &["another backup or archive writes to"]);
    drop(lock);
    assert!(place.start().terminate().success());
    assert!(verify(&place, &[archive.to_str().unwrap()])["records"].as_u64().unwrap() >= before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_whose_disk_fails_stops_nobody_and_goes_on_when_it_is_back() {
    let place = Place::new();
    let (archive, config) = (place.beside("archive"), place.directory().join("countersign.toml"));
    let text = fs::read_to_string(&config).unwrap();
    let archived = format!("[archive]\ndirectory = {:?}\n", archive.to_str().unwrap());
    fs::write(&config, text + &archived).unwrap();
    fs::write(&archive, "where the directory should be").unwrap();
    let server = place.start_with(&["--ops-listen", "127.0.0.1:0"]);
    let key = server.issue(ADA, "App", 10).await;
    server.app().activate(activation(ADA, &key, 1)).await.unwrap();
    while !fs::read_to_string(place.log_path()).unwrap().contains("the archive does not go on") {
        server.app().activate(activation(ADA, &key, 1)).await.unwrap();
    }
    // It says so a moment later.
    while !server.metrics().contains("\ncountersign_archive_failing 1\n") {
        server.app().activate(activation(ADA, &key, 1)).await.unwrap();
    }
    assert!(server.metrics().contains("\ncountersign_archive_lag 4\n"), "{}", server.metrics());
    // Its vault would open nothing from then on; so an erasure waits to be final.
    server.issue(GRACE, "App", 1).await;
    assert!(server.erase(GRACE, false, true).await.final_at.is_none());
    assert!(fs::read_to_string(place.log_path()).unwrap().contains("while the archive does not"));
    fs::remove_file(&archive).unwrap();
    while !server.metrics().contains("\ncountersign_archive_failing 0\n") {
        server.app().activate(activation(ADA, &key, 1)).await.unwrap();
    }
    server.issue(GRACE, "App", 1).await;
    assert!(server.erase(GRACE, false, true).await.final_at.is_some());
    // At its end it archives what is left.
    assert!(server.terminate().success());
    let records = verify(&place, &["--deep"])["records"].clone();
    assert_eq!(verify(&place, &[archive.to_str().unwrap()])["records"], records);
}

/// A server that has been stopped, with some activations, and two backups one after the other.
async fn backed_up() -> (Place, PathBuf, String) {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 100).await;
    let backup = place.beside("backup");
    for nonce in 0..20 {
        server.app().activate(activation(ADA, &key, nonce)).await.unwrap();
        if nonce % 7 == 0 {
            back_up(&place, &backup).await;
        }
    }
    assert!(server.terminate().success());
    back_up(&place, &backup).await;
    assert_eq!(segments(&backup).len(), 4);
    (place, backup, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_refused_and_says_where() {
    let (place, backup, _) = backed_up().await;
    let names: Vec<String> = segments(&backup)
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let at = |from: &Path, number: usize| from.join("segments").join(&names[number]);
    let position = |number: usize| {
        names[number]
            .parse::<u64>()
            .unwrap_or_else(|_| names[number].trim_end_matches(".seg").parse().unwrap())
    };
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 0x10;
        fs::write(path, bytes).unwrap();
    };
    let swap = |a: &Path, b: &Path| {
        let between = a.with_extension("between");
        for (from, to) in [(a, between.as_path()), (b, a), (between.as_path(), b)] {
            fs::rename(from, to).unwrap();
        }
    };
    let second = position(1);
    let cases: [(Ruin<'_>, &[&str]); 10] = [
        (&|b| flip(&at(b, 1), 200), &[&names[1], &format!("position {second}"), "checksum"]),
        (
            &|b| {
                let bytes = fs::read(at(b, 2)).unwrap();
                fs::write(at(b, 2), &bytes[..bytes.len() - 50]).unwrap();
            },
            &[&names[2], "damaged"],
        ),
        (&|b| fs::write(at(b, 3), "").unwrap(), &[&names[3], "cut short"]),
        (&|b| swap(&at(b, 1), &at(b, 2)), &[&names[1], "was it renamed"]),
        (
            &|b| fs::remove_file(at(b, 2)).unwrap(),
            &["no file with the record", &format!("position {}", position(2))],
        ),
        (&|b| flip(&b.join("manifest"), 60), &["manifest", "damaged"]),
        (&|b| fs::remove_file(b.join("manifest")).unwrap(), &["no manifest"]),
        (&|b| flip(&b.join("ledger"), 3), &["line 1", "ledger", "damaged"]),
        (&|b| flip(&b.join("vault"), 128 + 40), &["slot 1 of the vault is damaged"]),
        (
            &|b| fs::write(b.join("vault"), &fs::read(b.join("vault")).unwrap()[..128]).unwrap(),
            &["vault", "1 slots"],
        ),
    ];
    for (number, (ruin, named)) in cases.iter().enumerate() {
        let (other, ruined) = (elsewhere(&place), place.beside(&format!("ruined-{number}")));
        copy_directory(&backup, &ruined);
        ruin(&ruined);
        refused(&restore(&other, &ruined, &[]), named);
        assert!(!other.directory().join("data").exists(), "nothing is put in place: {number}");
        let found = place.run(&["--json", "verify", ruined.to_str().unwrap()]);
        assert_eq!(found.status.code(), Some(3), "{found:?}");
        refused(&found, named);
        // What is wrong with a backup does not harm a restore after it.
        assert!(good(&restore(&other, &backup, &[]))["records"].as_u64() > Some(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_newer_than_the_backup_is_lost_only_when_told_so() {
    let (place, backup, key) = backed_up().await;
    let server = place.start();
    server.app().activate(activation(ADA, &key, 77)).await.unwrap();
    let running = restore(&place, &backup, &[]);
    refused(&running, &["another countersign serves"]);
    assert!(server.terminate().success());
    let older = restore(&place, &backup, &[]);
    refused(&older, &["had come to", "--lose-newer"]);
    let restored = good(&restore(&place, &backup, &["--lose-newer"]));
    let aside = restored["moved_to"].as_str().unwrap();
    assert!(Path::new(aside).join("head").exists(), "what was there is kept");
    let server = place.start();
    assert_eq!(activations(&server, ADA).await, 20);
    // From here on it is another history: what went to a backup meanwhile does not mix with it.
    let diverged = place.beside("diverged");
    copy_directory(&backup, &diverged);
    server.app().activate(activation(ADA, &key, 78)).await.unwrap();
    assert!(back_up(&place, &diverged).await > 20);
    assert!(server.terminate().success());
    good(&restore(&place, &backup, &["--lose-newer"]));
    let server = place.start();
    for nonce in 80..90 {
        server.app().activate(activation(ADA, &key, nonce)).await.unwrap();
    }
    let mixed = place.run_async(&["backup", diverged.to_str().unwrap()]).await;
    refused(&mixed, &["records that this log does not have"]);
    let foreign = place.run_async(&["backup", place.directory().to_str().unwrap()]).await;
    refused(&foreign, &["no backup"]);
    back_up(&place, &backup).await;
    assert!(server.terminate().success());
    let other = restore(&place, &diverged, &[]);
    refused(&other, &["--lose-newer"]);
    fs::write(place.directory().join("data/head"), "damaged").unwrap();
    refused(&restore(&place, &backup, &[]), &["data/head", "--lose-newer"]);
    good(&restore(&place, &backup, &["--lose-newer"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_backup_brings_back_what_was_erased() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 5).await;
    let graces = server.issue(GRACE, "App", 5).await;
    server.app().activate(activation(ADA, &key, 1)).await.unwrap();
    server.app().activate(activation(GRACE, &graces, 2)).await.unwrap();
    let (backup, first) = (place.beside("backup"), place.beside("first"));
    let old_key = place.beside("old.key");
    fs::copy(place.directory().join("keys/master.key"), &old_key).unwrap();
    back_up(&place, &backup).await;
    copy_directory(&backup, &first);
    server.erase(ADA, false, false).await;
    let second = place.beside("second");
    back_up(&place, &backup).await;
    copy_directory(&backup, &second);

    // Not final yet: the older copy of the vault still has her keys, and the ledger destroys them again.
    let other = elsewhere(&place);
    let ledger = other.directory().join("ledger/erasures");
    fs::create_dir_all(ledger.parent().unwrap()).unwrap();
    fs::copy(place.directory().join("ledger/erasures"), &ledger).unwrap();
    let gone = async |other: &Place| {
        verify(other, &["--deep"]);
        let restored = other.start();
        assert_eq!(reason(&restored.history(ADA).await.unwrap_err()), "SUBJECT_NOT_FOUND");
        assert_eq!(activations(&restored, GRACE).await, 1);
        assert!(restored.terminate().success());
    };
    good(&restore(&other, &first, &[]));
    gone(&other).await;
    // The newer one has the ledger too.
    let other = elsewhere(&place);
    good(&restore(&other, &second, &[]));
    gone(&other).await;

    // Final: older copies open nothing, with or without the ledger; the next backup does.
    server.issue("hedy@example.com", "App", 1).await;
    server.erase("hedy@example.com", false, true).await;
    for from in [&first, &second] {
        let other = elsewhere(&place);
        refused(&restore(&other, from, &[]), &["of epoch 1", "erasure became final"]);
    }
    back_up(&place, &backup).await;
    let other = elsewhere(&place);
    good(&restore(&other, &backup, &[]));
    gone(&other).await;
    assert!(server.terminate().success());
    // Also where an old master key was kept, against all advice: the ledger knows better.
    let other = elsewhere(&place);
    fs::copy(&old_key, other.directory().join("keys/master.key")).unwrap();
    let ledger = other.directory().join("ledger/erasures");
    fs::create_dir_all(ledger.parent().unwrap()).unwrap();
    fs::copy(place.directory().join("ledger/erasures"), &ledger).unwrap();
    refused(&restore(&other, &second, &[]), &["of epoch 1", "ledger knows epoch 2"]);
    assert!(!other.directory().join("data").exists());
}

/// The vault has moved to the next master key, which lies beside the old one still; the backup is from before.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_within_a_move_of_the_master_key_keeps_the_vault_that_is_there() {
    let (place, backup, key) = backed_up().await;
    let path = |name: &str| place.directory().join(name);
    let old = fs::read(path("keys/master.key")).unwrap();
    let ledger = fs::read(path("ledger/erasures")).unwrap();
    let server = place.start();
    server.issue(GRACE, "App", 1).await;
    server.erase(GRACE, false, true).await;
    assert!(server.terminate().success());
    let new = fs::read(path("keys/master.key")).unwrap();
    assert_ne!(old, new);
    for before in [old.clone(), vec![0; old.len()]] {
        fs::copy(path("keys/master.key"), path("keys/master.key.next")).unwrap();
        fs::write(path("keys/master.key"), before).unwrap();
        fs::write(path("ledger/erasures"), &ledger).unwrap();
        good(&restore(&place, &backup, &["--lose-newer"]));
        assert_eq!(fs::read(path("keys/master.key")).unwrap(), new);
        verify(&place, &["--deep"]);
    }
    let server = place.start();
    assert_eq!(activations(&server, ADA).await, 20);
    server.app().activate(activation(ADA, &key, 90)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_backup_leaves_is_harmless() {
    let (place, backup, key) = backed_up().await;
    let records = verify(&place, &[backup.to_str().unwrap()])["records"].as_u64().unwrap();
    // As after a power cut before the manifest: files with and without their name.
    let server = place.start();
    server.app().activate(activation(ADA, &key, 50)).await.unwrap();
    let later = place.beside("later");
    copy_directory(&backup, &later);
    let more = back_up(&place, &later).await;
    let newest = segments(&later).pop().unwrap();
    let into = backup.join("segments").join(newest.file_name().unwrap());
    fs::copy(&newest, &into).unwrap();
    fs::copy(later.join("vault"), backup.join("vault")).unwrap();
    for torn in ["manifest", "vault", "segments/00000000000000000031.seg"] {
        fs::write(backup.join(format!("{torn}.unfinished")), "torn").unwrap();
    }
    let ledger = backup.join("ledger");
    let line = fs::read_to_string(&ledger).unwrap() + "erased 7:";
    fs::write(&ledger, line).unwrap();
    assert_eq!(verify(&place, &[backup.to_str().unwrap()])["records"], records);
    let other = elsewhere(&place);
    assert_eq!(good(&restore(&other, &backup, &[]))["records"], records);
    verify(&other, &["--deep"]);
    // The next one goes on.
    assert_eq!(back_up(&place, &backup).await, more);
    assert!(files(&backup).iter().all(|path| path.extension().is_none_or(|e| e != "unfinished")));
    assert!(server.terminate().success());
    // A restore that was interrupted is begun again.
    fs::create_dir_all(place.directory().join("data.unfinished/log")).unwrap();
    assert_eq!(good(&restore(&place, &backup, &[]))["records"], more);
    assert_eq!(verify(&place, &["--deep"])["records"], more);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_is_bad() {
    let (place, backup, _) = backed_up().await;
    let server = place.start();
    let busy = place.run_async(&["verify"]).await;
    assert_eq!(busy.status.code(), Some(1), "{busy:?}");
    assert!(server.terminate().success());
    assert_eq!(verify(&place, &[])["views"], "end where the log says");
    fs::remove_dir_all(place.directory().join("views")).unwrap();
    assert_eq!(verify(&place, &["--deep"])["views"], "will be rebuilt at the next start");
    assert!(place.start().terminate().success());

    let vault = place.directory().join("data/vault");
    let whole = fs::read(&vault).unwrap();
    let mut changed = whole.clone();
    changed[2 * 128 + 50] ^= 1;
    fs::write(&vault, changed).unwrap();
    let bad = place.run(&["--json", "verify"]);
    assert_eq!(bad.status.code(), Some(3), "{bad:?}");
    let found: Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!((&found["good"], &found["position"]), (&false.into(), &Value::Null));
    assert!(found["problem"].as_str().unwrap().contains("slot 2"), "{found}");
    fs::write(&vault, whole).unwrap();

    // The log of before with the head file of after.
    let server = place.start();
    server.issue(GRACE, "App", 1).await;
    assert!(server.terminate().success());
    let other = elsewhere(&place);
    let restored = good(&restore(&other, &backup, &[]))["records"].clone();
    let head = place.directory().join("data/head");
    fs::copy(head, other.directory().join("data/head")).unwrap();
    let bad = other.run(&["--json", "verify"]);
    let found: Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!((&found["good"], &found["position"]), (&false.into(), &restored));
    verify(&place, &["--deep"]);
}

/// Views that say what the log does not, and a record whose seal does not open.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_deep_look_finds_what_only_keys_can_tell() {
    let (place, _, _) = backed_up().await;
    let is_found = |problem: &str| {
        assert_eq!(verify(&place, &[])["views"], "end where the log says");
        let bad = place.run(&["--json", "verify", "--deep"]);
        assert_eq!(bad.status.code(), Some(3), "{bad:?}");
        let found: Value = serde_json::from_slice(&bad.stdout).unwrap();
        assert!(found["problem"].as_str().unwrap().contains(problem), "{found}");
        found["position"].clone()
    };
    let path = place.directory().join("views");
    let views = Views::open(&path, 1 << 20).unwrap();
    let counts = Counts { licenses: 1, ..Counts::default() };
    let counts = vec![(Product::parse("App").unwrap(), counts)];
    let event = Event::DayClosed { day: Day(0), counts, at: Timestamp::from_millis(0).unwrap() };
    let end = views.checkpoint().unwrap();
    views.apply([(Position(end.next.0 - 1), &event)], end, &|_| Ok(false)).unwrap();
    views.close().unwrap();
    drop(views);
    assert_eq!(is_found("views"), Value::Null);
    fs::remove_dir_all(&path).unwrap();
    assert!(place.start().terminate().success());
    verify(&place, &["--deep"]);

    let mut tree = CompactRange::default();
    for record in place.change_record(3) {
        tree.push(record::hash(&record));
    }
    let key = LogKey::parse(&fs::read_to_string(place.directory().join("keys/log.key")).unwrap());
    let checkpoint = head::Checkpoint { size: tree.size(), root: tree.root() };
    head::write(&place.directory().join("data/head"), &key.unwrap(), &checkpoint).unwrap();
    fs::remove_dir_all(place.directory().join("tiles")).unwrap();
    assert_eq!(is_found("position 3"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_listener_backs_up_for_others() {
    let place = Place::new();
    let server = place.start();
    let to = place.beside("backup");
    let directory = to.to_str().unwrap();
    let roles =
        ["issuer", "support", "privacy", "analytics"].map(|role| server.staff_channel(role));
    for channel in roles.into_iter().chain([server.channel()]) {
        let request = BackupRequest { directory: directory.to_owned() };
        let refused = OperatorServiceClient::new(channel).backup(request).await.unwrap_err();
        let code = refused.code();
        assert!(matches!(code, Code::Unimplemented | Code::PermissionDenied), "{refused:?}");
    }
    assert!(!to.exists());
}
