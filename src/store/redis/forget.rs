//! Forgetting whole hours before their keys expire by themselves.
//!
//! The big keys of an hour are unlinked, which frees them in the background: left to their TTL, each would hold Redis
//! up on its way out, whoever happens to touch it. Tracks are left to their TTL: they are small and many, their
//! expiry is spread over ten minutes, and naming them all would cost more than that.
//!
//! Never here: what is old (the caller says); a hunt for keys (names follow from the hour and its cells).

use bytes::Bytes;
use parking_lot::Mutex;

use super::Index;
use super::link::Command;
use super::shard::Shard;
use crate::model::{Hour, Timestamp};
use crate::store::StoreError;

/// How far back the first call looks: what was forgotten while nobody ran has expired by itself.
const LOOK_BACK_HOURS: i32 = 48;

/// Keys unlinked in one pipeline.
const KEYS_PER_PIPELINE: usize = 256;

/// The newest hour that was forgotten.
#[derive(Debug, Default)]
pub(super) struct Forgotten(Mutex<Option<Hour>>);

impl Index {
    /// Forgets the hours that ended before `cutoff`, oldest first. What is on a server that cannot be asked keeps nothing else.
    pub(super) async fn forget_before(&self, cutoff: Timestamp, forgotten: &Forgotten) -> Result<(), StoreError> {
        // First, so that no audit misses what goes.
        self.marks.forget_before(cutoff);
        self.outage.forget_before(cutoff);
        self.atlas.forget_before(cutoff);
        let open = cutoff.plus_ms(-1).hour().number();
        let next = forgotten.0.lock().map_or(i32::MIN, |hour| hour.number() + 1);
        let mut outcome = Ok(());
        for hour in next.max(open - LOOK_BACK_HOURS)..open {
            let hour = Hour::from_number(hour);
            outcome = self.forget_hour(hour).await.and(outcome);
            // Those behind one that could not be forgotten are gone through again with it.
            if outcome.is_ok() {
                *forgotten.0.lock() = Some(hour);
            }
        }
        outcome
    }

    /// Unlinks what can be reached of an hour; an error if that is not all.
    async fn forget_hour(&self, hour: Hour) -> Result<(), StoreError> {
        let places = self.places(hour).await;
        let known = places.as_ref().map_or(&[][..], |places| &**places);
        let shards: Vec<Shard> = known.iter().copied().chain(self.buckets(hour)).collect();
        let keys: Vec<Bytes> = shards.iter().flat_map(|shard| self.keys.all(*shard)).collect();
        let unlinked = self.unlink(&keys).await;
        // The list of the cells goes last: without it nobody would find them again.
        places.and(unlinked)?;
        self.unlink(&self.left_over(hour).await?).await?;
        self.unlink(&self.keys.all(Shard::whole(hour))).await
    }

    async fn unlink(&self, keys: &[Bytes]) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for keys in keys.chunks(KEYS_PER_PIPELINE) {
            let unlinking = keys.iter().map(|key| Command::on("UNLINK", key.clone()));
            outcome = self.link.run(unlinking.collect()).await.map(drop).and(outcome);
        }
        outcome
    }
}
