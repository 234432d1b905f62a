//! `privacy`: what persons ask for about their data, from the request to its end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::client::Connect;
use super::directory::Directory;
use super::export::{save, whose_request};
use super::license::moment;
use super::output::{from_hex as id, hex, print, time};
use super::progress::Bar;
use crate::domain::{Position, Role, SealedActor};
use crate::proto::v1;
use crate::proto::v1::privacy_service_client::PrivacyServiceClient;
use crate::proto::v1::verify_identity_request::Proof;
use crate::seal::actor::{self, ActorKey};

/// The certificate in `--dir` that approves by default: who opened a request cannot approve it.
const SECOND_ACTOR: &str = "privacy-2";
/// How many shares of persons there are for a sweep.
const SHARES: u64 = 1 << 16;

/// Answer what persons ask for about their data.
#[derive(Debug, clap::Subcommand)]
pub(super) enum PrivacyCommand {
    /// Requests: open, verify, approve, fulfil or refuse them
    #[command(subcommand)]
    Request(RequestCommand),
    /// Put a person's address or name right, as they asked
    Rectify {
        #[command(flatten)]
        request: Named,
        /// The right address
        #[arg(long, required_unless_present = "name", default_value = "")]
        email: String,
        /// The right name
        #[arg(long, default_value = "")]
        name: String,
    },
    /// Erase all of a person's data, as they asked
    Erase {
        #[command(flatten)]
        request: Named,
        /// Let their licenses live on, with nobody known, activated by their keys alone
        #[arg(long)]
        keep_licenses: bool,
        /// Make it final now, and not within a day
        #[arg(long)]
        wait: bool,
    },
    /// Show what became of an erasure, and its certificate once it is final
    Erasure {
        /// As `privacy erase` shows it
        id: String,
        #[command(flatten)]
        connect: Connect,
    },
    /// List the newest erasures, and by whose word they were carried out
    Erasures {
        #[command(flatten)]
        connect: Connect,
    },
    /// Restrict the use of a person's data, or forbid its erasure
    Restrict {
        /// Whose
        #[arg(long)]
        email: String,
        /// How
        #[arg(long, value_enum, default_value_t = Restriction::Restriction)]
        kind: Restriction,
        /// Lift it
        #[arg(long)]
        lift: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// Erase what was kept for as long as the policy says; a server does so daily
    Sweep {
        /// Count only
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        connect: Connect,
    },
    /// Note that a recipient of policy.toml got a person's data
    Disclose {
        /// Whose
        #[arg(long)]
        email: String,
        /// Who got it
        #[arg(long)]
        recipient: String,
        /// What they got, e.g. email,license [default: all that the policy lets them have]
        #[arg(long, value_delimiter = ',')]
        categories: Vec<String>,
        /// When [default: now]
        #[arg(long, value_name = "TIME", value_parser = moment)]
        at: Option<prost_types::Timestamp>,
        #[command(flatten)]
        connect: Connect,
    },
    /// Recipients that are still to be told of rectification or erasure
    #[command(subcommand)]
    Notice(NoticeCommand),
    /// Read the name of a member of staff that an access record holds; takes both keys
    Actor {
        /// As an export shows it
        #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
        sealed: String,
        /// The two private keys
        #[arg(long, value_name = "FILE", num_args = 2, required = true)]
        keys: Vec<PathBuf>,
    },
}

/// Work with notices.
#[derive(Debug, clap::Subcommand)]
pub(super) enum NoticeCommand {
    /// List what recipients are still to be told
    List {
        #[command(flatten)]
        connect: Connect,
    },
    /// Note that you told a recipient; what the notice held is erased
    Settle {
        /// The notice's id
        #[arg(value_name = "NOTICE")]
        id: String,
        #[command(flatten)]
        connect: Connect,
    },
}

/// Work with requests.
#[derive(Debug, clap::Subcommand)]
pub(super) enum RequestCommand {
    /// Note that a person asked for something, and print the request's id
    Open {
        /// Who
        #[arg(long)]
        email: String,
        /// For what
        #[arg(long, value_enum)]
        kind: Kind,
        /// When it came in, e.g. 2030-01-31 [default: now]
        #[arg(long, value_name = "TIME", value_parser = moment)]
        received: Option<prost_types::Timestamp>,
        #[command(flatten)]
        connect: Connect,
    },
    /// List the open requests, those that are due first
    List {
        #[command(flatten)]
        connect: Connect,
    },
    /// Show a request, and who it is from
    Show(Named),
    /// Make a code to be sent to the stored address
    Code(Named),
    /// Note that the person knows the code, or has a receipt of theirs
    Verify {
        #[command(flatten)]
        request: Named,
        /// The code
        #[arg(long, required_unless_present = "receipt")]
        code: Option<String>,
        /// A file with the receipt
        #[arg(long, value_name = "FILE", conflicts_with = "code")]
        receipt: Option<PathBuf>,
    },
    /// Approve a request as a second member of staff [default certificate: tls/staff/privacy-2.pem]
    Approve(Named),
    /// Note that it takes two months more, and that the person was told
    Extend {
        #[command(flatten)]
        request: Named,
        /// Why, as they were told
        #[arg(long)]
        reason: String,
    },
    /// Refuse a request
    Refuse {
        #[command(flatten)]
        request: Named,
        /// Why, as they were told
        #[arg(long)]
        reason: String,
        /// What shows that it is so
        #[arg(long)]
        evidence: String,
    },
    /// Fulfil a request: export for access and portability, restrict for restriction and objection
    Fulfil {
        #[command(flatten)]
        request: Named,
        /// Where to save the export
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// A request by its id.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// The request's id
    #[arg(value_name = "REQUEST")]
    id: String,
    #[command(flatten)]
    connect: Connect,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[allow(missing_docs)] // the rights of the GDPR
pub(super) enum Kind {
    Access,
    Rectification,
    Erasure,
    Restriction,
    Objection,
    Portability,
}

/// How the use of data is narrowed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Restriction {
    /// It is stored, and used for nothing but what the policy lists
    Restriction,
    /// Nothing of it is erased
    LegalHold,
}

impl PrivacyCommand {
    /// Calls the server, and prints what came of it.
    pub(super) async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        match self {
            Self::Request(command) => command.run(directory, as_json).await,
            Self::Rectify { request, email, name } => {
                let request_id = id(&request.id)?;
                let rectify = v1::RectifySubjectRequest { request_id, email, name };
                let mut client = client(directory, &request.connect).await?;
                let answer = client.rectify_subject(rectify).await?.into_inner();
                show_request(answer.request.as_ref(), as_json)
            }
            Self::Erase { request, keep_licenses, wait } => {
                let request_id = id(&request.id)?;
                let erase = v1::EraseSubjectRequest { request_id, keep_licenses, wait };
                let mut client = client(directory, &request.connect).await?;
                let answer = client.erase_subject(erase).await?.into_inner();
                show_erasure(answer.erasure.as_ref(), as_json)
            }
            Self::Erasure { id: erasure, connect } => {
                let get = v1::GetErasureRequest { erasure_id: id(&erasure)? };
                let mut client = client(directory, &connect).await?;
                let answer = client.get_erasure(get).await?.into_inner();
                show_erasure(answer.erasure.as_ref(), as_json)
            }
            Self::Erasures { connect } => {
                let mut client = client(directory, &connect).await?;
                let listed = client.list_erasures(v1::ListErasuresRequest {}).await?.into_inner();
                let erasures: Vec<Value> = listed.erasures.iter().map(erasure_json).collect();
                print(as_json, &json!({ "erasures": erasures, "total": listed.total }), || {
                    let mut lines: Vec<String> = listed.erasures.iter().map(erasure_text).collect();
                    let more = listed.total.saturating_sub(lines.len() as u64);
                    if lines.is_empty() {
                        lines.push("nothing was erased".to_owned());
                    } else if more > 0 {
                        lines.push(format!("and {more} older ones"));
                    }
                    lines.join("\n")
                })?;
                Ok(())
            }
            Self::Restrict { email, kind, lift, connect } => {
                let kind = match kind {
                    Restriction::Restriction => v1::RestrictionKind::Restriction,
                    Restriction::LegalHold => v1::RestrictionKind::LegalHold,
                };
                let holds = !lift;
                let set = v1::SetRestrictionRequest { email, kind: kind.into(), holds };
                client(directory, &connect).await?.set_restriction(set).await?;
                print(as_json, &json!({ "holds": holds }), || {
                    if holds { "it holds" } else { "it is lifted" }.to_owned()
                })?;
                Ok(())
            }
            Self::Disclose { email, recipient, categories, at, connect } => {
                let request = v1::RecordDisclosureRequest { email, recipient, categories, at };
                client(directory, &connect).await?.record_disclosure(request).await?;
                print(as_json, &json!({ "recorded": true }), || "recorded".to_owned())?;
                Ok(())
            }
            Self::Notice(command) => command.run(directory, as_json).await,
            Self::Actor { sealed, keys } => {
                let sealed = BASE64URL.decode(sealed);
                let sealed =
                    sealed.context("--sealed is not base64url; copy it from the export")?;
                let sealed = SealedActor::from_bytes(sealed);
                let key = |path: &PathBuf| {
                    let text = zeroize::Zeroizing::new(super::activation::read(path)?);
                    let key = ActorKey::parse(&text);
                    key.with_context(|| format!("{} is not valid", path.display()))
                };
                let keys = keys.iter().map(key).collect::<anyhow::Result<Vec<_>>>()?;
                let [first, second] = keys.as_slice() else { bail!("it takes two keys") };
                let actor = actor::open(&sealed, [first, second])
                    .map_err(|error| anyhow!("the sealed name {error}"))?;
                let name = actor.expose().to_owned();
                print(as_json, &json!({ "actor": name }), || name.clone())?;
                Ok(())
            }
            Self::Sweep { dry_run, connect } => {
                let client = client(directory, &connect).await?;
                let (subjects, records) = sweep(client, dry_run).await?;
                let value = json!({
                    "subjects": subjects, "records": records_json(&records), "dry_run": dry_run,
                });
                print(as_json, &value, || {
                    let what = if dry_run { "would be erased" } else { "were erased" };
                    format!("of {subjects} persons {what}: {}", records_text(&records))
                })?;
                Ok(())
            }
        }
    }
}

impl NoticeCommand {
    async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        match self {
            Self::List { connect } => {
                let mut client = client(directory, &connect).await?;
                let listed = client.list_notices(v1::ListNoticesRequest {}).await?.into_inner();
                let notices: Vec<Value> = listed.notices.iter().map(notice_json).collect();
                print(as_json, &json!({ "notices": notices }), || {
                    let lines: Vec<String> = listed.notices.iter().map(notice_text).collect();
                    if lines.is_empty() {
                        "nobody is to be told".to_owned()
                    } else {
                        lines.join("\n")
                    }
                })?;
            }
            Self::Settle { id: notice, connect } => {
                let settle = v1::SettleNoticeRequest { notice_id: id(&notice)? };
                client(directory, &connect).await?.settle_notice(settle).await?;
                print(as_json, &json!({ "settled": true }), || "settled".to_owned())?;
            }
        }
        Ok(())
    }
}

