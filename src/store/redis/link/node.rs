//! One server of Redis, and the client that talks to it.
//!
//! fred's client cannot be trusted to notice that it is stuck (a frozen server under a trickle of writes, a router
//! blocked in a socket, a router that ended), so a watchdog asks it every second and puts a new one in its place.
//! Every pipeline has a timeout; there are never more than [`IN_FLIGHT`] of them, because fred's own bound can end
//! its router. Whoever gets no answer wakes the watchdog. A server that has not answered for [`BROKEN`] is not asked
//! until it answers the watchdog. What is asked is whether it serves keys: a server that is up, and does not yet take
//! itself for a part of its cluster, does not.
//!
//! fred also takes any list of three to five strings that begins with `message`, `subscribe` or the like for news of
//! a subscription, drops it, and gives every later reply to the command before its own. A driver may be called so.
//! Therefore no reply is a bare list of names: what scripts return comes wrapped in a list, and a ZRANGE goes as a
//! script. (MULTI and EXEC would wrap it too, but a full server refuses all that comes after MULTI. Inside lists fred
//! leaves such strings alone in RESP3, not in RESP2.)
//!
//! Never here: which server a command belongs to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fred::clients::Pipeline;
use fred::error::Error;
use fred::interfaces::{ClientLike, EventInterface};
use fred::prelude::{Builder, Client};
use fred::types::{ClusterHash, ConnectHandle, CustomCommand, Value};
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use super::Whose;
use super::change::LINES_AFAR;
use super::command::{Command, Failure, NOT_ALLOWED, Reply};
use super::line::Line;
use super::memory::{Evicted, Memory};
use super::place::{Address, Dial};
use super::slowlog::{self, Seen};
use crate::store::StoreError;

/// Pipelines on their way at once, to one server.
const IN_FLIGHT: usize = 64;
/// How often the watchdog asks, and how long it waits for the answer.
const WATCH: Duration = Duration::from_secs(1);
/// How often it asks one that did not answer.
const WATCH_BROKEN: Duration = Duration::from_millis(100);
/// So long without an answer, and nobody waits for this server any more.
const BROKEN: Duration = Duration::from_millis(1_500);
/// So long without an answer of a client that believes itself connected, and it is replaced.
const SILENT_CONNECTED: Duration = Duration::from_secs(3);
/// One that knows that it is not connected gets longer: it reconnects by itself.
const SILENT_DISCONNECTED: Duration = Duration::from_secs(15);
/// A connection that is just being made is waited for as long as this.
const CONNECT_PATIENCE: Duration = Duration::from_millis(300);
/// Lines that are kept for the next write.
const LINES_KEPT: usize = LINES_AFAR;
/// How often the slow log is read.
const SLOW_LOG_EVERY: Duration = Duration::from_secs(10);

/// What all servers of a store count together.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Clients that the watchdogs replaced.
    pub(super) rebuilds: AtomicU64,
    /// Entries of slow logs: of clients of our name, and of others.
    pub(super) slow_own: AtomicU64,
    pub(super) slow_others: AtomicU64,
    /// Connections that were made.
    pub(super) arrivals: AtomicU64,
    /// Connections made and broken.
    pub(super) connections: AtomicU64,
    /// Keys that servers let go of by themselves.
    pub(super) evictions: AtomicU64,
    told_of_policy: AtomicBool,
    told_of_names: AtomicBool,
    told_of_slow_log: AtomicBool,
}

/// One server.
#[derive(Debug)]
pub(super) struct Node {
    address: Address,
    state: Arc<State>,
    watchdog: AbortHandle,
}

#[derive(Debug)]
struct State {
    dial: Dial,
    builder: Builder,
    /// Connections that wait for a write.
    lines: Mutex<Vec<Line>>,
    live: ArcSwap<Live>,
    in_flight: Semaphore,
    /// So long a pipeline may take.
    timeout: Duration,
    silent_since: Mutex<Option<Instant>>,
    /// Wakes the watchdog.
    suspected: Notify,
    may_evict: AtomicBool,
    is_far: AtomicBool,
    tally: Arc<Tally>,
}

