//! Promise: nobody gets in where they don't belong.

mod support;

use countersign::proto::DESCRIPTORS;
use prost::Message as _;
use support::{Place, Server, reason};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

/// Calls any method with an empty message.
async fn call(channel: Channel, path: &str) -> Status {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = countersign::proto::codec::Codec::<(), ()>::default();
    let path = PathAndQuery::try_from(path).unwrap();
    match client.unary(Request::new(()), path, codec).await {
        Ok(_) => Status::ok(""),
        Err(status) => status,
    }
}

/// Every method of every service of ours.
fn methods() -> Vec<String> {
    let descriptors = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let mut methods = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    methods
}

/// Every method, and who may call it: (i)ssuer, (s)upport, (p)rivacy, (a)nalytics, (w)itness. Whoever is not
/// named may not, and neither may one whose certificate names no role.
const MATRIX: [(&str, &str); 37] = [
    ("ActivationService/Activate", "     "),
    ("ActivationService/Renew", "     "),
    ("ActivationService/Deactivate", "     "),
    ("ActivationService/Check", "     "),
    ("ActivationService/GetSigningKeys", "     "),
    ("LicenseService/IssueLicense", "i    "),
    ("LicenseService/GetLicense", "isp  "),
    ("LicenseService/SuspendLicense", "i    "),
    ("LicenseService/ReinstateLicense", "i    "),
    ("LicenseService/RevokeLicense", "i    "),
    ("LicenseService/FreeSeat", "isp  "),
    ("HistoryService/GetHistory", " sp  "),
    ("HistoryService/ListActivations", " sp  "),
    ("PrivacyService/ExportSubject", "  p  "),
    ("PrivacyService/OpenRequest", "  p  "),
    ("PrivacyService/ListRequests", "  p  "),
    ("PrivacyService/GetRequest", "  p  "),
    ("PrivacyService/IssueVerificationCode", "  p  "),
    ("PrivacyService/VerifyIdentity", "  p  "),
    ("PrivacyService/ApproveRequest", "  p  "),
    ("PrivacyService/ExtendRequest", "  p  "),
    ("PrivacyService/RefuseRequest", "  p  "),
    ("PrivacyService/FulfilRequest", "  p  "),
    ("PrivacyService/RectifySubject", "  p  "),
    ("PrivacyService/EraseSubject", "  p  "),
    ("PrivacyService/GetErasure", "  p  "),
    ("PrivacyService/ListErasures", "  p  "),
    ("PrivacyService/SetRestriction", "  p  "),
    ("PrivacyService/SweepRetention", "  p  "),
    ("PrivacyService/RecordDisclosure", "isp  "),
    ("PrivacyService/ListNotices", "  p  "),
    ("PrivacyService/SettleNotice", "  p  "),
    ("StatisticsService/GetStatistics", "   a "),
    ("TransparencyService/GetCheckpoint", "ispaw"),
    ("TransparencyService/GetInclusionProof", "ispaw"),
    ("TransparencyService/GetConsistencyProof", "ispaw"),
    ("OperatorService/Backup", "     "),
];

/// Those that need nothing to be said.
const TAKE_NOTHING: [&str; 7] = [
    "ListRequests",
    "ListErasures",
    "SweepRetention",
    "ListNotices",
    "GetStatistics",
    "GetCheckpoint",
    "GetConsistencyProof",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_role_calls_what_is_its_own_and_nothing_else() {
    let place = Place::new();
    let server = place.start();
    let named: Vec<String> =
        MATRIX.iter().map(|(method, _)| format!("/countersign.v1.{method}")).collect();
    let [mut named_sorted, mut methods] = [named.clone(), methods()];
    named_sorted.sort();
    methods.sort();
    assert_eq!(named_sorted, methods, "every method is in the table");

    let nobody = server.staff_channel_as(server.staff_identity(&[]));
    let roles = ["issuer", "support", "privacy", "analytics", "witness"];
    let mut callers: Vec<_> =
        roles.iter().map(|role| (&role[..1], server.staff_channel(role))).collect();
    callers.push(("-", nobody));
    for (caller, channel) in callers {
        for ((_, allowed), method) in MATRIX.iter().zip(&named) {
            let status = call(channel.clone(), method).await;
            if allowed.contains(caller) {
                let takes_nothing = TAKE_NOTHING.iter().any(|name| method.ends_with(name));
                let expected = if takes_nothing { Code::Ok } else { Code::InvalidArgument };
                assert_eq!(status.code(), expected, "{caller} {method}");
            } else {
                assert_eq!(status.code(), Code::PermissionDenied, "{caller} {method}");
                assert_eq!(reason(&status), "ROLE_MISSING", "{caller} {method}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_staff_method_is_reachable_for_apps() {
    let place = Place::new();
    let server = place.start();
    for method in methods() {
        let status = call(server.channel(), &method).await;
        let is_public = method.starts_with("/countersign.v1.ActivationService/");
        assert_eq!(status.code() == Code::Unimplemented, !is_public, "{method}");
    }
}

async fn reaches_staff(server: &Server, identity: Option<Identity>) -> bool {
    let ca = Certificate::from_pem(server.read("tls/server-ca.pem"));
    let tls = ClientTlsConfig::new().ca_certificate(ca);
    let tls = identity.into_iter().fold(tls, ClientTlsConfig::identity);
    let endpoint = format!("https://{}", server.staff_address());
    let endpoint = Endpoint::from_shared(endpoint).unwrap().tls_config(tls).unwrap();
    let mut client = tonic::client::Grpc::new(endpoint.connect_lazy());
    if client.ready().await.is_err() {
        return false;
    }
    let codec = countersign::proto::codec::Codec::<(), ()>::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let status = client.unary(Request::new(()), path, codec).await;
    status.is_ok_and(|_| true)
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_need_a_certificate_of_the_staff_ca() {
    let place = Place::new();
    let server = place.start();
    let pair = |name: &str| {
        let file = |extension| server.read(&format!("tls/{name}.{extension}"));
        Identity::from_pem(file("pem"), file("key"))
    };
    assert!(reaches_staff(&server, Some(pair("staff/analytics"))).await);
    assert!(!reaches_staff(&server, None).await);
    assert!(!reaches_staff(&server, Some(pair("server"))).await);

    let other = Place::new();
    let theirs = |extension: &str| {
        let path = other.directory().join("tls/staff/issuer").with_extension(extension);
        std::fs::read(path).unwrap()
    };
    let foreign = Identity::from_pem(theirs("pem"), theirs("key"));
    assert!(!reaches_staff(&server, Some(foreign)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staff_certificate_without_a_role_may_call_nothing() {
    let place = Place::new();
    let server = place.start();
    for (uris, has_a_role) in [
        (&["countersign://staff/issuer/eve"][..], true),
        (&[], false),
        (&["countersign://staff/root/eve"], false),
        (&["countersign://staff/issuer/eve", "countersign://staff/privacy/eve"], false),
    ] {
        let identity = server.staff_identity(uris);
        assert_eq!(reaches_staff(&server, Some(identity)).await, has_a_role, "{uris:?}");
    }
}
