//! A store that can be asked, and what is known of it: how whole it is, and whether it was there when last looked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::{IndexState, Label, QueryError};
use crate::store::Store;

/// How long an answer is held up by an audit: longer, and it is not called complete.
const AUDIT_PATIENCE: Duration = Duration::from_secs(1);

/// What a store answered.
pub(super) enum Seen<T> {
    /// Out of what it held at that moment.
    Held(T),
    /// Out of the memory of this process, which what it holds has no part in.
    InMemory(T),
}

/// One of the stores that answer.
pub struct Source {
    store: Arc<dyn Store>,
    label: Label,
    is_away: AtomicBool,
    reads_percent: AtomicU8,
    shadow_percent: AtomicU8,
}

impl Source {
    /// `label` knows how whole `store` is. It has no share in anything yet.
    pub const fn new(store: Arc<dyn Store>, label: Label) -> Self {
        let (reads_percent, shadow_percent) = (AtomicU8::new(0), AtomicU8::new(0));
        Self { store, label, is_away: AtomicBool::new(false), reads_percent, shadow_percent }
    }

    /// So many of a hundred questions it should answer; and of so many that others answered, its answer is compared.
    pub fn set_shares(&self, reads_percent: u8, shadow_percent: u8) {
        self.reads_percent.store(reads_percent, Ordering::Relaxed);
        self.shadow_percent.store(shadow_percent, Ordering::Relaxed);
    }

    /// Its share of the questions. With none, it only stands in for others.
    pub fn reads_percent(&self) -> u8 {
        self.reads_percent.load(Ordering::Relaxed)
    }

    pub(super) fn shadow_percent(&self) -> u8 {
        self.shadow_percent.load(Ordering::Relaxed)
    }

    /// The store itself.
    pub const fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// How whole it is now.
    pub fn state(&self) -> IndexState {
        self.label.state()
    }

    /// Whoever looks for it regularly says whether it answered. One that did not is asked last.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }

    /// Whether it answered lately, and from everything.
    pub fn is_whole(&self) -> bool {
        self.rank() == 0
    }

    /// In which order sources are asked: the whole ones, the others, those that did not answer lately.
    pub(super) fn rank(&self) -> u8 {
        match (self.is_away.load(Ordering::Relaxed), self.state()) {
            (false, IndexState::Complete) => 0,
            (false, _) => 1,
            (true, _) => 2,
        }
    }

    /// Asks, and says how whole the store was all the while. It was whole if it was before and after, if nothing was
    /// lost in between, and if a look after the answer finds nothing amiss: a store that comes back empty answers
    /// before anybody else has noticed. What is amiss is audited at once, and told to whoever makes up for it. If it
    /// left anything out meanwhile, it may have been out of this answer. Of an answer out of memory none of that matters.
    pub(super) async fn ask<T>(
        &self,
        question: impl Future<Output = Result<Seen<T>, QueryError>>,
    ) -> (Result<T, QueryError>, IndexState) {
        let before = self.label.look();
        let omissions = self.store.omissions();
        let answer = match question.await {
            Ok(Seen::Held(answer)) => Ok(answer),
            Ok(Seen::InMemory(answer)) => return (Ok(answer), before.state),
            Err(error) => Err(error),
        };
        if before.state.is_degraded() || matches!(answer, Err(QueryError::Unavailable(_))) {
            return (answer, before.state);
        }
        let is_intact = match self.store.glance().await {
            Ok(true) => true,
            // It goes on, however long it takes; who asked does not wait for that.
            Ok(false) => matches!(timeout(AUDIT_PATIENCE, self.store.audit()).await, Ok(Ok(None))),
            Err(_) => false,
        };
        let after = self.label.look();
        let index = match after.state {
            IndexState::Complete if self.store.omissions() != omissions => IndexState::Partial { as_of: None },
            IndexState::Complete if is_intact && after.losses == before.losses => IndexState::Complete,
            IndexState::Complete => IndexState::Rebuilding { as_of: None },
            degraded => degraded,
        };
        (answer, index)
    }
}
