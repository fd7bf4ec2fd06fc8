//! From the journal into a store: the one way points come into an index, live, after a loss, or from the very
//! beginning.
//!
//! An applier has two hands. One follows the live end of the journal. The other makes up for what the store does not
//! have, or no longer: a pass through `history`, newest first, in larger batches. The live hand always goes first, so
//! nobody waits behind a rebuild; what it cannot keep up with becomes history too.
//!
//! The checkpoint moves only after the store has the points, and stays at the beginning of what a pass still owes:
//! a crash costs repetition, which stores bear, never loss. A store that cannot be written to is tried again with a
//! jittered back-off for as long as it takes: the journal is the queue, nothing waits in memory. What a store refuses
//! for ever is set aside ([`DeadLetters`]), so that it holds nothing up. What a part of a store cannot be given now, the
//! store owes: it is told as lost as soon as it can be given, and the checkpoint waits for that.
//!
//! Never here: HTTP, an adapter, a decision about what to answer (that is the label's reader).

mod dead_letters;
mod history;
mod progress;
mod put;
mod replay;
mod supply;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::journal::{Checkpoint, Committed, Journal, Note, Reader};
use crate::model::Offset;
use crate::store::{Applied, Store};

pub use dead_letters::{DeadLetters, Letter};
pub use history::{Chunk, History, Stretch, look};
pub use progress::{FRESHNESS_BOUND, Pass, Progress, SetAside, Wholeness};
pub use put::Put;
pub use replay::{ReplayError, Replayed, Zeal, replay};
pub use supply::{ReadError, Supply};

/// How many live points go into a store at once, about: enough for pipelines to pay, few enough that a point does not
/// wait.
pub const LIVE_POINTS: usize = 4_000;
/// How long points gather before they are applied, where batches come faster than that: what it costs to read and to
/// apply hardly depends on how few they are. Who is alone never waits.
const GATHER: Duration = Duration::from_millis(4);
/// More bytes than this between the live hand and the end of the journal become history: half a second's work.
const LIVE_BYTES: u64 = 1 << 20;

/// How often the checkpoint is written, at most.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// How often a store is asked whether it still has everything, beside after each error.
const AUDIT_EVERY: Duration = Duration::from_secs(1);
/// How often the log tells how far a pass is.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How often what was refused is tried again, beside after each pass.
const REPLAY_EVERY: Duration = Duration::from_mins(1);
/// An applier that failed begins anew after this long.
const RESTART_AFTER: Duration = Duration::from_millis(500);

const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
const BACK_OFF_LAST: Duration = Duration::from_secs(2);

/// What ends an applier early.
#[derive(Debug, Error)]
pub enum ApplierError {
    /// The checkpoint cannot be read.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] io::Error),
    /// Reading ended abnormally.
    #[error("reading the journal panicked")]
    Panicked,
}

/// Follows the journal into one store.
#[derive(Clone)]
pub struct Applier {
    journal: Journal,
    checkpoint: Checkpoint,
    progress: Arc<Progress>,
    put: Put,
}

impl Applier {
    /// Follows `journal` into `store`, telling `progress`.
    pub fn new(
        journal: Journal,
        store: Arc<dyn Store>,
        progress: Arc<Progress>,
        clock: Clock,
        retention: Duration,
    ) -> Self {
        let checkpoint = journal.checkpoint(store.name());
        let letters = Arc::new(DeadLetters::of(journal.data_dir(), store.name()));
        Self { journal, checkpoint, progress, put: Put::new(store, letters, clock, retention) }
    }

    /// Runs until `stop`, and begins anew whatever it ended of before.
    pub async fn supervised(self, stop: CancellationToken) {
        loop {
            match tokio::spawn(self.clone().run(stop.clone())).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error!(store = self.name(), %error, "the applier ended; it begins anew"),
                Err(_) => error!(store = self.name(), "the applier panicked; it begins anew"),
            }
            self.progress.restarted();
            tokio::select! {
                () = tokio::time::sleep(RESTART_AFTER) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Until `stop`; then what is committed by that time is applied if the store takes it, and made durable. What a
    /// pass still owes is left to the next start.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ApplierError> {
        let committed = self.journal.committed();
        let Some(start) = self.open(&stop).await? else { return Ok(()) };
        let Committed { end, points } = *committed.borrow();
        info!(store = self.name(), from = start.get(), "applying the journal");
        let live = self.journal.reader(end);
        let history = Supply::new(History::new(self.journal.reader(Offset::START)));
        let mut run = Run {
            live: Some(live),
            live_at: end,
            live_points: points,
            history,
            pass: None,
            told: Instant::now(),
            replayed: Instant::now(),
            is_partial: false,
            gathers: false,
            noted: (start, Instant::now()),
            is_lowered: true,
            applier: self,
            stop,
        };
        run.begin_pass(start, false).await?;
        let audits = audits(run.applier.put.store.clone(), run.applier.progress.clone());
        tokio::select! {
            outcome = run.go_on() => outcome,
            never = audits => match never {},
        }
    }

    fn name(&self) -> &'static str {
        self.put.store.name()
    }

