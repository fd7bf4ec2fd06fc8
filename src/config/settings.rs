//! The one table of settings: what each is called, what it may be, what it is when nobody says. Flags, variables, keys
//! and help all come from here, so they cannot differ.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::duration;
use super::secret::SecretUrl;
use crate::model::Resolution;

/// The commands that take settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `geotrail serve`
    Serve,
    /// `geotrail simulate`
    Simulate,
    /// `geotrail replay`
    Replay,
    /// `geotrail rebuild`
    Rebuild,
    /// `geotrail verify`
    Verify,
    /// `geotrail deadletter list`
    DeadLetterList,
    /// `geotrail deadletter replay`
    DeadLetterReplay,
    /// `geotrail key new`, `list` and `revoke`
    Key,
    /// `geotrail doctor`
    Doctor,
}

/// One setting: `--data-dir`, `GEOTRAIL_DATA_DIR` and `data_dir` are the same.
#[derive(Debug)]
pub struct Setting {
    /// The flag, without its dashes.
    pub name: &'static str,
    /// What its value is called in help; `None` for a switch, whose value is `true` or `false`.
    pub value: Option<&'static str>,
    /// The value when nobody gives one.
    pub default: Option<&'static str>,
    /// A sentence for help.
    pub help: &'static str,
    /// Who takes it.
    pub commands: &'static [Command],
    /// Says what was expected, without echoing what came.
    pub(super) check: fn(&str) -> Result<(), String>,
}

