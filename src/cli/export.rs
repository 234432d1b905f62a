//! `export`: all that is held about a person.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use super::client::Connect;
use super::directory::{Directory, replace};
use super::output::print;
use super::purpose::Purpose;
use crate::domain::Role;
use crate::proto::v1::ExportSubjectRequest;
use crate::proto::v1::export_subject_request::Person;
use crate::proto::v1::privacy_service_client::PrivacyServiceClient;

/// Export all that is held about a person: a ZIP with a report, and the same for machines
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// Whose data
    #[arg(long)]
    email: String,
    /// Where to save it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Why; it is recorded with the person
    #[arg(long, value_enum, default_value_t = Purpose::AccessRequest)]
    purpose: Purpose,
    #[command(flatten)]
    connect: Connect,
}

impl Export {
    /// Calls the server, and saves the document.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let channel = self.connect.staff(directory, Role::Privacy).await?;
        let person = Some(Person::Email(self.email));
        let request = ExportSubjectRequest { person, purpose: self.purpose.to_wire() };
        let bytes = save(&mut PrivacyServiceClient::new(channel), request, &self.out).await?;
        let shown = self.out.display().to_string();
        print(as_json, &json!({ "file": shown, "bytes": bytes }), || {
            format!("exported to {shown}")
        })?;
        Ok(())
    }
}

/// The export that a request asks for.
pub(super) fn whose_request(request_id: &[u8]) -> ExportSubjectRequest {
    let person = Some(Person::RequestId(request_id.to_vec()));
    ExportSubjectRequest { person, purpose: Purpose::AccessRequest.to_wire() }
}

/// Saves an export, whole or not at all, and gives its length.
pub(super) async fn save(
    client: &mut PrivacyServiceClient<Channel>,
    request: ExportSubjectRequest,
    out: &Path,
) -> anyhow::Result<usize> {
    let mut pieces = client.export_subject(request).await?.into_inner();
    let mut document = Vec::new();
    while let Some(piece) = pieces.next().await {
        document.extend(piece?.chunk);
    }
    replace(out, &document, 0o600)?;
    Ok(document.len())
}
