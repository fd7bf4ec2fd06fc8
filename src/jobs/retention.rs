//! Forgetting: what is older than the retention leaves the stores and the journal.
//!
//! The journal drops a segment only when every point in it is too old and every store holds it for good, so nothing
//! a store still needs ever goes. Each store forgets by itself: one that is away keeps the journal, and nobody else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::task::spawn_blocking;
use tracing::info;

use crate::applier::DeadLetters;
use crate::clock::Clock;
use crate::cutoff::Cutoff;
use crate::journal::Journal;
use crate::model::{Offset, Timestamp};
use crate::store::{Store, StoreError};

/// What kept the job from being done. It is tried again at the next turn.
#[derive(Debug, Error)]
pub enum RetentionError {
    /// The store could not forget.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A segment could not be read or removed.
    #[error("journal: {0}")]
    Journal(#[from] io::Error),
    /// Removing ended abnormally.
    #[error("dropping segments panicked")]
    Panicked,
}

/// Forgets once, in the journal and in one of the stores that follow it. `held` is how far every store holds the
/// journal for good. Nothing is forgotten, here or there, before it is over by the store's clock too.
pub async fn forget(
    journal: &Journal,
    store: &Arc<dyn Store>,
    held: Offset,
    clock: &Clock,
    retention: Duration,
) -> Result<(), RetentionError> {
    let cutoff = Cutoff::new(clock.clone(), retention).of(&**store).await?;
    forget_letters(journal, store.name(), cutoff).await?;
    let journal = journal.clone();
    // Stores keep whole hours: a rebuild must find all of the one that is half over.
    let whole_hours = cutoff.hour().start();
    let dropped =
        spawn_blocking(move || journal.retain(whole_hours, held)).await.map_err(|_| RetentionError::Panicked)??;
    if dropped.segments > 0 {
        info!(segments = dropped.segments, bytes = dropped.bytes, "dropped from the journal");
    }
    if dropped.awaits_store {
        // A small fleet fills no memory in two days. Once the store has written, the next turn drops it.
        store.flush().await?;
    }
    Ok(store.forget_before(cutoff).await?)
}

/// A point out of the retention would not be put in any more.
async fn forget_letters(journal: &Journal, store: &str, cutoff: Timestamp) -> Result<(), RetentionError> {
    let letters = DeadLetters::of(journal.data_dir(), store);
    let forget = move || letters.take_out(|letter| letter.point.fix.ts.hour().end() <= cutoff);
    spawn_blocking(forget).await.map_err(|_| RetentionError::Panicked)??;
    Ok(())
}
