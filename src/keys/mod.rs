//! API keys: who may call, and for what. A key is 256 random bits under an id, shown once, as it is made; what is kept is its
//! hash, in a file (`file`) that a running service reads anew whenever it changes (`key_ring`).
//!
//! SHA-256 without salt or stretching is enough for a hash of so many random bits: there is nothing to guess.
//!
//! Never here: HTTP, which route takes which scope.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

use crate::model::Timestamp;

mod file;
mod key_ring;

pub use file::{Entry, KeyFile, KeyFileError, is_name};
pub use key_ring::KeyRing;

/// What every key begins with: what finds keys in places where they should not be finds these.
pub const KEY_MARK: &str = "gtk_";
const ID_DIGITS: usize = 8;
const SECRET_BYTES: usize = 32;
const HASH_BYTES: usize = 32;

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Sending points.
    Ingest,
    /// Asking, and `/metrics`.
    Read,
    /// Erasing drivers, and `/v1/admin`.
    Admin,
}

impl Scope {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Read, Self::Admin];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// The scope of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.word() == word)
    }
}

/// The id of a key, 8 lower-case hex digits. No secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// Reads 8 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == ID_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is kept of a key: SHA-256 of all of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; HASH_BYTES]);

impl KeyHash {
    fn of(key: &str) -> Self {
        Self(digest(&SHA256, key.as_bytes()).as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }

    /// Reads 64 lower-case hex digits.
    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; HASH_BYTES];
        if text.len() != 2 * HASH_BYTES || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// As 64 hex digits.
impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A key that was just made: the only moment when it is known.
pub struct NewKey {
    /// Its id.
    pub id: KeyId,
    /// All of it: for whoever is to call with it, and nobody else.
    pub key: String,
    /// What is kept.
    pub hash: KeyHash,
}

impl NewKey {
    /// By chance.
    pub fn draw() -> Self {
        let id = KeyId(format!("{:0ID_DIGITS$x}", rand::random::<u32>()));
        let secret = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; SECRET_BYTES]>());
        let key = format!("{KEY_MARK}{id}_{secret}");
        Self { id, hash: KeyHash::of(&key), key }
    }
}

/// Why a key opens nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It is none of ours. If it has the id of one that is, that.
    Unknown(Option<KeyId>),
    /// It was ours until lately.
    Expired(KeyId),
}

/// The keys in force, by their ids.
#[derive(Clone, Default)]
pub struct Keys(HashMap<KeyId, Entry>);

impl Keys {
    /// How many there are, expired ones included.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Of which of the keys this is one.
    pub fn find(&self, presented: &str, now: Timestamp) -> Result<&Entry, Rejected> {
        let id = presented.strip_prefix(KEY_MARK).and_then(|rest| rest.split_once('_'));
        let id = id.and_then(|(id, _)| KeyId::parse(id));
        let entry = id.and_then(|id| self.0.get(&id)).ok_or(Rejected::Unknown(None))?;
        // Of two hashes, how much of them is alike must not be told by how long it takes.
        if !bool::from(KeyHash::of(presented).0.ct_eq(&entry.hash.0)) {
            return Err(Rejected::Unknown(Some(entry.id.clone())));
        }
        if entry.expires.is_some_and(|expires| expires <= now) {
            return Err(Rejected::Expired(entry.id.clone()));
        }
        Ok(entry)
    }
}

impl FromIterator<Entry> for Keys {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Self(entries.into_iter().map(|entry| (entry.id.clone(), entry)).collect())
    }
}
