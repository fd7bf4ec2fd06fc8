//! What the keys are called, and when each expires. This file alone knows.
//!
//! All keys of a shard share one hash tag, so a script may touch them together in a cluster. Names are
//! written up in `docs/redis-keys.md`; a change of what a key holds is a change of its name.
//!
//! Never here: a command, or what a key holds.

use std::time::Duration;

use bytes::Bytes;

use super::shard::{Layout, Part, Shard};
use crate::model::{DriverId, Hour};

/// How far apart the keys of one hour expire: 10 minutes keep a million small keys from expiring in one burst.
const JITTER_S: u32 = 600;
/// Of that, how long nothing expires but tracks: the rest, which may be big, has been unlinked by then (`forget`, once a
/// minute). That costs nobody anything, where an expiry would hold Redis up.
const UNLINKED_WITHIN_S: u32 = 300;

/// The tags of the board and of its copies, in each third of the slots: a cluster that shares its slots out evenly has
/// them on three primaries.
pub(super) const BOARDS: [&str; 3] = ["erasures", "erasures-1", "erasures-t"];

/// How the size of a key is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// It is there.
    Exists,
    /// By its members.
    Set,
    /// By its members.
    SortedSet,
    /// By its fields.
    Hash,
    /// By its elements.
    List,
    /// It may be missing; it goes with the rest.
    Not,
}

/// Whether a key is one of those under `prefix`.
pub fn is_ours(prefix: &str, key: &[u8]) -> bool {
    key.strip_prefix(prefix.as_bytes()).is_some_and(|rest| rest.starts_with(b":{"))
}

/// The hour that a key under `prefix` is of; `None` if it is of none.
pub fn hour_of(prefix: &str, key: &[u8]) -> Option<Hour> {
    let tag = key.strip_prefix(prefix.as_bytes())?.strip_prefix(b":{")?;
    let (hour, rest) = tag.split_at_checked(10)?;
    let ends = matches!(rest.first(), Some(b'}' | b':'));
    Hour::parse(std::str::from_utf8(hour).ok().filter(|_| ends)?).ok()
}

/// Whether a key is a track; a prefix has no braces.
fn is_track(key: &[u8]) -> bool {
    let tag_end = key.iter().position(|byte| *byte == b'}');
    tag_end.is_some_and(|end| key[end..].starts_with(b"}:track:"))
}

/// A key under `prefix` that is never there.
pub fn nobodys(prefix: &str) -> String {
    format!("{prefix}:{{nobody}}:nothing")
}

/// A key as people may see it: in printable characters, not endless, and of a track not whose it is.
pub fn shown(key: &[u8]) -> String {
    const MOST: usize = 80;
    const TRACK: &[u8] = b"}:track:";
    let track = key.windows(TRACK.len()).position(|part| part == TRACK).map(|at| at + TRACK.len());
    match (track, key.len() > MOST) {
        (Some(end), _) => format!("{}*", key[..end].escape_ascii()),
        (None, true) => format!("{}...", key[..MOST].escape_ascii()),
        (None, false) => key.escape_ascii().to_string(),
    }
}

/// The names under one prefix, as seen by one instance.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
    instance: String,
    layout: Layout,
    retention_s: i64,
}

impl Keys {
    /// `prefix` has no braces, which would take the place of the hash tag; `instance` is this journal's id.
    pub(super) fn new(prefix: String, instance: String, layout: Layout, retention: Duration) -> Self {
        let whole_s = retention.as_secs() + u64::from(retention.subsec_nanos() > 0);
        Self { prefix, instance, layout, retention_s: whole_s.min(u64::from(u32::MAX)) as i64 }
    }

    /// How long before now a fix may lie that counts, in milliseconds.
    pub(super) const fn retention_ms(&self) -> i64 {
        self.retention_s * 1_000
    }

    /// Geo set: the last position of each driver.
    pub(super) fn positions(&self, shard: Shard) -> Bytes {
        self.key(shard, "positions")
    }

    /// Set: who reported.
    pub(super) fn drivers(&self, shard: Shard) -> Bytes {
        self.key(shard, "drivers")
    }

    /// Sorted set of equal scores: who reported, in the order of ids.
    pub(super) fn roster(&self, shard: Shard) -> Bytes {
        self.key(shard, "roster")
    }

    /// Hash: the last fix of each driver, packed.
    pub(super) fn fixes(&self, shard: Shard) -> Bytes {
        self.key(shard, "fixes")
    }

    /// String: the `ts` of the newest fix, in decimal milliseconds.
    pub(super) fn last(&self, shard: Shard) -> Bytes {
        self.key(shard, "last")
    }

    /// Hash: of each instance, how far its journal has been put in, and its last attempts.
    pub(super) fn marks(&self, shard: Shard) -> Bytes {
        self.key(shard, "marks")
    }

    /// Stream: what was written lately, a slice an entry.
    pub(super) fn changes(&self, shard: Shard) -> Bytes {
        self.key(shard, "changes")
    }

    /// String: the name of the turn that writes it alone, or that there are several.
    pub(super) fn writer(&self, shard: Shard) -> Bytes {
        self.key(shard, "writer")
    }

