//! The store in Redis: shared by all instances, readable by other programs (`docs/redis-keys.md`).
//!
//! What is written depends on the points alone, never on the order or the number of times they come: packed fixes are
//! compared, here or in scripts, and what was compared is written only if it is still so: the newest wins wherever it
//! came from. Every key has its expiry from the moment it exists. Every
//! command is small; a call of the service is many of them, in pipelines.
//!
//! - `link` is the way to all servers, and alone knows how they are spoken to; `keys` alone knows names and expiries;
//!   `shard` is how an hour is divided, `atlas` which cells it has.
//! - `fold` takes from a batch what Redis need not see, and `held` what tracks have of it already; `apply` with `note.lua`
//!   writes, by `pace` no more at once than Redis can take, by `writer` watching no more than it must, and `place` with `place.lua` who is in a cell; `newest`, `nearby` with `crowd.lua` and what `density`
//!   remembers, `listing`, `track` read; `forget` and `erase` remove, what was divided otherwise too (`leftovers`).
//! - `changes` with `follow.lua` tells other instances what was written, and `mirror` keeps the newest fixes in memory by
//!   that: most questions are answered there.
//! - `marks` with `count.lua` and `audit.lua` knows what should be there, and notices when it is not; `patrol` notices
//!   lost tracks; `board` is where instances meet; `outage` knows what is owed and left out while a part of a cluster cannot be asked; `fleet` whose data
//!   it is.
//!
//! Never here: KEYS, SCAN, SMEMBERS, GEORADIUS, GEOSEARCH, DEL, FLUSH, or anything about the journal.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::Histogram;

use self::atlas::Atlas;
use self::density::Density;
use self::fleet::Recognised;
use self::forget::Forgotten;
use self::keys::{BOARDS, Keys};
use self::link::{Link, NOT_ALLOWED, Script};
use self::marks::Marks;
use self::mirror::Mirror;
use self::outage::Outage;
use self::pace::Pace;
use self::patrol::Patrol;
use self::shard::{Layout, Shard};
use self::writer::Writers;
use super::{
    Applied, Batch, Board, FOREIGN, Located, Memory, Near, NearbyQuery, Page, Store, StoreError, Visit, Window,
};
use crate::model::{DriverId, Fix, Hour, MAX_AHEAD_MS, Offset, Resolution, Timestamp};

mod apply;
mod atlas;
mod board;
mod changes;
mod density;
mod erase;
mod fleet;
pub mod fold;
mod forget;
mod held;
mod keys;
mod leftovers;
mod link;
mod listing;
mod marks;
mod mirror;
mod nearby;
mod newest;
mod outage;
mod pace;
mod packed;
mod patrol;
mod place;
mod shard;
mod track;
mod writer;

pub use self::fleet::Fleet;
pub use self::keys::{hour_of, is_ours, nobodys, shown};
pub use self::link::{Address, Mode, Question, Reply, Server, Servers, Share, Trouble};
pub use self::mirror::LEASE;

/// How long a start waits for Redis: a connection within reach takes milliseconds.
const SETTLE: Duration = Duration::from_secs(1);

/// Where Redis is, and how it is used.
#[derive(Clone)]
pub struct Options {
    /// `redis://`, `rediss://`, `redis-cluster://` or `redis-sentinel://`, as fred spells them. May hold a password.
    pub url: String,
    /// A file of certificates to trust where the URL asks for TLS; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// What all keys begin with; without braces.
    pub prefix: String,
    /// The id of this instance's journal, 16 hex digits: whose marks these are.
    pub instance: String,
    /// The size of the cells that hours are spread by; `None`: an hour is not spread.
    pub shard_resolution: Option<Resolution>,
    /// How long an hour is kept after its end.
    pub retention: Duration,
    /// Within which each call ends, or each step of one that goes through everything there is.
    pub deadline: Duration,
}

impl Options {
    /// The prefix of the contract.
    pub const PREFIX: &'static str = "geotrail";
    /// Long enough for a large batch, short enough for whoever waits for an answer.
    pub const DEADLINE: Duration = Duration::from_secs(2);
}

/// An index in Redis.
#[derive(Debug)]
pub struct RedisStore {
    index: Arc<Index>,
    deadline: Duration,
    applied: AtomicU64,
    /// The calls that write, and may not.
    refused: Mutex<BTreeSet<&'static str>>,
    forgotten: Forgotten,
}

/// What every part of the store works with.
#[derive(Debug)]
struct Index {
    link: Link,
    keys: Keys,
    atlas: Atlas,
    note: Script,
    place: Script,
    left: Script,
    cells: Script,
    crowd: Script,
    density: Density,
    audit: Script,
    marks: Marks,
    outage: Outage,
    patrol: Patrol,
    erase: Script,
    announce: Script,
    visit: Script,
    board: board::Known,
    recognised: Recognised,
    follow: Script,
    /// The name of this process in the streams of changes.
    by: Bytes,
    writers: Writers,
    pace: Pace,
    mirror: Mirror,
}

