//! The way into a store, past which nothing comes that is to be erased. Otherwise it is the store behind it.
//!
//! Here, and not in the applier, for it does not matter who brings points, why, or from which part of the journal.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Follower, Shared};
use crate::model::{DriverId, Fix, Hour, Offset, Timestamp};
use crate::store::{Applied, Batch, Board, Located, Near, NearbyQuery, Page, Store, StoreError, Visit, Window};

/// A store whose `apply` leaves out what is to be erased, and refuses as long as it cannot know what that is.
pub struct Gate {
    shared: Arc<Shared>,
    follower: Arc<Follower>,
}

impl Gate {
    pub(super) const fn new(shared: Arc<Shared>, follower: Arc<Follower>) -> Self {
        Self { shared, follower }
    }

    pub(super) fn follower(&self) -> &Follower {
        &self.follower
    }

    fn store(&self) -> &dyn Store {
        &*self.follower.store
    }
}

#[async_trait]
impl Store for Gate {
    fn name(&self) -> &'static str {
        self.store().name()
    }

    async fn open(&self, marks: &str) -> Result<Option<Offset>, StoreError> {
        self.store().open(marks).await
    }

    fn marks(&self) -> String {
        self.store().marks()
    }

    async fn audit(&self) -> Result<Option<Offset>, StoreError> {
        self.store().audit().await
    }

    async fn glance(&self) -> Result<bool, StoreError> {
        self.store().glance().await
    }

    async fn apply(&self, batch: Batch<'_>) -> Result<Applied, StoreError> {
        let _pass = self.follower.enter().await?;
        match self.shared.journal.strike(batch.points, batch.end) {
            Some(points) => self.store().apply(Batch { points: &points, ..batch }).await,
            None => self.store().apply(batch).await,
        }
    }

    fn durable(&self) -> Offset {
        self.store().durable()
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.store().flush().await
    }

    async fn forget_before(&self, cutoff: Timestamp) -> Result<(), StoreError> {
        self.store().forget_before(cutoff).await
    }

    async fn erase(&self, driver: &DriverId) -> Result<(), StoreError> {
        self.store().erase(driver).await
    }

    async fn board(&self, visit: Visit<'_>) -> Result<Option<Board>, StoreError> {
        self.store().board(visit).await
    }

    async fn latest(&self, driver: &DriverId, window: Window) -> Result<Option<Fix>, StoreError> {
        self.store().latest(driver, window).await
    }

    async fn nearby(&self, query: &NearbyQuery) -> Result<(Vec<Near>, bool), StoreError> {
        self.store().nearby(query).await
    }

    async fn active(
        &self,
        window: Window,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.store().active(window, after, limit).await
    }

    async fn active_count(&self, window: Window) -> Result<u64, StoreError> {
        self.store().active_count(window).await
    }

    async fn track(
        &self,
        driver: &DriverId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<Fix>, StoreError> {
        self.store().track(driver, from, to, limit).await
    }

    async fn hour_drivers(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<DriverId>, StoreError> {
        self.store().hour_drivers(hour, after, limit).await
    }

    async fn hour_positions(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.store().hour_positions(hour, after, limit).await
    }

    async fn last_report(&self, window: Window) -> Result<Option<Timestamp>, StoreError> {
        self.store().last_report(window).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        self.store().now().await
    }

    fn is_partial(&self) -> bool {
        self.store().is_partial()
    }

    fn omissions(&self) -> u64 {
        self.store().omissions()
    }

    fn evictions(&self) -> u64 {
        self.store().evictions()
    }

    fn trouble(&self) -> Option<String> {
        self.store().trouble()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.store().ping().await
    }
}
