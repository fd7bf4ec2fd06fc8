//! The file of keys: TOML, a `[[key]]` for each. It holds hashes, and is refused all the same if others may read it: who
//! can see who may call knows more than it should.
//!
//! ```toml
//! [[key]]
//! id = "1f3a90c2"
//! name = "backend"
//! scopes = ["ingest"]
//! sha256 = "…64 hex digits…"
//! expires = "2027-03-01T00:00:00.000Z"     # if it does
//! ```
//!
//! Never here: which key is in force now.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{KeyHash, KeyId, Scope};
use crate::file_version::FileVersion;
use crate::journal::replace;
use crate::model::Timestamp;

/// The bits of a mode that others have no business with: that they read, and that anybody else writes.
const FORBIDDEN_MODE: u32 = 0o027;
const MOST_NAME_BYTES: usize = 64;

const HEAD: &str = "# Who may call: hashes of API keys. `geotrail key` writes this file.\n\n";

/// What is kept of a key.
#[derive(Clone)]
pub struct Entry {
    /// By which it is found.
    pub id: KeyId,
    /// For people: whose it is.
    pub name: String,
    /// What it may be used for.
    pub scopes: BTreeSet<Scope>,
    /// What it must hash to.
    pub hash: KeyHash,
    /// From then on it opens nothing.
    pub expires: Option<Timestamp>,
}

/// What is wrong with a file of keys. Never what stands there, which may be a key that somebody put there by mistake.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KeyFileError {
    /// It cannot be had.
    #[error("{path}: cannot be read or written: {1}", path = .0.display())]
    Unreadable(PathBuf, String),
    /// Others can read it, or write it.
    #[error("{path}: others may read or change it; chmod 600", path = .0.display())]
    Exposed(PathBuf),
    /// Not a list of keys: the line, and what was expected.
    #[error("{path}:{1}: {2}", path = .0.display())]
    Wrong(PathBuf, usize, &'static str),
    /// A name that is none.
    #[error("a name is 1 to 64 of A-Z a-z 0-9 _ . : @ -")]
    NameInvalid,
    /// There is no such key.
    #[error("{path}: there is no key of this id", path = .0.display())]
    NoSuchKey(PathBuf),
}

/// A file of keys.
#[derive(Clone, Debug)]
pub struct KeyFile(PathBuf);

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    key: Vec<WrittenKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    id: String,
    name: String,
    scopes: Vec<String>,
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

impl KeyFile {
    /// The file at `path`.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// All keys in it, in the order of the file.
    pub fn read(&self) -> Result<Vec<Entry>, KeyFileError> {
        let unreadable = |error| self.unreadable(&error);
        let metadata = fs::metadata(&self.0).map_err(unreadable)?;
        if metadata.permissions().mode() & FORBIDDEN_MODE != 0 {
            return Err(KeyFileError::Exposed(self.0.clone()));
        }
        self.parse(&fs::read_to_string(&self.0).map_err(unreadable)?)
    }

    /// Adds a key; the file is made if there is none.
    pub fn add(&self, entry: Entry) -> Result<(), KeyFileError> {
        if !is_name(&entry.name) {
            return Err(KeyFileError::NameInvalid);
        }
        let mut entries = if self.0.exists() { self.read()? } else { Vec::new() };
        entries.push(entry);
        self.write(&entries)
    }

    /// Takes a key out.
    pub fn remove(&self, id: &KeyId) -> Result<(), KeyFileError> {
        let mut entries = self.read()?;
        let before = entries.len();
        entries.retain(|entry| entry.id != *id);
        if entries.len() == before {
            return Err(KeyFileError::NoSuchKey(self.0.clone()));
        }
        self.write(&entries)
    }

    pub(super) fn version(&self) -> Option<FileVersion> {
        FileVersion::of(&self.0)
    }

    fn parse(&self, text: &str) -> Result<Vec<Entry>, KeyFileError> {
        let wrong = |line, expected| KeyFileError::Wrong(self.0.clone(), line, expected);
        let written: Written = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(line_at(text, at), "expected `[[key]]` with `id`, `name`, `scopes`, `sha256` and maybe `expires`")
        })?;
        let mut entries: Vec<Entry> = Vec::with_capacity(written.key.len());
        for (key, line) in written.key.iter().zip(key_lines(text)) {
            let entry = entry(key).map_err(|expected| wrong(line, expected))?;
            if entries.iter().any(|other| other.id == entry.id) {
                return Err(wrong(line, "expected another `id`: two keys have this one"));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn write(&self, entries: &[Entry]) -> Result<(), KeyFileError> {
        let key = entries.iter().map(|entry| WrittenKey {
            id: entry.id.to_string(),
            name: entry.name.clone(),
            scopes: entry.scopes.iter().map(|scope| scope.word().to_owned()).collect(),
            sha256: entry.hash.to_string(),
            expires: entry.expires.map(|expires| expires.to_string()),
        });
        let written = toml::to_string(&Written { key: key.collect() }).expect("strings and lists always serialize");
        // A link stays, and what it leads to is replaced.
        let path = fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone());
        replace(&path, &format!("{HEAD}{written}")).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &io::Error) -> KeyFileError {
        KeyFileError::Unreadable(self.0.clone(), error.to_string())
    }
}

fn entry(key: &WrittenKey) -> Result<Entry, &'static str> {
    let id = KeyId::parse(&key.id).ok_or("expected 8 lower-case hex digits as `id`")?;
    if !is_name(&key.name) {
        return Err("expected 1 to 64 of A-Z a-z 0-9 _ . : @ - as `name`");
    }
    let scopes: Option<BTreeSet<Scope>> = key.scopes.iter().map(|word| Scope::parse(word)).collect();
    let scopes = scopes.ok_or("expected some of \"ingest\", \"read\", \"admin\" as `scopes`")?;
    let hash = KeyHash::parse(&key.sha256).ok_or("expected 64 lower-case hex digits as `sha256`")?;
    let expires = key.expires.as_deref().map(Timestamp::parse_rfc3339).transpose();
    let expires = expires.map_err(|_| "expected a time such as \"2027-03-01T00:00:00Z\" as `expires`")?;
    Ok(Entry { id, name: key.name.clone(), scopes, hash, expires })
}

/// Whether a key can be called this.
pub fn is_name(name: &str) -> bool {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'@' | b'-');
    (1..=MOST_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_fine)
}

/// Counted from 1.
fn line_at(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].split(|b| *b == b'\n').count()
}

/// The line where each key begins.
fn key_lines(text: &str) -> impl Iterator<Item = usize> + '_ {
    let begins = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("[[key]]"));
    begins.map(|(at, _)| at + 1).chain(std::iter::repeat(1))
}
