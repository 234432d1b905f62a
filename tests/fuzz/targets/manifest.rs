//! The head file, the manifest of a backup, and what a check found: nothing but what the log's key signed, or
//! its own hash bears out, is believed.

#![no_main]

use std::sync::LazyLock;

use countersign::backup::manifest::Manifest;
use countersign::domain::Position;
use countersign::log::checked::Checked;
use countersign::log::head::{Checkpoint, LogKey};
use countersign::log::tree::CompactRange;
use countersign_fuzz::Input;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};

/// The example of <https://c2sp.org/signed-note>; the seeds are signed with it too.
static KEY: LazyLock<LogKey> = LazyLock::new(|| {
    LogKey::parse("PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")
        .unwrap()
});

/// What a note states must be what was signed: only checkpoints ever are.
fn read_note(note: &str) {
    if let Ok(checkpoint) = KEY.verify(note) {
        let signed = KEY.sign(&checkpoint);
        let (body, _) = signed.split_once("\n\n").unwrap();
        assert_eq!(note.split_once("\n\n").map(|(body, _)| body), Some(body));
    }
}

fn read_manifest(text: &str) {
    if let Some(manifest) = Manifest::decode(text, &KEY) {
        let again = Manifest::decode(&manifest.encode(&KEY), &KEY);
        assert_eq!(again, Some(manifest));
    }
}

/// The same with the checksum of what it states.
fn with_check(text: &str) -> Option<String> {
    let (stated, rest) = text.split_once("check ")?;
    let (_, note) = rest.split_once('\n')?;
    Some(format!("{stated}check {:08x}\n{note}", crc32c::crc32c(stated.as_bytes())))
}

fn read_checked(bytes: &[u8]) {
    if let Some(checked) = Checked::from_bytes(bytes) {
        assert_eq!(Checked::from_bytes(&checked.to_bytes()), Some(checked));
    }
}

fn read(text: &str) {
    read_note(text);
    read_manifest(text);
    if let Some(text) = with_check(text) {
        read_manifest(&text);
    }
}

fuzz_target!(|data: &[u8]| {
    read_checked(data);
    read_checked(&[data, &Sha256::digest(data)].concat());
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
        // Any text as the roots of a tree, of a size that was signed.
        let (epoch, rest) = text.split_once(' ').unwrap_or((text, ""));
        let (size, roots) = rest.split_once(' ').unwrap_or((rest, ""));
        let size = Position(size.parse().unwrap_or_default());
        let empty = Checkpoint { size, root: CompactRange::default().root() };
        let note = KEY.sign(&empty);
        read(
            &with_check(&format!(
                "countersign backup v1\nvault {epoch}\ntree {roots}\ncheck \n{note}"
            ))
            .unwrap(),
        );
    }
    // What is good is read; what changed is not, or states the same.
    let mut input = Input(data);
    let mut tree = CompactRange::default();
    for _ in 0..input.byte() % 40 {
        tree.push(input.bytes());
    }
    let epoch_and_slots = input.number().to_be_bytes();
    let [epoch, slots] =
        [0, 4].map(|at| u32::from_be_bytes(epoch_and_slots[at..at + 4].try_into().unwrap()));
    let manifest = Manifest { tree, epoch, slots };
    let mut text = manifest.encode(&KEY).into_bytes();
    input.damage(&mut text);
    if let Ok(text) = str::from_utf8(&text) {
        let read = Manifest::decode(text, &KEY);
        assert!(read.is_none_or(|read| read == manifest));
    }
});
