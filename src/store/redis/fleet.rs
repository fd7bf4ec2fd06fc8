//! Whose data a Redis holds. The first instance of a fleet that comes to an empty Redis leaves the fleet's id there; each
//! instance notes it for good. A Redis with another id holds another fleet's data: it is neither written to nor read
//! from, until somebody says that it is ours after all.
//!
//! It is looked at after every new connection, before anything else is asked, and with every audit: a server may be
//! replaced by another behind the same address. An id that is missing says nothing (a Redis that lost everything has
//! none), and is put back.
//!
//! Never here: where the id is noted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Index;
use super::keys::BOARDS;
use super::link::{Command, Reply};
use crate::store::{FOREIGN, StoreError};

/// How long the id outlives the last visit, at least: an instance that was away for longer has nothing left to bring.
const KEEP: Duration = Duration::from_hours(30 * 24);
/// The tag of the id where there is one primary. In a cluster it has copies, so that one that is dead does not take it
/// away from whoever starts meanwhile.
const ALONE: [&str; 1] = ["fleet"];
/// How often its expiry is put off.
const RENEW_EVERY: Duration = Duration::from_mins(1);

/// The fleet that this instance is of, shared by all its stores.
pub struct Fleet {
    id: Mutex<Id>,
    note: Box<Note>,
}

/// Keeps a fleet's id for good. Blocking.
type Note = dyn Fn(&str) -> io::Result<()> + Send + Sync;

enum Id {
    /// Of no fleet yet: what is found is taken, and this where nothing is.
    Proposed(String),
    Noted(String),
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

impl Fleet {
    /// The fleet that was `noted`, if any was; what is found else goes to `note`, which keeps it for good. Blocking.
    pub fn new(noted: Option<String>, note: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let id = noted.map_or_else(|| Id::Proposed(format!("{:016x}", rand::random::<u64>())), Id::Noted);
        Self { id: Mutex::new(id), note: Box::new(note) }
    }

    fn own(&self) -> String {
        match &*self.id.lock() {
            Id::Proposed(id) | Id::Noted(id) => id.clone(),
        }
    }

    /// Whether `found` is this fleet's; of who is of none yet, it is.
    fn is_own(&self, found: &str) -> Result<bool, StoreError> {
        let mut id = self.id.lock();
        match &*id {
            Id::Noted(own) => Ok(own == found),
            Id::Proposed(proposed) => {
                let unnoted = |error| StoreError::Unavailable(format!("the fleet's id cannot be noted: {error}"));
                (self.note)(found).map_err(unnoted)?;
                if proposed != found {
                    tracing::info!(fleet = found, "joined the fleet that is there");
                }
                *id = Id::Noted(found.to_owned());
                Ok(true)
            }
        }
    }
}

/// What is known of the Redis that is asked.
#[derive(Debug, Default)]
pub(super) struct Recognised {
    fleet: Option<Arc<Fleet>>,
    /// One more than the number of connections that there had been when it was recognised as ours.
    at: AtomicU64,
    is_foreign: AtomicBool,
    renewed: Mutex<Option<Instant>>,
}

impl Recognised {
    /// Everything is this one's, until proven otherwise.
    pub(super) fn by(fleet: Arc<Fleet>) -> Self {
        Self { fleet: Some(fleet), ..Self::default() }
    }

    /// Whether it was another fleet's when last looked at.
    pub(super) fn is_foreign(&self) -> bool {
        self.is_foreign.load(Ordering::Relaxed)
    }
}

impl Index {
    /// An error if this Redis is another fleet's, or cannot be recognised. One look after each new connection.
    pub(super) async fn recognised(&self, may_write: bool) -> Result<(), StoreError> {
        let whose = &self.recognised;
        if whose.fleet.is_none() || whose.at.load(Ordering::Acquire) == self.link.connections() + 1 {
            return Ok(());
        }
        self.recognise(may_write).await
    }