/// A client and the tasks that belong to it.
#[derive(Debug)]
struct Live {
    client: Client,
    running: ConnectHandle,
    tending: AbortHandle,
    /// Why it is not connected, as far as is known.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Node {
    /// Begins to connect, and returns at once. `probe` is what the watchdog asks. Must be called within a Tokio runtime.
    pub(super) fn start(
        dial: &Dial,
        address: Address,
        tally: Arc<Tally>,
        probe: Command,
    ) -> Result<Self, StoreError> {
        let builder = dial.server(&address);
        let live = ArcSwap::from_pointee(Live::start(&builder, &tally)?);
        let state = Arc::new(State {
            dial: dial.clone(),
            builder,
            lines: Mutex::default(),
            live,
            in_flight: Semaphore::new(IN_FLIGHT),
            timeout: dial.timeout(),
            silent_since: Mutex::new(None),
            suspected: Notify::new(),
            may_evict: AtomicBool::new(false),
            is_far: AtomicBool::new(false),
            tally,
        });
        let watchdog = tokio::spawn(watch(state.clone(), probe)).abort_handle();
        Ok(Self { address, state, watchdog })
    }

    /// Where it is.
    pub(super) const fn address(&self) -> &Address {
        &self.address
    }

    /// Whether it can be asked, as far as is known.
    pub(super) fn answers(&self) -> bool {
        self.state.live.load().client.is_connected() && !self.state.is_broken()
    }

    /// Whether nobody waits for it any more: it has been silent for too long.
    pub(super) fn is_given_up(&self) -> bool {
        self.state.is_broken()
    }

    /// Whether it may let go of keys by itself, as far as it tells.
    pub(super) fn may_evict(&self) -> bool {
        self.state.may_evict.load(Ordering::Relaxed)
    }

    /// Waits for the connection, no longer than `patience`.
    pub(super) async fn settled(&self, patience: Duration) {
        self.state.live.load_full().connected(patience).await;
    }

    /// Sends commands in one pipeline, each right after ASKING if `asking`. As many replies as commands, or what
    /// became of all of them.
    pub(super) async fn send(
        &self,
        commands: &[&Command],
        asking: bool,
    ) -> Result<Vec<Result<Reply, Failure>>, Failure> {
        if self.state.is_broken() {
            // Whoever asks again at once must not keep the watchdog from its turn.
            tokio::task::yield_now().await;
            return Err(self.state.live.load().down());
        }
        let _permit = self.state.in_flight.acquire().await.expect("the semaphore is never closed");
        let live = self.state.live.load_full();
        if self.state.silent_since.lock().is_none() {
            live.connected(CONNECT_PATIENCE).await;
        }
        let begun = Instant::now();
        let outcome = live.send(commands, asking).await;
        if !live.client.is_connected() || begun.elapsed() >= self.state.timeout {
            self.state.silent_since.lock().get_or_insert(begun);
            self.state.suspected.notify_one();
        }
        outcome
    }

    /// A connection that nobody else uses: one that was kept, or a new one. A new one must answer as `whose` says; in a
    /// cluster, no connection may have been made or broken since there were so many `connections`.
    pub(super) async fn line(
        &self,
        whose: Option<&Whose>,
        is_cluster: bool,
        connections: u64,
    ) -> Result<Line, Failure> {
        if self.state.is_broken() {
            tokio::task::yield_now().await;
            return Err(self.state.live.load().down());
        }
        while let Some(mut line) = self.kept() {
            if line.is_quiet() {
                return Ok(line);
            }
        }
        let question = whose.filter(|_| !is_cluster).map(|whose| &whose.question);
        let (line, answer) = Line::open(&self.state.dial, &self.address, question).await?;
        let is_ours = match whose {
            None => true,
            Some(_) if is_cluster => self.state.tally.connections.load(Ordering::Acquire) == connections,
            Some(whose) => answer == Some(Reply::Bytes(whose.answer.clone())),
        };
        if is_ours {
            return Ok(line);
        }
        if !is_cluster {
            // It is looked at anew whose data it is.
            self.state.tally.connections.fetch_add(1, Ordering::Release);
        }
        Err(Failure::Down("a new connection: it is not known whose data it leads to".into()))
    }

    fn kept(&self) -> Option<Line> {
        self.state.lines.lock().pop()
    }

    /// Whether the lines that were used last found the server far away.
    pub(super) fn is_far(&self) -> bool {
        self.state.is_far.load(Ordering::Relaxed)
    }

    /// Keeps a line for the next write.
    pub(super) fn keep(&self, line: Line) {
        self.state.is_far.store(line.is_far(), Ordering::Relaxed);
        let mut lines = self.state.lines.lock();
        if lines.len() < LINES_KEPT {
            lines.push(line);
        }
    }

    /// Something failed on a line that was begun at this moment: it is looked whether the server is still there, and
    /// what other lines are kept goes.
    pub(super) fn suspect(&self, begun: Instant) {
        self.state.lines.lock().clear();
        if begun.elapsed() >= self.state.timeout {
            self.state.silent_since.lock().get_or_insert(begun);
        }
        self.state.suspected.notify_one();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.watchdog.abort();
    }
}

