//! Reading batches in order: of a running journal up to what is committed, or of a directory as it lies there.
//!
//! There is one way from the journal to a store, whether the store follows live or catches up with a week: this. Live,
//! the bytes come from the page cache.
//!
//! Where bytes are damaged the reader looks for the next frame whose header holds and goes on. Points are numbered
//! without a gap, so the number of the next one tells exactly how many were lost, across a missing segment too.
//!
//! A segment may be replaced under a reader by one in which points are erased: it then goes on in the new one, at the
//! same offset. Points that are to be erased are never handed over, whether they still stand there or not.
//!
//! Never here: writing, cutting, locking. A directory is read beside the service that writes it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::erasures::Erasures;
use super::files::Files;
use super::segment::{HEADER_LEN, HeaderRead, Segment};
use super::{Committed, Shared};
use crate::model::{Offset, Point, Timestamp};

/// One batch as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub start: Offset,
    /// The offset behind it.
    pub end: Offset,
    /// The sequence number behind its last point, counted over the life of the journal.
    pub points_end: u64,
    /// When it was received.
    pub received: Timestamp,
    /// Its points, in the order sent, without those that were erased; perhaps none.
    pub points: Vec<Point>,
}

/// Damage met. All zero is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Acknowledged points that cannot be read: exact, from the gaps in their numbers.
    pub lost_points: u64,
    /// Bytes that are not what was written.
    pub damaged_bytes: u64,
    /// Places where something was wrong: damaged stretches, and segments missing.
    pub events: u64,
}

impl Damage {
    fn add(&mut self, bytes: u64, points: u64) {
        if bytes > 0 || points > 0 {
            self.damaged_bytes += bytes;
            self.lost_points += points;
            self.events += 1;
        }
    }
}

/// Reads batches in order. Blocking: never on a thread that serves.
#[derive(Debug)]
pub struct Reader {
    files: Files,
    /// Of a running journal, whose committed end is the limit.
    live: Option<Arc<Shared>>,
    /// Of a directory that is not ours to write: what was noted there when reading began.
    noted: Erasures,
    segment: Option<Segment>,
    /// Everything before this was read.
    position: u64,
    /// The sequence number the next point should have; `None` while there is nothing to tell.
    expected: Option<u64>,
    damage: Damage,
}

impl Reader {
    /// Reads the journal in the data directory `dir` from the offset `from`, without a lock: only whole records that
    /// are in the files, whether synced or not.
    pub fn open(dir: &Path, from: Offset) -> Self {
        let files = Files::new(dir);
        let noted = Erasures::load(&files).unwrap_or_else(|error| {
            tracing::warn!(%error, "the note of erasures cannot be read: what was to be erased is read as well");
            Erasures::default()
        });
        Self { noted, ..Self::new(files, None, from) }
    }

    pub(super) fn live(shared: Arc<Shared>, from: Offset) -> Self {
        // Beyond the end would be another journal's offset; from there, what comes next would be passed over.
        let from = from.min(shared.committed().end);
        Self::new(shared.files.clone(), Some(shared), from)
    }

    fn new(files: Files, live: Option<Arc<Shared>>, from: Offset) -> Self {
        let (position, damage) = (from.get(), Damage::default());
        Self { files, live, noted: Erasures::default(), segment: None, position, expected: None, damage }
    }

    fn erasures(&self) -> &Erasures {
        self.live.as_ref().map_or(&self.noted, |shared| &shared.erasures)
    }

    /// Goes on from `from`, wherever it was before. What damage it met stays counted.
    pub fn seek(&mut self, from: Offset) {
        self.segment = None;
        self.position = self.live.as_ref().map_or(from, |shared| from.min(shared.committed().end)).get();
        self.expected = None;
    }

    /// Where each segment begins, oldest first: one hour's receipts lie between two of these, or several do.
    pub fn segments(&self) -> io::Result<Vec<Offset>> {
        Ok(self.files.segments()?.into_iter().map(Offset::new).collect())
    }

    /// Where the journal ends at this moment: of a running one what is committed, else the last byte in the files.
    pub fn end(&self) -> io::Result<Offset> {
        if let Some(shared) = &self.live {
            return Ok(shared.committed().end);
        }
        let Some(base) = self.files.segments()?.pop() else { return Ok(Offset::START) };
        Ok(Offset::new(base + std::fs::metadata(self.files.segment(base))?.len()))
    }

    /// Everything before this was read, or is lost.
    pub const fn position(&self) -> Offset {
        Offset::new(self.position)
    }

    /// All damage met so far.
    pub const fn damage(&self) -> Damage {
        self.damage
    }

    /// The next batches: as many whole ones as it takes to reach `max_points`, fewer at the end of a segment, none when
    /// there is nothing more now. After an error the same call may be made again.
    ///
    /// # Errors
    /// What the file system says; [`io::ErrorKind::Unsupported`] for a segment of a later version.
    pub fn read(&mut self, max_points: usize) -> io::Result<Vec<Record>> {
        loop {
            let committed = self.live.as_ref().map(|shared| shared.committed());
            if committed.is_some_and(|committed| committed.end.get() <= self.position) {
                return Ok(Vec::new());
            }
            let Some(mut segment) = self.enter()? else { return Ok(Vec::new()) };
            let read = self.read_segment(&mut segment, committed, max_points);
            self.segment = Some(segment);
            let records = read?;
            if !records.is_empty() {
                return Ok(records);
            }
            if !self.leave(committed)? {
                return Ok(records);
            }
        }
    }

