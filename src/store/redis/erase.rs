//! Taking one driver out of Redis, and the board on which instances tell each other of erasures.
//!
//! The keys that may hold something of a driver follow from the hours of the retention and their cells: a call of
//! `erase.lua` for each shard.
//! The board is a sorted set of lines, by their moment, and beside it who looked at it when, by Redis' own clock.
//! Lines are only ever added and grow old, so as long as there are as many as an instance knows, they are those it
//! knows; once in a while all are read nevertheless.
//!
//! In a cluster the board has three copies, so that one primary alone does not keep instances from each other. A visit
//! is one if it reaches two of them: of any two visits, the later finds on one copy what the earlier left there.
//!
//! Never here: what the lines mean.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future;
use parking_lot::Mutex;

use super::Index;
use super::keys::BOARDS;
use super::link::{Command, Reply};
use super::newest::{corrupt, id};
use super::shard::{Part, Shard};
use crate::model::{DriverId, MAX_AHEAD_MS, Timestamp};
use crate::store::{BOARD_LAPSE, Board, Line, StoreError};

/// The text of the script that erases.
pub(super) const ERASE: &str = include_str!("erase.lua");
/// The text of the script that goes to the board.
pub(super) const BOARD: &str = include_str!("board.lua");

/// Shards in one pipeline.
const SHARDS_AT_ONCE: usize = 128;
/// Lines in one reply, and in one call that writes; each has some 120 bytes.
const LINES_AT_ONCE: usize = 100;
/// How often all lines are read, whatever their number says.
const READ_ALL_EVERY: Duration = Duration::from_secs(10);
/// Instances in one reply.
const MAX_INSTANCES: usize = 250;

/// When the board was last read from end to end.
#[derive(Debug, Default)]
pub(super) struct ReadAll(Mutex<Option<Instant>>);

impl Index {
    /// Removes all of a driver from every hour that may still exist.
    pub(super) async fn erase(&self, driver: &DriverId) -> Result<(), StoreError> {
        let time = self.link.ask(Command::keyless("TIME")).await?.list()?;
        let now = time.into_iter().next().map(Reply::decimal).transpose()?.flatten();
        let now_s = now.ok_or_else(|| corrupt("the time of Redis is no number"))?;
        let now = Timestamp::from_ms(now_s.saturating_mul(1_000));
        // Keys outlive the retention by their jitter, and this clock need not be the one points were judged by.
        let oldest = now.plus_ms(-self.keys.retention_ms() - 2 * 3_600_000).hour();
        for hour in oldest.newest_first(now.plus_ms(MAX_AHEAD_MS + 3_600_000).hour()) {
            // A cell remembers who has left it, so each of the hour is asked.
            let places = self.places(hour).await?;
            let shards: Vec<Shard> = places.into_iter().chain([self.keys.layout().bucket(hour, driver)]).collect();
            for shards in shards.chunks(SHARDS_AT_ONCE) {
                let calls = shards.iter().map(|shard| self.erasing(*shard, driver)).collect();
                self.link.run(calls).await?;
            }
        }
        Ok(())
    }

    fn erasing(&self, shard: Shard, driver: &DriverId) -> Command {
        let bucket = || {
            vec![
                (self.keys.fixes(shard), "HDEL"),
                (self.keys.roster(shard), "ZREM"),
                (self.keys.track(shard, driver), "UNLINK"),
            ]
        };
        let place = || [(self.keys.positions(shard), "ZREM"), (self.keys.drivers(shard), "SREM")];
        let removals = match shard.part() {
            Part::Whole => bucket().into_iter().chain(place()).collect(),
            Part::Bucket(_) => bucket().into_iter().chain([(self.keys.at(shard), "HDEL")]).collect(),
            Part::Place(_) => [(self.keys.seen(shard), "HDEL")].into_iter().chain(place()).collect::<Vec<_>>(),
        };
        let (keys, commands): (Vec<Bytes>, Vec<&str>) = removals.into_iter().unzip();
        let keys = std::iter::once(self.keys.marks(shard)).chain(keys).collect();
        let commands = commands.into_iter().map(|command| Bytes::from_static(command.as_bytes()));
        Command::script(&self.erase, keys).arg(id(driver)).args(commands)
    }

