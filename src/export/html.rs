//! `report.html`: for the person it is about. One file that loads nothing, for a screen of any width,
//! light or dark, and for paper.

use std::fmt::{self, Display};

use super::document::{Activation, Document, License, Time};
use crate::domain::Category;

const CSS: &str = include_str!("report.css");

/// How many activations the timeline shows; the tables show all.
const ROWS: usize = 100;

/// Text that is shown as it is, whatever it holds.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        for part in text.split_inclusive(['&', '<', '>', '"', '\'']) {
            let special = part.chars().next_back();
            let (before, entity) = match special {
                Some('&') => (&part[..part.len() - 1], "&amp;"),
                Some('<') => (&part[..part.len() - 1], "&lt;"),
                Some('>') => (&part[..part.len() - 1], "&gt;"),
                Some('"') => (&part[..part.len() - 1], "&quot;"),
                Some('\'') => (&part[..part.len() - 1], "&#39;"),
                _ => (part, ""),
            };
            f.write_str(before)?;
            f.write_str(entity)?;
        }
        Ok(())
    }
}

fn esc<T: Display>(text: T) -> Escaped<T> {
    Escaped(text)
}

/// A moment as a person reads it.
fn moment(time: Time) -> String {
    let text = time.to_string();
    format!("<time datetime=\"{text}\">{} {} UTC</time>", &text[..10], &text[11..16])
}

fn day(time: Time) -> String {
    let text = time.to_string();
    format!("<time datetime=\"{text}\">{}</time>", &text[..10])
}

/// The whole report.
pub(super) fn report(document: &Document) -> String {
    let vendor = esc(&document.controller.name);
    let body = if document.data_held { held(document) } else { String::new() };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>Your data at {vendor}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n\
         <header>\n<h1>Your data at {vendor}</h1>\n{}</header>\n<main>\n{body}{}{}{}{}</main>\n\
         </body>\n</html>\n",
        confirmation(document),
        categories(document),
        recipients(document),
        rights(document),
        about(document),
    )
}

/// GDPR Art. 15(1): whether there is anything at all.
fn confirmation(document: &Document) -> String {
    let at = moment(document.generated_at);
    if document.data_held {
        format!(
            "<p id=\"confirmation\"><strong>Yes, we hold data about you.</strong> This is all of it, \
             as of {at}.</p>\n"
        )
    } else {
        format!(
            "<p id=\"confirmation\"><strong>No, we hold no data about you.</strong> We looked for the \
             e-mail address that you gave us, as of {at}, and found nothing.</p>\n"
        )
    }
}

fn held(document: &Document) -> String {
    let mut html = String::from("<section id=\"you\">\n<h2>You</h2>\n<div class=\"card\"><dl>\n");
    let subject = &document.subject;
    for (label, datum) in [("E-mail address", &subject.email), ("Name", &subject.name)] {
        if let Some(datum) = datum {
            html += &format!(
                "<dt>{label}</dt><dd>{} <span class=\"soft\">since {}; kept {}</span></dd>\n",
                esc(&datum.value),
                day(datum.since),
                until(document, datum.category, datum.kept_until, "as long as you have a license"),
            );
        }
    }
    for restriction in &document.restrictions {
        let until = restriction.until.map(|until| format!(" until {}", day(until)));
        html += &format!(
            "<dt>Restricted</dt><dd>{} since {}{}</dd>\n",
            esc(restriction.kind.replace('_', " ")),
            day(restriction.since),
            until.unwrap_or_default(),
        );
    }
    if document.retention_paused {
        html += "<dt>Kept longer</dt><dd>Nothing is erased while that holds: the days here are the \
                 earliest.</dd>\n";
    }
    html += "</dl></div>\n</section>\n";
    html += "<section id=\"licenses\">\n<h2>Your licenses and activations</h2>\n";
    if document.licenses.is_empty() {
        html += "<p>None.</p>\n";
    } else {
        html += &timeline(document);
    }
    for license in &document.licenses {
        html += &license_section(document, license);
    }
    html += "</section>\n";
    html += &requests(document);
    html += &accesses(document);
    html
}

