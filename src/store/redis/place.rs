//! Who is in a cell: the second half of a write into a sharded hour.
//!
//! The bucket of a driver has decided first: it knows the newest fix, and the cells that the driver has yet to leave
//! for it. Then the cell of that fix is told that the driver is here, then the others that it has left, then the
//! bucket that they were left. Each cell keeps of each driver the newest it was told, here or gone. So writers that
//! come late, or at the same time, or again after a crash in between, leave the same; and whoever reads the bucket
//! beside a cell meets the driver once, wherever the write stands.
//!
//! Whether a cell was told something newer, a script finds out (`place.lua`). As long as one process alone tells it
//! anything (`writer`), it never was, since what a bucket takes for the newest later is told later: then plain commands do.
//!
//! Never here: which fix is the newest (`apply` says).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::Index;
use super::apply::{DRIVERS_PER_COMMAND, Move, Moves, Slice, count, score};
use super::keys::Keys;
use super::link::{Change, Command, Reply, Request};
use super::marks::Attempt;
use super::newest::{corrupt, id};
use super::pace::Pace;
use super::shard::Shard;
use super::writer::{Claim, Found, Turn};
use crate::model::DriverId;
use crate::store::StoreError;

/// The text of the script that tells a cell.
pub(super) const PLACE: &str = concat!(
    include_str!("bytes.lua"),
    include_str!("newer.lua"),
    include_str!("count.lua"),
    include_str!("place.lua")
);
/// The text of the script that tells a bucket what was left.
pub(super) const LEFT: &str = include_str!("left.lua");

/// Drivers in one call of either script.
const DRIVERS_PER_CALL: usize = 20;
/// Drivers in one transaction at most.
const DRIVERS_PER_MESSAGE: usize = 100;

/// What a cell is to be told of a driver.
#[derive(Debug)]
struct Visit<'b> {
    cell: Shard,
    driver: &'b DriverId,
    /// Where in the cell; `None`: elsewhere.
    score: Option<u64>,
    fix: Vec<u8>,
}

impl Index {
    /// Tells the cells what the buckets answered.
    pub(super) async fn put_in_places(
        &self,
        turn: &Turn<'_>,
        connections: u64,
        attempt: &mut Attempt,
        slices: &[Slice<'_, '_>],
        written: Vec<Moves>,
    ) -> Result<(), StoreError> {
        let (mut here, mut gone, mut places) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut left: BTreeMap<Shard, Vec<(Bytes, Bytes)>> = BTreeMap::new();
        for (slice, moves) in slices.iter().zip(written) {
            let hour = slice.bucket.hour();
            for (folded, moved) in slice.drivers.iter().zip(moves) {
                // A driver with a newer fix is whoever's brought that.
                let Some(Move { to, from, fix }) = moved else { continue };
                let driver = folded.driver;
                let visit = |cell, score| Visit { cell: Shard::place(hour, cell), driver, score, fix: fix.clone() };
                if !self.atlas.is_told(hour, to) && !self.owes(attempt, Shard::whole(hour)) {
                    places.insert((hour, to));
                }
                let mut owed = self.owes(attempt, Shard::place(hour, to));
                if !owed {
                    here.push(visit(to, Some(score(folded.newest()))));
                }
                if from.is_empty() {
                    continue;
                }
                for cell in from {
                    if self.owes(attempt, Shard::place(hour, cell)) {
                        owed = true;
                    } else {
                        gone.push(visit(cell, None));
                    }
                }
                // What a cell was not told stays in `leaving`, for the repetition to tell.
                if !owed {
                    left.entry(slice.bucket).or_default().push((id(driver), fix.into()));
                }
            }
        }
        self.tell(attempt, &places).await?;
        for mut visits in [here, gone] {
            visits.sort_by_key(|visit| visit.cell);
            let messages = self.messages(turn, attempt, &visits);
            for (message, (calls, answers)) in messages.iter().zip(self.link.change(&messages, connections).await?) {
                count(attempt, message.to, calls, answers)?;
            }
        }
        let calls = left.into_iter().flat_map(|(shard, drivers)| {
            let calls = drivers.chunks(DRIVERS_PER_CALL).map(|drivers| {
                let call = Command::script(&self.left, vec![self.keys.fixes(shard), self.keys.leaving(shard)]);
                call.args(drivers.iter().flat_map(|(driver, fix)| [driver.clone(), fix.clone()]))
            });
            calls.collect::<Vec<_>>()
        });
        self.in_pipelines(calls.collect()).await?;
        Ok(())
    }

