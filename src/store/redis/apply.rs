//! A batch on its way into Redis: folded first (`fold`), then written a slice at a time.
//!
//! A slice is some drivers of one shard, as many as `pace` says. What Redis has of them is read, the newest is found here, and
//! all that follows from it is one transaction that is dropped if any of these drivers was written meanwhile (`link` says
//! how, and which slices travel at once; no two of a batch touch the same driver's hour). For that their tracks are
//! watched, or, where nobody else writes, that alone (`writer`).
//!
//! Tracks grow by what a batch brings, unread. Of a batch that may have come before they are among what is read (`held`),
//! and get what they lack: so repetition neither bloats a track nor leaves a gap in it.
//!
//! Of a sharded hour the places follow (`place`). Every slice counts itself in the marks (`marks` says why).
//!
//! What belongs to shards whose primary is away is left out (`outage` says what becomes of it).
//!
//! Never here: repetition (the applier repeats a batch that failed), how a transaction is tried again (`link`).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;

use super::fold::{Folded, fold};
use super::held::Held;
use super::keys::Keys;
use super::link::{Change, Command, Reply, Request};
use super::marks::Attempt;
use super::mirror::Mirror;
use super::newest::corrupt;
use super::pace::Pace;
use super::shard::{Layout, Shard};
use super::writer::{Claim, Found, Turn};
use super::{Index, changes, packed};
use crate::model::{Cell, Fix, QuadCell};
use crate::store::{Applied, Batch, StoreError};

/// Drivers in a slice at most: of more, each took as much.
const DRIVERS_PER_SLICE: usize = 50;
/// Drivers in one command that writes a key of many: the longer it takes by itself, the shorter a pause of the machine makes
/// a millisecond of it.
pub(super) const DRIVERS_PER_COMMAND: usize = 25;
/// Calls in one pipeline.
const CALLS_PER_PIPELINE: usize = 32;
/// Pipelines at once: while one is read, the next is executed.
const PIPELINES: usize = 4;

/// The text of the script that begins a slice.
pub(super) const NOTE: &str = concat!(include_str!("count.lua"), include_str!("note.lua"));

/// Some drivers of one shard.
pub(super) struct Slice<'a, 'b> {
    pub(super) bucket: Shard,
    pub(super) drivers: &'b [Folded<'a>],
}

/// Of each driver of a slice, where it is now; `None` if a newer fix was there. In an hour that is not sharded there are
/// none.
pub(super) type Moves = Vec<Option<Move>>;

/// A driver's way over borders.
pub(super) struct Move {
    /// The cell that it is in.
    pub(super) to: Cell,
    /// Those that it has yet to leave.
    pub(super) from: Vec<Cell>,
    /// Its fix there, packed.
    pub(super) fix: Vec<u8>,
}

impl Index {
    /// Puts `batch` in.
    pub(super) async fn apply(&self, batch: Batch<'_>) -> Result<Applied, StoreError> {
        let turn = self.writers.turn(batch.forget_before).await;
        let connections = self.link.connections();
        self.marks.forget_before(batch.forget_before);
        self.pace.forget_before(batch.forget_before);
        let mut attempt = Attempt::new(batch.start, batch.repeated);
        let mut drivers: BTreeMap<Shard, Vec<Folded<'_>>> = BTreeMap::new();
        for folded in fold(batch.points, batch.forget_before) {
            drivers.entry(self.keys.layout().bucket(folded.hour, folded.driver)).or_default().push(folded);
        }
        drivers.retain(|bucket, _| !self.owes(&mut attempt, *bucket));
        let slices = self.slices(&drivers);
        let writes: Vec<Write<'_>> =
            slices.iter().map(|slice| self.write(&turn, &attempt, slice, batch.repeated)).collect();
        let mut written = Vec::with_capacity(slices.len());
        for (slice, (moves, answers)) in slices.iter().zip(self.link.change(&writes, connections).await?) {
            count(&mut attempt, slice.bucket, 1, answers)?;
            written.push(moves);
        }
        if let Layout::Sharded(_) = self.keys.layout() {
            self.put_in_places(&turn, connections, &mut attempt, &slices, written).await?;
        }
        let applied = if attempt.is_owed() { Applied::Partly } else { Applied::Whole };
        self.complete(attempt, batch.end).await?;
        turn.done();
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

    /// Cuts the drivers of each shard into slices.
    fn slices<'a, 'b>(&self, drivers: &'b BTreeMap<Shard, Vec<Folded<'a>>>) -> Vec<Slice<'a, 'b>> {
        let cut = |(bucket, drivers): (&Shard, &'b Vec<Folded<'a>>)| {
            let bucket = *bucket;
            self.pace.cut(bucket, drivers, DRIVERS_PER_SLICE).map(move |drivers| Slice { bucket, drivers })
        };
        drivers.iter().flat_map(cut).collect()
    }

    fn write<'b>(
        &'b self,
        turn: &'b Turn<'_>,
        attempt: &Attempt,
        slice: &'b Slice<'_, 'b>,
        is_repeated: bool,
    ) -> Write<'b> {
        let (keys, bucket) = (&self.keys, slice.bucket);
        let (last, marks) = (keys.last(bucket), keys.marks(bucket));
        let expiries = [&last, &marks].map(|key| keys.expires_at_s(bucket, key));
        let newest = slice.drivers.iter().map(|folded| folded.newest().ts).max().expect("a slice is never empty");
        let track = keys.tracks(bucket);
        let mut watched: Vec<Bytes> = slice.drivers.iter().map(|folded| track(folded.driver)).collect();
        let claim = turn.claim(keys, bucket, is_repeated);
        watched.push(claim.key().clone());
        let note = expiries.iter().fold(Command::script(&self.note, vec![last, marks]), Command::number);
        Write {
            keys,
            bucket,
            drivers: slice.drivers,
            claim,
            watched,
            fixes: keys.fixes(bucket),
            changes: keys.changes(bucket),
            by: &self.by,
            mirror: &self.mirror,
            pace: &self.pace,
            held: is_repeated.then(|| Mutex::new(slice.drivers.iter().map(Held::nothing_of).collect())),
            note: self.counting(note, attempt, bucket).number(newest.as_ms()),
        }
    }
}

