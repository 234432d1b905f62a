//! `serve`: opens the directory, serves, and ends in order.
//!
//! At the first signal nothing new is taken: the listeners close, clients that watch the health are told,
//! connections get a GOAWAY, and what is under way is answered, for `drain_seconds` at most. Then the
//! writer ends what it has, views and head file are closed, the archive gets what is left, and the process
//! exits with 0. A second signal ends it at once, which loses nothing that was acknowledged.

mod descriptors;
mod reload;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::directory::{Directory, LOG_NAME, Opened, replace};
use super::watched::WatchedFile;
use crate::backup::{Archived, Follower, Source};
use crate::config::Config;
use crate::domain::RecipientName;
use crate::grpc;
use crate::log::head::HeadError;
use crate::log::metered::MeteredLog;
use crate::metrics::{self, Metrics};
use crate::ops::{self, LoopbackAddr};
use crate::policy::CurrentPolicy;
use crate::service::clock::{Clock, SystemClock};
use crate::service::keeper::Keeper;
use crate::service::rereading::Rereading;
use crate::service::store::Store;
use crate::service::transparency::{Publication, Publisher, Transparency};
use crate::service::writer::{self, Parts, WriterError};
use crate::service::{IsArchived, Service, Settings};
use crate::telemetry::{self, Format};
use crate::webhook::{self, Target};
use reload::{Reloaded, certificates, webhooks};

/// How long the writer may take to end what waits after the last call has ended.
const WRITER_END: Duration = Duration::from_secs(10);
/// How long reads that nobody waits for any more may hold the process up. Backups and searches do not: what
/// they leave half done is of no account.
const READS_END: Duration = Duration::from_secs(1);

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
    /// Where metrics are served, an address of this machine alone [default: from countersign.toml]
    #[arg(long, value_name = "ADDR")]
    ops_listen: Option<LoopbackAddr>,
}

impl Serve {
    /// Serves until a signal.
    pub(super) fn run(self, directory: &Directory) -> anyhow::Result<()> {
        if self.dev && !directory.exists() {
            directory.init(LOG_NAME, SystemClock.now(), &mut rand::rng())?;
        }
        let mut config = directory.config()?;
        if self.dev {
            config.log.format = Format::Pretty;
        }
        telemetry::init(config.log);
        config.public.listen = self.public_listen.unwrap_or(config.public.listen);
        config.staff.listen = self.staff_listen.unwrap_or(config.staff.listen);
        config.ops.listen = self.ops_listen.or(config.ops.listen);
        descriptors::provide(&config);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(serve(directory, config, self.dev));
        runtime.shutdown_timeout(READS_END);
        result
    }
}

