//! Which stores follow the journal, under which names, with which shares: as `--store` says, or as it was changed at
//! run time. The file `stores.json` in the data directory keeps such changes, for the owner alone, for it may hold
//! passwords.
//!
//! The file holds as long as `--store` says what it said when the file was written. Whoever changes `--store` has the
//! last word: then those stores are in use, and no others. A store is known again by where it is, so that it keeps its
//! name, and with that its checkpoint, wherever it stands in the list, and when its password changes.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::config::{MAX_STORES, StoreChoice};
use crate::journal::replace;

/// What several Redis are called.
const REDIS_NAMES: [&str; MAX_STORES] = ["redis", "redis-2", "redis-3", "redis-4"];
const EMBEDDED: &str = "embedded";
const FILE: &str = "stores.json";
/// All reads.
pub(super) const ALL: u8 = 100;

/// A store in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) choice: StoreChoice,
    /// The shares of all entries make [`ALL`].
    pub(super) reads_percent: u8,
    pub(super) shadow_percent: u8,
}

/// The stores in use, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Roll {
    /// What `--store` said, without secrets.
    configured: Vec<String>,
    pub(super) entries: Vec<Entry>,
}

/// What it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The configuration; nothing was ever changed at run time.
    Configuration,
    /// The file.
    File,
    /// The configuration, which was changed since the file was written.
    NewConfiguration,
    /// The configuration, for the file cannot be read.
    Damaged,
}

#[derive(Serialize, Deserialize)]
struct Document {
    configured: Vec<String>,
    stores: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    name: String,
    store: String,
    reads_percent: u8,
    shadow_percent: u8,
}

impl Roll {
    /// The stores in use in the data directory `dir`, where `--store` says `stores`.
    pub(super) fn read(dir: &Path, stores: &[StoreChoice]) -> anyhow::Result<(Self, Origin)> {
        let configured: Vec<String> = stores.iter().map(ToString::to_string).collect();
        let path = path(dir);
        let written = match std::fs::read(&path) {
            Ok(bytes) => Some(Self::parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        let Some(written) = written else {
            return Ok((Self::configured(configured, stores, &[]), Origin::Configuration));
        };
        Ok(match written {
            None => (Self::configured(configured, stores, &[]), Origin::Damaged),
            Some(Self { configured: then, mut entries }) if then == configured => {
                for entry in &mut entries {
                    // The configuration may know a newer password.
                    if let Some(choice) = stores.iter().find(|choice| choice.to_string() == entry.choice.to_string())
                    {
                        entry.choice = choice.clone();
                    }
                }
                (Self { configured, entries }, Origin::File)
            }
            Some(written) => (Self::configured(configured, stores, &written.entries), Origin::NewConfiguration),
        })
    }

    /// What `--store` says: the first answers, the others stand in.
    fn configured(configured: Vec<String>, stores: &[StoreChoice], known: &[Entry]) -> Self {
        let known_as = |choice: &StoreChoice| {
            known.iter().find(|entry| entry.choice.to_string() == choice.to_string()).map(|entry| entry.name)
        };
        let kept: Vec<&str> = stores.iter().filter_map(known_as).collect();
        let mut free = REDIS_NAMES.into_iter().filter(|name| !kept.contains(name));
        let mut name = |choice: &StoreChoice| match choice {
            StoreChoice::Embedded => EMBEDDED,
            StoreChoice::Redis(_) => {
                known_as(choice).or_else(|| free.next()).expect("there are no more stores than names")
            }
        };
        let entry = |(number, choice): (usize, &StoreChoice)| Entry {
            name: name(choice),
            choice: choice.clone(),
            reads_percent: if number == 0 { ALL } else { 0 },
            shadow_percent: 0,
        };
        Self { configured, entries: stores.iter().enumerate().map(entry).collect() }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let Document { configured, stores } = serde_json::from_slice(bytes).ok()?;
        let entry = |line: Line| {
            let choice = StoreChoice::parse(&line.store).ok()?;
            let name = REDIS_NAMES.into_iter().chain([EMBEDDED]).find(|name| *name == line.name)?;
            Some(Entry { name, choice, reads_percent: line.reads_percent, shadow_percent: line.shadow_percent })
        };
        let entries: Vec<Entry> = stores.into_iter().map(entry).collect::<Option<_>>()?;
        let shares: u32 = entries.iter().map(|entry| u32::from(entry.reads_percent)).sum();
        (!entries.is_empty() && shares == u32::from(ALL)).then_some(Self { configured, entries })
    }

    /// Keeps it for the next start; on disk when this returns. Blocking.
    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        let line = |entry: &Entry| Line {
            name: entry.name.to_owned(),
            store: entry.choice.expose().to_owned(),
            reads_percent: entry.reads_percent,
            shadow_percent: entry.shadow_percent,
        };
        let stores = self.entries.iter().map(line).collect();
        let document = Document { configured: self.configured.clone(), stores };
        let text = serde_json::to_string_pretty(&document).expect("strings and numbers always serialize");
        replace(&path(dir), &(text + "\n"))
    }

    /// A name for one more store, if there may be one.
    pub(super) fn free_name(&self, choice: &StoreChoice) -> Option<&'static str> {
        if self.entries.len() >= MAX_STORES {
            return None;
        }
        match choice {
            StoreChoice::Embedded => Some(EMBEDDED),
            StoreChoice::Redis(_) => {
                REDIS_NAMES.into_iter().find(|name| self.entries.iter().all(|entry| entry.name != *name))
            }
        }
    }

