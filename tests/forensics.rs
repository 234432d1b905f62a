//! Promise: erased means unrecoverable. An attacker who has every file of the directory, every backup,
//! every key that still exists, the source code and the erased person's address finds nothing of them;
//! and finds everyone else, so that the search is known to search.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use countersign::domain::{ActivationId, Binding, Email, Event, LicenseKey, Nonce, Position};
use countersign::log::record::{self, Header};
use countersign::log::sled::SledLog;
use countersign::log::{LogError, codec, scan};
use countersign::proto::v1::{
    IssueLicenseRequest, ListNoticesRequest, RecordDisclosureRequest, RectifySubjectRequest,
    RequestKind, SettleNoticeRequest, SweepRetentionRequest,
};
use countersign::receipt::key_thumbprint;
use countersign::seal::{DataKey, RecordKey, TagKey};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256, Sha512};
use support::{Place, Server, activation, files, reason, written};

const ERASED: [&str; 3] = ["Ada.Lovelace@Example.com", "hedy@example.com", "joan@example.com"];
const KEPT: [&str; 3] = ["grace@example.com", "mary@example.com", "radia@example.com"];
/// Whose address is put right, from the first to the second.
const PUT_RIGHT: [&str; 2] = ["barbara.l@example.com", "barbara@example.com"];
/// The names of all of them, in this order. They go when the policy does not let names be stored.
const NAMES: [&str; 7] = [
    "Ada Quillfeather",
    "Hedy Marrowstone",
    "Joan Thistlewood",
    "Grace Umbervale",
    "Mary Foxglovetree",
    "Radia Winterbourne",
    "Barbara Larkspurfield",
];

/// The types of `SubjectRegistered` and `NameRecorded`.
const ADDRESS: u8 = 1;
const NAME: u8 = 10;

/// A person, and all that the attacker may know to look for.
struct Target {
    email: Email,
    key: LicenseKey,
    activation: ActivationId,
    name: Option<&'static str>,
}

impl Target {
    /// Somebody of whom the attacker knows this alone.
    fn known_by(email: Option<&Email>, name: Option<&'static str>) -> Self {
        let nobody = || Email::parse(&format!("{:x}@example.com", rand::random::<u64>())).unwrap();
        Self {
            email: email.cloned().unwrap_or_else(nobody),
            key: LicenseKey::generate(rand::random),
            activation: ActivationId::from_bytes(rand::random()),
            name,
        }
    }

    fn new(email: &str, key: &str, nonce: u128) -> Self {
        let binding = Binding::from_bytes([7; 32]);
        Self {
            email: Email::parse(email).unwrap(),
            key: LicenseKey::parse(key).unwrap(),
            activation: ActivationId::derive(&Nonce::from_bytes(nonce.to_be_bytes()), &binding),
            name: None,
        }
    }

    /// What names the person: texts, and values that are made of them, keyed and not.
    fn needles(&self, keys: &[[u8; 32]]) -> HashSet<Vec<u8>> {
        let key = self.key.expose();
        let symbols = key.replace('-', "");
        let normal = self.email.expose_normal();
        let mut texts = vec![self.email.expose().to_owned(), normal.to_owned()];
        texts.extend([key.clone(), symbols, key.to_lowercase(), normal.to_uppercase()]);
        texts.extend(self.name.iter().flat_map(|name| [(*name).to_owned(), name.to_lowercase()]));
        let mut needles = HashSet::new();
        for text in &texts {
            let bytes = text.as_bytes();
            needles.extend(forms(bytes));
            for hash in [Sha256::digest(bytes).to_vec(), Sha512::digest(bytes).to_vec()] {
                needles.extend(forms(&hash[..16]));
                needles.extend(forms(&hash));
            }
            for key in keys {
                let mut mac = <Hmac<Sha256>>::new_from_slice(key).unwrap();
                mac.update(bytes);
                needles.insert(mac.finalize().into_bytes()[..16].to_vec());
            }
        }
        for key in keys {
            let tags = TagKey::from_key(&DataKey::from_bytes(*key));
            needles.insert(tags.email(&self.email).to_vec());
            needles.insert(tags.license_key(&self.key).to_vec());
        }
        needles.extend(forms(&key_thumbprint(&self.key)));
        needles
    }
}