/// Until when something is kept; where that depends on what is still in use, how long after that.
fn until(
    document: &Document,
    category: Category,
    kept_until: Option<Time>,
    in_use: &str,
) -> String {
    let info = document.categories.iter().find(|info| info.policy.name == category);
    let days = info.map_or(0, |info| info.policy.retention_days);
    kept_until.map_or_else(
        || format!("{in_use}, and {days} days after"),
        |time| format!("until {}", day(time)),
    )
}

/// When each seat was in use.
fn timeline(document: &Document) -> String {
    let mut bars: Vec<(&License, &Activation)> = document
        .licenses
        .iter()
        .flat_map(|license| license.activations.iter().map(move |activation| (license, activation)))
        .collect();
    bars.sort_by_key(|(_, activation)| activation.activated_at);
    let older = bars.len().saturating_sub(ROWS);
    let bars = &bars[older..];
    let Some((_, first)) = bars.first() else { return "<p>No activations.</p>\n".to_owned() };
    let millis = |time: Time| time.0.as_millis();
    let (start, end) = (millis(first.activated_at), millis(document.generated_at));
    #[allow(clippy::cast_precision_loss)] // a bar's place on paper
    let percent = |time: i64| ((time - start) as f64 / (end - start).max(1) as f64) * 100.0;
    let mut html = format!(
        "<div id=\"timeline\" role=\"img\" aria-label=\"Timeline of {} activations\">\n\
         <p class=\"key soft\"><i class=\"held\"></i> holds its seat now &ensp; <i></i> ended</p>\n\
         <div class=\"axis\"><span></span><span><span>{}</span><span>{}</span></span></div>\n",
        bars.len(),
        day(first.activated_at),
        day(document.generated_at),
    );
    for (license, activation) in bars {
        let (from, ended) = (millis(activation.activated_at), activation.deactivated_at);
        let left = percent(from);
        let width = percent(ended.map_or(end, millis)) - left;
        let title = match ended {
            Some(at) => format!("{} to {at}", activation.activated_at),
            None => format!("since {}", activation.activated_at),
        };
        html += &format!(
            "<div class=\"row\"><span>{}</span><span class=\"track\">\
             <i class=\"{}\" style=\"left:{left:.2}%;width:{width:.2}%\" title=\"{}\"></i></span></div>\n",
            esc(&license.product),
            if ended.is_none() { "held" } else { "" },
            esc(title),
        );
    }
    if older > 0 {
        html += &format!("<p class=\"soft\">and {older} older ones, which the tables show.</p>\n");
    }
    html += "</div>\n";
    html
}

fn license_section(document: &Document, license: &License) -> String {
    let ends = [("Expires", license.expires_at), ("Updates until", license.updates_until)];
    let ends: String = ends
        .into_iter()
        .filter_map(|(label, time)| Some(format!("<dt>{label}</dt><dd>{}</dd>\n", day(time?))))
        .collect();
    let changes: String = license
        .changes
        .iter()
        .map(|change| format!("<dt>Became {}</dt><dd>{}</dd>\n", change.status, moment(change.at)))
        .collect();
    let rows = license.activations.iter().map(|activation| {
        let ended = match (activation.deactivated_at, activation.deactivated_by) {
            (Some(at), Some("staff")) => format!("{} by our staff", moment(at)),
            (Some(at), _) => format!("{} by the app", moment(at)),
            (None, _) => "<span class=\"yes\">holds its seat</span>".to_owned(),
        };
        let in_use = "while a seat of those years is held, until the end of that year";
        let kept = until(document, activation.category, activation.kept_until, in_use);
        let lease = activation.lease_until.map(|until| format!("; good until {}", day(until)));
        let activated = moment(activation.activated_at) + &lease.unwrap_or_default();
        [activated, ended, kept, code(&activation.activation_id)]
    });
    format!(
        "<h3>{}</h3>\n<div class=\"card\"><dl>\n<dt>License key</dt><dd>{}</dd>\n\
         <dt>Seats</dt><dd>{}</dd>\n<dt>Status</dt><dd>{}</dd>\n<dt>Issued</dt><dd>{}</dd>\n\
         {ends}{changes}<dt>Kept</dt><dd>{}</dd>\n</dl></div>\n{}",
        esc(&license.product),
        code(&license.license_key),
        license.seats,
        license.status,
        moment(license.issued_at),
        until(document, license.category, license.kept_until, "as long as it can be used"),
        table(&["Activated", "Ended", "Kept", "Activation"], rows),
    )
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", esc(text))
}

