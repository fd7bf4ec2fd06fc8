//! How far an applier has come, and what that makes of answers: shared with everyone who must know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::journal::Committed;
use crate::model::{Offset, Timestamp};

/// An answer is whole if everything acknowledged until this long ago is in the store. It is what a point may take
/// from its acknowledgement into every answer.
pub const FRESHNESS_BOUND: Duration = Duration::from_millis(500);

/// Told by the applier, read by queries, ingest, metrics and retention.
#[derive(Debug)]
pub struct Progress {
    committed: watch::Receiver<Committed>,
    applied: watch::Sender<Offset>,
    durable: watch::Sender<Offset>,
    points_end: AtomicU64,
    points_applied: AtomicU64,
    moments: Mutex<Moments>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    /// When everything then committed was known to be applied, last.
    whole: Option<(Instant, Timestamp)>,
    /// When the newest applied batch had been received.
    received: Option<Timestamp>,
}

/// Whether a store is whole, and since when not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wholeness {
    /// Everything acknowledged before the freshness bound is in.
    Whole,
    /// What was received up to this moment is in.
    Behind(Option<Timestamp>),
}

impl Progress {
    /// Nothing applied yet of what `committed` tells.
    pub fn new(committed: watch::Receiver<Committed>) -> Self {
        Self {
            committed,
            applied: watch::Sender::new(Offset::START),
            durable: watch::Sender::new(Offset::START),
            points_end: AtomicU64::new(0),
            points_applied: AtomicU64::new(0),
            moments: Mutex::default(),
        }
    }

    /// Tells how far the store holds the journal.
    pub fn watch_applied(&self) -> watch::Receiver<Offset> {
        self.applied.subscribe()
    }

    /// How far the store holds the journal for good: what lies before may be dropped from the journal.
    pub fn durable_offset(&self) -> Offset {
        *self.durable.borrow()
    }

    /// Points applied since the start of the process.
    pub fn points_applied(&self) -> u64 {
        self.points_applied.load(Ordering::Relaxed)
    }

    /// Points in the journal that the store does not hold yet.
    pub fn backlog_points(&self) -> u64 {
        self.committed.borrow().points.saturating_sub(self.points_end.load(Ordering::Relaxed))
    }

    /// Whether answers from the store are whole at this moment.
    pub fn wholeness(&self) -> Wholeness {
        let moments = *self.moments.lock();
        match moments.whole {
            None => Wholeness::Behind(moments.received),
            Some((at, _)) if at.elapsed() <= FRESHNESS_BOUND => Wholeness::Whole,
            Some(_) if *self.applied.borrow() >= self.committed.borrow().end => Wholeness::Whole,
            Some((_, ts)) => Wholeness::Behind(Some(ts)),
        }
    }

    pub(super) fn applied(&self, end: Offset, points_end: u64, points: u64, received: Timestamp) {
        self.points_end.store(points_end, Ordering::Relaxed);
        self.points_applied.fetch_add(points, Ordering::Relaxed);
        self.moments.lock().received = Some(received);
        self.applied.send_replace(end);
    }

    /// Everything that was committed `at` that moment is in, by this run or an earlier one; or is lost.
    pub(super) fn caught_up(&self, all: Committed, at: Instant, ts: Timestamp) {
        self.points_end.fetch_max(all.points, Ordering::Relaxed);
        self.applied.send_if_modified(|applied| {
            let is_news = all.end > *applied;
            *applied = all.end.max(*applied);
            is_news
        });
        self.moments.lock().whole = Some((at, ts));
    }

    pub(super) fn durable(&self, durable: Offset) {
        self.durable.send_replace(durable);
    }
}
