//! Putting dead letters into their store once the cause is gone. What succeeds leaves the file, the rest stays: it may
//! be done again and again.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::applier::{DeadLetters, Letter};
use crate::clock::Clock;
use crate::model::Point;
use crate::store::{Batch, Store, StoreError};

/// Letters put in at once.
const LETTERS: usize = 2_000;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Letters that left the file.
    pub points: usize,
    /// Letters that were refused once more.
    pub refused: usize,
}

/// What kept letters where they are.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The file cannot be read or written.
    #[error("dead letters: {0}")]
    File(#[from] io::Error),
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Puts `letters` into `store`, which is open. Blocks while it works on the file.
pub async fn replay(
    letters: &DeadLetters,
    store: &dyn Store,
    clock: &Clock,
    retention: Duration,
) -> Result<Replayed, ReplayError> {
    let mut replayed = Replayed::default();
    let all = letters.read()?;
    for some in all.chunks(LETTERS) {
        let mut gone: HashSet<&Letter> = HashSet::new();
        let mut parts: Vec<&[Letter]> = vec![some];
        while let Some(part) = parts.pop() {
            let points: Vec<Point> = part.iter().map(|letter| letter.point.clone()).collect();
            let forget_before = clock.now().plus_ms(-(retention.as_millis() as i64));
            // Where the journal stands is none of their business: they come from anywhere in it.
            let batch = Batch { points: &points, end: part[0].offset, forget_before, repeated: true };
            match store.apply(batch).await {
                Ok(()) => gone.extend(part),
                Err(StoreError::Refused(_)) if part.len() == 1 => replayed.refused += 1,
                Err(StoreError::Refused(_)) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(error) => return Err(error.into()),
            }
        }
        store.flush().await?;
        replayed.points += letters.take_out(|letter| gone.contains(letter))?;
    }
    Ok(replayed)
}