    /// Writes what is not there yet, and reads what is.
    pub(super) async fn board(&self, lines: &[Line], keep: Duration, all: &ReadAll) -> Result<Board, StoreError> {
        let is_due = all.0.lock().is_none_or(|last| last.elapsed() >= READ_ALL_EVERY);
        let copies = if self.link.is_cluster() { &BOARDS[..] } else { &BOARDS[..1] };
        let visits = copies.iter().map(|copy| self.board_copy(copy, lines, keep, is_due));
        let (mut there, mut instances, mut trouble) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for visit in future::join_all(visits).await {
            match visit {
                Ok((lines, seen)) => {
                    there.extend(lines);
                    instances.extend(seen);
                }
                Err(error) => trouble.push(error),
            }
        }
        if trouble.len() > copies.len() / 2 {
            return Err(trouble.swap_remove(0));
        }
        if is_due {
            *all.0.lock() = Some(Instant::now());
        }
        Ok(Board { lines: there.into_iter().collect(), instances: instances.into_iter().collect() })
    }

    /// The lines of one copy, `lines` included, and who was there.
    async fn board_copy(
        &self,
        copy: &str,
        lines: &[Line],
        keep: Duration,
        is_due: bool,
    ) -> Result<(BTreeSet<Line>, Vec<String>), StoreError> {
        let (count, mut instances) = self.visit(copy, &[], keep).await?;
        if count == lines.len() as u64 && !is_due {
            return Ok((lines.iter().cloned().collect(), instances));
        }
        let mut there = self.lines(copy).await?;
        let missing: Vec<&Line> = lines.iter().filter(|line| !there.contains(*line)).collect();
        for some in missing.chunks(LINES_AT_ONCE) {
            // Whoever came in between has not seen these lines.
            instances.extend(self.visit(copy, some, keep).await?.1);
        }
        there.extend(missing.into_iter().cloned());
        Ok((there, instances))
    }

    async fn visit(&self, copy: &str, lines: &[&Line], keep: Duration) -> Result<(u64, Vec<String>), StoreError> {
        let keys = vec![self.keys.board(copy), self.keys.instances(copy)];
        let mut call = Command::script(&self.visit, keys)
            .arg(self.keys.instance())
            .number(BOARD_LAPSE.as_millis())
            .number(keep.as_millis())
            .number(MAX_INSTANCES);
        for line in lines {
            call = call.number(line.at.as_ms()).arg(line.text.clone());
        }
        let reply = self.link.run(vec![call]).await?.pop().unwrap_or(Reply::Nil);
        let mut parts = reply.list()?.into_iter();
        let count = parts.next().ok_or_else(unreadable)?.count()?;
        let instances = parts.map(text).collect::<Result<_, _>>()?;
        Ok((count, instances))
    }

    async fn lines(&self, copy: &str) -> Result<BTreeSet<Line>, StoreError> {
        let mut lines = BTreeSet::new();
        loop {
            let from = lines.len();
            let page = Command::on("ZRANGE", self.keys.board(copy)).number(from).number(from + LINES_AT_ONCE - 1);
            let page = self.link.ask(page.arg("WITHSCORES")).await?.list()?;
            let is_end = page.len() < 2 * LINES_AT_ONCE;
            let mut page = page.into_iter();
            while let (Some(line), Some(at)) = (page.next(), page.next()) {
                let at = text(at)?.parse::<f64>().map_err(|_| unreadable())?;
                lines.insert(Line { text: text(line)?, at: Timestamp::from_ms(at as i64) });
            }
            // Lines that others add meanwhile shift the rest: what is met twice counts once, what is missed is met at
            // the next visit, for then the number differs.
            if is_end || lines.len() == from {
                return Ok(lines);
            }
        }
    }
}

fn text(reply: Reply) -> Result<String, StoreError> {
    let bytes: Bytes = reply.bytes()?.ok_or_else(unreadable)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| unreadable())
}

fn unreadable() -> StoreError {
    corrupt("the board cannot be read")
}
