//! Making a store whole from a journal, beside the service or without it: the journal as it stands, newest first,
//! without its lock. May be done twice; what the store has already stays as it is.
//!
//! Never here: the checkpoint of a running service, which goes on by itself.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::applier::{DeadLetters, FEWEST_POINTS, History, LIVE_POINTS, Put, Stretch, next_most};
use crate::clock::Clock;
use crate::journal::{Damage, Reader};
use crate::model::Offset;
use crate::store::{Applied, Store, StoreError};

/// A store that takes nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rebuilt {
    /// Points put in, or there already.
    pub points: u64,
    /// Where the journal ended when it began.
    pub end: Offset,
    /// What of the journal could not be read.
    pub damage: Damage,
}

/// What kept the store from being made whole. What was put in until then stays.
#[derive(Debug, Error)]
pub enum RebuildError {
    /// The journal cannot be read.
    #[error("journal: {0}")]
    Journal(#[from] io::Error),
    /// The store did not take anything for too long.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Reading ended abnormally.
    #[error("reading the journal panicked")]
    Panicked,
}

/// Puts the journal of the data directory `dir` into `store`, which is open. `tell` hears how many bytes of the
/// journal are done, and of how many.
pub async fn rebuild(
    dir: &Path,
    store: Arc<dyn Store>,
    letters: DeadLetters,
    clock: Clock,
    retention: Duration,
    mut tell: impl FnMut(u64, u64),
) -> Result<Rebuilt, RebuildError> {
    let reader = Reader::open(dir, Offset::START);
    let end = reader.end()?;
    let first = reader.segments()?.first().copied().unwrap_or_default();
    let mut history = History::new(reader);
    history.add(Stretch { from: first, to: end, repeated: true, is_news: false });
    let put = Put::new(store, Arc::new(letters), clock, retention);
    let mut rebuilt = Rebuilt { end, ..Rebuilt::default() };
    let (mut most, mut done, mut left) = (LIVE_POINTS, 0, None);
    let mut taken = Instant::now();
    loop {
        let chunk = if let Some(chunk) = left.take() {
            Some(chunk)
        } else {
            let (back, chunk) = spawn_blocking(move || {
                let chunk = history.next(most);
                (history, chunk)
            })
            .await
            .map_err(|_| RebuildError::Panicked)?;
            history = back;
            chunk?
        };
        let Some(mut chunk) = chunk else { break };
        let (start, end) = (chunk.start, chunk.end);
        let rest = chunk.split(most);
        let began = Instant::now();
        let outcome = match put.once(&chunk).await {
            Ok((Applied::Whole, _)) => Ok(()),
            Ok((Applied::Partly, _)) => Err(StoreError::Unavailable("a part of the store cannot be asked".into())),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                rebuilt.points += chunk.points.len() as u64;
                most = next_most(most, began.elapsed());
                taken = Instant::now();
                if rest.is_none() {
                    done += end.get() - start.get();
                    tell(done, rebuilt.end.get() - first.get());
                }
                left = rest;
            }
            Err(error) if taken.elapsed() > PATIENCE => return Err(error.into()),
            Err(error) => {
                warn!(%error, "the store does not take it; trying again");
                most = (most / 2).max(FEWEST_POINTS);
                chunk.points.extend(rest.into_iter().flat_map(|rest| rest.points));
                chunk.end = end;
                left = Some(chunk);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    put.flush().await?;
    rebuilt.damage = history.damage();
    Ok(rebuilt)
}
