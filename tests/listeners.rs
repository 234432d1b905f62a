//! Promise: what one client may cost is bounded, and certificates can be exchanged and revoked while
//! serving.

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::proto::v1::{GetHistoryRequest, Purpose, get_history_request};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use support::{Place, Server, activation};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What an HTTP/2 client sends first: the preface and empty SETTINGS.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The server's first frame is SETTINGS, whose header is so long.
const FRAME_HEADER: usize = 9;

/// A server whose bounds are near.
fn bounded(place: &Place, limits: &str) -> Server {
    let path = place.directory().join("countersign.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{config}\n[public.limits]\n{limits}\n")).unwrap();
    place.start()
}

fn client(server: &Server, staff: Option<&str>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = server.read("tls/server-ca.pem");
    roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match staff {
        None => builder.with_no_client_auth(),
        Some(role) => {
            let pem = |extension| server.read(&format!("tls/staff/{role}.{extension}"));
            let certificate = CertificateDer::from_pem_slice(&pem("pem")).unwrap();
            let key = PrivateKeyDer::from_pem_slice(&pem("key")).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn handshake(
    address: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

/// A connection that the server has taken as HTTP/2.
async fn connect(
    address: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = handshake(address, config).await?;
    stream.write_all(HELLO).await?;
    stream.read_exact(&mut [0; FRAME_HEADER]).await?;
    Ok(stream)
}

/// Tries until the server takes one.
async fn connect_at_last(address: &str, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let connecting = async {
        loop {
            if let Ok(connection) = connect(address, config).await {
                return connection;
            }
        }
    };
    timeout(FOREVER, connecting).await.expect("the server takes no connection")
}

/// A test that waits for so long has failed. Far above the bounds that are set here.
const FOREVER: Duration = Duration::from_secs(30);

/// Returns when the server has closed the connection.
async fn closed(mut stream: impl AsyncRead + Unpin) {
    let mut buffer = [0; 1024];
    let closed = async { while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
    timeout(FOREVER, closed).await.expect("the server closes it");
}

/// Waits for the answer to a PING: the connection is still served.
async fn answers(stream: &mut TlsStream<TcpStream>) {
    let ping = [&b"\0\0\x08\x06\0\0\0\0\0"[..], &[7; 8]].concat();
    stream.write_all(&ping).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(8).any(|bytes| bytes == [7; 8]) {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "it is still there");
    }
}

#[tokio::test]
async fn who_does_not_finish_the_handshake_is_turned_out() {
    let place = Place::new();
    let server = bounded(&place, "handshake_seconds = 1");
    closed(TcpStream::connect(server.public_address()).await.unwrap()).await;
    // TLS, and then no HTTP/2.
    let tls = client(&server, None);
    closed(handshake(server.public_address(), &tls).await.unwrap()).await;
    let mut wrong = handshake(server.public_address(), &tls).await.unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
    closed(wrong).await;
    server.receipt_keys().await;
}

#[tokio::test]
async fn who_is_silent_for_long_is_turned_out() {
    let place = Place::new();
    let server = bounded(&place, "idle_seconds = 2\ncall_seconds = 1");
    let tls = client(&server, None);
    closed(connect(server.public_address(), &tls).await.unwrap()).await;
    server.receipt_keys().await;
}

#[tokio::test]
async fn there_are_so_many_connections_and_no_more() {
    let place = Place::new();
    let server = bounded(&place, "connections = 3");
    let tls = client(&server, None);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connect(server.public_address(), &tls).await.unwrap());
    }
    // The oldest of those without a call makes room, once all are a second old.
    connect_at_last(server.public_address(), &tls).await;
    closed(open.remove(0)).await;
    // A place is free once the server has seen one go.
    let mut leaving = open.pop().unwrap();
    leaving.shutdown().await.unwrap();
    closed(leaving).await;
    connect_at_last(server.public_address(), &tls).await;
}

#[tokio::test]
async fn sessions_resume_for_apps_and_never_for_staff() {
    let place = Place::new();
    let server = place.start();
    for (address, role, second) in [
        (server.public_address(), None, HandshakeKind::Resumed),
        (server.staff_address(), Some("support"), HandshakeKind::Full),
    ] {
        let tls = client(&server, role);
        for expected in [HandshakeKind::Full, second] {
            let stream = connect(address, &tls).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{role:?}");
        }
    }
}

#[tokio::test]
async fn new_certificates_serve_without_a_restart() {
    let place = Place::new();
    let server = place.start();
    let before = client(&server, None);
    let mut open = connect(server.public_address(), &before).await.unwrap();
    let of_another_ca = Place::new();
    for name in ["tls/server.pem", "tls/server.key", "tls/server-ca.pem"] {
        let new = of_another_ca.directory().join(name);
        fs::copy(new, place.directory().join(name)).unwrap();
    }
    server.signal("HUP");
    let after = client(&server, None);
    connect_at_last(server.public_address(), &after).await;
    assert!(connect(server.public_address(), &before).await.is_err());
    answers(&mut open).await;

    // What cannot be used changes nothing.
    fs::write(place.directory().join("tls/server.pem"), "nonsense").unwrap();
    server.signal("HUP");
    let told = async {
        while !fs::read_to_string(place.log_path()).unwrap().contains("stay as they were") {
            tokio::task::yield_now().await;
        }
    };
    timeout(FOREVER, told).await.expect("it is said that they stay");
    connect(server.public_address(), &after).await.unwrap();
}

/// How often certificates are exchanged.
const ROTATIONS: usize = 100;
/// How many apps activate meanwhile, half of them by a connection for each call.
const CALLERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rotations_under_load_fail_no_call() {
    let (place, other) = (Place::new(), Place::new());
    // Whoever is served by either CA is content.
    let mut cas = fs::read_to_string(place.directory().join("tls/server-ca.pem")).unwrap();
    cas += &fs::read_to_string(other.directory().join("tls/server-ca.pem")).unwrap();
    let server = place.start();
    let tls = |server: &Server| {
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(cas.as_bytes()) {
            roots.add(ca.unwrap()).unwrap();
        }
        let mut config = ClientConfig::clone(&client(server, None));
        config = ClientConfig::builder_with_provider(Arc::clone(config.crypto_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        // The certificate is to be seen each time.
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    };
    let tls = tls(&server);

    let stop = Arc::new(AtomicBool::new(false));
    let key = server.issue("ada@example.com", "App", 100_000).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (stop, key) = (Arc::clone(&stop), key.clone());
            let endpoint = server.public_endpoint_with(&cas);
            tokio::spawn(async move {
                let connect = || async {
                    ActivationServiceClient::new(
                        endpoint.connect().await.expect("none is kept out"),
                    )
                };
                let mut app = connect().await;
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    // Some stay, and some come anew for each call.
                    if number % 2 == 0 {
                        app = connect().await;
                    }
                    let request = activation("ada@example.com", &key, rand::random());
                    app.activate(request).await.expect("no call is lost");
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    // The staff's certificates stay; their listener gets new ones all the same.
    let (mut support, stop_too) = (server.support(), Arc::clone(&stop));
    let staff = tokio::spawn(async move {
        let mut calls = 0;
        while !stop_too.load(Ordering::Relaxed) {
            let person = Some(get_history_request::Person::Email("ada@example.com".to_owned()));
            let request = GetHistoryRequest { person, purpose: Purpose::CustomerSupport.into() };
            support.get_history(request).await.expect("no call of staff is lost");
            calls += 1;
        }
        calls
    });

    let pairs = [&place, &other].map(|place| {
        ["pem", "key"].map(|end| fs::read(place.directory().join(format!("tls/server.{end}"))))
    });
    for rotation in 1..=ROTATIONS {
        let [certificate, key] = &pairs[rotation % 2];
        let [certificate, key] = [certificate, key].map(|file| file.as_ref().unwrap());
        fs::write(place.directory().join("tls/server.pem"), certificate).unwrap();
        fs::write(place.directory().join("tls/server.key"), key).unwrap();
        server.signal("HUP");
        let expected = CertificateDer::from_pem_slice(certificate).unwrap();
        loop {
            let stream = connect(server.public_address(), &tls).await.unwrap();
            if stream.get_ref().1.peer_certificates().unwrap()[0] == expected {
                break;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut calls: usize = staff.await.unwrap();
    for caller in callers {
        calls += caller.await.unwrap();
    }
    println!("{ROTATIONS} rotations, {calls} calls of {CALLERS} apps and of staff, none lost");
    assert!(calls > ROTATIONS, "{calls}");
}

/// Does this, and returns when the server has said so once more in its log.
async fn said_by(place: &Place, words: &str, act: impl FnOnce()) {
    let count = || fs::read_to_string(place.log_path()).unwrap().matches(words).count();
    let before = count();
    act();
    let said = async {
        while count() == before {
            tokio::task::yield_now().await;
        }
    };
    timeout(FOREVER, said).await.expect(words);
}

/// Within that a revoked certificate is of no use.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_revoked_certificate_is_out_with_its_connections() {
    let place = Place::new();
    let server = place.start();
    let [support, privacy, issuer] =
        ["support", "privacy", "issuer"].map(|role| client(&server, Some(role)));
    let staff = server.staff_address();
    let out = connect(staff, &support).await.unwrap();
    let next = connect(staff, &issuer).await.unwrap();
    let mut stays = connect(staff, &privacy).await.unwrap();

    let revoked = Instant::now();
    let said = place.run(&["staff", "revoke", "support"]);
    assert!(said.status.success(), "{said:?}");
    closed(out).await;
    let took = revoked.elapsed();
    println!("out after {took:.1?}");
    assert!(took < REVOKED_WITHIN, "{took:?}");
    // Nor does it come back, by a session of before or anew.
    for _ in 0..3 {
        assert!(connect(staff, &support).await.is_err());
    }
    assert!(server.history("ada@example.com").await.is_err());

    // The list grows, and others are not meant.
    assert!(place.run(&["staff", "revoke", "issuer"]).status.success());
    closed(next).await;
    assert!(connect(staff, &support).await.is_err());
    answers(&mut stays).await;

    // A list that cannot be read changes nothing, nor one that is being written.
    let list = place.directory().join("tls/staff-revoked.pem");
    let revoked = fs::read(&list).unwrap();
    for of_no_use in ["nonsense", ""] {
        said_by(&place, "revoked certificates stay as they were", || {
            fs::write(&list, of_no_use).unwrap();
        })
        .await;
        assert!(connect(staff, &support).await.is_err());
        connect(staff, &privacy).await.unwrap();
        said_by(&place, "the list of revoked certificates was read again", || {
            fs::write(&list, &revoked).unwrap();
        })
        .await;
    }

    // It is in force as soon as it can be, whatever else of the certificates is of no use just then.
    let mut stays = connect(staff, &privacy).await.unwrap();
    answers(&mut stays).await;
    fs::write(place.directory().join("tls/server.pem"), "half a certificate").unwrap();
    assert!(place.run(&["staff", "revoke", "privacy"]).status.success());
    closed(stays).await;
    assert!(connect(staff, &privacy).await.is_err());
    assert!(!place.run(&["staff", "revoke", "../server"]).status.success());
}
