//! What the uptime monitor is told: is any driver of the whole fleet still reporting?
//!
//! It fails for silence alone: no driver has a `ts` in the trailing hour. What this process took in itself it knows
//! by heart; what other instances took in, the first store knows, and a background probe asks it every second. So an
//! answer never waits for a store, and "nobody reports" and "the store cannot be asked" read differently.
//!
//! Never here: HTTP; waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::journal::Journal;
use crate::model::{MAX_AHEAD_MS, Timestamp};
use crate::query::{IndexState, Label};
use crate::store::{Store, StoreError, Window};

/// The trailing hour, in milliseconds: everything not older than this.
pub const TRAILING_HOUR_MS: i64 = 3_600_000;

/// The probe gives a store this long to answer.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

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
    /// The store's name.
    pub store_name: &'static str,
    /// Whether the store can be asked.
    pub store: StoreHealth,
    /// What keeps the store from doing all that it should, if anything is known to.
    pub store_trouble: Option<&'static str>,
    /// How whole the index is.
    pub index: IndexState,
    /// Whether points can be taken.
    pub journal_writable: bool,
}

/// Knows when the fleet last reported. Clones share what they know.
#[derive(Clone)]
pub struct Health(Arc<Shared>);

struct Shared {
    clock: Clock,
    journal: Journal,
    store: Arc<dyn Store>,
    label: Label,
    own_last_report_ms: AtomicI64,
    probed: Mutex<Probed>,
}

#[derive(Clone, Copy)]
struct Probed {
    store: StoreHealth,
    last_report: Option<Timestamp>,
}

impl Health {
    /// `own_last_report` is the newest `ts` that recovery found in the journal.
    pub fn new(
        clock: Clock,
        journal: Journal,
        store: Arc<dyn Store>,
        label: Label,
        own_last_report: Option<Timestamp>,
    ) -> Self {
        let own_last_report_ms = AtomicI64::new(own_last_report.map_or(NEVER, Timestamp::as_ms));
        let probed = Mutex::new(Probed { store: StoreHealth::Unknown, last_report: None });
        Self(Arc::new(Shared { clock, journal, store, label, own_last_report_ms, probed }))
    }

    /// A point with this `ts` was accepted here.
    pub fn reported(&self, ts: Timestamp) {
        self.0.own_last_report_ms.fetch_max(ts.as_ms(), Ordering::Relaxed);
    }

    /// What is known now. Never waits.
    pub fn report(&self) -> Report {
        let now = self.0.clock.now();
        let probed = *self.0.probed.lock();
        let own = self.0.own_last_report_ms.load(Ordering::Relaxed);
        let own = (own != NEVER).then(|| Timestamp::from_ms(own));
        let last_report = own.max(probed.last_report).map(|ts| ts.min(now));
        let last_report_age_ms = last_report.map(|ts| now.ms_since(ts));
        let index = self.0.label.state();
        let journal_writable = self.0.journal.is_writable();
        let is_reporting = last_report_age_ms.is_some_and(|age| age <= TRAILING_HOUR_MS);
        let store_trouble = self.0.store.trouble();
        let is_well = !index.is_degraded()
            && journal_writable
            && probed.store != StoreHealth::Unreachable
            && store_trouble.is_none();
        let status = match (is_reporting, is_well) {
            (true, true) => Status::Pass,
            (true, false) => Status::Warn,
            (false, _) => Status::Fail,
        };
        let store_name = self.0.store.name();
        let store = probed.store;
        Report { status, last_report, last_report_age_ms, store_name, store, store_trouble, index, journal_writable }
    }

    /// Asks the store once, for at most a second, and says whether it answered.
    pub async fn probe(&self) -> StoreHealth {
        let now = self.0.clock.now();
        let window = Window { since: now.plus_ms(-TRAILING_HOUR_MS), until: now.plus_ms(MAX_AHEAD_MS) };
        let ask = async {
            self.0.store.ping().await?;
            self.0.store.last_report(window).await
        };
        let answer = tokio::time::timeout(PROBE_DEADLINE, ask).await;
        let mut probed = self.0.probed.lock();
        match answer {
            Ok(Ok(last_report)) => {
                let last_report = probed.last_report.max(last_report);
                *probed = Probed { store: StoreHealth::Up, last_report };
            }
            Ok(Err(StoreError::Unavailable(_) | StoreError::Refused(_) | StoreError::Corrupt(_))) | Err(_) => {
                probed.store = StoreHealth::Unreachable;
            }
        }
        probed.store
    }
}
