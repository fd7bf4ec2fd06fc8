//! The board on which instances on one Redis tell each other of erasures, and how each of them stands.
//!
//! The board is a sorted set of lines, by their moment, and beside it who looked at it when, by Redis' own clock.
//! Lines are only ever added and grow old, so as long as there are as many as an instance knows, they are those it
//! knows; once in a while all are read nevertheless.
//!
//! **How an instance stands** it says of an *epoch*. Whatever Redis loses begins a new one: with the board goes the
//! epoch itself, and whoever finds anything else gone renews it. That an instance is whole counts only if it has
//! looked at all it put in since the epoch began: so nobody takes for whole who does not know of the loss yet.
//!
//! In a cluster the board has three copies, so that one primary alone does not keep instances from each other. A visit
//! is one if it reaches two of them: of any two visits, the later finds on one copy what the earlier left there. The
//! newest epoch of any copy is that of all.
//!
//! Never here: what the lines mean, or what becomes of answers while somebody is not whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future;
use parking_lot::Mutex;

use super::Index;
use super::keys::BOARDS;
use super::link::{Command, Reply};
use super::newest::corrupt;
use crate::model::Timestamp;
use crate::store::{Attendance, BOARD_LAPSE, Board, Line, Standing, StoreError, Visit};

/// The text of the script that goes to the board.
pub(super) const BOARD: &str = include_str!("board.lua");

/// Lines in one reply, and in one call that writes; each has some 120 bytes.
const LINES_AT_ONCE: usize = 100;
/// How often all lines are read, whatever their number says.
const READ_ALL_EVERY: Duration = Duration::from_secs(10);
/// Instances in one reply.
const MAX_INSTANCES: usize = 250;

/// What is known of the board.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// When it was last read from end to end.
    read_all: Mutex<Option<Instant>>,
    /// The newest epoch; 0: none yet.
    epoch: AtomicU64,
    /// Since when in this epoch all that was put in has been looked at.
    looked_at: AtomicU64,
    /// How often the epoch was not what it should be, and how many of these the last visit began after.
    doubts: AtomicU64,
    met: AtomicU64,
}

impl Known {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether all that was put in is to be looked at: something was lost, maybe elsewhere.
    pub(super) fn is_new(&self) -> bool {
        self.epoch() != self.looked_at.load(Ordering::Acquire)
    }

    fn learn(&self, epoch: u64) {
        if self.epoch.fetch_max(epoch, Ordering::AcqRel) == 0 {
            // What was there before is looked at as the store is opened.
            self.looked_at(epoch);
        }
    }

    /// Everything was looked at after `epoch` was known.
    pub(super) fn looked_at(&self, epoch: u64) {
        self.looked_at.store(epoch, Ordering::Release);
    }

