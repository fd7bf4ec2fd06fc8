//! What Redis should hold of this journal: of each shard, the offset that its mark there said last.
//!
//! A mark moves in three steps. Every call that writes into a shard counts itself, in the shard, under the attempt it
//! belongs to. When all of them were answered, `mark.lua` moves the mark, but only if it finds the count complete and
//! the old mark in its place: so whatever was lost before, behind or between them (a flush, an empty server, a
//! failover to a replica that lags) is noticed when the next mark is written, and no later write can hide it.
//! `audit.lua` compares in between, and for shards that are written to no more. What was lost is told to the caller
//! as the offset from which the journal must come again.
//!
//! Never here: the journal, what the shards hold.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::Mutex;

use super::Index;
use super::keys::Counted;
use super::link::{Command, Reply};
use super::newest::corrupt;
use super::outage::Lacks;
use super::shard::{Layout, Shard};
use crate::model::{Offset, Timestamp};
use crate::store::StoreError;

/// The text of the script that moves a mark.
pub(super) const MARK: &str = include_str!("mark.lua");
/// The text of the script that looks whether a shard is whole.
pub(super) const AUDIT: &str = include_str!("audit.lua");

/// Shards looked at in one audit. It comes every second; a call of `audit.lua` takes some 10 µs.
const SHARDS_PER_AUDIT: usize = 384;
/// Of those, how many of the newest: they are written to, and lie on every node. The others follow in turn.
const NEWEST_PER_AUDIT: usize = SHARDS_PER_AUDIT / 2;
/// Calls in one pipeline.
const CALLS_PER_PIPELINE: usize = 128;
/// Marks looked at to follow an answer: those of the newest shards, which lie on every node.
const GLANCED: usize = 8;
/// What is to go within this time is not missed any more: another instance's clock may be ahead.
const ABOUT_TO_GO_MS: i64 = 600_000;

/// The offsets that the marks of this instance should have.
#[derive(Debug, Default)]
pub(super) struct Marks {
    expected: Mutex<BTreeMap<Shard, Offset>>,
    /// From where on the journal must come again, until the caller has been told.
    again: Mutex<Option<Offset>>,
    /// Where the turn of the older shards stands.
    turn: Mutex<Option<Shard>>,
}

impl Marks {
    /// Reads what [`Marks::line`] wrote; false if it is of another layout, or no such thing.
    pub(super) fn read(&self, layout: Layout, line: &str) -> bool {
        let entry = |entry: &str| {
            let (shard, offset) = entry.split_once('=')?;
            Some((Shard::parse(shard)?, Offset::new(offset.parse().ok()?)))
        };
        let entries = match line.split_once(';') {
            Some((of, entries)) if of == layout.to_string() => entries.split(',').map(entry).collect(),
            None if line.is_empty() => Some(BTreeMap::new()),
            _ => None,
        };
        let is_read = entries.is_some();
        *self.expected.lock() = entries.unwrap_or_default();
        *self.again.lock() = None;
        is_read
    }

    /// All of them in one line without blanks; empty if there are none.
    pub(super) fn line(&self, layout: Layout) -> String {
        use fmt::Write as _;
        let mut line = String::new();
        for (shard, offset) in &*self.expected.lock() {
            let before = if line.is_empty() { format!("{layout};") } else { ",".to_owned() };
            write!(line, "{before}{shard}={offset}").expect("a string takes all");
        }
        line
    }

    /// Drops what ended before `cutoff`: nobody misses it.
    pub(super) fn forget_before(&self, cutoff: Timestamp) {
        self.expected.lock().retain(|shard, _| shard.hour().end() >= cutoff);
    }

    fn of(&self, shard: Shard) -> Option<Offset> {
        self.expected.lock().get(&shard).copied()
    }

    fn moved(&self, shard: Shard, to: Offset) {
        let mut expected = self.expected.lock();
        let mark = expected.entry(shard).or_insert(to);
        *mark = to.max(*mark);
    }

    /// From where on what was put in is gone, as far as nobody was told.
    pub(super) fn untold(&self) -> Option<Offset> {
        *self.again.lock()
    }

    /// Takes what Redis holds for what it should hold, and notes what is missing.
    fn lost(&self, shard: Shard, held: Option<Offset>) {
        let from = held.unwrap_or(Offset::START);
        let mut again = self.again.lock();
        *again = Some(again.map_or(from, |again| again.min(from)));
        let mut expected = self.expected.lock();
        match held {
            Some(held) => expected.insert(shard, held),
            None => expected.remove(&shard),
        };
    }