async fn serve(directory: &Directory, config: Config, dev: bool) -> anyhow::Result<()> {
    let revoked = WatchedFile::new(directory.join(&config.staff.revoked));
    let [public_tls, staff_tls] = certificates(directory, &config)?.map(watch::Sender::new);
    let policy = CurrentPolicy::from(directory.policy()?);
    let targets = webhooks(directory, &config, &policy.get())?;
    let settings = settings(directory, &config, &policy, &targets)?;
    let receipts = directory.receipt_keys()?;
    let metrics = Arc::new(Metrics::default());
    let Opened { store, source, unread, lock } = directory.open(&config, |_, _| ())?;
    let log = Arc::new(MeteredLog::new(store.log, Arc::clone(&metrics)));
    let store = Arc::new(Store { log, ..store });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (writer, mut stopped) = writer::spawn(Parts {
        store: Arc::clone(&store),
        tree: Arc::clone(&source.tree),
        clock: Arc::clone(&clock),
        // The system's own: from the state of a generator in this process, keys that were made before,
        // those of erased persons too, could be made again.
        rng: Box::new(UnwrapErr(SysRng)),
        queue: config.storage.queue,
        policy: policy.clone(),
    })?;
    let (followers, transparency) = Followers::spawn(directory, &config, &source)?;
    let (rereading, found) = Rereading::spawn(Arc::clone(&source.log), unread)?;
    let archived = followers.archive.as_ref().map(Follower::archived);
    let service = Service::new(Arc::clone(&store), writer, Arc::clone(&clock), receipts, settings);
    let service = service.publishing(transparency).archived(archived.clone().map(is_archived));
    let service = Arc::new(service);

    // Before anyone is told that there is a server to be ended.
    let hangup = signal(SignalKind::hangup())?;
    let mut end_signals = EndSignals::new()?;
    let public = listen(config.public.listen).await?;
    let staff = listen(config.staff.listen).await?;
    let operator = listen_for_operator(directory);
    serve_metrics(directory, config.ops.listen, &service, &metrics, archived).await?;
    announce(directory, public.local_addr()?, staff.local_addr()?, dev)?;
    let (end, ended) = watch::channel(());
    let until = |mut ended: watch::Receiver<()>| async move {
        // An error means that the sender is gone, which is the same.
        let _ = ended.changed().await;
    };
    let mut public = tokio::spawn(grpc::serve_public(
        public,
        public_tls.subscribe(),
        config.public.limits,
        config.public.guessing,
        Arc::clone(&service),
        Arc::clone(&metrics),
        until(ended.clone()),
    ));
    let upkeep = [
        tokio::spawn(upkeep(Arc::clone(&service))),
        tokio::spawn(webhook::tell(Arc::clone(&service), targets, clock)),
    ];
    let mut staff = tokio::spawn(grpc::serve_staff(
        staff,
        staff_tls.subscribe(),
        config.staff.limits,
        Arc::clone(&service),
        metrics,
        until(ended.clone()),
    ));
    if let Some(listener) = operator {
        tokio::spawn(serve_operator(listener, source.clone(), until(ended)));
    }

    let (drain_seconds, checked_first) = (config.drain_seconds, config.storage.checked_first);
    let tls = [public_tls, staff_tls];
    Reloaded { directory: directory.clone(), config, tls, policy }.at_each(hangup, revoked);
    let failure: Option<anyhow::Error> = tokio::select! {
        () = end_signals.next() => None,
        result = &mut stopped => Some(writer_ended(result)),
        error = found.next() => Some(reread_badly(directory, error)),
        result = &mut public => Some(listener_ended(result)),
        result = &mut staff => Some(listener_ended(result)),
    };
    say_that_it_ends(failure.as_ref());
    upkeep.iter().for_each(JoinHandle::abort);
    end.send_replace(());
    let bound = Duration::from_secs(drain_seconds.into());
    let served = Served { directory: directory.clone(), source, store, service, stopped, lock };
    let cause = failure.as_ref().map(|error| format!("{error:#}"));
    let ended = async {
        drain(public, staff, bound).await;
        no_more_announced(directory);
        match failure {
            Some(error) => served.after(error, followers).await,
            None => served.end(followers, rereading, checked_first).await,
        }
    };
    tokio::select! {
        ended = ended => ended,
        () = end_signals.next() => {
            no_more_announced(directory);
            match cause {
                Some(cause) => bail!("{cause}; ended at once, by a signal"),
                None => bail!("ended at once, by a second signal; what was acknowledged is there"),
            }
        }
    }
}

/// What was served with.
struct Served {
    directory: Directory,
    source: Source,
    store: Arc<Store>,
    service: Arc<Service>,
    stopped: writer::Stopped,
    lock: File,
}

impl Served {
    /// Ends all of it in order.
    async fn end(
        self,
        followers: Followers,
        rereading: Rereading,
        checked_first: u64,
    ) -> anyhow::Result<()> {
        let Self { directory, source, store, service, stopped, lock } = self;
        let ended = async {
            service.end().await;
            stopped.await
        };
        let ended = timeout(WRITER_END, ended).await;
        waited_for(move || {
            let reread = rereading.end().map_err(|error| reread_badly(&directory, error));
            let Ok(result) = ended else { return followers.end().and(reread) };
            if let Err(error) = result.context("the writer is gone")? {
                followers.archive.into_iter().for_each(Follower::end);
                return Err(error.into());
            }
            if let Err(error) = store.views.close() {
                tracing::warn!("{error}; the next start rebuilds them");
            }
            followers.end()?;
            reread?;
            directory.keep_checked(&source, &store.counts, checked_first);
            drop(lock);
            Ok(())
        })
        .await
    }

    /// Something failed, the log's disk perhaps. The archive's has what was acknowledged, as far as it can
    /// be read.
    async fn after(self, failure: anyhow::Error, followers: Followers) -> anyhow::Result<()> {
        waited_for(move || {
            followers.archive.into_iter().for_each(Follower::end);
            Err(failure)
        })
        .await
    }
}

/// Runs what takes its time where a signal is heard meanwhile.
async fn waited_for(
    run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(run).await.context("what ends the server panicked")?
}

fn is_archived(archived: Arc<Archived>) -> IsArchived {
    Box::new(move || archived.is_current())
}

/// What follows the log: the head file, the tiles, and the archive where there is one.
struct Followers {
    keeper: Keeper,
    publisher: Publisher,
    archive: Option<Follower>,
}

impl Followers {
    fn spawn(
        directory: &Directory,
        config: &Config,
        source: &Source,
    ) -> anyhow::Result<(Self, Transparency)> {
        let (key, tree) = (Arc::clone(&source.key), Arc::clone(&source.tree));
        let keeper = Keeper::spawn(directory.head_path(), key, tree)?;
        let (publisher, transparency) = Publisher::spawn(Publication {
            directory: directory.tiles_path(),
            log: Arc::clone(&source.log),
            tree: Arc::clone(&source.tree),
            key: Arc::clone(&source.key),
            interval: Duration::from_secs(config.transparency.checkpoint_seconds),
            is_public: config.transparency.public,
        })?;
        let archive = config.archive.as_ref().map(|archive| directory.join(&archive.directory));
        let archive = archive.map(|path| Follower::spawn(&path, source.clone())).transpose()?;
        Ok((Self { keeper, publisher, archive }, transparency))
    }