/// Asks the server that `builder` is for, through a client of its own.
pub(super) async fn ask_once(builder: &Builder, command: &Command, patience: Duration) -> Result<Reply, Failure> {
    let live = Live::start(builder, &Arc::default()).map_err(|_| Failure::Down("no client".into()))?;
    live.connected(patience).await;
    let mut replies = live.send(&[command], false).await?;
    replies.pop().unwrap_or_else(|| Err(Failure::Down("no reply".into())))
}

impl State {
    fn is_broken(&self) -> bool {
        self.silent_since.lock().is_some_and(|since| since.elapsed() >= BROKEN)
    }
}

impl Live {
    fn start(builder: &Builder, tally: &Arc<Tally>) -> Result<Self, StoreError> {
        let client = builder.build().map_err(|error| Failure::from(&error))?;
        let trouble = Arc::default();
        let tending = tokio::spawn(tend(client.clone(), Arc::clone(&trouble), tally.clone())).abort_handle();
        let running = client.connect();
        Ok(Self { client, running, tending, trouble })
    }

    async fn connected(&self, patience: Duration) {
        if !self.client.is_connected() {
            // Whoever comes without a connection is told so by every call.
            let _ = tokio::time::timeout(patience, self.client.wait_for_connect()).await;
        }
    }

    fn down(&self) -> Failure {
        let trouble = self.trouble.lock().as_ref().map_or_else(String::new, |trouble| format!(" ({trouble})"));
        Failure::Down(if self.client.is_connected() {
            "it does not answer".into()
        } else {
            format!("not connected{trouble}")
        })
    }

    async fn send(&self, commands: &[&Command], asking: bool) -> Result<Vec<Result<Reply, Failure>>, Failure> {
        if !self.client.is_connected() {
            return Err(self.down());
        }
        let pipeline = self.client.pipeline();
        let mut sent = 0;
        for command in commands {
            if asking {
                sent += queue(&pipeline, "ASKING", vec![]).await?;
            }
            let args = command.args.iter().cloned().map(Value::Bytes).collect();
            sent += queue(&pipeline, command.name, args).await?;
        }
        let replies: Vec<Result<Value, Error>> = pipeline.try_all().await;
        if replies.len() != sent {
            // The pipeline as a whole failed: one error stands for all.
            let error = replies.into_iter().find_map(Result::err);
            return Err(error.map_or_else(|| Failure::Down("no reply".into()), |error| Failure::from(&error)));
        }
        let mut replies =
            replies.into_iter().map(|reply| reply.map(Reply::from).map_err(|error| Failure::from(&error)));
        let mut next = || replies.next().expect("as many replies as were sent");
        Ok(commands.iter().map(|command| reply(command, asking, &mut next)).collect())
    }

    async fn ask(&self, command: &Command) -> Result<Reply, Failure> {
        let mut replies = self.send(&[command], false).await?;
        replies.pop().unwrap_or_else(|| Err(Failure::Down("no reply".into())))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.tending.abort();
        self.running.abort();
    }
}

async fn queue(pipeline: &Pipeline<Client>, name: &'static str, args: Vec<Value>) -> Result<usize, Failure> {
    let command = CustomCommand::new_static(name, ClusterHash::Random, false);
    let queued: Result<Value, Error> = pipeline.custom(command, args).await;
    queued.map(|_| 1).map_err(|error| Failure::from(&error))
}

/// The reply of one command, of all that came for it.
fn reply(
    command: &Command,
    asking: bool,
    next: &mut impl FnMut() -> Result<Reply, Failure>,
) -> Result<Reply, Failure> {
    if asking {
        // What went wrong with it goes wrong with the command too, and is told there.
        let _ = next();
    }
    let reply = next();
    if command.is_script() { reply.map(Reply::unwrapped) } else { reply }
}

