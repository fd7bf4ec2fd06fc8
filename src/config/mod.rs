//! What the service and its clients are told: flag > variable > file > default, from one table of settings.
//!
//! Nothing unknown is let pass, nothing wrong is guessed around, and every problem names its place: the flag, the
//! variable, or the file's line and key. Values never appear in a problem; secrets never appear at all.
//!
//! Never here: the command line's grammar (`cli`), what the values do.

mod duration;
mod layers;
mod secret;
mod settings;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;

use crate::http::{Tls, TlsError};
use crate::keys::KeyFile;
use crate::model::Resolution;
pub use duration::parse as parse_duration;
pub use layers::{Flags, Problem, Problems, Settings, Source, Value};
pub use secret::{Secret, SecretUrl, redact};
pub use settings::{
    CONFIG_VARIABLE, Command, MAX_DRIVERS, MAX_RETENTION, MAX_STORES, MIN_RETENTION, SETTINGS, Setting, StoreChoice,
    VARIABLE_PREFIX,
};

/// What `geotrail serve` runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where to listen. Beyond loopback only if that was allowed by name.
    pub listen: SocketAddr,
    /// The file of API keys; `None`: whoever comes is let in.
    pub keys: Option<PathBuf>,
    /// The files of the certificate and of its key; `None`: nothing is encrypted.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The journal and its indexes.
    pub index: IndexConfig,
    /// What whoever starts the service should know: that it runs open, that a password can be seen.
    pub warnings: Vec<String>,
}

/// A journal and its indexes: what `serve`, `rebuild`, `verify` and `deadletter` have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexConfig {
    /// Where the journal and the embedded store live.
    pub data_dir: PathBuf,
    /// Where each index lives, at least one; the first is the one that answers.
    pub stores: Vec<StoreChoice>,
    /// How long points are kept: [`MIN_RETENTION`] to [`MAX_RETENTION`].
    pub retention: Duration,
    /// What every Redis key begins with: 1 to 32 of `A-Z a-z 0-9 _ -`.
    pub redis_prefix: String,
    /// The certificates to trust where Redis is reached by TLS; `None`: those of the system.
    pub redis_ca: Option<PathBuf>,
    /// The size of the H3 cells that an hour is spread by in Redis; `None`: it is not spread.
    pub shard_resolution: Option<Resolution>,
}

/// What `geotrail simulate` runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulateConfig {
    /// The service to send to.
    pub to: SecretUrl,
    /// The API key to call with.
    pub key: Option<Secret>,
    /// The certificates to trust; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// How many drivers, at most [`MAX_DRIVERS`].
    pub drivers: u32,
    /// How often each reports.
    pub interval: Duration,
    /// How long; `None`: until told to stop.
    pub duration: Option<Duration>,
    /// The same seed drives the same ways.
    pub seed: u64,
}

/// What `geotrail replay` runs with, beside the file.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayConfig {
    /// The service to send to.
    pub to: SecretUrl,
    /// The API key to call with.
    pub key: Option<Secret>,
    /// The certificates to trust; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// How many times faster than recorded; `None`: as fast as it is acknowledged.
    pub speed: Option<f64>,
    /// Whether the newest point is shifted to now.
    pub now: bool,
}

/// What `geotrail doctor` runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoctorConfig {
    /// The Redis to look at.
    pub redis: SecretUrl,
    /// The certificates to trust where it is reached by TLS; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// What the keys of geotrail begin with.
    pub prefix: String,
    /// Whether what was found is printed as JSON.
    pub json: bool,
}

impl Settings {
    /// For `serve`: also checks what no setting can check by itself.
    pub fn serve(&self) -> Result<ServeConfig, Problems> {
        self.try_serve().map_err(|problem| Problems(vec![problem]))
    }

    fn try_serve(&self) -> Result<ServeConfig, Problem> {
        let listen = self.read_or_default("listen", settings::listen)?;
        let keys = self.read("keys", |text| Ok(PathBuf::from(text)))?;
        if let Some(path) = &keys {
            KeyFile::at(path).read().map_err(|error| Problem::Keys(self.place("keys"), error))?;
        }
        let tls = self.tls()?;
        let mut warnings = Vec::new();
        let (is_open, is_plain) = (keys.is_none(), tls.is_none());
        if !listen.ip().is_loopback() {
            self.beyond_loopback(is_open, is_plain)?;
            if is_open {
                warnings.push("runs open: whoever reaches this address may read and write".to_owned());
            }
            if is_plain {
                warnings.push("runs unencrypted: what is sent can be read on its way".to_owned());
            }
        } else if is_open {
            warnings.push("runs open: whoever is on this machine may read and write".to_owned());
        }
        let index = self.try_index(&mut warnings)?;
        Ok(ServeConfig { listen, keys, tls, index, warnings })
    }

