//! Compiles `proto/` with protox, so that no `protoc` is needed, and gives every message a `Debug`
//! that shows its name alone: a request holds an e-mail address, and must not print it by accident.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, error::Error, fs};

use prost::Message as _;

const SERVICES: [&str; 5] = ["access", "activation", "history", "license", "privacy"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<String> =
        SERVICES.iter().map(|name| format!("proto/countersign/v1/{name}.proto")).collect();
    files.push("proto/countersign/events/v1/events.proto".to_owned());
    let descriptors = protox::compile(files, ["proto"])?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut wire = descriptors.clone();
    wire.file.retain(|file| file.package() != "countersign.events.v1");
    fs::write(out.join("descriptors.bin"), wire.encode_to_vec())?;
    for package in ["countersign.v1", "countersign.events.v1"] {
        let mut code = String::new();
        for file in descriptors.file.iter().filter(|file| file.package() == package) {
            for message in &file.message_type {
                redacted_debug(&mut code, message.name())?;
            }
        }
        fs::write(out.join(format!("{package}.debug.rs")), code)?;
    }

    let mut config = tonic_prost_build::Config::new();
    config.skip_debug([".countersign"]);
    tonic_prost_build::configure()
        .codec_path("crate::proto::codec::Codec")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// Writes a `Debug` for a message that cannot show what the message holds.
fn redacted_debug(code: &mut String, message: &str) -> std::fmt::Result {
    writeln!(
        code,
        "impl ::core::fmt::Debug for {message} {{\n    \
             fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        \
                 f.write_str(\"{message} [redacted]\")\n    \
             }}\n\
         }}"
    )
}
