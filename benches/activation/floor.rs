//! The floor: what the transport and one signature cost. Messages have the sizes of real ones.

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
use tonic::{Request, Response, Status};

use crate::support::servers::Server;

/// Set to the directory with the certificates, it makes this process the floor.
pub(crate) const REQUEST: &str = "COUNTERSIGN_BENCH_FLOOR";

/// Header and claims of a receipt, encoded, are about this long.
const SIGNED_BYTES: usize = 600;

/// Starts the floor as a process.
pub(crate) fn start(tls: &Path) -> Server {
    let mut command = Command::new(std::env::current_exe().unwrap());
    Server::start(command.env(REQUEST, tls))
}

pub(crate) fn requested() -> Option<PathBuf> {
    std::env::var_os(REQUEST).map(PathBuf::from)
}

pub(crate) fn serve(directory: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config =
            tls::public_config(&directory.join("server.pem"), &directory.join("server.key"))
                .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let limits = Limits::default();
        let service = Stateless(SigningKey::from_bytes(&[1; 32]));
        transport(limits)
            .add_service(ActivationServiceServer::new(service))
            .serve_with_incoming(connections(
                listener,
                tokio::sync::watch::Sender::new(config).subscribe(),
                limits,
            ))
            .await
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
