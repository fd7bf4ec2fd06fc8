//! What Redis should hold of this journal: of each shard, what its mark there said last.
//!
//! Every call that writes into a shard notes itself in this instance's mark there, with the attempt that it belongs to,
//! and answers how many calls of that attempt the mark has seen. An attempt is complete when in each of its shards
//! the last count is the number of calls. A call also says which complete attempt the mark must know, and answers if
//! it does not: so whatever was lost before, behind or between the writes (a flush, an empty server, a failover to a
//! replica that lags) is noticed at the latest by the next write, and no later write can hide it. `audit.lua`
//! compares in between, and for shards that are written to no more. What was lost is told to the caller as the offset
//! from which the journal must come again.
//!
//! Never here: the journal, what the shards hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use parking_lot::Mutex;

use super::Index;
use super::keys::{BOARDS, Counted};
use super::link::{Command, Reply};
use super::newest::corrupt;
use super::outage::Lacks;
use super::shard::{Layout, Part, Shard};
use crate::model::{Offset, Timestamp};
use crate::store::StoreError;

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

/// How often a mark is read that moved on while it was read; the next audit goes on.
const LOOKS: usize = 3;

/// One try to put a batch in.
#[derive(Debug)]
pub(super) struct Attempt {
    /// Tells its calls from those of any other.
    name: String,
    /// Of each shard, how many calls were made, and how many of them its mark has seen.
    calls: BTreeMap<Shard, (u64, u64)>,
    /// Shards whose marks were not as they should be.
    lost: BTreeSet<Shard>,
    /// Where the batch begins.
    pub(super) start: Offset,
    /// Whether its points may have come before.
    is_repeated: bool,
    /// The shards that were asked about, and whether they are away.
    pub(super) away: BTreeMap<Shard, bool>,
}

impl Attempt {
    /// At a batch that begins at `start`.
    pub(super) fn new(start: Offset, is_repeated: bool) -> Self {
        let name = format!("{:08x}", rand::random::<u32>());
        Self { name, calls: BTreeMap::new(), lost: BTreeSet::new(), start, is_repeated, away: BTreeMap::new() }
    }

    /// Whether its points may have come before.
    pub(super) const fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// Whether something was left out of it.
    pub(super) fn is_owed(&self) -> bool {
        self.away.values().any(|is_away| *is_away)
    }

    /// Takes what a call into `shard` answered for the count, and gives the rest.
    pub(super) fn called(&mut self, shard: Shard, reply: Reply) -> Result<Vec<Reply>, StoreError> {
        let mut rest = reply.list()?.into_iter();
        let (calls, seen) = self.calls.entry(shard).or_default();
        *calls += 1;
        match rest.next() {
            Some(Reply::Nil) => drop(self.lost.insert(shard)),
            Some(count) => *seen = (*seen).max(count.count()?),
            None => return Err(corrupt("a script has counted nothing")),
        }
        Ok(rest.collect())
    }

    /// The shards where something is missing that was there, or was just written.
    fn incomplete(&self) -> impl Iterator<Item = Shard> {
        let short = self.calls.iter().filter(|(_, (calls, seen))| calls != seen).map(|(shard, _)| *shard);
        short.chain(self.lost.iter().copied())
    }
}

/// What the mark of this instance in a shard should say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    /// Everything before this was put in.
    reached: Offset,
    /// The last complete attempt, `ATTEMPT:CALLS`; empty if that is not known.
    complete: String,
    /// Something from before `reached` was put in as well: an older mark does not tell from where on that is missing.
    is_mixed: bool,
}

/// What it says: `REACHED;COMPLETE;ATTEMPT:CALLS`, as `count.lua` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    reached: Offset,
    complete: String,
    last: String,
}

impl Held {
    /// `None` if there is none, or it cannot be read.
    fn read(reply: Reply) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = reply.bytes()? else { return Ok(None) };
        let parse = |text: &str| {
            let mut parts = text.split(';');
            let reached = Offset::new(parts.next()?.parse().ok()?);
            Some(Self { reached, complete: parts.next()?.to_owned(), last: parts.next()?.to_owned() })
        };
        Ok(std::str::from_utf8(&bytes).ok().and_then(parse))
    }
}

impl Mark {
    /// Whether `held` is this mark, or one that followed it at once.
    fn is_in(&self, held: &Held) -> bool {
        if self.complete.is_empty() {
            return held.reached >= self.reached;
        }
        held.complete == self.complete || held.last == self.complete
    }
}

