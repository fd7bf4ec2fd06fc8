//! What has arrived since the last write to disk: per hour one growing log of fixes, each pointing back to the one
//! of the same driver before it. 16 to 20 bytes a point; nothing is reserved per driver but 16 bytes an hour.
//!
//! Never here: files, order by time, deduplication (whoever reads settles that).

use std::collections::BTreeMap;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::model::{Fix, Hour, Timestamp};
use crate::store::track_codec;

const NONE: u32 = u32::MAX;
const ENTRY_BYTES: usize = 24;

/// Fixes by hour and driver number.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    hours: BTreeMap<Hour, HourLog>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct HourLog {
    log: Vec<u8>,
    drivers: HashMap<u32, Entry, RandomState>,
}

#[derive(Debug)]
struct Entry {
    tail: u32,
    last: u32,
    last_ms: u32,
}

impl Memtable {
    pub(super) fn push(&mut self, number: u32, fix: &Fix) {
        let hour = fix.ts.hour();
        let log = self.hours.entry(hour).or_default();
        let before = (log.log.len(), log.drivers.len());
        log.push(hour, number, fix);
        self.bytes += log.log.len() - before.0 + (log.drivers.len() - before.1) * ENTRY_BYTES;
    }

    /// Roughly what it takes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn hours(&self) -> impl Iterator<Item = Hour> {
        self.hours.keys().copied()
    }

    /// The numbers in an hour, in order.
    pub(super) fn numbers(&self, hour: Hour) -> Vec<u32> {
        let mut numbers: Vec<u32> =
            self.hours.get(&hour).into_iter().flat_map(|log| log.drivers.keys().copied()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// A driver's fixes in an hour, latest arrival first.
    pub(super) fn fixes(&self, hour: Hour, number: u32) -> Vec<Fix> {
        let Some(log) = self.hours.get(&hour) else { return Vec::new() };
        let mut at = log.drivers.get(&number).map_or(NONE, |entry| entry.tail);
        let mut fixes = Vec::new();
        while at != NONE {
            fixes.push(log.fix(hour, at));
            at = log.previous(at);
        }
        fixes
    }

    /// A driver's last fix in an hour.
    pub(super) fn last(&self, hour: Hour, number: u32) -> Option<Fix> {
        let log = self.hours.get(&hour)?;
        log.drivers.get(&number).map(|entry| log.fix(hour, entry.last))
    }

    /// Forgets a driver. What it left in the logs goes with them, unread.
    pub(super) fn erase(&mut self, number: u32) {
        for log in self.hours.values_mut() {
            if log.drivers.remove(&number).is_some() {
                self.bytes -= ENTRY_BYTES;
            }
        }
        let emptied: Vec<Hour> =
            self.hours.iter().filter(|(_, log)| log.drivers.is_empty()).map(|(hour, _)| *hour).collect();
        for hour in emptied {
            self.bytes -= self.hours.remove(&hour).map_or(0, |log| log.log.len());
        }
    }

    /// Forgets hours that ended before `cutoff`.
    pub(super) fn forget_before(&mut self, cutoff: Timestamp) {
        while let Some(first) = self.hours.first_entry()
            && first.key().end() <= cutoff
        {
            let log = first.remove();
            self.bytes -= log.log.len() + log.drivers.len() * ENTRY_BYTES;
        }
    }
}

impl HourLog {
    fn push(&mut self, hour: Hour, number: u32, fix: &Fix) {
        let at = u32::try_from(self.log.len()).expect("a memtable is written out long before 4 GiB");
        let ms = fix.ts.ms_since(hour.start()) as u32;
        let last = self.drivers.get(&number).map(|entry| (entry.last, entry.last_ms));
        let is_last =
            last.is_none_or(|(last, last_ms)| ms > last_ms || ms == last_ms && fix.supersedes(&self.fix(hour, last)));
        let entry = self.drivers.entry(number).or_insert(Entry { tail: NONE, last: at, last_ms: ms });
        self.log.extend_from_slice(&entry.tail.to_le_bytes());
        track_codec::encode_chunk(hour, std::slice::from_ref(fix), &mut self.log);
        entry.tail = at;
        if is_last {
            (entry.last, entry.last_ms) = (at, ms);
        }
    }

    fn previous(&self, at: u32) -> u32 {
        let bytes = self.log[at as usize..].first_chunk();
        u32::from_le_bytes(*bytes.expect("every record begins with four bytes"))
    }

    fn fix(&self, hour: Hour, at: u32) -> Fix {
        let mut record = track_codec::decoder(hour, &self.log[at as usize + 4..]);
        record.next().and_then(Result::ok).expect("encoded by this very process")
    }
}
