//! A store whose audits are shared, and whose losses are told at once to whoever has to know. When an empty store is
//! met by a thousand questions, all of them ask for an audit; they get the outcome of one or two that began after.
//!
//! Never here: what a loss makes of an answer, or who makes up for it.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Applied, Batch, Board, Located, Memory, Near, NearbyQuery, Page, Store, StoreError, Visit, Window};
use crate::model::{DriverId, Fix, Hour, Offset, Timestamp};

/// Wraps a store.
pub struct Audited(Arc<Shared>);

struct Shared {
    inner: Arc<dyn Store>,
    lost: Box<dyn Fn(Offset) + Send + Sync>,
    /// One audit at a time.
    turn: tokio::sync::Mutex<()>,
    last: Mutex<Last>,
}

/// The audits so far, and how the last one that ended went.
struct Last {
    begun: u64,
    outcome: Outcome,
}

#[derive(Clone)]
enum Outcome {
    Intact,
    Lost(Offset),
    Failed(String),
}

impl Audited {
    /// Calls `lost` with the offset of each loss, before anybody hears of it who asked.
    pub fn new(inner: Arc<dyn Store>, lost: impl Fn(Offset) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            inner,
            lost: Box::new(lost),
            turn: tokio::sync::Mutex::default(),
            last: Mutex::new(Last { begun: 0, outcome: Outcome::Intact }),
        }))
    }
}

impl Shared {
    /// The outcome of an audit that began after audit number `seen`.
    async fn audit_after(&self, seen: u64) -> Outcome {
        let _turn = self.turn.lock().await;
        {
            let mut last = self.last.lock();
            if last.begun > seen {
                return last.outcome.clone();
            }
            last.begun += 1;
        }
        let outcome = match self.inner.audit().await {
            Ok(None) => Outcome::Intact,
            Ok(Some(offset)) => {
                (self.lost)(offset);
                Outcome::Lost(offset)
            }
            Err(error) => Outcome::Failed(error.to_string()),
        };
        self.last.lock().outcome = outcome.clone();
        outcome
    }
}

#[async_trait]
impl Store for Audited {
    fn name(&self) -> &'static str {
        self.0.inner.name()
    }

    async fn open(&self, marks: &str) -> Result<Option<Offset>, StoreError> {
        self.0.inner.open(marks).await
    }

    fn is_partial(&self) -> bool {
        self.0.inner.is_partial()
    }

    fn omissions(&self) -> u64 {
        self.0.inner.omissions()
    }

    fn evictions(&self) -> u64 {
        self.0.inner.evictions()
    }

    fn trouble(&self) -> Option<String> {
        self.0.inner.trouble()
    }

    fn marks(&self) -> String {
        self.0.inner.marks()
    }

    async fn audit(&self) -> Result<Option<Offset>, StoreError> {
        let seen = self.0.last.lock().begun;
        let shared = Arc::clone(&self.0);
        // A store tells a loss once: whoever asked and went away must not take the answer along.
        let audit = tokio::spawn(async move { shared.audit_after(seen).await });
        match audit.await {
            Ok(Outcome::Intact) => Ok(None),
            Ok(Outcome::Lost(offset)) => Ok(Some(offset)),
            Ok(Outcome::Failed(what)) => Err(StoreError::Unavailable(what)),
            Err(_) => Err(StoreError::Unavailable("the audit panicked".into())),
        }
    }

    async fn glance(&self) -> Result<bool, StoreError> {
        self.0.inner.glance().await
    }

    async fn apply(&self, batch: Batch<'_>) -> Result<Applied, StoreError> {
        self.0.inner.apply(batch).await
    }

    fn durable(&self) -> Offset {
        self.0.inner.durable()
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.0.inner.flush().await
    }

    async fn forget_before(&self, cutoff: Timestamp) -> Result<(), StoreError> {
        self.0.inner.forget_before(cutoff).await
    }

    async fn erase(&self, driver: &DriverId) -> Result<(), StoreError> {
        self.0.inner.erase(driver).await
    }

    async fn board(&self, visit: Visit<'_>) -> Result<Option<Board>, StoreError> {
        self.0.inner.board(visit).await
    }

    fn memory(&self) -> Option<&dyn Memory> {
        self.0.inner.memory()
    }

    async fn latest(&self, driver: &DriverId, window: Window) -> Result<Option<Fix>, StoreError> {
        self.0.inner.latest(driver, window).await
    }

    async fn nearby(&self, query: &NearbyQuery) -> Result<(Vec<Near>, bool), StoreError> {
        self.0.inner.nearby(query).await
    }

    async fn active(
        &self,
        window: Window,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.0.inner.active(window, after, limit).await
    }

    async fn active_count(&self, window: Window) -> Result<u64, StoreError> {
        self.0.inner.active_count(window).await
    }

    async fn track(
        &self,
        driver: &DriverId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<Fix>, StoreError> {
        self.0.inner.track(driver, from, to, limit).await
    }

    async fn hour_drivers(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<DriverId>, StoreError> {
        self.0.inner.hour_drivers(hour, after, limit).await
    }

    async fn hour_positions(
        &self,
        hour: Hour,
        after: Option<&DriverId>,
        limit: usize,
    ) -> Result<Page<Located>, StoreError> {
        self.0.inner.hour_positions(hour, after, limit).await
    }

    async fn last_report(&self, window: Window) -> Result<Option<Timestamp>, StoreError> {
        self.0.inner.last_report(window).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        self.0.inner.now().await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.inner.ping().await
    }
}
