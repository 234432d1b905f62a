//! Honest clients, who must notice nothing; and what the server uses meanwhile.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use countersign::proto::v1::GetSigningKeysRequest;
use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::MutexGuard;
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};

use crate::ALONE;
use crate::support::{Place, Server, activation};

/// How much the server's resident memory may grow.
const MOST_GROWTH: u64 = 64 << 20;
/// How much slower honest calls may become, at the 99th percentile.
const MOST_SLOWER: u32 = 5;
/// Below that nothing is slow: the server shares its two processors with whatever runs there. In a debug
/// build it is unoptimised.
const NOT_SLOW: Duration = Duration::from_millis(if cfg!(debug_assertions) { 250 } else { 20 });
/// Slow and idle connections are gone so long after their clients did anything. The longest that
/// one may stay is 12 s; the rest is for a slow machine.
const GONE: Duration = Duration::from_secs(15);
/// How often descriptors are counted.
const LOOK: Duration = Duration::from_millis(100);
/// The descriptors that a server has without connections.
const OWN_DESCRIPTORS: usize = 40;
/// Before an attack is measured, how fast calls are without.
const CALM: Duration = Duration::from_secs(2);

/// What honest clients run on.
struct Honest(Option<Runtime>);

impl Honest {
    fn new() -> Self {
        let mut runtime = Builder::new_multi_thread();
        runtime.worker_threads(1).thread_name("honest").enable_all();
        Self(Some(runtime.build().unwrap()))
    }

    fn spawn<T: Send + 'static>(
        &self,
        client: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.0.as_ref().unwrap().spawn(client)
    }
}

impl Drop for Honest {
    /// No runtime may be waited for within another.
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

/// Clients that call until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<Duration>>>,
}

impl Load {
    fn start(honest: &Honest, server: &Server, key: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        // Apps that stay connected and activate.
        for _ in 0..2 {
            let (endpoint, key) = (server.public_endpoint(), key.to_owned());
            let stop = Arc::clone(&stop);
            tasks.push(honest.spawn(async move {
                let mut app = ActivationServiceClient::new(endpoint.connect_lazy());
                let mut times = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let request = activation("ada@example.com", &key, rand::random());
                    let before = Instant::now();
                    app.activate(request).await.expect("no honest call is lost");
                    times.push(before.elapsed());
                    sleep(Duration::from_millis(2)).await;
                }
                times
            }));
        }
        // And those that connect for each call.
        let (endpoint, stop_too) = (server.public_endpoint(), Arc::clone(&stop));
        tasks.push(honest.spawn(async move {
            let mut times = Vec::new();
            while !stop_too.load(Ordering::Relaxed) {
                let before = Instant::now();
                let channel = endpoint.connect().await.expect("no honest client is kept out");
                let mut app = ActivationServiceClient::new(channel);
                let call = app.get_signing_keys(GetSigningKeysRequest {}).await;
                call.expect("no honest call is lost");
                times.push(before.elapsed());
                sleep(Duration::from_millis(10)).await;
            }
            times
        }));
        Self { stop, tasks }
    }

    async fn end(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for task in self.tasks {
            times.extend(task.await.unwrap());
        }
        times.sort_unstable();
        times
    }
}

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

/// A figure of the server's, in bytes.
fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Attackers have machines of their own. So their threads, which are those of the test's runtime, run here
/// only while neither the server nor the honest want the processor.
fn attackers_give_way() {
    for thread in fs::read_dir("/proc/self/task").unwrap() {
        let thread = thread.unwrap();
        // One that has just ended has no name.
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if name.starts_with("tokio-r") {
            let mut chrt = Command::new("chrt");
            let done =
                chrt.args(["--idle", "--pid", "0"]).arg(thread.file_name()).output().unwrap();
            assert!(done.status.success() || !thread.path().exists(), "{done:?}");
        }
    }
}

/// A server with honest clients, and how fast their calls are when nothing else happens.
pub(crate) struct Watched {
    pub(crate) server: Server,
    /// The honest clients' own.
    honest: Honest,
    key: String,
    calm: Duration,
    /// The most descriptors of the last attack.
    peak: AtomicUsize,
    // After the server, which is in it.
    _place: Place,
    _alone: MutexGuard<'static, ()>,
}

impl Watched {
    /// Starts a server with these lines in its configuration, when no other test runs, and
    /// measures the calm.
    pub(crate) async fn start(configuration: &str) -> Self {
        let alone = ALONE.lock().await;
        let place = Place::new();
        place.configure(configuration);
        let server = place.start();
        let key = server.issue("ada@example.com", "App", 100_000).await;
        let honest = Honest::new();
        attackers_give_way();
        let load = Load::start(&honest, &server, &key);
        sleep(CALM).await;
        let calm = p99(&load.end().await);
        Self { server, honest, key, calm, peak: AtomicUsize::new(0), _place: place, _alone: alone }
    }

    /// The most descriptors that the server had during the last attack.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Waits until the connections of an attack are gone, whose clients do nothing from here on.
    pub(crate) async fn is_alone(&self) {
        let began = Instant::now();
        let gone = async {
            let mut look = interval(LOOK);
            while descriptors(self.server.pid()) > OWN_DESCRIPTORS {
                look.tick().await;
            }
        };
        timeout(GONE, gone).await.expect("the attack's connections stay");
        println!("gone after {:.1?}", began.elapsed());
    }

    /// Runs an attack, and fails if the server lets others feel it, or may be open for more than
    /// `connections`.
    pub(crate) async fn bears<T>(
        &self,
        name: &str,
        connections: usize,
        attack: impl Future<Output = T>,
    ) -> T {
        let pid = self.server.pid();
        // The peak is counted from here on.
        fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        let before = memory(pid, "VmRSS");
        attackers_give_way();
        let load = Load::start(&self.honest, &self.server, &self.key);
        let mut open = 0;
        let began = Instant::now();
        let mut attack = std::pin::pin!(attack);
        let mut timer = interval(LOOK);
        let result = loop {
            tokio::select! {
                result = &mut attack => break result,
                _ = timer.tick() => open = open.max(descriptors(pid)),
            }
        };
        let took = began.elapsed();
        let times = load.end().await;
        let grown = memory(pid, "VmHWM").saturating_sub(before);
        let (calm, now) = (self.calm, p99(&times));
        println!(
            "{name}: {took:.1?}, {} honest calls, 99th percentile {now:.1?} (calm {calm:.1?}), \
             {} KiB more, {open} descriptors",
            times.len(),
            grown >> 10
        );
        assert!(grown < MOST_GROWTH, "{name}: {grown} bytes more");
        assert!(open <= connections + OWN_DESCRIPTORS, "{name}: {open} descriptors");
        self.peak.store(open, Ordering::Relaxed);
        assert!(now <= NOT_SLOW.max(calm * MOST_SLOWER), "{name}: {now:?}, calm {calm:?}");
        result
    }
}
