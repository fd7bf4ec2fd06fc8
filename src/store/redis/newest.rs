//! The newest fix of drivers, over the hours of a window; the newest of all.
//!
//! Hours are asked newest first, a few at a time: most drivers are found in the first few, and need no more.
//!
//! Never here: who is asked about (listings and searches say).

use bytes::Bytes;

use super::keys::Shard;
use super::link::{Command, Reply};
use super::{Index, packed};
use crate::model::{DriverId, Fix, Timestamp};
use crate::store::{StoreError, Window};

/// Hours asked at once: a trailing hour and what phones may be ahead lie in three at most.
const HOURS_AT_ONCE: usize = 3;
/// Drivers in one HMGET.
const DRIVERS_PER_COMMAND: usize = 100;

impl Index {
    /// The newest fix of each of `drivers` in `shards`, which are ordered newest first.
    pub(super) async fn newest_of(
        &self,
        shards: &[Shard],
        drivers: &[DriverId],
    ) -> Result<Vec<Option<Fix>>, StoreError> {
        let mut newest: Vec<Option<Fix>> = vec![None; drivers.len()];
        for shards in shards.chunks(HOURS_AT_ONCE) {
            let open: Vec<usize> = (0..drivers.len()).filter(|at| newest[*at].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let questions: Vec<(Shard, &[usize])> = shards
                .iter()
                .flat_map(|shard| open.chunks(DRIVERS_PER_COMMAND).map(|asked| (*shard, asked)))
                .collect();
            let commands = questions.iter().map(|(shard, asked)| {
                let ids = asked.iter().map(|at| id(&drivers[*at]));
                Command::on("HMGET", self.keys.fixes(*shard)).args(ids)
            });
            let replies = self.link.each(commands.collect()).await;
            for ((shard, asked), reply) in questions.into_iter().zip(replies) {
                // Where a newer fix was found, an older hour need not answer.
                if asked.iter().all(|at| newest[*at].is_some()) {
                    continue;
                }
                for (at, reply) in asked.iter().zip(reply?.list()?) {
                    let fix = fix(shard, reply)?;
                    if newest[*at].is_none() {
                        newest[*at] = fix;
                    }
                }
            }
        }
        Ok(newest)
    }

    /// The newest fix of one driver, if it lies in the window.
    pub(super) async fn latest(&self, driver: &DriverId, window: Window) -> Result<Option<Fix>, StoreError> {
        let shards = self.shards(window);
        let fix = self.newest_of(&shards, std::slice::from_ref(driver)).await?.pop().flatten();
        Ok(fix.filter(|fix| fix.ts >= window.since))
    }

    /// The `ts` of the newest fix of the fleet, if it lies in the window.
    pub(super) async fn last_report(&self, window: Window) -> Result<Option<Timestamp>, StoreError> {
        let shards = self.shards(window);
        for shards in shards.chunks(HOURS_AT_ONCE) {
            let commands = shards.iter().map(|shard| Command::on("GET", self.keys.last(*shard)));
            for reply in self.link.each(commands.collect()).await {
                if let Some(ms) = reply?.decimal()? {
                    let ts = Timestamp::from_ms(ms);
                    return Ok((ts >= window.since).then_some(ts));
                }
            }
        }
        Ok(None)
    }
}

/// A driver's id as an argument.
pub(super) fn id(driver: &DriverId) -> Bytes {
    Bytes::copy_from_slice(driver.as_str().as_bytes())
}

/// A driver's id out of a reply.
pub(super) fn driver(reply: Reply) -> Result<DriverId, StoreError> {
    let bytes = reply.bytes()?;
    let id = bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    id.and_then(|id| DriverId::new(id).ok()).ok_or_else(|| corrupt("a member is no driver id"))
}

fn fix(shard: Shard, reply: Reply) -> Result<Option<Fix>, StoreError> {
    let Some(bytes) = reply.bytes()? else { return Ok(None) };
    packed::unpack(shard.hour(), &bytes).map(Some).ok_or_else(|| corrupt("a packed fix cannot be read"))
}

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.into())
}
