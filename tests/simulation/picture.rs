//! All that views say, as lines of text that can be compared.

use std::fmt::Write as _;

use countersign::domain::{ActivationId, Day, ErasureId, NoticeId, Position, RequestId, SubjectId};
use countersign::views::{Entry, Views};

use crate::model::Model;

/// More than a seed's persons, licenses or events.
const ALL: usize = 10_000;

/// What the views say of everything that the model ever heard of.
pub(crate) fn picture(views: &Views, model: &Model) -> String {
    let mut text = String::new();
    let mut line = |what: &str, shown: String| writeln!(text, "{what}: {shown}").unwrap();
    line("checkpoint", format!("{:?}", views.checkpoint().unwrap()));
    line("epoch", format!("{}", views.epoch().unwrap()));
    line(
        "persons",
        bytes(views.subjects(SubjectId::NOBODY, ALL).unwrap().iter().map(SubjectId::as_bytes)),
    );
    line("open requests", bytes(views.open_requests().unwrap().iter().map(RequestId::as_bytes)));
    line("pending", bytes(views.pending_erasures().unwrap().iter().map(ErasureId::as_bytes)));
    line("notices", bytes(views.notices().unwrap().iter().map(NoticeId::as_bytes)));
    line("uncounted", format!("{:?}", views.uncounted_days().unwrap()));
    line("counted", format!("{:?}", views.counted_days(Day(i32::MIN)..=Day(i32::MAX)).unwrap()));
    for id in model.subjects.keys().chain([&SubjectId::NOBODY]) {
        line("person", format!("{:?}", views.subject(*id).unwrap()));
        line("entries", entries(&views.subject_entries(*id, Position::ZERO, ALL).unwrap()));
    }
    for id in &model.all_licenses {
        let view = views.license(*id).unwrap();
        let view = view.map(|view| {
            let subject = view.subject.as_bytes().to_owned();
            (subject, view.issued, view.status, view.used, view.activations)
        });
        line("license", format!("{view:?}"));
        line("entries", entries(&views.license_entries(*id, Position::ZERO, ALL).unwrap()));
        let newest = views.newest_activations(*id, 3).unwrap();
        line("newest", bytes(newest.iter().map(ActivationId::as_bytes)));
    }
    for id in &model.all_activations {
        let view = views.activation(*id).unwrap();
        let view =
            view.map(|view| (view.license.as_bytes().to_owned(), view.activated, view.ended));
        line("activation", format!("{view:?}"));
    }
    for id in &model.requests {
        let view = views.request(*id).unwrap();
        let view = view.map(|view| (view.subject.as_bytes().to_owned(), view.opened, view.steps));
        line("request", format!("{view:?}"));
    }
    for id in model.erasures.keys() {
        let view = views.erasure(*id).unwrap();
        let view = view.map(|view| {
            (view.subject.as_bytes().to_owned(), view.begun, view.erased, view.is_final)
        });
        line("erasure", format!("{view:?}"));
    }
    for id in model.notices.keys() {
        let view = views.notice(*id).unwrap();
        let view = view.map(|view| (view.subject.as_bytes().to_owned(), view.created));
        line("notice", format!("{view:?}"));
    }
    text
}

fn bytes<'a>(ids: impl Iterator<Item = &'a [u8; 16]>) -> String {
    format!("{:?}", ids.collect::<Vec<_>>())
}

fn entries(entries: &[Entry]) -> String {
    let plain = entries.iter().map(|entry| {
        let issued = entry.issued.map(|id| *id.as_bytes());
        (entry.position, issued, entry.activated.map(|id| *id.as_bytes()), entry.disclosed)
    });
    format!("{:?}", plain.collect::<Vec<_>>())
}
