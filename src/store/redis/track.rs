//! Where a driver was: its track strings, hour by hour.
//!
//! A track is a string of chunks, one for each batch that brought fixes of the driver in the hour, in the order of
//! arrival. Points that came twice (through two instances, or again after a crash) are in it twice; reading sorts
//! and keeps of each millisecond the greater.
//!
//! Never here: what a chunk looks like (`track_codec`).

use super::Index;
use super::link::Command;
use super::newest::corrupt;
use super::shard::Shard;
use crate::model::{DriverId, Fix, MAX_AHEAD_MS, Timestamp};
use crate::store::{StoreError, track_codec};

/// Hours asked at once.
const HOURS_AT_ONCE: usize = 4;
/// Bytes of a string in one reply: an hour of a fix a second fits.
const BYTES_PER_COMMAND: usize = 64 * 1024;

impl Index {
    /// The fixes with `from <= ts < to`, oldest first, at most `limit`.
    pub(super) async fn track(
        &self,
        driver: &DriverId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<Fix>, StoreError> {
        let mut fixes = Vec::new();
        if from >= to {
            return Ok(fixes);
        }
        let (oldest, newest) = self.kept(from, to.plus_ms(-1)).await?;
        let mut hours = oldest.hour().newest_first(newest.hour()).rev();
        while fixes.len() < limit {
            let shards = hours.by_ref().take(HOURS_AT_ONCE).map(|hour| self.keys.layout().bucket(hour, driver));
            let tracks: Vec<(Shard, &DriverId)> = shards.map(|shard| (shard, driver)).collect();
            if tracks.is_empty() {
                break;
            }
            for ((shard, _), chunks) in tracks.iter().zip(self.tracks(&tracks).await?) {
                fixes.extend(hour(*shard, &chunks)?.into_iter().filter(|fix| (from..to).contains(&fix.ts)));
            }
        }
        fixes.truncate(limit);
        Ok(fixes)
    }

    /// From `oldest` to `newest`, without the hours that cannot exist: expired, or yet to come.
    async fn kept(&self, oldest: Timestamp, newest: Timestamp) -> Result<(Timestamp, Timestamp), StoreError> {
        if newest.ms_since(oldest) <= self.keys.retention_ms() {
            return Ok((oldest, newest));
        }
        // Redis' own clock is what keys expire by.
        let now = self.redis_now().await?;
        Ok((oldest.max(now.plus_ms(-self.keys.retention_ms())), newest.min(now.plus_ms(MAX_AHEAD_MS))))
    }

    /// The chunks of each track; empty if there is none.
    pub(super) async fn tracks(&self, tracks: &[(Shard, &DriverId)]) -> Result<Vec<Vec<u8>>, StoreError> {
        let commands = tracks.iter().map(|(shard, driver)| self.slice(*shard, driver, 0));
        let mut found = Vec::with_capacity(tracks.len());
        for ((shard, driver), reply) in tracks.iter().zip(self.link.run(commands.collect()).await?) {
            let mut chunks = reply.bytes()?.unwrap_or_default().to_vec();
            // A full reply may have more behind it. The end of a string is the end of a chunk: APPEND is atomic.
            let mut is_cut = chunks.len() == BYTES_PER_COMMAND;
            while is_cut {
                let more = self.link.ask(self.slice(*shard, driver, chunks.len())).await?;
                let more = more.bytes()?.unwrap_or_default();
                is_cut = more.len() == BYTES_PER_COMMAND;
                chunks.extend_from_slice(&more);
            }
            found.push(chunks);
        }
        Ok(found)
    }

    fn slice(&self, shard: Shard, driver: &DriverId, from: usize) -> Command {
        Command::on("GETRANGE", self.keys.track(shard, driver)).number(from).number(from + BYTES_PER_COMMAND - 1)
    }
}

/// The fixes of an hour, oldest first, each millisecond once.
fn hour(shard: Shard, chunks: &[u8]) -> Result<Vec<Fix>, StoreError> {
    let decoded = track_codec::decode(shard.hour(), chunks);
    let mut fixes = decoded.map_err(|_| corrupt("a track cannot be read"))?;
    // The greater first, so that it is the one that stays.
    fixes.sort_unstable_by(|a, b| a.ts.cmp(&b.ts).then_with(|| b.cmp(a)));
    fixes.dedup_by_key(|fix| fix.ts);
    Ok(fixes)
}
