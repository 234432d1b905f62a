//! `log verify`: replays the whole log against every checkpoint of it that is at hand.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::super::directory::Directory;
use super::super::output::print;
use super::super::progress::Bar;
use super::super::verify::told;
use crate::domain::Position;
use crate::log::head::{self, Checkpoint};
use crate::log::note::VerifierKey;
use crate::log::{Log as _, PAGE};
use crate::service::store::Reader;
use crate::service::transparency::last_published;
use crate::tlog::proof::InclusionProof;
use crate::tlog::replay::{Known, replay};
use crate::tlog::tiles::TileDirectory;

/// The name of a mirror's checkpoint (C2SP `tlog-tiles`).
const MIRRORED: &str = "checkpoint";

/// Read the whole log, and name the first position that is not as it was; the server must not run
///
/// It is compared with the head file, the newest checkpoint that was published, and those given: of any
/// age, from a mirror, a witness, or in a customer's proof. Exits with 3 where one does not match.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Verify {
    /// A checkpoint, cosigned or not, or a proof that holds one; may be given more than once
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// The log's public key, or a file with it [default: that of --dir]
    #[arg(long, value_name = "KEY")]
    log_key: Option<String>,
    /// The hashes that the records had, in tiles, of a mirror for example, and the checkpoint beside
    /// them, if there is one [default: tiles in --dir]
    #[arg(long, value_name = "DIRECTORY")]
    tiles: Option<PathBuf>,
}

/// A public key, as it is given: itself, or a file that holds it.
pub(in crate::cli) fn verifier_key(given: &str) -> anyhow::Result<VerifierKey> {
    let text = match fs::read_to_string(given) {
        Ok(text) => text,
        Err(_) => given.to_owned(),
    };
    VerifierKey::parse(&text).with_context(|| format!("{given:?}"))
}

impl Verify {
    /// Verifies, with a progress bar on a terminal.
    pub(super) fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let key = match &self.log_key {
            Some(given) => verifier_key(given)?,
            None => directory.log_key()?.public().clone(),
        };
        let mirrored = self.tiles.iter().map(|mirror| mirror.join(MIRRORED));
        let mirrored = mirrored.filter(|path| path.exists());
        let given: Vec<Known> = self
            .checkpoints
            .iter()
            .cloned()
            .chain(mirrored)
            .map(|path| checkpoint(&path, &key))
            .collect::<anyhow::Result<_>>()?;
        match self.verify(directory, given) {
            Ok((records, checkpoints)) => {
                let value =
                    json!({ "good": true, "records": records.0, "checkpoints": checkpoints });
                print(as_json, &value, || {
                    format!("good: {records} records, and all of {checkpoints} checkpoints match")
                })?;
                Ok(())
            }
            Err(error) => told(error, as_json),
        }
    }

    fn verify(
        &self,
        directory: &Directory,
        mut known: Vec<Known>,
    ) -> anyhow::Result<(Position, usize)> {
        let config = directory.config()?;
        let _lock = directory.lock()?;
        let log_key = directory.log_key()?;
        let of = |checkpoint, source: &str| Known { checkpoint, source: source.to_owned() };
        known.push(of(head::read(&directory.head_path(), &log_key)?, "the head file"));
        let published = last_published(&directory.tiles_path(), &log_key);
        known.extend(published.map(|published| of(published, "the newest published checkpoint")));

        let checkpoints = known.len();
        let (log, vault) = directory.log_and_vault(&config)?;
        let end = log.head()?;
        let bar = Bar::new();
        let mut reader = Reader::new(&vault);
        let tiles = self.tiles.clone().unwrap_or_else(|| directory.tiles_path());
        let tiles = TileDirectory::new(&tiles);
        // Where they end too early they say nothing, and where they are wrong they match no checkpoint.
        let hashes = tiles.mirrored_leaves().map_while(Result::ok);
        let tree = replay(&log, known, hashes, |position, bytes| {
            if position.0.is_multiple_of(PAGE as u64) {
                bar.show(position, end);
            }
            Ok::<_, anyhow::Error>(reader.read(position, bytes)?.map(|event| event.at()))
        })?;
        Ok((tree.size(), checkpoints))
    }
}

/// The signed note in a file: a checkpoint, or that of a proof.
pub(in crate::cli) fn signed_note(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path);
    let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(InclusionProof::parse(&text).map_or(text, |proof| proof.checkpoint))
}

fn checkpoint(path: &Path, key: &VerifierKey) -> anyhow::Result<Known> {
    let shown = path.display();
    let checkpoint = Checkpoint::verify(&signed_note(path)?, key).with_context(|| {
        format!("{shown} is no checkpoint that this log's key signed; name its key with --log-key")
    })?;
    Ok(Known { checkpoint, source: format!("the checkpoint in {shown}") })
}
