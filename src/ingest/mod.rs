//! Taking points in: append to the journal, wait for its fsync, say so. That is the whole promise of a 202.
//!
//! Never here: parsing (the edge did it), a store (appliers follow the journal by themselves).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;

use crate::journal::{AppendError, Journal, Reach};
use crate::model::{Offset, Point, Timestamp};

/// How long `wait=applied` waits for the first store before it settles for "it is on disk".
pub const MAX_WAIT_APPLIED: Duration = Duration::from_secs(5);

/// Why points were not taken. Nothing of them was promised.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// More is waiting for the disk than memory should hold. Try again later.
    #[error("too much is waiting for the journal")]
    Overloaded,
    /// The journal cannot be written. After a failure in mid-write the outcome is unknown; repeating is harmless.
    #[error("the journal cannot be written")]
    JournalUnavailable,
    /// The process is on its way out.
    #[error("shutting down")]
    ShuttingDown,
}

/// The way in.
#[derive(Clone, Debug)]
pub struct Ingest {
    journal: Journal,
    applied: Arc<Mutex<watch::Receiver<Reach>>>,
}

impl Ingest {
    /// Into `journal`; `applied` tells how far the first store has followed.
    pub fn new(journal: Journal, applied: watch::Receiver<Reach>) -> Self {
        Self { journal, applied: Arc::new(Mutex::new(applied)) }
    }

    /// Another store is the first from now on. Who waits for the one before goes on waiting for that.
    pub fn follow(&self, applied: watch::Receiver<Reach>) {
        *self.applied.lock() = applied;
    }

    /// Returns once the points are on disk, fsynced, with the offset behind them. Dropping the future does not take
    /// back an append that has begun.
    pub async fn submit(&self, points: Vec<Point>, received: Timestamp) -> Result<Offset, Refusal> {
        self.journal.append(points, received).await.map_err(|error| match error {
            AppendError::Overloaded => Refusal::Overloaded,
            AppendError::Failed => Refusal::JournalUnavailable,
            AppendError::Closed => Refusal::ShuttingDown,
        })
    }

    /// Waits until the first store holds what was submitted up to `end`; false if it takes over [`MAX_WAIT_APPLIED`].
    pub async fn wait_applied(&self, end: Offset) -> bool {
        let mut applied = self.applied.lock().clone();
        let wait = applied.wait_for(|applied| applied.covers(end));
        matches!(tokio::time::timeout(MAX_WAIT_APPLIED, wait).await, Ok(Ok(_)))
    }

    /// Whether points can be taken now.
    pub fn is_ready(&self) -> bool {
        self.journal.is_writable()
    }
}
