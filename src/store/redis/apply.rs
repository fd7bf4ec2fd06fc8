//! A batch on its way into Redis: folded first, then written in small script calls.
//!
//! Folding takes from a batch what Redis need not see: of each driver in each hour only the newest fix, and all its
//! fixes as one chunk. A call of the script takes few drivers, so that it holds Redis for well under a millisecond;
//! calls travel in pipelines, some of them at once, for no two calls of a batch touch the same driver's hour.
//!
//! The watermark of each hour follows when every call has succeeded. It may not go along with the last of them: were
//! an earlier one refused, the repetition would take its points for appended.
//!
//! Never here: repetition (the applier repeats a batch that failed).

use bytes::Bytes;
use futures_util::future;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::Index;
use super::keys::{Keys, Shard};
use super::link::{Command, Script};
use super::packed;
use crate::model::{DriverId, Fix, Hour, Offset, Point, QuadCell};
use crate::store::{Batch, StoreError, track_codec};

/// Drivers in one call of the script. See `docs/redis-keys.md` for what a call costs.
const DRIVERS_PER_CALL: usize = 10;
/// Calls in one pipeline.
const CALLS_PER_PIPELINE: usize = 32;
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
}

impl Index {
    /// Puts `batch` in.
    pub(super) async fn apply(&self, batch: Batch<'_>) -> Result<(), StoreError> {
        let mut calls = Vec::new();
        let mut watermarks = Vec::new();
        for (hour, drivers) in fold(batch) {
            let shard = Shard::whole(hour);
            for slice in drivers.chunks(DRIVERS_PER_CALL) {
                calls.push(call(&self.keys, &self.script, shard, slice, batch.end));
            }
            watermarks.push(watermark(&self.keys, shard, batch.end));
        }
        let pipelines: Vec<Vec<Command>> = calls.chunks(CALLS_PER_PIPELINE).map(<[Command]>::to_vec).collect();
        stream::iter(pipelines)
            .map(|calls| self.link.run_script(&self.script, calls))
            .buffer_unordered(PIPELINES)
            .try_for_each(|_| future::ready(Ok(())))
            .await?;
        self.link.run(watermarks).await?;
        Ok(())
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

fn call(keys: &Keys, script: &Script, shard: Shard, drivers: &[Folded<'_>], end: Offset) -> Command {
    let expiring =
        [keys.positions(shard), keys.drivers(shard), keys.roster(shard), keys.fixes(shard), keys.last(shard)];
    let expiries: Vec<i64> = expiring.iter().map(|key| keys.expires_at_s(shard, key)).collect();
    let tracks: Vec<Bytes> = drivers.iter().map(|folded| keys.track(shard, folded.driver)).collect();
    let newest = drivers.iter().map(|folded| folded.newest().ts).max().expect("a slice is never empty");

    let mut all_keys = Vec::from(expiring);
    all_keys.push(keys.watermark(shard));
    all_keys.extend(tracks.iter().cloned());
    let mut call = Command::script(script, all_keys);
    for expiry in expiries {
        call = call.number(expiry);
    }
    call = call.number(end).number(newest.as_ms());
    for (folded, track) in drivers.iter().zip(tracks) {
        let fix = folded.newest();
        let mut chunk = Vec::new();
        track_codec::encode_chunk(shard.hour(), &folded.fixes, &mut chunk);
        call = call
            .arg(folded.driver.to_string())
            .number(score(fix))
            .arg(packed::pack(shard.hour(), fix))
            .arg(chunk)
            .number(keys.expires_at_s(shard, &track));
    }
    call
}

fn watermark(keys: &Keys, shard: Shard, end: Offset) -> Command {
    let key = keys.watermark(shard);
    let expiry = keys.expires_at_s(shard, &key);
    Command::on("SET", key).number(end).arg("EXAT").number(expiry)
}

/// What GEOADD would set.
fn score(fix: &Fix) -> u64 {
    QuadCell::containing(fix.position, QuadCell::MAX_LEVEL).scores().start
}
