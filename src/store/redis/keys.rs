//! What the keys are called, and when each expires. This file alone knows.
//!
//! All keys of a shard of an hour share one hash tag, so a script may touch them together in a cluster. Names are
//! written up in `docs/redis-keys.md`; a change of what a key holds is a change of its name.
//!
//! Never here: a command, or what a key holds.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::model::{DriverId, Hour, Timestamp};

/// How far apart the keys of one hour expire: 10 minutes keep a million small keys from expiring in one burst.
const JITTER_S: u32 = 600;

/// A part of an hour that lives in one slot of a cluster: today always the whole hour. Shown as it stands in the
/// hash tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shard {
    hour: Hour,
}

impl Shard {
    /// The shard that holds all of `hour`.
    pub(super) const fn whole(hour: Hour) -> Self {
        Self { hour }
    }

    /// The shards of `since`'s hour to `until`'s, newest first.
    pub(super) fn newest_first(since: Timestamp, until: Timestamp) -> impl DoubleEndedIterator<Item = Self> {
        since.hour().newest_first(until.hour()).map(Self::whole)
    }

    /// Its hour.
    pub(super) const fn hour(self) -> Hour {
        self.hour
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hour.fmt(f)
    }
}

/// The names under one prefix, as seen by one instance.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
    instance: String,
    retention_s: i64,
}

impl Keys {
    /// `prefix` has no braces, which would take the place of the hash tag; `instance` is this journal's id.
    pub(super) fn new(prefix: String, instance: String, retention: Duration) -> Self {
        let whole_s = retention.as_secs() + u64::from(retention.subsec_nanos() > 0);
        Self { prefix, instance, retention_s: whole_s.min(u64::from(u32::MAX)) as i64 }
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

    /// String: how far this instance's journal is in the tracks, a decimal offset.
    pub(super) fn watermark(&self, shard: Shard) -> Bytes {
        self.key(shard, &format!("wm:{}", self.instance))
    }

    /// String: the fixes of a driver, in chunks.
    pub(super) fn track(&self, shard: Shard, driver: &DriverId) -> Bytes {
        self.key(shard, &format!("track:{driver}"))
    }

    /// Sorted set: what instances tell each other of erasures, by its moment in milliseconds.
    pub(super) fn board(&self) -> Bytes {
        format!("{}:{{erasures}}:board", self.prefix).into()
    }

    /// Sorted set: which instances were at the board when, in milliseconds.
    pub(super) fn instances(&self) -> Bytes {
        format!("{}:{{erasures}}:instances", self.prefix).into()
    }

    /// Who this instance is.
    pub(super) fn instance(&self) -> Bytes {
        Bytes::copy_from_slice(self.instance.as_bytes())
    }

    /// When `key` expires, in seconds since 1970: so long after the end of its hour, and a little more, which
    /// depends on the key alone, so that every instance and every repetition sets the same.
    pub(super) fn expires_at_s(&self, shard: Shard, key: &[u8]) -> i64 {
        let jitter_s = crc32c::crc32c(key) % (JITTER_S + 1);
        shard.hour.end().as_ms() / 1_000 + self.retention_s + i64::from(jitter_s)
    }

    fn key(&self, shard: Shard, name: &str) -> Bytes {
        format!("{}:{{{shard}}}:{name}", self.prefix).into()
    }
}
