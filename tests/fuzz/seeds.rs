//! Writes what the fuzzers begin with: `seeds DIRECTORY`, a directory in it for each target. All of it is
//! made from files of the tree, or by the library itself.
//!
//! It is built as they are, and what counts their coverage comes with libFuzzer alone. So it is a target
//! too, which ends before it begins.

#![no_main]
#![allow(unreachable_code)] // it ends before it begins

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign::backup::manifest::Manifest;
use countersign::backup::segment::Builder;
use countersign::domain::{Position, Timestamp};
use countersign::log::head::{Checkpoint, LogKey};
use countersign::log::record::{self, Header, KeySlot};
use countersign::log::tree::CompactRange;
use countersign::receipt::KeyRing;
use countersign::seal::actor::{ActorKey, ActorSeal};
use countersign::tlog::proof::InclusionProof;
use countersign::vault::ledger;
use countersign::vault::master::MasterKey;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// The claims of a receipt, as the tests of the library have them.
const PAYLOAD: &str = r#"{"iss":"https://licenses.example.com","aud":"Example Pro","iat":1700000000,"exp":1702592000,"jti":"AQEBAQEBAQEBAQEBAQEBAQ","cnf":{"jkt":"AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI"},"license":{"key_thumbprint":"-R3fc2S8wi8PJ5RIMfGV3yMCbSjGtxpeHQBk7fzbCCM","seats":5,"expires_at":-1,"updates_until":1800000000},"record":"BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ"}"#;

struct Seeds(PathBuf);

impl Seeds {
    fn write(&self, target: &str, name: &str, bytes: &[u8]) {
        let directory = self.0.join(target);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), bytes).unwrap();
    }
}

fuzz_target!(
    init: {
        write_all();
        std::process::exit(0);
    },
    |_data: &[u8]| {}
);