    /// Something is gone that need not have taken the board along: the next visit begins an epoch. One that is new here
    /// already will do.
    pub(super) fn renew(&self) {
        let looked_at = self.looked_at.load(Ordering::Acquire);
        // Nobody knows of an epoch before the first visit.
        if looked_at == 0 {
            return;
        }
        let _ = self.epoch.compare_exchange(looked_at, looked_at + 1, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Takes what stands in Redis for the epoch that should.
    pub(super) fn compare(&self, held: Option<i64>) {
        if held != i64::try_from(self.epoch()).ok() {
            self.doubts.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether the epoch was not what it should be, and nobody has been at the board since.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubts.load(Ordering::Acquire) != self.met.load(Ordering::Acquire)
    }
}

/// What a visit to a copy finds.
struct Found {
    count: u64,
    epoch: u64,
    roll: Vec<(Attendance, u64)>,
    instances: Vec<String>,
}

impl Index {
    /// Writes what is not there yet, and reads what is.
    pub(super) async fn at_board(&self, visit: Visit<'_>) -> Result<Board, StoreError> {
        let known = &self.board;
        let doubts = known.doubts.load(Ordering::Acquire);
        let is_due = known.read_all.lock().is_none_or(|last| last.elapsed() >= READ_ALL_EVERY);
        let words = visit.standing.map_or_else(String::new, |standing| self.words(standing));
        let copies = if self.link.is_cluster() { &BOARDS[..] } else { &BOARDS[..1] };
        let visits = copies.iter().map(|copy| self.board_copy(copy, visit, &words, is_due));
        let (mut lines, mut instances, mut trouble) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let mut roll: BTreeMap<String, (Attendance, u64)> = BTreeMap::new();
        for found in future::join_all(visits).await {
            match found {
                Ok((there, found)) => {
                    lines.extend(there);
                    instances.extend(found.instances);
                    known.learn(found.epoch);
                    for (attendance, of) in found.roll {
                        let last = roll.entry(attendance.instance.clone()).or_insert((attendance.clone(), of));
                        if (of, last.0.ago) > (last.1, attendance.ago) {
                            *last = (attendance, of);
                        }
                    }
                }
                Err(error) => trouble.push(error),
            }
        }
        if trouble.len() > copies.len() / 2 {
            return Err(trouble.swap_remove(0));
        }
        if is_due {
            *known.read_all.lock() = Some(Instant::now());
        }
        known.met.store(doubts, Ordering::Release);
        let epoch = known.epoch();
        let of_now = |(said, of): (Attendance, u64)| {
            if of == epoch { said } else { Attendance { standing: Standing::Behind(None), ..said } }
        };
        let roll: Vec<Attendance> = roll.into_values().map(of_now).collect();
        // Before anybody hears of it.
        self.mirror.heard(&roll);
        Ok(Board { lines: lines.into_iter().collect(), instances: instances.into_iter().collect(), roll })
    }

    /// The epoch that this instance has looked at, and how it stands in that.
    fn words(&self, standing: Standing) -> String {
        let is_unsure = self.marks.untold().is_some() || self.board.is_new();
        let as_of = |as_of: Option<Timestamp>| as_of.map_or_else(String::new, |ts| format!(" {}", ts.as_ms()));
        let standing = match standing {
            _ if is_unsure => "behind".to_owned(),
            Standing::Whole => "whole".to_owned(),
            Standing::Left => "left".to_owned(),
            Standing::Behind(ts) => format!("behind{}", as_of(ts)),
            Standing::Lacking(ts) => format!("lacking{}", as_of(ts)),
        };
        format!("{} {standing}", self.board.looked_at.load(Ordering::Acquire))
    }

    /// The lines of one copy, those of the visit included, and what else is there.
    async fn board_copy(
        &self,
        copy: &str,
        visit: Visit<'_>,
        words: &str,
        is_due: bool,
    ) -> Result<(BTreeSet<Line>, Found), StoreError> {
        let Visit { lines, keep, .. } = visit;
        let mut found = self.visit(copy, words, &[], keep).await?;
        if found.count == lines.len() as u64 && !is_due {
            return Ok((lines.iter().cloned().collect(), found));
        }
        let mut there = self.lines(copy).await?;
        let missing: Vec<&Line> = lines.iter().filter(|line| !there.contains(*line)).collect();
        for some in missing.chunks(LINES_AT_ONCE) {
            // Whoever came in between has not seen these lines.
            found.instances.extend(self.visit(copy, words, some, keep).await?.instances);
        }
        there.extend(missing.into_iter().cloned());
        Ok((there, found))
    }

    async fn visit(&self, copy: &str, words: &str, lines: &[&Line], keep: Duration) -> Result<Found, StoreError> {
        let of_copy = [self.keys.board(copy), self.keys.instances(copy), self.keys.roll(copy), self.keys.epoch(copy)];
        let mut call = Command::script(&self.visit, of_copy.to_vec())
            .arg(self.keys.instance())
            .number(keep.as_millis())
            .number(MAX_INSTANCES)
            .number(self.board.epoch())
            .arg(words.to_owned());
        for line in lines {
            call = call.number(line.at.as_ms()).arg(line.text.clone());
        }
        let reply = self.link.run(vec![call]).await?.pop().unwrap_or(Reply::Nil);
        let mut parts = reply.list()?.into_iter();
        let mut part = || parts.next().ok_or_else(unreadable);
        let (count, epoch) = (part()?.count()?, part()?.decimal()?.ok_or_else(unreadable)?);
        let mut roll = part()?.list()?.into_iter();
        let mut found = Found {
            count,
            epoch: epoch.try_into().map_err(|_| unreadable())?,
            roll: Vec::new(),
            instances: Vec::new(),
        };
        while let (Some(instance), Some(ago), Some(words)) = (roll.next(), roll.next(), roll.next()) {
            let (instance, ago) = (text(instance)?, Duration::from_millis(ago.count()?));
            if ago < BOARD_LAPSE {
                found.instances.push(instance.clone());
            }
            let words = text(words)?;
            if !words.is_empty() {
                // What a later version may say besides is not understood: then it is not known to be whole.
                let (standing, of) = read(&words).unwrap_or((Standing::Behind(None), 0));
                found.roll.push((Attendance { instance, ago, standing }, of));
            }
        }
        Ok(found)
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

/// What [`Index::words`] says: how an instance stands, and in which epoch.
fn read(words: &str) -> Option<(Standing, u64)> {
    let mut words = words.split(' ');
    let (epoch, standing) = (words.next()?.parse().ok()?, words.next()?);
    let as_of = words.next().map(str::parse).transpose().ok()?.map(Timestamp::from_ms);
    let standing = match standing {
        "whole" => Standing::Whole,
        "left" => Standing::Left,
        "behind" => Standing::Behind(as_of),
        "lacking" => Standing::Lacking(as_of),
        _ => return None,
    };
    Some((standing, epoch))
}

fn text(reply: Reply) -> Result<String, StoreError> {
    let bytes: Bytes = reply.bytes()?.ok_or_else(unreadable)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| unreadable())
}

fn unreadable() -> StoreError {
    corrupt("the board cannot be read")
}