    /// Where to go on from; `None` if stopped before the store could be opened.
    async fn open(&self, stop: &CancellationToken) -> Result<Option<Offset>, ApplierError> {
        let Note { offset: checkpoint, marks } = self.checkpoint.read()?.unwrap_or_default();
        let mut back_off = BackOff::new();
        loop {
            match self.put.store.open(&marks).await {
                Ok(held) => {
                    // A store that notes the end of what it has does not know what a pass still owed it.
                    let start = held.map_or(checkpoint, |held| held.min(checkpoint));
                    self.progress.durable(start);
                    return Ok(Some(start));
                }
                Err(error) => warn!(store = self.name(), %error, "cannot open; trying again"),
            }
            if !back_off.wait(stop).await {
                return Ok(None);
            }
        }
    }
}

/// Looks again and again whether the store still has what it was given.
async fn audits(store: Arc<dyn Store>, progress: Arc<Progress>) -> Infallible {
    let mut evictions = store.evictions();
    loop {
        audit(&*store, &progress).await;
        let now = store.evictions();
        if now > evictions {
            evictions = now;
            progress.doubted();
        }
        tokio::time::sleep(AUDIT_EVERY).await;
    }
}

/// A store that cannot be asked is asked again, by the next audit.
async fn audit(store: &dyn Store, progress: &Progress) {
    if let Ok(Some(offset)) = store.audit().await {
        progress.lost(offset);
    }
}

/// One run of an applier.
struct Run {
    applier: Applier,
    stop: CancellationToken,
    /// Lent out while it reads.
    live: Option<Reader>,
    /// Everything before this was applied live, or is in the hands of the pass.
    live_at: Offset,
    /// The sequence number there.
    live_points: u64,
    history: Supply,
    pass: Option<Pass>,
    told: Instant,
    /// When what was refused was last tried again.
    replayed: Instant,
    /// The last batch could be put in in part alone.
    is_partial: bool,
    /// What was applied last were several small batches.
    gathers: bool,
    /// The checkpoint, and when it was last looked after.
    noted: (Offset, Instant),
    /// The checkpoint is not beyond what the pass owes: only then may the pass go on, for a store may note more.
    is_lowered: bool,
}

impl Run {
    async fn go_on(mut self) -> Result<(), ApplierError> {
        let mut committed = self.applier.journal.committed();
        let mut unreadable = BackOff::new();
        loop {
            if let Some(loss) = self.applier.progress.loss() {
                warn!(store = self.applier.name(), from = loss.get(), "the store lost data; making it whole again");
                self.begin_pass(loss, false).await?;
            } else if self.pass.is_none() && self.applier.progress.is_doubted() {
                warn!(store = self.applier.name(), "the store let go of keys; putting everything in once more");
                let doubts = self.applier.progress.doubts();
                self.begin_pass(Offset::START, false).await?;
                self.applier.progress.met(doubts);
            }
            let goal = *committed.borrow_and_update();
            let outcome = match self.follow(goal).await? {
                Step::Done | Step::Nothing if self.stop.is_cancelled() => break,
                Step::Done | Step::Nothing => self.rebuild().await?,
                other => other,
            };
            if self.replayed.elapsed() >= REPLAY_EVERY {
                self.replay().await;
            }
            if self.noted.1.elapsed() >= CHECKPOINT_EVERY {
                self.note().await?;
            }
            match outcome {
                Step::Done => unreadable = BackOff::new(),
                Step::Stopped => break,
                Step::Unreadable => {
                    if !unreadable.wait(&self.stop).await {
                        break;
                    }
                }
                Step::Nothing => {
                    tokio::select! {
                        changed = committed.changed() => match changed {
                            Ok(()) if self.gathers => tokio::time::sleep(GATHER).await,
                            Ok(()) => {}
                            Err(_) => self.stop.cancelled().await,
                        },
                        () = self.applier.progress.something_lost() => {}
                        () = self.stop.cancelled() => {}
                        // Wakes to note what a background flush has made durable, and to stay fresh.
                        () = tokio::time::sleep(CHECKPOINT_EVERY) => {}
                    }
                }
            }
        }
        if let Err(error) = self.applier.put.store.flush().await {
            warn!(store = self.applier.name(), %error, "flush at shutdown failed; the journal makes up for it");
        }
        self.note().await
    }

