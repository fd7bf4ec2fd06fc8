//! The way to Redis. The only file that knows fred: commands go out and replies come in as types of our own, so that
//! another client is one file's work.
//!
//! fred's client cannot be trusted to notice that it is stuck (a frozen server under a trickle of writes, a router
//! blocked in a socket, a router that ended), so a watchdog asks it every second and puts a new one in its place.
//! Every pipeline has a timeout; there are never more than [`IN_FLIGHT`] of them, because fred's own bound can end
//! its router.
//!
//! Never here: a key, a script's text, what a reply means.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike;
use fred::prelude::{Builder, Client};
use fred::types::config::{Config, ReconnectError, ReconnectPolicy, UnresponsiveConfig};
use fred::types::{ClusterHash, ConnectHandle, CustomCommand, Value};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::store::StoreError;

/// Pipelines on their way at once.
const IN_FLIGHT: usize = 64;
/// How long a pipeline may take at most: far more than a slice needs, and less than a caller's patience.
const PIPELINE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the watchdog asks, and how long it waits for the answer.
const WATCH: Duration = Duration::from_secs(1);
/// So many unanswered questions of a client that believes itself connected, and it is replaced.
const SILENT_CONNECTED: u32 = 3;
/// One that knows that it is not connected gets longer: it reconnects by itself every 2 s or sooner.
const SILENT_DISCONNECTED: u32 = 15;

/// One command: its name and its arguments, one of which is the key that says where in a cluster it goes.
#[derive(Clone, Debug)]
pub(super) struct Command {
    name: &'static str,
    args: Vec<Bytes>,
    key: Option<usize>,
}

/// What Redis answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Nil,
    Integer(i64),
    Bytes(Bytes),
    List(Vec<Reply>),
}

/// Why a command of a pipeline did not do what it should.
#[derive(Debug)]
pub(super) enum Failure {
    /// Redis does not know a script of this hash.
    NoScript,
    /// Anything else.
    Store(StoreError),
}

impl Command {
    /// A command whose first argument is its key.
    pub(super) fn on(name: &'static str, key: Bytes) -> Self {
        Self { name, args: vec![key], key: Some(0) }
    }

    /// A command without a key.
    pub(super) const fn keyless(name: &'static str) -> Self {
        Self { name, args: Vec::new(), key: None }
    }

    /// A call of the script with this text; all keys in one slot.
    pub(super) fn script(script: &Script, keys: Vec<Bytes>) -> Self {
        let count = keys.len().to_string().into();
        let args = [script.hash.clone(), count].into_iter().chain(keys).collect();
        Self { name: "EVALSHA", args, key: Some(2) }
    }

    /// Adds an argument.
    #[must_use]
    pub(super) fn arg(mut self, arg: impl Into<Bytes>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds a number, in decimal.
    #[must_use]
    pub(super) fn number(self, number: impl std::fmt::Display) -> Self {
        self.arg(number.to_string())
    }

    /// Adds arguments.
    #[must_use]
    pub(super) fn args(mut self, args: impl IntoIterator<Item = Bytes>) -> Self {
        self.args.extend(args);
        self
    }

    /// The same call with the script's whole text, after which Redis knows it.
    fn spelled_out(mut self, script: &Script) -> Self {
        self.name = "EVAL";
        self.args[0] = Bytes::from_static(script.text.as_bytes());
        self
    }
}

/// A script and the hash that Redis knows it by.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    hash: Bytes,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, hash: fred::util::sha1_hash(text).into() }
    }
}

impl Reply {
    /// The elements of a list.
    pub(super) fn list(self) -> Result<Vec<Self>, StoreError> {
        match self {
            Self::List(items) => Ok(items),
            _ => Err(unexpected()),
        }
    }

    /// A string, or nothing.
    pub(super) fn bytes(self) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Bytes(bytes) => Ok(Some(bytes)),
            Self::Nil => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// A number that Redis keeps as a string; `None` if it is nothing.
    pub(super) fn decimal(self) -> Result<Option<i64>, StoreError> {
        let Some(bytes) = self.bytes()? else { return Ok(None) };
        let number = std::str::from_utf8(&bytes).ok().and_then(|number| number.parse().ok());
        number.map(Some).ok_or_else(|| StoreError::Corrupt("a string in Redis is no number".into()))
    }

    /// A count.
    pub(super) fn count(self) -> Result<u64, StoreError> {
        match self {
            Self::Integer(number) => u64::try_from(number).map_err(|_| unexpected()),
            _ => Err(unexpected()),
        }
    }
}

