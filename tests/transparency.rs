//! Promise: others can check that the log was never rewritten, not even by its operator, and can do so
//! after an erasure too.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use countersign::domain::{Event, Position, Timestamp};
use countersign::log::head::{self, Checkpoint, LogKey};
use countersign::log::note::{Algorithm, SignerKey, VerifierKey};
use countersign::log::record::{self, Header};
use countersign::log::sled::SledLog;
use countersign::log::tree::CompactRange;
use countersign::log::{Append, Log as _, LogError, codec, durability, scan};
use countersign::proto::v1::transparency_service_client::TransparencyServiceClient;
use countersign::proto::v1::{
    GetCheckpointRequest, GetConsistencyProofRequest, GetInclusionProofRequest,
};
use countersign::seal::RecordKey;
use countersign::tlog::proof::{InclusionProof, verify_consistency};
use countersign::tlog::tiles::TileDirectory;
use countersign::tlog::witness::Seen;
use countersign::vault::Vault as _;
use countersign::vault::file::{FileVault, Places};
use countersign::vault::master::KeyFile;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use signed_note::{Note, StandardVerifier, VerifierList};
use support::{Place, Server, activation, exported_data, reason};
use tlog_tiles::{Hash, HashReader as _, TileHashReader, TileReader};
use tonic::Code;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::ServiceExt as _;

const EMAIL: &str = "ada@example.com";

fn text(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr].map(|stream| String::from_utf8_lossy(stream));
    streams.concat()
}