    /// Applies what is committed up to `goal`, or hands it over to the pass if that is much.
    async fn follow(&mut self, goal: Committed) -> Result<Step, ApplierError> {
        let (goal_at, goal_ts) = (Instant::now(), self.applier.put.clock.now());
        while self.live_at < goal.end {
            if goal.end.get() - self.live_at.get() > LIVE_BYTES && !self.stop.is_cancelled() {
                let from = self.live_at;
                (self.live_at, self.live_points) = (goal.end, goal.points);
                self.reader().seek(goal.end);
                self.begin_pass(from, true).await?;
                break;
            }
            let mut reader = self.live.take().ok_or(ApplierError::Panicked)?;
            let (reader, chunk) = blocking(move || {
                let records = reader.read(LIVE_POINTS);
                (reader, records.map(|records| Chunk::of(records, false, true)))
            })
            .await?;
            self.live_at = reader.position();
            self.live = Some(reader);
            match chunk {
                Ok(None) => {}
                Ok(Some(chunk)) => {
                    if !self.apply_live(chunk).await? {
                        return Ok(Step::Stopped);
                    }
                }
                Err(error) => {
                    warn!(store = self.applier.name(), %error, "cannot read the journal; trying again");
                    return Ok(Step::Unreadable);
                }
            }
        }
        self.applier.progress.caught_up(goal, goal_at, goal_ts);
        Ok(Step::Done)
    }

    fn reader(&mut self) -> &mut Reader {
        self.live.as_mut().expect("it is lent out only while it reads")
    }

    /// Applies until the store takes it; false if stopped before.
    async fn apply_live(&mut self, mut chunk: Chunk) -> Result<bool, ApplierError> {
        self.gathers = chunk.records > 1 && chunk.points.len() < LIVE_POINTS / 4;
        let mut back_off = BackOff::new();
        loop {
            match self.applier.put.once(&chunk).await {
                Ok((applied, set_aside)) => {
                    self.live_points = chunk.points_end;
                    self.set_aside(set_aside);
                    let is_partial = applied == Applied::Partly;
                    if is_partial {
                        self.applier.progress.left_out(chunk.start, chunk.end);
                    }
                    if is_partial && !self.is_partial {
                        warn!(
                            store = self.applier.name(),
                            "a part of the store cannot be asked: what it lacks is owed"
                        );
                    }
                    self.is_partial = is_partial;
                    let Chunk { end, points_end, last_received, .. } = chunk;
                    self.applier.progress.applied(end, points_end, chunk.points.len(), last_received);
                    return Ok(true);
                }
                Err(error) => {
                    let (store, points) = (self.applier.name(), chunk.points.len());
                    warn!(store, %error, points, "cannot apply; trying again");
                }
            }
            // Any part of it may have gone in.
            chunk.repeated = true;
            audit(&*self.applier.put.store, &self.applier.progress).await;
            if !back_off.wait(&self.stop).await {
                return Ok(false);
            }
            if self.noted.1.elapsed() >= CHECKPOINT_EVERY {
                self.note().await?;
            }
        }
    }

    /// From `from` to the live end, everything is to be applied: for the first time, or once more. A pass under way
    /// becomes a part of the new one, unless what is added is news, which then goes first.
    async fn begin_pass(&mut self, from: Offset, is_news: bool) -> Result<(), ApplierError> {
        let to = self.live_at;
        let mut pass = self.pass.filter(|_| is_news).unwrap_or_default();
        if is_news {
            self.history.add(Stretch { from, to, repeated: false, is_news });
        } else {
            self.history.widen(from, to);
        }
        pass.has_news = self.history.has_news();
        let Some(oldest) = self.history.from() else {
            self.applier.progress.set_pass(None, Some(from));
            return Ok(());
        };
        let counted_from = if is_news { from } else { oldest };
        let mut reader = self.applier.journal.reader(counted_from);
        let seen = blocking(move || look(&mut reader)).await?;
        let (as_of, first_point) = seen.unwrap_or_default().unwrap_or((None, self.live_points));
        pass.points_total += self.live_points.saturating_sub(first_point);
        if !is_news || self.pass.is_none() {
            pass.as_of = as_of;
        }
        self.pass = Some(pass);
        self.is_lowered = false;
        self.applier.progress.set_pass(self.pass, (!is_news).then_some(from));
        let points = pass.points_total - pass.points_done;
        info!(store = self.applier.name(), points, "a pass through the journal begins");
        self.note().await
    }

