//! `history`: a person's licenses and activations.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use super::client::Connect;
use super::directory::Directory;
use super::output::{license_json, license_text, print, time};
use super::purpose::Purpose;
use crate::domain::Role;
use crate::proto::v1::history_service_client::HistoryServiceClient;
use crate::proto::v1::{Activation, GetHistoryRequest, GetHistoryResponse, get_history_request};

/// Show a person's licenses and activations
#[derive(Debug, clap::Args)]
pub(super) struct History {
    /// By their address
    #[arg(long, required_unless_present = "license_key")]
    email: Option<String>,
    /// By a license key of theirs
    #[arg(long, conflicts_with = "email")]
    license_key: Option<String>,
    /// Why; it is recorded with the person
    #[arg(long, value_enum, default_value_t = Purpose::CustomerSupport)]
    purpose: Purpose,
    #[command(flatten)]
    connect: Connect,
}

impl History {
    /// Calls the server, and prints the history.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let person = match (self.email, self.license_key) {
            (Some(email), _) => Some(get_history_request::Person::Email(email)),
            (None, key) => key.map(get_history_request::Person::LicenseKey),
        };
        let channel = self.connect.staff(directory, Role::Support).await?;
        let request = GetHistoryRequest { person, purpose: self.purpose.to_wire() };
        let history = HistoryServiceClient::new(channel).get_history(request).await?.into_inner();
        print(as_json, &to_json(&history), || to_text(&history))?;
        Ok(())
    }
}

fn to_json(history: &GetHistoryResponse) -> Value {
    let activation = |activation: &Activation| {
        json!({
            "activation_id": BASE64URL.encode(&activation.activation_id),
            "activated_at": time(activation.activated_at.as_ref()),
            "deactivated_at": time(activation.deactivated_at.as_ref()),
        })
    };
    let licenses = history.licenses.iter().map(|of| {
        json!({
            "license": of.license.as_ref().map(license_json),
            "activations": of.activations.iter().map(activation).collect::<Vec<_>>(),
            "activations_total": of.activations_total,
        })
    });
    json!({ "email": history.email, "licenses": licenses.collect::<Vec<_>>() })
}

fn to_text(history: &GetHistoryResponse) -> String {
    let mut lines = vec![history.email.clone()];
    for of in &history.licenses {
        lines.extend(of.license.as_ref().map(license_text));
        for activation in &of.activations {
            let end = time(activation.deactivated_at.as_ref());
            lines.push(format!(
                "  {}  activated {}{}",
                BASE64URL.encode(&activation.activation_id),
                time(activation.activated_at.as_ref()).unwrap_or_default(),
                end.map_or_else(String::new, |end| format!(", deactivated {end}")),
            ));
        }
        let shown = of.activations.len() as u64;
        if of.activations_total > shown {
            lines.push(format!("  and {} older ones", of.activations_total - shown));
        }
    }
    lines.join("\n")
}