    /// Has each come to the log's end.
    fn end(self) -> anyhow::Result<()> {
        let kept = self.keeper.end();
        self.publisher.end();
        if let Some(archive) = self.archive {
            archive.end();
        }
        Ok(kept?)
    }
}

/// What the vendor decides.
fn settings(
    directory: &Directory,
    config: &Config,
    policy: &CurrentPolicy,
    targets: &BTreeMap<RecipientName, Target>,
) -> anyhow::Result<Settings> {
    Ok(Settings {
        issuer: config.issuer.clone(),
        leases: config.leases()?,
        policy: policy.clone(),
        actor_seal: directory.actor_seal()?,
        webhooks: targets.keys().cloned().collect(),
    })
}

/// Waits for the listeners to end, for so long at most.
async fn drain<P, S>(public: JoinHandle<P>, staff: JoinHandle<S>, bound: Duration) {
    let drained = async {
        // Only the end matters here.
        let _ = tokio::join!(async { public.is_finished() || public.await.is_ok() }, async {
            staff.is_finished() || staff.await.is_ok()
        });
    };
    if timeout(bound, drained).await.is_err() {
        tracing::warn!("calls were still under way after {} s", bound.as_secs());
    }
}

/// SIGTERM and SIGINT.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    fn new() -> std::io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve_operator(
    listener: UnixListener,
    source: Source,
    shutdown: impl Future<Output = ()>,
) {
    if let Err(error) = grpc::serve_operator(listener, source, shutdown).await {
        tracing::error!("backups cannot be asked for any more: {error}");
    }
}

/// Serves the metrics, if it is said where.
async fn serve_metrics(
    directory: &Directory,
    address: Option<LoopbackAddr>,
    service: &Arc<Service>,
    metrics: &Arc<Metrics>,
    archived: Option<Arc<Archived>>,
) -> anyhow::Result<()> {
    // Of a process that was killed.
    let _ = fs::remove_file(directory.ops_path());
    let Some(address) = address else { return Ok(()) };
    let listener = listen(address.into()).await?;
    let address = listener.local_addr()?;
    fs::create_dir_all(directory.join("run"))?;
    replace(&directory.ops_path(), format!("ops={address}").as_bytes(), 0o644)?;
    let (service, metrics) = (Arc::clone(service), Arc::clone(metrics));
    let page = move || {
        let reading = service.look().map_err(anyhow::Error::from);
        let text = reading.and_then(|mut reading| {
            if let Some(archived) = &archived {
                reading.archive_lag = reading.log_head.saturating_sub(archived.head().0);
                reading.archive_failing = archived.is_failing();
            }
            Ok(metrics.encode(reading)?)
        });
        text.inspect_err(|error| tracing::warn!("the metrics cannot be read: {error:#}")).ok()
    };
    tokio::spawn(ops::serve(listener, metrics::CONTENT_TYPE, Arc::new(page)));
    tracing::info!(%address, "metrics are served");
    Ok(())
}

fn writer_ended(result: Result<Result<(), WriterError>, RecvError>) -> anyhow::Error {
    match result {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) | Err(_) => anyhow::anyhow!("the writer stopped without a reason"),
    }
}

fn say_that_it_ends(failure: Option<&anyhow::Error>) {
    if let Some(error) = failure {
        tracing::error!("no more writes, the server ends: {error}");
    } else {
        tracing::info!("the server ends");
    }
}

/// No start is to go on from what was checked before.
fn reread_badly(directory: &Directory, error: HeadError) -> anyhow::Error {
    directory.forget_checked();
    error.into()
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
            match service.sweep_daily().await {
                Ok(swept) => tracing::info!(persons = swept.subjects, "the retention was swept"),
                Err(error) => tracing::warn!("the retention sweep stopped: {error}"),
            }
        }
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}; is another server there?"))
}

/// Where the operator's commands come in, in a directory of this user's alone. A server serves also
/// without.
fn listen_for_operator(directory: &Directory) -> Option<UnixListener> {
    let path = directory.operator_socket();
    let listen = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
            fs::set_permissions(parent, fs::Permissions::from_mode(0o700))?;
        }
        match fs::remove_file(&path) {
            // That of a server which was killed; the lock says that there is no other.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener = listen();
    let shown = path.display();
    listener
        .inspect_err(|error| {
            tracing::warn!(
                "{shown} cannot be listened on: {error}; backups need the server stopped"
            );
        })
        .ok()
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

fn no_more_announced(directory: &Directory) {
    for told in [directory.listening_path(), directory.ops_path(), directory.operator_socket()] {
        // It may have been removed by hand.
        let _ = fs::remove_file(told);
    }
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
