//! A batch on its way into Redis: folded first, then written in small script calls.
//!
//! Folding takes from a batch what Redis need not see: of each driver in each hour only the newest fix, and all its
//! fixes as one chunk. A call of the script takes few drivers, so that it holds Redis for well under a millisecond;
//! calls travel in pipelines, some of them at once, for no two calls of a batch touch the same driver's hour.
//!
//! Tracks grow by what a batch brings, unread. Of a batch that may have come before they are read first, and get what
//! they lack: so repetition neither bloats a track nor leaves a gap in it.
//!
//! Of a sharded hour the places follow (`place`). Every call counts itself in the marks (`marks` says why).
//!
//! What belongs to shards whose primary is away is left out (`outage` says what becomes of it).
//!
//! Never here: repetition (the applier repeats a batch that failed).

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::link::{Command, Reply};
use super::marks::Attempt;
use super::shard::{Layout, Shard};
use super::{Index, packed};
use crate::model::{DriverId, Fix, Hour, Point, QuadCell, Timestamp};
use crate::store::{Applied, Batch, StoreError, track_codec};

/// Drivers in one call of the script. See `docs/redis-keys.md` for what a call costs.
const DRIVERS_PER_CALL: usize = 10;
/// Calls in one pipeline.
const CALLS_PER_PIPELINE: usize = 32;
/// Tracks read in one pipeline: a megabyte where each has a fix every 5 s.
const TRACKS_PER_PIPELINE: usize = 128;
/// Pipelines at once: while one is read, the next is executed.
const PIPELINES: usize = 4;

/// The text of the script that writes what belongs to drivers.
pub(super) const WRITE: &str = concat!(
    include_str!("bytes.lua"),
    include_str!("newer.lua"),
    include_str!("count.lua"),
    include_str!("write.lua")
);

/// One driver's part of a batch in one hour.
#[derive(Debug)]
pub(super) struct Folded<'a> {
    pub(super) driver: &'a DriverId,
    /// Oldest first, each millisecond once; never empty.
    fixes: Vec<Fix>,
}

impl Folded<'_> {
    /// The one that may become the driver's last of the hour.
    pub(super) fn newest(&self) -> &Fix {
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

/// Some drivers of one shard, with what their tracks get: one call.
pub(super) struct Slice<'a, 'b> {
    pub(super) bucket: Shard,
    pub(super) drivers: &'b [Folded<'a>],
    chunks: Vec<Vec<u8>>,
}

impl Index {
    /// Puts `batch` in.
    pub(super) async fn apply(&self, batch: Batch<'_>) -> Result<Applied, StoreError> {
        self.marks.forget_before(batch.forget_before);
        let mut attempt = Attempt::new(batch.start, batch.repeated);
        let mut folded = fold(self.keys.layout(), batch);
        folded.retain(|(bucket, _)| !self.owes(&mut attempt, *bucket));
        let slices = self.slices(&folded, batch.repeated).await?;
        let calls = slices.iter().map(|slice| self.call(&attempt, slice)).collect();
        let written = self.in_pipelines(calls).await?;
        let written = slices.iter().zip(written).map(|(slice, reply)| attempt.called(slice.bucket, reply));
        let written: Vec<_> = written.collect::<Result<_, _>>()?;
        if let Layout::Sharded(_) = self.keys.layout() {
            self.put_in_places(&mut attempt, &slices, written).await?;
        }
        let applied = if attempt.is_owed() { Applied::Partly } else { Applied::Whole };
        self.complete(attempt, batch.end).await?;
        Ok(applied)
    }

    /// Whether `shard` is away, and what the attempt has for it is owed. The same all through an attempt.
    pub(super) fn owes(&self, attempt: &mut Attempt, shard: Shard) -> bool {
        let is_away = *attempt.away.entry(shard).or_insert_with(|| self.is_away(shard));
        if is_away {
            self.outage.owe(shard, attempt.start);
        }
        is_away
    }

    /// Sends calls, some pipelines at once. The replies, in order.
    pub(super) async fn in_pipelines(&self, calls: Vec<Command>) -> Result<Vec<Reply>, StoreError> {
        let pipelines: Vec<Vec<Command>> = calls.chunks(CALLS_PER_PIPELINE).map(<[Command]>::to_vec).collect();
        stream::iter(pipelines).map(|calls| self.link.run(calls)).buffered(PIPELINES).try_concat().await
    }

