//! The open loop: requests are due at moments fixed beforehand, whatever became of those before them, and a request's
//! time counts from the moment it was due.
//!
//! A closed loop, which sends when it has its answer, stops asking just while the server stands still, and so leaves out
//! the very times that matter. Here what is due while every connection waits is sent as soon as one is free, and was
//! waiting since it was due; what was never sent at all counts with its age at the end.
//!
//! A thread says when; one task a connection asks. Never here: what is asked, what the figures look like.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::caller::{Address, Caller, Outcome};
use super::fleet::{Fleet, scatter};
use super::mix::Ask;
use super::tally::Tally;

/// The thread that says when sleeps no shorter than this: what becomes due meanwhile is told at once.
const SHORTEST_SLEEP: Duration = Duration::from_micros(50);
/// Opening all connections may take so long.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Whoever is asked to come back comes back after this many seconds at most.
const MAX_RETRY_AFTER_S: u64 = 5;

/// Requests at a fixed rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// How many.
    pub(crate) count: u64,
    /// The time between two of them; nothing: all are due at once.
    pub(crate) gap: Duration,
    /// How long a request may take, and how long after the last arrival there may still be some.
    pub(crate) patience: Duration,
    /// Whether who is refused for now is sent again, as the same request, due when it first was.
    pub(crate) comes_back: bool,
}

impl Schedule {
    /// When request `number` is due, from the beginning.
    fn due(&self, number: u64) -> Duration {
        self.gap.mul_f64(number as f64)
    }

    /// How many are due so long after the beginning.
    fn due_by(&self, elapsed: Duration) -> u64 {
        if self.gap.is_zero() {
            return self.count;
        }
        let passed = elapsed.as_secs_f64() / self.gap.as_secs_f64();
        (passed as u64 + 1).min(self.count)
    }

    /// From the first arrival to the last, and the time until one more would be due.
    pub(crate) fn length(&self) -> Duration {
        self.due(self.count)
    }
}

/// Who is asked, by how many at once.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) connections: usize,
}

/// What the tasks of a run share.
struct Run<A> {
    schedule: Schedule,
    ask: A,
    begun: Instant,
    due: Semaphore,
    next: AtomicU64,
    tally: Mutex<Tally>,
}

/// Asks `target` what `ask` says, number by number, as `schedule` says. Ends at the latest when the schedule, and twice
/// its patience, are over. An error: the connections could not be opened.
pub(crate) async fn drive<A>(target: &Target, schedule: Schedule, ask: A) -> anyhow::Result<Tally>
where
    A: Fn(u64) -> Ask + Send + Sync + 'static,
{
    let callers = connect(target).await?;
    let run = Arc::new(Run {
        schedule,
        ask,
        begun: Instant::now(),
        due: Semaphore::new(0),
        next: AtomicU64::new(0),
        tally: Mutex::new(Tally::default()),
    });
    let stop = Arc::new(AtomicBool::new(false));
    let _stops = StopOnDrop(stop.clone());
    let (connections, clock) = (callers.len(), run.clone());
    let clock = thread::Builder::new().name("schedule".into()).spawn(move || clock.tell(&stop, connections));
    clock.context("no thread can be started")?;
    let mut tasks = JoinSet::new();
    for caller in callers {
        tasks.spawn(run.clone().ask_all(caller));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a connection's task failed")?;
    }
    let tally = std::mem::take(&mut *run.tally.lock());
    Ok(tally)
}

async fn connect(target: &Target) -> anyhow::Result<Vec<Caller>> {
    let mut opening = JoinSet::new();
    for _ in 0..target.connections {
        let mut caller = Caller::new(target.address.clone(), target.fleet.clone());
        opening.spawn(async move { caller.connect(CONNECT_WITHIN).await.map(|()| caller) });
    }
    let opened = opening.join_all().await;
    let wanted = opened.len();
    let (callers, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    if let Some(Err(error)) = refused.into_iter().next() {
        bail!("of {wanted} connections only {} could be opened: {error}", callers.len());
    }
    Ok(callers.into_iter().flatten().collect())
}

/// Ends the thread that says when, however the run ends.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<A: Fn(u64) -> Ask + Send + Sync + 'static> Run<A> {
    /// Tells of every request when it is due, on a thread of its own: a timer of the runtime is only good to 1 ms.
    fn tell(&self, stop: &AtomicBool, connections: usize) {
        let mut told = 0;
        while told < self.schedule.count && !stop.load(Ordering::Relaxed) {
            let due = self.schedule.due_by(self.begun.elapsed());
            self.due.add_permits((due - told) as usize);
            told = due;
            let pause = self.schedule.due(told).saturating_sub(self.begun.elapsed());
            if told < self.schedule.count {
                thread::sleep(pause.max(SHORTEST_SLEEP));
            }
        }
        // One more each, so that everybody sees that there is nothing left.
        self.due.add_permits(connections);
    }

    /// One connection: takes the next request that is due, until there are no more.
    async fn ask_all(self: Arc<Self>, mut caller: Caller) {
        let deadline = self.begun + self.schedule.length() + self.schedule.patience;
        loop {
            self.due.acquire().await.expect("nobody closes it").forget();
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.schedule.count {
                return;
            }
            let due = self.begun + self.schedule.due(number);
            let ask = (self.ask)(number);
            let outcome = self.settle(&mut caller, ask, deadline).await;
            let now = Instant::now();
            self.tally.lock().add(ask.kind(), ask.points(), now - due, outcome, now - self.begun);
        }
    }

    /// What became of a request in the end; `None`: it was too late to send it.
    async fn settle(&self, caller: &mut Caller, ask: Ask, deadline: Instant) -> Option<Outcome> {
        for attempt in 0.. {
            if Instant::now() >= deadline {
                break;
            }
            let outcome = caller.ask(ask, self.schedule.patience).await;
            match outcome {
                Outcome::Refused { status: status @ (429 | 503), retry_after_s } if self.schedule.comes_back => {
                    self.tally.lock().came_back(status);
                    let seconds = retry_after_s.unwrap_or(1).min(MAX_RETRY_AFTER_S);
                    // Not everybody at the same moment again.
                    let jitter = (scatter(attempt ^ self.next.load(Ordering::Relaxed)) % 1_000) as f64 / 1_000.0;
                    tokio::time::sleep(Duration::from_secs_f64(seconds as f64 * (1.0 + jitter))).await;
                }
                _ => return Some(outcome),
            }
        }
        None
    }
}
