//! What criterion measured, beside a floor, as a table and as JSON.

use std::fs;
use std::path::{Path, PathBuf};

use criterion::Criterion;
use serde_json::{Value, json};

/// Something that is measured, and what it is compared with.
pub(crate) struct Row {
    pub(crate) name: String,
    /// How many things one run of it goes through, and what these are.
    pub(crate) count: u32,
    pub(crate) unit: &'static str,
}

/// What the two are called in a row's group.
pub(crate) const FLOOR: &str = "floor";
pub(crate) const COUNTERSIGN: &str = "countersign";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("criterion")
}

/// Reads the command line; `-- --quick` makes it brief.
pub(crate) fn criterion() -> Criterion {
    Criterion::default().sample_size(10).output_directory(&directory()).configure_from_args()
}

/// Prints the rows that were measured, and writes them.
pub(crate) fn report(bench: &str, floor: &str, rows: &[Row]) {
    println!("\n{bench:40} {COUNTERSIGN:>14}   {floor:>14}   ratio");
    let mut numbers = Vec::new();
    for Row { name, count, unit } in rows {
        let rates = [COUNTERSIGN, FLOOR].map(|of| {
            let nanos = mean_nanos(&directory().join(name.replace('/', "_")).join(of));
            nanos.map(|nanos| f64::from(*count) * 1e9 / nanos)
        });
        // One that was filtered out.
        let [Some(countersign), Some(floor)] = rates else { continue };
        let ratio = countersign / floor;
        println!("{name:40} {countersign:>12.0}/s   {floor:>12.0}/s   {ratio:.2}   {unit}");
        numbers.push(json!({
            "name": name, "unit": unit, "floor": floor, "countersign": countersign, "ratio": ratio,
        }));
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(bench).with_extension("json");
    fs::write(&path, format!("{:#}\n", json!({ "floor": floor, "rows": numbers }))).unwrap();
    println!("\nThe same as JSON: {}", path.display());
}

fn mean_nanos(directory: &Path) -> Option<f64> {
    let estimates = fs::read(directory.join("new/estimates.json")).ok()?;
    serde_json::from_slice::<Value>(&estimates).ok()?["mean"]["point_estimate"].as_f64()
}
