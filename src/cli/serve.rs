//! `serve`: opens the directory, serves, and ends in order.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use rand::SeedableRng as _;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use super::directory::{Directory, Opened, read_secret, replace};
use crate::config::Config;
use crate::domain::RecipientName;
use crate::grpc;
use crate::grpc::tls::{self, SharedConfig};
use crate::policy::Policy;
use crate::service::clock::{Clock, SystemClock};
use crate::service::keeper::Keeper;
use crate::service::writer::{self, Parts};
use crate::service::{Service, Settings};
use crate::telemetry::{self, Format};
use crate::webhook::{self, Target};

/// How long calls may take to end after the signal.
const DRAIN: Duration = Duration::from_secs(10);

/// Serve apps and staff.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Make the directory first where there is none, and log for people
    #[arg(long)]
    dev: bool,
    /// Where apps connect [default: from countersign.toml]
    #[arg(long, value_name = "ADDR")]
    public_listen: Option<SocketAddr>,
    /// Where staff connect [default: from countersign.toml]
    #[arg(long, value_name = "ADDR")]
    staff_listen: Option<SocketAddr>,
}

impl Serve {
    /// Serves until a signal.
    pub(super) fn run(self, directory: &Directory) -> anyhow::Result<()> {
        if self.dev && !directory.exists() {
            directory.init(SystemClock.now(), &mut rand::rng())?;
        }
        let mut config = directory.config()?;
        if self.dev {
            config.log.format = Format::Pretty;
        }
        telemetry::init(config.log);
        config.public.listen = self.public_listen.unwrap_or(config.public.listen);
        config.staff.listen = self.staff_listen.unwrap_or(config.staff.listen);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(serve(directory, config, self.dev))
    }
}

async fn serve(directory: &Directory, config: Config, dev: bool) -> anyhow::Result<()> {
    let [public_tls, staff_tls] = certificates(directory, &config)?;
    let [public_tls, staff_tls] = [public_tls, staff_tls].map(|tls| Arc::new(ArcSwap::new(tls)));
    let policy = Arc::new(directory.policy()?);
    let targets = webhooks(directory, &config, &policy)?;
    let settings = Settings {
        issuer: config.issuer.clone(),
        leases: config.leases()?,
        policy: Arc::clone(&policy),
        actor_seal: directory.actor_seal()?,
        webhooks: targets.keys().cloned().collect(),
    };
    let receipts = directory.receipt_keys()?;
    let Opened { store, tree, log_key, lock } = directory.open(&config, |_, _| ())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (writer, mut stopped) = writer::spawn(Parts {
        store: Arc::clone(&store),
        tree: Arc::clone(&tree),
        clock: Arc::clone(&clock),
        rng: Box::new(rand::rngs::StdRng::from_rng(&mut rand::rng())),
        queue: config.storage.queue,
        policy,
    })?;
    let keeper = Keeper::spawn(directory.head_path(), log_key, tree)?;
    let service =
        Arc::new(Service::new(Arc::clone(&store), writer, Arc::clone(&clock), receipts, settings));

    // Before anyone is told that there is a server to be ended.
    let mut reload = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let public = listen(config.public.listen).await?;
    let staff = listen(config.staff.listen).await?;
    announce(directory, public.local_addr()?, staff.local_addr()?, dev)?;
    let (end, ended) = watch::channel(());
    let until = |mut ended: watch::Receiver<()>| async move {
        // An error means that the sender is gone, which is the same.
        let _ = ended.changed().await;
    };
    let mut public = tokio::spawn(grpc::serve_public(
        public,
        Arc::clone(&public_tls),
        config.public.limits,
        Arc::clone(&service),
        until(ended.clone()),
    ));
    let upkeep = [
        tokio::spawn(upkeep(Arc::clone(&service))),
        tokio::spawn(webhook::tell(Arc::clone(&service), targets, clock)),
    ];
    let mut staff = tokio::spawn(grpc::serve_staff(
        staff,
        Arc::clone(&staff_tls),
        config.staff.limits,
        service,
        until(ended),
    ));

    let (from, shared) = (directory.clone(), [public_tls, staff_tls]);
    tokio::spawn(async move {
        while reload.recv().await.is_some() {
            exchange(&from, &config, &shared);
        }
    });
    let failure: Option<anyhow::Error> = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        result = &mut stopped => Some(match result {
            Ok(Err(error)) => error.into(),
            Ok(Ok(())) | Err(_) => anyhow::anyhow!("the writer stopped without a reason"),
        }),
        result = &mut public => Some(listener_ended(result)),
        result = &mut staff => Some(listener_ended(result)),
    };
    if let Some(error) = &failure {
        tracing::error!("no more writes, the server ends: {error}");
    } else {
        tracing::info!("the server ends");
    }
    // They hold the writer.
    for task in upkeep {
        task.abort();
    }
    end.send_replace(());
    let drained = async {
        // Only the end matters here.
        let _ = tokio::join!(async { public.is_finished() || public.await.is_ok() }, async {
            staff.is_finished() || staff.await.is_ok()
        });
    };
    if timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("calls were still under way after {} s", DRAIN.as_secs());
    }
    // It may have been removed by hand.
    let _ = fs::remove_file(directory.listening_path());
    if let Some(error) = failure {
        return Err(error);
    }
    if let Ok(result) = timeout(DRAIN, stopped).await {
        result.context("the writer is gone")??;
        store.views.close()?;
    }
    keeper.end()?;
    drop(lock);
    Ok(())
}