/// The ways in which bytes may lie in a file.
fn forms(bytes: &[u8]) -> Vec<Vec<u8>> {
    let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let mut forms = vec![bytes.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    if let Ok(text) = std::str::from_utf8(bytes) {
        forms.push(text.encode_utf16().flat_map(u16::to_le_bytes).collect());
        forms.push(text.encode_utf16().flat_map(u16::to_be_bytes).collect());
    }
    forms.push(bytes.iter().rev().copied().collect());
    // Whatever came before, a part of the base64 is one of three.
    for skip in 0..3 {
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let encoded = engine.encode([&[0; 3][..skip], bytes].concat());
            let (start, end) = ((skip * 8).div_ceil(6), encoded.len() - 2);
            forms.push(encoded.as_bytes()[start..end].to_vec());
        }
    }
    forms
}

/// All that the attacker has.
struct Evidence {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Evidence {
    fn gather(roots: &[PathBuf]) -> Self {
        let mut all = Vec::new();
        for root in roots {
            for path in if root.is_dir() { files(root) } else { vec![root.clone()] } {
                let bytes = written(&path);
                all.push((path, bytes));
            }
        }
        Self { files: all }
    }

    /// The text of every file, and what is in compressed frames of it.
    fn haystacks(&self) -> Vec<(String, Vec<u8>)> {
        let mut haystacks = Vec::new();
        for (path, bytes) in &self.files {
            for at in 0..bytes.len().saturating_sub(4) {
                let frame = &bytes[at..];
                // Zstandard is not among them: sled is built without it.
                let inflated = match frame {
                    [0x1F, 0x8B, 8, ..] => inflate(flate2::read::GzDecoder::new(frame)),
                    [0x78, 0x01 | 0x5E | 0x9C | 0xDA, ..] => {
                        inflate(flate2::read::ZlibDecoder::new(frame))
                    }
                    _ => Vec::new(),
                };
                if inflated.len() > 8 {
                    haystacks.push((format!("a frame of {}", path.display()), inflated));
                }
            }
            haystacks.push((path.display().to_string(), bytes.clone()));
        }
        haystacks
    }