    /// The field of this instance in `marks`.
    pub(super) fn instance(&self) -> Bytes {
        Bytes::copy_from_slice(self.instance.as_bytes())
    }

    /// How hours are divided.
    pub(super) const fn layout(&self) -> Layout {
        self.layout
    }

    /// What is there as long as the shard is whole, beside the marks: all that is counted has the same size.
    pub(super) fn counted(&self, shard: Shard) -> Vec<(Bytes, Counted)> {
        use Counted::{Exists, Hash, List, Not, Set, SortedSet};
        let mut bucket = vec![
            (self.fixes(shard), Exists),
            (self.last(shard), Exists),
            (self.fixes(shard), Hash),
            (self.roster(shard), SortedSet),
            (self.writer(shard), Not),
        ];
        let place = [(self.positions(shard), SortedSet), (self.drivers(shard), Set)];
        match (shard.part(), self.layout) {
            (Part::Whole, Layout::Whole) => bucket.extend(place),
            (Part::Whole, Layout::Sharded(_)) => {
                return vec![(self.cells(shard), Exists), (self.cells(shard), Set), (self.atlas(shard), List)];
            }
            (Part::Bucket(_), _) => {}
            (Part::Place(_), _) => {
                return [(self.seen(shard), Exists), (self.writer(shard), Not)].into_iter().chain(place).collect();
            }
        }
        bucket
    }

    /// Every key of a shard, but for the tracks.
    pub(super) fn all(&self, shard: Shard) -> Vec<Bytes> {
        let counted = self.counted(shard).into_iter();
        let named = counted.filter(|(_, how)| *how != Counted::Exists).map(|(key, _)| key);
        let rest = match shard.part() {
            Part::Place(_) => vec![self.seen(shard), self.marks(shard)],
            Part::Bucket(_) => {
                vec![self.last(shard), self.changes(shard), self.leaving(shard), self.marks(shard)]
            }
            Part::Whole => vec![self.last(shard), self.changes(shard), self.marks(shard)],
        };
        named.chain(rest).collect()
    }

    /// Set: the cells of an hour.
    pub(super) fn cells(&self, shard: Shard) -> Bytes {
        self.key(shard, "cells")
    }

    /// List: the same cells, in the order in which they became known.
    pub(super) fn atlas(&self, shard: Shard) -> Bytes {
        self.key(shard, "atlas")
    }

    /// Hash: of drivers who have yet to leave cells, which.
    pub(super) fn leaving(&self, shard: Shard) -> Bytes {
        self.key(shard, "leaving")
    }

    /// Hash: of each driver the newest fix known in a cell: of its being there, or of its being elsewhere.
    pub(super) fn seen(&self, shard: Shard) -> Bytes {
        self.key(shard, "seen")
    }

    /// String: the fixes of a driver, in chunks.
    pub(super) fn track(&self, shard: Shard, driver: &DriverId) -> Bytes {
        self.tracks(shard)(driver)
    }

    /// The same of many drivers.
    pub(super) fn tracks(&self, shard: Shard) -> impl Fn(&DriverId) -> Bytes + use<> {
        let name = self.key(shard, "track:");
        move |driver| [&*name, driver.as_str().as_bytes()].concat().into()
    }

    /// Sorted set: what instances tell each other of erasures, by its moment in milliseconds. `copy` is the tag of one
    /// of [`BOARDS`].
    pub(super) fn board(&self, copy: &str) -> Bytes {
        format!("{}:{{{copy}}}:board", self.prefix).into()
    }

    /// Sorted set: which instances were at this copy of the board when, in milliseconds.
    pub(super) fn instances(&self, copy: &str) -> Bytes {
        format!("{}:{{{copy}}}:instances", self.prefix).into()
    }

    /// Hash: how each instance stands, by what it said at this copy of the board.
    pub(super) fn roll(&self, copy: &str) -> Bytes {
        format!("{}:{{{copy}}}:roll", self.prefix).into()
    }

    /// String: the number of the epoch, at this copy of the board.
    pub(super) fn epoch(&self, copy: &str) -> Bytes {
        format!("{}:{{{copy}}}:epoch", self.prefix).into()
    }

    /// String: the id of the fleet whose data this is; in a cluster, under each of [`BOARDS`].
    pub(super) fn fleet(&self, copy: &str) -> Bytes {
        format!("{}:{{{copy}}}:id", self.prefix).into()
    }

    /// When `key` expires, in seconds since 1970: so long after the end of its hour, and a little more, which
    /// depends on the key alone, so that every instance and every repetition sets the same.
    pub(super) fn expires_at_s(&self, shard: Shard, key: &[u8]) -> i64 {
        let earliest_s = if is_track(key) { 0 } else { UNLINKED_WITHIN_S };
        let jitter_s = earliest_s + crc32c::crc32c(key) % (JITTER_S + 1 - earliest_s);
        shard.hour().end().as_ms() / 1_000 + self.retention_s + i64::from(jitter_s)
    }

    fn key(&self, shard: Shard, name: &str) -> Bytes {
        format!("{}:{{{shard}}}:{name}", self.prefix).into()
    }
}