    /// What is missing must be done without by name.
    fn beyond_loopback(&self, is_open: bool, is_plain: bool) -> Result<(), Problem> {
        let ways = [
            (is_open, "--keys", "allow-open", "open to everybody"),
            (is_plain, "--tls-cert", "allow-plaintext", "unencrypted"),
        ];
        let missing: Vec<_> = ways.into_iter().filter(|(lacks, _, name, _)| *lacks && !self.is_on(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let all = |word: fn(&(bool, &'static str, &'static str, &'static str)) -> &'static str, between: &str| {
            missing.iter().map(word).collect::<Vec<_>>().join(between)
        };
        Err(Problem::Conflict(format!(
            "{}: not a loopback address, and there is no {}; to listen there all the same, {}, add --{}",
            self.place("listen"),
            all(|(_, flag, ..)| flag, " and no "),
            all(|(.., how)| how, " and "),
            all(|(_, _, name, _)| name, " --")
        )))
    }

    /// The certificate and its key, which are only of use together.
    fn tls(&self) -> Result<Option<(PathBuf, PathBuf)>, Problem> {
        let file = |name| self.read(name, |text| Ok(PathBuf::from(text)));
        match (file("tls-cert")?, file("tls-key")?) {
            (Some(certificate), Some(key)) => {
                let wrong = |error: TlsError| {
                    let setting = if error.path() == key { "tls-key" } else { "tls-cert" };
                    Problem::Conflict(format!("{}: {error}", self.place(setting)))
                };
                Tls::open(&certificate, &key).map_err(wrong)?;
                Ok(Some((certificate, key)))
            }
            (None, None) => Ok(None),
            (certificate, _) => {
                let (given, lacking) =
                    if certificate.is_some() { ("tls-cert", "tls-key") } else { ("tls-key", "tls-cert") };
                Err(Problem::Conflict(format!("{}: of no use without --{lacking}", self.place(given))))
            }
        }
    }

    /// For `key`: the file of keys.
    pub fn keys(&self) -> Result<PathBuf, Problems> {
        let file = self.read("keys", |text| Ok(PathBuf::from(text))).map_err(|problem| Problems(vec![problem]))?;
        let missing = "--keys: say which file holds the keys; it is made if there is none";
        file.ok_or_else(|| Problems(vec![Problem::Conflict(missing.to_owned())]))
    }

    /// The key to call with.
    fn key(&self) -> Result<Option<Secret>, Problem> {
        let Some(file) = self.get("key-file") else { return Ok(None) };
        let path = PathBuf::from(&file.text);
        match std::fs::read_to_string(&path) {
            Ok(text) if HeaderValue::from_str(text.trim()).is_ok() => Ok(Some(Secret::new(text.trim()))),
            Ok(_) => Err(Problem::Unreadable { path, reason: "expected a key, in one line".to_owned() }),
            Err(error) => Err(Problem::Unreadable { path, reason: error.to_string() }),
        }
    }

    /// For `rebuild`, `verify` and `deadletter`; and what whoever starts them should know.
    pub fn index(&self) -> Result<(IndexConfig, Vec<String>), Problems> {
        let mut warnings = Vec::new();
        let index = self.try_index(&mut warnings).map_err(|problem| Problems(vec![problem]))?;
        Ok((index, warnings))
    }

    fn try_index(&self, warnings: &mut Vec<String>) -> Result<IndexConfig, Problem> {
        let stores = self.stores(warnings)?;
        let asks_for_tls = |store: &StoreChoice| matches!(store, StoreChoice::Redis(url) if url.asks_for_tls());
        let redis_ca = self.redis_ca(stores.iter().any(asks_for_tls))?;
        Ok(IndexConfig {
            data_dir: self.read_or_default("data-dir", |text| Ok(PathBuf::from(text)))?,
            stores,
            redis_ca,
            retention: self.read_or_default("retention", settings::retention)?,
            redis_prefix: self.read_or_default("redis-prefix", |text| Ok(text.to_owned()))?,
            shard_resolution: self.read_or_default("shard-resolution", settings::shard_resolution)?,
        })
    }

    /// The certificates to trust, given whether any Redis is asked for that.
    fn redis_ca(&self, is_used: bool) -> Result<Option<PathBuf>, Problem> {
        let ca = self.read("redis-ca", |text| Ok(PathBuf::from(text)))?;
        if ca.is_some() && !is_used {
            return Err(Problem::Conflict(format!(
                "{}: says whom to trust, but Redis is not reached by TLS; its URL would begin with rediss",
                self.place("redis-ca")
            )));
        }
        Ok(ca)
    }

    /// For `simulate`.
    pub fn simulate(&self) -> Result<SimulateConfig, Problems> {
        let config = || {
            Ok(SimulateConfig {
                to: self.read_or_default("to", settings::to)?,
                key: self.key()?,
                ca: self.read("ca", |text| Ok(PathBuf::from(text)))?,
                drivers: self.read_or_default("drivers", settings::drivers)?,
                interval: self.read_or_default("interval", settings::interval)?,
                duration: self.read("duration", settings::run_time)?,
                seed: self.read_or_default("seed", settings::seed)?,
            })
        };
        config().map_err(|problem| Problems(vec![problem]))
    }

    /// For `replay`.
    pub fn replay(&self) -> Result<ReplayConfig, Problems> {
        let config = || {
            Ok(ReplayConfig {
                to: self.read_or_default("to", settings::to)?,
                key: self.key()?,
                ca: self.read("ca", |text| Ok(PathBuf::from(text)))?,
                speed: self.read_or_default("speed", settings::speed)?,
                now: self.is_on("now"),
            })
        };
        config().map_err(|problem| Problems(vec![problem]))
    }

    /// For `doctor`; and what whoever starts it should know.
    pub fn doctor(&self) -> Result<(DoctorConfig, Vec<String>), Problems> {
        let mut warnings = Vec::new();
        let config = self.try_doctor(&mut warnings).map_err(|problem| Problems(vec![problem]))?;
        Ok((config, warnings))
    }

    fn try_doctor(&self, warnings: &mut Vec<String>) -> Result<DoctorConfig, Problem> {
        let redis = self.redis(warnings)?;
        let ca = self.redis_ca(redis.asks_for_tls())?;
        let prefix = self.read_or_default("redis-prefix", |text| Ok(text.to_owned()))?;
        Ok(DoctorConfig { redis, ca, prefix, json: self.is_on("json") })
    }

    /// The Redis to look at: `redis_file` if whoever names it outranks whoever names `redis`.
    fn redis(&self, warnings: &mut Vec<String>) -> Result<SecretUrl, Problem> {
        let (named, file) = (self.get("redis"), self.get("redis-file"));
        match (named, file) {
            (Some(named), Some(file)) if rank(&file.source) == rank(&named.source) => {
                Err(Problem::Conflict(format!(
                    "{} and {}: both say where Redis is; give one",
                    self.place("redis"),
                    self.place("redis-file")
                )))
            }
            (named, Some(file)) if named.is_none_or(|named| file.source > named.source) => {
                let path = PathBuf::from(&file.text);
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| Problem::Unreadable { path: path.clone(), reason: error.to_string() })?;
                settings::redis(&text).map_err(|reason| Problem::Wrong {
                    source_of: Source::File(path, 1),
                    key: "redis".to_owned(),
                    reason,
                })
            }
            _ => {
                let missing = "--redis: say which Redis to look at, such as redis://127.0.0.1:6379";
                let redis = self.read("redis", settings::redis)?;
                let redis = redis.ok_or_else(|| Problem::Conflict(missing.to_owned()))?;
                if redis.has_secret() && named.is_some_and(|named| matches!(named.source, Source::Flag(_))) {
                    warnings.push(
                        "--redis holds a password that every process of this machine can see; give it in \
                         GEOTRAIL_REDIS or in --redis-file"
                            .to_owned(),
                    );
                }
                Ok(redis)
            }
        }
    }

    /// Every setting in force as a line of TOML with who said so, secrets hidden.
    pub fn describe(&self) -> String {
        let mut lines = String::new();
        for setting in SETTINGS {
            if let Some(value) = self.get(setting.name) {
                let text = toml::Value::from(redact(&value.text));
                let line = format!("{} = {text}", setting.key());
                let _infallible = writeln!(lines, "{line:<48} # {}", value.source);
            }
        }
        lines
    }

    /// The stores: `store_file` if whoever names it outranks whoever names `store`.
    fn stores(&self, warnings: &mut Vec<String>) -> Result<Vec<StoreChoice>, Problem> {
        let named = self.get("store").expect("the table of settings gives it a default");
        match self.get("store-file") {
            Some(file) if rank(&file.source) == rank(&named.source) => Err(Problem::Conflict(format!(
                "{} and {}: both say where the store is; give one",
                self.place("store"),
                self.place("store-file")
            ))),
            Some(file) if file.source > named.source => Self::stores_in_file(file),
            _ => {
                let stores = self.read_or_default("store", settings::stores)?;
                let has_secret = |store: &StoreChoice| matches!(store, StoreChoice::Redis(url) if url.has_secret());
                let secret = stores.iter().any(has_secret);
                if secret && matches!(named.source, Source::Flag(_)) {
                    warnings.push(
                        "--store holds a password that every process of this machine can see; give it in \
                         GEOTRAIL_STORE or in --store-file"
                            .to_owned(),
                    );
                }
                Ok(stores)
            }
        }
    }

    fn stores_in_file(file: &Value) -> Result<Vec<StoreChoice>, Problem> {
        let path = PathBuf::from(&file.text);
        match std::fs::read_to_string(&path) {
            Ok(text) => settings::stores(&text).map_err(|reason| Problem::Wrong {
                source_of: Source::File(path, 1),
                key: "store".to_owned(),
                reason,
            }),
            Err(error) => Err(Problem::Unreadable { path, reason: error.to_string() }),
        }
    }

    fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.text == "true")
    }

    fn place(&self, name: &str) -> String {
        match self.get(name).map(|value| &value.source) {
            Some(source @ Source::File(..)) => format!("{source}: `{}`", name.replace('-', "_")),
            Some(source) => source.to_string(),
            None => format!("--{name}"),
        }
    }
}

/// Sources of the same rank contradict each other; of two ranks the greater wins.
fn rank(source: &Source) -> u8 {
    match source {
        Source::Default => 0,
        Source::File(..) => 1,
        Source::Variable(_) => 2,
        Source::Flag(_) => 3,
    }
}