impl Setting {
    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key().to_ascii_uppercase())
    }

    /// Whether the flag may be given more than once: its values are then parted by blanks.
    pub fn is_repeatable(&self) -> bool {
        self.name == "store"
    }

    /// Its key in the file.
    pub fn key(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// What every variable begins with.
pub const VARIABLE_PREFIX: &str = "GEOTRAIL_";
/// The variable that names the file, where `--config` does not.
pub const CONFIG_VARIABLE: &str = "GEOTRAIL_CONFIG";

/// The least the service keeps: the trailing hour spans two clock hours.
pub const MIN_RETENTION: Duration = Duration::from_hours(2);
/// The most: ten years, so that no sum of hours can overflow.
pub const MAX_RETENTION: Duration = Duration::from_hours(10 * 366 * 24);
/// The most stores that follow one journal.
pub const MAX_STORES: usize = 4;
/// The most drivers one simulation drives.
pub const MAX_DRIVERS: u32 = 1_000_000;

const SERVE: &[Command] = &[Command::Serve];
/// Whoever works on a data directory.
const DATA: &[Command] =
    &[Command::Serve, Command::Rebuild, Command::Verify, Command::DeadLetterList, Command::DeadLetterReplay];
/// Whoever works on stores.
const STORES: &[Command] = &[Command::Serve, Command::Rebuild, Command::Verify, Command::DeadLetterReplay];
const SIMULATE: &[Command] = &[Command::Simulate];
const REPLAY: &[Command] = &[Command::Replay];
/// Whoever works on API keys.
const KEYS: &[Command] = &[Command::Serve, Command::Key];
const CLIENTS: &[Command] = &[Command::Simulate, Command::Replay];
const DOCTOR: &[Command] = &[Command::Doctor];
/// Whoever speaks of the keys in Redis.
const PREFIX: &[Command] =
    &[Command::Serve, Command::Rebuild, Command::Verify, Command::DeadLetterReplay, Command::Doctor];

/// Every setting there is.
pub static SETTINGS: &[Setting] = &[
    Setting {
        name: "listen",
        value: Some("ADDRESS:PORT"),
        default: Some("127.0.0.1:8080"),
        help: "Where to listen; port 0 takes a free one",
        commands: SERVE,
        check: |text| listen(text).map(drop),
    },
    Setting {
        name: "data-dir",
        value: Some("DIR"),
        default: Some("./geotrail-data"),
        help: "Where the journal and the embedded store live",
        commands: DATA,
        check: |text| if text.is_empty() { Err("expected a directory".to_owned()) } else { Ok(()) },
    },
    Setting {
        name: "store",
        value: Some("STORE"),
        default: Some("embedded"),
        help: "`embedded`, or a URL: redis://, rediss://, redis-cluster://, redis-sentinel://, redis+unix://. Several, \
               parted by blanks (or given one by one): the first answers, the others where it cannot",
        commands: STORES,
        check: |text| stores(text).map(drop),
    },
    Setting {
        name: "store-file",
        value: Some("FILE"),
        default: None,
        help: "A file that holds the value of --store (a line each), so that its password shows nowhere",
        commands: STORES,
        check: |text| if text.is_empty() { Err("expected a file".to_owned()) } else { Ok(()) },
    },
    Setting {
        name: "retention",
        value: Some("DURATION"),
        default: Some("48h"),
        help: "How long points are kept: 90m, 48h, 2d, ...; at least 2h",
        commands: STORES,
        check: |text| retention(text).map(drop),
    },
    Setting {
        name: "shard-resolution",
        value: Some("RESOLUTION"),
        default: Some("none"),
        help: "`none`, or the H3 resolution (0 to 9) by which an hour is spread over a cluster",
        commands: STORES,
        check: |text| shard_resolution(text).map(drop),
    },
    Setting {
        name: "redis-prefix",
        value: Some("PREFIX"),
        default: Some("geotrail"),
        help: "What every Redis key begins with: 1 to 32 of A-Z a-z 0-9 _ -",
        commands: PREFIX,
        check: redis_prefix,
    },
    Setting {
        name: "redis-ca",
        value: Some("FILE"),
        default: None,
        help: "The certificates to trust where the URL of Redis asks for TLS; without it, those of the system",
        commands: &[Command::Serve, Command::Doctor],
        check: |text| if text.is_empty() { Err("expected a file".to_owned()) } else { Ok(()) },
    },
    Setting {
        name: "redis",
        value: Some("URL"),
        default: None,
        help: "The Redis to look at: redis://, rediss://, redis-cluster://, redis-sentinel://, redis+unix://",
        commands: DOCTOR,
        check: |text| redis(text).map(drop),
    },
    Setting {
        name: "redis-file",
        value: Some("FILE"),
        default: None,
        help: "A file that holds the value of --redis, so that its password shows nowhere",
        commands: DOCTOR,
        check: |text| if text.is_empty() { Err("expected a file".to_owned()) } else { Ok(()) },
    },
    Setting {
        name: "json",
        value: None,
        default: Some("false"),
        help: "Print one object of JSON in the place of text",
        commands: DOCTOR,
        check: |text| switch(text).map(drop),
    },
    Setting {
        name: "keys",
        value: Some("FILE"),
        default: None,
        help: "A file of API keys, as hashes, that `geotrail key` makes; without it whoever calls is let in",
        commands: KEYS,
        check: |text| if text.is_empty() { Err("expected a file".to_owned()) } else { Ok(()) },
    },
    Setting {
        name: "tls-cert",
        value: Some("FILE"),
        default: None,
        help: "The certificate of the service and those that vouch for it, PEM; with it the service speaks TLS",
        commands: SERVE,
        check: |text| if text.is_empty() { Err("expected a file".to_owned()) } else { Ok(()) },
    },
    Setting {
        name: "tls-key",
        value: Some("FILE"),
        default: None,
        help: "The key of the certificate, PEM",
        commands: SERVE,
        check: |text| if text.is_empty() { Err("expected a file".to_owned()) } else { Ok(()) },
    },
    Setting {
        name: "allow-open",
        value: None,
        default: Some("false"),
        help: "Listen beyond loopback although anybody may then read and write",
        commands: SERVE,
        check: |text| switch(text).map(drop),
    },
    Setting {
        name: "allow-plaintext",
        value: None,
        default: Some("false"),
        help: "Listen beyond loopback although nothing is encrypted",
        commands: SERVE,
        check: |text| switch(text).map(drop),
    },
    Setting {
        name: "to",
        value: Some("URL"),
        default: Some("http://127.0.0.1:8080"),
        help: "The service to send to",
        commands: CLIENTS,
        check: |text| to(text).map(drop),
    },
    Setting {
        name: "key-file",
        value: Some("FILE"),
        default: None,
        help: "A file that holds the API key to call with",
        commands: CLIENTS,
        check: |text| if text.is_empty() { Err("expected a file".to_owned()) } else { Ok(()) },
    },
    Setting {
        name: "ca",
        value: Some("FILE"),
        default: None,
        help: "The certificates to trust where the URL of the service asks for TLS; without it, those of the system",
        commands: CLIENTS,
        check: |text| if text.is_empty() { Err("expected a file".to_owned()) } else { Ok(()) },
    },
    Setting {
        name: "drivers",
        value: Some("N"),
        default: Some("500"),
        help: "How many drivers, up to 1,000,000",
        commands: SIMULATE,
        check: |text| drivers(text).map(drop),
    },
    Setting {
        name: "interval",
        value: Some("DURATION"),
        default: Some("5s"),
        help: "How often each driver reports, from 100ms to 1h",
        commands: SIMULATE,
        check: |text| interval(text).map(drop),
    },
    Setting {
        name: "duration",
        value: Some("DURATION"),
        default: None,
        help: "How long to drive; without it, until Ctrl-C",
        commands: SIMULATE,
        check: |text| run_time(text).map(drop),
    },
    Setting {
        name: "seed",
        value: Some("NUMBER"),
        default: Some("1"),
        help: "The same seed drives the same ways",
        commands: SIMULATE,
        check: |text| seed(text).map(drop),
    },
    Setting {
        name: "speed",
        value: Some("FACTOR"),
        default: Some("max"),
        help: "How many times faster than recorded, such as 60; `max`: as fast as it is acknowledged",
        commands: REPLAY,
        check: |text| speed(text).map(drop),
    },
    Setting {
        name: "now",
        value: None,
        default: Some("false"),
        help: "Shift the trace so that its newest point is now",
        commands: REPLAY,
        check: |text| switch(text).map(drop),
    },
];

/// Where the index lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// In this process.
    Embedded,
    /// In Redis, at a URL as fred reads them.
    Redis(SecretUrl),
}

