//! Erasing a driver: out of this instance's journal and stores, and out of the journals of all others on those stores.
//!
//! 1. The erasure is noted in the journal's directory, fsynced. From then on nothing older passes: readers leave it out,
//!    and whoever holds points read before has them struck at the [`Gate`] on the way into the store.
//! 2. A tombstone goes on the board that instances share. Each that is there notes it, lets what is on its way arrive,
//!    scrubs its own journal and says so. One that is away finds the tombstone before it may apply anything again: the
//!    gate lets nobody pass who was not at the board just now.
//! 3. The own journal is scrubbed.
//! 4. When all who are there have said so, nothing older can reach the store any more, and it erases, once.
//! 5. What came in since the erasure was noted is put back from the journals, for it is new.
//!
//! Every step may be repeated, and a crash between two leads to repetition: what the note calls unfinished is taken up
//! at the next start, and while a store is away for as long as that takes.
//!
//! The visits to the board that this takes are all that instances hear of each other, so they also carry how each stands
//! ([`crate::peers`]).
//!
//! Never here: HTTP; what a segment looks like; a driver's id in a log.

mod gate;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, RwLock, RwLockReadGuard, watch};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

pub use self::gate::Gate;
use crate::clock::Clock;
use crate::cutoff::Cutoff;
use crate::journal::{AppendError, Erasure, Journal, Reach, Reader, Record, Stage};
use crate::model::{DriverId, MAX_AHEAD_MS, Point, Timestamp, Tombstone};
use crate::peers::Peers;
use crate::store::{Applied, BOARD_LAPSE, Batch, Board, Line, Located, Standing, Store, StoreError, Visit, Window};

/// How long whoever asks for an erasure waits for its end: longer than it takes to notice that an instance is away.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// How often the board is looked at.
const VISIT_EVERY: Duration = Duration::from_millis(500);
/// For how long a visit lets points pass. With the longest call of a store, 2 s, this is less than [`BOARD_LAPSE`].
const LEASE: Duration = Duration::from_millis(1_500);
const _: () = assert!(LEASE.as_millis() + 2_000 < BOARD_LAPSE.as_millis());
/// How long the gate waits for a visit before it says that it cannot be opened.
const GATE_PATIENCE: Duration = Duration::from_secs(2);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// As many unfinished erasures as may wait.
const MAX_UNFINISHED: usize = 1_000;
/// The least time a tombstone is kept. An instance that was away for longer than this and the retention has no point
/// left that is not over.
const KEEP: Duration = Duration::from_hours(30 * 24);
/// How much longer an instance remembers what it carried out than anybody can find it on the board.
const MARGIN_MS: i64 = 86_400_000;
const READ_POINTS: usize = 4_000;
const PAGE_DRIVERS: usize = 1_000;

/// Why an erasure is not finished.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Unfinished {
    /// It is noted for good and under way; a store or another instance is slow or away.
    #[error("the erasure is under way")]
    UnderWay,
    /// Too many are. This one was not noted.
    #[error("too many erasures are under way")]
    Overloaded,
    /// It could not be noted.
    #[error("the journal cannot be written")]
    JournalUnavailable,
    /// The process is on its way out. It was not noted.
    #[error("shutting down")]
    ShuttingDown,
}

/// Why a step must be tried again.
#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("journal: {0}")]
    Journal(#[from] io::Error),
    #[error("journal: {0}")]
    Append(#[from] AppendError),
}

/// Erases drivers. Clones share what they do.
#[derive(Clone)]
pub struct Eraser(Arc<Shared>);

struct Shared {
    journal: Journal,
    followers: Mutex<Vec<Arc<Follower>>>,
    clock: Clock,
    retention: Duration,
    /// Changes when there is something to say at the boards.
    visit: watch::Sender<()>,
    work: Notify,
    /// Changes when an erasure is done.
    done: watch::Sender<()>,
    take_out_letters: Box<TakeOut>,
}

/// Takes what erasures name out of what stores refused, which lies beside the journal. Blocking.
type TakeOut = dyn Fn(&[Erasure]) -> io::Result<()> + Send + Sync;

/// A store that follows the journal, and the board that others on it share.
struct Follower {
    store: Arc<dyn Store>,
    applied: watch::Receiver<Reach>,
    /// Held by those who put points into the store; taken whole to erase.
    gate: RwLock<()>,
    lease: watch::Sender<Lease>,
    heard: Mutex<Board>,
    peers: Arc<Peers>,
    /// What lies there was not written under the eyes of this journal: it may hold who was erased meanwhile.
    is_strange: AtomicBool,
}

/// For how long nothing can have been erased that this instance does not know of, or only so that it need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    Never,
    Until(Instant),
    /// Nobody else is on this store.
    Forever,
}

