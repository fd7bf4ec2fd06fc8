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
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{KeyHash, KeyId, Scope};
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

/// Without `key`, which an empty list has too, a file is none of ours: one that was cut short locks nobody out.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
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
        let file = File::open(&self.0).map_err(|error| self.unreadable(&error))?;
        self.read_open(file)
    }

    /// Adds a key; the file is made if there is none.
    pub fn add(&self, entry: Entry) -> Result<(), KeyFileError> {
        if !is_name(&entry.name) {
            return Err(KeyFileError::NameInvalid);
        }
        let _alone = self.lock()?;
        let mut entries = match File::open(&self.0) {
            Ok(file) => self.read_open(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(self.unreadable(&error)),
        };
        entries.push(entry);
        self.write(&entries)
    }

    /// Takes a key out.
    pub fn remove(&self, id: &KeyId) -> Result<(), KeyFileError> {
        let _alone = self.lock()?;
        let mut entries = self.read()?;
        let before = entries.len();
        entries.retain(|entry| entry.id != *id);
        if entries.len() == before {
            return Err(KeyFileError::NoSuchKey(self.0.clone()));
        }
        self.write(&entries)
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

    /// Whoever changes the file has it to itself, as long as this is kept.
    fn lock(&self) -> Result<File, KeyFileError> {
        let lock = || {
            let folder = File::open(folder(&self.0))?;
            flock(&folder, FlockOperation::LockExclusive)?;
            io::Result::Ok(folder)
        };
        lock().map_err(|error| self.unreadable(&error))
    }

    fn read_open(&self, mut file: File) -> Result<Vec<Entry>, KeyFileError> {
        let unreadable = |error| self.unreadable(&error);
        if file.metadata().map_err(unreadable)?.permissions().mode() & FORBIDDEN_MODE != 0 {
            return Err(KeyFileError::Exposed(self.0.clone()));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(unreadable)?;
        self.parse(&text)
    }

    fn unreadable(&self, error: &io::Error) -> KeyFileError {
        KeyFileError::Unreadable(self.0.clone(), error.to_string())
    }
}

/// Puts `text` in the place of a file, whole or not at all, for those who could read the old one: else a service of another
/// user would not hear of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{:016x}", rand::random::<u64>()));
    let write = || {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
        if let Ok(old) = fs::metadata(path) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
            file.set_permissions(old.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder(path))?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Where a file lies.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
