//! What a start must know before the first append: where the journal ends, which numbers are free, what was torn off.
//!
//! Only the newest segment is scanned, and older ones as long as those behind them say nothing. What follows the last
//! whole record there was never acknowledged, or cannot be told from that, and is cut off. Damage anywhere else is left
//! for readers to step over: it never keeps a service from starting, and never costs more than what is damaged.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use super::error::OpenError;
use super::files::Files;
use super::segment::{HEADER_LEN, Header, HeaderRead, Segment};
use super::{Damage, JournalId};
use crate::model::{Offset, Timestamp};

/// What opening a journal found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Behind the last record.
    pub end: Offset,
    /// The sequence number behind the last point.
    pub points: u64,
    /// Bytes behind the last whole record, cut off.
    pub torn_bytes: u64,
    /// The newest `ts` that this journal ever met, as far as its last segment tells.
    pub newest_ts: Option<Timestamp>,
    /// Damage in the middle of the segments that were scanned; left as it is.
    pub damage: Damage,
    /// Segments found.
    pub segments: u64,
    /// Bytes read to find out.
    pub scanned_bytes: u64,
}

/// Where writing goes on.
#[derive(Clone, Debug)]
pub(super) struct Resume {
    pub(super) id: JournalId,
    pub(super) next_base: u64,
    /// The next free sequence number.
    pub(super) next_point: u64,
    /// Points with a lower number were acknowledged.
    pub(super) promised: u64,
    /// Segments without a record, of no use once a fresh one is on disk.
    pub(super) empty: Vec<u64>,
}

/// Looks at the journal from its end, and cuts off what is torn there.
pub(super) fn recover(files: &Files) -> Result<(Recovery, Resume), OpenError> {
    let bases = files.segments().map_err(OpenError::at(files.journal_dir()))?;
    let known_id = files.read_id().map_err(OpenError::at(&files.id()))?;
    let mut recovery = Recovery { segments: bases.len() as u64, ..Recovery::default() };
    let mut resume: Option<Resume> = None;
    let mut empty = Vec::new();
    let mut next_base = 0;
    for &base in bases.iter().rev() {
        let path = files.segment(base);
        let mut segment = Segment::open(&path, base).map_err(OpenError::at(&path))?;
        let len = segment.len().map_err(OpenError::at(&path))?;
        next_base = next_base.max(base + len.max(HEADER_LEN));
        let header = match segment.header() {
            HeaderRead::Valid(header) => header,
            HeaderRead::Unsupported(version) => return Err(OpenError::UnsupportedVersion { path, version }),
            HeaderRead::Damaged if len <= HEADER_LEN => {
                recovery.torn_bytes += len;
                empty.push(base);
                continue;
            }
            HeaderRead::Damaged => continue,
        };
        if known_id.is_some_and(|id| id != header.id) {
            return Err(OpenError::Foreign(path));
        }
        let scan = Scan::over(&mut segment, header, len).map_err(OpenError::at(&path))?;
        recovery.scanned_bytes += len;
        if resume.is_none() {
            recovery.damage = scan.damage;
            recovery.torn_bytes += len - scan.end;
            recovery.points = scan.points_end.unwrap_or(header.promised);
            recovery.newest_ts = header.newest.max(scan.newest);
            resume = Some(Resume {
                id: header.id,
                next_base,
                next_point: scan.points_end.unwrap_or(header.first_point),
                promised: recovery.points,
                empty: Vec::new(),
            });
            settle(&path, scan.end).map_err(OpenError::at(&path))?;
        }
        // Where the newest record ends may be known from an older segment only.
        recovery.end = Offset::new(if scan.points_end.is_some() { base + scan.end } else { base });
        if scan.points_end.is_some() {
            break;
        }
        empty.push(base);
    }
    let id = known_id.unwrap_or_else(JournalId::random);
    let resume = resume.unwrap_or(Resume { id, next_base, next_point: 0, promised: 0, empty: Vec::new() });
    Ok((recovery, Resume { next_base, empty, ..resume }))
}

/// One pass over a segment.
struct Scan {
    /// Behind the last whole record, from the beginning of the file.
    end: u64,
    points_end: Option<u64>,
    newest: Option<Timestamp>,
    damage: Damage,
}

impl Scan {
    fn over(segment: &mut Segment, header: Header, len: u64) -> io::Result<Self> {
        let mut scan = Self { end: HEADER_LEN.min(len), points_end: None, newest: None, damage: Damage::default() };
        let mut at = HEADER_LEN;
        while let Some((found, frame)) = segment.find(at, len)? {
            at = found + frame.len();
            if segment.payload(found, &frame)?.is_some_and(|payload| frame.holds(payload)) {
                let expected = scan.points_end.unwrap_or(header.first_point);
                let begins = at - frame.len();
                scan.damage.lost_points += frame.first_point.saturating_sub(expected);
                scan.damage.damaged_bytes += begins - scan.end;
                scan.damage.events += u64::from(begins > scan.end);
                scan.end = at;
                scan.points_end = Some(frame.points_end());
                scan.newest = scan.newest.max(Some(frame.newest));
            }
        }
        Ok(scan)
    }
}

/// What is taken for committed from now on must be on disk, not only in the page cache of a process that was killed.
fn settle(path: &Path, len: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if len < file.metadata()?.len() {
        file.set_len(len)?;
    }
    file.sync_all()
}