    /// Puts one batch of history in, if there is any left.
    async fn rebuild(&mut self) -> Result<Step, ApplierError> {
        if self.pass.is_none() {
            return Ok(Step::Nothing);
        }
        if !self.is_lowered {
            self.note().await?;
            return Ok(if self.is_lowered { Step::Done } else { Step::Unreadable });
        }
        let chunk = match self.history.next().await {
            Ok(chunk) => chunk,
            Err(ReadError::Panicked) => return Err(ApplierError::Panicked),
            Err(ReadError::Journal(error)) => {
                warn!(store = self.applier.name(), %error, "cannot read the journal; trying again");
                return Ok(Step::Unreadable);
            }
        };
        let Some(chunk) = chunk else {
            self.end_pass();
            self.replay().await;
            self.note().await?;
            return Ok(Step::Done);
        };
        match self.history.while_putting(chunk.points.len(), self.applier.put.once(&chunk)).await {
            Ok((_, set_aside)) => {
                self.set_aside(set_aside);
                self.passed(chunk.points.len());
                Ok(Step::Done)
            }
            Err(error) => {
                let (store, points) = (self.applier.name(), chunk.points.len());
                warn!(store, %error, points, "cannot apply history; trying again");
                self.history.give_back(chunk);
                audit(&*self.applier.put.store, &self.applier.progress).await;
                Ok(Step::Unreadable)
            }
        }
    }

    /// Told before the points that were set aside count as applied.
    fn set_aside(&self, set_aside: Option<SetAside>) {
        if let Some(set_aside) = set_aside {
            self.applier.progress.set_set_aside(set_aside);
        }
    }

    fn passed(&mut self, points: usize) {
        self.applier.progress.put_in(points);
        let has_news = self.history.has_news();
        if let Some(pass) = &mut self.pass {
            pass.points_done += points as u64;
            pass.points_total = pass.points_total.max(pass.points_done);
            pass.has_news = has_news;
            if self.told.elapsed() >= TELL_EVERY {
                self.told = Instant::now();
                let Pass { points_done, points_total, .. } = *pass;
                info!(store = self.applier.name(), points_done, points_total, "making the store whole");
            }
        }
        self.applier.progress.set_pass(self.pass, None);
    }

    fn end_pass(&mut self) {
        if let Some(Pass { points_done, .. }) = self.pass.take() {
            info!(store = self.applier.name(), points_done, "the pass through the journal is done");
        }
        self.applier.progress.set_pass(None, None);
    }

    /// Tries once more what the store refused: perhaps the cause is gone.
    async fn replay(&mut self) {
        self.replayed = Instant::now();
        if self.applier.progress.set_aside().points == 0 {
            return;
        }
        let Put { store, letters, cutoff, .. } = &self.applier.put;
        let store_name = store.name();
        match replay(letters, &**store, cutoff, Zeal::Probing).await {
            Ok(Replayed { points: 0, .. }) => {}
            Ok(Replayed { points, refused }) => info!(store = store_name, points, refused, "dead letters put in"),
            Err(error) => warn!(store = store_name, %error, "dead letters stay where they are"),
        }
    }

    /// Writes the checkpoint if the store has made more durable since, or a pass owes what it has passed. One that
    /// cannot be written is tried again at the next turn: it only says how much to repeat.
    async fn note(&mut self) -> Result<(), ApplierError> {
        let Put { store, letters, .. } = &self.applier.put;
        self.noted.1 = Instant::now();
        // A loss that was told since is not yet in the hands of the pass.
        let durable = store.durable();
        let loss = self.applier.progress.loss();
        let owed = self.history.from().into_iter().chain(loss).min();
        let target = match owed {
            Some(owed) => owed.min(self.noted.0.max(durable)),
            None => self.noted.0.max(durable),
        };
        let letters = Arc::clone(letters);
        let (checkpoint, noted) = (self.applier.checkpoint.clone(), self.noted.0);
        let note = Note { offset: target, marks: store.marks() };
        let (saved, set_aside) = blocking(move || {
            let saved = if target == noted { Ok(()) } else { checkpoint.save(&note) };
            (saved, letters.count())
        })
        .await?;
        if let Ok(set_aside) = set_aside {
            self.applier.progress.set_set_aside(set_aside);
        }
        if let Err(error) = saved {
            warn!(store = self.applier.name(), %error, "cannot write the checkpoint; trying again");
            return Ok(());
        }
        self.noted.0 = target;
        self.is_lowered = true;
        self.applier.progress.durable(target);
        Ok(())
    }
}

/// How a step went.
enum Step {
    /// Something was done, or all there was to do.
    Done,
    /// There was nothing to do.
    Nothing,
    /// It did not work, and is to be tried again after a while.
    Unreadable,
    /// The end was asked for meanwhile.
    Stopped,
}

/// Works off the runtime's workers, so that a stalled disk stalls nobody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApplierError> {
    spawn_blocking(work).await.map_err(|_| ApplierError::Panicked)
}

/// Waits longer each time, with jitter, so that several instances do not come back at once.
struct BackOff(Duration);

impl BackOff {
    const fn new() -> Self {
        Self(BACK_OFF_FIRST)
    }

    /// False if stopped meanwhile.
    async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let pause = self.0.mul_f64(rand::rng().random_range(0.5..1.0));
        self.0 = (self.0 * 2).min(BACK_OFF_LAST);
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = stop.cancelled() => false,
        }
    }
}
