//! From the journal into a store: the one way points come into an index, live or after a crash or from the very
//! beginning.
//!
//! An applier tails the journal from where its store left off, puts batches in, and notes how far it has come: the
//! checkpoint moves only after the store has the points. So a crash costs repetition, which stores bear, never loss.
//! A store that cannot be written to is tried again with a jittered back-off for as long as it takes: the journal is
//! the queue, nothing waits in memory.
//!
//! Never here: HTTP, an adapter, a decision about what to answer (that is the label's reader).

mod progress;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::journal::{Checkpoint, Journal, Note, Reader, Record};
use crate::model::{Offset, Point};
use crate::store::{Batch, Store};

pub use progress::{FRESHNESS_BOUND, Progress, Wholeness};

/// How many points go into a store at once, about: enough for folding and pipelines to pay, few enough that a live
/// point does not wait.
const BATCH_POINTS: usize = 4_000;

/// How often the checkpoint is written, at most.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
const BACK_OFF_LAST: Duration = Duration::from_secs(2);

/// What ends an applier early.
#[derive(Debug, Error)]
pub enum ApplierError {
    /// The checkpoint cannot be read.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] io::Error),
    /// Reading ended abnormally.
    #[error("reading the journal panicked")]
    Panicked,
}

/// Follows the journal into one store.
pub struct Applier {
    journal: Journal,
    store: Arc<dyn Store>,
    checkpoint: Checkpoint,
    progress: Arc<Progress>,
    clock: Clock,
    retention: Duration,
    noted: (Offset, Instant),
    /// What the journal held before this offset may be in the store already.
    repeated_until: Offset,
}

impl Applier {
    /// Follows `journal` into `store`, telling `progress`.
    pub fn new(
        journal: Journal,
        store: Arc<dyn Store>,
        progress: Arc<Progress>,
        clock: Clock,
        retention: Duration,
    ) -> Self {
        let checkpoint = journal.checkpoint(store.name());
        let noted = (Offset::START, Instant::now());
        let repeated_until = journal.committed().borrow().end;
        Self { journal, store, checkpoint, progress, clock, retention, noted, repeated_until }
    }

    /// Until `stop`; then what is committed by that time is applied if the store takes it, and made durable.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ApplierError> {
        let Some(start) = self.open(&stop).await? else { return Ok(()) };
        info!(store = self.store.name(), from = start.get(), "applying the journal");
        let mut reader = self.journal.reader(start);
        let mut committed = self.journal.committed();
        let mut unreadable = BackOff::new();
        loop {
            let goal = *committed.borrow_and_update();
            let (goal_at, goal_ts) = (Instant::now(), self.clock.now());
            let (back, records) = read(reader).await?;
            reader = back;
            let records = match records {
                Ok(records) => records,
                Err(error) => {
                    warn!(store = self.store.name(), %error, "cannot read the journal; trying again");
                    if unreadable.wait(&stop).await {
                        continue;
                    }
                    break;
                }
            };
            unreadable = BackOff::new();
            if records.is_empty() {
                self.progress.caught_up(goal, goal_at, goal_ts);
                self.note().await?;
                if stop.is_cancelled() {
                    break;
                }
                tokio::select! {
                    changed = committed.changed() => if changed.is_err() { stop.cancelled().await },
                    () = stop.cancelled() => {}
                    // Wakes to note what a background flush has made durable, and to stay fresh.
                    () = tokio::time::sleep(CHECKPOINT_EVERY) => {}
                }
                continue;
            }
            if !self.apply(records, &stop).await {
                break;
            }
            if reader.position() >= goal.end {
                self.progress.caught_up(goal, goal_at, goal_ts);
            }
            if self.noted.1.elapsed() >= CHECKPOINT_EVERY {
                self.note().await?;
            }
        }
        if let Err(error) = self.store.flush().await {
            warn!(store = self.store.name(), %error, "flush at shutdown failed; the journal makes up for it");
        }
        self.note().await
    }

    /// Where to go on from; `None` if stopped before the store could be opened.
    async fn open(&mut self, stop: &CancellationToken) -> Result<Option<Offset>, ApplierError> {
        let Note { offset: checkpoint, marks } = self.checkpoint.read()?.unwrap_or_default();
        let mut back_off = BackOff::new();
        loop {
            match self.store.open(&marks).await {
                Ok(held) => {
                    let start = held.unwrap_or(checkpoint);
                    self.noted.0 = start;
                    self.progress.durable(start);
                    return Ok(Some(start));
                }
                Err(error) => warn!(store = self.store.name(), %error, "cannot open; trying again"),
            }
            if !back_off.wait(stop).await {
                return Ok(None);
            }
        }
    }

    /// Applies until the store takes it; false if stopped before.
    async fn apply(&self, records: Vec<Record>, stop: &CancellationToken) -> bool {
        let Some(last) = records.last() else { return true };
        let (end, points_end, received) = (last.end, last.points_end, last.received);
        let points: Vec<Point> = records.into_iter().flat_map(|record| record.points).collect();
        let mut back_off = BackOff::new();
        let mut repeated = end <= self.repeated_until;
        loop {
            let forget_before = self.clock.now().plus_ms(-(self.retention.as_millis() as i64));
            match self.store.apply(Batch { points: &points, end, forget_before, repeated }).await {
                Ok(()) => {
                    self.progress.applied(end, points_end, points.len() as u64, received);
                    return true;
                }
                Err(error) => {
                    warn!(store = self.store.name(), %error, points = points.len(), "cannot apply; trying again");
                }
            }
            // Any part of it may have gone in.
            repeated = true;
            if !back_off.wait(stop).await {
                return false;
            }
        }
    }

    /// Writes the checkpoint if the store has made more durable since. One that cannot be written is tried again at
    /// the next turn: it only says how much to repeat.
    async fn note(&mut self) -> Result<(), ApplierError> {
        let durable = self.store.durable();
        self.noted.1 = Instant::now();
        if durable > self.noted.0 {
            let checkpoint = self.checkpoint.clone();
            let note = Note { offset: durable, marks: self.store.marks() };
            let saved = spawn_blocking(move || checkpoint.save(&note)).await.map_err(|_| ApplierError::Panicked)?;
            if let Err(error) = saved {
                warn!(store = self.store.name(), %error, "cannot write the checkpoint; trying again");
                return Ok(());
            }
            self.noted.0 = durable;
            self.progress.durable(durable);
        }
        Ok(())
    }
}

/// Reads off the runtime's workers, so that a stalled disk stalls nobody else.
async fn read(mut reader: Reader) -> Result<(Reader, io::Result<Vec<Record>>), ApplierError> {
    let read = move || {
        let records = reader.read(BATCH_POINTS);
        (reader, records)
    };
    spawn_blocking(read).await.map_err(|_| ApplierError::Panicked)
}

/// Waits longer each time, with jitter, so that several instances do not come back at once.
struct BackOff(Duration);

impl BackOff {
    const fn new() -> Self {
        Self(BACK_OFF_FIRST)
    }

    /// False if stopped meanwhile.
    async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let pause = self.0.mul_f64(rand::rng().random_range(0.5..1.0));
        self.0 = (self.0 * 2).min(BACK_OFF_LAST);
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = stop.cancelled() => false,
        }
    }
}
