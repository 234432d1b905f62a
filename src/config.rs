//! The configuration file. Each default is safe; `countersign config show` prints what holds.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::Product;
use crate::grpc::{Limits, Range};
use crate::ops::LoopbackAddr;
use crate::service::guessing::GuessLimits;
use crate::telemetry::LogSettings;

/// Where the erasure ledger lies by default.
pub const ERASURE_LEDGER: &str = "ledger/erasures";

/// The file that `init` writes: the defaults, with what they mean.
pub const TEMPLATE: &str = include_str!("config.toml");

/// All that can be set. Relative paths start at the directory that holds the file.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The `iss` of receipts. It must never change: a retry is answered byte for byte.
    pub issuer: String,
    /// Seconds that calls under way may take to end when the server is told to. 10.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u16,
    /// For apps.
    pub public: PublicListener,
    /// For staff.
    pub staff: StaffListener,
    /// For the operator's tools.
    #[serde(default)]
    pub ops: Ops,
    /// The ledger of erasures. Best on another disk than the data, beside the backups.
    #[serde(default = "erasure_ledger")]
    pub erasure_ledger: PathBuf,
    /// The continuous archive. None.
    #[serde(default)]
    pub archive: Option<Archive>,
    /// The log's checkpoints and tiles.
    #[serde(default)]
    pub transparency: Transparency,
    /// Memory and queue.
    #[serde(default)]
    pub storage: Storage,
    /// Days that a product's receipts are good for. For ever where it is not named.
    #[serde(default)]
    pub lease_days: BTreeMap<String, u16>,
    /// Recipients of data that the server tells by itself.
    #[serde(default, rename = "webhook")]
    pub webhooks: Vec<Webhook>,
    /// Log lines.
    #[serde(default)]
    pub log: LogSettings,
}

/// A backup that follows the log while the server runs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Where to: a new or empty directory, or a backup of this server; best on another disk.
    pub directory: PathBuf,
}

/// Where a recipient of data is told of rectification and erasure.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// As policy.toml names them.
    pub recipient: String,
    /// `https://host/path`.
    pub url: String,
    /// The file with the secret, `whsec_…` as Standard Webhooks has it.
    pub secret: PathBuf,
    /// The CAs that the recipient's certificate may be from, PEM. Those of the system.
    #[serde(default = "system_cas")]
    pub ca: PathBuf,
}

/// The listener for apps.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PublicListener {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Its certificate and those between it and the CA, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// What one client may cost.
    #[serde(default)]
    pub limits: Limits,
    /// How often keys and addresses may be tried.
    #[serde(default)]
    pub guessing: GuessLimits,
}

/// The listener for staff.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StaffListener {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Its certificate and those between it and the CA, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The CA whose certificates name staff, PEM.
    pub client_ca: PathBuf,
    /// Lists of revoked staff certificates (CRLs), PEM. Where there is no such file, none is
    /// revoked. `tls/staff-revoked.pem`.
    #[serde(default = "staff_revoked")]
    pub revoked: PathBuf,
    /// What one client may cost.
    #[serde(default)]
    pub limits: Limits,
}

/// The listener for the operator's tools.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ops {
    /// An address of this machine alone; port 0 takes a free one. Nothing is served without it.
    pub listen: Option<LoopbackAddr>,
}

/// How others may check the log.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transparency {
    /// Whether apps may ask for checkpoints and proofs too. A size tells how much is sold. No.
    pub public: bool,
    /// Seconds after which there is a new checkpoint while the log moves. 10.
    pub checkpoint_seconds: u64,
}

impl Default for Transparency {
    fn default() -> Self {
        Self { public: false, checkpoint_seconds: 10 }
    }
}

impl Transparency {
    fn ranges(&self) -> [Range; 1] {
        [("checkpoint_seconds", self.checkpoint_seconds, 1..=86_400)]
    }
}

/// Memory and queue.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// MiB that the log keeps in memory. 16.
    pub log_cache_mib: u64,
    /// MiB that the views keep in memory. 64.
    pub views_cache_mib: u64,
    /// Requests that may wait to be written; more are told to come again. 4096.
    pub queue: usize,
    /// Of a log with more records, what was checked before is checked again behind the serving server.
    /// 250,000.
    pub checked_first: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self { log_cache_mib: 16, views_cache_mib: 64, queue: 4096, checked_first: 250_000 }
    }
}

impl Storage {
    fn ranges(&self) -> [Range; 4] {
        [
            ("log_cache_mib", self.log_cache_mib, 1..=1 << 20),
            ("views_cache_mib", self.views_cache_mib, 1..=1 << 20),
            ("queue", u64::try_from(self.queue).unwrap_or(u64::MAX), 1..=1_000_000),
            ("checked_first", self.checked_first, 1..=1 << 40),
        ]
    }
}

fn drain_seconds() -> u16 {
    10
}

fn staff_revoked() -> PathBuf {
    "tls/staff-revoked.pem".into()
}