    /// Cuts what cells are to be told into messages. In each all are here, or all are elsewhere.
    fn messages<'b>(&'b self, turn: &'b Turn<'_>, attempt: &Attempt, visits: &'b [Visit<'b>]) -> Vec<Message<'b>> {
        let mut messages = Vec::new();
        for visits in visits.chunk_by(|a, b| a.cell == b.cell) {
            let to = visits[0].cell;
            messages.extend(self.pace.cut(to, visits, DRIVERS_PER_MESSAGE).map(|visits| {
                let claim = turn.claim(&self.keys, to, attempt.is_repeated());
                Message { keys: &self.keys, pace: &self.pace, to, visits, claim, call: self.telling(attempt, to) }
            }));
        }
        messages
    }

    /// A call of `place.lua` that tells of nobody yet.
    fn telling(&self, attempt: &Attempt, place: Shard) -> Command {
        let keys =
            [self.keys.positions(place), self.keys.drivers(place), self.keys.seen(place), self.keys.marks(place)];
        let expiries = keys.each_ref().map(|key| self.keys.expires_at_s(place, key));
        let telling = expiries.iter().fold(Command::script(&self.place, keys.into()), Command::number);
        self.counting(telling, attempt, place)
    }
}

/// What a cell is told at once, on its way.
struct Message<'b> {
    keys: &'b Keys,
    pace: &'b Pace,
    to: Shard,
    visits: &'b [Visit<'b>],
    claim: Claim<'b>,
    /// A call of `place.lua` that tells of nobody.
    call: Command,
}

impl Message<'_> {
    /// Leaves it to the script what of it is new. How often it is called.
    fn ask(&self, request: &mut Request) -> usize {
        let calls = self.visits.chunks(DRIVERS_PER_CALL).map(|visits| {
            visits.iter().fold(self.call.clone(), |call, Visit { driver, score, fix, .. }| {
                let score = score.map_or_else(String::new, |score| score.to_string());
                call.arg(id(driver)).arg(score).arg(fix.clone())
            })
        });
        calls.map(|call| request.add(&call)).count()
    }

    /// Says it, and lets the script do no more than count, once.
    fn say(&self, request: &mut Request) -> usize {
        request.add(&self.call);
        let [positions, drivers, seen] =
            [Keys::positions, Keys::drivers, Keys::seen].map(|key| key(self.keys, self.to));
        for visits in self.visits.chunks(DRIVERS_PER_COMMAND) {
            let here: Option<Vec<_>> = visits.iter().map(|visit| Some((visit.score?, visit.driver))).collect();
            if let Some(here) = here {
                request.command("ZADD", 2 * here.len() + 1).arg(&positions);
                for (score, driver) in here {
                    request.number(score).arg(driver.as_str());
                }
                drivers_of("SADD", &drivers, visits, request);
            } else {
                drivers_of("ZREM", &positions, visits, request);
                drivers_of("SREM", &drivers, visits, request);
            }
            request.command("HSET", 2 * visits.len() + 1).arg(&seen);
            for visit in visits {
                request.arg(visit.driver.as_str()).arg(&visit.fix);
            }
        }
        // Any of them may be new, or have been emptied since.
        for key in [positions, drivers, seen] {
            request.command("EXPIREAT", 2).arg(&key).number(self.keys.expires_at_s(self.to, &key));
        }
        1
    }
}

/// Adds a command on a key whose arguments are the drivers of these.
fn drivers_of(name: &str, key: &Bytes, visits: &[Visit<'_>], request: &mut Request) {
    request.command(name, visits.len() + 1).arg(key);
    for visit in visits {
        request.arg(visit.driver.as_str());
    }
}

impl Change for Message<'_> {
    /// The calls that come first, each of which counts itself.
    type Made = usize;

    fn watched(&self) -> &[Bytes] {
        std::slice::from_ref(self.claim.key())
    }

    fn look(&self, request: &mut Request) {
        self.claim.look(request);
    }

    fn write(&self, seen: Vec<Reply>, request: &mut Request) -> Result<Option<usize>, StoreError> {
        let named = seen.into_iter().next().ok_or_else(|| corrupt("a look was not answered"))?;
        let found = self.claim.found(named)?;
        if found == Found::NotOurs {
            return Ok(None);
        }
        let calls = if self.claim.is_alone() { self.say(request) } else { self.ask(request) };
        self.claim.write(found, request);
        Ok(Some(calls))
    }

    fn made(&self, took: Duration) {
        self.pace.took(self.to, self.visits.len(), DRIVERS_PER_MESSAGE, took);
    }
}