impl Index {
    /// The hours where a fix in the window may be, newest first: those within the retention.
    fn hours(&self, window: Window) -> Vec<Hour> {
        let oldest = window.until.plus_ms(-MAX_AHEAD_MS - self.keys.retention_ms());
        window.since.max(oldest).hour().newest_first(window.until.hour()).collect()
    }

    /// The shards with what belongs to the drivers of an hour.
    fn buckets(&self, hour: Hour) -> impl Iterator<Item = Shard> {
        let layout = self.keys.layout();
        (0..layout.buckets()).map(move |number| layout.bucket_number(hour, number))
    }
}

impl RedisStore {
    /// A store that works as soon as Redis is there, which need not be now: it waits for a moment, so that who comes
    /// first finds a connection where there can be one. Refuses a URL or a prefix that cannot be right.
    pub async fn connect(options: Options) -> Result<Self, StoreError> {
        let Options { url, ca, prefix, instance, shard_resolution, retention, deadline } = options;
        if prefix.is_empty() || prefix.contains(['{', '}']) {
            return Err(StoreError::Refused("the prefix of keys is empty or has braces".into()));
        }
        let layout = shard_resolution.map_or(Layout::Whole, Layout::Sharded);
        let keys = Keys::new(prefix, instance, layout, retention);
        let by = changes::name();
        let index = Index {
            link: Link::open(&url, ca.as_deref(), deadline, keys.board(BOARDS[0]))?,
            keys,
            atlas: Atlas::default(),
            note: Script::new(apply::NOTE),
            place: Script::new(place::PLACE),
            left: Script::new(place::LEFT),
            cells: Script::new(atlas::CELLS),
            crowd: Script::new(nearby::CROWD),
            density: Density::default(),
            audit: Script::new(marks::AUDIT),
            marks: Marks::default(),
            outage: Outage::default(),
            patrol: Patrol::default(),
            erase: Script::new(erase::ERASE),
            announce: Script::new(erase::ANNOUNCE),
            visit: Script::new(board::BOARD),
            board: board::Known::default(),
            recognised: Recognised::default(),
            follow: Script::new(changes::FOLLOW),
            writers: Writers::new(by.clone()),
            by,
            pace: Pace::default(),
            mirror: Mirror::default(),
        };
        index.link.settled(SETTLE).await;
        Ok(Self {
            index: Arc::new(index),
            deadline,
            applied: AtomicU64::new(0),
            refused: Mutex::default(),
            forgotten: Forgotten::default(),
        })
    }

    /// Connections over which nothing came back any more, and which were let go.
    pub fn rebuilds(&self) -> u64 {
        self.index.link.rebuilds()
    }

    /// Entries that came into the slow logs of all servers since the start: of clients that call themselves
    /// `geotrail`, and of all others.
    pub fn slow_log_entries(&self) -> (u64, u64) {
        self.index.link.slow_log_entries()
    }

    /// Primaries that cannot be asked now. What lies on the others is answered.
    pub fn missing_primaries(&self) -> usize {
        self.index.link.missing()
    }

    /// Which databases of which servers this is, each by the name that the server gave itself at its start; none where
    /// that is not told.
    pub async fn servers(&self) -> Vec<String> {
        self.in_time(async { Ok(self.index.link.servers().await) }).await.unwrap_or_default()
    }

    /// Of this fleet: another's data is left alone. Without this, nobody asks whose it is.
    #[must_use]
    pub fn of_fleet(mut self, fleet: Arc<Fleet>) -> Self {
        let index = Arc::get_mut(&mut self.index).expect("nobody has asked yet");
        index.recognised = Recognised::by(fleet);
        self
    }

    /// Tells `durations` of each transaction for how long it held Redis, in seconds.
    #[must_use]
    pub fn timed_in(mut self, durations: Histogram) -> Self {
        Arc::get_mut(&mut self.index).expect("nobody has asked yet").pace.tell(durations);
        self
    }

    /// Whether it holds another fleet's data.
    pub async fn is_foreign(&self) -> bool {
        // Whoever cannot be asked is not said to be foreign.
        let _ = self.in_time(self.index.recognise(false)).await;
        self.index.recognised.is_foreign()
    }

