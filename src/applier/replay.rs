//! Putting dead letters into their store once the cause is gone. What succeeds leaves the file, the rest stays: it may
//! be done again and again. An applier tries by itself now and then, a command when somebody wants it.

use std::collections::HashSet;
use std::io;

use thiserror::Error;

use super::dead_letters::{DeadLetters, Letter};
use crate::cutoff::Cutoff;
use crate::model::Point;
use crate::store::{Applied, Batch, Store, StoreError};

/// Letters put in at once.
const LETTERS: usize = 2_000;

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeal {
    /// An hour of which anything is refused is left alone: asking costs a call or two.
    Probing,
    /// Every letter is tried, by itself if need be.
    Thorough,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Letters that left the file.
    pub points: usize,
    /// Letters that stayed: refused once more, or left alone.
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

/// Puts `letters` into `store`, which is open; what is out of the retention by `cutoff` counts as put in. Blocks while it
/// works on the file.
pub async fn replay(
    letters: &DeadLetters,
    store: &dyn Store,
    cutoff: &Cutoff,
    zeal: Zeal,
) -> Result<Replayed, ReplayError> {
    let mut replayed = Replayed::default();
    let mut all = letters.read()?;
    all.sort_by_key(|letter| letter.point.fix.ts);
    for hour in all.chunk_by(|a, b| a.point.fix.ts.hour() == b.point.fix.ts.hour()) {
        let mut gone: HashSet<&Letter> = HashSet::new();
        let mut parts: Vec<&[Letter]> = hour.chunks(LETTERS).rev().collect();
        while let Some(part) = parts.pop() {
            let points: Vec<Point> = part.iter().map(|letter| letter.point.clone()).collect();
            let forget_before = cutoff.of(store).await?;
            // Where the journal stands is none of their business: they come from anywhere in it.
            let start = part.iter().map(|letter| letter.offset).min().unwrap_or_default();
            let batch = Batch { points: &points, start, end: part[0].offset, forget_before, repeated: true };
            match store.apply(batch).await {
                Ok(Applied::Whole) => gone.extend(part),
                // What of them is in is put in again: that changes nothing.
                Ok(Applied::Partly) => {}
                Err(StoreError::Refused(_)) if zeal == Zeal::Probing => break,
                Err(StoreError::Refused(_)) if part.len() == 1 => {}
                Err(StoreError::Refused(_)) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !gone.is_empty() {
            store.flush().await?;
            letters.take_out(|letter| gone.contains(letter))?;
        }
        replayed.points += gone.len();
        replayed.refused += hour.len() - gone.len();
    }
    Ok(replayed)
}