/// From where on the journal must come again. Between the moment when a loss is noted, from which on the marks expect no
/// more than what is left, and the moment when everybody knows of it, this is all that tells of it.
#[derive(Debug, Default)]
struct Again {
    noted: Option<Offset>,
    /// What the caller is being told: known to everybody by the time of the next audit.
    told: Option<Offset>,
}

impl Again {
    fn note(&mut self, from: Offset) {
        self.noted = Some(self.noted.map_or(from, |noted| noted.min(from)));
    }

    fn tell(&mut self) -> Option<Offset> {
        self.told = self.noted.take();
        self.told
    }

    fn open(&self) -> Option<Offset> {
        self.noted.into_iter().chain(self.told).min()
    }
}

/// The marks that this instance should have.
#[derive(Debug, Default)]
pub(super) struct Marks {
    expected: Mutex<BTreeMap<Shard, Mark>>,
    again: Mutex<Again>,
    /// Where the turn of the older shards stands.
    turn: Mutex<Option<Shard>>,
}

impl Marks {
    /// Reads what [`Marks::line`] wrote; false if it is of another layout, or no such thing.
    pub(super) fn read(&self, layout: Layout, line: &str) -> bool {
        let entry = |entry: &str| {
            let (shard, mark) = entry.split_once('=')?;
            let (reached, complete) = mark.split_once('/')?;
            let reached = Offset::new(reached.parse().ok()?);
            Some((Shard::parse(shard)?, Mark { reached, complete: complete.to_owned(), is_mixed: false }))
        };
        let entries = match line.split_once(';') {
            Some((of, entries)) if of == layout.to_string() => entries.split(',').map(entry).collect(),
            None if line.is_empty() => Some(BTreeMap::new()),
            _ => None,
        };
        let is_read = entries.is_some();
        *self.expected.lock() = entries.unwrap_or_default();
        *self.again.lock() = Again::default();
        is_read
    }

    /// All of them in one line without blanks; empty if there are none.
    pub(super) fn line(&self, layout: Layout) -> String {
        use fmt::Write as _;
        let mut line = String::new();
        for (shard, Mark { reached, complete, .. }) in &*self.expected.lock() {
            let before = if line.is_empty() { format!("{layout};") } else { ",".to_owned() };
            write!(line, "{before}{shard}={reached}/{complete}").expect("a string takes all");
        }
        line
    }

    /// Drops what ended before `cutoff`: nobody misses it.
    pub(super) fn forget_before(&self, cutoff: Timestamp) {
        self.expected.lock().retain(|shard, _| shard.hour().end() >= cutoff);
    }

    fn of(&self, shard: Shard) -> Option<Mark> {
        self.expected.lock().get(&shard).cloned()
    }

    fn moved(&self, shard: Shard, to: Offset, complete: String) {
        let mut expected = self.expected.lock();
        let before = expected.get(&shard).map_or((Offset::START, false), |mark| (mark.reached, mark.is_mixed));
        let mark = Mark { reached: to.max(before.0), complete, is_mixed: before.1 || to < before.0 };
        expected.insert(shard, mark);
    }

    /// From where on what was put in is gone, as far as not everybody knows.
    pub(super) fn untold(&self) -> Option<Offset> {
        self.again.lock().open()
    }

    /// Takes what Redis holds for what it should hold, and notes what is missing.
    fn lost(&self, shard: Shard, held: Option<Held>) {
        let mut expected = self.expected.lock();
        let Some(mark) = expected.remove(&shard) else { return };
        let from = held.map(|held| held.reached).filter(|reached| *reached < mark.reached && !mark.is_mixed);
        if let Some(reached) = from {
            expected.insert(shard, Mark { reached, complete: String::new(), is_mixed: false });
        }
        self.again.lock().note(from.unwrap_or(Offset::START));
    }

    /// Takes a mark that is ahead of what was noted for what it should be.
    fn ahead(&self, shard: Shard) {
        if let Some(mark) = self.expected.lock().get_mut(&shard) {
            mark.complete.clear();
        }
    }

    /// The shards to look at now: the newest, and some of the others in turn.
    fn in_turn(&self) -> Vec<(Shard, Mark)> {
        let expected = self.expected.lock();
        let all = || expected.iter().rev().map(|(shard, mark)| (*shard, mark.clone()));
        let mut chosen: Vec<(Shard, Mark)> = all().take(NEWEST_PER_AUDIT).collect();
        let mut turn = self.turn.lock();
        let rest = all().skip(NEWEST_PER_AUDIT).filter(|(shard, _)| turn.is_none_or(|last| *shard < last));
        chosen.extend(rest.take(SHARDS_PER_AUDIT - NEWEST_PER_AUDIT));
        let is_full = chosen.len() == SHARDS_PER_AUDIT;
        *turn = chosen.last().filter(|_| is_full).map(|(shard, _)| *shard);
        chosen
    }

