//! Changes that are put off. Views that begin with nothing take in a whole log; made one after the other,
//! each of its changes would look for its row in what no memory holds. So they are put apart by the id of
//! their row, and when all of them are known, those with an id of like beginning are put in order and made.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::ViewsError;
use super::fold::Fold;
use super::row::{self, ActivationRow, LicenseRow, Owner, SubjectRow, unreadable};
use crate::domain::{LicenseId, Position, SubjectId};

/// As many as an id's first byte has values; ids are random.
const PARTS: usize = 256;
/// What of a part waits in memory to be written: 16 MiB of all of them.
const UNWRITTEN: usize = 64 * 1024;

/// Changes that are put off. They lie in files without a name, so that nothing of them is left over.
pub(super) struct Later {
    directory: PathBuf,
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
#[derive(Default)]
struct Part {
    file: Option<File>,
    unwritten: Vec<u8>,
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
pub(super) type Sorted = Vec<(Vec<u8>, Vec<u8>)>;

/// The rows that come of a part. All keys of one list are before all of the next.
#[derive(Default)]
pub(super) struct Folded {
    pub(super) activations: Sorted,
    pub(super) licenses: Sorted,
    pub(super) pages: Sorted,
    pub(super) subjects: Sorted,
}

impl Later {
    /// None yet. Their files are made in this directory.
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            parts: (0..PARTS).map(|_| Part::default()).collect(),
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
        if part.unwritten.len() >= UNWRITTEN {
            part.write(&self.directory.join("later"))?;
        }
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

    /// What is to be done when no more are put off: each of these once, in any order.
    pub(super) fn folds(
        &self,
    ) -> impl ExactSizeIterator<Item = impl Fn() -> Result<Folded, ViewsError> + Clone + Send> {
        self.parts.iter().map(|part| || part.fold())
    }
}

impl Part {
    fn write(&mut self, path: &Path) -> Result<(), ViewsError> {
        if self.file.is_none() {
            let file = File::options().read(true).append(true).create_new(true).open(path)?;
            fs::remove_file(path)?;
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.unwritten)?;
        }
        self.unwritten.clear();
        Ok(())
    }

    /// Puts the changes in order, and makes them.
    fn fold(&self) -> Result<Folded, ViewsError> {
        let mut bytes = Vec::new();
        if let Some(file) = &self.file {
            let length = usize::try_from(file.metadata()?.len()).map_err(|_| unreadable())?;
            bytes.resize(length, 0);
            file.read_exact_at(&mut bytes, 0)?;
            // What it took of the disk is for the rows now.
            file.set_len(0)?;
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
        let mut folded = Folded::default();
        for of_row in changes.chunk_by(|one, next| one.row() == next.row()) {
            let Folded { activations, licenses, pages, subjects } = &mut folded;
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
        // Those of persons are between those of licenses.
        folded.pages.sort_unstable();
        Ok(folded)
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
