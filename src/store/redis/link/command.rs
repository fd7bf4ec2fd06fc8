//! What goes out to Redis and what comes back, as types of our own.
//!
//! Never here: where a command goes, or how.

use bytes::Bytes;

use super::place::Address;
use crate::store::StoreError;

/// One command: its name and its arguments, one of which may be the key that says where in a cluster it goes.
#[derive(Clone, Debug)]
pub(in crate::store::redis) struct Command {
    pub(super) name: &'static str,
    pub(super) args: Vec<Bytes>,
    pub(super) target: Target,
    /// The text of the script that it calls.
    script: Option<Bytes>,
}

/// Where a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// To whoever has the slot of the key, which is this argument.
    Key(usize),
    /// To any primary that answers.
    Any,
}

/// What Redis answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    Nil,
    /// A whole number.
    Integer(i64),
    /// A string.
    Bytes(Bytes),
    /// A list.
    List(Vec<Reply>),
}

/// Why a command did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Redis does not know a script of this hash.
    NoScript,
    /// The slot has moved to this server. An empty host is the host of the server that said so.
    Moved(Address),
    /// The key has moved to this server, its slot not yet.
    Ask(Address),
    /// Not now, but soon: the first word of the error.
    Again(String),
    /// A replica where a primary was.
    ReadOnly,
    /// It cannot be asked.
    Down(String),
    /// It refuses this very command for ever.
    Refused(String),
    /// What it answered cannot be.
    Corrupt(String),
}

impl Command {
    /// A command whose first argument is its key.
    pub(in crate::store::redis) fn on(name: &'static str, key: Bytes) -> Self {
        Self { name, args: vec![key], target: Target::Key(0), script: None }
    }

    /// A command without a key.
    pub(in crate::store::redis) const fn keyless(name: &'static str) -> Self {
        Self { name, args: Vec::new(), target: Target::Any, script: None }
    }

    /// A call of the script with this text; all keys in one slot.
    pub(in crate::store::redis) fn script(script: &Script, keys: Vec<Bytes>) -> Self {
        let count = keys.len().to_string().into();
        let args = [script.hash.clone(), count].into_iter().chain(keys).collect();
        Self { name: "EVALSHA", args, target: Target::Key(2), script: Some(script.text.clone()) }
    }

    /// A script's call on more keys, behind those it has.
    #[must_use]
    pub(in crate::store::redis) fn and_keys(mut self, keys: impl Iterator<Item = Bytes>) -> Self {
        let count = |args: &[Bytes]| std::str::from_utf8(args.get(1)?).ok()?.parse::<usize>().ok();
        let had = count(&self.args).expect("a script's call counts its keys");
        let before = self.args.len();
        self.args.splice(2 + had..2 + had, keys);
        self.args[1] = (had + self.args.len() - before).to_string().into();
        self
    }

    /// Adds an argument.
    #[must_use]
    pub(in crate::store::redis) fn arg(mut self, arg: impl Into<Bytes>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds a number, in decimal.
    #[must_use]
    pub(in crate::store::redis) fn number(self, number: impl std::fmt::Display) -> Self {
        self.arg(number.to_string())
    }

    /// Adds arguments.
    #[must_use]
    pub(in crate::store::redis) fn args(mut self, args: impl IntoIterator<Item = Bytes>) -> Self {
        self.args.extend(args);
        self
    }

    /// The slot of a cluster where its key is.
    pub(super) fn slot(&self) -> Option<u16> {
        let Target::Key(at) = self.target else { return None };
        self.args.get(at).map(|key| slot(key))
    }

    /// The text of the script that it calls.
    pub(super) const fn script_text(&self) -> Option<&Bytes> {
        self.script.as_ref()
    }

    /// Turns a call of a script into one with the script's whole text, after which Redis knows it.
    pub(super) fn spell_out(&mut self) {
        if let Some(text) = &self.script {
            self.name = "EVAL";
            self.args[0] = text.clone();
        }
    }
}

/// The slot of a cluster where a key is.
pub(super) fn slot(key: &[u8]) -> u16 {
    fred::util::redis_keyslot(key)
}

/// A script and the hash that Redis knows it by.
#[derive(Debug)]
pub(in crate::store::redis) struct Script {
    text: Bytes,
    hash: Bytes,
}

impl Script {
    /// A script with this text.
    pub(in crate::store::redis) fn new(text: &str) -> Self {
        Self { hash: fred::util::sha1_hash(text).into(), text: text.to_owned().into() }
    }
}

impl Reply {
    /// The elements of a list.
    pub(in crate::store::redis) fn list(self) -> Result<Vec<Self>, StoreError> {
        match self {
            Self::List(items) => Ok(items),
            _ => Err(unexpected()),
        }
    }

    /// A string, or nothing.
    pub(in crate::store::redis) fn bytes(self) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Bytes(bytes) => Ok(Some(bytes)),
            Self::Nil => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// A number that Redis keeps as a string; `None` if it is nothing.
    pub(in crate::store::redis) fn decimal(self) -> Result<Option<i64>, StoreError> {
        let Some(bytes) = self.bytes()? else { return Ok(None) };
        let number = std::str::from_utf8(&bytes).ok().and_then(|number| number.parse().ok());
        number.map(Some).ok_or_else(|| StoreError::Corrupt("a string in Redis is no number".into()))
    }

