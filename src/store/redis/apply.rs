//! A batch on its way into Redis: folded first, then written in small script calls.
//!
//! Folding takes from a batch what Redis need not see: of each driver in each hour only the newest fix, and all its
//! fixes as one chunk. A call of the script takes few drivers, so that it holds Redis for well under a millisecond;
//! calls travel in pipelines, some of them at once, for no two calls of a batch touch the same driver's hour.
//!
//! Tracks grow by what a batch brings, unread. Of a batch that may have come before they are read first, and get what
//! they lack: so repetition neither bloats a track nor leaves a gap in it.
//!
//! The marks follow when every call has succeeded (`marks` says why).
//!
//! Never here: repetition (the applier repeats a batch that failed).

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures_util::future;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::Index;
use super::keys::{Keys, Shard};
use super::link::{Command, Script};
use super::packed;
use crate::model::{DriverId, Fix, Hour, Point, QuadCell, Timestamp};
use crate::store::{Batch, StoreError, track_codec};

/// Drivers in one call of the script. See `docs/redis-keys.md` for what a call costs.
const DRIVERS_PER_CALL: usize = 10;
/// Calls in one pipeline.
const CALLS_PER_PIPELINE: usize = 32;
/// Tracks read in one pipeline: a megabyte where each has a fix every 5 s.
const TRACKS_PER_PIPELINE: usize = 128;
/// Pipelines at once: while one is read, the next is executed.
const PIPELINES: usize = 4;

/// The text of the script that writes.
pub(super) const SCRIPT: &str = concat!(include_str!("bytes.lua"), include_str!("write.lua"));

/// One driver's part of a batch in one hour.
#[derive(Debug)]
struct Folded<'a> {
    driver: &'a DriverId,
    /// Oldest first, each millisecond once; never empty.
    fixes: Vec<Fix>,
}

impl Folded<'_> {
    fn newest(&self) -> &Fix {
        self.fixes.last().expect("a driver is folded for the sake of a fix")
    }

    /// Its fixes as one chunk of a track, but for those that are in `held`, or a greater one in their place.
    fn chunk(&self, hour: Hour, held: Option<&[u8]>) -> Vec<u8> {
        let mut chunk = Vec::new();
        let Some(held) = held else {
            track_codec::encode_chunk(hour, &self.fixes, &mut chunk);
            return chunk;
        };
        let mut greatest: HashMap<Timestamp, Fix> = HashMap::new();
        // What cannot be read any more does not count as held.
        for fix in track_codec::decoder(hour, held).map_while(Result::ok) {
            let kept = greatest.entry(fix.ts).or_insert_with(|| fix.clone());
            *kept = fix.max(kept.clone());
        }
        let lacks = |fix: &&Fix| greatest.get(&fix.ts).is_none_or(|held| held < *fix);
        let missing: Vec<Fix> = self.fixes.iter().filter(lacks).cloned().collect();
        track_codec::encode_chunk(hour, &missing, &mut chunk);
        chunk
    }
}

/// What all calls of one try to put a batch in have in common.
struct Attempt<'a> {
    keys: &'a Keys,
    script: &'a Script,
    /// Tells its calls from those of any other.
    name: String,
    is_repeated: bool,
}

impl Index {
    /// Puts `batch` in.
    pub(super) async fn apply(&self, batch: Batch<'_>) -> Result<(), StoreError> {
        self.marks.forget_before(batch.forget_before);
        let attempt = Attempt {
            keys: &self.keys,
            script: &self.script,
            name: format!("{:016x}", rand::random::<u64>()),
            is_repeated: batch.repeated,
        };
        let mut calls = Vec::new();
        let mut counts = BTreeMap::new();
        for (hour, drivers) in fold(batch) {
            let shard = Shard::whole(hour);
            let chunks = self.chunks(shard, &drivers, batch.repeated).await?;
            for (drivers, chunks) in drivers.chunks(DRIVERS_PER_CALL).zip(chunks.chunks(DRIVERS_PER_CALL)) {
                calls.push(attempt.call(shard, drivers, chunks));
                *counts.entry(shard).or_default() += 1;
            }
        }
        let pipelines: Vec<Vec<Command>> = calls.chunks(CALLS_PER_PIPELINE).map(<[Command]>::to_vec).collect();
        stream::iter(pipelines)
            .map(|calls| self.link.run_script(&self.script, calls))
            .buffer_unordered(PIPELINES)
            .try_for_each(|_| future::ready(Ok(())))
            .await?;
        self.mark(&attempt.name, &counts, batch.end).await
    }

