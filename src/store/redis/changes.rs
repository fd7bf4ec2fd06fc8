//! What was written lately, for whoever keeps the newest fixes in memory (`mirror`): every slice leaves what it wrote in a
//! stream beside the data, in the same transaction. A stream holds about as much as there is to read of its shard: whoever falls
//! behind farther than that, or finds that the last entry it knows is gone, reads the data instead. So whatever Redis loses, no
//! change is missed without being noticed.
//!
//! An entry has one field: the process that wrote it (each takes a name by chance), and drivers with their packed fixes. One
//! named `erased` stands for all that was there before a driver was erased.
//!
//! Never here: what becomes of the changes.

use bytes::Bytes;

use super::link::{Command, Reply, Request};
use super::newest::corrupt;
use super::shard::Shard;
use super::{Index, packed};
use crate::model::{DriverId, Fix, Hour};
use crate::store::StoreError;

/// The text of the script that reads on.
pub(super) const FOLLOW: &str = include_str!("follow.lua");

/// Slices that the streams of one hour hold together at least: some readings' worth, however fast Redis is.
const KEPT: usize = 2_048;
/// They hold one for so many drivers, too. So while somebody reads all there is, each of these may report.
const DRIVERS_PER_KEPT: usize = 25;
/// Slices in one reply: 50 KiB or less.
const READ_AT_ONCE: usize = 25;

/// The name of this process in the streams. Two of one journal are two: a rebuild by hand runs beside a service.
pub(super) fn name() -> Bytes {
    format!("{:016x}", rand::random::<u64>()).into()
}

/// How far a shard was followed: the last entry that is known; empty before the first.
pub(super) type At = Bytes;

/// What is new in a shard.
pub(super) struct News {
    pub(super) at: At,
    /// There may be more.
    pub(super) is_cut: bool,
    pub(super) fixes: Vec<(DriverId, Fix)>,
}

/// How many entries the stream of a shard with so many drivers keeps, where an hour has so many streams; and some more: Redis
/// drops whole blocks of them. Never fewer than of a shard without drivers.
pub(super) fn kept(streams: usize, drivers: usize) -> usize {
    (KEPT / streams).max(drivers / DRIVERS_PER_KEPT)
}

/// Adds what a slice writes to the stream `key`, which keeps so many entries.
pub(super) fn tell(key: &Bytes, kept: usize, by: &[u8], fixes: &[(&str, Vec<u8>)], request: &mut Request) {
    request.command("XADD", 7).arg(key).arg("MAXLEN").arg("~").number(kept).arg("*");
    request.arg(by).arg(encode(fixes));
}

/// Of each driver: the length of its id (1 byte), its id, the length of its packed fix (2 bytes), the fix.
fn encode(fixes: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(fixes.iter().map(|(driver, fix)| driver.len() + fix.len() + 3).sum());
    for (driver, fix) in fixes {
        bytes.push(driver.len() as u8);
        bytes.extend_from_slice(driver.as_bytes());
        bytes.extend_from_slice(&(fix.len() as u16).to_be_bytes());
        bytes.extend_from_slice(fix);
    }
    bytes
}

/// Reads what [`encode`] wrote; `None` if it cannot have written this.
fn decode(hour: Hour, mut bytes: &[u8]) -> Option<Vec<(DriverId, Fix)>> {
    let mut fixes = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (driver, rest) = rest.split_at_checked(usize::from(*length))?;
        let (length, rest) = rest.split_first_chunk()?;
        let (fix, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let driver = DriverId::new(std::str::from_utf8(driver).ok()?).ok()?;
        fixes.push((driver, packed::unpack(hour, fix)?));
        bytes = rest;
    }
    Some(fixes)
}

impl Index {
    /// Where each of these shards stands now.
    pub(super) async fn changes_end(&self, shards: &[Shard]) -> Result<Vec<At>, StoreError> {
        let last = |shard: &Shard| Command::on("XREVRANGE", self.keys.changes(*shard)).arg("+").arg("-");
        let calls = shards.iter().map(|shard| last(shard).arg("COUNT").number(1)).collect();
        let mut ends = Vec::with_capacity(shards.len());
        for entries in self.in_pipelines(calls).await? {
            let entry = entries.list()?.into_iter().next().map(Reply::list).transpose()?;
            let id = entry.and_then(|entry| entry.into_iter().next()).map_or(Ok(None), Reply::bytes)?;
            ends.push(id.unwrap_or_default());
        }
        Ok(ends)
    }

    /// What others wrote into each of these shards since; `None` where that cannot be said.
    pub(super) async fn changes_since(&self, followed: &[(Shard, At)]) -> Result<Vec<Option<News>>, StoreError> {
        let following = |(shard, at): &(Shard, At)| {
            let call = Command::script(&self.follow, vec![self.keys.changes(*shard)]);
            let call = call.arg(at.clone()).arg(self.by.clone()).number(READ_AT_ONCE);
            call.number(kept(self.keys.layout().buckets(), 0))
        };
        let replies = self.in_pipelines(followed.iter().map(following).collect()).await?;
        let news = followed.iter().zip(replies).map(|((shard, _), reply)| {
            let Reply::List(parts) = reply else { return Ok(None) };
            let mut parts = parts.into_iter();
            let mut part = || parts.next().unwrap_or(Reply::Nil);
            let (at, count, told) = (part().bytes()?.unwrap_or_default(), part().count()?, part().list()?);
            let mut fixes = Vec::new();
            for slice in told {
                let bytes = slice.bytes()?.unwrap_or_default();
                let read = decode(shard.hour(), &bytes).ok_or_else(|| corrupt("a change cannot be read"))?;
                fixes.extend(read);
            }
            Ok(Some(News { at, is_cut: count >= READ_AT_ONCE as u64, fixes }))
        });
        news.collect()
    }
}
