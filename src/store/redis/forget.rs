//! Forgetting whole hours before their keys expire by themselves.
//!
//! The big keys of an hour are unlinked, which frees them in the background: left to their TTL, each would hold Redis
//! up on its way out, whoever happens to touch it. Tracks are left to their TTL: they are small and many, their
//! expiry is spread over ten minutes, and naming them all would cost more than that.
//!
//! Never here: what is old (the caller says); a hunt for keys (names follow from the hour).

use parking_lot::Mutex;

use super::Index;
use super::keys::Shard;
use super::link::Command;
use crate::model::{Hour, Timestamp};
use crate::store::StoreError;

/// How far back the first call looks: what was forgotten while nobody ran has expired by itself.
const LOOK_BACK_HOURS: i32 = 48;

/// The newest hour that was forgotten.
#[derive(Debug, Default)]
pub(super) struct Forgotten(Mutex<Option<Hour>>);

impl Index {
    /// Forgets the hours that ended before `cutoff`, oldest first.
    pub(super) async fn forget_before(&self, cutoff: Timestamp, forgotten: &Forgotten) -> Result<(), StoreError> {
        // First, so that no audit misses what goes.
        self.marks.forget_before(cutoff);
        let open = cutoff.plus_ms(-1).hour().number();
        let next = forgotten.0.lock().map_or(i32::MIN, |hour| hour.number() + 1);
        for hour in next.max(open - LOOK_BACK_HOURS)..open {
            let hour = Hour::from_number(hour);
            let shard = Shard::whole(hour);
            let keys = [
                self.keys.positions(shard),
                self.keys.drivers(shard),
                self.keys.roster(shard),
                self.keys.fixes(shard),
                self.keys.last(shard),
                self.keys.marks(shard),
            ];
            self.link.run(keys.into_iter().map(|key| Command::on("UNLINK", key)).collect()).await?;
            *forgotten.0.lock() = Some(hour);
        }
        Ok(())
    }
}