/// Names each new connection, and keeps why there is none.
async fn tend(client: Client, trouble: Arc<Mutex<Option<String>>>, tally: Arc<Tally>) {
    let (mut connections, mut errors) = (client.reconnect_rx(), client.error_rx());
    loop {
        tokio::select! {
            connection = connections.recv() => match connection {
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    tally.connections.fetch_add(1, Ordering::Release);
                    *trouble.lock() = None;
                    tally.arrivals.fetch_add(1, Ordering::Release);
                    name(&client, &tally).await;
                }
                Err(RecvError::Closed) => return,
            },
            error = errors.recv() => match error {
                Ok((error, _)) => {
                    // Before the next connection is made: what was known of this one says nothing about that.
                    tally.connections.fetch_add(1, Ordering::Release);
                    *trouble.lock() = Some(Failure::from(&error).words());
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

async fn name(client: &Client, tally: &Tally) {
    let command = CustomCommand::new_static("CLIENT", ClusterHash::Random, false);
    let named: Result<Value, Error> = client.custom(command, vec!["SETNAME", slowlog::CLIENT_NAME]).await;
    if let Err(error) = named
        && Failure::from(&error) == Failure::Down(NOT_ALLOWED.into())
        && !tally.told_of_names.swap(true, Ordering::Relaxed)
    {
        tracing::warn!("Redis does not let its clients be named: its slow log cannot tell ours from others");
    }
}

/// Asks again and again, and replaces the client when it has ended, or when nothing comes back from it.
async fn watch(state: Arc<State>, probe: Command) {
    let mut slow_log = SlowLog::default();
    let mut evicted = Evicted::default();
    state.live.load_full().connected(WATCH).await;
    let mut quiet_since = Instant::now();
    loop {
        let live = state.live.load_full();
        let begun = Instant::now();
        if tokio::time::timeout(WATCH, live.ask(&probe)).await.is_ok_and(is_served) {
            *state.silent_since.lock() = None;
            slow_log.look(&live, &state.tally).await;
            state.look_at_memory(&live, &mut evicted).await;
            let _ = tokio::time::timeout(WATCH.saturating_sub(begun.elapsed()), state.suspected.notified()).await;
            quiet_since = Instant::now();
            continue;
        }
        state.silent_since.lock().get_or_insert(begun);
        let patience = match () {
            () if live.running.is_finished() => WATCH,
            () if live.client.is_connected() => SILENT_CONNECTED,
            () => SILENT_DISCONNECTED,
        };
        if quiet_since.elapsed() >= patience {
            state.replace();
            quiet_since = Instant::now();
        }
        tokio::time::sleep(WATCH_BROKEN).await;
    }
}

/// Whether whoever answers so serves keys, be it others than the one that it was asked for.
fn is_served(answer: Result<Reply, Failure>) -> bool {
    match answer {
        Ok(_) | Err(Failure::Moved(_) | Failure::Ask(_)) => true,
        Err(failure) => failure == Failure::Down(NOT_ALLOWED.into()),
    }
}

impl State {
    /// A server that does not tell is asked again: an access list may change.
    async fn look_at_memory(&self, live: &Live, evicted: &mut Evicted) {
        let info = live.ask(&Command::keyless("INFO").arg("memory").arg("stats")).await;
        let Some(memory) = info.ok().and_then(|info| Memory::read(info.text()?)) else { return };
        self.may_evict.store(memory.may_evict, Ordering::Relaxed);
        if memory.may_evict && !self.tally.told_of_policy.swap(true, Ordering::Relaxed) {
            tracing::warn!("Redis may let go of keys when it is full: set its maxmemory-policy to noeviction");
        }
        let evictions = evicted.look(memory);
        if evictions > 0 {
            tracing::warn!(keys = evictions, "Redis let go of keys because it was full");
            self.tally.evictions.fetch_add(evictions, Ordering::Release);
        }
    }

    fn replace(&self) {
        match Live::start(&self.builder, &self.tally) {
            Ok(fresh) => self.live.store(Arc::new(fresh)),
            Err(error) => return tracing::warn!(%error, "cannot build a Redis client"),
        }
        self.tally.rebuilds.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("replaced a Redis client that no longer answered");
    }
}

/// Counts the entries of a server's slow log.
#[derive(Default)]
struct SlowLog {
    seen: Seen,
    next: Option<Instant>,
}

impl SlowLog {
    /// Reads it, when it is time. A server that does not show it is asked again: an access list may change.
    async fn look(&mut self, live: &Live, tally: &Tally) {
        if self.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        self.next = Some(Instant::now() + SLOW_LOG_EVERY);
        let command = Command::keyless("SLOWLOG").arg("GET").number(slowlog::ENTRIES);
        match live.ask(&command).await {
            Ok(answer) => {
                let fresh = self.seen.look(&answer);
                tally.slow_own.fetch_add(fresh.own, Ordering::Relaxed);
                tally.slow_others.fetch_add(fresh.others, Ordering::Relaxed);
            }
            Err(failure) if failure == Failure::Down(NOT_ALLOWED.into()) => {
                if !tally.told_of_slow_log.swap(true, Ordering::Relaxed) {
                    tracing::warn!("Redis does not show its slow log here: its entries are not counted");
                }
            }
            // It is read the next time.
            Err(_) => {}
        }
    }
}