/// A table of cells that are HTML already.
fn table<const N: usize>(
    heads: &[&str; N],
    rows: impl ExactSizeIterator<Item = [String; N]>,
) -> String {
    if rows.len() == 0 {
        return "<p>None.</p>\n".to_owned();
    }
    let rows: String = rows
        .map(|row| {
            // On a narrow screen each cell says what it is.
            let cells = heads.iter().zip(&row);
            let cells: String = cells
                .map(|(head, cell)| format!("<td data-label=\"{head}\"><span>{cell}</span></td>"))
                .collect();
            format!("<tr>{cells}</tr>\n")
        })
        .collect();
    let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{head}</th>")).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n\
         </table></div>\n"
    )
}

fn requests(document: &Document) -> String {
    let rows = document.requests.iter().map(|request| {
        let steps = request.steps.iter().map(|step| {
            let note = [&step.reason, &step.evidence];
            let note: Vec<String> =
                note.into_iter().flatten().map(|text| esc(text).to_string()).collect();
            let note =
                if note.is_empty() { String::new() } else { format!(": {}", note.join("; ")) };
            format!("{} {}{note}", step.what.replace('_', " "), day(step.at))
        });
        [
            request.kind.to_owned(),
            day(request.received_at),
            format!("{} (GDPR), {} (Swiss)", day(request.gdpr_due), day(request.swiss_due)),
            steps.collect::<Vec<_>>().join("<br>"),
        ]
    });
    format!(
        "<section id=\"requests\">\n<h2>Your requests so far</h2>\n{}</section>\n",
        table(&["For", "Received", "Due", "What became of it"], rows)
    )
}

fn accesses(document: &Document) -> String {
    let rows = document.accesses.iter().map(|access| {
        [
            moment(access.at),
            access.role.to_owned(),
            access.purpose.replace('_', " "),
            access.operation.to_owned(),
        ]
    });
    format!(
        "<section id=\"accesses\">\n<h2>When our staff looked at your data</h2>\n{}\
         <p class=\"soft\">The names of our staff are sealed, and take two people to read.</p>\n\
         </section>\n",
        table(&["When", "In which role", "Why", "What was called"], rows)
    )
}

fn categories(document: &Document) -> String {
    let rows = document.categories.iter().map(|info| {
        let category = &info.policy;
        [
            format!("<strong>{}</strong><br>{}", label(category.name), esc(&category.what)),
            esc(&category.purpose).to_string(),
            esc(&category.source).to_string(),
            esc(&category.legal_basis).to_string(),
            format!("{} days from {}", category.retention_days, esc(&category.retained_from)),
            if info.recipients.is_empty() {
                "nobody".to_owned()
            } else {
                esc(info.recipients.join(", ")).to_string()
            },
        ]
    });
    format!(
        "<section id=\"categories\">\n<h2>What we store, and why</h2>\n{}</section>\n",
        table(&["Data", "Purpose", "Source", "Legal basis", "Kept for", "Shared with"], rows)
    )
}

