use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn subject(byte: u8) -> SubjectId {
    SubjectId::from_bytes([byte; 16])
}

fn identity(byte: u8) -> NewKey {
    NewKey { name: KeyName::Identity(subject(byte)), tag: Some([byte; 16]) }
}

struct Place {
    directory: tempfile::TempDir,
    path: PathBuf,
    key_path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [path, ledger, key_path] =
            ["vault", "ledger", "master.key"].map(|name| directory.path().join(name));
        let master = MasterKey::generate(&mut rand::rng());
        FileVault::create_new(&path, &ledger, &master, &mut rand::rng()).unwrap();
        let place = Self { directory, path, key_path };
        place.put_key(&master);
        place
    }

    fn put_key(&self, master: &MasterKey) {
        fs::write(&self.key_path, master.expose().as_bytes()).unwrap();
        fs::set_permissions(&self.key_path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn open(&self) -> Result<FileVault, VaultError> {
        let places = Places {
            vault: self.path.clone(),
            ledger: self.directory.path().join("ledger"),
            master_key: KeyFile::file(&self.key_path),
        };
        FileVault::open(places, &mut rand::rng())
    }

    /// Every file, as a power cut or a backup may bring it back.
    fn snapshot(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }

    fn restore(&self, files: &[(PathBuf, Vec<u8>)]) {
        for (path, _) in self.snapshot() {
            fs::remove_file(path).unwrap();
        }
        for (path, bytes) in files {
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn keys_names_and_tags_are_there_after_a_reopening() {
    let place = Place::new();
    let license = LicenseId::from_bytes([9; 16]);
    let activations = KeyName::Activations(subject(1), 2026);
    let (before, slots) = {
        let vault = place.open().unwrap();
        let keys = [
            identity(1),
            NewKey { name: KeyName::License(license), tag: Some([2; 16]) },
            NewKey { name: activations, tag: None },
        ];
        let slots = vault.create(&keys, Position::ZERO, &mut rand::rng()).unwrap();
        let keys: Vec<_> = slots.iter().map(|&slot| vault.key(slot).unwrap()).collect();
        (keys, slots)
    };
    let vault = place.open().unwrap();
    for (&slot, key) in slots.iter().zip(&before) {
        assert_eq!(vault.key(slot).unwrap().expose(), key.expose());
    }
    assert_ne!(before[0].expose(), before[1].expose());
    assert_eq!(vault.subject_by_email(&[1; 16]), Some(subject(1)));
    assert_eq!(vault.license_by_key(&[2; 16]), Some(license));
    assert_eq!(vault.license_by_key(&[1; 16]), None);
    assert_eq!(vault.find(&activations), Some(slots[2]));
    assert_eq!(vault.find(&KeyName::Activations(subject(1), 2027)), None);
}

#[test]
fn it_grows_beyond_a_chunk() {
    let place = Place::new();
    let names = |n: u16| KeyName::Access(subject(3), n);
    {
        let vault = place.open().unwrap();
        for years in (0..3000).collect::<Vec<_>>().chunks(700) {
            let keys: Vec<_> =
                years.iter().map(|&n| NewKey { name: names(n), tag: None }).collect();
            vault.create(&keys, Position::ZERO, &mut rand::rng()).unwrap();
        }
    }
    let vault = place.open().unwrap();
    for n in 0..3000 {
        vault.key(vault.find(&names(n)).unwrap()).unwrap();
    }
}

#[test]
fn each_flipped_bit_is_found_and_its_slot_named() {
    let place = Place::new();
    place.open().unwrap().create(&[identity(1)], Position::ZERO, &mut rand::rng()).unwrap();
    let whole = fs::read(&place.path).unwrap();
    for bit in 0..2 * SLOT_BYTES * 8 {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        fs::write(&place.path, changed).unwrap();
        let error = place.open().err().unwrap();
        let named = match error {
            VaultError::Damaged(slot) => slot.0 as usize == bit / 8 / SLOT_BYTES,
            VaultError::Foreign => bit / 8 < 2,
            _ => false,
        };
        assert!(named, "bit {bit}: {error}");
    }
}

#[test]
fn another_master_key_opens_nothing_and_says_so() {
    let place = Place::new();
    let key = MasterKey::parse(&fs::read_to_string(&place.key_path).unwrap()).unwrap().key;
    for other in [MasterKey::generate(&mut rand::rng()), MasterKey { epoch: 2, key }] {
        place.put_key(&other);
        assert!(matches!(place.open(), Err(VaultError::WrongMasterKey)));
    }
}

#[test]
fn a_foreign_or_empty_file_is_no_vault() {
    let place = Place::new();
    for content in [Vec::new(), vec![0; 4096], b"not a vault at all".repeat(100)] {
        fs::write(&place.path, content).unwrap();
        assert!(matches!(place.open(), Err(VaultError::Foreign)));
    }
}

#[test]
fn a_vault_of_another_format_is_told_from_a_damaged_one() {
    let place = Place::new();
    place.open().unwrap().create(&[identity(1)], Position::ZERO, &mut rand::rng()).unwrap();
    let whole = fs::read(&place.path).unwrap();
    let write_with_version = |slot: usize, version| {
        let mut changed = whole.clone();
        let bytes = &mut changed[slot * SLOT_BYTES..][..SLOT_BYTES];
        bytes[1] = version;
        let checksum = crc32c::crc32c(&bytes[..SLOT_BYTES - 4]);
        bytes[SLOT_BYTES - 4..].copy_from_slice(&checksum.to_be_bytes());
        fs::write(&place.path, changed).unwrap();
    };
    write_with_version(0, 1);
    assert!(matches!(place.open(), Err(VaultError::OtherFormat(1))));
    assert!(matches!(inspect(&place.path), Err(VaultError::OtherFormat(1))));
    write_with_version(1, 1);
    assert!(matches!(place.open(), Err(VaultError::Damaged(KeySlot(1)))));
    assert!(matches!(inspect(&place.path), Err(VaultError::Damaged(KeySlot(1)))));
    write_with_version(1, 2);
    assert!(place.open().is_ok() && inspect(&place.path).is_ok());
}

#[test]
fn a_slot_copied_elsewhere_does_not_open() {
    let place = Place::new();
    place
        .open()
        .unwrap()
        .create(&[identity(1), identity(2)], Position::ZERO, &mut rand::rng())
        .unwrap();
    let mut bytes = fs::read(&place.path).unwrap();
    bytes.copy_within(SLOT_BYTES..2 * SLOT_BYTES, 3 * SLOT_BYTES);
    fs::write(&place.path, bytes).unwrap();
    assert!(matches!(place.open(), Err(VaultError::Damaged(KeySlot(3)))));
}

#[test]
fn no_key_or_tag_lies_in_the_file_in_clear() {
    let place = Place::new();
    let vault = place.open().unwrap();
    let slot = vault.create(&[identity(0xA7)], Position::ZERO, &mut rand::rng()).unwrap()[0];
    let bytes = fs::read(&place.path).unwrap();
    for secret in [vault.key(slot).unwrap().expose().as_slice(), &[0xA7; 16]] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

/// A vault with a person's identity and two years of theirs, and another person's identity.
fn populated() -> (Place, Vec<KeySlot>, KeySlot) {
    let place = Place::new();
    let vault = place.open().unwrap();
    let year = |year| NewKey { name: KeyName::Activations(subject(1), year), tag: None };
    let keys = [identity(1), year(2026), year(2027), identity(2)];
    let mut slots = vault.create(&keys, Position::ZERO, &mut rand::rng()).unwrap();
    let kept = slots.pop().unwrap();
    (place, slots, kept)
}

#[test]
fn a_destroyed_key_is_gone_and_known_to_be() {
    let (place, slots, kept) = populated();
    let vault = place.open().unwrap();
    let secrets: Vec<_> = slots.iter().map(|slot| vault.key(*slot).unwrap()).collect();
    let of_subject: Vec<_> = vault.of_subject(subject(1)).into_iter().map(|(_, at)| at).collect();
    assert_eq!(of_subject, slots);
    vault.destroy(&slots, &mut rand::rng()).unwrap();
    vault.destroy(&slots, &mut rand::rng()).unwrap();
    for vault in [vault, place.open().unwrap()] {
        for slot in &slots {
            assert!(matches!(vault.key(*slot), Err(VaultError::Destroyed(at)) if at == *slot));
            assert_eq!(vault.state(*slot), SlotState::Destroyed);
        }
        assert_eq!(vault.subject_by_email(&[1; 16]), None);
        assert_eq!(vault.of_subject(subject(1)), []);
        assert_eq!(vault.subject_by_email(&[2; 16]), Some(subject(2)));
        vault.key(kept).unwrap();
        assert_eq!(vault.state(KeySlot(900)), SlotState::Free);
        assert!(matches!(vault.key(KeySlot(900)), Err(VaultError::Missing(_))));
    }
    let wrap = Wrap::new(&KeyFile::file(&place.key_path).resolve(1).unwrap()).unwrap();
    let bytes = fs::read(&place.path).unwrap();
    let (all, _) = bytes.as_chunks::<SLOT_BYTES>();
    for (slot, secret) in slots.iter().zip(secrets) {
        let content = wrap.open(*slot, &all[slot.0 as usize]).unwrap().unwrap();
        assert!(!content.to_bytes().windows(8).any(|part| secret.expose().starts_with(part)));
    }
}

#[test]
fn a_replaced_address_is_found_by_the_new_one_and_the_old_key_can_go() {
    let (place, slots, _) = populated();
    let newer = NewKey { name: KeyName::Identity(subject(1)), tag: Some([9; 16]) };
    let newer =
        place.open().unwrap().create(&[newer], Position::ZERO, &mut rand::rng()).unwrap()[0];
    let vault = place.open().unwrap();
    assert_eq!(vault.find(&KeyName::Identity(subject(1))), Some(newer));
    assert_eq!(vault.of_subject(subject(1)).len(), 4);
    vault.destroy(&slots[..1], &mut rand::rng()).unwrap();
    assert_eq!(vault.subject_by_email(&[1; 16]), None);
    assert_eq!(vault.subject_by_email(&[9; 16]), Some(subject(1)));
    assert_eq!(vault.find(&KeyName::Identity(subject(1))), Some(newer));

    // The same address in another spelling has the same tag.
    let respelled = NewKey { name: KeyName::Identity(subject(1)), tag: Some([9; 16]) };
    vault.create(&[respelled], Position::ZERO, &mut rand::rng()).unwrap();
    vault.destroy(&[newer], &mut rand::rng()).unwrap();
    assert_eq!(vault.subject_by_email(&[9; 16]), Some(subject(1)));
}

#[test]
fn a_tag_leads_to_the_key_before_when_the_newest_is_not_used() {
    let place = Place::new();
    let license = |byte| KeyName::License(LicenseId::from_bytes([byte; 16]));
    let keys = [1, 2, 3].map(|byte| NewKey { name: license(byte), tag: Some([5; 16]) });
    let slots = place.open().unwrap().create(&keys, Position::ZERO, &mut rand::rng()).unwrap();
    let vault = place.open().unwrap();
    let found = |vault: &FileVault| vault.license_by_key(&[5; 16]);
    assert_eq!(found(&vault), Some(LicenseId::from_bytes([3; 16])));
    // As after a kill between the making of keys and the records that they are for.
    vault.destroy_unused(|slot| slot == slots[0], Position::ZERO, &mut rand::rng()).unwrap();
    for vault in [vault, place.open().unwrap()] {
        assert_eq!(found(&vault), Some(LicenseId::from_bytes([1; 16])));
    }
}

#[test]
fn an_interrupted_or_undone_erasure_is_carried_to_its_end() {
    let (place, slots, kept) = populated();
    let before = fs::read(&place.path).unwrap();
    place.open().unwrap().destroy(&slots, &mut rand::rng()).unwrap();
    // As after a power cut between ledger and vault, or with the vault of a backup.
    fs::write(&place.path, before).unwrap();
    for _ in 0..2 {
        let vault = place.open().unwrap();
        assert!(slots.iter().all(|slot| vault.state(*slot) == SlotState::Destroyed));
        vault.key(kept).unwrap();
    }
}

#[test]
fn after_a_new_epoch_older_copies_open_nothing() {
    let (place, slots, kept) = populated();
    let vault = place.open().unwrap();
    vault.destroy(&slots[..1], &mut rand::rng()).unwrap();
    let before = place.snapshot();
    let key = vault.key(kept).unwrap();
    vault.move_epoch(&mut rand::rng()).unwrap();
    let added = vault.create(&[identity(7)], Position::ZERO, &mut rand::rng()).unwrap()[0];
    for vault in [vault, place.open().unwrap()] {
        assert_eq!(vault.epoch(), 2);
        assert_eq!(vault.key(kept).unwrap().expose(), key.expose());
        assert_eq!(vault.state(slots[0]), SlotState::Destroyed);
        assert_eq!(vault.subject_by_email(&[7; 16]), Some(subject(7)));
        vault.key(added).unwrap();
    }
    let old_vault = before.iter().find(|(path, _)| *path == place.path).unwrap();
    fs::write(&place.path, &old_vault.1).unwrap();
    assert!(matches!(place.open(), Err(VaultError::Outdated { vault: 1, ledger: 2 })));
    let remains = place.snapshot();
    let old_key = before.iter().find(|(path, _)| *path == place.key_path).unwrap();
    let secret = old_key.1.strip_suffix(b"\n").unwrap();
    assert!(!remains.iter().any(|(_, bytes)| bytes.windows(43).any(|w| secret.ends_with(w))));
}

/// Files and what they hold.
type Changed<'a> = &'a [(&'a Path, &'a [u8])];

#[test]
fn a_move_to_a_new_epoch_that_stops_at_any_step_is_whole_or_undone() {
    let (place, _, kept) = populated();
    let before = place.snapshot();
    let expected = place.open().unwrap().key(kept).unwrap();
    place.open().unwrap().move_epoch(&mut rand::rng()).unwrap();
    let after = place.snapshot();
    let bytes = |files: &[(PathBuf, Vec<u8>)], path: &Path| {
        files.iter().find(|(at, _)| at == path).unwrap().1.clone()
    };
    let [next_key, next_vault] = [place.key_path.with_extension("key.next"), staged(&place.path)];
    let (new_key, new_vault) = (bytes(&after, &place.key_path), bytes(&after, &place.path));
    // What is on the disk after each step, from the first to the last.
    let steps: [(Changed<'_>, u32); 6] = [
        (&[(&next_key, b"countersign-mas")], 1),
        (&[(&next_key, &new_key)], 1),
        (&[(&next_key, &new_key), (&next_vault, &new_vault[..700])], 1),
        (&[(&next_key, &new_key), (&place.path, &new_vault)], 2),
        (&[(&next_key, &new_key), (&place.path, &new_vault), (&place.key_path, &[0; 73])], 2),
        (&[(&place.path, &new_vault), (&place.key_path, &new_key)], 2),
    ];
    for (number, (changed, epoch)) in steps.into_iter().enumerate() {
        place.restore(&before);
        for (path, bytes) in changed {
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        for _ in 0..2 {
            let vault = place.open().unwrap_or_else(|error| panic!("step {number}: {error}"));
            assert_eq!(vault.epoch(), epoch, "step {number}");
            assert_eq!(vault.key(kept).unwrap().expose(), expected.expose());
        }
        assert!(!next_key.exists() && !next_vault.exists(), "step {number}");
        let key = fs::read(&place.key_path).unwrap();
        assert_eq!(key == new_key, epoch == 2, "step {number}");
    }
}

#[test]
fn a_vault_that_cannot_move_stays_as_it_is() {
    let (place, _, kept) = populated();
    let vault = place.open().unwrap();
    let key = vault.key(kept).unwrap();
    // Where the next vault would be written is a directory.
    fs::create_dir(staged(&place.path)).unwrap();
    let refused = vault.move_epoch(&mut rand::rng());
    assert!(matches!(refused, Err(VaultError::NotMoved(_))));
    assert_eq!(vault.epoch(), 1);
    let added = vault.create(&[identity(7)], Position::ZERO, &mut rand::rng()).unwrap()[0];
    fs::remove_dir(staged(&place.path)).unwrap();
    let again = place.open().unwrap();
    assert_eq!(again.key(kept).unwrap().expose(), key.expose());
    again.move_epoch(&mut rand::rng()).unwrap();
    again.key(added).unwrap();
}

#[test]
fn a_master_key_that_is_a_credential_is_not_replaced() {
    let (place, ..) = populated();
    let places = Places {
        master_key: KeyFile::credential(&place.key_path),
        ..place.open().unwrap().places.clone()
    };
    let vault = FileVault::open(places, &mut rand::rng()).unwrap();
    let refused = vault.move_epoch(&mut rand::rng());
    assert!(matches!(refused, Err(VaultError::FixedMasterKey)));
    assert_eq!(place.open().unwrap().epoch(), 1);
}

#[test]
fn a_slot_that_is_zeroed_holds_no_key_and_is_not_taken_for_a_live_one() {
    let place = Place::new();
    let keys = [identity(1), identity(2)];
    let slots = place.open().unwrap().create(&keys, Position::ZERO, &mut rand::rng()).unwrap();
    let mut bytes = fs::read(&place.path).unwrap();
    bytes[SLOT_BYTES..2 * SLOT_BYTES].fill(0);
    fs::write(&place.path, bytes).unwrap();
    let vault = place.open().unwrap();
    let states: Vec<_> = slots.iter().map(|slot| vault.state(*slot)).collect();
    assert_eq!(states, [SlotState::Free, SlotState::Live]);
    assert!(matches!(vault.key(slots[0]), Err(VaultError::Missing(slot)) if slot == slots[0]));
}

#[test]
fn a_log_that_is_older_than_the_vault_costs_no_key() {
    let place = Place::new();
    let vault = place.open().unwrap();
    let slot = vault.create(&[identity(1)], Position(7), &mut rand::rng()).unwrap()[0];
    let key = vault.key(slot).unwrap();
    let vault = place.open().unwrap();
    let refused = vault.destroy_unused(|_| false, Position(6), &mut rand::rng());
    assert!(matches!(refused, Err(VaultError::NewerThanLog { made_at: Position(7), .. })));
    vault.move_epoch(&mut rand::rng()).unwrap();
    let vault = place.open().unwrap();
    assert_eq!(vault.key(slot).unwrap().expose(), key.expose());
    let ledger = fs::read(place.directory.path().join("ledger")).unwrap();
    assert!(vault.destroy_unused(|_| false, Position(6), &mut rand::rng()).is_err());
    // The key's own append did not come to be.
    vault.destroy_unused(|_| false, Position(7), &mut rand::rng()).unwrap();
    assert_eq!(place.open().unwrap().state(slot), SlotState::Destroyed);
    assert_eq!(fs::read(place.directory.path().join("ledger")).unwrap(), ledger);
}

#[test]
fn growth_that_was_interrupted_does_not_keep_it_from_a_new_epoch() {
    let (place, _, kept) = populated();
    let key = place.open().unwrap().key(kept).unwrap();
    let slots = u64::from(CHUNK_SLOTS) + 160;
    let file = OpenOptions::new().write(true).open(&place.path).unwrap();
    file.set_len(slots * SLOT_BYTES as u64 + 5).unwrap();
    place.open().unwrap().move_epoch(&mut rand::rng()).unwrap();
    assert_eq!(place.open().unwrap().key(kept).unwrap().expose(), key.expose());
}

#[test]
fn a_master_key_behind_a_link_stays_where_it_leads() {
    let (place, _, kept) = populated();
    let elsewhere = place.directory.path().join("another disk");
    fs::create_dir(&elsewhere).unwrap();
    let real = elsewhere.join("key");
    fs::rename(&place.key_path, &real).unwrap();
    std::os::unix::fs::symlink(&real, &place.key_path).unwrap();
    place.open().unwrap().move_epoch(&mut rand::rng()).unwrap();
    assert!(fs::symlink_metadata(&place.key_path).unwrap().is_symlink());
    assert!(!fs::symlink_metadata(&real).unwrap().is_symlink());
    place.open().unwrap().key(kept).unwrap();
}