    /// The segment that `position` lies in, or else the next one.
    fn enter(&mut self) -> io::Result<Option<Segment>> {
        if let Some(segment) = self.segment.take()
            && !segment.is_replaced(&self.files.segment(segment.base()))?
        {
            return Ok(Some(segment));
        }
        let bases = self.files.segments()?;
        let before = bases.partition_point(|base| *base <= self.position);
        let Some(&base) = bases.get(before.saturating_sub(1)) else { return Ok(None) };
        let mut segment = self.open_segment(base)?;
        if let HeaderRead::Valid(header) = segment.header() {
            let target = self.position.saturating_sub(base);
            let (mut at, mut expected) = (HEADER_LEN, header.first_point);
            // The numbers of what comes first tell which number is next.
            while at < target {
                let Some((found, frame)) = segment.find(at, segment.len()?)? else { break };
                if found + frame.len() > target {
                    break;
                }
                at = found + frame.len();
                expected = frame.points_end();
            }
            self.expected = Some(expected);
        }
        self.position = self.position.max(base);
        Ok(Some(segment))
    }

    fn open_segment(&self, base: u64) -> io::Result<Segment> {
        let segment = Segment::open(&self.files.segment(base), base)?;
        match segment.header() {
            HeaderRead::Unsupported(version) => {
                let text = format!("segment {base} is of journal version {version}, unknown to this geotrail");
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
            _ => Ok(segment),
        }
    }

    fn read_segment(
        &mut self,
        segment: &mut Segment,
        committed: Option<Committed>,
        max_points: usize,
    ) -> io::Result<Vec<Record>> {
        let base = segment.base();
        let limit = committed.map_or(u64::MAX, |committed| committed.end.get().saturating_sub(base));
        let limit = limit.min(segment.len()?);
        let mut records = Vec::new();
        let mut points = 0;
        let mut at = self.position.saturating_sub(base).max(HEADER_LEN);
        while points < max_points.max(1) {
            let (found, frame, decoded) = match segment.decode_next(at, limit) {
                Ok(Some(next)) => next,
                // What was read before the error is handed over first; the next call meets it again.
                Err(error) if records.is_empty() => return Err(error),
                Ok(None) | Err(_) => break,
            };
            let skipped = frame.first_point.saturating_sub(self.expected.unwrap_or(frame.first_point));
            self.damage.add(found - at, skipped);
            at = found + frame.len();
            self.position = base + at;
            self.expected = Some(frame.points_end());
            match decoded {
                Some(decoded) => {
                    points += frame.points as usize;
                    let decoded = self.erasures().strike(&decoded, self.position()).unwrap_or(decoded);
                    records.push(Record {
                        start: Offset::new(base + found),
                        end: self.position(),
                        points_end: frame.points_end(),
                        received: frame.received,
                        points: decoded,
                    });
                }
                None => self.damage.add(frame.len(), frame.points.into()),
            }
        }
        self.publish();
        Ok(records)
    }

    /// Goes from a segment with no more records to the next; false if there is nothing beyond for now.
    fn leave(&mut self, committed: Option<Committed>) -> io::Result<bool> {
        let Some(mut segment) = self.segment.take() else { return Ok(false) };
        let base = segment.base();
        let len = segment.len()?;
        let unread = |end: u64, position: u64| end.saturating_sub(position.max(base + HEADER_LEN));
        let bases = self.files.segments()?;
        let next = bases.iter().copied().find(|next| *next > base);
        let next = next.filter(|next| committed.is_none_or(|committed| *next < committed.end.get()));
        let Some(next) = next else {
            match committed {
                Some(Committed { end, points }) => {
                    // All that is committed lies in this segment: what could not be read of it is lost.
                    let lost = points.saturating_sub(self.expected.unwrap_or(points));
                    self.damage.add(unread(end.get().min(base + len), self.position), lost);
                    self.expected = Some(self.expected.map_or(points, |expected| expected.max(points)));
                    self.position = end.get();
                }
                // Perhaps a record is being written just now.
                None => segment.forget(),
            }
            self.segment = Some(segment);
            self.publish();
            return Ok(false);
        };
        let following = match self.open_segment(next) {
            Ok(following) => following,
            Err(error) => {
                self.segment = Some(segment);
                return Err(error);
            }
        };
        let mut missing = 0;
        if let HeaderRead::Valid(header) = following.header() {
            // What retention took while it was read was not lost.
            let is_retained = bases.first() == Some(&next);
            let expected = self.expected.filter(|_| !is_retained);
            missing = expected.map_or(0, |expected| header.promised.saturating_sub(expected));
            self.expected = Some(header.first_point);
        }
        self.damage.add(unread(base + len, self.position), missing);
        self.position = next;
        self.segment = Some(following);
        self.publish();
        Ok(true)
    }

    /// Lets the journal's own figures know.
    fn publish(&self) {
        if let Some(shared) = &self.live {
            shared.counters.met(self.damage);
        }
    }
}
