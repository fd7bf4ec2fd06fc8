//! One server of Redis, and the connections to it: one that carries all questions, which is made anew when it ends, and
//! lines for writes.
//!
//! A watchdog asks over the first every second, and makes a new one when there is none or nothing comes back. Every
//! pipeline has a timeout; there are never more than [`IN_FLIGHT`] of them. Whoever gets no answer wakes the watchdog. A
//! server that has not answered for [`BROKEN`] is not asked until it answers the watchdog. What is asked is whether it
//! serves keys: a server that is up, and does not yet take itself for a part of its cluster, does not.
//!
//! Never here: which server a command belongs to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;

use super::Whose;
use super::change::LINES_AFAR;
use super::command::{Command, Failure, NOT_ALLOWED, Reply};
use super::line::Line;
use super::memory::{Evicted, Memory};
use super::pipe::Pipe;
use super::place::{Address, Dial};
use super::slowlog::{self, Seen};
use super::wire::Request;

/// Pipelines on their way at once, to one server.
const IN_FLIGHT: usize = 64;
/// How often the watchdog asks.
const WATCH: Duration = Duration::from_secs(1);
/// How often it asks one that did not answer.
const WATCH_BROKEN: Duration = Duration::from_millis(100);
/// So long without an answer, and nobody waits for this server any more.
const BROKEN: Duration = Duration::from_millis(1_500);
/// So long without an answer over a connection, and it is let go.
const SILENT: Duration = Duration::from_secs(3);
/// A connection that is just being made is waited for as long as this.
const CONNECT_PATIENCE: Duration = Duration::from_millis(300);
/// Lines that are kept for the next write.
const LINES_KEPT: usize = LINES_AFAR;
/// How often the slow log is read.
const SLOW_LOG_EVERY: Duration = Duration::from_secs(10);

/// What all servers of a store count together.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Connections that the watchdogs let go.
    pub(super) rebuilds: AtomicU64,
    /// Entries of slow logs: of clients of our name, and of others.
    pub(super) slow_own: AtomicU64,
    pub(super) slow_others: AtomicU64,
    /// Connections for questions that were made.
    pub(super) arrivals: AtomicU64,
    /// Connections made and broken.
    pub(super) connections: AtomicU64,
    /// Keys that servers let go of by themselves.
    pub(super) evictions: AtomicU64,
    told_of_policy: AtomicBool,
    told_of_names: AtomicBool,
    told_of_slow_log: AtomicBool,
    told_of_info: AtomicBool,
}

/// One server.
#[derive(Debug)]
pub(super) struct Node {
    state: Arc<State>,
    watchdog: AbortHandle,
}

#[derive(Debug)]
struct State {
    dial: Dial,
    address: Address,
    /// The connection that carries questions; none before the first.
    pipe: watch::Sender<Option<Arc<Pipe>>>,
    /// Why there is none, as far as is known.
    trouble: Arc<Mutex<Option<String>>>,
    /// Connections that wait for a write.
    lines: Mutex<Vec<Line>>,
    in_flight: Semaphore,
    /// So long a pipeline may take.
    timeout: Duration,
    silent_since: Mutex<Option<Instant>>,
    /// Wakes the watchdog.
    suspected: Arc<Notify>,
    may_evict: AtomicBool,
    is_far: AtomicBool,
    tally: Arc<Tally>,
}

impl Node {
    /// Begins to connect, and returns at once. `probe` is what the watchdog asks. Must be called within a Tokio runtime.
    pub(super) fn start(dial: &Dial, address: Address, tally: Arc<Tally>, probe: Command) -> Self {
        let state = Arc::new(State {
            dial: dial.clone(),
            address,
            pipe: watch::Sender::new(None),
            trouble: Arc::default(),
            lines: Mutex::default(),
            in_flight: Semaphore::new(IN_FLIGHT),
            timeout: dial.timeout(),
            silent_since: Mutex::new(None),
            suspected: Arc::default(),
            may_evict: AtomicBool::new(false),
            is_far: AtomicBool::new(false),
            tally,
        });
        let watchdog = tokio::spawn(watch(state.clone(), probe)).abort_handle();
        Self { state, watchdog }
    }

    /// Where it is.
    pub(super) fn address(&self) -> &Address {
        &self.state.address
    }

