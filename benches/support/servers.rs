//! Servers, each a process of its own.

#![allow(dead_code)] // each benchmark uses its part

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use countersign::proto::v1::IssueLicenseRequest;
use countersign::proto::v1::license_service_client::LicenseServiceClient;
use tokio::task::JoinSet;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// The seats of each license: more than are ever used.
const SEATS: u32 = 100_000;

/// Licenses that are issued at the same time.
const ISSUED_AT_ONCE: usize = 64;

/// What is activated.
#[derive(Clone)]
pub(crate) struct License {
    pub(crate) email: String,
    pub(crate) key: String,
}

/// A server process, killed when this is dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    /// Kept open: a server that can't print ends.
    _output: BufReader<ChildStdout>,
    pub(crate) pid: u32,
    /// Where it serves apps.
    pub(crate) address: String,
}

/// The server that is measured.
pub(crate) struct Countersign {
    pub(crate) server: Server,
    pub(crate) directory: PathBuf,
    staff: String,
}

/// What the command line does with a directory.
pub(crate) fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.arg("--dir").arg(directory);
    command
}

impl Countersign {
    pub(crate) fn start(directory: &Path) -> Self {
        let mut command = command(directory);
        command.args(["serve", "--dev"]);
        command.args(["--public-listen", "127.0.0.1:0", "--staff-listen", "127.0.0.1:0"]);
        command.args(["--ops-listen", "127.0.0.1:0"]);
        let mut server = Server::start(&mut command);
        let line = std::mem::take(&mut server.address);
        let [public, staff] = ["public=", "staff="].map(|name| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.expect("the server says where it listens").to_owned()
        });
        server.address = public;
        Self { server, directory: directory.to_owned(), staff }
    }

    pub(crate) fn tls(&self) -> PathBuf {
        self.directory.join("tls")
    }

    pub(crate) fn ca(&self) -> Certificate {
        Certificate::from_pem(std::fs::read(self.tls().join("server-ca.pem")).unwrap())
    }

    /// Its metrics, as it tells them.
    pub(crate) fn metrics(&self) -> String {
        let told = std::fs::read_to_string(self.directory.join("run/ops")).unwrap();
        let mut server = TcpStream::connect(told.strip_prefix("ops=").unwrap()).unwrap();
        server.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        text
    }

    /// Where staff connect.
    pub(crate) async fn staff(&self, role: &str) -> Channel {
        let file = |extension| {
            std::fs::read(self.tls().join("staff").join(role).with_extension(extension)).unwrap()
        };
        let identity = Identity::from_pem(file("pem"), file("key"));
        let tls = ClientTlsConfig::new().ca_certificate(self.ca()).identity(identity);
        let endpoint = Endpoint::from_shared(format!("https://{}", self.staff)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    /// Issues a license to each of these addresses, a person each, in no order.
    pub(crate) async fn issue_licenses(
        &self,
        addresses: impl Iterator<Item = String> + Send + 'static,
    ) -> Vec<License> {
        let issuer = LicenseServiceClient::new(self.staff("issuer").await);
        let addresses = Arc::new(Mutex::new(addresses));
        let mut workers = JoinSet::new();
        for _ in 0..ISSUED_AT_ONCE {
            let (mut issuer, addresses) = (issuer.clone(), Arc::clone(&addresses));
            workers.spawn(async move {
                let mut licenses = Vec::new();
                let next = || addresses.lock().unwrap().next();
                while let Some(email) = next() {
                    let request = IssueLicenseRequest {
                        email: email.clone(),
                        product: "Bench".to_owned(),
                        seats: SEATS,
                        ..IssueLicenseRequest::default()
                    };
                    let answer = issuer.issue_license(request).await.unwrap().into_inner();
                    licenses.push(License { email, key: answer.license.unwrap().license_key });
                }
                licenses
            });
        }
        workers.join_all().await.concat()
    }
}

impl Server {
    /// Starts one. The address is what it prints first.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        Self { pid: child.id(), child, _output: output, address: line.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
