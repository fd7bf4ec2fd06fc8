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
    /// Forgets the hours that ended before `cutoff`, oldest first.
    pub(super) async fn forget_before(&self, cutoff: Timestamp, forgotten: &Forgotten) -> Result<(), StoreError> {
        // First, so that no audit misses what goes.
        self.marks.forget_before(cutoff);
        self.outage.forget_before(cutoff);
        self.atlas.forget_before(cutoff);
        let open = cutoff.plus_ms(-1).hour().number();
        let next = forgotten.0.lock().map_or(i32::MIN, |hour| hour.number() + 1);
        for hour in next.max(open - LOOK_BACK_HOURS)..open {
            let hour = Hour::from_number(hour);
            let places = self.places(hour).await?;
            let buckets = self.buckets(hour);
            // The list of the cells goes last: without it nobody would find them again.
            let shards = places.into_iter().chain(buckets).chain([Shard::whole(hour)]);
            let keys: Vec<Bytes> = shards.flat_map(|shard| self.keys.all(shard)).collect();
            for keys in keys.chunks(KEYS_PER_PIPELINE) {
                self.link.run(keys.iter().map(|key| Command::on("UNLINK", key.clone())).collect()).await?;
            }
            *forgotten.0.lock() = Some(hour);
        }
        Ok(())
    }
}
