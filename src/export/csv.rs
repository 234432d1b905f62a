//! `activations.csv`: a line for each activation (RFC 4180).

use super::document::Document;

pub(super) fn activations(document: &Document) -> String {
    let mut csv = line(&[
        "product",
        "license_key",
        "activation_id",
        "activated_at",
        "lease_until",
        "deactivated_at",
        "deactivated_by",
        "kept_until",
    ]);
    for license in &document.licenses {
        for activation in &license.activations {
            let time = |time: Option<super::document::Time>| {
                time.map(|time| time.to_string()).unwrap_or_default()
            };
            csv += &line(&[
                &license.product,
                &license.license_key,
                &activation.activation_id,
                &activation.activated_at.to_string(),
                &time(activation.lease_until),
                &time(activation.deactivated_at),
                activation.deactivated_by.unwrap_or_default(),
                &time(activation.kept_until),
            ]);
        }
    }
    csv
}

fn line(fields: &[&str]) -> String {
    let quoted: Vec<String> =
        fields.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
    quoted.join(",") + "\r\n"
}
