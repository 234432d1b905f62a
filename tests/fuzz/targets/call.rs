//! Calls: the body of a call through the server's own decoder, and each message that a client may send.
//! Bytes that are no message are the caller's mistake and said to be, and no message prints itself.

#![no_main]

use std::cell::RefCell;
use std::fmt::Debug;

use countersign::proto::v1::activation_service_server::{
    ActivationService, ActivationServiceServer,
};
use countersign::proto::v1::{self, *};
use countersign_fuzz::Input;
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use prost::bytes::Bytes;
use tonic::codegen::async_trait;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;

/// Takes whatever is a message.
struct Taker;

#[async_trait]
impl ActivationService for Taker {
    async fn activate(
        &self,
        _: Request<ActivateRequest>,
    ) -> Result<Response<ActivateResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn deactivate(
        &self,
        _: Request<DeactivateRequest>,
    ) -> Result<Response<DeactivateResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn get_signing_keys(
        &self,
        _: Request<GetSigningKeysRequest>,
    ) -> Result<Response<GetSigningKeysResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

/// As in the defaults of the configuration.
const MESSAGE_BYTES: usize = 16 * 1024;

thread_local! {
    static RUNTIME: RefCell<tokio::runtime::Runtime> =
        RefCell::new(tokio::runtime::Builder::new_current_thread().build().unwrap());
}

fn call(method: &str, body: &[u8]) -> Option<Status> {
    let request = http::Request::post(format!("/countersign.v1.ActivationService/{method}"))
        .header("content-type", "application/grpc")
        .body(Full::<Bytes>::from(body.to_vec()))
        .unwrap();
    let server = ActivationServiceServer::new(Taker).max_decoding_message_size(MESSAGE_BYTES);
    let answer = RUNTIME.with_borrow(|runtime| runtime.block_on(server.oneshot(request))).unwrap();
    // Without one in the headers, it comes after the message.
    Status::from_header_map(answer.headers()).filter(|status| status.code() != Code::Ok)
}

fn message<T: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = T::decode(bytes) else { return false };
    assert!(T::decode(message.encode_to_vec().as_slice()).as_ref() == Ok(&message));
    assert_eq!(format!("{message:?}"), format!("{:?}", T::default()), "a message prints itself");
    true
}

macro_rules! one_of {
    ($which:expr, $bytes:expr, $($name:ident)*) => {{
        let all: &[fn(&[u8]) -> bool] = &[$(message::<v1::$name>),*];
        all[usize::from($which) % all.len()]($bytes)
    }};
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let which = input.byte();
    // Any bytes, and the same as one message.
    let _ = call("Activate", input.0);
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(input.0.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(input.0);
    let refused = call("Activate", &framed);
    if input.0.len() > MESSAGE_BYTES {
        assert!(refused.is_some_and(|status| status.code() == Code::OutOfRange));
    } else if message::<ActivateRequest>(input.0) {
        assert!(refused.is_none());
    } else {
        let refused = refused.expect("no message, and taken");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let reason = refused.get_details_error_info().map(|info| info.reason);
        assert_eq!(reason.as_deref(), Some("INVALID_MESSAGE"));
    }
    one_of!(
        which, input.0,
        RenewRequest DeactivateRequest CheckRequest GetSigningKeysRequest IssueLicenseRequest
        GetLicenseRequest SuspendLicenseRequest ReinstateLicenseRequest RevokeLicenseRequest
        FreeSeatRequest ExportSubjectRequest OpenRequestRequest ListRequestsRequest GetRequestRequest
        IssueVerificationCodeRequest VerifyIdentityRequest ApproveRequestRequest ExtendRequestRequest
        RefuseRequestRequest FulfilRequestRequest RectifySubjectRequest EraseSubjectRequest
        GetErasureRequest ListErasuresRequest SetRestrictionRequest SweepRetentionRequest
        RecordDisclosureRequest ListNoticesRequest SettleNoticeRequest GetHistoryRequest
        ListActivationsRequest GetStatisticsRequest BackupRequest GetCheckpointRequest
        GetInclusionProofRequest GetConsistencyProofRequest
    );
});