impl RequestCommand {
    async fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let request = match self {
            Self::Open { email, kind, received, connect } => {
                let kind = kind.to_wire().into();
                let open = v1::OpenRequestRequest { email, kind, received_at: received };
                let mut client = client(directory, &connect).await?;
                let request = client.open_request(open).await?.into_inner().request;
                let request = request.context(NO_REQUEST)?;
                print(as_json, &request_json(&request), || hex(&request.request_id))?;
                return Ok(());
            }
            Self::List { connect } => {
                let mut client = client(directory, &connect).await?;
                let listed = client.list_requests(v1::ListRequestsRequest {}).await?.into_inner();
                let requests: Vec<Value> = listed.requests.iter().map(request_json).collect();
                print(as_json, &json!({ "requests": requests }), || {
                    let lines: Vec<String> = listed.requests.iter().map(request_text).collect();
                    if lines.is_empty() { "no open requests".to_owned() } else { lines.join("\n") }
                })?;
                return Ok(());
            }
            Self::Show(Named { id: request, connect }) => {
                let get = v1::GetRequestRequest { request_id: id(&request)? };
                let mut client = client(directory, &connect).await?;
                let answer = client.get_request(get).await?.into_inner();
                let request = answer.request.context(NO_REQUEST)?;
                let mut value = request_json(&request);
                value["email"] = json!(answer.email);
                let email = match answer.email.as_str() {
                    "" => "nobody who is known, or whom you may see",
                    email => email,
                };
                print(as_json, &value, || format!("{email}\n{}", request_text(&request)))?;
                return Ok(());
            }
            Self::Code(Named { id: request, connect }) => {
                let issue = v1::IssueVerificationCodeRequest { request_id: id(&request)? };
                let mut client = client(directory, &connect).await?;
                let answer = client.issue_verification_code(issue).await?.into_inner();
                let value = json!({ "code": answer.code, "email": answer.email });
                print(as_json, &value, || {
                    format!("send {} to {}, and to no other address", answer.code, answer.email)
                })?;
                return Ok(());
            }
            Self::Verify { request, code, receipt } => {
                let proof = match (code, receipt) {
                    (Some(code), _) => Some(Proof::Code(code)),
                    (None, Some(path)) => {
                        Some(Proof::Receipt(super::activation::read(&path)?.trim().to_owned()))
                    }
                    (None, None) => None,
                };
                let verify = v1::VerifyIdentityRequest { request_id: id(&request.id)?, proof };
                let mut client = client(directory, &request.connect).await?;
                client.verify_identity(verify).await?.into_inner().request
            }
            Self::Approve(Named { id: request, connect }) => {
                let approve = v1::ApproveRequestRequest { request_id: id(&request)? };
                let channel = connect.staff_as(directory, SECOND_ACTOR).await?;
                let mut client = PrivacyServiceClient::new(channel);
                client.approve_request(approve).await?.into_inner().request
            }
            Self::Extend { request, reason } => {
                let extend = v1::ExtendRequestRequest { request_id: id(&request.id)?, reason };
                let mut client = client(directory, &request.connect).await?;
                client.extend_request(extend).await?.into_inner().request
            }
            Self::Refuse { request, reason, evidence } => {
                let request_id = id(&request.id)?;
                let refuse = v1::RefuseRequestRequest { request_id, reason, evidence };
                let mut client = client(directory, &request.connect).await?;
                client.refuse_request(refuse).await?.into_inner().request
            }
            Self::Fulfil { request, out } => {
                let request_id = id(&request.id)?;
                let mut client = client(directory, &request.connect).await?;
                if let Some(out) = out {
                    save(&mut client, whose_request(&request_id), &out).await?;
                }
                let fulfil = v1::FulfilRequestRequest { request_id };
                client.fulfil_request(fulfil).await?.into_inner().request
            }
        };
        show_request(request.as_ref(), as_json)
    }
}

