//! The two servers, each a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use countersign::proto::v1::history_service_client::HistoryServiceClient;
use countersign::proto::v1::license_service_client::LicenseServiceClient;
use countersign::proto::v1::{
    GetHistoryRequest, IssueLicenseRequest, Purpose, get_history_request,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::floor;

/// How many licenses the load is spread over, and the seats of each: more than are ever used.
const LICENSES: usize = 64;
const SEATS: u32 = 100_000;

/// What is activated.
#[derive(Clone)]
pub(crate) struct License {
    pub(crate) email: String,
    pub(crate) key: String,
}

/// A server process, killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    /// Kept open: a server that can't print ends.
    _output: BufReader<ChildStdout>,
    pub(crate) pid: u32,
    /// Where it serves apps.
    pub(crate) address: String,
}

/// The server that is measured.
pub(crate) struct Countersign {
    pub(crate) server: Server,
    directory: PathBuf,
    staff: String,
}

impl Countersign {
    pub(crate) fn start(directory: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command.arg("--dir").arg(directory).args(["serve", "--dev"]);
        command.args(["--public-listen", "127.0.0.1:0", "--staff-listen", "127.0.0.1:0"]);
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

    async fn staff(&self, role: &str) -> Channel {
        let file = |extension| {
            std::fs::read(self.tls().join("staff").join(role).with_extension(extension)).unwrap()
        };
        let identity = Identity::from_pem(file("pem"), file("key"));
        let tls = ClientTlsConfig::new().ca_certificate(self.ca()).identity(identity);
        let endpoint = Endpoint::from_shared(format!("https://{}", self.staff)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn issue_licenses(&self) -> Vec<License> {
        let mut issuer = LicenseServiceClient::new(self.staff("issuer").await);
        let mut licenses = Vec::with_capacity(LICENSES);
        for number in 0..LICENSES {
            let email = format!("bench-{number}@example.com");
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
    }

    /// How many activations the server says there are.
    pub(crate) async fn activations(&self, licenses: &[License]) -> u64 {
        let mut support = HistoryServiceClient::new(self.staff("support").await);
        let mut activations = 0;
        for License { email, .. } in licenses {
            let request = GetHistoryRequest {
                person: Some(get_history_request::Person::Email(email.clone())),
                purpose: Purpose::CustomerSupport.into(),
            };
            let history = support.get_history(request).await.unwrap().into_inner();
            activations += history.licenses[0].activations_total;
        }
        activations
    }
}

impl Server {
    /// Starts the floor.
    pub(crate) fn floor(tls: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        Self::start(command.env(floor::REQUEST, tls))
    }

    /// The address is what it prints first.
    fn start(command: &mut Command) -> Self {
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