    /// Gives the entry `number` this share of the reads. What it gains, the others lose, the first of them first;
    /// what it loses goes to the first of those that have a share, or else to the first.
    pub(super) fn share(&mut self, number: usize, reads_percent: u8) {
        let before = std::mem::replace(&mut self.entries[number].reads_percent, reads_percent);
        let mut owed = reads_percent.saturating_sub(before);
        let mut others: Vec<&mut Entry> = self
            .entries
            .iter_mut()
            .enumerate()
            .filter(|(other, _)| *other != number)
            .map(|(_, entry)| entry)
            .collect();
        for other in &mut others {
            let given = owed.min(other.reads_percent);
            (other.reads_percent, owed) = (other.reads_percent - given, owed - given);
        }
        let first = others.iter().position(|other| other.reads_percent > 0).unwrap_or(0);
        match others.get_mut(first) {
            Some(other) => other.reads_percent += before.saturating_sub(reads_percent),
            // The only one has them all.
            None => self.entries[number].reads_percent = before,
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn choices(text: &str) -> Vec<StoreChoice> {
        text.split(' ').map(|word| StoreChoice::parse(word).expect("a store")).collect()
    }

    fn names(dir: &Path, stores: &str) -> (Vec<(&'static str, u8)>, Origin) {
        let (roll, origin) = Roll::read(dir, &choices(stores)).expect("it can be read");
        (roll.entries.iter().map(|entry| (entry.name, entry.reads_percent)).collect(), origin)
    }

    #[test]
    fn the_file_holds_until_the_configuration_changes_and_names_stay_with_their_stores() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        let first = "redis://u:old@a:1 embedded";
        assert_eq!(names(dir, first), (vec![("redis", 100), ("embedded", 0)], Origin::Configuration));

        let (mut roll, _) = Roll::read(dir, &choices(first)).expect("it can be read");
        let added = StoreChoice::parse("redis://u:secret@b:1").expect("a store");
        let name = roll.free_name(&added).expect("there is room");
        roll.entries.push(Entry { name, choice: added, reads_percent: 0, shadow_percent: 10 });
        roll.share(2, 30);
        roll.save(dir).expect("it can be written");
        let changed = vec![("redis", 70), ("embedded", 0), ("redis-2", 30)];
        assert_eq!(names(dir, first), (changed.clone(), Origin::File));
        let rotated = first.replace("old", "new");
        assert_eq!(names(dir, &rotated), (changed, Origin::File));
        let (roll, _) = Roll::read(dir, &choices(&rotated)).expect("it can be read");
        assert_eq!(roll.entries[0].choice.expose(), "redis://u:new@a:1");

        let moved = names(dir, "redis://u:x@b:1 redis://c:1");
        assert_eq!(moved, (vec![("redis-2", 100), ("redis", 0)], Origin::NewConfiguration));
        let mode = std::fs::metadata(path(dir)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(path(dir), "{}").expect("it can be written");
        assert_eq!(names(dir, first).1, Origin::Damaged);
    }

    #[test]
    fn shares_always_make_a_hundred() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut roll, _) =
            Roll::read(dir.path(), &choices("redis://a redis://b redis://c")).expect("nothing to read");
        let mut share = |number, percent| {
            roll.share(number, percent);
            roll.entries.iter().map(|entry| entry.reads_percent).collect::<Vec<_>>()
        };
        assert_eq!(share(1, 10), [90, 10, 0]);
        assert_eq!(share(1, 50), [50, 50, 0]);
        assert_eq!(share(2, 60), [0, 40, 60]);
        assert_eq!(share(2, 0), [0, 100, 0]);
        assert_eq!(share(1, 0), [100, 0, 0]);
        assert_eq!(share(0, 0), [0, 100, 0]);
        let (mut only, _) = Roll::read(dir.path(), &choices("embedded")).expect("nothing to read");
        only.share(0, 0);
        assert_eq!(only.entries[0].reads_percent, 100);
    }
}
