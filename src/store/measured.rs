//! A store that tells how long each of its operations took, answers out of its memory among them, and goes by the name it is given: two stores of one kind
//! are told apart in metrics and checkpoints.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{Applied, Batch, Board, Located, Memory, Near, NearbyQuery, Page, Store, StoreError, Visit, Window};
use crate::model::{DriverId, Fix, Hour, Offset, Timestamp};

type Observe = dyn Fn(&'static str, Duration) + Send + Sync;

/// Wraps a store.
pub struct Measured {
    name: &'static str,
    inner: Arc<dyn Store>,
    observe: Box<Observe>,
}

impl Measured {
    /// Calls `observe` with the operation's name and how long it took, whether it went well or not.
    pub fn new(
        name: &'static str,
        inner: Arc<dyn Store>,
        observe: impl Fn(&'static str, Duration) + Send + Sync + 'static,
    ) -> Self {
        Self { name, inner, observe: Box::new(observe) }
    }

    async fn time<T>(&self, operation: &'static str, call: impl Future<Output = T> + Send) -> T {
        let begun = Instant::now();
        let outcome = call.await;
        (self.observe)(operation, begun.elapsed());
        outcome
    }

    /// What is answered out of memory counts as an operation of its own; what is not, the store is asked for.
    fn recall<T>(&self, operation: &'static str, recall: impl FnOnce(&dyn Memory) -> Option<T>) -> Option<T> {
        let begun = Instant::now();
        let found = recall(self.inner.memory()?)?;
        (self.observe)(operation, begun.elapsed());
        Some(found)
    }
}

impl Memory for Measured {
    fn near(&self, query: &NearbyQuery, window: Window) -> Option<(Vec<Near>, bool)> {
        self.recall("nearby_in_memory", |memory| memory.near(query, window))
    }

    fn page(&self, window: Window, after: Option<&DriverId>, limit: usize) -> Option<Page<Located>> {
        self.recall("active_in_memory", |memory| memory.page(window, after, limit))
    }

    fn count(&self, window: Window) -> Option<u64> {
        self.recall("active_count_in_memory", |memory| memory.count(window))
    }
}

#[async_trait]
impl Store for Measured {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn open(&self, marks: &str) -> Result<Option<Offset>, StoreError> {
        self.time("open", self.inner.open(marks)).await
    }

    fn marks(&self) -> String {
        self.inner.marks()
    }

    async fn audit(&self) -> Result<Option<Offset>, StoreError> {
        self.time("audit", self.inner.audit()).await
    }

    async fn glance(&self) -> Result<bool, StoreError> {
        self.time("glance", self.inner.glance()).await
    }

    async fn apply(&self, batch: Batch<'_>) -> Result<Applied, StoreError> {
        self.time("apply", self.inner.apply(batch)).await
    }

    fn durable(&self) -> Offset {
        self.inner.durable()
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.time("flush", self.inner.flush()).await
    }

    async fn forget_before(&self, cutoff: Timestamp) -> Result<(), StoreError> {
        self.time("forget_before", self.inner.forget_before(cutoff)).await
    }

    async fn erase(&self, driver: &DriverId) -> Result<(), StoreError> {
        self.time("erase", self.inner.erase(driver)).await
    }

    async fn board(&self, visit: Visit<'_>) -> Result<Option<Board>, StoreError> {
        self.time("board", self.inner.board(visit)).await
    }

    fn memory(&self) -> Option<&dyn Memory> {
        self.inner.memory().map(|_| self as &dyn Memory)
    }

    async fn latest(&self, driver: &DriverId, window: Window) -> Result<Option<Fix>, StoreError> {
        self.time("latest", self.inner.latest(driver, window)).await
    }

    async fn nearby(&self, query: &NearbyQuery) -> Result<(Vec<Near>, bool), StoreError> {
        self.time("nearby", self.inner.nearby(query)).await
    }

    async fn active(
        &self,
        window: Window,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.time("active", self.inner.active(window, after, limit)).await
    }

    async fn active_count(&self, window: Window) -> Result<u64, StoreError> {
        self.time("active_count", self.inner.active_count(window)).await
    }

    async fn track(
        &self,
        driver: &DriverId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<Fix>, StoreError> {
        self.time("track", self.inner.track(driver, from, to, limit)).await
    }

    async fn hour_drivers(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<DriverId>, StoreError> {
        self.time("hour_drivers", self.inner.hour_drivers(hour, after, limit)).await
    }

    async fn hour_positions(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.time("hour_positions", self.inner.hour_positions(hour, after, limit)).await
    }

    async fn last_report(&self, window: Window) -> Result<Option<Timestamp>, StoreError> {
        self.time("last_report", self.inner.last_report(window)).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        self.time("now", self.inner.now()).await
    }

    fn is_partial(&self) -> bool {
        self.inner.is_partial()
    }

    fn omissions(&self) -> u64 {
        self.inner.omissions()
    }

    fn evictions(&self) -> u64 {
        self.inner.evictions()
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.time("ping", self.inner.ping()).await
    }
}
