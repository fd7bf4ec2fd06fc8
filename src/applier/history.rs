//! What a store must be given beside the live end of the journal: after a loss, at the first filling, or when the
//! live end ran too far ahead. Taken newest first, for that is what is asked for most, a segment at a time (a segment
//! holds at most an hour's receipts), and within a segment chunk by chunk in the order of the journal.
//!
//! Never here: a store. Reading blocks.

use std::io;

use crate::journal::{Damage, Reader, Record};
use crate::model::{Offset, Point, Timestamp};

/// A part of the journal, from one record's beginning to another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it begins.
    pub from: Offset,
    /// Where it ends.
    pub to: Offset,
    /// The store may hold some of it.
    pub repeated: bool,
    /// The store was never given some of it.
    pub is_news: bool,
}

/// Points on their way, out of consecutive records of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// By hours, of an hour by drivers, of a driver by time: as they are put in.
    pub points: Vec<Point>,
    /// Where the journal stands before them.
    pub start: Offset,
    /// Where it stands after them.
    pub end: Offset,
    /// The sequence number there.
    pub points_end: u64,
    /// How many records they were.
    pub records: usize,
    /// When the first of them was received.
    pub received: Timestamp,
    /// When the last was.
    pub last_received: Timestamp,
    /// The store may hold some of them.
    pub repeated: bool,
    /// The store was never given some of them.
    pub is_news: bool,
}

/// What is still to be read.
#[derive(Debug)]
pub struct History {
    reader: Reader,
    /// Disjoint, oldest first.
    stretches: Vec<Stretch>,
    /// The stretch within one segment that is being read, apart from the others.
    piece: Option<Stretch>,
}

impl History {
    /// Nothing yet; `reader` is of the journal, wherever it stands.
    pub const fn new(reader: Reader) -> Self {
        Self { reader, stretches: Vec::new(), piece: None }
    }

    /// Adds a stretch that is newer than all there are.
    pub fn add(&mut self, stretch: Stretch) {
        if stretch.from < stretch.to {
            self.stretches.push(stretch);
        }
    }

    /// Puts one stretch in the place of all there are.
    pub fn replace(&mut self, stretch: Stretch) {
        self.stretches.clear();
        self.piece = None;
        self.add(stretch);
    }

    /// All damage met so far.
    pub const fn damage(&self) -> Damage {
        self.reader.damage()
    }

    /// Where the oldest that is left begins; `None` if nothing is left.
    pub fn from(&self) -> Option<Offset> {
        let stretches = self.stretches.first().map(|stretch| stretch.from);
        let piece = self.piece.map(|piece| piece.from);
        stretches.into_iter().chain(piece).min()
    }

    /// Whether the store was never given some of what is left.
    pub fn has_news(&self) -> bool {
        self.stretches.iter().chain(&self.piece).any(|stretch| stretch.is_news)
    }

    /// The next points, about `most`; `None` when all is read.
    pub fn next(&mut self, most: usize) -> io::Result<Option<Chunk>> {
        loop {
            let Some(piece) = self.enter()? else { return Ok(None) };
            let start = self.reader.position().max(piece.from);
            let mut records = if start < piece.to { self.reader.read(most)? } else { Vec::new() };
            records.retain(|record| record.start < piece.to);
            if let Some(chunk) = Chunk::of(records, piece.repeated, piece.is_news) {
                return Ok(Some(chunk));
            }
            self.piece = None;
        }
    }

    /// The piece being read, or else the newest segment's part of what is left.
    fn enter(&mut self) -> io::Result<Option<Stretch>> {
        if self.piece.is_none() {
            let Some(newest) = self.stretches.last().copied() else { return Ok(None) };
            let segments = self.reader.segments()?;
            let base = segments.into_iter().rev().find(|base| *base < newest.to);
            let from = base.map_or(newest.from, |base| base.max(newest.from));
            self.stretches.pop();
            self.add(Stretch { to: from, ..newest });
            self.piece = Some(Stretch { from, ..newest });
            self.reader.seek(from);
        }
        Ok(self.piece)
    }
}

/// What the record at an offset tells: when it was received, if there is anything before it, and the sequence number of
/// its first point. `None` if there is no record. `reader` stands at the offset.
pub fn look(reader: &mut Reader) -> io::Result<Option<(Option<Timestamp>, u64)>> {
    let is_first = reader.segments()?.first().is_none_or(|first| reader.position() <= *first);
    let records = reader.read(1)?;
    Ok(records.first().map(|record| {
        let received = (!is_first).then_some(record.received);
        (received, record.points_end - record.points.len() as u64)
    }))
}

impl Chunk {
    /// What lies in consecutive records; `None` if there are none.
    pub fn of(records: Vec<Record>, repeated: bool, is_news: bool) -> Option<Self> {
        let (first, last) = (records.first()?, records.last()?);
        let (start, end, points_end) = (first.start, last.end, last.points_end);
        let (received, last_received, count) = (first.received, last.received, records.len());
        let mut points: Vec<Point> = records.into_iter().flat_map(|record| record.points).collect();
        points.sort_unstable_by(|a, b| {
            let (hour_a, hour_b) = (a.fix.ts.hour(), b.fix.ts.hour());
            hour_a.cmp(&hour_b).then_with(|| a.driver.cmp(&b.driver)).then_with(|| a.fix.cmp(&b.fix))
        });
        Some(Self { points, start, end, points_end, records: count, received, last_received, repeated, is_news })
    }

    /// Cuts off what is more than `most` points, in parts of much the same size. What is cut within a record no longer
    /// says where the journal stands after the first part, only where it stood before.
    pub fn split(&mut self, most: usize) -> Option<Self> {
        let parts = self.points.len().div_ceil(most);
        if parts <= 1 {
            return None;
        }
        let rest = Self { points: self.points.split_off(self.points.len().div_ceil(parts)), ..*self };
        self.end = self.start;
        Some(rest)
    }
}
