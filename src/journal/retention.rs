//! Letting go of what is over: whole segments, oldest first, never one that a store still needs.
//!
//! It stops at the first segment that must stay, so what is left has no hole.

use std::time::UNIX_EPOCH;
use std::{fs, io};

use super::Shared;
use super::files::{Files, sync_dir};
use super::segment::{HEADER_LEN, Segment};
use crate::model::{MAX_AHEAD_MS, Offset, Timestamp};

/// What was let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments removed.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The oldest that is left is over too, and stays only because not all of it is held by the stores.
    pub awaits_store: bool,
}

/// A segment that is never written again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub(super) len: u64,
    /// `None` for one of an earlier run that nobody has looked into yet.
    pub(super) known: Option<Known>,
}

/// What decides how long a segment stays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The offset behind its last record.
    pub(super) end: u64,
    /// The newest `ts` in it; `None` if it holds no point.
    pub(super) newest: Option<Timestamp>,
}

pub(super) fn retain(shared: &Shared, cutoff: Timestamp, applied: Offset) -> io::Result<Retained> {
    let _one_at_a_time = shared.retaining.lock();
    let mut retained = Retained::default();
    loop {
        let oldest = shared.sealed.lock().first_key_value().map(|(base, sealed)| (*base, *sealed));
        let Some((base, Sealed { len, known })) = oldest else { break };
        let known = match known {
            Some(known) => known,
            None => look_into(&shared.files, base, len)?,
        };
        let is_over = known.newest.is_none_or(|newest| newest < cutoff);
        if !is_over || known.end > applied.get() {
            retained.awaits_store = is_over;
            shared.sealed.lock().insert(base, Sealed { len, known: Some(known) });
            break;
        }
        match fs::remove_file(shared.files.segment(base)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // The next one may go only when this is gone for good.
            _ => sync_dir(shared.files.journal_dir())?,
        }
        shared.sealed.lock().remove(&base);
        retained.segments += 1;
        retained.bytes += len;
    }
    Ok(retained)
}

/// The headers of its frames tell. Where none can be read, the moment it was last written does: no point was accepted
/// that was much newer.
fn look_into(files: &Files, base: u64, len: u64) -> io::Result<Known> {
    let path = files.segment(base);
    let mut segment = match Segment::open(&path, base) {
        Ok(segment) => segment,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known { end: base, newest: None }),
        Err(error) => return Err(error),
    };
    let mut known = Known { end: base, newest: None };
    let mut at = HEADER_LEN;
    while let Some((found, frame)) = segment.find(at, len)? {
        at = found + frame.len();
        known = Known { end: base + at, newest: known.newest.max(Some(frame.newest)) };
    }
    if known.newest.is_none() && len > HEADER_LEN {
        let written = fs::metadata(&path)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let written = Timestamp::from_ms(i64::try_from(written.as_millis()).unwrap_or(i64::MAX));
        known = Known { end: base + len, newest: Some(written.plus_ms(MAX_AHEAD_MS)) };
    }
    Ok(known)
}