    fn newest(&self) -> Vec<(Shard, Mark)> {
        self.expected.lock().iter().rev().take(GLANCED).map(|(shard, mark)| (*shard, mark.clone())).collect()
    }

    /// The shards that have a roster, newest first.
    fn with_rosters(&self, layout: Layout) -> Vec<Shard> {
        let has_roster = |shard: &&Shard| match layout {
            Layout::Whole => true,
            Layout::Sharded(_) => matches!(shard.part(), Part::Bucket(_)),
        };
        self.expected.lock().keys().rev().filter(has_roster).copied().collect()
    }

    fn all(&self) -> Vec<(Shard, Mark)> {
        self.expected.lock().iter().map(|(shard, mark)| (*shard, mark.clone())).collect()
    }
}

impl Index {
    /// Adds to a call what `count.lua` is to know.
    pub(super) fn counting(&self, call: Command, attempt: &Attempt, shard: Shard) -> Command {
        let (reached, known) = match self.marks.of(shard) {
            Some(Mark { reached, complete, .. }) => (reached, complete),
            None => (Offset::START, String::new()),
        };
        let call = call.arg(self.keys.instance()).arg(attempt.name.clone()).arg(known).number(reached);
        call.number(u8::from(attempt.is_repeated))
    }

    /// An attempt of which every call was answered. An error if anything that was there, or was just written, is gone.
    pub(super) async fn complete(&self, attempt: Attempt, end: Offset) -> Result<(), StoreError> {
        let Some(newest) = attempt.incomplete().map(|shard| shard.hour().end()).max() else {
            for (shard, (calls, _)) in attempt.calls {
                self.marks.moved(shard, end, format!("{}:{calls}", attempt.name));
            }
            return Ok(());
        };
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
        self.compare_all(true).await?;
        Ok(self.marks.again.lock().tell())
    }

    /// Whether the newest marks are still there and the epoch, which a server that came back empty, was flushed, or took over with a
    /// lag does not have; and nothing is known to be gone of which somebody has yet to be told.
    pub(super) async fn glance(&self) -> Result<bool, StoreError> {
        let expected = self.marks.newest();
        let mark = |shard| Command::on("HGET", self.keys.marks(shard)).arg(self.keys.instance());
        let mut calls: Vec<Command> = expected.iter().map(|(shard, _)| mark(*shard)).collect();
        // What only others had is missed by nobody else here.
        calls.push(Command::on("GET", self.keys.epoch(BOARDS[0])));
        let lacks = Lacks::default();
        let mut replies = self.replies(calls, &lacks).await?;
        self.given((), false, &lacks)?;
        if let Some(epoch) = replies.pop().flatten().filter(|_| self.board.epoch() > 0) {
            self.board.compare(epoch.decimal()?);
        }
        for ((_, expected), reply) in expected.into_iter().zip(replies) {
            let Some(reply) = reply else { continue };
            if !Held::read(reply)?.is_some_and(|held| expected.is_in(&held)) {
                return Ok(false);
            }
        }
        Ok(self.marks.untold().is_none() && !self.board.is_new() && !self.board.is_doubted())
    }

    /// The same of what was written since, a part each time; of everything as soon as anything is found missing, or
    /// somebody came back. And whether what is owed can be put in by now.
    pub(super) async fn audit(&self) -> Result<Option<Offset>, StoreError> {
        self.marks.again.lock().told = None;
        let epoch = self.board.epoch();
        if self.has_arrivals(self.link.arrivals()) || self.board.is_new() {
            self.compare_all(false).await?;
        }
        self.compare(self.marks.in_turn(), false).await?;
        let mut rosters = self.marks.with_rosters(self.keys.layout());
        rosters.retain(|shard| !self.is_away(*shard));
        for shard in self.patrol(&self.patrol, &rosters).await? {
            self.marks.lost(shard, None);
        }
        if self.marks.untold().is_some() {
            self.compare(self.marks.all(), false).await?;
            self.board.renew();
        }
        self.board.looked_at(epoch);
        let mut again = self.marks.again.lock();
        if let Some(from) = self.outage.collect(|shard| self.is_away(shard)) {
            again.note(from);
        }
        match again.tell() {
            None if self.board.is_doubted() => Err(StoreError::Unavailable("others' loss is not known yet".into())),
            told => Ok(told),
        }
    }

