//! The store in this process: who is where in memory, history on disk.
//!
//! - Who is where now is in `whereabouts`, beside this folder.
//! - `memtable` holds what arrived since the last write; `run` is what one write left of one hour; `manifest` says
//!   which runs count and up to which offset of the journal they are complete. The journal is replayed from there.
//! - `layers` is where everybody last was in the few hours of the past that are asked about.
//! - `erase` takes one driver out of all of this.
//! - `state` is all of the memory behind one lock; `upkeep` is all that passes between it and the disk.
//!
//! Nothing here waits for the disk with the lock held, and nothing blocking runs on the async threads: what reads or
//! writes files does so on the threads for blocking work.
//!
//! Never here: the journal, the clock, HTTP.

mod disk;
mod erase;
mod layers;
mod manifest;
mod memtable;
mod number_set;
mod run;
mod state;
mod upkeep;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use async_trait::async_trait;

use self::disk::DiskError;
use self::state::State;
use self::upkeep::Shared;
use super::whereabouts::{Candidate, near};
use super::{Applied, Batch, Board, Located, Near, NearbyQuery, Page, Store, StoreError, Visit, When, Window};
use crate::model::{DriverId, Fix, Hour, Offset, Timestamp};

/// Elements per hold of the lock.
const SLICE: usize = 500;

/// A call that needs the disk gives it this long.
const DEADLINE: Duration = Duration::from_secs(5);

/// Offsets within a memtable take four bytes.
const MAX_MEMTABLE_BYTES: usize = 1 << 30;

/// Where, and how much.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory of the service; the store lives in `embedded` below it.
    pub dir: PathBuf,
    /// The name of the journal it is an index of; of another one nothing is believed.
    pub journal: String,
    /// About as many bytes of history wait in memory before they are written out; as many again while they are.
    pub memtable_bytes: usize,
}

impl Options {
    /// 64 MiB: over an hour of 5,000 drivers at a point every 5 s.
    pub const DEFAULT_MEMTABLE_BYTES: usize = 64 << 20;
}

/// The embedded store. Dropping it waits for a write in progress, and loses nothing that the journal does not have.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    memtable_bytes: usize,
    applying: tokio::sync::Mutex<()>,
    filling: tokio::sync::Mutex<()>,
}

impl EmbeddedStore {
    /// Touches nothing yet; [`Store::open`] loads.
    pub fn new(options: Options) -> Self {
        let Options { dir, journal, memtable_bytes } = options;
        Self {
            shared: Arc::new(Shared::new(dir.join("embedded"), journal)),
            memtable_bytes: memtable_bytes.min(MAX_MEMTABLE_BYTES),
            applying: tokio::sync::Mutex::default(),
            filling: tokio::sync::Mutex::default(),
        }
    }

    fn opened(&self) -> Result<&Shared, StoreError> {
        if self.shared.is_open.load(Acquire) {
            Ok(&self.shared)
        } else {
            Err(StoreError::Unavailable("still loading".into()))
        }
    }

