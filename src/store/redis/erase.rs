//! Taking one driver out of Redis. The keys that may hold something of a driver follow from the hours of the retention and
//! their cells: a call of `erase.lua` for each shard.
//!
//! A call that was given up may still arrive, when the driver has been erased by another and is there again. So each is
//! announced first, by a name of its own (`announce.lua`), and does nothing once another was, or it was carried out.
//!
//! Never here: who else has to know of it (`board`).

use bytes::Bytes;

use super::Index;
use super::link::{Command, Reply};
use super::mirror::LEASE;
use super::newest::{corrupt, id};
use super::shard::{Part, Shard};
use crate::model::{DriverId, MAX_AHEAD_MS, Timestamp};
use crate::store::StoreError;

/// The text of the script that erases.
pub(super) const ERASE: &str = include_str!("erase.lua");
/// The text of the script that announces it.
pub(super) const ANNOUNCE: &str = include_str!("announce.lua");
/// Shards in one pipeline.
const SHARDS_AT_ONCE: usize = 128;

impl Index {
    /// Removes all of a driver from every hour that may still exist.
    pub(super) async fn erase(&self, driver: &DriverId) -> Result<(), StoreError> {
        let time = self.link.ask(Command::keyless("TIME")).await?.list()?;
        let now = time.into_iter().next().map(Reply::decimal).transpose()?.flatten();
        let now_s = now.ok_or_else(|| corrupt("the time of Redis is no number"))?;
        let now = Timestamp::from_ms(now_s.saturating_mul(1_000));
        // Keys outlive the retention by their jitter, and this clock need not be the one points were judged by.
        let oldest = now.plus_ms(-self.keys.retention_ms() - 2 * 3_600_000).hour();
        let call = Call { field: field(driver), name: format!("{:016x}", rand::random::<u64>()).into() };
        let newest = now.plus_ms(MAX_AHEAD_MS + 3_600_000).hour();
        let hours = || oldest.newest_first(newest);
        for hour in hours() {
            // A cell remembers who has left it, so each of the hour is asked.
            let places = self.places(hour).await?;
            let shards: Vec<Shard> = places.into_iter().chain([self.keys.layout().bucket(hour, driver)]).collect();
            for shards in shards.chunks(SHARDS_AT_ONCE) {
                let announcing = |shard: &Shard| {
                    let announcement = Command::script(&self.announce, vec![self.keys.marks(*shard)]);
                    announcement.arg(call.field.clone()).arg(call.name.clone())
                };
                self.link.run(shards.iter().map(announcing).collect()).await?;
                let erasing = shards.iter().map(|shard| self.erasing(*shard, driver, &call)).collect();
                for reply in self.link.run(erasing).await? {
                    if reply.count()? == 0 {
                        return Err(StoreError::Unavailable("another call erases this driver".into()));
                    }
                }
            }
        }
        self.erase_left_over(hours(), driver).await?;
        // By then no instance answers from what it had in memory.
        tokio::time::sleep(LEASE).await;
        Ok(())
    }

    fn erasing(&self, shard: Shard, driver: &DriverId, call: &Call) -> Command {
        let bucket = || {
            vec![
                (self.keys.fixes(shard), "HDEL"),
                (self.keys.roster(shard), "ZREM"),
                (self.keys.track(shard, driver), "UNLINK"),
                // What is on its way still, whoever sent it, is dropped.
                (self.keys.writer(shard), "TOUCH"),
                (self.keys.changes(shard), "ANEW"),
            ]
        };
        let place = || [(self.keys.positions(shard), "ZREM"), (self.keys.drivers(shard), "SREM")];
        let removals = match shard.part() {
            Part::Whole => bucket().into_iter().chain(place()).collect(),
            Part::Bucket(_) => bucket().into_iter().chain([(self.keys.leaving(shard), "HDEL")]).collect(),
            Part::Place(_) => {
                let rest = [(self.keys.seen(shard), "HDEL"), (self.keys.writer(shard), "TOUCH")];
                rest.into_iter().chain(place()).collect::<Vec<_>>()
            }
        };
        let (keys, commands): (Vec<Bytes>, Vec<&str>) = removals.into_iter().unzip();
        let keys = std::iter::once(self.keys.marks(shard)).chain(keys).collect();
        let commands = commands.into_iter().map(|command| Bytes::from_static(command.as_bytes()));
        let expiry = self.keys.expires_at_s(shard, &self.keys.changes(shard));
        let erasing = Command::script(&self.erase, keys).arg(id(driver)).args(commands).number(expiry);
        erasing.arg(call.field.clone()).arg(call.name.clone())
    }
}

/// What announces a call that erases.
struct Call {
    /// Where in `marks`.
    field: Bytes,
    /// A name that no other has.
    name: Bytes,
}

/// The field that tells which call may erase a driver. Two drivers may share one: then one of two calls is made again.
fn field(driver: &DriverId) -> Bytes {
    format!("erasing:{:08x}", crc32c::crc32c(driver.as_str().as_bytes())).into()
}
