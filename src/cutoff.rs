//! What is out of the retention: by this instance's clock and by the store's own, whichever is behind.
//!
//! Several instances share a store and forget there for all. One whose clock is ahead, or jumps, must not take away what
//! is not over yet for the others, nor what its own journal alone can bring back. A clock that is behind keeps things
//! longer, which costs room and nothing else. A store without a clock is this instance's alone: there its own holds.
//!
//! Never here: how long things are kept (the configuration says), and what goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::model::Timestamp;
use crate::store::{Store, StoreError};

/// How long a store's time is reckoned on from by the monotonic clock, which no jump moves, before it is asked again.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What a store said, and when.
#[derive(Clone, Copy, Debug)]
struct Told {
    at: Instant,
    time: Option<Timestamp>,
}

/// Tells what is over. Clones ask together.
#[derive(Clone, Debug)]
pub struct Cutoff {
    clock: Clock,
    retention: Duration,
    told: Arc<Mutex<Option<Told>>>,
}

impl Cutoff {
    /// By `clock`, for what is kept for `retention`.
    pub fn new(clock: Clock, retention: Duration) -> Self {
        Self { clock, retention, told: Arc::default() }
    }

    /// What lies before this is out of the retention in `store`, which must always be the same one. An error if the
    /// store cannot be asked.
    pub async fn of(&self, store: &dyn Store) -> Result<Timestamp, StoreError> {
        let theirs = self.time_of(store).await?;
        let own = self.clock.now();
        let retention_ms = i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX);
        Ok(theirs.map_or(own, |theirs| theirs.min(own)).plus_ms(-retention_ms))
    }

    async fn time_of(&self, store: &dyn Store) -> Result<Option<Timestamp>, StoreError> {
        let known = *self.told.lock();
        if let Some(Told { at, time }) = known.filter(|told| told.at.elapsed() < ASK_EVERY) {
            return Ok(time.map(|time| time.plus_ms(at.elapsed().as_millis() as i64)));
        }
        // What the asking takes makes the store's time seem earlier, never later.
        let time = store.now().await?;
        *self.told.lock() = Some(Told { at: Instant::now(), time });
        Ok(time)
    }
}
