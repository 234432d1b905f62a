//! The ZIP, written from the first byte to the last, so that it can be sent while it is made.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zip::ZipWriter;
use zip::result::ZipError;
use zip::write::{SimpleFileOptions, StreamWriter};

use super::document::{Document, Facts, document};
use super::{SCHEMA, csv, html};

/// How hard files are compressed: the default takes twice as long, and saves nothing more.
const LEVEL: i64 = 3;
/// The type of the manifest's signature.
const MANIFEST_TYPE: &str = "export-manifest+jwt";

/// Signs a statement of a type: a JWS in compact form.
pub type Sign<'a> = &'a dyn Fn(&str, &Value) -> Option<String>;

/// A bundle cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Whoever reads it has gone, or it is too long for a ZIP.
    #[error("the export cannot be written: {0}")]
    Write(#[from] ZipError),
    /// The same, between two files.
    #[error("the export cannot be written: {0}")]
    Io(#[from] io::Error),
    /// A defect in this software.
    #[error("the export cannot be put together: {0}")]
    Form(#[from] serde_json::Error),
    /// There is no key to sign it with.
    #[error("the export cannot be signed")]
    Sign,
}

/// Writes the bundle. `issuer` is whose signature the manifest has.
pub fn write(
    facts: &Facts<'_>,
    issuer: &str,
    sign: Sign<'_>,
    out: impl Write,
) -> Result<(), BundleError> {
    let document = document(facts)?;
    let mut bundle = Bundle { zip: ZipWriter::new_stream(out), files: Vec::new() };
    bundle.file("report.html", html::report(&document).as_bytes())?;
    bundle.file("data.json", &serde_json::to_vec_pretty(&document)?)?;
    bundle.file("data.schema.json", SCHEMA.as_bytes())?;
    bundle.file("activations.csv", csv::activations(&document).as_bytes())?;
    bundle.finish(&document, issuer, sign)
}

struct Bundle<W: Write> {
    zip: ZipWriter<StreamWriter<W>>,
    files: Vec<FileInfo>,
}

#[derive(Serialize)]
struct FileInfo {
    name: &'static str,
    bytes: usize,
    sha256: String,
}

impl<W: Write> Bundle<W> {
    fn file(&mut self, name: &'static str, bytes: &[u8]) -> Result<(), BundleError> {
        self.put(name, bytes)?;
        let sha256 = Sha256::digest(bytes)
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        self.files.push(FileInfo { name, bytes: bytes.len(), sha256 });
        Ok(())
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
        self.zip.start_file(name, SimpleFileOptions::default().compression_level(Some(LEVEL)))?;
        Ok(self.zip.write_all(bytes)?)
    }

    fn finish(
        mut self,
        document: &Document,
        issuer: &str,
        sign: Sign<'_>,
    ) -> Result<(), BundleError> {
        let manifest = json!({
            "schema": "countersign/export-manifest/v1",
            "iss": issuer,
            "iat": document.generated_at.0.as_seconds(),
            "data_schema": document.schema,
            "policy_hash": document.policy_hash,
            "files": self.files,
        });
        let signed = sign(MANIFEST_TYPE, &manifest).ok_or(BundleError::Sign)?;
        self.put("manifest.json", &serde_json::to_vec_pretty(&manifest)?)?;
        self.put("manifest.jws", signed.as_bytes())?;
        self.zip.finish()?.into_inner().flush()?;
        Ok(())
    }
}