impl StoreChoice {
    /// As `--store` has it; or what was expected, without what came.
    pub fn parse(text: &str) -> Result<Self, String> {
        store(text)
    }

    /// As `--store` has it, with whatever is secret.
    pub fn expose(&self) -> &str {
        match self {
            Self::Embedded => "embedded",
            Self::Redis(url) => url.expose(),
        }
    }
}

/// Without what is secret.
impl fmt::Display for StoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Redis(url) => url.fmt(f),
        }
    }
}

const STORE_SCHEMES: [&str; 14] = [
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
    "redis+unix",
    "valkey",
    "valkeys",
    "valkey-cluster",
    "valkeys-cluster",
    "valkey-sentinel",
    "valkeys-sentinel",
    "valkey+unix",
];

pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an address and a port, such as 127.0.0.1:8080 or [::1]:8080".to_owned())
}

/// Where each index lives, parted by blanks, which no URL has.
pub(super) fn stores(text: &str) -> Result<Vec<StoreChoice>, String> {
    let mut stores = Vec::new();
    for word in text.split_whitespace() {
        let choice = store(word)?;
        if stores.contains(&choice) {
            return Err("expected each store once".to_owned());
        }
        stores.push(choice);
    }
    match stores.len() {
        0 => store("").map(|choice| vec![choice]),
        1..=MAX_STORES => Ok(stores),
        _ => Err(format!("expected at most {MAX_STORES} stores")),
    }
}