impl Lease {
    fn holds(self) -> bool {
        match self {
            Self::Never => false,
            Self::Until(end) => Instant::now() < end,
            Self::Forever => true,
        }
    }
}

/// What instances say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    /// This driver is to be erased.
    Erase(Tombstone),
    /// This instance has nothing of it any more.
    Carried(Tombstone, String),
    /// Nor has the store.
    Erased(Tombstone),
}

impl Word {
    fn line(&self, at: Timestamp) -> Line {
        let text = match self {
            Self::Erase(tombstone) => format!("erase {tombstone}"),
            Self::Carried(tombstone, instance) => format!("carried {tombstone} {instance}"),
            Self::Erased(tombstone) => format!("erased {tombstone}"),
        };
        Line { text, at }
    }

    /// What a later version may say besides is not understood, and kept all the same.
    fn read(line: &Line) -> Option<Self> {
        let mut words = line.text.split(' ');
        let (word, tombstone) = (words.next()?, Tombstone::parse(words.next()?)?);
        match (word, words.next()) {
            ("erase", None) => Some(Self::Erase(tombstone)),
            ("carried", Some(instance)) => Some(Self::Carried(tombstone, instance.to_owned())),
            ("erased", None) => Some(Self::Erased(tombstone)),
            _ => None,
        }
    }
}

