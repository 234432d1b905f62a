//! The vault's file: whatever becomes of its bytes, a slot is what it was, or the vault says that it is
//! not. Never another key, and never a key that was destroyed.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use countersign::domain::{LicenseId, Position, SubjectId};
use countersign::log::record::KeySlot;
use countersign::seal::DataKey;
use countersign::vault::file::{FileVault, Places, inspect};
use countersign::vault::master::{KeyFile, MasterKey};
use countersign::vault::{KeyName, NewKey, SlotState, Vault, VaultError};
use countersign_fuzz::{Input, with_checksum};
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

const SLOT_BYTES: usize = 128;
const SLOTS: u32 = 8;

/// A vault as it should be.
struct Good {
    _directory: tempfile::TempDir,
    vault: PathBuf,
    ledger: PathBuf,
    master_key: KeyFile,
    bytes: Vec<u8>,
    ledger_text: String,
    /// Of each slot from 1 on; `None`: it is destroyed.
    keys: Vec<Option<DataKey>>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    // It is written at each run, so not to a disk.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = |name| directory.path().join(name);
    let (vault, ledger, key) = (place("vault"), place("ledger"), place("master.key"));
    let mut rng = StdRng::seed_from_u64(1);
    let master = MasterKey::generate(&mut rng);
    FileVault::create_new(&vault, &ledger, &master, &mut rng).unwrap();
    fs::write(&key, master.expose().as_bytes()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&key, mode).unwrap();
    let master_key = KeyFile::file(&key);
    let places =
        Places { vault: vault.clone(), ledger: ledger.clone(), master_key: master_key.clone() };
    let open = FileVault::open(places, &mut rng).unwrap();
    let subject = SubjectId::from_bytes([1; 16]);
    let names = [
        KeyName::System,
        KeyName::Identity(subject),
        KeyName::License(LicenseId::from_bytes([2; 16])),
        KeyName::Activations(subject, 2026),
        KeyName::Access(subject, 2026),
        KeyName::Name(subject),
        KeyName::Disclosures(subject),
    ];
    let new = names.map(|name| NewKey { name, tag: Some([9; 16]) });
    let slots = open.create(&new, Position(5), &mut rng).unwrap();
    open.destroy(&slots[3..4], &mut rng).unwrap();
    let keys = slots.iter().map(|slot| open.key(*slot).ok()).collect();
    let bytes = fs::read(&vault).unwrap()[..SLOTS as usize * SLOT_BYTES].to_vec();
    let ledger_text = fs::read_to_string(&ledger).unwrap();
    Good { _directory: directory, vault, ledger, master_key, bytes, ledger_text, keys }
});

fuzz_target!(|data: &[u8]| {
    let good = &*GOOD;
    let mut input = Input(data);
    let (how, length) = (input.byte(), usize::from(u16::from_be_bytes(input.bytes())));
    let mut bytes = good.bytes.clone();
    bytes.truncate(if how & 1 == 0 { usize::MAX } else { length });
    if how & 2 == 0 {
        input.damage(&mut bytes);
    } else {
        // Slots that lie elsewhere than they were written, and free ones.
        for (at, from) in input.0.iter().enumerate().take(bytes.len() / SLOT_BYTES) {
            let from = usize::from(*from) * SLOT_BYTES;
            let slot = good.bytes.get(from..from + SLOT_BYTES).unwrap_or(&[0; SLOT_BYTES]);
            bytes[at * SLOT_BYTES..][..SLOT_BYTES].copy_from_slice(slot);
        }
    }
    if how & 4 == 0 {
        for slot in bytes.chunks_exact_mut(SLOT_BYTES).filter(|slot| slot.iter().any(|&b| b != 0)) {
            with_checksum(slot);
        }
    }
    fs::write(&good.vault, &bytes).unwrap();
    fs::write(&good.ledger, &good.ledger_text).unwrap();
    let places = Places {
        vault: good.vault.clone(),
        ledger: good.ledger.clone(),
        master_key: good.master_key.clone(),
    };
    let inspected = inspect(&good.vault);
    let Ok(vault) = FileVault::open(places, &mut StdRng::seed_from_u64(2)) else { return };
    assert!(inspected.is_ok_and(|(epoch, _)| epoch == vault.epoch()));
    for (slot, known) in (1..).map(KeySlot).zip(&good.keys) {
        let state = vault.state(slot);
        match (vault.key(slot), known) {
            (Ok(key), Some(known)) => {
                assert!(state == SlotState::Live && key.expose() == known.expose());
            }
            (Err(VaultError::Destroyed(_)), None) => assert_eq!(state, SlotState::Destroyed),
            // Zeros are a free slot; that its records miss it is found where they are read.
            (Err(VaultError::Missing(_)), _) => assert_eq!(state, SlotState::Free),
            _ => panic!("slot {} is not what it was", slot.0),
        }
    }
    assert_eq!(vault.state(KeySlot(SLOTS)), SlotState::Free);
});
