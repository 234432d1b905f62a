//! Promise: no personal data lies anywhere in clear, nor in a log line.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use countersign::proto::v1::export_subject_request::Person;
use countersign::proto::v1::{ExportSubjectRequest, Purpose};
use support::{Place, activation, files, reason};

const CANARY: &str = "canary.bird@example.com";
const WRONG: &str = "wrong.canary@example.com";

/// The forms in which a text could lie somewhere.
fn forms(text: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![text.as_bytes().to_vec(), text.to_uppercase().into_bytes()];
    let hex = text.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    forms.extend([hex.to_uppercase().into_bytes(), hex.into_bytes()]);
    let wide: Vec<u16> = text.encode_utf16().collect();
    forms.push(wide.iter().flat_map(|unit| unit.to_le_bytes()).collect());
    forms.push(wide.iter().flat_map(|unit| unit.to_be_bytes()).collect());
    // Within a longer text, base64 has one of three forms, without its first and last symbols.
    for skipped in 0..3 {
        let rest = &text.as_bytes()[skipped..];
        let whole = &rest[..rest.len() / 3 * 3];
        forms.push(STANDARD_NO_PAD.encode(whole).into_bytes());
        forms.push(URL_SAFE_NO_PAD.encode(whole).into_bytes());
    }
    forms
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(bytes, needle).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_address_is_found_in_no_file_and_no_log_line() {
    let place = Place::new();
    let path = place.directory().join("countersign.toml");
    let config = std::fs::read_to_string(&path).unwrap() + "\n[log]\nlevel = \"debug\"\n";
    std::fs::write(&path, config).unwrap();
    let server = place.start();
    let key = server.issue(CANARY, "App", 1).await;
    server.app().activate(activation(CANARY, &key, 1)).await.unwrap();
    // Errors, of which each could hold what was sent.
    server.app().activate(activation(CANARY, &key, 2)).await.unwrap_err();
    let status = server.app().activate(activation(WRONG, &key, 3)).await.unwrap_err();
    assert!(!holds(format!("{status:?}").as_bytes(), WRONG.as_bytes()));
    server.app().activate(activation(CANARY, "no key", 4)).await.unwrap_err();
    let status = server.history(WRONG).await.unwrap_err();
    assert_eq!(reason(&status), "SUBJECT_NOT_FOUND");
    server.history(CANARY).await.unwrap();
    let request = ExportSubjectRequest {
        person: Some(Person::Email(CANARY.to_owned())),
        purpose: Purpose::AccessRequest.into(),
    };
    let mut export = server.privacy().export_subject(request).await.unwrap().into_inner();
    let mut document = Vec::new();
    while let Some(piece) = export.message().await.unwrap() {
        document.extend(piece.chunk);
    }
    let path = place.beside("export");
    std::fs::write(&path, document).unwrap();
    for name in ["report.html", "data.json"] {
        let text = support::exported(&path, name);
        assert!(holds(&text, CANARY.as_bytes()), "the search finds what is there");
    }
    std::fs::remove_file(path).unwrap();

    let search = |moment: &str| {
        let mut searched = files(&place.directory());
        searched.push(place.log_path());
        assert!(searched.len() > 20);
        let symbols = key.replace('-', "");
        for path in searched {
            let bytes = support::written(&path);
            for text in [CANARY, WRONG, &key, &symbols, "canary.bird", "127.0.0.1:"] {
                // Where it listens is not personal.
                if text == "127.0.0.1:" && !path.ends_with("stderr") {
                    continue;
                }
                for form in forms(text) {
                    assert!(!holds(&bytes, &form), "{moment}: {text} in {}", path.display());
                }
            }
        }
    };
    search("while it serves");
    server.kill();
    search("after a kill");
    assert!(place.start().terminate().success());
    search("after an orderly end");
    let log = std::fs::read_to_string(place.log_path()).unwrap();
    assert!(log.lines().count() >= 2 && log.contains("serving"), "there were log lines to search");
}