    /// Looks, in any case.
    pub(super) async fn recognise(&self, may_write: bool) -> Result<(), StoreError> {
        let whose = &self.recognised;
        let Some(fleet) = &whose.fleet else { return Ok(()) };
        let connections = self.link.connections();
        let mut found = match self.found().await {
            Ok(found) => found,
            // A part of a cluster is away, and the id with it: the rest is what it was.
            Err(StoreError::Unavailable(_))
                if self.link.outage().is_some() && whose.at.load(Ordering::Acquire) > 0 =>
            {
                if whose.is_foreign() {
                    return Err(StoreError::Unavailable(FOREIGN.into()));
                }
                whose.at.store(connections + 1, Ordering::Release);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if found.is_none() {
            if !may_write {
                return Ok(());
            }
            let set = |key| Command::on("SET", key).arg(fleet.own()).arg("NX").arg("PX").number(self.fleet_kept_ms());
            self.on_copies(set).await?;
            // Another instance may have been faster.
            found = self.found().await?;
        }
        let found = found.ok_or_else(|| StoreError::Unavailable("the fleet's id does not stay".into()))?;
        let is_own = fleet.is_own(&found)?;
        let was_foreign = whose.is_foreign.swap(!is_own, Ordering::Relaxed);
        if !is_own {
            if !was_foreign {
                tracing::error!("this Redis holds another fleet's data: nothing is written to it or read from it");
            }
            whose.at.store(u64::MAX, Ordering::Release);
            return Err(StoreError::Unavailable(FOREIGN.into()));
        }
        if was_foreign {
            tracing::info!("this Redis is our fleet's again");
        }
        self.link.vouch(self.keys.fleet(ALONE[0]), found.clone());
        whose.at.store(connections + 1, Ordering::Release);
        let is_due = whose.renewed.lock().is_none_or(|last| last.elapsed() >= RENEW_EVERY);
        if may_write && is_due {
            // A copy that was lost comes back with the id that all have.
            let set = |key| Command::on("SET", key).arg(found.clone()).arg("NX");
            self.on_copies(|key| set(key).arg("PX").number(self.fleet_kept_ms())).await?;
            self.on_copies(|key| Command::on("PEXPIRE", key).number(self.fleet_kept_ms())).await?;
            *whose.renewed.lock() = Some(Instant::now());
        }
        Ok(())
    }

    /// Makes this Redis our fleet's, whosever it was.
    pub(super) async fn adopt(&self) -> Result<(), StoreError> {
        let Some(fleet) = &self.recognised.fleet else { return Ok(()) };
        let set = |key| Command::on("SET", key).arg(fleet.own()).arg("PX").number(self.fleet_kept_ms());
        self.on_copies(set).await?;
        self.recognise(true).await
    }

    async fn found(&self) -> Result<Option<String>, StoreError> {
        for copy in self.on_copies(|key| Command::on("GET", key)).await? {
            if let Some(bytes) = copy.bytes()? {
                return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        Ok(None)
    }

    /// Sends a command to each copy of the id. An error if most of them cannot be asked.
    async fn on_copies(&self, command: impl Fn(Bytes) -> Command) -> Result<Vec<Reply>, StoreError> {
        let copies = if self.link.is_cluster() { &BOARDS[..] } else { &ALONE[..] };
        let commands = copies.iter().map(|copy| command(self.keys.fleet(copy))).collect();
        let (mut replies, mut trouble) = (Vec::new(), Vec::new());
        for reply in self.link.each(commands).await {
            match reply {
                Ok(reply) => replies.push(reply),
                Err(error) => trouble.push(error),
            }
        }
        if trouble.len() > copies.len() / 2 { Err(trouble.swap_remove(0)) } else { Ok(replies) }
    }

    fn fleet_kept_ms(&self) -> i64 {
        (KEEP.as_millis() as i64).max(2 * self.keys.retention_ms())
    }
}