/// Runs a command that must succeed, and gives what it prints.
fn done(place: &Place, arguments: &[&str]) -> String {
    let output = place.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Runs a command that must find something bad, and gives its message.
fn found(place: &Place, arguments: &[&str]) -> String {
    let output = place.run(arguments);
    assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn call(channel: Channel, method: Method, path: &str) -> http::Response<Vec<u8>> {
    let request = http::Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let (parts, body) = channel.oneshot(request).await.unwrap().into_parts();
    http::Response::from_parts(parts, body.collect().await.unwrap().to_bytes().to_vec())
}

async fn get(channel: Channel, path: &str) -> (StatusCode, Vec<u8>) {
    let answer = call(channel, Method::GET, path).await;
    (answer.status(), answer.into_body())
}

/// Fetches the leaves' tiles and the checkpoint, each into a file of the same path.
async fn mirror(channel: Channel, log_key: &str, to: &Path) {
    let save = async |name: &str| {
        let (status, bytes) = get(channel.clone(), &format!("/{name}")).await;
        assert_eq!(status, StatusCode::OK, "{name}");
        let file = to.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    };
    save("checkpoint").await;
    let note = fs::read_to_string(to.join("checkpoint")).unwrap();
    let size = foreign_checkpoint(&note, log_key).size();
    for index in 0..size / 256 {
        save(&format!("tile/0/{index:03}")).await;
    }
    if !size.is_multiple_of(256) {
        save(&format!("tile/0/{:03}.p/{}", size / 256, size % 256)).await;
    }
}

fn witness(server: &Server) -> TransparencyServiceClient<Channel> {
    TransparencyServiceClient::new(server.staff_channel("witness"))
}

/// A checkpoint as crates of others read it.
fn foreign_checkpoint(note: &str, log_key: &str) -> tlog_tiles::Checkpoint {
    let key = StandardVerifier::new(log_key).unwrap();
    let note = Note::from_bytes(note.as_bytes()).unwrap();
    note.verify(&VerifierList::new(vec![Box::new(key)])).unwrap();
    tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap()
}

/// The tiles of a server, over HTTPS.
struct HttpsTiles(Channel);

impl TileReader for HttpsTiles {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &tlog_tiles::Tile| {
            // The crate names the height too.
            let path = format!("/{}", tile.path().replacen("tile/8/", "tile/", 1));
            let channel = self.0.clone();
            let (status, bytes) = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(get(channel, &path))
            });
            assert_eq!(status, StatusCode::OK, "{path}");
            bytes
        };
        Ok(tiles.iter().map(read).collect())
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

fn hashes(hashes: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<Hash> {
    hashes.into_iter().map(|hash| Hash(hash.as_ref().try_into().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_crates_accept_checkpoints_proofs_and_tiles_before_and_after_an_erasure() {
    let place = Place::in_memory();
    place.configure("[transparency]\npublic = true");
    let log_key = done(&place, &["log", "key"]);
    assert!(log_key.starts_with("countersign+"), "{log_key}");
    let server = place.start();
    let license = server.issue(EMAIL, "App", 400).await;
    let mut receipts = Vec::new();
    for nonce in 0..300 {
        let activated = server.app().activate(activation(EMAIL, &license, nonce)).await.unwrap();
        receipts.push(activated.into_inner().receipt);
    }
    let keys = server.receipt_keys().await;
    // As apps get them.
    let mut client = TransparencyServiceClient::new(server.channel());
    let tiles = HttpsTiles(server.channel());
    let mut proofs = Vec::new();
    for receipt in [&receipts[0], &receipts[255], &receipts[299]] {
        let request = GetInclusionProofRequest { receipt: receipt.clone(), log_index: None };
        let proof = client.get_inclusion_proof(request).await.unwrap().into_inner().proof;
        let record = Hash(keys.verify(receipt).unwrap().record);
        proofs.push((receipt.clone(), record, proof));
    }
    let accepted = |record: Hash, proof: &str| {
        let proof = InclusionProof::parse(proof).unwrap();
        let tree = foreign_checkpoint(&proof.checkpoint, &log_key);
        let (size, root, index) = (tree.size(), *tree.hash(), proof.index.0);
        tlog_tiles::check_record(&hashes(&proof.path), size, root, index, record).unwrap();
        // What they make of our tiles by themselves is the same.
        let reader = TileHashReader::new(size, root, &tiles);
        assert_eq!(tlog_tiles::prove_record(size, index, &reader).unwrap(), hashes(&proof.path));
        let leaf = tlog_tiles::stored_hash_index(0, index);
        assert_eq!(reader.read_hashes(&[leaf]).unwrap(), [record]);
        index
    };
    for (_, record, proof) in &proofs {
        accepted(*record, proof);
    }

    let before = proofs.last().unwrap().2.clone();
    let before = InclusionProof::parse(&before).unwrap().checkpoint;
    server.erase(EMAIL, false, true).await;

    let old = foreign_checkpoint(&before, &log_key);
    let request = GetConsistencyProofRequest { size: old.size() };
    let fresh = client.get_checkpoint(GetCheckpointRequest { fresh: true }).await.unwrap();
    let consistency = client.get_consistency_proof(request).await.unwrap().into_inner();
    assert_eq!(consistency.checkpoint, fresh.into_inner().checkpoint);
    let new = foreign_checkpoint(&consistency.checkpoint, &log_key);
    assert!(new.size() > old.size());
    let shown = hashes(&consistency.hashes);
    tlog_tiles::check_tree(&shown, new.size(), *new.hash(), old.size(), *old.hash()).unwrap();
    for (receipt, record, proof) in &proofs {
        let index = accepted(*record, proof);
        // The views know nothing of it any more; the tree does.
        let request = GetInclusionProofRequest { receipt: receipt.clone(), log_index: None };
        let again = client.get_inclusion_proof(request).await.unwrap().into_inner().proof;
        assert_eq!(accepted(*record, &again), index);
        assert_ne!(*proof, again);
        // Nor does it matter what a caller believes of its place.
        for hint in [index, index + 1, 0, new.size(), u64::MAX] {
            let log_index = Some(hint);
            let request = GetInclusionProofRequest { receipt: receipt.clone(), log_index };
            let hinted = client.get_inclusion_proof(request).await.unwrap().into_inner().proof;
            assert_eq!(hinted, again, "{hint}");
        }
    }
    let (status, bytes) = get(server.channel(), "/checkpoint").await;
    assert_eq!((status, bytes), (StatusCode::OK, consistency.checkpoint.into_bytes()));
    for resource in ["/checkpoint", "/tile/0/000", "/tile/0/001.p/7", "/tile/0/009"] {
        let whole = call(server.channel(), Method::GET, resource).await;
        let head = call(server.channel(), Method::HEAD, resource).await;
        assert_eq!(head.status(), whole.status(), "{resource}");
        let no_date = |headers: &http::HeaderMap| {
            let mut headers = headers.clone();
            headers.remove("date");
            headers
        };
        assert_eq!(no_date(head.headers()), no_date(whole.headers()), "{resource}");
        assert_eq!(head.headers()["content-length"], whole.body().len().to_string());
        assert!(head.body().is_empty(), "{resource}");
        let refused = call(server.channel(), Method::POST, resource).await;
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refused.headers()["allow"], "GET, HEAD");
    }
    for absent in ["/tile/entries/000", "/tile/0/001", "/tile/0/x000/000", "/tile/9/000", "/tile/"]
    {
        assert_eq!(get(server.channel(), absent).await.0, StatusCode::NOT_FOUND, "{absent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_see_nothing_of_the_tree_by_default_and_staff_of_every_role_do() {
    let place = Place::in_memory();
    let server = place.start();
    let mut client = TransparencyServiceClient::new(server.channel());
    let refused = client.get_checkpoint(GetCheckpointRequest { fresh: false }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    for resource in ["/checkpoint", "/tile/0/000.p/1"] {
        let (status, body) = get(server.channel(), resource).await;
        let body = String::from_utf8(body).unwrap();
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::NOT_FOUND, "the log's tree is not shown here")
        );
        // Who has no role that we know of sees no more, though the staff CA signed for them.
        for names in [&[][..], &["countersign://staff/root/eve"]] {
            let channel = server.staff_channel_as(server.staff_identity(names));
            let (status, body) = get(channel, resource).await;
            let body = String::from_utf8(body).unwrap();
            let refused = (StatusCode::FORBIDDEN, "your certificate names no role");
            assert_eq!((status, body.as_str()), refused);
        }
        for role in ["issuer", "analytics", "witness"] {
            let (status, body) = get(server.staff_channel(role), resource).await;
            let is_there = resource == "/checkpoint";
            assert_eq!(status == StatusCode::OK, is_there, "{role} {resource}: {body:?}");
        }
    }
    let ahead = GetConsistencyProofRequest { size: 1_000 };
    let refused = witness(&server).get_consistency_proof(ahead).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "SIZE_AHEAD")
    );

    let license = server.issue(EMAIL, "App", 1).await;
    let (receipt, proof) = (place.beside("receipt"), place.beside("proof"));
    let activate = ["activate", "--email", EMAIL, "--key", &license, "--receipt", path(&receipt)];
    let output = place.run(&[&activate[..], &["--proof", path(&proof)]].concat());
    assert!(!output.status.success() && receipt.exists() && !proof.exists(), "{}", text(&output));
    assert!(text(&output).contains("gives apps no proofs"), "{}", text(&output));
    let prove = ["receipt", "prove", path(&receipt), "--proof", path(&proof)];
    done(&place, &prove);
    // The older proof tells the newer where the record is, also when nothing else does.
    server.erase(EMAIL, false, true).await;
    let older = fs::read_to_string(&proof).unwrap();
    done(&place, &prove);
    let newer = fs::read_to_string(&proof).unwrap();
    let index = |proof: &str| InclusionProof::parse(proof).unwrap().index;
    assert_eq!(index(&newer), index(&older));
    let verified = done(&place, &["receipt", "verify", path(&receipt), "--proof", path(&proof)]);
    assert!(verified.contains("it is in the log, among its first"), "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_the_proof_of_each_event() {
    let place = Place::in_memory();
    let log_key = done(&place, &["log", "key"]);
    let server = place.start();
    let license = server.issue(EMAIL, "App", 5).await;
    server.issue("other@example.com", "App", 5).await;
    let activated = server.app().activate(activation(EMAIL, &license, 1)).await.unwrap();
    let receipt = activated.into_inner().receipt;
    let zip = place.beside("ada.zip");
    done(&place, &["export", "--email", EMAIL, "--out", path(&zip)]);
    let data = exported_data(&zip);
    let proofs = &data["log_proofs"];
    assert_eq!(proofs["log_key"], log_key);
    let tree = foreign_checkpoint(proofs["checkpoint"].as_str().unwrap(), &log_key);
    let decoded = |hash: &serde_json::Value| BASE64.decode(hash.as_str().unwrap()).unwrap();
    let records = proofs["records"].as_array().unwrap();
    let mut categories: Vec<&str> = Vec::new();
    for proof in records {
        let path = hashes(proof["path"].as_array().unwrap().iter().map(decoded));
        let record = hashes([decoded(&proof["record"])])[0];
        let index = proof["log_index"].as_u64().unwrap();
        tlog_tiles::check_record(&path, tree.size(), *tree.hash(), index, record).unwrap();
        categories.push(proof["category"].as_str().unwrap());
    }
    assert_eq!(
        categories,
        ["email", "license", "access_record", "activation_time", "access_record"]
    );
    // Each says what it is of.
    let claimed = server.receipt_keys().await.verify(&receipt).unwrap().record;
    let of = |event: &str| records.iter().find(|proof| proof["event"] == event).unwrap();
    let (license, activated) = (&data["licenses"][0], of("activated"));
    let activation = &license["activations"][0];
    assert_eq!(decoded(&activated["record"]), claimed);
    assert_eq!(activated["of"], activation["activation_id"]);
    assert_eq!(activated["at"], activation["activated_at"]);
    assert_eq!(of("license_issued")["of"], license["license_key"]);
    assert_eq!(of("email_recorded")["of"], serde_json::Value::Null);
    assert_eq!(of("email_recorded")["at"], data["subject"]["email"]["since"]);
    let access = records.iter().rfind(|proof| proof["event"] == "access_recorded").unwrap();
    assert_eq!(access["at"], data["accesses"].as_array().unwrap().last().unwrap()["at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tiles_that_are_damaged_or_missing_are_made_again() {
    let place = Place::in_memory();
    let server = place.start();
    for name in 0..300 {
        server.issue(&format!("{name}@example.com"), "App", 1).await;
    }
    let fresh = || GetCheckpointRequest { fresh: true };
    let before = witness(&server).get_checkpoint(fresh()).await.unwrap().into_inner().checkpoint;
    assert!(server.terminate().success());
    let file = |name: &str| place.directory().join("tiles/tile").join(name);
    let names = ["0/000", "0/001", "1/000"];
    let was = names.map(|name| fs::read(file(name)).unwrap());
    let damages: [&dyn Fn(); 3] = [
        &|| fs::write(file("0/000"), vec![7; 8192]).unwrap(),
        &|| fs::remove_file(file("0/000")).unwrap(),
        &|| fs::remove_dir_all(place.directory().join("tiles")).unwrap(),
    ];
    for damage in damages {
        damage();
        let server = place.start();
        let after = witness(&server).get_checkpoint(fresh()).await.unwrap().into_inner().checkpoint;
        assert_eq!(after, before);
        assert_eq!(names.map(|name| fs::read(file(name)).unwrap()), was);
        assert!(server.terminate().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_while_it_serves_never_looks_like_another_history() {
    let place = Place::in_memory();
    let server = place.start();
    let license = server.issue(EMAIL, "App", 20).await;
    let answer = server.app().activate(activation(EMAIL, &license, 1)).await.unwrap();
    let receipt = answer.into_inner().receipt;
    let record = server.receipt_keys().await.verify(&receipt).unwrap().record;
    let key = VerifierKey::parse(&done(&place, &["log", "key"])).unwrap();
    for name in 0..150 {
        server.issue(&format!("{name}@example.com"), "App", 1).await;
    }
    let mut tree = witness(&server);
    let fresh = GetCheckpointRequest { fresh: true };
    let seen = tree.get_checkpoint(fresh).await.unwrap().into_inner().checkpoint;
    let seen = Checkpoint::verify(&seen, &key).unwrap();
    let file = |name: &str| place.directory().join("tiles/tile").join(name);
    let flip = |name: &str| {
        let mut bytes = fs::read(file(name)).unwrap();
        for byte in &mut bytes {
            *byte ^= 1;
        }
        fs::write(file(name), bytes).unwrap();
    };
    let damages: [&dyn Fn(); 5] = [
        &|| flip("0/000"),
        &|| flip("0/001"),
        &|| flip("1/000"),
        &|| fs::remove_file(file("0/000")).unwrap(),
        &|| fs::remove_dir_all(place.directory().join("tiles")).unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        damage();
        // What is added next must not be written behind a hole.
        server.issue(&format!("more-{number}@example.com"), "App", 1).await;
        let mut refused = 0;
        loop {
            let size = seen.size.0;
            let asked = GetConsistencyProofRequest { size };
            let consistency = tree.get_consistency_proof(asked).await.map(|answer| {
                let answer = answer.into_inner();
                let new = Checkpoint::verify(&answer.checkpoint, &key).unwrap();
                let hash = |hash: Vec<u8>| hash.try_into().unwrap();
                let hashes: Vec<[u8; 32]> = answer.hashes.into_iter().map(hash).collect();
                assert!(verify_consistency(&seen, &new, &hashes), "damage {number}: a fork");
            });
            let asked = GetInclusionProofRequest { receipt: receipt.clone(), log_index: None };
            let inclusion = tree.get_inclusion_proof(asked).await.map(|answer| {
                let proof = InclusionProof::parse(&answer.into_inner().proof).unwrap();
                proof.verify(&record, &key).unwrap();
            });
            let answers = [consistency, inclusion];
            for status in answers.iter().filter_map(|answer| answer.as_ref().err()) {
                assert_eq!(status.code(), Code::Unavailable, "damage {number}: {status:?}");
            }
            // All of the tree is right again, its beginning and its end.
            let fresh = tree.get_checkpoint(GetCheckpointRequest { fresh: true }).await;
            if answers.iter().all(Result::is_ok) && fresh.is_ok() {
                break;
            }
            refused += 1;
            assert!(refused < 100, "damage {number}: it is not made again");
        }
    }
}

/// The events of a log, with what of their records is not sealed.
type Events = Vec<(Header, Event)>;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_has_the_name_that_it_was_made_with_and_its_witness_needs_no_certificate() {
    let place = Place::empty();
    for wrong in ["a b", "a+b", ""] {
        let refused = place.run(&["init", "--log-name", wrong]);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(text(&refused).contains("a key's name must have"), "{}", text(&refused));
    }
    done(&place, &["init", "--log-name", "licenses.example.com/log"]);
    place.configure("[transparency]\npublic = true");
    let log_key = done(&place, &["log", "key"]);
    assert!(log_key.starts_with("licenses.example.com/log+"), "{log_key}");
    let server = place.start();
    let state = place.beside("witness");
    let key = done(&place, &["witness", "init", path(&state), "--name", "w.example.com"]);
    assert_eq!(done(&place, &["witness", "key", path(&state)]), key);
    let look = ["witness", "run", path(&state), "--once", "--public", "--log-key"];
    assert_eq!(done(&place, &[&look[..], &[&log_key]].concat()), "cosigned 0 records");
    let cosigned = fs::read_to_string(state.join("checkpoint")).unwrap();
    let note = Note::from_bytes(cosigned.as_bytes()).unwrap();
    assert!(note.text().starts_with(b"licenses.example.com/log\n0\n"));
    // With another log's key, or a witness's, it cosigns nothing.
    let other = Place::new();
    let other_key = done(&other, &["log", "key"]);
    found(&place, &[&look[..], &[&other_key]].concat());
    let refused = place.run(&[&look[..], &[&key]].concat());
    assert!(text(&refused).contains("is a witness's key"), "{}", text(&refused));
    assert_eq!(fs::read_to_string(state.join("checkpoint")).unwrap(), cosigned);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_is_alone_begins_where_it_is_told_to_and_takes_silence_for_an_alarm() {
    let place = Place::in_memory();
    let log_key = done(&place, &["log", "key"]);
    let server = place.start();
    server.issue(EMAIL, "App", 1).await;
    let given = place.beside("given");
    done(&place, &["log", "checkpoint", "--out", path(&given)]);
    let state = place.beside("witness");
    let init = ["witness", "init", path(&state), "--name", "w.example.com"];
    let begin = ["--checkpoint", path(&given), "--log-key"];
    let other_key = done(&Place::new(), &["log", "key"]);
    let refused = found(&place, &[&init[..], &begin, &[&other_key]].concat());
    assert!(refused.contains("holds no checkpoint") && !state.exists(), "{refused}");
    done(&place, &[&init[..], &begin, &[&log_key]].concat());
    assert_eq!(fs::read(state.join("checkpoint")).unwrap(), fs::read(&given).unwrap());
    let look = ["witness", "run", path(&state), "--once", "--log-key", &log_key];

    let lock = fs::File::create(state.join("lock")).unwrap();
    lock.lock().unwrap();
    let refused = place.run(&look);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("another witness runs in"), "{}", text(&refused));
    drop(lock);
    assert_eq!(done(&place, &look), "cosigned 3 records");

    // A log that rests is no alarm, unless somebody wants to know.
    assert_eq!(done(&place, &[&look[..], &["--alarm-after", "0"]].concat()), "cosigned 3 records");
    let follow = ["witness", "run", path(&state), "--log-key", &log_key, "--alarm-at-rest", "0"];
    let alarm = found(&place, &follow);
    assert!(alarm.contains("SILENT: the log shows no more than 3 records"), "{alarm}");

    // A server that is away is none, until it was away for too long.
    assert!(server.terminate().success());
    let away = place.run(&look);
    assert_eq!(away.status.code(), Some(4), "{}", text(&away));
    let alarm = found(&place, &[&look[..], &["--alarm-after", "0"]].concat());
    assert!(alarm.contains("SILENT: no checkpoint could be verified since"), "{alarm}");
    // Nor does it begin to count anew with each start: it knows when it cosigned last.
    let key = fs::read_to_string(state.join("witness.key")).unwrap();
    let key = SignerKey::parse(&key, Algorithm::Cosignature).unwrap();
    let note = fs::read_to_string(state.join("checkpoint")).unwrap();
    let seen = Seen::parse(&note, &VerifierKey::parse(&log_key).unwrap()).unwrap();
    let long_ago = Timestamp::from_millis(1_700_000_000_000).unwrap();
    fs::write(state.join("checkpoint"), seen.cosigned(&key, long_ago)).unwrap();
    let alarm = found(&place, &look);
    assert!(alarm.contains("verified since 2023-11-14"), "{alarm}");
    // There is nothing against the log in that.
    assert!(!state.join("evidence").exists());

    // Where the log was cut before the first look, a witness that begins with a checkpoint sees it.
    let began = place.beside("began");
    let init = ["witness", "init", path(&began), "--name", "w.example.com"];
    done(&place, &[&init[..], &begin, &[&log_key]].concat());
    let cut = Insider::of(&place);
    cut.put(&cut.records()[..2]);
    let server = cut.place.start();
    let look = ["witness", "run", path(&began), "--once", "--log-key", &log_key];
    assert!(found(&cut.place, &look).contains("ROLLED BACK"));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_that_no_hashes_prove_is_the_witnesss_word() {
    let place = Place::in_memory();
    let log_key = done(&place, &["log", "key"]);
    let state = place.beside("witness");
    done(&place, &["witness", "init", path(&state), "--name", "w.example.com"]);
    let look = ["witness", "run", path(&state), "--once", "--log-key", &log_key];
    let server = place.start();
    let license = server.issue(EMAIL, "App", 20).await;
    server.app().activate(activation(EMAIL, &license, 1)).await.unwrap();
    // A power of two: a proof from there is given without the root that would show another beginning.
    assert_eq!(done(&place, &look), "cosigned 4 records");
    assert!(server.terminate().success());

    let forked = Insider::of(&place);
    forked.put(&forked.records()[..3]);
    let server = forked.place.start();
    for nonce in 2..4 {
        server.app().activate(activation(EMAIL, &license, nonce)).await.unwrap();
    }
    let alarm = found(&forked.place, &look);
    assert!(alarm.contains("FORK, unproven") && alarm.contains("this witness's word"), "{alarm}");
    let evidence = state.join("evidence");
    let judge = ["witness", "judge", path(&evidence), "--log-key", &log_key];
    assert!(found(&place, &judge).contains("it proves nothing: FORK, unproven"));
    // Until somebody has looked into it, nothing is cosigned.
    assert!(found(&forked.place, &look).contains("until that is moved away"));
    drop(server);
}

/// What an insider with every key makes of an event; `None`: it is not there any more.
type Rewrite<'a> = &'a dyn Fn(u64, Event) -> Option<Event>;

/// A server's directory in the hands of an insider.
struct Insider {
    place: Place,
}

impl Insider {
    /// A copy of a place whose server does not run.
    fn of(place: &Place) -> Self {
        let copy = Place::empty();
        let (from, to) = (place.directory(), copy.directory());
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
        Self { place: copy }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.directory().join(name)
    }

    fn records(&self) -> Vec<Vec<u8>> {
        let log = SledLog::open(&self.file("data/log"), 1 << 20).unwrap();
        let mut records = Vec::new();
        scan(&log, Position::ZERO, |_, bytes| {
            records.push(bytes.to_vec());
            Ok::<_, LogError>(())
        })
        .unwrap();
        records
    }

    /// Puts other records in the log's place, states in the head file that this is how it was, and
    /// removes what could tell that it was not.
    fn put(&self, records: &[Vec<u8>]) {
        durability::make_flush_durable();
        fs::remove_dir_all(self.file("data/log")).unwrap();
        SledLog::create(&self.file("data/log")).unwrap();
        let log = SledLog::open(&self.file("data/log"), 1 << 20).unwrap();
        assert_eq!(log.append(Position::ZERO, records).unwrap(), Append::Appended);
        let mut tree = CompactRange::default();
        for bytes in records {
            tree.push(record::hash(bytes));
        }
        let key = LogKey::parse(&fs::read_to_string(self.file("keys/log.key")).unwrap()).unwrap();
        let checkpoint = Checkpoint { size: tree.size(), root: tree.root() };
        head::write(&self.file("data/head"), &key, &checkpoint).unwrap();
        self.forget_views();
    }

    fn forget_views(&self) {
        for view in ["views", "tiles"] {
            let _ = fs::remove_dir_all(self.file(view));
        }
    }

    /// Seals every event anew, at the place where it comes to be.
    fn rewrite(&self, order: &dyn Fn(&mut Events), rewrite: Rewrite<'_>) {
        let places = Places {
            vault: self.file("data/vault"),
            ledger: self.file("ledger/erasures"),
            master_key: KeyFile::file(&self.file("keys/master.key")),
        };
        let vault = FileVault::open(places, &mut rand::rng()).unwrap();
        let mut events = Vec::new();
        for (bytes, position) in self.records().iter().zip(0..) {
            let (header, sealed) = record::decode(bytes, Position(position)).unwrap();
            let key = RecordKey::derive(&vault.key(header.slot).unwrap(), &header.id);
            let opened = key.open(sealed, &header.to_bytes(), &header.commitment).unwrap();
            events.extend(
                rewrite(position, codec::decode(&opened).unwrap()).map(|event| (header, event)),
            );
        }
        order(&mut events);
        let seal = |(position, (header, event)): (u64, (Header, Event))| {
            let header = Header { position: Position(position), ..header };
            let key = RecordKey::derive(&vault.key(header.slot).unwrap(), &header.id);
            let sealed = key.seal(&codec::encode(&event).1, &header.to_bytes()).unwrap();
            record::encode(&header, &sealed)
        };
        let records: Vec<Vec<u8>> = (0..).zip(events).map(seal).collect();
        drop(vault);
        self.put(&records);
    }
}

/// What the outside holds from before: a witness's directory, a mirror's tiles, and customers' files; and
/// the operator a backup.
struct Outside {
    state: PathBuf,
    mirror: PathBuf,
    /// As it was before the third activation.
    backup: PathBuf,
    log_key: String,
    /// A receipt and a proof for each activation.
    customers: Vec<[PathBuf; 2]>,
}

/// Where the activations are: after a registration, a license, the record of who issued it.
const FIRST_ACTIVATION: u64 = 3;
const ACTIVATIONS: u64 = 6;
/// In milliseconds.
const DAY: i64 = 86_400_000;

/// A history that many have seen.
async fn history(place: &Place) -> Outside {
    place.configure("[transparency]\npublic = true");
    let server = place.start();
    let license = server.issue(EMAIL, "App", 20).await;
    let log_key = done(place, &["log", "key"]);
    let state = place.beside("witness");
    done(place, &["witness", "init", path(&state), "--name", "witness.example.com/w1"]);
    let look = ["witness", "run", path(&state), "--once", "--log-key", &log_key];
    let backup = place.beside("backup");
    let mut customers = Vec::new();
    for number in 0..ACTIVATIONS {
        if number == 2 {
            let records = FIRST_ACTIVATION + number;
            let done = done(place, &["backup", path(&backup)]);
            assert!(done.starts_with(&format!("backed up {records} records")), "{done}");
        }
        let files = ["receipt", "proof"].map(|kind| place.beside(&format!("{kind}-{number}")));
        let [receipt, proof] = &files;
        let activate = ["activate", "--email", EMAIL, "--key", &license];
        let save = ["--receipt", path(receipt), "--proof", path(proof)];
        done(place, &[&activate[..], &save].concat());
        customers.push(files);
        if number == ACTIVATIONS / 2 {
            done(place, &look);
        }
    }
    let cosigned = done(place, &look);
    assert_eq!(cosigned, format!("cosigned {} records", FIRST_ACTIVATION + ACTIVATIONS));
    let mirrored = place.beside("mirror");
    mirror(server.channel(), &log_key, &mirrored).await;
    assert!(server.terminate().success());
    Outside { state, mirror: mirrored, backup, log_key, customers }
}

/// Who found a rewritten history, and how it was named.
struct Findings {
    log_verify: String,
    witness: String,
    receipt: String,
}

impl Outside {
    /// Sees what is to be made of a witness's evidence by those who have nothing else.
    fn judge(&self, place: &Place, evidence: &Path, alarm: &str) {
        let judge = ["witness", "judge", path(evidence), "--log-key", &self.log_key];
        let kept: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(evidence).unwrap()).unwrap();
        let note = |name: &str| foreign_checkpoint(kept[name].as_str().unwrap(), &self.log_key);
        let (old, new) = (note("before"), note("shown"));
        if !alarm.contains("FORK, proven") {
            assert_eq!(kept["proven"], false);
            assert!(alarm.contains("is this witness's word"), "{alarm}");
            assert!(new.size() < old.size(), "{kept}");
            assert!(found(place, &judge).contains("it proves nothing: ROLLED BACK"));
            return;
        }
        assert_eq!(kept["proven"], true);
        assert!(done(place, &judge).contains("FORK, proven"));
        if old.size() == new.size() {
            assert_ne!(old.hash(), new.hash());
            return;
        }
        // The hashes are those of the new tree, and not of a beginning that is the old one.
        let decoded = |hash: &serde_json::Value| BASE64.decode(hash.as_str().unwrap());
        let proof = kept["consistency_proof"].as_array().unwrap();
        let proof = hashes(proof.iter().map(|hash| decoded(hash).unwrap()));
        let check = |root: Hash| {
            tlog_tiles::check_tree(&proof, new.size(), *new.hash(), old.size(), root).is_ok()
        };
        let tiles = TileDirectory::new(&place.directory().join("tiles"));
        let leaves = tiles.leaves().take(usize::try_from(old.size()).unwrap());
        let mut beginning = CompactRange::default();
        leaves.for_each(|leaf| beginning.push(leaf.unwrap()));
        assert!(check(Hash(beginning.root())) && !check(*old.hash()));
    }

    /// Lets all look at what an insider shows; the customer is the one of that activation.
    fn look_at(&self, insider: &Insider, customer: usize, position: u64) -> Findings {
        let place = &insider.place;
        let cosigned = self.state.join("checkpoint");
        let given = ["log", "verify", "--checkpoint", path(&cosigned)];
        let log_verify = found(place, &[&given[..], &["--tiles", path(&self.mirror)]].concat());
        let as_json = [&["--json"], &given[..], &["--tiles", path(&self.mirror)]].concat();
        let value: serde_json::Value = serde_json::from_slice(&place.run(&as_json).stdout).unwrap();
        assert_eq!(value["position"], position, "{value}");
        // A customer's proof says that something is wrong, though not where.
        let [receipt, proof] = &self.customers[customer];
        found(place, &["log", "verify", "--checkpoint", path(proof)]);

        let server = place.start();
        let witness = place.beside("state");
        let copied = Command::new("cp").arg("-a").arg(&self.state).arg(&witness).status();
        assert!(copied.unwrap().success());
        let look = ["witness", "run", path(&witness), "--once", "--log-key", &self.log_key];
        let alarm = found(place, &look);
        self.judge(place, &witness.join("evidence"), &alarm);
        assert_eq!(fs::read(witness.join("checkpoint")).unwrap(), fs::read(&cosigned).unwrap());
        let again = place.beside("again");
        let refusal = found(place, &["receipt", "prove", path(receipt), "--proof", path(&again)]);
        // What the customer has is as good as ever.
        done(place, &["receipt", "verify", path(receipt), "--proof", path(proof)]);
        drop(server);
        Findings { log_verify, witness: alarm, receipt: refusal }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_rewrite_history_is_found_by_the_log_the_witness_and_a_receipt() {
    let place = Place::in_memory();
    let outside = history(&place).await;
    let whole = outside.state.join("checkpoint");
    let proof = path(&outside.customers[2][1]);
    let good = ["log", "verify", "--checkpoint", path(&whole), "--checkpoint", proof];
    let good = done(&place, &good);
    assert!(good.starts_with("good: 9 records"), "{good}");

    // The third activation is the one that the insider wants to be another.
    let (customer, position) = (2, FIRST_ACTIVATION + 2);
    let keep: Rewrite<'_> = &|_, event| Some(event);
    let in_order = |_: &mut Events| {};
    let later = |event: Event, by: i64| match event {
        Event::Activated { license, activation, signing_key, lease_until, at } => {
            let millis = at.as_millis() + by;
            let at = Timestamp::from_millis(millis).unwrap();
            Event::Activated { license, activation, signing_key, lease_until, at }
        }
        other => other,
    };
    let changed = |findings: &Findings| {
        assert!(findings.witness.contains("FORK, proven"), "{}", findings.witness);
        let named = format!("the record at position {position} is not the one that was written");
        assert!(findings.log_verify.contains(&named), "{}", findings.log_verify);
    };
    let not_there = |findings: &Findings| {
        assert!(findings.receipt.contains("no record of this receipt"), "{}", findings.receipt);
    };

    let dropped = Insider::of(&place);
    dropped.rewrite(&in_order, &|at, event| (at != position).then_some(event));
    let findings = outside.look_at(&dropped, customer, position);
    assert!(findings.witness.contains("ROLLED BACK"), "{}", findings.witness);
    not_there(&findings);

    let swapped = Insider::of(&place);
    let swap = |events: &mut Events| {
        let at = usize::try_from(position).unwrap();
        events.swap(at, at + 1);
    };
    swapped.rewrite(&swap, keep);
    let findings = outside.look_at(&swapped, customer, position);
    changed(&findings);
    not_there(&findings);

    let edited = Insider::of(&place);
    edited.rewrite(&in_order, &|at, event| {
        Some(if at == position { later(event, 60_000) } else { event })
    });
    let findings = outside.look_at(&edited, customer, position);
    changed(&findings);
    not_there(&findings);

    let backdated = Insider::of(&place);
    backdated.rewrite(&in_order, &|at, event| {
        Some(if at == position { later(event, -30 * DAY) } else { event })
    });
    // That needs no checkpoint.
    let alone = found(&backdated.place, &["log", "verify"]);
    assert!(alone.contains(&format!("position {position} is backdated")), "{alone}");
    let findings = outside.look_at(&backdated, customer, position);
    changed(&findings);
    not_there(&findings);

    let truncated = Insider::of(&place);
    truncated.put(&truncated.records()[..usize::try_from(position).unwrap()]);
    let findings = outside.look_at(&truncated, customer, position);
    let named = format!("the log ends at position {position}");
    assert!(findings.log_verify.contains(&named), "{}", findings.log_verify);
    assert!(findings.witness.contains("ROLLED BACK"), "{}", findings.witness);
    not_there(&findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_and_an_older_backup_are_found_however_well_they_run() {
    let place = Place::in_memory();
    let outside = history(&place).await;
    let (rolled_back, position) = (Insider::of(&place), FIRST_ACTIVATION + 2);
    let restore = ["restore", path(&outside.backup)];
    let refused = rolled_back.place.run(&restore);
    assert!(text(&refused).contains("--lose-newer"), "{}", text(&refused));
    let restored = done(&rolled_back.place, &[&restore[..], &["--lose-newer"]].concat());
    assert!(restored.starts_with("restored 5 records"), "{restored}");
    let forked = Insider::of(&rolled_back.place);
    let findings = outside.look_at(&rolled_back, 2, position);
    assert!(findings.witness.contains("ROLLED BACK"), "{}", findings.witness);
    let named = format!("the log ends at position {position}");
    assert!(findings.log_verify.contains(&named), "{}", findings.log_verify);
    assert!(findings.receipt.contains("no record of this receipt"), "{}", findings.receipt);

    // The software itself goes on from there with another history, and a longer one.
    let server = forked.place.start();
    let license = server.issue("eve@example.com", "App", 20).await;
    for nonce in 0..8 {
        server.app().activate(activation("eve@example.com", &license, nonce)).await.unwrap();
    }
    assert!(server.terminate().success());
    let findings = outside.look_at(&forked, 2, position);
    assert!(findings.witness.contains("FORK, proven"), "{}", findings.witness);
    assert!(findings.receipt.contains("no record of this receipt"), "{}", findings.receipt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_go_on_from_a_history_that_is_not_the_one_it_published() {
    let place = Place::in_memory();
    let _outside = history(&place).await;
    let records = Insider::of(&place).records();
    let published = fs::read(place.directory().join("tiles/checkpoint")).unwrap();
    for (kept, named) in [(&records[..7], "ends at position 7"), (&records[..0], "position 0")] {
        let insider = Insider::of(&place);
        insider.put(kept);
        fs::create_dir(insider.file("tiles")).unwrap();
        fs::write(insider.file("tiles/checkpoint"), &published).unwrap();
        let refused = insider.place.refusal();
        assert!(refused.contains(named) && refused.contains("records are lost"), "{refused}");
    }
    // Nor where it has as many records as before, and only the head file or the checkpoint tells.
    for kept in ["data/head", "tiles/checkpoint"] {
        let insider = Insider::of(&place);
        let was = fs::read(insider.file(kept)).unwrap();
        insider.rewrite(&|events| events.swap(4, 5), &|_, event| Some(event));
        assert_eq!(insider.records().len(), records.len());
        fs::create_dir_all(insider.file(kept).parent().unwrap()).unwrap();
        fs::write(insider.file(kept), was).unwrap();
        let refused = insider.place.refusal();
        assert!(refused.contains("first 9 records are not those that were written"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_was_fetched_tells_which_record_was_changed() {
    let place = Place::in_memory();
    place.configure("[transparency]\npublic = true");
    let log_key = done(&place, &["log", "key"]);
    let server = place.start();
    for name in 0..100 {
        server.issue(&format!("{name}@example.com"), "App", 1).await;
    }
    let fresh = GetCheckpointRequest { fresh: true };
    witness(&server).get_checkpoint(fresh).await.unwrap();
    let mirrored = place.beside("mirror");
    mirror(server.channel(), &log_key, &mirrored).await;
    assert!(mirrored.join("tile/0/001.p/44").exists());
    assert!(server.terminate().success());
    let verify = ["log", "verify", "--tiles", path(&mirrored)];
    assert_eq!(done(&place, &verify), "good: 300 records, and all of 3 checkpoints match");
    for position in [7, 280] {
        let insider = Insider::of(&place);
        insider.rewrite(&|events| events.swap(position, position + 1), &|_, event| Some(event));
        let named = found(&insider.place, &verify);
        let expected = format!("the record at position {position} is not the one");
        assert!(named.contains(&expected) && named.contains(path(&mirrored)), "{named}");
    }
    // What is not the log's does not pass for a mirror of it.
    let other = Place::new();
    let refused =
        place.run(&[&verify[..], &["--log-key", &done(&other, &["log", "key"])]].concat());
    assert!(text(&refused).contains("is no checkpoint that this log's key signed"));
}