    /// Cuts a batch into calls.
    async fn slices<'a, 'b>(
        &self,
        folded: &'b [(Shard, Vec<Folded<'a>>)],
        is_repeated: bool,
    ) -> Result<Vec<Slice<'a, 'b>>, StoreError> {
        let cut = |(bucket, drivers): &'b (Shard, Vec<Folded<'a>>)| {
            drivers.chunks(DRIVERS_PER_CALL).map(|drivers| Slice { bucket: *bucket, drivers, chunks: Vec::new() })
        };
        let mut slices: Vec<Slice<'a, 'b>> = folded.iter().flat_map(cut).collect();
        if !is_repeated {
            for Slice { bucket, drivers, chunks } in &mut slices {
                chunks.extend(drivers.iter().map(|folded| folded.chunk(bucket.hour(), None)));
            }
            return Ok(slices);
        }
        for slices in slices.chunks_mut(TRACKS_PER_PIPELINE / DRIVERS_PER_CALL) {
            let of = |slice: &Slice<'a, 'b>| {
                let bucket = slice.bucket;
                slice.drivers.iter().map(move |folded| (bucket, folded.driver))
            };
            let tracks: Vec<(Shard, &DriverId)> = slices.iter().flat_map(of).collect();
            let mut held = self.tracks(&tracks).await?.into_iter();
            for Slice { bucket, drivers, chunks } in slices {
                let held = drivers.iter().zip(held.by_ref());
                chunks.extend(held.map(|(folded, held)| folded.chunk(bucket.hour(), Some(&held))));
            }
        }
        Ok(slices)
    }

    fn call(&self, attempt: &Attempt, slice: &Slice<'_, '_>) -> Command {
        let Slice { bucket, drivers, chunks } = slice;
        let (keys, bucket) = (&self.keys, *bucket);
        let mut shared = vec![keys.roster(bucket), keys.fixes(bucket), keys.last(bucket), keys.marks(bucket)];
        match keys.layout() {
            Layout::Whole => shared.extend([keys.positions(bucket), keys.drivers(bucket)]),
            Layout::Sharded(_) => shared.push(keys.at(bucket)),
        }
        let expiries: Vec<i64> = shared.iter().map(|key| keys.expires_at_s(bucket, key)).collect();
        let tracks: Vec<Bytes> = drivers.iter().map(|folded| keys.track(bucket, folded.driver)).collect();
        let newest = drivers.iter().map(|folded| folded.newest().ts).max().expect("a slice is never empty");

        let all_keys = shared.into_iter().chain(tracks.iter().cloned()).collect();
        let mut call = Command::script(&self.write, all_keys).number(expiries.len());
        for expiry in expiries {
            call = call.number(expiry);
        }
        call = self.counting(call, attempt, bucket).number(newest.as_ms());
        for ((folded, track), chunk) in drivers.iter().zip(tracks).zip(chunks) {
            let fix = folded.newest();
            call = call.arg(folded.driver.to_string());
            call = match keys.layout().cell(fix.position) {
                None => call.number(score(fix)),
                Some(place) => call.number(place),
            };
            call = call
                .arg(packed::pack(bucket.hour(), fix))
                .arg(chunk.clone())
                .number(keys.expires_at_s(bucket, &track));
        }
        call
    }
}

/// The shards that a batch writes to, as far as their hours are still kept, each with its drivers in the order of ids.
fn fold(layout: Layout, batch: Batch<'_>) -> Vec<(Shard, Vec<Folded<'_>>)> {
    let kept = batch.points.iter().filter(|point| point.fix.ts.hour().end() >= batch.forget_before);
    let mut points: Vec<(Shard, &Point)> =
        kept.map(|point| (layout.bucket(point.fix.ts.hour(), &point.driver), point)).collect();
    points.sort_unstable_by(|(at, a), (bt, b)| {
        at.cmp(bt).then_with(|| a.driver.cmp(&b.driver)).then_with(|| a.fix.cmp(&b.fix))
    });
    let by_shard = points.chunk_by(|a, b| a.0 == b.0);
    by_shard
        .map(|points| {
            let by_driver = points.chunk_by(|a, b| a.1.driver == b.1.driver);
            (points[0].0, by_driver.map(fold_driver).collect())
        })
        .collect()
}

/// The sorted points of one driver: of those at the same millisecond the greatest, which comes last.
fn fold_driver<'a>(points: &[(Shard, &'a Point)]) -> Folded<'a> {
    let by_ms = points.chunk_by(|a, b| a.1.fix.ts == b.1.fix.ts);
    let fixes = by_ms.map(|same| same[same.len() - 1].1.fix.clone()).collect();
    Folded { driver: &points[0].1.driver, fixes }
}

/// What GEOADD would set.
pub(super) fn score(fix: &Fix) -> u64 {
    QuadCell::containing(fix.position, QuadCell::MAX_LEVEL).scores().start
}