    /// A count.
    pub(in crate::store::redis) fn count(self) -> Result<u64, StoreError> {
        match self {
            Self::Integer(number) => u64::try_from(number).map_err(|_| unexpected()),
            _ => Err(unexpected()),
        }
    }

    /// Text, of a string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// A whole number.
    pub const fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

/// A reply is not what its command answers.
pub(super) fn unexpected() -> StoreError {
    StoreError::Corrupt("a reply of Redis is of an unexpected kind".into())
}

impl Failure {
    /// The same of one command among others that were carried out: it is not sent again.
    pub(super) fn in_part(self) -> Self {
        match self {
            Self::Refused(_) => self,
            failure => Self::Down(failure.words()),
        }
    }

    /// What an error of Redis means. It says in the first word what is wrong; the rest may repeat arguments, and with them
    /// ids, so it goes no further. Only what lies in the data itself is a refusal: a batch that was refused is not sent
    /// again.
    pub(super) fn told(details: &str) -> Self {
        let mut words = details.split_whitespace();
        let word = words.next().unwrap_or_default();
        let is_code = word.len() >= 3 && word.bytes().all(|byte| byte.is_ascii_uppercase());
        let mut place = || words.nth(1).and_then(Address::parse);
        match word {
            "NOSCRIPT" => Self::NoScript,
            "MOVED" => place().map_or_else(|| Self::Again(word.into()), Self::Moved),
            "ASK" => place().map_or_else(|| Self::Again(word.into()), Self::Ask),
            "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" => Self::Again(word.into()),
            "READONLY" => Self::ReadOnly,
            "WRONGTYPE" => Self::Refused(word.into()),
            "ERR" if details.contains("string exceeds maximum") => {
                Self::Refused("a string would exceed the maximum".into())
            }
            // What an access list refuses, what was renamed, and what it refuses to a script.
            "NOPERM" => Self::Down(NOT_ALLOWED.into()),
            "ERR" if details.starts_with("ERR unknown command") || details.contains("can't run this command") => {
                Self::Down(NOT_ALLOWED.into())
            }
            "ERR" if details.contains("max number of clients") => Self::Down("it has too many clients".into()),
            _ if is_code => Self::Down(word.into()),
            _ => Self::Down("an error".into()),
        }
    }

    /// What is wrong, in a few words.
    pub(super) fn words(self) -> String {
        let (StoreError::Unavailable(words) | StoreError::Refused(words) | StoreError::Corrupt(words)) = self.into();
        words
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoScript => Self::Unavailable("NOSCRIPT".into()),
            Failure::Moved(_) => {
                Self::Unavailable("MOVED: it is a cluster; its URL begins with redis-cluster".into())
            }
            Failure::Ask(_) => Self::Unavailable("ASK".into()),
            Failure::ReadOnly => Self::Unavailable("READONLY".into()),
            Failure::Again(word) | Failure::Down(word) => Self::Unavailable(word),
            Failure::Refused(word) => Self::Refused(word),
            Failure::Corrupt(word) => Self::Corrupt(word),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(word) => Self::Down(word),
            StoreError::Refused(word) => Self::Refused(word),
            StoreError::Corrupt(word) => Self::Corrupt(word),
        }
    }
}

/// What a command comes to that this user may not run.
pub(in crate::store::redis) const NOT_ALLOWED: &str = "NOPERM: a command is not allowed here";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_redis_means_what_to_do_next() {
        let at = |port| Address::Tcp { host: "10.0.0.1".into(), port };
        let cases = [
            ("NOSCRIPT No matching script. Please use EVAL.", Failure::NoScript),
            ("MOVED 12182 10.0.0.1:17103", Failure::Moved(at(17103))),
            ("ASK 12182 10.0.0.1:17101", Failure::Ask(at(17101))),
            ("MOVED 12182 :17103", Failure::Moved(Address::Tcp { host: String::new(), port: 17103 })),
            ("MOVED 12182 ?:0", Failure::Again("MOVED".into())),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Failure::Again("TRYAGAIN".into())),
            ("CLUSTERDOWN The cluster is down", Failure::Again("CLUSTERDOWN".into())),
            ("LOADING Redis is loading the dataset in memory", Failure::Again("LOADING".into())),
            ("READONLY You can't write against a read only replica.", Failure::ReadOnly),
            ("OOM command not allowed when used memory > 'maxmemory'.", Failure::Down("OOM".into())),
            ("WRONGTYPE Operation against a key", Failure::Refused("WRONGTYPE".into())),
            ("NOPERM this user has no permissions to run the 'set' command", Failure::Down(NOT_ALLOWED.into())),
            ("ERR unknown command 'EVALSHA', with args beginning with: 'x'", Failure::Down(NOT_ALLOWED.into())),
            ("ERR max number of clients reached", Failure::Down("it has too many clients".into())),
            ("ERR value is not a driver", Failure::Down("ERR".into())),
            ("value is not a driver", Failure::Down("an error".into())),
        ];
        for (details, meant) in cases {
            assert_eq!(Failure::told(details), meant, "{details}");
        }
    }
}
