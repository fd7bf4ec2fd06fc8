//! Who writes a shard. As long as one process does so alone, what its looks found stays true until it writes: so nothing but
//! a key that names it need be watched. Whoever else comes writes into that key in the same transaction as its first slice;
//! from then on, until the shard is forgotten, everybody watches each track (`apply`).
//!
//! That holds as every transaction of ours
//! - watches the key, and looks at it: it is dropped if the key was written since;
//! - writes the key, unless that names its writer, or says that there are several;
//! - watches the tracks, unless the key names its writer; of a cell, leaves it to a script what is newer (`place`).
//!
//! So while a key names a writer nobody else's transaction is executed. Its own are told apart by its *turn*: one batch at a
//! time, and a new name after one that failed or was given up, of which something may be on its way still. A key that was
//! named in this very turn counts for the next: what the batch holds for newest, it found out before.
//!
//! Never here: what else a slice looks at or writes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::keys::Keys;
use super::link::{Reply, Request};
use super::shard::Shard;
use crate::model::Timestamp;
use crate::store::StoreError;

/// What the key says once more than one process wrote.
const SEVERAL: &[u8] = b"several";

/// What this process knows of who writes.
#[derive(Debug)]
pub(super) struct Writers {
    process: Bytes,
    /// Turns that did not end well.
    failed: AtomicU64,
    turns: AtomicU64,
    turn: tokio::sync::Mutex<()>,
    /// Shards that were this process' alone when they were last looked at: where to begin, no more.
    own: Mutex<BTreeSet<Shard>>,
}

/// The right to write, which one batch has at a time.
pub(super) struct Turn<'a> {
    writers: &'a Writers,
    /// What the names have in common that keep their worth.
    names: String,
    name: Bytes,
    is_done: bool,
    _one: tokio::sync::MutexGuard<'a, ()>,
}

/// A change's part in who writes a shard.
pub(super) struct Claim<'a> {
    turn: &'a Turn<'a>,
    shard: Shard,
    key: Bytes,
    expires_at_s: i64,
    /// Whether nobody else is thought to write it: where to begin; the look decides.
    is_alone: AtomicBool,
}

/// What follows from who a shard was found to be written by.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The key is right as it is.
    Right,
    /// It must say this from now on.
    Becomes(Bytes),
    /// It does not name us: not enough was watched.
    NotOurs,
}

impl Writers {
    /// `process` is a name that no other has.
    pub(super) fn new(process: Bytes) -> Self {
        Self {
            process,
            failed: AtomicU64::default(),
            turns: AtomicU64::default(),
            turn: tokio::sync::Mutex::default(),
            own: Mutex::default(),
        }
    }

    /// Waits until no other batch is on its way. Hours that ended before `cutoff` are forgotten.
    pub(super) async fn turn(&self, cutoff: Timestamp) -> Turn<'_> {
        let one = self.turn.lock().await;
        self.own.lock().retain(|shard| shard.hour().end() >= cutoff);
        let process = std::str::from_utf8(&self.process).expect("it is hex digits");
        let names = format!("{process}-{}-", self.failed.load(Ordering::Relaxed));
        let name = format!("{names}{}", self.turns.fetch_add(1, Ordering::Relaxed)).into();
        Turn { writers: self, names, name, is_done: false, _one: one }
    }
}

impl Turn<'_> {
    /// Everything that was begun has ended.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }

    /// What a change of `shard` must know of who writes it.
    pub(super) fn claim(&self, keys: &Keys, shard: Shard, is_repeated: bool) -> Claim<'_> {
        let key = keys.writer(shard);
        let expires_at_s = keys.expires_at_s(shard, &key);
        // What a repetition finds must be there still when it writes what is missing.
        let is_alone = !is_repeated && self.writers.own.lock().contains(&shard);
        Claim { turn: self, shard, key, expires_at_s, is_alone: AtomicBool::new(is_alone) }
    }

    /// Given what the key of `shard` says, and whether the key `is_alone` in being watched.
    fn found(&self, shard: Shard, named: Option<&[u8]>, is_alone: bool) -> Found {
        let is_ours = named.is_none_or(|name| name.starts_with(&self.writers.process));
        if is_ours {
            self.writers.own.lock().insert(shard);
        } else {
            self.writers.own.lock().remove(&shard);
        }
        let is_good = |name: &[u8]| name.starts_with(self.names.as_bytes());
        match named {
            Some(name) if is_good(name) && !(is_alone && *name == *self.name) => Found::Right,
            _ if is_alone => Found::NotOurs,
            Some(SEVERAL) => Found::Right,
            _ if is_ours => Found::Becomes(self.name.clone()),
            _ => Found::Becomes(Bytes::from_static(SEVERAL)),
        }
    }
}

impl Claim<'_> {
    /// The key that tells; it must be watched.
    pub(super) const fn key(&self) -> &Bytes {
        &self.key
    }

    /// Whether nobody else is thought to write the shard.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::Relaxed)
    }

    /// Asks who writes.
    pub(super) fn look(&self, request: &mut Request) {
        request.command("GET", 1).arg(&self.key);
    }

    /// What follows from the answer.
    pub(super) fn found(&self, answer: Reply) -> Result<Found, StoreError> {
        let found = self.turn.found(self.shard, answer.bytes()?.as_deref(), self.is_alone());
        if found == Found::NotOurs {
            self.is_alone.store(false, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// Makes the key say what it must.
    pub(super) fn write(&self, found: Found, request: &mut Request) {
        if let Found::Becomes(name) = found {
            request.command("SET", 4).arg(&self.key).arg(name).arg("EXAT").number(self.expires_at_s);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.writers.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