fn unexpected() -> StoreError {
    StoreError::Corrupt("a reply of Redis is of an unexpected kind".into())
}

/// A connection that heals.
#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    watchdog: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    builder: Builder,
    live: ArcSwap<Live>,
    in_flight: Semaphore,
    rebuilds: AtomicU64,
}

#[derive(Debug)]
struct Live {
    client: Client,
    running: ConnectHandle,
}

impl Link {
    /// Begins to connect, and returns at once. Must be called within a Tokio runtime.
    pub(super) fn open(url: &str, deadline: Duration) -> Result<Self, StoreError> {
        // fred takes rustls' process-wide provider; whoever installed one before us has the say.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = builder(url, deadline)?;
        let live = ArcSwap::from_pointee(Live::start(&builder)?);
        let shared =
            Arc::new(Shared { builder, live, in_flight: Semaphore::new(IN_FLIGHT), rebuilds: AtomicU64::new(0) });
        let watchdog = tokio::spawn(watch(Arc::clone(&shared))).abort_handle();
        Ok(Self { shared, watchdog })
    }

    /// Waits for the first connection, or for the first attempt to fail; no longer than `patience`.
    pub(super) async fn settled(&self, patience: Duration) {
        let live = self.shared.live.load_full();
        // Whoever comes without a connection is told so by every call.
        let _ = tokio::time::timeout(patience, live.client.wait_for_connect()).await;
    }

    /// Clients that the watchdog replaced.
    pub(super) fn rebuilds(&self) -> u64 {
        self.shared.rebuilds.load(Ordering::Relaxed)
    }

    /// Sends commands in one pipeline. The replies, in order, if there is no error among them.
    pub(super) async fn run(&self, commands: Vec<Command>) -> Result<Vec<Reply>, StoreError> {
        let replies = self.send(commands).await?;
        replies.into_iter().map(|reply| reply.map_err(Failure::into_store_error)).collect()
    }

    /// Sends one command.
    pub(super) async fn ask(&self, command: Command) -> Result<Reply, StoreError> {
        let mut replies = self.run(vec![command]).await?;
        replies.pop().ok_or_else(unexpected)
    }

    /// Sends calls of `script` in one pipeline; again, with its text, those for which Redis did not know it.
    /// The replies, in order.
    pub(super) async fn run_script(&self, script: &Script, calls: Vec<Command>) -> Result<Vec<Reply>, StoreError> {
        let mut replies = Vec::with_capacity(calls.len());
        let mut unknown = Vec::new();
        for (call, reply) in calls.clone().into_iter().zip(self.send(calls).await?) {
            replies.push(match reply {
                Ok(reply) => reply,
                Err(Failure::NoScript) => {
                    unknown.push((replies.len(), call.spelled_out(script)));
                    Reply::Nil
                }
                Err(Failure::Store(error)) => return Err(error),
            });
        }
        let (places, calls): (Vec<usize>, Vec<Command>) = unknown.into_iter().unzip();
        for (place, reply) in places.into_iter().zip(self.run(calls).await?) {
            replies[place] = reply;
        }
        Ok(replies)
    }

    /// As many replies as commands.
    async fn send(&self, commands: Vec<Command>) -> Result<Vec<Result<Reply, Failure>>, StoreError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let _permit = self.shared.in_flight.acquire().await.expect("the semaphore is never closed");
        let live = self.shared.live.load_full();
        if !live.client.is_connected() {
            return Err(StoreError::Unavailable("not connected".into()));
        }
        let sent = commands.len();
        let pipeline = live.client.pipeline();
        for Command { name, args, key } in commands {
            let hash = key.map_or(ClusterHash::Random, ClusterHash::Offset);
            let args: Vec<Value> = args.into_iter().map(Value::Bytes).collect();
            let queued: Result<Value, Error> =
                pipeline.custom(CustomCommand::new_static(name, hash, false), args).await;
            queued.map_err(|error| failure(&error).into_store_error())?;
        }
        let replies: Vec<Result<Value, Error>> = pipeline.try_all().await;
        if replies.len() != sent {
            // The pipeline as a whole failed: one error stands for all.
            let error = replies.into_iter().find_map(Result::err);
            return Err(error.map_or_else(unexpected, |error| failure(&error).into_store_error()));
        }
        Ok(replies.into_iter().map(|reply| reply.map(Reply::from).map_err(|error| failure(&error))).collect())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.watchdog.abort();
        self.shared.live.load().running.abort();
    }
}

