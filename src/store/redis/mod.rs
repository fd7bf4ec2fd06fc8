//! The store in Redis: shared by all instances, readable by other programs (`docs/redis-keys.md`).
//!
//! What is written depends on the points alone, never on the order or the number of times they come: scripts compare
//! packed fixes, so the newest wins wherever it came from. Every key has its expiry from the moment it exists. Every
//! command is small; a call of the service is many of them, in pipelines.
//!
//! - `link` is the way to all servers, and alone knows the client library; `keys` alone knows names and expiries;
//!   `shard` is how an hour is divided, `atlas` which cells it has.
//! - `apply` with `write.lua` writes, and `place` with `place.lua` who is in a cell; `newest`, `nearby` with `look.lua`, `crowd.lua`
//!   and what `density` remembers,
//!   `listing`, `track` read; `forget` and `erase` remove.
//! - `marks` with `count.lua` and `audit.lua` knows what should be there, and notices when it is not.
//!
//! Never here: KEYS, SCAN, SMEMBERS, GEORADIUS, GEOSEARCH, DEL, FLUSH, or anything about the journal.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use self::atlas::Atlas;
use self::density::Density;
use self::erase::ReadAll;
use self::forget::Forgotten;
use self::keys::Keys;
use self::link::{Command, Link, NOT_ALLOWED, Script};
use self::marks::Marks;
use self::shard::{Layout, Shard};
use super::{Batch, Board, Line, Located, Near, NearbyQuery, Page, Store, StoreError, Window};
use crate::model::{DriverId, Fix, Hour, MAX_AHEAD_MS, Offset, Resolution, Timestamp};

mod apply;
mod atlas;
mod density;
mod erase;
mod forget;
mod keys;
mod link;
mod listing;
mod marks;
mod nearby;
mod newest;
mod packed;
mod place;
mod shard;
mod track;

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
    /// Within which each call ends.
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
    index: Index,
    deadline: Duration,
    applied: AtomicU64,
    is_refused: AtomicBool,
    forgotten: Forgotten,
    board_read: ReadAll,
}

/// What every part of the store works with.
#[derive(Debug)]
struct Index {
    link: Link,
    keys: Keys,
    atlas: Atlas,
    write: Script,
    place: Script,
    left: Script,
    cells: Script,
    list: Script,
    look: Script,
    crowd: Script,
    density: Density,
    audit: Script,
    marks: Marks,
    erase: Script,
    visit: Script,
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
        let index = Index {
            link: Link::open(&url, ca.as_deref(), deadline)?,
            keys: Keys::new(prefix, instance, layout, retention),
            atlas: Atlas::default(),
            write: Script::new(apply::WRITE),
            place: Script::new(place::PLACE),
            left: Script::new(place::LEFT),
            cells: Script::new(atlas::CELLS),
            list: Script::new(listing::LIST),
            look: Script::new(nearby::LOOK),
            crowd: Script::new(nearby::CROWD),
            density: Density::default(),
            audit: Script::new(marks::AUDIT),
            marks: Marks::default(),
            erase: Script::new(erase::ERASE),
            visit: Script::new(erase::BOARD),
        };
        index.link.settled(SETTLE).await;
        Ok(Self {
            index,
            deadline,
            applied: AtomicU64::new(0),
            is_refused: AtomicBool::new(false),
            forgotten: Forgotten::default(),
            board_read: ReadAll::default(),
        })
    }

    /// Clients that no longer answered and were replaced.
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

    async fn within<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        tokio::time::timeout(self.deadline, call)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("past the deadline".into())))
    }
}

#[async_trait]
impl Store for RedisStore {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn open(&self, marks: &str) -> Result<Option<Offset>, StoreError> {
        self.within(self.index.open(marks)).await
    }

    fn marks(&self) -> String {
        self.index.marks.line(self.index.keys.layout())
    }

    async fn audit(&self) -> Result<Option<Offset>, StoreError> {
        let lost = self.within(self.index.audit()).await?;
        if let Some(from) = lost {
            self.applied.fetch_min(from.get(), Ordering::Relaxed);
        }
        Ok(lost)
    }

    async fn glance(&self) -> Result<bool, StoreError> {
        self.within(self.index.glance()).await
    }

    async fn apply(&self, batch: Batch<'_>) -> Result<(), StoreError> {
        let outcome = self.within(self.index.apply(batch)).await;
        match &outcome {
            Ok(()) => self.is_refused.store(false, Ordering::Relaxed),
            Err(StoreError::Unavailable(word)) if word == NOT_ALLOWED => {
                self.is_refused.store(true, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        outcome?;
        self.applied.fetch_max(batch.end.get(), Ordering::Relaxed);
        Ok(())
    }

    fn durable(&self) -> Offset {
        let applied = Offset::new(self.applied.load(Ordering::Relaxed));
        self.index.marks.untold().map_or(applied, |lost| lost.min(applied))
    }

    async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn forget_before(&self, cutoff: Timestamp) -> Result<(), StoreError> {
        self.within(self.index.forget_before(cutoff, &self.forgotten)).await
    }

    async fn erase(&self, driver: &DriverId) -> Result<(), StoreError> {
        self.within(self.index.erase(driver)).await
    }

    async fn board(&self, lines: &[Line], keep: Duration) -> Result<Option<Board>, StoreError> {
        self.within(self.index.board(lines, keep, &self.board_read)).await.map(Some)
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
        self.within(self.index.active_count(window)).await
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

    fn trouble(&self) -> Option<&'static str> {
        if self.is_refused.load(Ordering::Relaxed) {
            return Some("writes are refused: this user may not run the commands that they take");
        }
        self.index.link.is_partial().then_some("some primaries answer, and some do not")
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.within(self.index.link.ask(Command::keyless("PING"))).await?;
        Ok(())
    }
}
