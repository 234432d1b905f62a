//! `OperatorService`, on the operator's socket.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::status::{Fields, backup as backup_status};
use crate::background;
use crate::backup::{Archive, BackupError, Finish, Source};
use crate::domain::Position;
use crate::proto::v1::operator_service_server::OperatorService;
use crate::proto::v1::{BackupRequest, BackupResponse};

/// How many messages about progress wait for a slow reader. Then the backup waits too.
const MESSAGES: usize = 64;

/// What the operator calls.
pub(super) struct OperatorHandler(pub Source);

#[tonic::async_trait]
impl OperatorService for OperatorHandler {
    type BackupStream = ReceiverStream<Result<BackupResponse, Status>>;

    async fn backup(
        &self,
        request: Request<BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let directory = PathBuf::from(request.into_inner().directory);
        if !directory.is_absolute() {
            let mut fields = Fields::default();
            let _: Option<()> = fields.take("directory", Err("must be an absolute path"));
            return Err(fields.refusal());
        }
        let source = self.0.clone();
        let (messages, stream) = mpsc::channel::<Result<BackupResponse, Status>>(MESSAGES);
        let work = move || {
            let tell = |message| match messages.blocking_send(message) {
                Ok(()) => ControlFlow::Continue(()),
                // The operator has gone, or the server ends.
                Err(_) => ControlFlow::Break(()),
            };
            let how_far = |records: Position, of: Position, done| {
                tell(Ok(BackupResponse { records: records.0, of: of.0, done }))
            };
            let backup = back_up(&directory, source, |records, of| how_far(records, of, false));
            let told = match backup {
                Ok(head) => how_far(head, head, true),
                Err(error) => tell(Err(backup_status(&error))),
            };
            if told.is_break() {
                tracing::warn!("nobody waited for the end of a backup");
            }
        };
        let thread = background::spawn("backup", work).map_err(BackupError::Thread);
        thread.map_err(|error| backup_status(&error))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn back_up(
    directory: &Path,
    source: Source,
    mut progress: impl FnMut(Position, Position) -> ControlFlow<()>,
) -> Result<Position, BackupError> {
    Archive::open(directory, source)?.advance(Finish::Segment, &mut progress)
}