impl Live {
    fn start(builder: &Builder) -> Result<Self, StoreError> {
        let client = builder.build().map_err(|error| failure(&error).into_store_error())?;
        let running = client.connect();
        Ok(Self { client, running })
    }

    async fn answers(&self) -> bool {
        let ping = self.client.ping::<Value>(None);
        self.client.is_connected() && matches!(tokio::time::timeout(WATCH, ping).await, Ok(Ok(_)))
    }
}

/// Replaces the client when it has ended, or when nothing comes back from it.
async fn watch(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(WATCH);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut silent = 0;
    loop {
        every.tick().await;
        let live = shared.live.load_full();
        if live.answers().await {
            silent = 0;
            continue;
        }
        silent += 1;
        let patience = if live.client.is_connected() { SILENT_CONNECTED } else { SILENT_DISCONNECTED };
        if live.running.is_finished() || silent >= patience {
            match Live::start(&shared.builder) {
                Ok(fresh) => shared.live.store(Arc::new(fresh)),
                Err(error) => {
                    tracing::warn!(%error, "cannot build a Redis client");
                    continue;
                }
            }
            live.running.abort();
            shared.rebuilds.fetch_add(1, Ordering::Relaxed);
            silent = 0;
            tracing::warn!("replaced a Redis client that no longer answered");
        }
    }
}

fn builder(url: &str, deadline: Duration) -> Result<Builder, StoreError> {
    // The parser's own words may repeat the URL, and with it a password.
    let mut config = Config::from_url(url).map_err(|_| StoreError::Refused("the Redis URL cannot be read".into()))?;
    config.fail_fast = false;
    let timeout = PIPELINE_TIMEOUT.min(deadline);
    let mut builder = Builder::from_config(config);
    builder
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 2_000, 2))
        .with_performance_config(|config| {
            config.default_command_timeout = timeout;
            config.max_feed_count = 1_000;
        })
        .with_connection_config(|config| {
            config.connection_timeout = timeout;
            config.internal_command_timeout = timeout;
            config.max_command_attempts = 1;
            config.max_command_buffer_len = 0;
            config.unresponsive =
                UnresponsiveConfig { max_timeout: Some(Duration::from_secs(5)), interval: Duration::from_secs(1) };
            config.tcp.nodelay = Some(true);
            config.tcp.user_timeout = Some(Duration::from_secs(3));
            config.reconnect_errors = vec![
                ReconnectError::ClusterDown,
                ReconnectError::Loading,
                ReconnectError::MasterDown,
                ReconnectError::ReadOnly,
            ];
        });
    Ok(builder)
}

impl Failure {
    fn into_store_error(self) -> StoreError {
        match self {
            Self::NoScript => StoreError::Unavailable("NOSCRIPT".into()),
            Self::Store(error) => error,
        }
    }
}

/// Redis says in the first word what is wrong; the rest may repeat arguments, and with them ids, so it goes no
/// further. Only what lies in the data itself is a refusal: a batch that was refused is not sent again.
fn failure(error: &Error) -> Failure {
    let details = error.details();
    let word = details.split_whitespace().next().unwrap_or_default();
    let is_code = word.len() >= 3 && word.bytes().all(|byte| byte.is_ascii_uppercase());
    match word {
        "NOSCRIPT" => Failure::NoScript,
        "WRONGTYPE" => Failure::Store(StoreError::Refused(word.into())),
        "ERR" if details.contains("string exceeds maximum") => {
            Failure::Store(StoreError::Refused("a string would exceed the maximum".into()))
        }
        _ if is_code => Failure::Store(StoreError::Unavailable(word.into())),
        _ if *error.kind() == ErrorKind::IO => Failure::Store(StoreError::Unavailable(format!("IO: {details}"))),
        _ => Failure::Store(StoreError::Unavailable(error.kind().to_str().into())),
    }
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Nil,
            Value::Boolean(flag) => Self::Integer(i64::from(flag)),
            Value::Integer(number) => Self::Integer(number),
            Value::Double(number) => Self::Bytes(number.to_string().into()),
            Value::String(text) => Self::Bytes(text.into_inner()),
            Value::Bytes(bytes) => Self::Bytes(bytes),
            Value::Queued => Self::Bytes(Bytes::from_static(b"QUEUED")),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Map(map) => Self::List(
                map.inner()
                    .into_iter()
                    .flat_map(|(key, value)| [Self::Bytes(key.into_bytes()), Self::from(value)])
                    .collect(),
            ),
        }
    }
}
