//! How far a store has followed the journal: one small file for each store, replaced whole.
//!
//! A checkpoint that is damaged, or that speaks of another journal, counts as none: the store is then fed from the
//! beginning, which costs time and changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::{fs, str};

use super::JournalId;
use super::files::{checked_line, replace, sync_dir, with_checksum};
use crate::model::Offset;

const MAGIC: &str = "geotrail-checkpoint-1";

/// How far a store holds the journal, and what it wants to be told at its next opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Everything before this is in the store for good.
    pub offset: Offset,
    /// The store's own words: no blanks, no line breaks; may be empty.
    pub marks: String,
}

/// The checkpoint of one store.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    journal: JournalId,
}

impl Checkpoint {
    /// Of the store `name` that follows the journal `id` in the data directory `dir`.
    pub fn new(dir: &Path, name: &str, id: JournalId) -> Self {
        Self { path: dir.join(format!("checkpoint-{name}")), journal: id }
    }

    /// What was noted last; `None` if nothing, or nothing to rely on.
    pub fn read(&self) -> io::Result<Option<Note>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let note = self.parse(&bytes);
        if note.is_none() {
            let path = self.path.display();
            tracing::warn!(%path, "checkpoint is damaged or of another journal: the store is fed from the beginning");
        }
        Ok(note)
    }

    /// Notes how far the store is; on disk when this returns.
    pub fn save(&self, note: &Note) -> io::Result<()> {
        let Note { offset, marks } = note;
        let separator = if marks.is_empty() { "" } else { " " };
        replace(&self.path, &with_checksum(&format!("{MAGIC} {} {offset}{separator}{marks}", self.journal)))
    }

    /// Nothing is noted any more: the store is none that follows the journal.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_dir(self.path.parent().unwrap_or(Path::new("."))),
        }
    }

    fn parse(&self, bytes: &[u8]) -> Option<Note> {
        let mut words = checked_line(str::from_utf8(bytes).ok()?)?.split(' ');
        if words.next()? != MAGIC || JournalId::parse(words.next()?)? != self.journal {
            return None;
        }
        let offset = words.next()?.parse().ok().map(Offset::new)?;
        Some(Note { offset, marks: words.next().unwrap_or_default().to_owned() })
    }
}