fn store(text: &str) -> Result<StoreChoice, String> {
    if text == "embedded" {
        return Ok(StoreChoice::Embedded);
    }
    redis_or(text, "`embedded`, or ").map(StoreChoice::Redis)
}

/// Where a Redis is.
pub(super) fn redis(text: &str) -> Result<SecretUrl, String> {
    redis_or(text.trim(), "")
}

/// The same, where something else would do too.
fn redis_or(text: &str, other: &str) -> Result<SecretUrl, String> {
    let (scheme, rest) = text
        .split_once("://")
        .filter(|(scheme, _)| STORE_SCHEMES.contains(scheme))
        .ok_or_else(|| format!("expected {other}a URL that begins with {}://", STORE_SCHEMES[..7].join("://, ")))?;
    let place_is_fine =
        if scheme.ends_with("+unix") { rest.contains('/') && !rest.ends_with('/') } else { names_a_host(rest) };
    if !place_is_fine || text.chars().any(char::is_whitespace) {
        return Err(format!("expected {scheme}:// and where it is, such as {}", example(scheme)));
    }
    Ok(SecretUrl::new(text))
}

fn example(scheme: &str) -> String {
    if scheme.ends_with("+unix") {
        format!("{scheme}:///run/redis/redis.sock")
    } else {
        format!("{scheme}://127.0.0.1:6379")
    }
}

/// Whether `user:password@host:port/rest` has a host and, if any, a port from 1 to 65535.
fn names_a_host(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    };
    !host.is_empty() && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

pub(super) fn retention(text: &str) -> Result<Duration, String> {
    duration::parse(text)
        .filter(|retention| (MIN_RETENTION..=MAX_RETENTION).contains(retention))
        .ok_or_else(|| "expected a duration with its unit, such as 48h or 2d, from 2h to 3660d".to_owned())
}

/// `None` for `none`.
pub(super) fn shard_resolution(text: &str) -> Result<Option<Resolution>, String> {
    let resolution = || text.parse().ok().filter(|_| text.len() == 1).and_then(Resolution::new);
    match text {
        "none" => Ok(None),
        _ => resolution().map(Some).ok_or_else(|| "expected `none` or a resolution from 0 to 9".to_owned()),
    }
}

fn redis_prefix(text: &str) -> Result<(), String> {
    let fine =
        (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if fine { Ok(()) } else { Err("expected 1 to 32 of A-Z a-z 0-9 _ -".to_owned()) }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected `true` or `false`".to_owned())
}

pub(super) fn to(text: &str) -> Result<SecretUrl, String> {
    reqwest::Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none())
        .map(|_| SecretUrl::new(text))
        .ok_or_else(|| "expected the URL of a geotrail service, such as http://127.0.0.1:8080".to_owned())
}

pub(super) fn drivers(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|drivers| (1..=MAX_DRIVERS).contains(drivers))
        .ok_or_else(|| "expected a whole number from 1 to 1000000".to_owned())
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    duration::parse(text)
        .filter(|interval| (Duration::from_millis(100)..=Duration::from_hours(1)).contains(interval))
        .ok_or_else(|| "expected a duration with its unit, such as 5s, from 100ms to 1h".to_owned())
}

pub(super) fn run_time(text: &str) -> Result<Duration, String> {
    duration::parse(text)
        .filter(|duration| (Duration::from_millis(1)..=Duration::from_hours(366 * 24)).contains(duration))
        .ok_or_else(|| "expected a duration with its unit, such as 60s, up to 366d".to_owned())
}

pub(super) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a whole number".to_owned())
}

/// `None` for `max`.
pub(super) fn speed(text: &str) -> Result<Option<f64>, String> {
    match text {
        "max" => Ok(None),
        _ => text
            .parse()
            .ok()
            .filter(|factor: &f64| (0.001..=1_000_000.0).contains(factor))
            .map(Some)
            .ok_or_else(|| "expected `max`, or a factor above 0 such as 60".to_owned()),
    }
}