    /// Whether it can be asked, as far as is known.
    pub(super) fn answers(&self) -> bool {
        self.state.pipe().is_some() && !self.state.is_broken()
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
        self.state.connected(patience).await;
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
            return Err(self.state.down());
        }
        let _permit = self.state.in_flight.acquire().await.expect("the semaphore is never closed");
        if self.state.silent_since.lock().is_none() {
            self.state.connected(CONNECT_PATIENCE).await;
        }
        let Some(pipe) = self.state.pipe() else { return Err(self.state.down()) };
        let mut request = Request::default();
        request.asks = asking;
        for command in commands {
            request.add(command);
        }
        let begun = Instant::now();
        let outcome = pipe.exchange(request).await;
        if !pipe.is_open() || begun.elapsed() >= self.state.timeout {
            self.state.silent_since.lock().get_or_insert(begun);
            self.state.suspected.notify_one();
        }
        // What went wrong with ASKING goes wrong with the command behind it too, and is told there.
        let step = 1 + usize::from(asking);
        outcome.map(|replies| replies.into_iter().skip(step - 1).step_by(step).collect())
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
            return Err(self.state.down());
        }
        while let Some(mut line) = self.kept() {
            if line.is_quiet() {
                return Ok(line);
            }
        }
        let question = whose.filter(|_| !is_cluster).map(|whose| &whose.question);
        let (line, answer) = Line::open(&self.state.dial, &self.state.address, question).await?;
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

    /// It is no primary any more: connections are made anew, for its name may lead to another server by now.
    pub(super) fn renew(&self) {
        self.state.let_go();
        self.state.suspected.notify_one();
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

impl State {
    fn is_broken(&self) -> bool {
        self.silent_since.lock().is_some_and(|since| since.elapsed() >= BROKEN)
    }

    /// The connection that carries questions, if there is one.
    fn pipe(&self) -> Option<Arc<Pipe>> {
        self.pipe.borrow().clone().filter(|pipe| pipe.is_open())
    }

    async fn connected(&self, patience: Duration) {
        if self.pipe().is_none() {
            let mut pipes = self.pipe.subscribe();
            let is_open = |pipe: &Option<Arc<Pipe>>| pipe.as_ref().is_some_and(|pipe| pipe.is_open());
            // Whoever comes without a connection is told so by every call.
            let _ = tokio::time::timeout(patience, pipes.wait_for(is_open)).await;
        }
    }

    fn down(&self) -> Failure {
        let trouble = self.trouble.lock().as_ref().map_or_else(String::new, |trouble| format!(" ({trouble})"));
        Failure::Down(if self.pipe().is_some() {
            "it does not answer".into()
        } else {
            format!("not connected{trouble}")
        })
    }

    /// Makes the connection that carries questions. That there is a new one is counted before anything goes over it, that
    /// it ended before anybody hears of it.
    async fn open(&self) -> Result<Arc<Pipe>, Failure> {
        let line = match Line::open(&self.dial, &self.address, None).await {
            Ok((line, _)) => line,
            Err(failure) => {
                *self.trouble.lock() = Some(failure.clone().words());
                return Err(failure);
            }
        };
        if line.is_nameless() && !self.tally.told_of_names.swap(true, Ordering::Relaxed) {
            tracing::warn!("Redis does not let its clients be named: its slow log cannot tell ours from others");
        }
        *self.trouble.lock() = None;
        self.tally.connections.fetch_add(1, Ordering::Release);
        self.tally.arrivals.fetch_add(1, Ordering::Release);
        let (tally, trouble, suspected) = (self.tally.clone(), self.trouble.clone(), self.suspected.clone());
        let ended = move |failure: &Failure| {
            // What was known of this one says nothing about the next.
            tally.connections.fetch_add(1, Ordering::Release);
            *trouble.lock() = Some(failure.clone().words());
            suspected.notify_one();
        };
        let pipe = Arc::new(Pipe::over(line, ended));
        self.pipe.send_replace(Some(pipe.clone()));
        Ok(pipe)
    }

    /// Asks over the connection there is, or over a new one.
    async fn ask(&self, command: &Command) -> Result<Reply, Failure> {
        let pipe = match self.pipe() {
            Some(pipe) => pipe,
            None => self.open().await?,
        };
        let mut request = Request::default();
        request.add(command);
        pipe.exchange(request).await?.pop().unwrap_or_else(|| Err(Failure::Down("no reply".into())))
    }

    /// Lets go of all connections there are; whether there was one for questions.
    fn let_go(&self) -> bool {
        self.lines.lock().clear();
        let was_open = self.pipe().is_some();
        if was_open {
            self.pipe.send_replace(None);
            self.tally.connections.fetch_add(1, Ordering::Release);
        }
        was_open
    }
}

/// Asks again and again, connects when there is no connection, and lets go of one over which nothing comes back.
async fn watch(state: Arc<State>, probe: Command) {
    let mut slow_log = SlowLog::default();
    let mut evicted = Evicted::default();
    let mut quiet_since = Instant::now();
    loop {
        let begun = Instant::now();
        if is_served(state.ask(&probe).await) {
            *state.silent_since.lock() = None;
            slow_log.look(&state).await;
            state.look_at_memory(&mut evicted).await;
            let _ = tokio::time::timeout(WATCH.saturating_sub(begun.elapsed()), state.suspected.notified()).await;
            quiet_since = Instant::now();
            continue;
        }
        state.silent_since.lock().get_or_insert(begun);
        if quiet_since.elapsed() >= SILENT {
            if state.let_go() {
                state.tally.rebuilds.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("let go of a connection to Redis over which nothing came back");
            }
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
    async fn look_at_memory(&self, evicted: &mut Evicted) {
        let info = self.ask(&Command::keyless("INFO").arg("memory").arg("stats")).await;
        let is_hidden = matches!(&info, Err(failure) if *failure == Failure::Down(NOT_ALLOWED.into()));
        if is_hidden && !self.tally.told_of_info.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "Redis does not show its INFO here: whether it lets go of keys when it is full is not known"
            );
        }
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
}

/// Counts the entries of a server's slow log.
#[derive(Default)]
struct SlowLog {
    seen: Seen,
    next: Option<Instant>,
}

impl SlowLog {
    /// Reads it, when it is time. A server that does not show it is asked again: an access list may change.
    async fn look(&mut self, state: &State) {
        if self.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        self.next = Some(Instant::now() + SLOW_LOG_EVERY);
        let command = Command::keyless("SLOWLOG").arg("GET").number(slowlog::ENTRIES);
        match state.ask(&command).await {
            Ok(answer) => {
                let (fresh, tally) = (self.seen.look(&answer), &state.tally);
                tally.slow_own.fetch_add(fresh.own, Ordering::Relaxed);
                tally.slow_others.fetch_add(fresh.others, Ordering::Relaxed);
            }
            Err(failure) if failure == Failure::Down(NOT_ALLOWED.into()) => {
                if !state.tally.told_of_slow_log.swap(true, Ordering::Relaxed) {
                    tracing::warn!("Redis does not show its slow log here: its entries are not counted");
                }
            }
            // It is read the next time.
            Err(_) => {}
        }
    }
}
