//! Promise: imports run one way, so that a room can be read without those above it.

use std::fs;
use std::path::Path;

/// Each room, and what of ours it may import.
const ROOMS: [(&str, &[&str]); 22] = [
    ("domain", &[]),
    ("proto", &[]),
    ("policy", &["domain"]),
    ("telemetry", &[]),
    ("background", &["telemetry"]),
    ("parallel", &[]),
    ("metrics", &[]),
    ("hardening", &[]),
    ("ops", &[]),
    ("seal", &["domain"]),
    ("receipt", &["domain"]),
    ("export", &["domain", "policy"]),
    ("log", &["domain", "metrics", "parallel", "proto", "seal"]),
    ("tlog", &["domain", "log"]),
    ("vault", &["domain", "log", "parallel", "seal"]),
    ("backup", &["background", "domain", "log", "telemetry", "vault"]),
    ("views", &["domain", "log", "parallel"]),
    (
        "service",
        &[
            "background",
            "domain",
            "export",
            "log",
            "metrics",
            "parallel",
            "policy",
            "receipt",
            "seal",
            "telemetry",
            "tlog",
            "vault",
            "views",
        ],
    ),
    (
        "grpc",
        &["background", "backup", "domain", "metrics", "proto", "service", "telemetry", "tlog"],
    ),
    ("webhook", &["domain", "service"]),
    ("config", &["domain", "grpc", "ops", "service", "telemetry"]),
    (
        "cli",
        &[
            "backup",
            "config",
            "domain",
            "grpc",
            "hardening",
            "log",
            "metrics",
            "ops",
            "policy",
            "proto",
            "receipt",
            "seal",
            "service",
            "telemetry",
            "tlog",
            "vault",
            "views",
            "webhook",
        ],
    ),
];

fn sources(path: &Path) -> Vec<String> {
    if path.is_file() {
        return vec![fs::read_to_string(path).unwrap()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let rust = |path: &std::path::PathBuf| path.is_dir() || path.extension().unwrap() == "rs";
    entries.filter(rust).flat_map(|path| sources(&path)).collect()
}

/// What follows each `crate::`.
fn imports(source: &str) -> impl Iterator<Item = &str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    source.split("crate::").skip(1).map(move |rest| rest.split(|c| !is_name(c)).next().unwrap())
}

#[test]
fn no_room_imports_from_above() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut rooms: Vec<String> = fs::read_dir(&src)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect();
    rooms.sort();
    rooms.dedup();
    let mut known: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    known.sort_unstable();
    assert_eq!(rooms, known, "each room says here what it may import");

    let mut seen = 0;
    for (room, may_import) in ROOMS {
        let directory = src.join(room);
        let path = if directory.exists() { directory } else { directory.with_extension("rs") };
        for source in sources(&path) {
            for import in imports(&source).filter(|import| known.contains(import)) {
                seen += 1;
                assert!(import == room || may_import.contains(&import), "{room} imports {import}");
            }
        }
    }
    assert!(seen > 50, "the test reads imports");
}
