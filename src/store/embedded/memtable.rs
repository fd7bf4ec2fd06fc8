//! What has arrived since the last write to disk: per hour one growing log of fixes, each pointing back to the one
//! of the same driver before it. 16 to 20 bytes a point, and 12 for each driver of an hour: numbers are dense, so where the
//! last of a driver is stands at its place in a page, and nothing need be hashed.
//!
//! Never here: files, order by time, deduplication (whoever reads settles that).

use std::collections::BTreeMap;

use crate::model::{Fix, Hour, Timestamp};
use crate::store::track_codec;

const NONE: u32 = u32::MAX;
/// Entries in a page: so few that a late report of one driver in an hour that nobody else is in costs little.
const PAGE: usize = 32;
/// With its place among the pages.
const PAGE_BYTES: usize = size_of::<[Entry; PAGE]>() + size_of::<Option<Box<[Entry; PAGE]>>>();

/// Fixes by hour and driver number.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    hours: BTreeMap<Hour, HourLog>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct HourLog {
    log: Vec<u8>,
    /// By driver number.
    pages: Vec<Option<Box<[Entry; PAGE]>>>,
    /// How many drivers are in it.
    drivers: usize,
    /// How many pages there are.
    taken: usize,
}

/// Where a driver's fixes are in the log; `tail` is [`NONE`] if nowhere.
#[derive(Clone, Copy, Debug)]
struct Entry {
    tail: u32,
    last: u32,
    last_ms: u32,
}

impl Memtable {
    pub(super) fn push(&mut self, number: u32, fix: &Fix) {
        let hour = fix.ts.hour();
        let log = self.hours.entry(hour).or_default();
        let before = log.bytes();
        log.push(hour, number, fix);
        self.bytes += log.bytes() - before;
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
        self.hours.get(&hour).into_iter().flat_map(HourLog::numbers).collect()
    }

    /// A driver's fixes in an hour, latest arrival first.
    pub(super) fn fixes(&self, hour: Hour, number: u32) -> Vec<Fix> {
        let Some(log) = self.hours.get(&hour) else { return Vec::new() };
        let mut at = log.entry(number).map_or(NONE, |entry| entry.tail);
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
        log.entry(number).map(|entry| log.fix(hour, entry.last))
    }

    /// Forgets a driver. What it left in the logs goes with them, unread.
    pub(super) fn erase(&mut self, number: u32) {
        for log in self.hours.values_mut() {
            if let Some(entry) = log.entry_mut(number) {
                entry.tail = NONE;
                log.drivers -= 1;
            }
        }
        self.hours.retain(|_, log| log.drivers > 0);
        self.bytes = self.hours.values().map(HourLog::bytes).sum();
    }

    /// Forgets hours that ended before `cutoff`.
    pub(super) fn forget_before(&mut self, cutoff: Timestamp) {
        while let Some(first) = self.hours.first_entry()
            && first.key().end() <= cutoff
        {
            self.bytes -= first.remove().bytes();
        }
    }
}

impl HourLog {
    fn push(&mut self, hour: Hour, number: u32, fix: &Fix) {
        let at = u32::try_from(self.log.len()).expect("a memtable is written out long before 4 GiB");
        let ms = fix.ts.ms_since(hour.start()) as u32;
        let known = self.entry(number).copied();
        let is_last = known.is_none_or(|Entry { last, last_ms, .. }| {
            ms > last_ms || ms == last_ms && fix.supersedes(&self.fix(hour, last))
        });
        let tail = known.map_or(NONE, |entry| entry.tail);
        self.log.extend_from_slice(&tail.to_le_bytes());
        track_codec::encode_chunk(hour, std::slice::from_ref(fix), &mut self.log);
        let (last, last_ms) =
            known.filter(|_| !is_last).map_or((at, ms), |Entry { last, last_ms, .. }| (last, last_ms));
        *self.place(number) = Entry { tail: at, last, last_ms };
        self.drivers += usize::from(known.is_none());
    }

    /// Roughly what it takes.
    const fn bytes(&self) -> usize {
        self.log.len() + self.taken * PAGE_BYTES
    }

    fn entry(&self, number: u32) -> Option<&Entry> {
        let page = self.pages.get(number as usize / PAGE)?.as_ref()?;
        Some(&page[number as usize % PAGE]).filter(|entry| entry.tail != NONE)
    }

    fn entry_mut(&mut self, number: u32) -> Option<&mut Entry> {
        let page = self.pages.get_mut(number as usize / PAGE)?.as_mut()?;
        Some(&mut page[number as usize % PAGE]).filter(|entry| entry.tail != NONE)
    }

    /// Where the entry of a driver belongs, whether it is there or not.
    fn place(&mut self, number: u32) -> &mut Entry {
        let page = number as usize / PAGE;
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| {
            self.taken += 1;
            Box::new([Entry { tail: NONE, last: NONE, last_ms: 0 }; PAGE])
        });
        &mut page[number as usize % PAGE]
    }

    /// In order.
    fn numbers(&self) -> impl Iterator<Item = u32> {
        let pages = (0..).step_by(PAGE).zip(&self.pages).filter_map(|(first, page)| Some((first, page.as_ref()?)));
        let entries = pages.flat_map(|(first, page)| (first..).zip(page.iter()));
        entries.filter(|(_, entry)| entry.tail != NONE).map(|(number, _)| number)
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
