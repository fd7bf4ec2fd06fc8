//! One chunk into a store: tried once, within a bound, panics and all. What the store refuses for ever is found by
//! halving and set aside, so that one point never holds up the others.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tracing::warn;

use super::dead_letters::{DeadLetters, Letter};
use super::history::Chunk;
use super::progress::SetAside;
use crate::clock::Clock;
use crate::cutoff::Cutoff;
use crate::model::{Offset, Point};
use crate::store::{Applied, Batch, Store, StoreError};

/// A store bounds its calls itself; one that does not is hung.
const HUNG: Duration = Duration::from_secs(30);

/// So many panics in a row may be an accident. With the next, it is the points.
const ACCIDENTS: u32 = 3;

/// So many refusals of parts of a chunk, and whatever part is refused next is set aside whole: with a key of the wrong
/// type, all of an hour is refused, and asking for every point would take longer than points take to come.
const MOST_REFUSALS: usize = 128;

/// Puts chunks into a store.
#[derive(Clone)]
pub struct Put {
    pub(super) store: Arc<dyn Store>,
    pub(super) letters: Arc<DeadLetters>,
    pub(super) clock: Clock,
    pub(super) cutoff: Cutoff,
    panics: Arc<AtomicU32>,
}

impl Put {
    /// Into `store`; what it refuses goes to `letters`, what is older than `retention` counts as put in.
    pub fn new(store: Arc<dyn Store>, letters: Arc<DeadLetters>, clock: Clock, retention: Duration) -> Self {
        let cutoff = Cutoff::new(clock.clone(), retention);
        Self { store, letters, clock, cutoff, panics: Arc::default() }
    }

    /// Once. When it returns `Ok`, every point is in the store, or owed by it, or, on disk, among the dead letters: then
    /// it tells how many of those there are by now.
    pub async fn once(&self, chunk: &Chunk) -> Result<(Applied, Option<SetAside>), StoreError> {
        match self.apply(&chunk.points, (chunk.start, chunk.end), chunk.repeated, ACCIDENTS).await {
            Err(StoreError::Refused(_)) => self.sift(chunk).await.map(|(applied, all)| (applied, Some(all))),
            outcome => outcome.map(|applied| (applied, None)),
        }
    }

    /// Makes the store keep for good what it was given.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.store.flush().await
    }

    /// So many panics in a row as `accidents` says are not the fault of the points.
    async fn apply(
        &self,
        points: &[Point],
        (start, end): (Offset, Offset),
        repeated: bool,
        accidents: u32,
    ) -> Result<Applied, StoreError> {
        let forget_before = self.cutoff.of(&*self.store).await?;
        let batch = Batch { points, start, end, forget_before, repeated };
        let call = AssertUnwindSafe(self.store.apply(batch)).catch_unwind();
        match tokio::time::timeout(HUNG, call).await {
            Ok(Ok(outcome)) => {
                self.panics.store(0, Ordering::Relaxed);
                outcome
            }
            Ok(Err(_)) if self.panics.fetch_add(1, Ordering::Relaxed) < accidents => {
                Err(StoreError::Unavailable("the store panicked".into()))
            }
            Ok(Err(_)) => Err(StoreError::Refused("panicked".into())),
            Err(_) => Err(StoreError::Unavailable("the store hangs".into())),
        }
    }

    /// Halves what is refused until only that is left which is refused alone: what is refused mostly is so for its key, and
    /// the points of a key lie together.
    async fn sift(&self, chunk: &Chunk) -> Result<(Applied, SetAside), StoreError> {
        let mut parts: Vec<&[Point]> = vec![&chunk.points];
        let mut refusals = 0;
        let mut letters = Vec::new();
        let mut applied = Applied::Whole;
        while let Some(part) = parts.pop() {
            match self.apply(part, (chunk.start, chunk.start), true, 0).await {
                Ok(Applied::Whole) => {}
                Ok(Applied::Partly) => applied = Applied::Partly,
                Err(StoreError::Refused(reason)) if part.len() <= 1 || refusals >= MOST_REFUSALS => {
                    let (now, received) = (self.clock.now(), chunk.received);
                    let letter = |point: &Point| Letter {
                        at: now,
                        offset: chunk.start,
                        received,
                        reason: reason.clone(),
                        point: point.clone(),
                    };
                    letters.extend(part.iter().map(letter));
                }
                Err(StoreError::Refused(_)) => {
                    refusals += 1;
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(error) => return Err(error),
            }
        }
        let (set_aside, reason) = (letters.len(), letters.first().map(|letter| letter.reason.clone()));
        let unwritten = |error| StoreError::Unavailable(format!("dead letters cannot be written: {error}"));
        let all = self.letters.clone().add(letters).await.map_err(unwritten)?;
        if let Some(reason) = reason {
            let store = self.store.name();
            warn!(store, points = set_aside, reason, "refused by the store: set aside as dead letters");
        }
        // What is left of the chunk is nothing, up to its end.
        self.apply(&[], (chunk.start, chunk.end), true, ACCIDENTS).await?;
        Ok((applied, all))
    }
}