    /// The shards to look at now: the newest, and some of the others in turn.
    fn in_turn(&self) -> Vec<(Shard, Offset)> {
        let expected = self.expected.lock();
        let all = || expected.iter().rev().map(|(shard, offset)| (*shard, *offset));
        let mut chosen: Vec<(Shard, Offset)> = all().take(NEWEST_PER_AUDIT).collect();
        let mut turn = self.turn.lock();
        let rest = all().skip(NEWEST_PER_AUDIT).filter(|(shard, _)| turn.is_none_or(|last| *shard < last));
        chosen.extend(rest.take(SHARDS_PER_AUDIT - NEWEST_PER_AUDIT));
        let is_full = chosen.len() == SHARDS_PER_AUDIT;
        *turn = chosen.last().filter(|_| is_full).map(|(shard, _)| *shard);
        chosen
    }

    fn newest(&self) -> Vec<(Shard, Offset)> {
        self.expected.lock().iter().rev().take(GLANCED).map(|(shard, offset)| (*shard, *offset)).collect()
    }

    fn all(&self) -> Vec<(Shard, Offset)> {
        self.expected.lock().iter().map(|(shard, offset)| (*shard, *offset)).collect()
    }
}

impl Index {
    /// Moves the marks of the shards that an attempt wrote to, with how many calls each. An error if anything that
    /// was there, or was just written, is gone.
    pub(super) async fn mark(
        &self,
        attempt: &str,
        calls: &BTreeMap<Shard, usize>,
        end: Offset,
    ) -> Result<(), StoreError> {
        let shards: Vec<(Shard, usize)> = calls.iter().map(|(shard, calls)| (*shard, *calls)).collect();
        let mut lost = Vec::new();
        for slice in shards.chunks(CALLS_PER_PIPELINE) {
            let marks = slice.iter().map(|(shard, calls)| {
                let expected = self.marks.of(*shard).map_or_else(String::new, |offset| offset.to_string());
                Command::script(&self.mark, vec![self.keys.marks(*shard)])
                    .arg(self.keys.instance())
                    .arg(self.keys.calls_field())
                    .arg(expected)
                    .number(end)
                    .arg(format!("{attempt}:{calls}"))
            });
            let replies = self.link.run(marks.collect()).await?;
            for ((shard, _), reply) in slice.iter().zip(replies) {
                match reply.count()? {
                    0 => lost.push(*shard),
                    _ => self.marks.moved(*shard, end),
                }
            }
        }
        let Some(newest) = lost.into_iter().map(|shard| shard.hour().end()).max() else { return Ok(()) };
        self.atlas.forget();
        let gone_by = self.gone_by().await?;
        self.marks.forget_before(gone_by);
        // What comes so late that it expires as it is written is not lost.
        if newest < gone_by {
            return Ok(());
        }
        Err(StoreError::Unavailable("what was written is gone".into()))
    }

    /// Whether Redis holds all that `line` says, as far as it was not to go by now. If not, from where on the journal
    /// must come again.
    pub(super) async fn open(&self, line: &str) -> Result<Option<Offset>, StoreError> {
        self.atlas.forget();
        self.outage.reset();
        if !self.marks.read(self.keys.layout(), line) {
            return Ok(Some(Offset::START));
        }
        self.compare_all().await?;
        Ok(self.marks.again.lock().take())
    }

