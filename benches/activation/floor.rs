//! What a server costs that stores nothing: TLS, HTTP/2 and one signature a reply. Messages have the sizes of
//! real ones.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use countersign::grpc::{Limits, connections, tls, transport};
use countersign::proto::v1::activation_service_server::{
    ActivationService, ActivationServiceServer,
};
use countersign::proto::v1::{
    ActivateRequest, ActivateResponse, CheckRequest, CheckResponse, DeactivateRequest,
    DeactivateResponse, GetSigningKeysRequest, GetSigningKeysResponse, RenewRequest, RenewResponse,
};
use ed25519_dalek::{Signer as _, SigningKey};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::support::servers::Server;

/// Which floor.
#[derive(Clone, Copy)]
pub(crate) enum Floor {
    /// tonic as it comes. What all is compared with.
    Tonic,
    /// The server's own transport, with its bounds.
    Transport,
}

impl Floor {
    /// Set to the directory with the certificates, it makes this process that floor.
    fn request(self) -> &'static str {
        match self {
            Self::Tonic => "COUNTERSIGN_BENCH_TONIC",
            Self::Transport => "COUNTERSIGN_BENCH_TRANSPORT",
        }
    }
}

/// Header and claims of a receipt, encoded, are about this long.
const SIGNED_BYTES: usize = 600;

/// Starts one as a process.
pub(crate) fn start(floor: Floor, tls: &Path) -> Server {
    let mut command = Command::new(std::env::current_exe().unwrap());
    Server::start(command.env(floor.request(), tls))
}

pub(crate) fn requested() -> Option<(Floor, PathBuf)> {
    [Floor::Tonic, Floor::Transport]
        .into_iter()
        .find_map(|floor| Some((floor, std::env::var_os(floor.request())?.into())))
}

pub(crate) fn serve(floor: Floor, directory: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let (certificate, key) = (directory.join("server.pem"), directory.join("server.key"));
        let service = ActivationServiceServer::new(Stateless(SigningKey::from_bytes(&[1; 32])));
        match floor {
            Floor::Tonic => {
                let [certificate, key] =
                    [certificate, key].map(|path| std::fs::read(path).unwrap());
                let identity = Identity::from_pem(certificate, key);
                tonic::transport::Server::builder()
                    .tls_config(ServerTlsConfig::new().identity(identity))
                    .unwrap()
                    .add_service(service)
                    .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
                    .await
            }
            Floor::Transport => {
                let limits = Limits::default();
                let config = tls::public_config(&certificate, &key).unwrap();
                let config = tokio::sync::watch::Sender::new(config).subscribe();
                transport(limits)
                    .add_service(service)
                    .serve_with_incoming(connections(listener, config, limits))
                    .await
            }
        }
        .unwrap();
    });
}

struct Stateless(SigningKey);

#[tonic::async_trait]
impl ActivationService for Stateless {
    async fn activate(
        &self,
        request: Request<ActivateRequest>,
    ) -> Result<Response<ActivateResponse>, Status> {
        let request = request.into_inner();
        let mut receipt = BASE64URL.encode(request.nonce);
        receipt.extend(std::iter::repeat_n('x', SIGNED_BYTES - receipt.len()));
        let signature = self.0.sign(receipt.as_bytes()).to_bytes();
        receipt.push('.');
        receipt.push_str(&BASE64URL.encode(signature));
        Ok(Response::new(ActivateResponse { receipt }))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::unimplemented("the floor only activates"))
    }

    async fn deactivate(
        &self,
        _: Request<DeactivateRequest>,
    ) -> Result<Response<DeactivateResponse>, Status> {
        Err(Status::unimplemented("the floor only activates"))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Err(Status::unimplemented("the floor only activates"))
    }

    async fn get_signing_keys(
        &self,
        _: Request<GetSigningKeysRequest>,
    ) -> Result<Response<GetSigningKeysResponse>, Status> {
        Err(Status::unimplemented("the floor only activates"))
    }
}
