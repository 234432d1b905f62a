//! A real server on real ports with real TLS and a real directory, and clients of it.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use countersign::domain::Position;
use countersign::log::record::{self, Header};
use countersign::log::sled::SledLog;
use countersign::log::{Log as _, PAGE};
use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::proto::v1::history_service_client::HistoryServiceClient;
use countersign::proto::v1::license_service_client::LicenseServiceClient;
use countersign::proto::v1::privacy_service_client::PrivacyServiceClient;
use countersign::proto::v1::verify_identity_request::Proof;
use countersign::proto::v1::{
    ActivateRequest, ApproveRequestRequest, EraseSubjectRequest, Erasure, GetHistoryRequest,
    GetHistoryResponse, GetSigningKeysRequest, IssueLicenseRequest, IssueVerificationCodeRequest,
    OpenRequestRequest, Purpose, RequestKind, VerifyIdentityRequest, get_history_request,
};
use countersign::receipt::PublicKeys;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_types::StatusExt as _;

/// A test that waits for so long has failed.
pub const FOREVER: Duration = Duration::from_secs(60);

/// Configuration by which no log is short: what was checked before is read again behind the serving server.
pub const LONG_LOG: &str = "[storage]\nchecked_first = 1";

/// A directory that is gone after the test.
pub struct Place {
    root: TempDir,
}

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    directory: PathBuf,
    public: String,
    staff: String,
}

impl Place {
    /// An empty one.
    pub fn empty() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    /// One that `init` has made.
    pub fn new() -> Self {
        Self::empty().made()
    }

    /// One that `init` has made, in memory where the system has such a place: for tests that start
    /// many servers and are not about the disk.
    pub fn in_memory() -> Self {
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self { root: root.unwrap() }.made()
    }

    fn made(self) -> Self {
        let place = self;
        let made = place.run(&["init"]);
        assert!(made.status.success(), "{made:?}");
        place
    }

    /// The server's directory.
    pub fn directory(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Where the server's log lines go.
    pub fn log_path(&self) -> PathBuf {
        self.root.path().join("stderr")
    }

    /// A file beside the directory.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Runs a command to its end, while others go on.
    pub async fn run_async(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.args(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Runs `serve` where it must fail, and gives its message.
    pub fn refusal(&self) -> String {
        let mut child = self.serve().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if !line.is_empty() {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), line.as_str()), (Some(1), ""), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The program, for this directory.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command.arg("--dir").arg(self.directory());
        command
    }

    /// The command that serves, on free ports.
    pub fn serve(&self) -> Command {
        let mut command = self.command();
        command.args(["serve", "--public-listen", "127.0.0.1:0", "--staff-listen", "127.0.0.1:0"]);
        command
    }

    /// Starts the server, and waits until it serves.
    pub fn start(&self) -> Server {
        self.start_and_read(&mut self.serve()).0
    }

    /// Starts the server with more arguments, and waits until it serves.
    pub fn start_with(&self, arguments: &[&str]) -> Server {
        self.start_and_read(self.serve().args(arguments)).0
    }

    /// Starts what a command makes of the server, as another user for example.
    pub fn start_through(&self, change: impl FnOnce(&mut Command)) -> Server {
        let mut serve = self.serve();
        change(&mut serve);
        self.start_and_read(&mut serve).0
    }

    /// Puts lines at the end of the configuration.
    pub fn configure(&self, lines: &str) {
        let path = self.directory().join("countersign.toml");
        let config = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{config}\n{lines}\n")).unwrap();
    }

    /// Gives a record another id, as one who has the machine could: its checksum is right, and its seal does
    /// not open. All records as they are then.
    pub fn change_record(&self, changed: u64) -> Vec<Vec<u8>> {
        let path = self.directory().join("data/log");
        let log = SledLog::open(&path, 1 << 20).unwrap();
        let mut records = log.read(Position::ZERO, PAGE).unwrap();
        drop(log);
        let record = &mut records[usize::try_from(changed).unwrap()];
        let (header, sealed) = record::decode(record, Position(changed)).unwrap();
        *record = record::encode(&Header { id: [7; 16], ..header }, sealed);
        fs::remove_dir_all(&path).unwrap();
        SledLog::create(&path).unwrap();
        let log = SledLog::open(&path, 1 << 20).unwrap();
        let _ = log.append(Position::ZERO, &records).unwrap();
        records
    }

    /// Starts the server, and waits until it serves. If it ends instead: its exit code and its log.
    pub fn try_start(&self) -> Result<Server, (Option<i32>, String)> {
        let log = File::create(self.log_path()).unwrap();
        let mut child = self.serve().stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let code = child.wait().unwrap().code();
            return Err((code, fs::read_to_string(self.log_path()).unwrap()));
        }
        Ok(self.announced(child, &line))
    }

    /// Starts the server in development mode, and gives the commands that it prints.
    pub fn start_dev(&self) -> (Server, String) {
        let (server, mut output) = self.start_and_read(self.serve().arg("--dev"));
        let mut commands = String::new();
        while !commands.contains(" export ") {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "{commands}");
            if line.starts_with("  ") {
                commands += &line;
            }
        }
        (server, commands)
    }

