//! The ledger of erasures: what one says, another one says too once they are merged, and the file can be
//! read again.

#![no_main]

use std::fs;

use countersign::vault::ledger::{Stored, create_new, merge};
use libfuzzer_sys::fuzz_target;

/// Each line but the title with its checksum, the last one ended or not.
fn with_checksums(text: &str) -> String {
    let mut lines = text.split('\n');
    let mut whole = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        let body = line.rsplit_once(' ').map_or(line, |(body, _)| body);
        whole += "\n";
        if !body.is_empty() {
            whole += &format!("{body} {:08x}", crc32c::crc32c(body.as_bytes()));
        }
    }
    whole
}

fn read(text: &str) {
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let [first, copy, other] = ["first", "copy", "other"].map(|name| place.path().join(name));
    fs::write(&first, text).unwrap();
    let first = Stored::read(&first).unwrap();
    let Ok(epoch) = first.newest_epoch() else { return };
    let stated = |path| Stored::read(path).unwrap().newest_epoch().unwrap();
    merge(&copy, &first).unwrap();
    assert_eq!(stated(&copy), epoch);
    // Once it says all of it, nothing is added.
    let before = fs::read(&copy).unwrap();
    merge(&copy, &first).unwrap();
    assert!(fs::read(&copy).unwrap() == before);

    create_new(&other).unwrap();
    merge(&other, &first).unwrap();
    assert_eq!(stated(&other), epoch.max(1));
    let lines = |path| -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        let keys = text.lines().filter_map(|line| line.strip_prefix("erased "));
        let keys = keys.flat_map(|keys| keys.rsplit_once(' ').unwrap().0.split(','));
        let number = |key: &str| {
            let (slot, fingerprint) = key.split_once(':').unwrap();
            let slot: u32 = slot.parse().unwrap();
            format!("{slot}:{:032x}", u128::from_str_radix(fingerprint, 16).unwrap())
        };
        let mut keys: Vec<String> = keys.map(number).collect();
        keys.sort();
        keys.dedup();
        keys
    };
    assert_eq!(lines(&other), lines(&copy));
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data) {
        read(text);
        read(&with_checksums(text));
        read(&with_checksums(&format!("countersign erasure ledger v1\nepoch 1 \n{text}")));
    }
});
