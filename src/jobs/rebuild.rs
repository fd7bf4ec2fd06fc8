//! Making a store whole from a journal, beside the service or without it: the journal as it stands, newest first,
//! without its lock. May be done twice; what the store has already stays as it is.
//!
//! Never here: the checkpoint of a running service, which goes on by itself.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::warn;

use crate::applier::{DeadLetters, History, Put, ReadError, Stretch, Supply};
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
    Journal(#[from] ReadError),
    /// The store did not take anything for too long.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    let end = reader.end().map_err(ReadError::from)?;
    let first = reader.segments().map_err(ReadError::from)?.first().copied().unwrap_or_default();
    let mut history = Supply::new(History::new(reader));
    history.add(Stretch { from: first, to: end, repeated: true, is_news: false });
    let put = Put::new(store, Arc::new(letters), clock, retention);
    let mut rebuilt = Rebuilt { end, ..Rebuilt::default() };
    let (mut done, mut taken) = (0, Instant::now());
    while let Some(chunk) = history.next().await? {
        let outcome = history.while_putting(chunk.points.len(), async {
            match put.once(&chunk).await? {
                (Applied::Whole, _) => Ok(()),
                (Applied::Partly, _) => Err(StoreError::Unavailable("a part of the store cannot be asked".into())),
            }
        });
        match outcome.await {
            Ok(()) => {
                rebuilt.points += chunk.points.len() as u64;
                taken = Instant::now();
                // Of a record that was cut into parts, the last one ends where it does.
                done += chunk.end.get() - chunk.start.get();
                tell(done, rebuilt.end.get() - first.get());
            }
            Err(error) if taken.elapsed() > PATIENCE => return Err(error.into()),
            Err(error) => {
                warn!(%error, "the store does not take it; trying again");
                history.give_back(chunk);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    put.flush().await?;
    rebuilt.damage = history.damage();
    Ok(rebuilt)
}
