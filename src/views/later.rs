//! Changes that are put off. Views that begin with nothing take in a whole log; made one after the other,
//! each of its changes would look for its row in what no memory holds. So they are put apart by the id of
//! their row, and when all of them are known, those with an id of like beginning are put in order and made.

use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::ViewsError;
use super::fold::Fold;
use super::row::{self, ActivationRow, LicenseRow, Owner, SubjectRow, unreadable};
use super::store::Key;
use crate::domain::{LicenseId, Position, SubjectId};

/// As many as an id's first byte has values. Ids are random, but for that of nobody.
const PARTS: usize = 256;
/// What of a part waits in memory to be written: 16 MiB of all of them.
const UNWRITTEN: usize = 64 * 1024;

/// Changes that are put off. Most lie in a file without a name, so that nothing of them is left over.
pub(super) struct Later {
    directory: PathBuf,
    file: Option<File>,
    /// Where the file ends.
    end: u64,
    parts: Vec<Part>,
    /// Whose a license is, and of which of `products`: what an activation is counted by.
    licenses: HashMap<LicenseId, (SubjectId, usize)>,
    products: Vec<String>,
    /// Room for a change while it is written.
    change: Vec<u8>,
}

/// None is longer: ids, numbers and the name of a product.
const LONGEST_CHANGE: usize = 4096;

/// Changes with an id of like beginning, one after the other.
struct Part {
    written: Vec<Block>,
    unwritten: Vec<u8>,
}

/// Where changes are in the file.
struct Block {
    start: u64,
    length: usize,
    /// Their CRC-32C: rows that are made of them have one in their table, which would be right.
    checksum: u32,
}

/// A change, which is these one after the other, numbers big-endian: the kind of its row, the row's id, the
/// position, and what is changed, behind its length.
struct Change<'c> {
    kind: u8,
    id: [u8; 16],
    position: Position,
    bytes: &'c [u8],
}

/// Keys and rows, in the order of keys.
pub(super) type Sorted = Vec<(Key, Vec<u8>)>;

/// The rows that come of some parts.
pub(super) struct Folded {
    /// What their ids begin with.
    pub(super) firsts: RangeInclusive<u8>,
    activations: Sorted,
    licenses: Sorted,
    pages: Sorted,
    subjects: Sorted,
}

impl Folded {
    fn new(firsts: RangeInclusive<u8>) -> Self {
        let (activations, licenses, pages, subjects) = Default::default();
        Self { firsts, activations, licenses, pages, subjects }
    }

    /// How many lists it is.
    pub(super) const LISTS: usize = 4;

    /// They are in the order of [`ROWS_OF_MANY`](row::ROWS_OF_MANY).
    pub(super) fn lists(self) -> [Sorted; Self::LISTS] {
        [self.activations, self.licenses, self.pages, self.subjects]
    }
}

impl Later {
    /// None yet. The file is made in this directory.
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            file: None,
            end: 0,
            parts: (0..PARTS)
                .map(|_| Part { written: Vec::new(), unwritten: Vec::new() })
                .collect(),
            licenses: HashMap::new(),
            products: Vec::new(),
            change: vec![0; LONGEST_CHANGE],
        }
    }

    /// Puts a change off. Those of one row come in order.
    pub(super) fn put_off<R: Fold>(
        &mut self,
        id: [u8; 16],
        position: Position,
        change: &R::Change,
    ) -> Result<(), ViewsError> {
        let change = postcard::to_slice(change, &mut self.change).map_err(|_| unreadable())?;
        let length = u16::try_from(change.len()).map_err(|_| unreadable())?;
        let part = &mut self.parts[usize::from(id[0])];
        part.unwritten.push(R::KIND);
        part.unwritten.extend_from_slice(&id);
        part.unwritten.extend_from_slice(&position.0.to_be_bytes());
        part.unwritten.extend_from_slice(&length.to_be_bytes());
        part.unwritten.extend_from_slice(change);
        if part.unwritten.len() >= UNWRITTEN { self.write(id[0].into()) } else { Ok(()) }
    }

    /// Writes what waits of a part.
    fn write(&mut self, part: usize) -> Result<(), ViewsError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let path = self.directory.join("later");
                let file = File::options().read(true).write(true).create_new(true).open(&path)?;
                fs::remove_file(&path)?;
                none.insert(file)
            }
        };
        let Part { written, unwritten } = &mut self.parts[part];
        file.write_all_at(unwritten, self.end)?;
        let (start, length) = (self.end, unwritten.len());
        written.push(Block { start, length, checksum: crc32c::crc32c(unwritten) });
        self.end += length as u64;
        unwritten.clear();
        Ok(())
    }

    /// Notes whose a license is, and of what product.
    pub(super) fn issued(&mut self, license: LicenseId, subject: SubjectId, product: &str) {
        let known = self.products.iter().position(|known| known == product);
        let product = known.unwrap_or_else(|| {
            self.products.push(product.to_owned());
            self.products.len() - 1
        });
        self.licenses.insert(license, (subject, product));
    }

    /// The product of a license and whose it is, as it was issued last.
    pub(super) fn license(&self, license: LicenseId) -> Option<(String, SubjectId)> {
        let (subject, product) = self.licenses.get(&license)?;
        Some((self.products[*product].clone(), *subject))
    }

    /// What is to be done when no more are put off: each of these once. Small parts are done together.
    pub(super) fn folds(
        &self,
    ) -> impl ExactSizeIterator<Item = impl Fn() -> Result<Folded, ViewsError> + Clone + Send> {
        let mut shares = Vec::new();
        let (mut begin, mut bytes) = (0, 0);
        for (first, part) in (0..=u8::MAX).zip(&self.parts) {
            bytes += part.length();
            if bytes >= UNWRITTEN || first == u8::MAX {
                shares.push(begin..=first);
                (begin, bytes) = (first.saturating_add(1), 0);
            }
        }
        let file = self.file.as_ref();
        shares.into_iter().map(move |firsts| {
            move || {
                let parts = &self.parts[(*firsts.start()).into()..=(*firsts.end()).into()];
                let mut folded = Folded::new(firsts.clone());
                parts.iter().try_for_each(|part| part.fold(file, &mut folded))?;
                // Those of persons are between those of licenses.
                folded.pages.sort_unstable();
                Ok(folded)
            }
        })
    }
}