fn listener_ended<E: Into<anyhow::Error>>(
    result: Result<Result<(), E>, tokio::task::JoinError>,
) -> anyhow::Error {
    match result {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) => anyhow::anyhow!("a listener stopped without a reason"),
        Err(error) => error.into(),
    }
}

/// How often it is looked for erasures that are to be made final.
const UPKEEP: Duration = Duration::from_secs(10 * 60);
/// How many times that passes between two sweeps: a day.
const SWEEP_EVERY: u32 = 144;

/// What the policy asks for without anyone asking: that erasures are final within a day, and that
/// nothing is kept for longer than it says.
async fn upkeep(service: Arc<Service>) {
    // The first tick is at once: what waited while the server did not run waits no longer.
    let mut timer = tokio::time::interval(UPKEEP);
    for round in 0u32.. {
        timer.tick().await;
        if let Err(error) = service.finish_erasures().await {
            tracing::warn!("erasures are not final yet: {error}");
        }
        if let Err(error) = service.tidy_notices().await {
            tracing::warn!("notices stay as they are: {error}");
        }
        if let Err(error) = service.count_days().await {
            tracing::warn!("days are not counted yet: {error}");
        }
        if round % SWEEP_EVERY == 1 {
            match service.sweep(false).await {
                Ok(swept) => tracing::info!(persons = swept.subjects, "the retention was swept"),
                Err(error) => tracing::warn!("the retention sweep stopped: {error}"),
            }
        }
    }
}

/// Where recipients are told.
fn webhooks(
    directory: &Directory,
    config: &Config,
    policy: &Policy,
) -> anyhow::Result<BTreeMap<RecipientName, Target>> {
    let mut targets = BTreeMap::new();
    for webhook in &config.webhooks {
        let name = &webhook.recipient;
        let known = policy.recipients.iter().any(|recipient| recipient.name == *name);
        let recipient = RecipientName::parse(name).filter(|_| known);
        let recipient = recipient
            .with_context(|| format!("[[webhook]] {name}: policy.toml names no such recipient"))?;
        let secret = read_secret(&directory.join(&webhook.secret))?;
        let tls = tls::client_config(&directory.join(&webhook.ca))?;
        let target = Target::new(&webhook.url, &secret, tls)
            .with_context(|| format!("[[webhook]] {name} is not valid"))?;
        if targets.insert(recipient, target).is_some() {
            bail!("[[webhook]] {name} is there twice; keep one");
        }
    }
    Ok(targets)
}

/// What both listeners serve with, the public one first.
fn certificates(directory: &Directory, config: &Config) -> anyhow::Result<[Arc<ServerConfig>; 2]> {
    let public = {
        let [certificate, key] =
            [&config.public.certificate, &config.public.key].map(|file| directory.join(file));
        check_validity(&certificate)?;
        tls::public_config(&certificate, &key)?
    };
    let staff = {
        let [certificate, key, ca] =
            [&config.staff.certificate, &config.staff.key, &config.staff.client_ca]
                .map(|file| directory.join(file));
        check_validity(&certificate)?;
        tls::staff_config(&certificate, &key, &ca)?
    };
    Ok([public, staff])
}

/// Serves new connections with the certificates that are there now. Where they are of no use the
/// server goes on with those it has.
fn exchange(directory: &Directory, config: &Config, shared: &[SharedConfig; 2]) {
    match certificates(directory, config) {
        Ok(new) => {
            for (shared, new) in shared.iter().zip(new) {
                shared.store(new);
            }
            tracing::info!("the certificates were read again");
        }
        Err(error) => tracing::error!("the certificates stay as they were: {error:#}"),
    }
}

fn check_validity(certificate: &Path) -> anyhow::Result<()> {
    let (from, to) = tls::validity(certificate)?;
    let (shown, now) = (certificate.display(), SystemClock.now());
    if now < from {
        bail!("{shown} is not valid before {from}; set this machine's clock, or renew it");
    }
    if now > to {
        bail!("{shown} has expired at {to}; renew it");
    }
    Ok(())
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}; is another server there?"))
}

/// Says where it listens: on standard output, and in a file for the client commands.
fn announce(
    directory: &Directory,
    public: SocketAddr,
    staff: SocketAddr,
    dev: bool,
) -> anyhow::Result<()> {
    let line = format!("listening public={public} staff={staff}");
    let run = directory.join("run");
    fs::create_dir_all(&run)
        .with_context(|| format!("{} cannot be made; check the disk", run.display()))?;
    replace(&directory.listening_path(), line.as_bytes(), 0o644)?;
    let tour = if dev { tour(directory.path()) } else { String::new() };
    // A server serves also where nobody reads what it prints.
    let _ = write!(std::io::stdout(), "{line}\n{tour}");
    tracing::info!("serving");
    Ok(())
}

/// The commands to try next, as they go into a second terminal.
fn tour(directory: &Path) -> String {
    let exe = std::env::args().next().unwrap_or_else(|| "countersign".to_owned());
    let countersign = format!("{exe} --dir {}", directory.display());
    let person = "--email ada@example.com";
    format!(
        "\nDevelopment mode. Try, in a second terminal:\n\n  \
         KEY=$({countersign} license issue {person} --product App --seats 2)\n  \
         {countersign} activate {person} --key $KEY --receipt app.receipt\n  \
         {countersign} receipt verify app.receipt\n  \
         {countersign} history {person}\n  \
         {countersign} export {person} --out ada.zip\n\n"
    )
}