    /// Runs what touches files where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let work = tokio::task::spawn_blocking(move || shared.watched(work));
        match work.await {
            Ok(result) => Ok(result?),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        }
    }

    async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        let late = |_| StoreError::Unavailable("the disk is too slow".into());
        tokio::time::timeout(DEADLINE, work).await.map_err(late)?
    }

    /// Sets the active memtable aside once it is full, and has it written. Waits only if the one before still is.
    async fn make_room(&self) -> Result<(), StoreError> {
        let (is_full, is_busy) = {
            let state = self.shared.state.read();
            (state.active.bytes() >= self.memtable_bytes, state.frozen.is_some())
        };
        if !is_full {
            return Ok(());
        }
        if is_busy {
            Self::in_time(self.blocking(Shared::write_out)).await?;
        }
        self.shared.state.write().freeze();
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = shared.watched(Shared::write_out) {
                tracing::error!(%error, "history could not be written; it stays in memory and will be tried again");
            }
        });
        Ok(())
    }

    /// A page of what `take` makes of drivers, in the order of ids, a slice at a time.
    fn page<T>(
        &self,
        after: Option<&DriverId>,
        limit: usize,
        mut take: impl FnMut(&State, &DriverId, u32) -> Option<T>,
    ) -> Result<Page<T>, StoreError> {
        let shared = self.opened()?;
        let mut items = Vec::new();
        let mut after = after.cloned();
        loop {
            let state = shared.state.read();
            let mut last = None;
            let mut drivers = state.whereabouts.fleet.after(after.as_ref());
            for (id, number) in drivers.by_ref().take(SLICE) {
                last = Some(id);
                items.extend(take(&state, id, number));
                if items.len() >= limit {
                    break;
                }
            }
            let is_end = drivers.next().is_none();
            after = last.cloned();
            if is_end {
                return Ok(Page { items, next: None });
            }
            if items.len() >= limit {
                return Ok(Page { items, next: after });
            }
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn open(&self, _marks: &str) -> Result<Option<Offset>, StoreError> {
        self.blocking(Shared::load).await.map(Some)
    }

    /// What is lost of its files is found when they are opened.
    fn marks(&self) -> String {
        String::new()
    }

    async fn audit(&self) -> Result<Option<Offset>, StoreError> {
        Ok(None)
    }

    async fn glance(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn apply(&self, batch: Batch<'_>) -> Result<Applied, StoreError> {
        let shared = self.opened()?;
        // One batch after the other, so that "applied up to here" has no holes.
        let _turn = self.applying.lock().await;
        for points in batch.points.chunks(SLICE) {
            self.make_room().await?;
            shared.state.write().apply(points, batch.forget_before);
        }
        let mut state = shared.state.write();
        state.applied = state.applied.max(batch.end);
        Ok(Applied::Whole)
    }

    fn durable(&self) -> Offset {
        Offset::new(self.shared.durable.load(Acquire))
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let shared = self.opened()?;
        self.blocking(Shared::write_out).await?;
        {
            let mut state = shared.state.write();
            if state.active.bytes() > 0 || state.applied > self.durable() {
                state.freeze();
            }
        }
        self.blocking(Shared::write_out).await
    }

    async fn forget_before(&self, cutoff: Timestamp) -> Result<(), StoreError> {
        self.opened()?;
        self.blocking(move |shared| shared.forget_before(cutoff)).await
    }

    async fn erase(&self, driver: &DriverId) -> Result<(), StoreError> {
        self.opened()?;
        // Neither may anything be applied nor a layer be filled, for a driver's number goes to somebody else afterwards.
        let (_applying, _filling) = (self.applying.lock().await, self.filling.lock().await);
        let driver = driver.clone();
        self.blocking(move |shared| shared.erase(&driver)).await
    }

    async fn board(&self, _visit: Visit<'_>) -> Result<Option<Board>, StoreError> {
        Ok(None)
    }

    async fn latest(&self, driver: &DriverId, window: Window) -> Result<Option<Fix>, StoreError> {
        let state = self.opened()?.state.read();
        let newest = state
            .whereabouts
            .fleet
            .number(driver)
            .and_then(|number| state.whereabouts.fleet.get(number))
            .map(|driver| &driver.newest);
        Ok(newest.filter(|fix| window.has(fix)).cloned())
    }

    async fn nearby(&self, query: &NearbyQuery) -> Result<(Vec<Near>, bool), StoreError> {
        let shared = self.opened()?;
        match query.when {
            When::Within(window) => Ok(shared.state.read().whereabouts.nearby(query, window)),
            When::During(hour) => {
                if let Some(found) = nearest_during(&shared.state.read(), query, hour) {
                    return Ok(found);
                }
                // Layers make room for others only while one is filled, so ours stays until this turn ends.
                let _turn = self.filling.lock().await;
                if shared.state.read().layers.get(hour).is_none() {
                    Self::in_time(self.blocking(move |shared| shared.fill_layer(hour))).await?;
                }
                nearest_during(&shared.state.read(), query, hour)
                    .ok_or_else(|| StoreError::Unavailable("the hour is being loaded".into()))
            }
        }
    }

    async fn active(
        &self,
        window: Window,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.page(after, limit, |state, id, number| {
            let fix = &state.whereabouts.fleet.get(number)?.newest;
            window.has(fix).then(|| Located { driver: id.clone(), fix: fix.clone() })
        })
    }

    async fn active_count(&self, window: Window) -> Result<u64, StoreError> {
        let shared = self.opened()?;
        let numbers = shared.state.read().whereabouts.fleet.numbers();
        let mut count = 0;
        for first in (0..numbers).step_by(SLICE) {
            let state = shared.state.read();
            count += state.whereabouts.active_count(window, first..numbers.min(first + SLICE as u32));
        }
        Ok(count)
    }

    async fn track(
        &self,
        driver: &DriverId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<Fix>, StoreError> {
        let shared = self.opened()?;
        let mut track = Vec::new();
        if from >= to {
            return Ok(track);
        }
        let hours: Vec<Hour> = {
            let state = shared.state.read();
            state.hours.range(from.hour()..=to.plus_ms(-1).hour()).map(|(hour, _)| *hour).collect()
        };
        for hour in hours {
            let (number, mut fixes, runs) = {
                let state = shared.state.read();
                // Asked anew for every hour: the number may belong to somebody else by now.
                let Some(number) = state.whereabouts.fleet.number(driver) else { break };
                let Some(index) = state.hours.get(&hour).filter(|index| index.present.contains(number)) else {
                    continue;
                };
                (number, state.fixes_in_memory(hour, number), index.runs.clone())
            };
            if !runs.is_empty() {
                let read = self.blocking(move |_| {
                    for run in runs {
                        fixes.append(&mut run.fixes(number)?);
                    }
                    Ok(fixes)
                });
                fixes = Self::in_time(read).await?;
            }
            run::settle(&mut fixes);
            track.extend(fixes.into_iter().filter(|fix| from <= fix.ts && fix.ts < to).take(limit - track.len()));
            if track.len() == limit {
                break;
            }
        }
        Ok(track)
    }

    async fn hour_drivers(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<DriverId>, StoreError> {
        self.page(after, limit, |state, id, number| {
            state.hours.get(&hour)?.present.contains(number).then(|| id.clone())
        })
    }

    async fn hour_positions(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        let Page { items, next } = self.page(after, limit, |state, id, number| {
            let index = state.hours.get(&hour)?;
            let present = index.present.contains(number);
            present.then(|| (id.clone(), number, state.last_in_memory(hour, number), index.runs.clone()))
        })?;
        let read = self.blocking(move |_| {
            let mut located = Vec::with_capacity(items.len());
            for (driver, number, mut last, runs) in items {
                for run in runs {
                    last = last.max(run.last(number)?);
                }
                located.extend(last.map(|fix| Located { driver, fix }));
            }
            Ok(located)
        });
        Ok(Page { items: Self::in_time(read).await?, next })
    }

    async fn last_report(&self, window: Window) -> Result<Option<Timestamp>, StoreError> {
        let shared = self.opened()?;
        let newest = shared.state.read().whereabouts.fleet.newest_ts();
        if newest.is_none_or(|ts| ts <= window.until) {
            return Ok(newest.filter(|ts| *ts >= window.since));
        }
        let drivers = self.page(None, usize::MAX, |state, _, number| {
            state
                .whereabouts
                .fleet
                .get(number)
                .filter(|driver| window.has(&driver.newest))
                .map(|driver| driver.newest.ts)
        })?;
        Ok(drivers.items.into_iter().max())
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    fn is_partial(&self) -> bool {
        false
    }

    fn omissions(&self) -> u64 {
        0
    }

    fn evictions(&self) -> u64 {
        0
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.opened().map(|_| ())
    }
}

/// `None` if the layer must be filled first.
fn nearest_during(state: &State, query: &NearbyQuery, hour: Hour) -> Option<(Vec<Near>, bool)> {
    if !state.hours.contains_key(&hour) {
        return Some(Default::default());
    }
    let layer = state.layers.get(hour)?;
    let candidates =
        |number| Candidate::of(query, &state.whereabouts.fleet.get(number)?.id, layer.fixes.get(&number)?);
    Some(near(layer.places.nearest(query, candidates)))
}