impl Kind {
    fn to_wire(self) -> v1::RequestKind {
        match self {
            Self::Access => v1::RequestKind::Access,
            Self::Rectification => v1::RequestKind::Rectification,
            Self::Erasure => v1::RequestKind::Erasure,
            Self::Restriction => v1::RequestKind::Restriction,
            Self::Objection => v1::RequestKind::Objection,
            Self::Portability => v1::RequestKind::Portability,
        }
    }
}

const NO_REQUEST: &str = "the server answered without a request; is it of another version?";

async fn client(
    directory: &Directory,
    connect: &Connect,
) -> anyhow::Result<PrivacyServiceClient<Channel>> {
    Ok(PrivacyServiceClient::new(connect.staff(directory, Role::Privacy).await?))
}

/// Sweeps until everybody was come by: of how many persons what was erased, or would be.
async fn sweep(
    mut client: PrivacyServiceClient<Channel>,
    dry_run: bool,
) -> anyhow::Result<(u64, Vec<v1::CategoryCount>)> {
    let bar = Bar::new();
    let (mut subjects, mut all) = (0, BTreeMap::<String, u64>::new());
    let mut share = 0;
    loop {
        let request = v1::SweepRetentionRequest { dry_run, share };
        let swept = client.sweep_retention(request).await?.into_inner();
        subjects += swept.subjects;
        for v1::CategoryCount { category, records } in swept.records {
            *all.entry(category).or_default() += records;
        }
        share = swept.next_share;
        if share == 0 {
            break;
        }
        bar.show(Position(share.into()), Position(SHARES));
    }
    let count = |(category, records)| v1::CategoryCount { category, records };
    Ok((subjects, all.into_iter().map(count).collect()))
}

