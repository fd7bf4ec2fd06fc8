//! How far a store has followed the journal: one small file for each store, replaced whole.
//!
//! A checkpoint that is damaged, or that speaks of another journal, counts as none: the store is then fed from the
//! beginning, which costs time and changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::{fs, str};

use super::JournalId;
use super::files::{Files, checked_line, replace, with_checksum};
use crate::model::Offset;

const MAGIC: &str = "geotrail-checkpoint-1";

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

    /// What the store `name` in the data directory `dir` noted last; `None` if nothing, or nothing to rely on.
    pub fn load(dir: &Path, name: &str) -> io::Result<Option<Offset>> {
        match Files::new(dir).read_id()? {
            Some(id) => Self::new(dir, name, id).read(),
            None => Ok(None),
        }
    }

    /// What was noted last; `None` if nothing, or nothing to rely on.
    pub fn read(&self) -> io::Result<Option<Offset>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let offset = self.parse(&bytes);
        if offset.is_none() {
            let path = self.path.display();
            tracing::warn!(%path, "checkpoint is damaged or of another journal: the store is fed from the beginning");
        }
        Ok(offset)
    }

    /// Notes that the store holds everything before `offset`; on disk when this returns.
    pub fn save(&self, offset: Offset) -> io::Result<()> {
        replace(&self.path, &with_checksum(&format!("{MAGIC} {} {offset}", self.journal)))
    }

    fn parse(&self, bytes: &[u8]) -> Option<Offset> {
        let mut words = checked_line(str::from_utf8(bytes).ok()?)?.split(' ');
        if words.next()? != MAGIC || JournalId::parse(words.next()?)? != self.journal {
            return None;
        }
        words.next()?.parse().ok().map(Offset::new)
    }
}