    /// What is to be appended to the track of each of `drivers`.
    async fn chunks(
        &self,
        shard: Shard,
        drivers: &[Folded<'_>],
        is_repeated: bool,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        if !is_repeated {
            return Ok(drivers.iter().map(|folded| folded.chunk(shard.hour(), None)).collect());
        }
        let mut chunks = Vec::with_capacity(drivers.len());
        for drivers in drivers.chunks(TRACKS_PER_PIPELINE) {
            let tracks: Vec<(Shard, &DriverId)> = drivers.iter().map(|folded| (shard, folded.driver)).collect();
            let held = self.tracks(&tracks).await?;
            let lacking = drivers.iter().zip(held).map(|(folded, held)| folded.chunk(shard.hour(), Some(&held)));
            chunks.extend(lacking);
        }
        Ok(chunks)
    }
}

/// The hours of a batch that are still kept, each with its drivers in the order of ids.
fn fold(batch: Batch<'_>) -> Vec<(Hour, Vec<Folded<'_>>)> {
    let mut points: Vec<&Point> =
        batch.points.iter().filter(|point| point.fix.ts.hour().end() >= batch.forget_before).collect();
    let place = |point: &Point| point.fix.ts.hour();
    points.sort_unstable_by(|a, b| {
        place(a).cmp(&place(b)).then_with(|| a.driver.cmp(&b.driver)).then_with(|| a.fix.cmp(&b.fix))
    });
    let by_hour = points.chunk_by(|a, b| place(a) == place(b));
    by_hour
        .map(|points| {
            let by_driver = points.chunk_by(|a, b| a.driver == b.driver);
            (place(points[0]), by_driver.map(fold_driver).collect())
        })
        .collect()
}

/// The sorted points of one driver: of those at the same millisecond the greatest, which comes last.
fn fold_driver<'a>(points: &[&'a Point]) -> Folded<'a> {
    let by_ms = points.chunk_by(|a, b| a.fix.ts == b.fix.ts);
    let fixes = by_ms.map(|same| same[same.len() - 1].fix.clone()).collect();
    Folded { driver: &points[0].driver, fixes }
}

impl Attempt<'_> {
    fn call(&self, shard: Shard, drivers: &[Folded<'_>], chunks: &[Vec<u8>]) -> Command {
        let keys = self.keys;
        let expiring = [
            keys.positions(shard),
            keys.drivers(shard),
            keys.roster(shard),
            keys.fixes(shard),
            keys.last(shard),
            keys.marks(shard),
        ];
        let expiries: Vec<i64> = expiring.iter().map(|key| keys.expires_at_s(shard, key)).collect();
        let tracks: Vec<Bytes> = drivers.iter().map(|folded| keys.track(shard, folded.driver)).collect();
        let newest = drivers.iter().map(|folded| folded.newest().ts).max().expect("a slice is never empty");

        let all_keys = expiring.into_iter().chain(tracks.iter().cloned()).collect();
        let mut call = Command::script(self.script, all_keys);
        for expiry in expiries {
            call = call.number(expiry);
        }
        call = call
            .arg(keys.calls_field())
            .arg(self.name.clone())
            .number(newest.as_ms())
            .number(u8::from(self.is_repeated));
        for ((folded, track), chunk) in drivers.iter().zip(tracks).zip(chunks) {
            let fix = folded.newest();
            call = call
                .arg(folded.driver.to_string())
                .number(score(fix))
                .arg(packed::pack(shard.hour(), fix))
                .arg(chunk.clone())
                .number(keys.expires_at_s(shard, &track));
        }
        call
    }
}

/// What GEOADD would set.
fn score(fix: &Fix) -> u64 {
    QuadCell::containing(fix.position, QuadCell::MAX_LEVEL).scores().start
}
