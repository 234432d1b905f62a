//! `backup`: by the server that runs, or by itself where none does.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::block_on;
use super::directory::Directory;
use super::output::print;
use super::progress::Bar;
use crate::backup::{Archive, Finish};
use crate::domain::Position;
use crate::proto::v1::BackupRequest;
use crate::proto::v1::operator_service_client::OperatorServiceClient;

/// Back up the log and the vault, while the server runs or not; again adds what is new.
#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// A new or empty directory, or an earlier backup
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
}

impl Backup {
    /// Backs up, with a progress bar on a terminal.
    pub(super) fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let path = std::path::absolute(&self.backup)
            .with_context(|| format!("{} is no path", self.backup.display()))?;
        let bar = Bar::new();
        let mut head = None;
        block_on(async {
            if let Ok(server) = connect(&directory.operator_socket()).await {
                head = Some(by_server(server, &path, &bar).await?);
            }
            Ok(())
        })?;
        let head = match head {
            Some(head) => head,
            None => by_itself(directory, &path, &bar)?,
        };
        drop(bar);
        print(as_json, &json!({ "records": head.0, "directory": path }), || {
            format!("backed up {head} records to {}", path.display())
        })?;
        Ok(())
    }
}

/// An error means that no server runs: its lock says so for certain.
async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is that of the socket; this one is only a form.
    Endpoint::from_static("http://operator").connect_with_connector(connector).await
}

async fn by_server(server: Channel, path: &Path, bar: &Bar) -> anyhow::Result<Position> {
    let directory = path.to_str().with_context(|| format!("{} is no text", path.display()))?;
    let request = BackupRequest { directory: directory.to_owned() };
    let mut progress = OperatorServiceClient::new(server).backup(request).await?.into_inner();
    while let Some(message) = progress.message().await? {
        if message.done {
            return Ok(Position(message.records));
        }
        bar.show(Position(message.records), Position(message.of));
    }
    Err(anyhow!("the server ended before the backup did; run it again"))
}

fn by_itself(directory: &Directory, path: &Path, bar: &Bar) -> anyhow::Result<Position> {
    let (config, lock) = (directory.config()?, directory.lock()?);
    let truth = directory.open_truth(lock, &config, |_, _, _| (), |(), _, _| ())?;
    let mut archive = Archive::open(path, truth.source)?;
    let head = archive.advance(Finish::Segment, &mut |done, end| {
        bar.show(done, end);
        ControlFlow::Continue(())
    })?;
    drop(truth.lock);
    Ok(head)
}