    /// Makes it our fleet's, whosever it was. What is there stays.
    pub async fn adopt(&self) -> Result<(), StoreError> {
        self.in_time(self.index.adopt()).await
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        tokio::time::timeout(self.deadline, call)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("past the deadline".into())))
    }

    /// A call that reads; in time, and only if it is ours.
    async fn within<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.in_time(async {
            self.index.recognised(false).await?;
            call.await
        })
        .await
    }

    /// A call that may write, of this name; in time.
    async fn writing<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.in_time(self.writing_in_steps(name, call)).await
    }

    /// The same, of as many steps as there are shards: each of them ends in time by itself.
    async fn writing_in_steps<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.noting_refusals(name, async {
            self.in_time(self.index.recognised(true)).await?;
            call.await
        })
        .await
    }

    async fn noting_refusals<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let outcome = call.await;
        match &outcome {
            Ok(_) => drop(self.refused.lock().remove(name)),
            Err(StoreError::Unavailable(word)) if word == NOT_ALLOWED => drop(self.refused.lock().insert(name)),
            Err(_) => {}
        }
        outcome
    }
}

#[async_trait]
impl Store for RedisStore {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn open(&self, marks: &str) -> Result<Option<Offset>, StoreError> {
        self.writing_in_steps("open", self.index.open(marks)).await
    }

    fn marks(&self) -> String {
        self.index.marks.line(self.index.keys.layout())
    }

    async fn audit(&self) -> Result<Option<Offset>, StoreError> {
        let lost = self.noting_refusals("audit", async {
            self.in_time(self.index.recognise(true)).await?;
            self.index.audit().await
        });
        let lost = lost.await?;
        if let Some(from) = lost {
            self.applied.fetch_min(from.get(), Ordering::Relaxed);
        }
        Ok(lost)
    }

    async fn glance(&self) -> Result<bool, StoreError> {
        self.within(self.index.glance()).await
    }

    async fn apply(&self, batch: Batch<'_>) -> Result<Applied, StoreError> {
        let applied = self.writing("apply", self.index.apply(batch)).await?;
        self.applied.fetch_max(batch.end.get(), Ordering::Relaxed);
        Ok(applied)
    }

    fn durable(&self) -> Offset {
        let applied = Offset::new(self.applied.load(Ordering::Relaxed));
        let (untold, owed) = (self.index.marks.untold(), self.index.outage.owed());
        untold.into_iter().chain(owed).fold(applied, Offset::min)
    }

    async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn forget_before(&self, cutoff: Timestamp) -> Result<(), StoreError> {
        self.writing_in_steps("forget", self.index.forget_before(cutoff, &self.forgotten)).await
    }

    async fn erase(&self, driver: &DriverId) -> Result<(), StoreError> {
        self.writing_in_steps("erase", self.index.erase(driver)).await
    }

    async fn board(&self, visit: Visit<'_>) -> Result<Option<Board>, StoreError> {
        self.writing("board", self.index.at_board(visit)).await.map(Some)
    }

    fn memory(&self) -> Option<&dyn Memory> {
        Some(&self.index)
    }

    async fn latest(&self, driver: &DriverId, window: Window) -> Result<Option<Fix>, StoreError> {
        self.within(self.index.latest(driver, window)).await
    }

    async fn nearby(&self, query: &NearbyQuery) -> Result<(Vec<Near>, bool), StoreError> {
        self.within(self.index.nearby(query)).await
    }

    async fn active(
        &self,
        window: Window,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.within(self.index.active(window, after, limit)).await
    }

    async fn active_count(&self, window: Window) -> Result<u64, StoreError> {
        // Of as many steps as there are drivers.
        self.in_time(self.index.recognised(false)).await?;
        self.index.active_count(window).await
    }

    async fn track(
        &self,
        driver: &DriverId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<Fix>, StoreError> {
        self.within(self.index.track(driver, from, to, limit)).await
    }

    async fn hour_drivers(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<DriverId>, StoreError> {
        self.within(self.index.drivers(&[hour], after, limit)).await
    }

    async fn hour_positions(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.within(self.index.located(&[hour], after, limit)).await
    }

    async fn last_report(&self, window: Window) -> Result<Option<Timestamp>, StoreError> {
        self.within(self.index.last_report(window)).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        self.within(self.index.redis_now()).await.map(Some)
    }

    fn is_partial(&self) -> bool {
        self.index.is_partial()
    }

    fn omissions(&self) -> u64 {
        self.index.outage.omissions()
    }

    fn evictions(&self) -> u64 {
        self.index.link.evictions()
    }

    fn trouble(&self) -> Option<String> {
        if self.index.recognised.is_foreign() {
            return Some(FOREIGN.into());
        }
        if !self.refused.lock().is_empty() {
            return Some("writes are refused: this user may not run the commands that they take".into());
        }
        if let Some((missing, primaries)) = self.index.link.outage() {
            return Some(format!("partial: {missing} of {primaries} primaries cannot be asked"));
        }
        let may_evict = self.index.link.may_evict();
        may_evict.then(|| "it may let go of keys when it is full: its maxmemory-policy is not noeviction".into())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.within(self.index.link.ping()).await
    }
}