fn system_cas() -> PathBuf {
    "/etc/ssl/certs/ca-certificates.crt".into()
}

fn erasure_ledger() -> PathBuf {
    ERASURE_LEDGER.into()
}

/// Why a text is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, or not of the form; says the line.
    #[error("{0}")]
    Form(#[from] toml::de::Error),
    /// A value is not what it must be.
    #[error("{0} {1}")]
    Value(&'static str, &'static str),
    /// A number is out of its range.
    #[error("{0}.{1} must be {least} to {most}", least = .2.start(), most = .2.end())]
    Range(&'static str, &'static str, RangeInclusive<u64>),
}

impl Config {
    /// Reads a configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        if config.issuer.is_empty() || config.issuer.len() > 256 {
            return Err(ConfigError::Value("issuer", "must have 1 to 256 bytes"));
        }
        config.in_range()?;
        for (name, limits) in [
            ("public.limits.idle_seconds", config.public.limits),
            ("staff.limits.idle_seconds", config.staff.limits),
        ] {
            if limits.idle_seconds <= limits.call_seconds {
                return Err(ConfigError::Value(name, "must be more than call_seconds"));
            }
        }
        config.leases()?;
        Ok(config)
    }

    fn in_range(&self) -> Result<(), ConfigError> {
        let tables = [
            ("public.limits", self.public.limits.ranges().to_vec()),
            ("staff.limits", self.staff.limits.ranges().to_vec()),
            ("storage", self.storage.ranges().to_vec()),
            ("transparency", self.transparency.ranges().to_vec()),
        ];
        for (table, settings) in tables {
            for (name, value, range) in settings {
                if !range.contains(&value) {
                    return Err(ConfigError::Range(table, name, range));
                }
            }
        }
        Ok(())
    }

    /// How long the receipts of which product are good for.
    pub fn leases(&self) -> Result<HashMap<Product, Duration>, ConfigError> {
        let lease = |(name, days): (&String, &u16)| {
            let product = Product::parse(name)
                .map_err(|_| ConfigError::Value("lease_days", "must name products"))?;
            if *days == 0 {
                return Err(ConfigError::Value("lease_days", "must be at least 1 day each"));
            }
            Ok((product, Duration::from_secs(u64::from(*days) * 24 * 60 * 60)))
        };
        self.lease_days.iter().map(lease).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_states_the_defaults() {
        let config = Config::parse(TEMPLATE).unwrap();
        let stated = toml::to_string(&config).unwrap();
        let uncommented: String = TEMPLATE
            .lines()
            .map(|line| line.strip_prefix("#= ").unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(toml::to_string(&Config::parse(&uncommented).unwrap()).unwrap(), stated);
        assert!(uncommented.lines().count() > 30 && uncommented.contains("\nidle_seconds"));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (right, wrong, named) in [
            ("issuer", "isuer", "isuer"),
            ("127.0.0.1:8443", "localhost", "line "),
            (
                "#= idle_seconds = 12",
                "[public.limits]\nidle_seconds = 10",
                "public.limits.idle_seconds",
            ),
            ("#= queue = 4096", "[storage]\nqueue = 0", "storage.queue"),
            ("[public]\n", "[ops]\nlisten = \"0.0.0.0:9464\"\n[public]\n", "this machine"),
            ("[public]\n", "[lease_days]\nApp = 0\n[public]\n", "lease_days"),
        ] {
            let text = TEMPLATE.replacen(right, wrong, 1).replacen("\n#= [storage]", "", 1);
            let error = Config::parse(&text).unwrap_err().to_string();
            assert!(error.contains(named), "{wrong}: {error}");
        }
    }

    #[test]
    fn no_number_is_absurd() {
        let numbers = |prefix: &str, ranges: &[Range]| -> Vec<(String, RangeInclusive<u64>)> {
            let range = |(name, _, range): &Range| (format!("[{prefix}]\n{name}"), range.clone());
            ranges.iter().map(range).collect()
        };
        let mut settings = numbers("storage", &Storage::default().ranges());
        settings.extend(numbers("transparency", &Transparency::default().ranges()));
        for listener in ["public.limits", "staff.limits"] {
            settings.extend(numbers(listener, &Limits::default().ranges()));
        }
        for (setting, range) in settings {
            let with = |value: u64| Config::parse(&format!("{TEMPLATE}\n{setting} = {value}\n"));
            for good in [*range.start(), *range.end()] {
                let is_out = matches!(with(good), Err(ConfigError::Range(..)));
                assert!(!is_out, "{setting} = {good}");
            }
            for absurd in [range.start() - 1, range.end() + 1, i64::MAX.unsigned_abs()] {
                let error = with(absurd).unwrap_err().to_string();
                let (_, name) = setting.split_once('\n').unwrap();
                assert!(error.contains(name), "{setting} = {absurd}: {error}");
            }
        }
    }
}