/// A slice on its way.
struct Write<'b> {
    keys: &'b Keys,
    bucket: Shard,
    drivers: &'b [Folded<'b>],
    claim: Claim<'b>,
    /// Their tracks, and what names its writer.
    watched: Vec<Bytes>,
    fixes: Bytes,
    changes: Bytes,
    by: &'b Bytes,
    mirror: &'b Mirror,
    pace: &'b Pace,
    /// Of points that may have come before, what was seen of them in the tracks.
    held: Option<Mutex<Vec<Held>>>,
    /// Begins the slice; names no track yet.
    note: Command,
}

impl Change for Write<'_> {
    type Made = Moves;

    /// Every write of a driver touches its track.
    fn watched(&self) -> &[Bytes] {
        if self.claim.is_alone() { &self.watched[self.drivers.len()..] } else { &self.watched }
    }

    fn look(&self, request: &mut Request) {
        self.claim.look(request);
        if let Some(held) = &self.held {
            for (track, held) in self.tracks().iter().zip(&*held.lock()) {
                for (first, last) in held.parts() {
                    request.command("GETRANGE", 3).arg(track).number(first).number(last);
                }
            }
        } else if !self.claim.is_alone() {
            request.command("EXISTS", self.drivers.len());
            for track in self.tracks() {
                request.arg(track);
            }
        }
        self.ask(&self.fixes, request);
        // What is of a wrong type is told before anything is written.
        request.command("ZCARD", 1).arg(self.keys.roster(self.bucket));
        request.command("XLEN", 1).arg(&self.changes);
        match self.keys.layout() {
            Layout::Whole => {
                request.command("ZCARD", 1).arg(self.keys.positions(self.bucket));
                request.command("SCARD", 1).arg(self.keys.drivers(self.bucket));
            }
            Layout::Sharded(_) => self.ask(&self.keys.leaving(self.bucket), request),
        }
    }

    fn write(&self, seen: Vec<Reply>, request: &mut Request) -> Result<Option<Moves>, StoreError> {
        let mut seen = seen.into_iter();
        let mut next = || seen.next().ok_or_else(|| corrupt("a look was not answered"));
        let found = self.claim.found(next()?)?;
        if found == Found::NotOurs {
            return Ok(None);
        }
        let hour = self.bucket.hour();
        // A track that a chunk may make gets its expiry right behind it. One that is not watched may go before that, so
        // `note.lua` makes it again; of a driver who is new it need not.
        let (is_alone, mut are_expiring) = (self.claim.is_alone(), self.held.is_some());
        let chunks: Vec<Vec<u8>> = if let Some(held) = &self.held {
            let missing = |(folded, held): (&Folded<'_>, &mut Held)| {
                let parts = held.parts().map(|_| Ok(next()?.bytes()?.unwrap_or_default()));
                let parts = parts.collect::<Result<Vec<_>, StoreError>>()?;
                held.take_in(folded, &parts);
                Ok(held.missing(folded))
            };
            self.drivers.iter().zip(&mut *held.lock()).map(missing).collect::<Result<_, StoreError>>()?
        } else {
            are_expiring = !is_alone && next()?.count()? < self.drivers.len() as u64;
            self.drivers.iter().map(Folded::chunk).collect()
        };
        let (stored, drivers, _) = (next()?.list()?, next()?.count()?, next()?);
        let is_whole = self.keys.layout() == Layout::Whole;
        let leaving = if is_whole { Vec::new() } else { next()?.list()? };
        if stored.len() != self.drivers.len() || !is_whole && leaving.len() != stored.len() {
            return Err(corrupt("not everybody was looked at"));
        }

        let is_new = |stored: &Reply| matches!(stored, Reply::Nil);
        let known = self.tracks().iter().zip(&stored).filter(|(_, stored)| is_alone && !is_new(stored));
        request.add(&self.note.clone().and_keys(known.map(|(track, _)| track.clone())));
        for ((track, chunk), stored) in self.tracks().iter().zip(&chunks).zip(&stored) {
            if !chunk.is_empty() {
                request.command("APPEND", 2).arg(track).arg(chunk);
            }
            if are_expiring || is_alone && is_new(stored) {
                self.expire(track, request);
            }
        }

        let (mut newcomers, mut fixes, mut places, mut left) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut moves, mut leaving) = (Vec::new(), leaving.into_iter());
        for (folded, stored) in self.drivers.iter().zip(stored) {
            let (driver, fix) = (folded.driver.as_str(), folded.newest());
            let (stored, leaving) = (stored.bytes()?, leaving.next().map(Reply::bytes).transpose()?.flatten());
            if self.held.is_some() || stored.is_none() {
                newcomers.push(driver);
            }
            let packed = packed::pack(hour, fix);
            // An equal fix is written again, which repairs.
            if stored.as_ref().is_some_and(|stored| **stored > *packed) {
                moves.push(None);
                continue;
            }
            if let Some(to) = self.keys.layout().cell(fix.position) {
                let mut from = cells(leaving.as_deref().unwrap_or_default())?;
                // A fix that cannot be read any more tells no cell, and holds no newer one up.
                let before = stored.as_deref().and_then(packed::position);
                let before = before.and_then(|position| self.keys.layout().cell(position));
                from.extend(before.filter(|cell| !from.contains(cell)));
                from.retain(|cell| *cell != to);
                if !from.is_empty() {
                    left.push((driver, from.iter().map(Cell::to_string).collect::<Vec<_>>().join(",")));
                }
                moves.push(Some(Move { to, from, fix: packed.clone() }));
            } else {
                places.push((score(fix).to_string(), driver));
            }
            fixes.push((driver, packed));
        }

        if !newcomers.is_empty() {
            let roster: Vec<(&str, &str)> = newcomers.iter().map(|driver| ("0", *driver)).collect();
            self.put("ZADD", &self.keys.roster(self.bucket), &roster, request);
            if is_whole {
                let drivers = self.keys.drivers(self.bucket);
                request.command("SADD", newcomers.len() + 1).arg(&drivers);
                for driver in newcomers {
                    request.arg(driver);
                }
                self.expire(&drivers, request);
            }
        }
        self.put("ZADD", &self.keys.positions(self.bucket), &places, request);
        self.put("HSET", &self.keys.leaving(self.bucket), &left, request);
        self.put("HSET", &self.fixes, &fixes, request);
        if !fixes.is_empty() {
            let kept = changes::kept(self.keys.layout().buckets(), drivers as usize);
            changes::tell(&self.changes, kept, self.by, &fixes, request);
            self.expire(&self.changes, request);
        }
        self.claim.write(found, request);
        Ok(Some(moves))
    }

    fn made(&self, took: Duration) {
        self.pace.took(self.bucket, self.drivers.len(), DRIVERS_PER_SLICE, took);
        let newest = self.drivers.iter().map(|folded| (folded.driver, folded.newest()));
        self.mirror.put_in(self.bucket.hour(), newest);
    }
}