    /// Compares all there is with what those have who are there.
    async fn compare_all(&self, is_of_old: bool) -> Result<(), StoreError> {
        let arrivals = self.link.arrivals();
        self.compare(self.marks.all(), is_of_old).await?;
        self.outage.compared(arrivals);
        Ok(())
    }

    /// Notes what is lost, as far as it is not away. It is told when all was compared; a call that is broken off leaves
    /// it for the next. What was noted some time ago may have been moved on from.
    async fn compare(&self, expected: Vec<(Shard, Mark)>, is_of_old: bool) -> Result<(), StoreError> {
        if expected.is_empty() {
            return Ok(());
        }
        let gone_by = self.gone_by().await?;
        self.marks.forget_before(gone_by);
        self.outage.forget_before(gone_by);
        let is_due = |shard: Shard| shard.hour().end() >= gone_by && !self.is_away(shard);
        let mut open: Vec<(Shard, Mark)> = expected.into_iter().filter(|(shard, _)| is_due(*shard)).collect();
        for _ in 0..LOOKS {
            let mut moving = Vec::new();
            for slice in open.chunks(CALLS_PER_PIPELINE) {
                let calls = slice.iter().map(|(shard, _)| self.auditing(*shard)).collect();
                let replies = self.link.run(calls).await?;
                for ((shard, mark), reply) in slice.iter().zip(replies) {
                    let held = Held::read(reply)?;
                    if held.as_ref().is_some_and(|held| mark.is_in(held)) {
                        continue;
                    }
                    match self.marks.of(*shard) {
                        // Whoever forgot it in the meantime has dropped it first.
                        None => {}
                        Some(now) if now != *mark => moving.push((*shard, now)),
                        Some(_) if is_of_old && held.as_ref().is_some_and(|held| held.reached >= mark.reached) => {
                            self.marks.ahead(*shard);
                        }
                        Some(_) => {
                            self.marks.lost(*shard, held);
                            self.atlas.forget();
                        }
                    }
                }
            }
            open = moving;
        }
        Ok(())
    }

    /// Hours that ended before this are no longer missed.
    async fn gone_by(&self) -> Result<Timestamp, StoreError> {
        Ok(self.redis_now().await?.plus_ms(ABOUT_TO_GO_MS - self.keys.retention_ms()))
    }

    fn auditing(&self, shard: Shard) -> Command {
        let parts = self.keys.counted(shard);
        let keys = std::iter::once(self.keys.marks(shard)).chain(parts.iter().map(|(key, _)| key.clone()));
        let ways = parts.iter().map(|(_, how)| match how {
            Counted::Exists => "EXISTS",
            Counted::Set => "SCARD",
            Counted::SortedSet => "ZCARD",
            Counted::Hash => "HLEN",
            Counted::List => "LLEN",
            Counted::Not => "",
        });
        let call = Command::script(&self.audit, keys.collect()).arg(self.keys.instance());
        ways.fold(call, Command::arg)
    }

    /// What time it is for Redis, which expires keys by it.
    pub(super) async fn redis_now(&self) -> Result<Timestamp, StoreError> {
        let mut time = self.link.ask(Command::keyless("TIME")).await?.list()?.into_iter();
        let mut number = || {
            let number = time.next().map(Reply::decimal).transpose()?.flatten();
            number.ok_or_else(|| corrupt("the time of Redis is no number"))
        };
        let (seconds, micros) = (number()?, number()?);
        Ok(Timestamp::from_ms(seconds.saturating_mul(1_000)).plus_ms(micros / 1_000))
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
            marks.moved(Shard::whole(Hour::from_number(hour)), Offset::new(offset), "0000abcd:3".into());
        }
        let line = marks.line(WHOLE);
        let again = Marks::default();
        assert!(again.read(WHOLE, &line));
        assert_eq!((again.line(WHOLE), again.all().len()), (line.clone(), 2));
        let sharded = Layout::Sharded(Resolution::new(7).expect("there is one"));
        assert!(!again.read(sharded, &line));
        for wrong in [
            line.replace("none", "7"),
            line.replace('=', ":"),
            line.replace('/', ""),
            "none".into(),
            "none;x=1/".into(),
        ] {
            assert!(!again.read(WHOLE, &wrong), "{wrong}");
            assert_eq!(again.all(), []);
        }
    }

    #[test]
    fn every_shard_has_its_turn() {
        let marks = Marks::default();
        for hour in 0..1_000 {
            marks.moved(Shard::whole(Hour::from_number(hour)), Offset::new(1), "0000abcd:1".into());
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