    fn start_and_read(&self, serve: &mut Command) -> (Server, BufReader<ChildStdout>) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut child = serve.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        (self.announced(child, &line), output)
    }

    /// The server that says where it listens.
    fn announced(&self, child: Child, line: &str) -> Server {
        let address = |name: &str| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            let log = || fs::read_to_string(self.log_path()).unwrap();
            word.unwrap_or_else(|| panic!("no address in {line:?}\n{}", log())).to_owned()
        };
        let (public, staff) = (address("public="), address("staff="));
        Server { child, directory: self.directory(), public, staff }
    }
}

impl Server {
    /// SIGKILL: nothing of the process runs any more.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the exit status.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// A file of the directory.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.directory.join(name)).unwrap()
    }

    /// Where it serves the operator, if it was told to.
    pub fn operator_address(&self) -> String {
        let told = String::from_utf8(self.read("run/ops")).unwrap();
        told.strip_prefix("ops=").unwrap().to_owned()
    }

    /// Its metrics, if it was told to serve them.
    pub fn metrics(&self) -> String {
        http(&self.operator_address(), "GET /metrics").1
    }

    /// Where apps connect.
    pub fn public_address(&self) -> &str {
        &self.public
    }

    /// Where staff connect.
    pub fn staff_address(&self) -> &str {
        &self.staff
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How an app connects.
    pub fn public_endpoint(&self) -> Endpoint {
        self.endpoint(&self.public, None)
    }

    /// How an app connects that trusts these CAs.
    pub fn public_endpoint_with(&self, cas: &str) -> Endpoint {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(cas));
        Endpoint::from_shared(format!("https://{}", self.public)).unwrap().tls_config(tls).unwrap()
    }

    fn endpoint(&self, address: &str, identity: Option<Identity>) -> Endpoint {
        let ca = Certificate::from_pem(self.read("tls/server-ca.pem"));
        let tls = ClientTlsConfig::new().ca_certificate(ca);
        let tls = identity.into_iter().fold(tls, ClientTlsConfig::identity);
        Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap()
    }

    /// A connection as an app makes it; connects when it is used.
    pub fn channel(&self) -> Channel {
        self.public_endpoint().connect_lazy()
    }

    /// A connection as staff in a role make it.
    pub fn staff_channel(&self, role: &str) -> Channel {
        let certificate = self.read(&format!("tls/staff/{role}.pem"));
        let key = self.read(&format!("tls/staff/{role}.key"));
        self.staff_channel_as(Identity::from_pem(certificate, key))
    }

    /// A connection as whoever has this certificate makes it.
    pub fn staff_channel_as(&self, identity: Identity) -> Channel {
        self.endpoint(&self.staff, Some(identity)).connect_lazy()
    }

    /// A certificate of the staff CA with these URI names.
    pub fn staff_identity(&self, uris: &[&str]) -> Identity {
        let read = |name: &str| String::from_utf8(self.read(&format!("tls/{name}"))).unwrap();
        let ca_key = rcgen::KeyPair::from_pem(&read("staff-ca.key")).unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.distinguished_name.push(rcgen::DnType::CommonName, "Countersign development staff CA");
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        for uri in uris {
            parameters.subject_alt_names.push(rcgen::SanType::URI((*uri).try_into().unwrap()));
        }
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        Identity::from_pem(certificate.pem(), key.serialize_pem())
    }

    /// An app.
    pub fn app(&self) -> ActivationServiceClient<Channel> {
        ActivationServiceClient::new(self.channel())
    }

    /// The public keys of receipts, as an app gets them.
    pub async fn receipt_keys(&self) -> PublicKeys {
        let answer = self.app().get_signing_keys(GetSigningKeysRequest {}).await.unwrap();
        PublicKeys::from_jwks(&answer.into_inner().jwks).unwrap()
    }

    /// The issuer.
    pub fn issuer(&self) -> LicenseServiceClient<Channel> {
        LicenseServiceClient::new(self.staff_channel("issuer"))
    }

    /// Support.
    pub fn support(&self) -> HistoryServiceClient<Channel> {
        HistoryServiceClient::new(self.staff_channel("support"))
    }

    /// Support with the privacy duty.
    pub fn privacy(&self) -> PrivacyServiceClient<Channel> {
        PrivacyServiceClient::new(self.staff_channel("privacy"))
    }

    /// A second member of staff with the privacy duty.
    pub fn second_privacy(&self) -> PrivacyServiceClient<Channel> {
        PrivacyServiceClient::new(self.staff_channel("privacy-2"))
    }

    /// Opens a request, and gives its id.
    pub async fn open(&self, email: &str, kind: RequestKind) -> Vec<u8> {
        let request =
            OpenRequestRequest { email: email.to_owned(), kind: kind.into(), received_at: None };
        let answer = self.privacy().open_request(request).await.unwrap().into_inner();
        answer.request.unwrap().request_id
    }

    /// Verifies the person's identity with a code.
    pub async fn verify(&self, request_id: &[u8]) {
        let request_id = request_id.to_vec();
        let issue = IssueVerificationCodeRequest { request_id: request_id.clone() };
        let answer = self.privacy().issue_verification_code(issue).await.unwrap().into_inner();
        let proof = Some(Proof::Code(answer.code));
        let verify = VerifyIdentityRequest { request_id, proof };
        assert!(
            self.privacy()
                .verify_identity(verify)
                .await
                .unwrap()
                .into_inner()
                .request
                .unwrap()
                .verified
        );
    }

    /// Opens a request, verifies the person and has it approved.
    pub async fn ready(&self, email: &str, kind: RequestKind) -> Vec<u8> {
        let request_id = self.open(email, kind).await;
        self.verify(&request_id).await;
        let approve = ApproveRequestRequest { request_id: request_id.clone() };
        self.second_privacy().approve_request(approve).await.unwrap();
        request_id
    }

    /// Erases all of a person's data.
    pub async fn erase(&self, email: &str, keep_licenses: bool, wait: bool) -> Erasure {
        let request_id = self.ready(email, RequestKind::Erasure).await;
        let erase = EraseSubjectRequest { request_id, keep_licenses, wait };
        self.privacy().erase_subject(erase).await.unwrap().into_inner().erasure.unwrap()
    }

    /// Issues a license, and gives its key.
    pub async fn issue(&self, email: &str, product: &str, seats: u32) -> String {
        let request = IssueLicenseRequest {
            email: email.to_owned(),
            product: product.to_owned(),
            seats,
            ..IssueLicenseRequest::default()
        };
        let answer = self.issuer().issue_license(request).await.unwrap().into_inner();
        answer.license.unwrap().license_key
    }

    /// A person's history.
    pub async fn history(&self, email: &str) -> Result<GetHistoryResponse, Status> {
        let request = GetHistoryRequest {
            person: Some(get_history_request::Person::Email(email.to_owned())),
            purpose: Purpose::CustomerSupport.into(),
        };
        Ok(self.support().get_history(request).await?.into_inner())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An activation: the nonce makes it this one, and the binding is always the same device.
pub fn activation(email: &str, license_key: &str, nonce: u128) -> ActivateRequest {
    ActivateRequest {
        email: email.to_owned(),
        license_key: license_key.to_owned(),
        nonce: nonce.to_be_bytes().to_vec(),
        binding: vec![7; 32],
    }
}

/// A file of an export.
pub fn exported(zip: &Path, name: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(File::open(zip).unwrap()).unwrap();
    let mut bytes = Vec::new();
    std::io::copy(&mut archive.by_name(name).unwrap(), &mut bytes).unwrap();
    bytes
}

/// The data of an export.
pub fn exported_data(zip: &Path) -> serde_json::Value {
    serde_json::from_slice(&exported(zip, "data.json")).unwrap()
}

/// An answer to a request over plain HTTP: its first line and headers, and its body.
pub fn http(address: &str, request_line: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(FOREVER)).unwrap();
    write!(stream, "{request_line} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The stable reason of an error.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, countersign::proto::ERROR_DOMAIN);
    info.reason
}

/// A file without the zeros at its end: one that has room for more has nothing there, and megabytes of it.
pub fn written(path: &Path) -> Vec<u8> {
    /// More than what is laid out together in any file.
    const PAGE: usize = 4096;
    let mut bytes = fs::read(path).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used.next_multiple_of(PAGE));
    bytes
}

/// Every file under a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}