fn show_request(request: Option<&v1::Request>, as_json: bool) -> anyhow::Result<()> {
    let request = request.context(NO_REQUEST)?;
    print(as_json, &request_json(request), || request_text(request))?;
    Ok(())
}

fn request_json(request: &v1::Request) -> Value {
    json!({
        "request_id": hex(&request.request_id),
        "kind": kind(request),
        "state": state(request),
        "received_at": time(request.received_at.as_ref()),
        "gdpr_due": time(request.gdpr_due.as_ref()),
        "swiss_due": time(request.swiss_due.as_ref()),
        "verified": request.verified,
        "approved": request.approved,
        "needs_approval": request.needs_approval,
        "extended": request.extended,
    })
}

fn request_text(request: &v1::Request) -> String {
    let mut notes = Vec::new();
    notes.push(if request.verified { "identity verified" } else { "identity not verified" });
    if request.approved {
        notes.push("approved");
    } else if request.needs_approval {
        notes.push("needs approval");
    }
    if request.extended {
        notes.push("extended");
    }
    format!(
        "{}  {}  {}  {}\n  received {}, due {} (GDPR), {} (Swiss)",
        hex(&request.request_id),
        kind(request),
        state(request),
        notes.join(", "),
        time(request.received_at.as_ref()).unwrap_or_default(),
        time(request.gdpr_due.as_ref()).unwrap_or_default(),
        time(request.swiss_due.as_ref()).unwrap_or_default(),
    )
}