    /// Every run of 32 bytes of every file, once.
    fn windows(&self) -> HashSet<[u8; 32]> {
        let windows = self.files.iter().flat_map(|(_, bytes)| bytes.windows(32));
        windows.map(|window| window.try_into().unwrap()).collect()
    }
}

fn inflate(mut decoder: impl std::io::Read) -> Vec<u8> {
    let mut inflated = Vec::new();
    // What comes out before an error counts too.
    let _ = decoder.read_to_end(&mut inflated);
    inflated
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

/// The master keys that there are, and each file's runs of 32 bytes that could be one.
fn master_keys(evidence: &Evidence) -> Vec<[u8; 32]> {
    let mut keys = Vec::new();
    for (_, bytes) in &evidence.files {
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines().filter(|line| line.starts_with("countersign-master-key-v1:")) {
            let encoded = line.rsplit(':').next().unwrap();
            if let Ok(key) = STANDARD_NO_PAD.decode(encoded) {
                keys.extend(<[u8; 32]>::try_from(key.as_slice()));
            }
        }
    }
    keys
}

/// What a slot of a vault's file holds, as its documentation says, under this master key.
fn open_slot(cipher: &Aes256Gcm, number: usize, slot: &[u8]) -> Option<Vec<u8>> {
    let mut associated = u32::try_from(number).unwrap().to_be_bytes().to_vec();
    associated.extend_from_slice(&slot[2..6]);
    associated.push(slot[0]);
    associated.extend_from_slice(&slot[103..111]);
    let mut plaintext = slot[20..87].to_vec();
    let nonce = slot[8..20].try_into().unwrap();
    let tag = slot[87..103].try_into().unwrap();
    cipher
        .decrypt_inout_detached(&nonce, &associated, plaintext.as_mut_slice().into(), &tag)
        .ok()
        .map(|()| plaintext)
}

/// What every vault among the files holds that a key opens.
fn open_vaults(evidence: &Evidence, master_keys: &[[u8; 32]]) -> Vec<Vec<u8>> {
    let mut opened = Vec::new();
    for (path, bytes) in &evidence.files {
        if !path.file_name().is_some_and(|name| name == "vault" || name == "vault.next") {
            continue;
        }
        for key in master_keys {
            let cipher = Aes256Gcm::new(key.into());
            for (number, slot) in bytes.chunks_exact(128).enumerate() {
                opened.extend(open_slot(&cipher, number, slot));
            }
        }
    }
    opened
}

/// Every record of the logs in these directories.
fn records(logs: &[PathBuf]) -> Vec<(Position, Vec<u8>)> {
    let mut records = Vec::new();
    for log in logs {
        // sled writes when it opens, and the evidence stays as it is.
        let copy = tempfile::tempdir().unwrap();
        copy_all(log, copy.path());
        let log = SledLog::open(copy.path(), 1 << 20).unwrap();
        scan(&log, Position::ZERO, |position, bytes| {
            records.push((position, bytes.to_vec()));
            Ok::<_, LogError>(())
        })
        .unwrap();
    }
    records
}

/// The vault of a copy of the data.
fn old_vault(copy: &Path) -> Vec<u8> {
    fs::read(copy.join("vault")).unwrap()
}

fn copy_all(from: &Path, to: &Path) {
    for path in files(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
}

/// The events that these keys open.
fn open_records(records: &[(Position, Vec<u8>)], keys: &[[u8; 32]]) -> Vec<(Vec<u8>, Event)> {
    let mut opened = Vec::new();
    for (position, bytes) in records {
        let (header, sealed) = record::decode(bytes, *position).unwrap();
        for key in keys {
            let key = RecordKey::derive(&DataKey::from_bytes(*key), &header.id);
            if let Ok(plaintext) = key.open(sealed, &header.to_bytes(), &header.commitment) {
                opened.push((plaintext.to_vec(), codec::decode(&plaintext).unwrap()));
            }
        }
    }
    opened
}

/// Which of these records one of the candidates is the data key of.
fn brute_force(candidates: &HashSet<[u8; 32]>, headers: &[Header]) -> Vec<Position> {
    let candidates: Vec<_> = candidates.iter().collect();
    let found = |part: &[&[u8; 32]]| -> Vec<Position> {
        let mut found = Vec::new();
        for candidate in part {
            let key = DataKey::from_bytes(**candidate);
            for header in headers {
                if *RecordKey::derive(&key, &header.id).commitment() == header.commitment {
                    found.push(header.position);
                }
            }
        }
        found
    };
    let (one, other) = candidates.split_at(candidates.len() / 2);
    thread::scope(|scope| {
        let half = scope.spawn(|| found(one));
        [found(other), half.join().unwrap()].concat()
    })
}

/// The whole attack. Gives the persons who were found, by any way.
fn attack(roots: &[PathBuf], logs: &[PathBuf], targets: &[Target]) -> Vec<bool> {
    let evidence = Evidence::gather(roots);
    let master_keys = master_keys(&evidence);
    assert!(!master_keys.is_empty());
    let slots = open_vaults(&evidence, &master_keys);
    let keys: Vec<[u8; 32]> =
        slots.iter().map(|slot| slot[19..51].try_into().unwrap()).chain(master_keys).collect();
    let records = records(logs);
    let mut haystacks = evidence.haystacks();
    haystacks.extend(slots.into_iter().map(|slot| ("a slot".to_owned(), slot)));
    let opened = open_records(&records, &keys);
    haystacks.extend(opened.into_iter().map(|(bytes, _)| ("an event".to_owned(), bytes)));
    targets
        .iter()
        .map(|target| {
            let mut needles = target.needles(&keys);
            needles.extend(forms(target.activation.as_bytes()));
            let mut found = false;
            for needle in &needles {
                for (place, haystack) in &haystacks {
                    if holds(haystack, needle) {
                        let is_view = place.contains("/views/");
                        // Views may hold the id of an activation: it is a hash of what is random.
                        found |= !(is_view && holds_id(needle, target));
                    }
                }
            }
            found
        })
        .collect()
}

fn holds_id(needle: &[u8], target: &Target) -> bool {
    needle == target.activation.as_bytes()
}

/// One record of each data key that a person's records are sealed under.
fn headers_of(records: &[(Position, Vec<u8>)], keys: &[[u8; 32]], email: &str) -> Vec<Header> {
    let mut subject = None;
    let mut by_slot = BTreeMap::new();
    let mut owners = BTreeMap::new();
    for (position, bytes) in records {
        let (header, sealed) = record::decode(bytes, *position).unwrap();
        for key in keys {
            let key = RecordKey::derive(&DataKey::from_bytes(*key), &header.id);
            let Ok(plaintext) = key.open(sealed, &header.to_bytes(), &header.commitment) else {
                continue;
            };
            let owner = match codec::decode(&plaintext).unwrap() {
                Event::SubjectRegistered { subject: id, email: found, .. } => {
                    if found.expose() == email {
                        subject = Some(id);
                    }
                    Some(id)
                }
                Event::LicenseIssued { license, subject, .. } => {
                    owners.insert(license, subject);
                    Some(subject)
                }
                Event::Activated { license, .. } => owners.get(&license).copied(),
                Event::AccessRecorded { subject, .. }
                | Event::NameRecorded { subject, .. }
                | Event::Disclosed { subject, .. } => Some(subject),
                _ => None,
            };
            if subject.is_some() && owner == subject {
                by_slot.insert(header.slot, header.clone());
            }
        }
    }
    by_slot.into_values().collect()
}

/// One record of each data key that is to go.
fn headers_to_erase(records: &[(Position, Vec<u8>)], keys: &[[u8; 32]]) -> Vec<Header> {
    let mut erased_headers: Vec<Header> =
        ERASED.iter().flat_map(|email| headers_of(records, keys, email)).collect();
    assert_eq!(
        erased_headers.len(),
        17,
        "address, name, license, activations and accesses of each, and who got data of two"
    );
    // Of who stays, what goes: the names, and the address that is put right.
    let of_kept = KEPT.iter().flat_map(|email| headers_of(records, keys, email));
    erased_headers.extend(of_kept.filter(|header| header.event_type == NAME));
    let put_right = headers_of(records, keys, PUT_RIGHT[0]).into_iter();
    erased_headers.extend(put_right.filter(|header| [ADDRESS, NAME].contains(&header.event_type)));
    assert_eq!(erased_headers.len(), 22);
    erased_headers
}

async fn issue(server: &Server, email: &str, name: &str) -> String {
    let request = IssueLicenseRequest {
        email: email.to_owned(),
        name: name.to_owned(),
        product: "App".to_owned(),
        seats: 2,
        ..IssueLicenseRequest::default()
    };
    let answer = server.issuer().issue_license(request).await.unwrap().into_inner();
    answer.license.unwrap().license_key
}

async fn disclose(server: &Server, email: &str) {
    let (email, recipient) = (email.to_owned(), "ZenDesk".to_owned());
    let request = RecordDisclosureRequest { email, recipient, ..Default::default() };
    server.privacy().record_disclosure(request).await.unwrap();
}

/// Restores the backup from before the erasures.
fn restore(place: &Place, before: &Path, backup: &str) {
    let data = place.directory();
    // The vault of the backup is refused; its log, with the vault of today, is restored.
    let vault = fs::read(data.join("data/vault")).unwrap();
    fs::write(data.join("data/vault"), old_vault(before)).unwrap();
    assert!(place.refusal().contains("put the newest copy of the vault in its place"));
    fs::write(data.join("data/vault"), vault).unwrap();
    let refused = place.run(&["restore", backup]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--lose-newer"), "{refused:?}");
    let restored = place.run(&["restore", backup, "--lose-newer"]);
    assert!(restored.status.success(), "{restored:?}");
    fs::remove_dir_all(data.join("data.before-restore-1")).unwrap();
}

/// Notes that recipients were told of so many changes.
async fn settle_notices(server: &Server, expected: usize) {
    let notices = server.privacy().list_notices(ListNoticesRequest {}).await.unwrap().into_inner();
    assert_eq!(notices.notices.len(), expected);
    for notice in notices.notices {
        let settle = SettleNoticeRequest { notice_id: notice.notice_id };
        server.privacy().settle_notice(settle).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attacker_finds_nothing_of_who_was_erased_and_everyone_else() {
    let place = Place::new();
    let data = place.directory();
    let policy = fs::read_to_string(data.join("policy.toml")).unwrap();
    let with_names = policy.replace("enabled = false", "enabled = true");
    fs::write(data.join("policy.toml"), with_names).unwrap();
    let server = place.start();
    let mut targets = Vec::new();
    for (nonce, email) in (1..).zip(ERASED.iter().chain(&KEPT)) {
        let key = issue(&server, email, NAMES[targets.len()]).await;
        // To the last that is erased nobody is to be told, so that it is final at once.
        if *email != ERASED[2] {
            disclose(&server, email).await;
        }
        server.app().activate(activation(email, &key, nonce)).await.unwrap();
        server.app().activate(activation(email, &key, nonce + 100)).await.unwrap();
        server.history(email).await.unwrap();
        targets.push(Target::new(email, &key, nonce));
    }
    issue(&server, PUT_RIGHT[0], NAMES[6]).await;
    assert!(server.terminate().success());
    let put_right = PUT_RIGHT.map(|email| Email::parse(email).unwrap());
    let mut all: Vec<Target> = targets;
    for number in 0..6 {
        let email = all[number].email.clone();
        all.push(Target::known_by(Some(&email), None));
    }
    all.extend(NAMES.map(|name| Target::known_by(None, Some(name))));
    all.extend(put_right.each_ref().map(|email| Target::known_by(Some(email), None)));

    // What the attacker could read before: the control of the whole search.
    let before = place.beside("before");
    copy_all(&data.join("data"), &before);
    let backup = place.beside("backup");
    let backup_path = backup.to_str().unwrap();
    assert!(place.run(&["backup", backup_path]).status.success());
    let log = data.join("data/log");
    let found = attack(std::slice::from_ref(&data), std::slice::from_ref(&log), &all);
    assert_eq!(found[..20], [true; 20], "the search finds who is there");
    assert!(!found[20], "and nobody else");
    let all_records = records(std::slice::from_ref(&log));
    let evidence = Evidence::gather(std::slice::from_ref(&data));
    let slots = open_vaults(&evidence, &master_keys(&evidence));
    let keys: Vec<[u8; 32]> = slots.iter().map(|slot| slot[19..51].try_into().unwrap()).collect();
    let erased_headers = headers_to_erase(&all_records, &keys);

    // One is erased with a wait, one without, one keeps the license; one is put right.
    let server = place.start();
    let request_id = server.ready(PUT_RIGHT[0], RequestKind::Rectification).await;
    let (email, name) = (PUT_RIGHT[1].to_owned(), String::new());
    let rectify = RectifySubjectRequest { request_id, email, name };
    server.privacy().rectify_subject(rectify).await.unwrap();
    server.erase(ERASED[0], false, false).await;
    server.erase(ERASED[1], true, false).await;
    // What recipients are to be told holds the address, until they are told.
    settle_notices(&server, 2).await;
    // Retention: names are not stored any more.
    assert!(server.terminate().success());
    fs::write(data.join("policy.toml"), policy).unwrap();
    let server = place.start();
    let sweep = SweepRetentionRequest::default();
    let swept = server.privacy().sweep_retention(sweep).await.unwrap().into_inner();
    assert_eq!(swept.subjects, 5);
    server.erase(ERASED[2], false, true).await;
    for email in KEPT {
        server.history(email).await.unwrap();
    }
    server.kill();

    let backups = [before.clone(), backup.clone(), place.log_path()];
    let roots = [std::slice::from_ref(&data), &backups].concat();
    let logs = [log.clone(), before.join("log")];
    let search = |moment: &str, kept_license_is_there: bool| {
        let found = attack(&roots, &logs, &all);
        // Whoever kept the license is found by its key, which they chose to keep.
        let expected = [false, kept_license_is_there, false, true, true, true];
        assert_eq!(found[..6], expected, "{moment}");
        assert_eq!(found[6..12], [false, false, false, true, true, true], "by address {moment}");
        assert_eq!(found[12..19], [false; 7], "by name {moment}");
        assert!(!found[19], "by the address that was put right, {moment}");
        // The right one came after the backup.
        assert!(found[20] || !kept_license_is_there, "{moment}");

        // Every 32 bytes of every file as the key of the erased ones' records, and as the master key of
        // the vault from before.
        let evidence = Evidence::gather(&roots);
        let windows = evidence.windows();
        assert!(windows.len() > 10_000, "{}", windows.len());
        assert_eq!(brute_force(&windows, &erased_headers), [], "{moment}");
        let old_vault = old_vault(&before);
        let opens =
            |key: &[u8; 32]| open_slot(&Aes256Gcm::new(key.into()), 0, &old_vault[..128]).is_some();
        assert!(!windows.iter().any(opens), "{moment}");
    };
    search("after a kill", true);
    // The search by runs of bytes finds a key that lies about.
    let planted = HashSet::from([keys[1], keys[2]]);
    let all_headers: Vec<Header> = all_records
        .iter()
        .map(|(position, bytes)| record::decode(bytes, *position).unwrap().0)
        .collect();
    assert!(brute_force(&planted, &all_headers).len() >= 2);

    restore(&place, &before, backup_path);
    let server = place.start();
    for email in KEPT {
        assert_eq!(server.history(email).await.unwrap().licenses[0].activations_total, 2);
    }
    for email in ERASED {
        assert_eq!(reason(&server.history(email).await.unwrap_err()), "SUBJECT_NOT_FOUND");
    }
    server.kill();
    // What came after the backup is lost, a license that was kept included.
    search("after a restore", false);
}