    /// Whether the newest marks are still there: what a server that came back empty, was flushed, or took over with a
    /// lag does not have.
    pub(super) async fn glance(&self) -> Result<bool, StoreError> {
        let expected = self.marks.newest();
        let mark = |shard| Command::on("HGET", self.keys.marks(shard)).arg(self.keys.instance());
        let lacks = Lacks::default();
        let replies = self.replies(expected.iter().map(|(shard, _)| mark(*shard)).collect(), &lacks).await?;
        self.given((), false, &lacks)?;
        for ((_, expected), reply) in expected.into_iter().zip(replies) {
            let Some(reply) = reply else { continue };
            let held = reply.decimal()?.and_then(|held| u64::try_from(held).ok()).map(Offset::new);
            if held < Some(expected) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The same of what was written since, a part each time; of everything as soon as anything is found missing, or
    /// somebody came back. And whether what is owed can be put in by now.
    pub(super) async fn audit(&self) -> Result<Option<Offset>, StoreError> {
        if self.has_arrivals(self.link.arrivals()) {
            self.compare_all().await?;
        }
        self.compare(self.marks.in_turn()).await?;
        if self.marks.untold().is_some() {
            self.compare(self.marks.all()).await?;
        }
        let collected = self.outage.collect(|shard| self.is_away(shard));
        Ok(self.marks.again.lock().take().into_iter().chain(collected).min())
    }

    /// Compares all there is with what those have who are there.
    async fn compare_all(&self) -> Result<(), StoreError> {
        let arrivals = self.link.arrivals();
        self.compare(self.marks.all()).await?;
        self.outage.compared(arrivals);
        Ok(())
    }

    /// Notes what is lost, as far as it is not away. It is told when all was compared; a call that is broken off leaves it for the next.
    async fn compare(&self, expected: Vec<(Shard, Offset)>) -> Result<(), StoreError> {
        if expected.is_empty() {
            return Ok(());
        }
        let gone_by = self.gone_by().await?;
        self.marks.forget_before(gone_by);
        self.outage.forget_before(gone_by);
        let is_due = |shard: Shard| shard.hour().end() >= gone_by && !self.is_away(shard);
        let kept: Vec<(Shard, Offset)> = expected.into_iter().filter(|(shard, _)| is_due(*shard)).collect();
        for slice in kept.chunks(CALLS_PER_PIPELINE) {
            let calls = slice.iter().map(|(shard, _)| self.look(*shard)).collect();
            let replies = self.link.run(calls).await?;
            for ((shard, expected), reply) in slice.iter().zip(replies) {
                let held = reply.decimal()?.and_then(|held| u64::try_from(held).ok()).map(Offset::new);
                // Whoever forgot it in the meantime has dropped it first.
                if held < Some(*expected) && self.marks.of(*shard).is_some() {
                    self.marks.lost(*shard, held);
                    self.atlas.forget();
                }
            }
        }
        Ok(())
    }

    /// Hours that ended before this are no longer missed.
    async fn gone_by(&self) -> Result<Timestamp, StoreError> {
        Ok(self.redis_now().await?.plus_ms(ABOUT_TO_GO_MS - self.keys.retention_ms()))
    }

    fn look(&self, shard: Shard) -> Command {
        let parts = self.keys.counted(shard);
        let keys = std::iter::once(self.keys.marks(shard)).chain(parts.iter().map(|(key, _)| key.clone()));
        let ways = parts.iter().map(|(_, how)| match how {
            Counted::Exists => "EXISTS",
            Counted::Set => "SCARD",
            Counted::SortedSet => "ZCARD",
            Counted::Hash => "HLEN",
            Counted::List => "LLEN",
        });
        let call = Command::script(&self.audit, keys.collect()).arg(self.keys.instance());
        ways.fold(call, Command::arg)
    }

    /// What time it is for Redis, which expires keys by it.
    pub(super) async fn redis_now(&self) -> Result<Timestamp, StoreError> {
        let time = self.link.ask(Command::keyless("TIME")).await?.list()?;
        let now = time.into_iter().next().map(Reply::decimal).transpose()?.flatten();
        let now_s = now.ok_or_else(|| corrupt("the time of Redis is no number"))?;
        Ok(Timestamp::from_ms(now_s.saturating_mul(1_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Hour, Resolution};

    const WHOLE: Layout = Layout::Whole;

    #[test]
    fn a_line_comes_back_and_another_layout_is_not_read() {
        let marks = Marks::default();
        assert_eq!(marks.line(WHOLE), "");
        assert!(marks.read(WHOLE, ""));
        for (hour, offset) in [(495_000, 7), (495_001, u64::MAX), (495_000, 5)] {
            marks.moved(Shard::whole(Hour::from_number(hour)), Offset::new(offset));
        }
        let line = marks.line(WHOLE);
        let again = Marks::default();
        assert!(again.read(WHOLE, &line));
        assert_eq!((again.line(WHOLE), again.all().len()), (line.clone(), 2));
        let sharded = Layout::Sharded(Resolution::new(7).expect("there is one"));
        assert!(!again.read(sharded, &line));
        for wrong in [line.replace("none", "7"), line.replace('=', ":"), "none".into(), "none;x=1".into()] {
            assert!(!again.read(WHOLE, &wrong), "{wrong}");
            assert_eq!(again.all(), []);
        }
    }

    #[test]
    fn every_shard_has_its_turn() {
        let marks = Marks::default();
        for hour in 0..1_000 {
            marks.moved(Shard::whole(Hour::from_number(hour)), Offset::new(1));
        }
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..5 {
            let chosen = marks.in_turn();
            assert!(chosen.len() <= SHARDS_PER_AUDIT);
            assert_eq!(chosen[0].0.hour().number(), 999);
            seen.extend(chosen.into_iter().map(|(shard, _)| shard));
        }
        assert_eq!(seen.len(), 1_000);
    }
}