fn kind(request: &v1::Request) -> &'static str {
    match request.kind() {
        v1::RequestKind::Unspecified => "unknown",
        v1::RequestKind::Access => "access",
        v1::RequestKind::Rectification => "rectification",
        v1::RequestKind::Erasure => "erasure",
        v1::RequestKind::Restriction => "restriction",
        v1::RequestKind::Objection => "objection",
        v1::RequestKind::Portability => "portability",
    }
}

fn state(request: &v1::Request) -> &'static str {
    match request.state() {
        v1::RequestState::Unspecified => "unknown",
        v1::RequestState::Open => "open",
        v1::RequestState::Fulfilled => "fulfilled",
        v1::RequestState::Refused => "refused",
    }
}

fn show_erasure(erasure: Option<&v1::Erasure>, as_json: bool) -> anyhow::Result<()> {
    let erasure =
        erasure.context("the server answered without an erasure; is it of another version?")?;
    print(as_json, &erasure_json(erasure), || erasure_text(erasure))?;
    Ok(())
}

fn erasure_json(erasure: &v1::Erasure) -> Value {
    let sealed = |name: &Vec<u8>| (!name.is_empty()).then(|| BASE64URL.encode(name));
    json!({
        "erasure_id": hex(&erasure.erasure_id),
        "reason": erasure.reason,
        "approved": erasure.approved,
        "keeps_licenses": erasure.keeps_licenses,
        "opened_by": sealed(&erasure.opened_by),
        "approved_by": sealed(&erasure.approved_by),
        "carried_out_by": sealed(&erasure.carried_out_by),
        "erased_at": time(erasure.erased_at.as_ref()),
        "final_at": time(erasure.final_at.as_ref()),
        "final_by": time(erasure.final_by.as_ref()),
        "remains": erasure.remains,
        "records": records_json(&erasure.records),
        "certificate": (!erasure.certificate.is_empty()).then_some(&erasure.certificate),
    })
}

fn erasure_text(erasure: &v1::Erasure) -> String {
    let id = hex(&erasure.erasure_id);
    let erased_at = time(erasure.erased_at.as_ref()).unwrap_or_default();
    let records = records_text(&erasure.records);
    let reason = &erasure.reason;
    let mut lines = vec![format!("{id}  erased {erased_at} by {reason}: {records}")];
    let mut notes = Vec::new();
    if erasure.approved {
        notes.push("approved by a second member of staff");
    }
    if erasure.keeps_licenses {
        notes.push("the licenses live on");
    }
    if !notes.is_empty() {
        lines.push(format!("  {}", notes.join("; ")));
    }
    match (time(erasure.final_at.as_ref()), time(erasure.final_by.as_ref())) {
        (Some(at), _) => lines.push(format!("  final since {at}")),
        (None, by) => {
            lines.push(format!("  not final yet; by {} at the latest", by.unwrap_or_default()));
            lines.extend(erasure.remains.iter().map(|what| format!("  until then: {what}")));
        }
    }
    if !erasure.certificate.is_empty() {
        lines.push(erasure.certificate.clone());
    }
    lines.join("\n")
}

fn records_json(records: &[v1::CategoryCount]) -> Value {
    records.iter().map(|count| (count.category.clone(), json!(count.records))).collect()
}

fn records_text(records: &[v1::CategoryCount]) -> String {
    if records.is_empty() {
        return "nothing".to_owned();
    }
    let counts = records.iter().map(|count| format!("{} of {}", count.records, count.category));
    counts.collect::<Vec<_>>().join(", ")
}

fn notice_json(notice: &v1::Notice) -> Value {
    json!({
        "notice_id": hex(&notice.notice_id),
        "recipient": notice.recipient,
        "email": notice.email,
        "erased": notice.erased,
        "new_email": (!notice.new_email.is_empty()).then_some(&notice.new_email),
        "created_at": time(notice.created_at.as_ref()),
        "has_webhook": notice.has_webhook,
    })
}

fn notice_text(notice: &v1::Notice) -> String {
    let what = match (notice.erased, notice.new_email.as_str()) {
        (true, _) => "erase their data".to_owned(),
        (false, "") => "the name was put right".to_owned(),
        (false, email) => format!("the address is {email}"),
    };
    let how = if notice.has_webhook { ", by webhook" } else { "" };
    format!("{}  tell {}{how}: {}: {what}", hex(&notice.notice_id), notice.recipient, notice.email)
}