fn label(category: Category) -> &'static str {
    match category {
        Category::Email => "E-mail address",
        Category::Name => "Name",
        Category::License => "License",
        Category::ActivationTime => "Activation times",
        Category::AccessRecord => "Access records",
    }
}

fn recipients(document: &Document) -> String {
    let rows = document.recipients.iter().map(|recipient| {
        let got: Vec<String> = recipient.got_data_at.iter().map(|at| day(*at)).collect();
        let got =
            if got.is_empty() { "not yours, that we know of".to_owned() } else { got.join(", ") };
        let data: Vec<&str> = recipient.data.iter().map(|category| label(*category)).collect();
        [
            format!("<strong>{}</strong><br>{}", esc(&recipient.name), esc(&recipient.purpose)),
            data.join(", "),
            esc(&recipient.country).to_string(),
            esc(&recipient.safeguard).to_string(),
            esc(&recipient.opt_out).to_string(),
            got,
        ]
    });
    let told = document.notices.iter().map(|notice| {
        let what = match (&notice.email, &notice.new_email) {
            (Some(email), Some(new)) => format!("{} is {}", esc(email), esc(new)),
            (Some(email), None) => esc(email).to_string(),
            (None, _) => String::new(),
        };
        let state = notice.state.replace('_', " ");
        [esc(&notice.recipient).to_string(), state, moment(notice.at), what]
    });
    let told = if document.notices.is_empty() {
        String::new()
    } else {
        format!("<h3>Told of corrections</h3>\n{}", table(&["Who", "State", "When", "What"], told))
    };
    format!(
        "<section id=\"recipients\">\n<h2>Who gets data from us</h2>\n{}{told}</section>\n",
        table(&["Who", "What", "Country", "Safeguard", "How to prevent it", "Got your data"], rows)
    )
}

fn rights(document: &Document) -> String {
    let controller = &document.controller;
    let rights: String = document
        .rights
        .iter()
        .map(|right| format!("<dt>{}</dt><dd>{}</dd>\n", esc(&right.name), esc(&right.how)))
        .collect();
    format!(
        "<section id=\"rights\">\n<h2>Your rights</h2>\n<div class=\"card\"><dl>\n{rights}\
         <dt>Where to ask</dt><dd>{}, {}, {}</dd>\n<dt>Where to complain</dt><dd>{}</dd>\n\
         </dl></div>\n<p id=\"decisions\">{}</p>\n</section>\n",
        esc(&controller.name),
        esc(&controller.country),
        esc(&controller.contact),
        esc(&controller.supervisory_authority),
        esc(document.automated_decisions.explanation),
    )
}

fn about(document: &Document) -> String {
    let rows = document.completeness.iter().map(|category| {
        let equal = category.exported == category.in_log;
        [
            label(category.category).to_owned(),
            category.exported.to_string(),
            category.in_log.to_string(),
            if equal { "<span class=\"yes\">complete</span>" } else { "not complete" }.to_owned(),
        ]
    });
    format!(
        "<section id=\"completeness\">\n<h2>Is this all?</h2>\n\
         <p>Everything we store is a record in one log. These are the records about you that this \
         report was made of, and those that the log has.</p>\n{}\
         <p class=\"soft\">The same data for machines is in data.json, with its schema in \
         data.schema.json, and the activations in activations.csv. manifest.json has the SHA-256 sums \
         of all files, and manifest.jws its signature, which any JOSE library verifies with our public \
         keys. Form: {}. Policy: {}.</p>\n</section>\n",
        table(&["Data", "In this report", "In the log", ""], rows),
        document.schema,
        code(&document.policy_hash),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_never_markup() {
        assert_eq!(
            esc("a<b>\"c\" & 'd' é<").to_string(),
            "a&lt;b&gt;&quot;c&quot; &amp; &#39;d&#39; é&lt;"
        );
        assert_eq!(esc("").to_string(), "");
    }
}
