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

fn may_call(role: &str, method: &str) -> bool {
    match method.rsplit('/').next().unwrap() {
        "IssueLicense" | "SuspendLicense" | "ReinstateLicense" | "RevokeLicense" => {
            role == "issuer"
        }
        "GetLicense" | "FreeSeat" => ["issuer", "support", "privacy"].contains(&role),
        "GetHistory" | "ListActivations" => ["support", "privacy"].contains(&role),
        "ExportSubject"
        | "OpenRequest"
        | "ListRequests"
        | "GetRequest"
        | "IssueVerificationCode"
        | "VerifyIdentity"
        | "ApproveRequest"
        | "ExtendRequest"
        | "RefuseRequest"
        | "FulfilRequest"
        | "RectifySubject"
        | "EraseSubject"
        | "GetErasure"
        | "SetRestriction"
        | "SweepRetention" => role == "privacy",
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_calls_what_is_its_own_and_nothing_else() {
    let place = Place::new();
    let server = place.start();
    let methods = methods();
    assert_eq!(methods.len(), 28);
    for role in ["issuer", "support", "privacy", "analytics"] {
        for method in &methods {
            let status = call(server.staff_channel(role), method).await;
            if may_call(role, method) {
                // These need nothing to be said.
                let takes_nothing =
                    ["ListRequests", "SweepRetention"].iter().any(|name| method.ends_with(name));
                let expected = if takes_nothing { Code::Ok } else { Code::InvalidArgument };
                assert_eq!(status.code(), expected, "{role} {method}");
            } else {
                assert_eq!(status.code(), Code::PermissionDenied, "{role} {method}");
                assert_eq!(reason(&status), "ROLE_MISSING", "{role} {method}");
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
    let read = |name: &str| String::from_utf8(server.read(&format!("tls/{name}"))).unwrap();
    let ca_key = rcgen::KeyPair::from_pem(&read("staff-ca.key")).unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Countersign development staff CA");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    for (uris, has_a_role) in [
        (&["countersign://staff/issuer/eve"][..], true),
        (&[], false),
        (&["countersign://staff/root/eve"], false),
        (&["countersign://staff/issuer/eve", "countersign://staff/privacy/eve"], false),
    ] {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        for uri in uris {
            parameters.subject_alt_names.push(rcgen::SanType::URI((*uri).try_into().unwrap()));
        }
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        let identity = Identity::from_pem(certificate.pem(), key.serialize_pem());
        assert_eq!(reaches_staff(&server, Some(identity)).await, has_a_role, "{uris:?}");
    }
}