impl Write<'_> {
    fn tracks(&self) -> &[Bytes] {
        &self.watched[..self.drivers.len()]
    }

    /// Asks what a hash has of each driver.
    fn ask(&self, key: &Bytes, request: &mut Request) {
        request.command("HMGET", self.drivers.len() + 1).arg(key);
        for folded in self.drivers {
            request.arg(folded.driver.as_str());
        }
    }

    /// Puts pairs into a key, if there are any. It may be the first to do so, whatever the looks found: so it sets the
    /// expiry too.
    fn put(&self, name: &str, key: &Bytes, pairs: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)], request: &mut Request) {
        if pairs.is_empty() {
            return;
        }
        for pairs in pairs.chunks(DRIVERS_PER_COMMAND) {
            request.command(name, 2 * pairs.len() + 1).arg(key);
            for (first, second) in pairs {
                request.arg(first).arg(second);
            }
        }
        self.expire(key, request);
    }

    fn expire(&self, key: &Bytes, request: &mut Request) {
        request.command("EXPIREAT", 2).arg(key).number(self.keys.expires_at_s(self.bucket, key));
    }
}

/// Counts a transaction that was made in `shard`, by what Redis answered to the `calls` that it begins with.
pub(super) fn count(
    attempt: &mut Attempt,
    shard: Shard,
    calls: usize,
    answers: Vec<Reply>,
) -> Result<(), StoreError> {
    if answers.len() < calls {
        return Err(corrupt("a transaction answered too little"));
    }
    answers.into_iter().take(calls).try_for_each(|answer| attempt.called(shard, answer).map(drop))
}

/// Cells, out of their names joined by commas.
fn cells(names: &[u8]) -> Result<Vec<Cell>, StoreError> {
    let names = names.split(|byte| *byte == b',').filter(|name| !name.is_empty());
    let cells = names.map(|name| std::str::from_utf8(name).ok().and_then(Cell::parse));
    cells.collect::<Option<_>>().ok_or_else(|| corrupt("what a driver has to leave is no cell"))
}

/// What GEOADD would set.
pub(super) fn score(fix: &Fix) -> u64 {
    QuadCell::containing(fix.position, QuadCell::MAX_LEVEL).scores().start
}