fn write_all() {
    let directory = std::env::args_os().nth(1).expect("seeds DIRECTORY");
    let seeds = Seeds(directory.into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let mut rng = StdRng::seed_from_u64(1);

    events(&seeds, &read("tests/golden/events.txt"));
    log(&seeds);
    keys(&seeds, &mut rng);
    for (target, file) in [("config", "src/config.toml"), ("policy", "src/policy/default.toml")] {
        let text = read(file);
        seeds.write(target, "default", text.as_bytes());
        seeds.write(target, "stated", text.replace("#= ", "").as_bytes());
        let set: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        seeds.write(target, "short", set.join("\n").as_bytes());
    }
    for (name, text) in [
        ("email", "Ada.L+x@B\u{fc}cher.Example.com."),
        ("composed", "e\u{301}T\u{308}\u{212a}@example.com"),
        ("key", "00000-00000-00000-00000-000150"),
        ("day", "2026-01-31"),
        ("role", "analytics"),
        ("product", "Example Pro 2.0"),
    ] {
        seeds.write("text", name, text.as_bytes());
    }
    calls(&seeds);
    frames(&seeds);
    // Damage to a vault: nothing, cut short, some bytes, slots elsewhere.
    seeds.write("vault", "whole", &[0, 0, 0]);
    seeds.write("vault", "cut", &[1, 0x02, 0x80]);
    seeds.write("vault", "bytes", &[4, 0, 0, 0, 0x90, 1, 1, 0x22, 0x80]);
    seeds.write("vault", "moved", &[6, 0, 0, 0, 1, 3, 2, 4, 5, 6, 7]);
    let uri = "countersign://staff/support/ada.l";
    for (name, uris) in [("none", &[][..]), ("one", &[uri]), ("two", &[uri, uri])] {
        seeds.write("certificate", name, &certificate(uris));
    }
}

fn events(seeds: &Seeds, golden: &str) {
    let (mut all, mut events) = (Vec::new(), Vec::new());
    for (number, line) in golden.lines().enumerate() {
        let (_, hex) = line.split_once(": ").unwrap();
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let event: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
        let mut framed = u16::try_from(event.len()).unwrap().to_be_bytes().to_vec();
        framed.extend_from_slice(&event);
        seeds.write("event", &number.to_string(), &framed);
        all.extend_from_slice(&framed);
        events.push(event);
    }
    seeds.write("event", "all", &all);

    // The same to rows of views: how, and the event; and in between a row that changes.
    let mut steps = Vec::new();
    for (number, event) in (0u8..).zip(&events) {
        let length = u16::try_from(event.len() + 1).unwrap().to_be_bytes();
        steps.extend([length.as_slice(), &[0x40], event].concat());
        seeds.write("rows", &format!("before {number}"), &steps);
        let changed = [&steps, &[0, 5, 1, number, 0, 1, 1][..], &length, &[0xC0], event].concat();
        seeds.write("rows", &format!("changed {number}"), &changed);
    }
    // More of a person's entries than are in their row, and then they are erased.
    let step = |event: &[u8]| {
        let length = u16::try_from(event.len() + 1).unwrap().to_be_bytes();
        [length.as_slice(), &[0xC0], event].concat()
    };
    let many = [step(&events[0]).repeat(40), events.iter().flat_map(|event| step(event)).collect()];
    seeds.write("rows", "pages", &many.concat());
    // A day's counts that are as many as there may be, before one more.
    let issued = [&[0x40], events[1].as_slice()].concat();
    let full = [&[2, 4], [0xFF, 0xFF, 0xFF, 0xFF, 0x0F].repeat(4).as_slice()].concat();
    let registered = [&[0x40], events[0].as_slice()].concat();
    let activated = [&[0x40], events[3].as_slice()].concat();
    let steps = [&registered, &issued, &activated, &full, &issued].map(|step| {
        let length = u16::try_from(step.len()).unwrap().to_be_bytes();
        [length.as_slice(), step].concat()
    });
    seeds.write("rows", "full", &steps.concat());
}

fn log(seeds: &Seeds) {
    let header = |position| {
        let (slot, position) = (KeySlot(1), Position(position));
        Header { event_type: 3, position, slot, id: [9; 16], commitment: [8; 32] }
    };
    let record = record::encode(&header(5), &[7; 144]);
    seeds.write("record", "stored", &[&[0], record.as_slice()].concat());
    seeds.write("record", "sealed", &[1; 120]);

    let mut builder = Builder::new(Position(5), [4; 32]);
    (5..8).for_each(|position| builder.push(&record::encode(&header(position), &[7; 16])).unwrap());
    let first = 5u64.to_be_bytes();
    seeds.write("segment", "stored", &[&[0], first.as_slice(), &builder.encode()].concat());
    seeds.write("segment", "damaged", &[&[1], first.as_slice(), &[3; 9]].concat());
    seeds.write("segment", "last", &[&[1], [0xFF; 8].as_slice(), &[3; 9]].concat());

    let key = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    let key = LogKey::parse(key).unwrap();
    let mut tree = CompactRange::default();
    for size in 0..4 {
        let checkpoint = Checkpoint { size: tree.size(), root: tree.root() };
        seeds.write("manifest", &format!("head {size}"), key.sign(&checkpoint).as_bytes());
        let manifest = Manifest { tree: tree.clone(), epoch: 3, slots: 70 };
        seeds.write("manifest", &format!("backup {size}"), manifest.encode(&key).as_bytes());
        tree.push(record::hash(&record));
    }

    let checkpoint = Checkpoint { size: tree.size(), root: tree.root() };
    let (index, path) = (Position(1), vec![[5; 32]; 2]);
    let proof = InclusionProof { index, path, checkpoint: key.sign(&checkpoint) };
    seeds.write("proof", "proof", proof.to_string().as_bytes());
    seeds.write("proof", "note", proof.checkpoint.as_bytes());
    seeds.write("proof", "key", key.public().to_string().as_bytes());
    let time = Timestamp::from_millis(1_700_000_000_000).unwrap();
    let cosignature = countersign_fuzz::witness().sign(&checkpoint.text("example.com/log"), time);
    seeds.write("proof", "cosigned", format!("{}{cosignature}", proof.checkpoint).as_bytes());
    seeds.write("proof", "hashes", &[30, 60, 0, 0, 0, 0, 0, 0, 0, 9]);
    seeds.write("proof", "more", &[&[32, 62], [0xFF; 40].as_slice(), &[5; 96]].concat());

    seeds.write("tail", "position", &[[0; 7].as_slice(), &[9, 1, 2, 3, 4]].concat());
    seeds.write("tail", "records", &[[0; 8].as_slice(), &[0, 3, 1, 2, 3, 0, 2, 4, 5]].concat());
    seeds.write("tail", "chunk", &[[0; 8].as_slice(), &[0, 3, 1, 2, 3, 0, 1, 4, 0xA5]].concat());
    seeds.write("tiles", "path", b"1/x001/234.p/17");
    // So many leaves; of a file the beginning, more, others, and some bytes.
    for how in 0..4u8 {
        for (which, count) in [(0, 300u16), (1, 300), (3, 512), (5, 600)] {
            let head = [count.to_be_bytes(), [which, how], [0, 17]].concat();
            let name = format!("{which} {how}");
            seeds.write("tiles", &name, &[head.as_slice(), &[0, 5, 1, 0, 40, 9]].concat());
        }
    }

    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("ledger");
    ledger::create_new(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    seeds.write("ledger", "new", text.as_bytes());
    let more = "erased 7:01010101010101010101010101010101,9:abababababababababababababababab 0\nepoch 2 0\n";
    seeds.write("ledger", "longer", format!("{text}{more}").as_bytes());
}

fn keys(seeds: &Seeds, rng: &mut StdRng) {
    let mut ring = KeyRing::generate(rng);
    ring.rotate(rng);
    seeds.write("keys", "ring", ring.to_jwks().as_bytes());
    seeds.write("keys", "public", ring.public().to_jwks().as_bytes());
    let log_key = LogKey::generate("example.com/log", rng).unwrap();
    seeds.write("keys", "log", log_key.expose().as_bytes());
    seeds.write("keys", "master", MasterKey::generate(rng).expose().as_bytes());
    let actors = [ActorKey::generate(rng), ActorKey::generate(rng)];
    seeds.write("keys", "actor", actors[0].expose().as_bytes());
    let seal = ActorSeal::for_keys([&actors[0], &actors[1]]);
    seeds.write("keys", "actors", seal.to_text().as_bytes());

    let kid = BASE64_URL_SAFE_NO_PAD.encode(ring.current().as_bytes());
    let header = format!(r#"{{"alg":"EdDSA","typ":"activation+jwt","kid":"{kid}"}}"#);
    let length = u16::try_from(header.len()).unwrap().to_be_bytes();
    let payload = PAYLOAD.as_bytes();
    let whole = [header.as_bytes(), payload].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    let unsigned = format!("{}.{}.AAAA", whole[0], whole[1]);
    seeds.write("receipt", "unsigned", &[&[0], unsigned.as_bytes()].concat());
    seeds.write("receipt", "claims", &[&[1], payload].concat());
    seeds.write(
        "receipt",
        "header",
        &[&[2], length.as_slice(), header.as_bytes(), payload].concat(),
    );
    seeds.write("receipt", "changed", &[&[3, 0, 200, b'x'], payload].concat());
}

fn calls(seeds: &Seeds) {
    use countersign::proto::v1::{ActivateRequest, IssueLicenseRequest};
    let activate = ActivateRequest {
        email: "ada@example.com".to_owned(),
        license_key: "00000-00000-00000-00000-000150".to_owned(),
        nonce: vec![1; 16],
        binding: vec![2; 32],
    };
    let activate = activate.encode_to_vec();
    seeds.write("call", "activate", &[&[0], activate.as_slice()].concat());
    let framed =
        [&[0, 0, 0, 0, 0, u8::try_from(activate.len()).unwrap()], activate.as_slice()].concat();
    seeds.write("call", "framed", &framed);
    let issue = IssueLicenseRequest { product: "App".to_owned(), seats: 5, ..Default::default() };
    seeds.write("call", "issue", &[&[4], issue.encode_to_vec().as_slice()].concat());
}

/// Two calls and their answers, in steps of a target's: how, what was quiet before, and frames.
fn frames(seeds: &Seeds) {
    const OURS: u8 = 1;
    const AS_THEY_ARE: u8 = 2;
    let step = |how: u8, bytes: &[u8]| {
        let length = u16::try_from(bytes.len() + 2).unwrap().to_be_bytes();
        [length.as_slice(), &[how, 1], bytes].concat()
    };
    let calls = [1, 0, 1, 50, 0, 1, 1, 100, 1, 0, 3, 50, 9, 4, 3, 9, 0, 1, 3, 0];
    let answers = [1, 4, 1, 9, 0, 0, 1, 9, 1, 5, 1, 9, 1, 5, 3, 9];
    let start = [1, 80, 0x40, 0];
    let both = [start.as_slice(), &step(0, &calls), &step(OURS, &answers)].concat();
    seeds.write("frames", "calls", &both);
    let resets = [1, 0, 1, 0, 3, 0, 1, 4, 6, 0, 0, 8, 4, 0, 0, 12];
    seeds.write("frames", "resets", &[start.as_slice(), &step(0, &resets.repeat(4))].concat());
    let large = [1, 0, 1, 255, 0, 0, 1, 255, 0, 0, 1, 255];
    seeds.write("frames", "large", &[start.as_slice(), &step(0xC0, &large)].concat());
    let many: Vec<u8> = (0..120u8).flat_map(|call| [1, 0, 2 * call + 1, 1]).collect();
    seeds.write("frames", "many", &[start.as_slice(), &step(0, &many)].concat());
    let bytes = b"\0\0\x03\x01\x05\0\0\0\x01abc\0\0\0\x04\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\x030000";
    let raw = [start.as_slice(), &step(AS_THEY_ARE, bytes), &step(AS_THEY_ARE | OURS, bytes)];
    seeds.write("frames", "bytes", &raw.concat());
}

fn certificate(uris: &[&str]) -> Vec<u8> {
    let mut parameters =
        rcgen::CertificateParams::new(vec!["staff.example.com".to_owned()]).unwrap();
    for uri in uris {
        parameters.subject_alt_names.push(rcgen::SanType::URI((*uri).try_into().unwrap()));
    }
    let key = rcgen::KeyPair::generate().unwrap();
    parameters.self_signed(&key).unwrap().der().to_vec()
}