impl Eraser {
    /// Over `journal`; `take_out_letters` knows what stores refused.
    pub fn new(
        journal: Journal,
        clock: Clock,
        retention: Duration,
        take_out_letters: impl Fn(&[Erasure]) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            journal,
            followers: Mutex::default(),
            clock,
            retention,
            visit: watch::Sender::new(()),
            work: Notify::new(),
            done: watch::Sender::new(()),
            take_out_letters: Box::new(take_out_letters),
        }))
    }

    /// From now on `store` is erased in too; `applied` tells how far it follows the journal. The store as whoever puts
    /// points in must see it: nothing passes that is to be erased, and nothing at all before [`Self::keep_visiting`]
    /// runs. One that `is_strange` may hold what it was given before, by whomever. `peers` is told who is there.
    pub fn attach(
        &self,
        store: Arc<dyn Store>,
        applied: watch::Receiver<Reach>,
        peers: Arc<Peers>,
        is_strange: bool,
    ) -> Gate {
        let follower = Arc::new(Follower {
            store,
            applied,
            gate: RwLock::new(()),
            lease: watch::Sender::new(Lease::Never),
            heard: Mutex::default(),
            peers,
            is_strange: AtomicBool::new(is_strange),
        });
        self.0.followers.lock().push(follower.clone());
        Gate::new(self.0.clone(), follower)
    }

    /// From now on nothing waits for the store of this name.
    pub fn detach(&self, name: &str) {
        self.0.followers.lock().retain(|follower| follower.store.name() != name);
        self.0.work.notify_one();
    }

    /// Erases all that was accepted of `driver` until now. Once it is noted, dropping the future changes nothing about
    /// that.
    pub async fn erase(&self, driver: &DriverId) -> Result<(), Unfinished> {
        let Shared { journal, clock, visit, work, done, .. } = &*self.0;
        if journal.erasures().iter().filter(|erasure| erasure.stage != Stage::Done).count() >= MAX_UNFINISHED {
            return Err(Unfinished::Overloaded);
        }
        let tombstone = Tombstone::new(driver, rand::random());
        let noted = journal.note_erasure(tombstone, clock.now(), Some(driver.clone())).await;
        noted.map_err(|error| match error {
            AppendError::Closed => Unfinished::ShuttingDown,
            AppendError::Overloaded | AppendError::Failed => Unfinished::JournalUnavailable,
        })?;
        visit.send_replace(());
        work.notify_one();
        let mut changed = done.subscribe();
        let is_done = changed.wait_for(|()| self.stage(tombstone) == Some(Stage::Done));
        match tokio::time::timeout(PATIENCE, is_done).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Unfinished::UnderWay),
        }
    }

    /// Whether something of a driver who is to be erased may still be in a store.
    pub fn is_unfinished(&self) -> bool {
        self.0.journal.erasures().iter().any(|erasure| erasure.driver.is_some())
    }

    /// Goes to the board of the store behind `gate`, again and again.
    pub async fn keep_visiting(&self, gate: &Gate) {
        let follower = gate.follower();
        let store = follower.store.name();
        let mut asked = self.0.visit.subscribe();
        let mut failed = false;
        loop {
            match self.visit(follower, None).await {
                Ok(()) => failed = false,
                Err(error) if !failed => {
                    failed = true;
                    warn!(store, %error, "what others erased cannot be learnt; nothing is applied until it can");
                }
                Err(_) => {}
            }
            let _ = tokio::time::timeout(VISIT_EVERY, asked.changed()).await;
        }
    }

    /// The last visit to the board of the store behind `gate`, to say how this instance stands as it goes.
    pub async fn leave(&self, gate: &Gate, standing: Standing) {
        if let Err(error) = self.visit(gate.follower(), Some(standing)).await {
            warn!(store = gate.follower().store.name(), %error, "the others cannot be told that this instance goes");
        }
    }

    /// Carries out what is noted, and what others ask for.
    pub async fn keep_working(&self) {
        // Which stores have a board is known after the first visit.
        let followers = self.followers();
        let visited = followers.iter().map(async |follower| {
            let _ = follower.lease.subscribe().wait_for(|lease| *lease != Lease::Never).await;
        });
        let _ = tokio::time::timeout(RETRY, join_all(visited)).await;
        loop {
            let pause = match self.work().await {
                Ok(()) => VISIT_EVERY,
                Err(error) => {
                    warn!(%error, "an erasure is unfinished; trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let _ = tokio::time::timeout(pause, self.0.work.notified()).await;
        }
    }

    fn followers(&self) -> Vec<Arc<Follower>> {
        self.0.followers.lock().clone()
    }

    fn stage(&self, tombstone: Tombstone) -> Option<Stage> {
        let known = self.0.journal.erasures();
        known.into_iter().find(|erasure| erasure.tombstone == tombstone).map(|erasure| erasure.stage)
    }

    fn keep(&self) -> Duration {
        KEEP.max(self.0.retention * 2)
    }

    async fn visit(&self, follower: &Follower, last: Option<Standing>) -> Result<(), Failure> {
        let Shared { journal, clock, work, .. } = &*self.0;
        let Follower { store, lease, heard, peers, is_strange, .. } = follower;
        if is_strange.load(Ordering::Relaxed) {
            self.sweep(follower).await?;
            is_strange.store(false, Ordering::Relaxed);
        }
        let began = Instant::now();
        let lines: Vec<Line> = self.lines(follower).into_iter().collect();
        let (losses, standing) = (peers.losses(), last.unwrap_or_else(|| peers.standing()));
        let visit = Visit { lines: &lines, keep: self.keep(), standing: Some(standing) };
        let Some(board) = store.board(visit).await? else {
            lease.send_replace(Lease::Forever);
            return Ok(());
        };
        self.hear(follower, &board, losses).await;
        let known: BTreeSet<Tombstone> = journal.erasures().iter().map(|erasure| erasure.tombstone).collect();
        let oldest = clock.now().plus_ms(-(self.keep().as_millis() as i64) - MARGIN_MS);
        for line in board.lines.iter().filter(|line| line.at >= oldest) {
            if let Some(Word::Erase(tombstone)) = Word::read(line)
                && !known.contains(&tombstone)
            {
                journal.note_erasure(tombstone, line.at, None).await?;
            }
        }
        let is_news = *heard.lock() != board;
        *heard.lock() = board;
        lease.send_replace(Lease::Until(began + LEASE));
        if is_news {
            work.notify_one();
        }
        Ok(())
    }

    /// Tells `peers` who is there.
    async fn hear(&self, Follower { store, peers, .. }: &Follower, board: &Board, losses: u64) {
        let before = peers.trouble();
        let to_keep = peers.heard(board, losses, self.0.clock.now());
        match peers.trouble() {
            Some(trouble) if before.as_ref() != Some(&trouble) => warn!(store = store.name(), "{trouble}"),
            None if before.is_some() => {
                info!(store = store.name(), "all other instances are back, or not missed any more");
            }
            _ => {}
        }
        let Some(text) = to_keep else { return };
        let keeper = peers.clone();
        match spawn_blocking(move || keeper.keep(&text)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(store = store.name(), %error, "who else is on the store could not be noted"),
            Err(_) => warn!(store = store.name(), "noting who else is on the store panicked"),
        }
    }

    /// Erases in a store that comes from elsewhere, or comes back after a time without us, whoever was erased meanwhile.
    /// Where another instance is there already, it has done so: its erasures are ours.
    async fn sweep(&self, follower: &Follower) -> Result<(), Failure> {
        let Shared { journal, clock, retention, .. } = &*self.0;
        let erasures = journal.erasures();
        if erasures.is_empty() {
            return Ok(());
        }
        let visit = Visit { lines: &[], keep: self.keep(), standing: None };
        let Some(board) = follower.store.board(visit).await? else { return Ok(()) };
        let own = journal.id().to_string();
        if board.instances.iter().any(|instance| *instance != own) {
            return Ok(());
        }
        let is_said = |erasure: &&Erasure| {
            let erased = Some(Word::Erased(erasure.tombstone));
            board.lines.iter().any(|line| Word::read(line) == erased)
        };
        let missed: Vec<&Erasure> = erasures.iter().filter(|erasure| !is_said(erasure)).collect();
        let now = clock.now();
        let since = now.plus_ms(-(retention.as_millis() as i64) - MARGIN_MS);
        let whoever = Window { since, until: now.plus_ms(MAX_AHEAD_MS) };
        let (mut after, mut erased) = (None, 0);
        loop {
            let page = follower.store.active(whoever, after.as_ref(), PAGE_DRIVERS).await?;
            for Located { driver, .. } in &page.items {
                if missed.iter().any(|erasure| erasure.is_of(driver)) {
                    follower.store.erase(driver).await?;
                    erased += 1;
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if erased > 0 {
            info!(store = follower.store.name(), drivers = erased, "erased in a store that had missed it");
        }
        Ok(())
    }

    /// All that should stand on the board: what was read there, so that it comes back if the board is lost, and what
    /// this instance has to say.
    fn lines(&self, follower: &Follower) -> BTreeSet<Line> {
        let journal = &self.0.journal;
        let mut lines: BTreeSet<Line> = follower.heard.lock().lines.iter().cloned().collect();
        lines.extend(follower.peers.lines());
        for Erasure { tombstone, at, stage, driver, .. } in journal.erasures() {
            lines.insert(Word::Erase(tombstone).line(at));
            if stage >= Stage::Scrubbed && driver.is_none() {
                lines.insert(Word::Carried(tombstone, journal.id().to_string()).line(at));
            }
            if stage == Stage::Done {
                lines.insert(Word::Erased(tombstone).line(at));
            }
        }
        let oldest = self.0.clock.now().plus_ms(-(self.keep().as_millis() as i64));
        lines.retain(|line| line.at >= oldest);
        lines
    }

    async fn work(&self) -> Result<(), Failure> {
        let Shared { journal, clock, visit, done, .. } = &*self.0;
        let followers = self.followers();
        let noted: Vec<Erasure> =
            journal.erasures().into_iter().filter(|erasure| erasure.stage == Stage::Noted).collect();
        if !noted.is_empty() {
            // What passed a gate before it was noted arrives now.
            for follower in &followers {
                drop(follower.gate.write().await);
            }
            for erasure in noted.iter().filter(|erasure| erasure.driver.is_none()) {
                self.erase_in_unshared_stores(erasure).await?;
            }
            self.take_out_letters(noted.clone()).await?;
            journal.scrub(noted).await?;
            visit.send_replace(());
        }
        for erasure in journal.erasures().into_iter().filter(|erasure| erasure.stage == Stage::Scrubbed) {
            let Erasure { tombstone, .. } = erasure;
            match &erasure.driver {
                Some(driver) if followers.iter().all(|follower| self.is_everybodys(follower, tombstone)) => {
                    for follower in &followers {
                        self.erase_in_store(follower, driver, &erasure).await?;
                    }
                    info!("a driver was erased");
                }
                None if followers.iter().any(|follower| follower.is_said(&Word::Erased(tombstone))) => {
                    for follower in &followers {
                        let _alone = follower.gate.write().await;
                        self.put_back(follower, &erasure).await?;
                    }
                }
                _ => continue,
            }
            // Whoever was refused on the way to the store while this was noted.
            self.take_out_letters(vec![erasure.clone()]).await?;
            journal.erasure_done(tombstone).await?;
            done.send_replace(());
            visit.send_replace(());
        }
        let over = clock.now().plus_ms(-(self.keep().as_millis() as i64) - 2 * MARGIN_MS);
        Ok(journal.forget_erasures(over).await?)
    }

    async fn take_out_letters(&self, erasures: Vec<Erasure>) -> io::Result<()> {
        let shared = self.0.clone();
        spawn_blocking(move || (shared.take_out_letters)(&erasures)).await.map_err(io::Error::other)?
    }

    /// Whether every instance that is there has carried it out.
    fn is_everybodys(&self, follower: &Follower, tombstone: Tombstone) -> bool {
        if *follower.lease.borrow() == Lease::Forever {
            return true;
        }
        let own = self.0.journal.id().to_string();
        let instances = follower.heard.lock().instances.clone();
        let mut others = instances.into_iter().filter(|instance| *instance != own);
        // Who is there counts only as seen when the tombstone was there for everybody to see.
        follower.is_said(&Word::Erase(tombstone))
            && others.all(|instance| follower.is_said(&Word::Carried(tombstone, instance)))
    }

    /// What another instance was asked for it does in the stores that all share. A store of this instance alone is this
    /// one's to erase; whom, it has to find there.
    async fn erase_in_unshared_stores(&self, erasure: &Erasure) -> Result<(), Failure> {
        let whenever = Window { since: Timestamp::from_ms(i64::MIN), until: Timestamp::from_ms(i64::MAX) };
        let followers = self.followers();
        for follower in followers.iter().filter(|follower| *follower.lease.borrow() == Lease::Forever) {
            let mut after = None;
            loop {
                let page = follower.store.active(whenever, after.as_ref(), PAGE_DRIVERS).await?;
                for Located { driver, .. } in page.items.iter().filter(|found| erasure.is_of(&found.driver)) {
                    self.erase_in_store(follower, driver, erasure).await?;
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn erase_in_store(&self, follower: &Follower, driver: &DriverId, erasure: &Erasure) -> Result<(), Failure> {
        let _alone = follower.gate.write().await;
        follower.store.erase(driver).await?;
        self.put_back(follower, erasure).await
    }

    /// Applies what came in after the erasure once more.
    async fn put_back(&self, follower: &Follower, erasure: &Erasure) -> Result<(), Failure> {
        let Shared { journal, clock, retention, .. } = &*self.0;
        let mut reader = journal.reader(erasure.end);
        let mut points: Vec<Point> = Vec::new();
        loop {
            let (back, records) = read(reader).await?;
            reader = back;
            if records.is_empty() {
                break;
            }
            let some = records.into_iter().flat_map(|record| record.points);
            points.extend(some.filter(|point| erasure.is_of(&point.driver)));
        }
        if points.is_empty() {
            return Ok(());
        }
        let end = follower.applied.borrow().end();
        let forget_before = Cutoff::new(clock.clone(), *retention).of(&*follower.store).await?;
        let batch = Batch { points: &points, start: erasure.end, end, forget_before, repeated: true };
        match follower.store.apply(batch).await? {
            Applied::Whole => Ok(()),
            Applied::Partly => Err(StoreError::Unavailable("a part of the store cannot be asked".into()).into()),
        }
    }
}

impl Follower {
    /// What passes must be in the store before the pass is given back. Refused if this instance was not at the board
    /// lately.
    async fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, StoreError> {
        let pass = self.gate.read().await;
        let mut lease = self.lease.subscribe();
        let opened = tokio::time::timeout(GATE_PATIENCE, lease.wait_for(|lease| lease.holds())).await;
        match opened {
            Ok(Ok(_)) => Ok(pass),
            Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable("what others erased cannot be learnt".into())),
        }
    }

    fn is_said(&self, word: &Word) -> bool {
        self.heard.lock().lines.iter().any(|line| Word::read(line).as_ref() == Some(word))
    }
}

/// Reads off the runtime's workers.
async fn read(mut reader: Reader) -> io::Result<(Reader, Vec<Record>)> {
    let read = move || reader.read(READ_POINTS).map(|records| (reader, records));
    spawn_blocking(read).await.map_err(io::Error::other)?
}
