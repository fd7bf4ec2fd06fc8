//! What the uptime monitor is told: is any driver of the whole fleet still reporting?
//!
//! It fails for silence alone: no driver has a `ts` in the trailing hour. What this process took in itself it knows
//! by heart; what other instances took in, the stores know, and a background probe asks each every second. So an
//! answer never waits for a store, and "nobody reports" and "the store cannot be asked" read differently.
//!
//! Never here: HTTP; waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{info, warn};

use crate::applier::{Pass, Progress};
use crate::clock::Clock;
use crate::journal::Journal;
use crate::model::{MAX_AHEAD_MS, Timestamp};
use crate::peers::{Peer, Peers};
use crate::query::{IndexState, Queries, Source};
use crate::store::{FOREIGN, Window};

/// The trailing hour, in milliseconds: everything not older than this.
pub const TRAILING_HOUR_MS: i64 = 3_600_000;

/// The probe gives a store this long to answer.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// Clocks that differ by more are told of: it is half of what a phone's may be ahead.
const WIDE_SKEW_MS: u64 = 60_000;

const NEVER: i64 = i64::MIN;

/// The verdict, in the words of `application/health+json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Drivers report, and all is well.
    Pass,
    /// Drivers report; something is degraded.
    Warn,
    /// No driver of the fleet reports, as far as can be known.
    Fail,
}

/// What is known of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// It answers.
    Up,
    /// It cannot be asked.
    Unreachable,
    /// It has not been asked yet.
    Unknown,
}

/// Everything `/health` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The verdict.
    pub status: Status,
    /// The newest `ts` of the fleet, never later than now.
    pub last_report: Option<Timestamp>,
    /// Milliseconds since then.
    pub last_report_age_ms: Option<i64>,
    /// Each store, the one that should answer first.
    pub stores: Vec<StoreReport>,
    /// How whole an answer would be.
    pub index: IndexState,
    /// Whether points can be taken.
    pub journal_writable: bool,
}

/// What is known of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// Its name.
    pub name: &'static str,
    /// Whether it can be asked.
    pub health: StoreHealth,
    /// How whole it is.
    pub index: IndexState,
    /// Points in the journal that it does not have yet.
    pub backlog_points: u64,
    /// The pass that makes it whole, if one is under way.
    pub pass: Option<Pass>,
    /// Points that it refused, and that wait for somebody to look into why.
    pub dead_letters: u64,
    /// What keeps it from doing all that it should, if anything is known to.
    pub trouble: Option<String>,
    /// By how much this instance's clock is ahead of the store's, at least; `None` if the store has none, or has not
    /// been asked.
    pub skew_ms: Option<i64>,
    /// The other instances on it.
    pub instances: BTreeMap<String, Peer>,
}

impl StoreReport {
    /// Its state in the words of the metric.
    pub fn state(&self) -> &'static str {
        match (self.health, self.index) {
            _ if self.trouble.as_deref() == Some(FOREIGN) => "foreign",
            (StoreHealth::Unreachable, _) => "unreachable",
            (StoreHealth::Unknown, _) => "unknown",
            (StoreHealth::Up, IndexState::Complete) => "up",
            (StoreHealth::Up, degraded) => degraded.word(),
        }
    }
}

/// A store that is fed and asked. Clones are about the same one.
#[derive(Clone)]
pub struct Fed {
    source: Arc<Source>,
    progress: Arc<Progress>,
    peers: Arc<Peers>,
    known: Arc<Mutex<Known>>,
}

/// What probes found.
#[derive(Clone, Copy)]
struct Known {
    health: StoreHealth,
    skew_ms: Option<i64>,
}

impl Fed {
    /// Answered from by `source`, fed as far as `progress` says by this instance and as `peers` say by others, and not
    /// asked yet.
    pub fn new(source: Arc<Source>, progress: Arc<Progress>, peers: Arc<Peers>) -> Self {
        let known = Known { health: StoreHealth::Unknown, skew_ms: None };
        Self { source, progress, peers, known: Arc::new(Mutex::new(known)) }
    }

    /// What answers.
    pub const fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// How far it is fed.
    pub const fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Who else feeds it.
    pub const fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }
}

/// Knows when the fleet last reported. Clones share what they know.
#[derive(Clone)]
pub struct Health(Arc<Shared>);

struct Shared {
    clock: Clock,
    journal: Journal,
    stores: Mutex<Vec<Fed>>,
    queries: Queries,
    own_last_report_ms: AtomicI64,
    last_report_ms: AtomicI64,
}

impl Health {
    /// Of `stores`, in the order in which they answer. `own_last_report` is the newest `ts` that recovery found in the
    /// journal.
    pub fn new(
        clock: Clock,
        journal: Journal,
        stores: Vec<Fed>,
        queries: Queries,
        own_last_report: Option<Timestamp>,
    ) -> Self {
        let stores = Mutex::new(stores);
        let own_last_report_ms = AtomicI64::new(own_last_report.map_or(NEVER, Timestamp::as_ms));
        let last_report_ms = AtomicI64::new(NEVER);
        Self(Arc::new(Shared { clock, journal, stores, queries, own_last_report_ms, last_report_ms }))
    }