impl Part {
    fn length(&self) -> usize {
        self.written.iter().map(|block| block.length).sum::<usize>() + self.unwritten.len()
    }

    /// Puts the changes in order, and makes them.
    fn fold(&self, file: Option<&File>, folded: &mut Folded) -> Result<(), ViewsError> {
        let mut bytes = Vec::new();
        if let Some(file) = file {
            for Block { start, length, checksum } in &self.written {
                let begin = bytes.len();
                bytes.resize(begin + length, 0);
                file.read_exact_at(&mut bytes[begin..], *start)?;
                if crc32c::crc32c(&bytes[begin..]) != *checksum {
                    return Err(ViewsError::Damaged(
                        "what they are made of has changed".to_owned(),
                    ));
                }
            }
        }
        bytes.extend_from_slice(&self.unwritten);
        let mut changes = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (change, after) = Change::read(rest).ok_or_else(unreadable)?;
            changes.push(change);
            rest = after;
        }
        changes.sort_unstable_by_key(|change| (change.row(), change.position));
        for of_row in changes.chunk_by(|one, next| one.row() == next.row()) {
            let Folded { activations, licenses, pages, subjects, .. } = folded;
            match of_row[0].kind {
                ActivationRow::KIND => fold_row::<ActivationRow>(of_row, activations, pages)?,
                Owner::<LicenseRow>::KIND => {
                    fold_row::<Owner<LicenseRow>>(of_row, licenses, pages)?;
                }
                Owner::<SubjectRow>::KIND => {
                    fold_row::<Owner<SubjectRow>>(of_row, subjects, pages)?;
                }
                _ => return Err(unreadable()),
            }
        }
        Ok(())
    }
}

impl<'c> Change<'c> {
    fn read(bytes: &'c [u8]) -> Option<(Self, &'c [u8])> {
        let (kind, bytes) = bytes.split_first()?;
        let (id, bytes) = bytes.split_first_chunk()?;
        let (position, bytes) = bytes.split_first_chunk()?;
        let (length, bytes) = bytes.split_first_chunk()?;
        let (change, rest) = bytes.split_at_checked(u16::from_be_bytes(*length).into())?;
        let position = Position(u64::from_be_bytes(*position));
        Some((Self { kind: *kind, id: *id, position, bytes: change }, rest))
    }

    /// What tells its row from others, in their order: as numbers they are compared in half the time.
    fn row(&self) -> (u8, u128) {
        (self.kind, u128::from_be_bytes(self.id))
    }
}

/// Makes all changes of one row.
fn fold_row<R: Fold>(
    changes: &[Change<'_>],
    rows: &mut Sorted,
    pages: &mut Sorted,
) -> Result<(), ViewsError> {
    let mut row = None;
    for Change { id, position, bytes, .. } in changes {
        let change = postcard::from_bytes(bytes).map_err(|_| unreadable())?;
        let (changed, page) = R::fold(row, *position, change)?;
        row = Some(changed);
        if let Some(page) = page {
            pages.push((row::page_of(id, &page)?, page));
        }
    }
    if let (Some(row), Some(change)) = (row, changes.first()) {
        rows.push((R::key(change.id), row.to_bytes()?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fold::SubjectChange;
    use super::*;

    /// More changes than wait in memory, all of one part.
    fn much(directory: &Path) -> Result<Later, ViewsError> {
        let mut later = Later::new(directory);
        for position in (0..4000).map(Position) {
            later.put_off::<Owner<SubjectRow>>([7; 16], position, &SubjectChange::Email)?;
        }
        Ok(later)
    }

    fn fold(later: &Later) -> Result<Vec<Folded>, ViewsError> {
        later.folds().map(|fold| fold()).collect()
    }

    #[test]
    fn what_the_disk_does_not_take_or_changes_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        assert!(matches!(much(&place.path().join("nowhere")), Err(ViewsError::Io(_))));

        let later = much(place.path()).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "the file has no name");
        let folded = fold(&later).unwrap();
        assert_eq!(folded.iter().map(|of| of.subjects.len()).sum::<usize>(), 1);

        let file = later.file.as_ref().unwrap();
        let mut byte = [0];
        // A position: without a checksum it would be another, and nothing would tell.
        file.read_exact_at(&mut byte, 24).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 24).unwrap();
        assert!(matches!(fold(&later), Err(ViewsError::Damaged(_))));
        file.set_len(1000).unwrap();
        assert!(matches!(fold(&later), Err(ViewsError::Io(_))));
    }
}