    /// A point with this `ts` was accepted here.
    pub fn reported(&self, ts: Timestamp) {
        self.0.own_last_report_ms.fetch_max(ts.as_ms(), Ordering::Relaxed);
    }

    /// What is known now. Never waits.
    pub fn report(&self) -> Report {
        let now = self.0.clock.now();
        let known =
            |ms: &AtomicI64| Some(ms.load(Ordering::Relaxed)).filter(|ms| *ms != NEVER).map(Timestamp::from_ms);
        let last_report = known(&self.0.own_last_report_ms).max(known(&self.0.last_report_ms)).map(|ts| ts.min(now));
        let last_report_age_ms = last_report.map(|ts| now.ms_since(ts));
        let stores: Vec<StoreReport> = self.0.stores.lock().iter().map(report_of).collect();
        let index = self.0.queries.index_state();
        let journal_writable = self.0.journal.is_writable();
        let is_reporting = last_report_age_ms.is_some_and(|age| age <= TRAILING_HOUR_MS);
        let is_lame = |store: &StoreReport| {
            store.health == StoreHealth::Unreachable || store.index.is_degraded() || store.trouble.is_some()
        };
        let is_well = !index.is_degraded() && journal_writable && !stores.iter().any(is_lame);
        let status = match (is_reporting, is_well) {
            (true, true) => Status::Pass,
            (true, false) => Status::Warn,
            (false, _) => Status::Fail,
        };
        Report { status, last_report, last_report_age_ms, stores, index, journal_writable }
    }

    /// From now on these are the stores, in the order in which they answer.
    pub fn set_stores(&self, stores: Vec<Fed>) {
        *self.0.stores.lock() = stores;
    }

    /// Asks a store once, for at most a second, and says whether it answered.
    pub async fn probe(&self, Fed { source, known, .. }: &Fed) -> StoreHealth {
        let now = self.0.clock.now();
        let window = Window { since: now.plus_ms(-TRAILING_HOUR_MS), until: now.plus_ms(MAX_AHEAD_MS) };
        let store = source.store();
        let was_away = known.lock().health == StoreHealth::Unreachable;
        let ask = async {
            store.ping().await?;
            // Whoever comes back may have lost everything: it is not called up before that was looked into.
            if was_away
                && let Err(error) = store.audit().await
                && !store.is_partial()
            {
                return Err(error);
            }
            self.compare_clocks(source, known).await;
            match store.last_report(window).await {
                // What it can be asked of it answers.
                Err(_) if store.is_partial() => Ok(None),
                last_report => last_report,
            }
        };
        let probed = match tokio::time::timeout(PROBE_DEADLINE, ask).await {
            Ok(Ok(last_report)) => {
                let last_report_ms = last_report.map_or(NEVER, Timestamp::as_ms);
                self.0.last_report_ms.fetch_max(last_report_ms, Ordering::Relaxed);
                StoreHealth::Up
            }
            Ok(Err(_)) | Err(_) => StoreHealth::Unreachable,
        };
        source.set_away(probed == StoreHealth::Unreachable);
        known.lock().health = probed;
        probed
    }

    /// Notes by how much our clock and the store's differ. What the asking takes counts for nothing. A store that does not
    /// tell leaves what was known.
    async fn compare_clocks(&self, source: &Source, known: &Mutex<Known>) {
        let before = self.0.clock.now();
        let Ok(theirs) = source.store().now().await else { return };
        let after = self.0.clock.now();
        let skew_ms = theirs.map(|theirs| theirs.clamp(before.min(after), after).ms_since(theirs));
        let was_wide = is_wide(std::mem::replace(&mut known.lock().skew_ms, skew_ms));
        let store = source.store().name();
        match clocks_differ(skew_ms) {
            Some(words) if !was_wide => warn!(store, "{words}"),
            None if was_wide => info!(store, "the clocks agree again"),
            _ => {}
        }
    }
}

const fn is_wide(skew_ms: Option<i64>) -> bool {
    matches!(skew_ms, Some(ms) if ms.unsigned_abs() > WIDE_SKEW_MS)
}

/// In words for an operator; `None` while they agree well enough.
fn clocks_differ(skew_ms: Option<i64>) -> Option<String> {
    let ms = skew_ms.filter(|_| is_wide(skew_ms))?;
    let way = if ms > 0 { "ahead of" } else { "behind" };
    Some(format!("this instance's clock is {} s {way} the store's", ms.unsigned_abs() / 1_000))
}

fn report_of(Fed { source, progress, peers, known }: &Fed) -> StoreReport {
    let Known { health, skew_ms } = *known.lock();
    let trouble = match source.store().trouble() {
        Some(foreign) if foreign == FOREIGN => Some(foreign),
        trouble => {
            let all: Vec<String> = [trouble, peers.trouble(), clocks_differ(skew_ms)].into_iter().flatten().collect();
            (!all.is_empty()).then(|| all.join("; "))
        }
    };
    StoreReport {
        name: source.store().name(),
        health,
        index: source.state(),
        backlog_points: progress.backlog_points(),
        pass: progress.pass(),
        dead_letters: progress.set_aside().points,
        trouble,
        skew_ms,
        instances: peers.list(),
    }
}
